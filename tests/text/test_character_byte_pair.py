"""KoGPT2's kind of tokenizer beside the `tokenizers` package, its files, and other ones.

With a published tokenizer.json and texts of one's own (the test of all settings learns from them):

    KOGPT2_FILE=kogpt2/tokenizer.json KOGPT2_TEXT=reviews.txt \
        python -m pytest tests/text/test_character_byte_pair.py -m slow
"""

import itertools
import json
import os
import pathlib
import random

import hostile
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from sentences import CASES, SENTENCES, same_answers, strings

from keras_xfmr import models, text

# KoGPT2 begins with these, in this order.
CONTROLS = ("<s>", "</s>", "<usr>", "<pad>", "<sys>", "<unk>", "<mask>", "<unused0>", "<unused1>")
EMOTICONS = (":)", ":-)", "8:-)", "ㅠㅠ", "^^", ": =", "O |", "BI", "l^o", ":-\\", "😀")
PARTS = (
    *("a", "Bc", "한국", "각", "é", "e\u0301", "1", "!", "ㅠ", ":", "-)", "^", "8", "</s>"),
    *(" ", "  ", "▁", "▁▁", "\t", "\n", "\u3000", "\xa0", "\u2028", "\u200b", "\ufeff", "\0"),
    *("ａ", "ﬁ", "㎏", "\u1112\u1161\u11ab", "\u11a8", "\ud7b0", "\u0344", "ﷺ"),
    *("👩\u200d🚀", "\U000e0001"),
    *EMOTICONS,
)
WORDS = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
SPECIAL = {
    "end_token": "</s>",
    "start_token": "</s>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
    "unknown_token": "<unk>",
}


def of_parts(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices(PARTS, k=rng.randrange(13))) for _ in range(count)]


def learned_by(peer, lines, size):
    """What a `tokenizer.json` of KoGPT2's kind holds; no merges make a special token."""
    lines = [line.replace(">", "") for line in lines]
    tokenizer = peer.SentencePieceBPETokenizer(unk_token="<unk>")
    tokenizer.train_from_iterator(
        lines, vocab_size=size, special_tokens=[*CONTROLS, *EMOTICONS], show_progress=False
    )
    return json.loads(tokenizer.to_str())


def changed(content, **parts):
    """The content with other parts; `model` changes entries of the model."""
    model = {**content["model"], **parts.pop("model", {})}
    return {**content, **parts, "model": model}


def reference_of(peer, content):
    """The peer's tokenizer, to which names between brackets are text."""
    added = [{**t, "special": t["content"] not in EMOTICONS} for t in content["added_tokens"]]
    reference = peer.Tokenizer.from_str(json.dumps({**content, "added_tokens": added}))
    reference.encode_special_tokens = True
    return reference


def tokenizer_of(content, path, **arguments):
    (path / "tokenizer.json").write_text(json.dumps(content), "utf8")
    return text.CharacterBytePairTokenizer.from_file(path / "tokenizer.json", **arguments)


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def content(peer):
    return learned_by(peer, [*SENTENCES * 5, *of_parts(97, 3)], 409)


@pytest.fixture(scope="module")
def folder(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("published")
    (path / "tokenizer.json").write_text(json.dumps(content), "utf8")
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return text.load_pretrained_tokenizer(folder)


@pytest.fixture(scope="module")
def texts():
    return [*CASES, *of_parts(499, 7), *hostile.strings(199, 11)]


def tensor(texts):
    return tf.constant([t.encode() for t in texts], tf.string)


def same_ids(tokenizer, reference, texts):
    for start in range(0, len(texts), 2048):
        part = texts[start : start + 2048]
        expected = [encoding.ids for encoding in reference.encode_batch(part)]
        assert tokenizer.tokenize(tensor(part)).to_list() == expected


# ---- ids


def test_ids_and_texts_are_those_of_the_peer(tokenizer, content, peer, texts):
    reference = reference_of(peer, content)
    same_ids(tokenizer, reference, texts)
    ids = tokenizer.tokenize(tensor(texts))
    known = [unk not in row for unk in [tokenizer.unknown_id] for row in ids.to_list()]
    assert sum(known) > 99
    back = strings(tokenizer.detokenize(ids))
    expected = reference.decode_batch(ids.to_list())
    assert list(itertools.compress(back, known)) == list(itertools.compress(expected, known))


SETTINGS = [
    (True, "<unk>", {"type": "NFC"}, "first", False),
    (True, "<unk>", None, "never", True),
    (False, None, {"type": "NFKC"}, "first", True),
    (False, None, None, "always", False),
]


def of_settings(content, fuse, unknown, normalizer, scheme, split):
    words = {**WORDS, "prepend_scheme": scheme, "split": split}
    model = {"fuse_unk": fuse, "unk_token": unknown}
    parts = dict(normalizer=normalizer, pre_tokenizer=words, decoder=words, model=model)
    return changed(content, **parts)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_a_file_decides(settings, content, peer, texts, tmp_path):
    content = of_settings(content, *settings)
    tokenizer = tokenizer_of(content, tmp_path)
    same_ids(tokenizer, reference_of(peer, content), texts)
    config = tokenizer.get_config()
    names = ("fuse_unknown", "unknown_token", "normalization", "prepend_scheme", "split")
    fuse, unknown, normalizer, *words = settings
    form = normalizer and normalizer["type"]
    assert [config[name] for name in names] == [fuse, unknown, form, *words]


TINY = ["</s>", "<unk>", "▁", "l", "o", ":)", ":))", "lo", "▁lo", "</"]
MERGES = [("l", "o"), ("▁", "lo")]


def tiny(**arguments):
    arguments = {"unknown_token": "<unk>", "added_tokens": [":)", ":))"], **arguments}
    return text.CharacterBytePairTokenizer(TINY, MERGES, **arguments)


@pytest.fixture(scope="module")
def small():
    return tiny()


def tokens_of(tokenizer, texts):
    vocabulary = tokenizer.get_vocabulary()
    return [[vocabulary[i] for i in row] for row in tokenizer.tokenize(tensor(texts)).to_list()]


def test_blanks_and_added_tokens_by_hand(small):
    cases = {
        "lo lo": ["▁lo", "▁lo"],
        " lo": ["▁lo"],  # no second blank before it
        "  lo ": ["▁", "▁lo", "▁"],
        "▁lo": ["▁lo"],
        "": [],
        "lo:)lo": ["▁lo", ":)", "▁lo"],
        ":)) l": [":))", "▁", "l"],  # the longest
        "lo\0x": ["▁lo", "<unk>", "<unk>"],
        "ｌｏ\u3000lo": ["▁lo", "▁lo"],
    }
    assert dict(zip(cases, tokens_of(small, cases))) == cases
    assert tokens_of(tiny(prepend_scheme="first"), ["lo:)lo", ":)lo"]) == [
        ["▁lo", ":)", "lo"],
        [":)", "lo"],
    ]
    assert tokens_of(tiny(fuse_unknown=True), ["xy lxy:)z"]) == [
        ["▁", "<unk>", "▁", "l", "<unk>", ":)", "▁", "<unk>"]
    ]
    assert tokens_of(tiny(unknown_token=None), ["lxo\0"]) == [["▁lo"]]


def test_a_text_that_spells_a_special_token_is_text():
    vocabulary = [*TINY, "<", "/", "s", ">", "s>", "<mask>"]
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    tokenizer = text.CharacterBytePairTokenizer(vocabulary, merges, mask_token="<mask>")
    assert tokens_of(tokenizer, ["</s>"]) == [["▁", "</", "s>"]]
    assert strings(tokenizer.detokenize(tokenizer.encode(tensor(["</s>"])))) == ["</s>"]


@pytest.mark.slow
def test_a_batch_inside_a_pipeline(tokenizer):
    data = tf.data.Dataset.from_tensor_slices(list(CASES)).batch(5).map(tokenizer.tokenize)
    rows = [row for batch in data for row in batch.to_list()]
    assert rows == tokenizer.tokenize(tensor(CASES)).to_list()
    for batch in ([], ["", ""]):
        ids, *offsets = tokenizer.tokenize_with_offsets(tensor(batch))
        assert [part.to_list() for part in (ids, *offsets)] == [[[] for _ in batch]] * 3


# ---- offsets


def test_offsets_are_those_of_the_peer(content, peer, texts, tmp_path):
    content = of_settings(content, False, "<unk>", None, "never", True)
    tokenizer = tokenizer_of(content, tmp_path)
    ids, starts, ends = tokenizer.tokenize_with_offsets(tensor(texts))
    assert starts.dtype == ends.dtype == tf.int64
    assert ids.to_list() == tokenizer.tokenize(tensor(texts)).to_list()
    found = [list(zip(*row)) for row in zip(starts.to_list(), ends.to_list())]
    expected = [
        [tuple(len(t[:place].encode()) for place in span) for span in encoding.offsets]
        for t, encoding in zip(texts, reference_of(peer, content).encode_batch(texts))
    ]
    assert found == expected


@pytest.mark.slow
def test_offsets_of_what_was_normalized_put_before_or_left_out():
    vocabulary = [*TINY, "k", "g", "가", "é"]

    def taken(sentences, **arguments):
        tokenizer = text.CharacterBytePairTokenizer(
            vocabulary, MERGES, added_tokens=[":)"], **arguments
        )
        ids, *spans = tokenizer.tokenize_with_offsets(tensor(sentences))
        rows = zip(sentences, ids.to_list(), *(span.to_list() for span in spans))
        return [
            [(vocabulary[i], raw.encode()[a:b].decode()) for i, a, b in zip(*row)]
            for raw, *row in rows
        ]

    assert taken(["ｌｏ\u3000lo", "㎏:)㎏", "\u1100\u1161e\u0301", "xlxox"]) == [
        [("▁lo", "ｌｏ"), ("▁lo", "\u3000lo")],
        [("▁", ""), ("k", "㎏"), ("g", "㎏"), (":)", ":)"), ("▁", ""), ("k", "㎏"), ("g", "㎏")],
        [("▁", ""), ("가", "\u1100\u1161"), ("é", "e\u0301")],
        [("▁lo", "xlxo")],
    ]
    assert taken(["xyl", "lz"], unknown_token="<unk>", fuse_unknown=True) == [
        [("▁", ""), ("<unk>", "xy"), ("l", "l")],
        [("▁", ""), ("l", "l"), ("<unk>", "z")],
    ]


# ---- back to text


def test_ids_become_text(tokenizer):
    found = tokenizer.get_vocabulary().index
    rows = [
        [found("</s>"), found("안"), found("😀"), found("<usr>"), found("</s>"), found("a")],
        [found("a"), found("<unk>"), 10_007, -1, found("<unused1>")],
    ]
    ids = tf.ragged.constant(rows, tf.int32)
    assert strings(tokenizer.detokenize(ids)) == ["안😀", "a\ufffd\ufffd\ufffd"]


def test_continuations_begin_without_a_blank(tokenizer):
    inside = dict(zip(tokenizer.get_vocabulary(), tokenizer.continuations()))
    assert inside["안"] and inside["o"]
    assert not any(inside[token] for token in ("▁", "▁the", ":)", "<pad>", "<unk>"))


# ---- files


def test_a_published_folder(tokenizer, folder):
    assert type(tokenizer) is text.CharacterBytePairTokenizer
    config = tokenizer.get_config()
    assert {name: config[name] for name in SPECIAL} == SPECIAL
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id) == (1, 1, 3)
    assert (tokenizer.unknown_id, tokenizer.mask_id) == (5, 6)
    assert sorted(config["added_tokens"]) == sorted(EMOTICONS)


def test_a_folder_that_names_its_special_tokens(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    roles = {"eos_token": {"content": "<sys>"}, "bos_token": "<s>", "pad_token": "^^"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    loaded = text.load_pretrained_tokenizer(tmp_path)
    assert (loaded.start_id, loaded.end_id) == (0, 4)
    assert "^^" not in loaded.get_config()["added_tokens"]


def test_other_forms_of_the_same_file(content, tokenizer, tmp_path):
    old = {"type": "Metaspace", "replacement": "▁", "str_rep": "▁", "add_prefix_space": True}
    nothing = {"type": "BertNormalizer", "strip_accents": False, "lowercase": False}
    nothing |= {"clean_text": False, "handle_chinese_chars": False}
    forms = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, nothing]}
    content = changed(content, pre_tokenizer=old, normalizer=forms)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert text.load_pretrained_tokenizer(tmp_path).get_config() == tokenizer.get_config()


@pytest.mark.slow
def test_a_saved_tokenizer_is_read_by_us_and_by_others(tokenizer, peer, texts, tmp_path):
    tokenizer.save(tmp_path, max_length=53)
    for load in (text.load_tokenizer, text.load_pretrained_tokenizer):
        again = load(tmp_path)
        assert again.get_config() == tokenizer.get_config()
        same_answers(tokenizer, again)
    theirs = peer.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    same_ids(tokenizer, theirs, texts)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    sentences = ["안녕하세요 :) 세계", "  the  dogs ▁", "ｔｈｅ ㅠㅠ"]
    assert theirs(sentences)["input_ids"] == tokenizer.tokenize(tensor(sentences)).to_list()
    roles = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")
    named = [getattr(theirs, role) for role in roles]
    assert named == ["</s>", "</s>", "<pad>", "<unk>", "<mask>"]
    assert theirs.model_max_length == 53


REFUSED = {
    "another sign": ({"pre_tokenizer": {**WORDS, "replacement": "_"}}, "replacement='▁'.*'_'"),
    "a scheme": ({"pre_tokenizer": {**WORDS, "prepend_scheme": "last"}}, "prepend_scheme.*'last'"),
    "no prefix": (
        {"pre_tokenizer": {**WORDS, "add_prefix_space": False}},
        "prepend_scheme='never' where add_prefix_space is false",
    ),
    "lower case": ({"normalizer": {"type": "Lowercase"}}, "or NFC or NFKC.*Lowercase"),
    "BERT's": (
        {"normalizer": {"type": "BertNormalizer", "lowercase": False}},
        "or NFC or NFKC.*BertNormalizer",
    ),
    "two forms": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}},
        "one normalizer",
    ),
    "a damaged one": ({"normalizer": "NFKC"}, "or NFC or NFKC"),
    "dropout": ({"model": {"dropout": 0.1}}, "dropout=0.0.*0.1"),
    "bytes": ({"model": {"byte_fallback": True}}, "byte_fallback=False.*True"),
    "fusing": ({"model": {"fuse_unk": 1.5}}, "true or false as fuse_unk.*1.5"),
    "an unknown unknown": ({"model": {"unk_token": "[?]"}}, "`unknown_token` to be a token"),
    "a stripping token": (
        {"added_tokens": [{"id": 9, "content": ":)", "special": True, "lstrip": True}]},
        "lstrip=false.*':.'",
    ),
    "a normalized token": (
        {"added_tokens": [{"id": 9, "content": ":)", "normalized": True}]},
        "normalized=false.*':.'",
    ),
    "two ids": ({"added_tokens": [{"id": 11, "content": ":)"}]}, "gives? ':.' two ids"),
    "no object": ({"added_tokens": [":)"]}, "an added token has no content"),
    "no end": ({"model": {"vocab": {"▁": 0}, "merges": []}, "added_tokens": []}, "an eos_token"),
    "unknown merges": ({"model": {"merges": ["힣 힣"]}}, r"\['힣', '힣', '힣힣'\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_other_kinds_and_damaged_ones_are_refused(name, content, tmp_path):
    change, message = REFUSED[name]
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed(content, **change)))
    with pytest.raises(ValueError, match=message):
        text.load_pretrained_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"normalization": "NFD"}, "`normalization` must be one of .*NFD"),
        ({"prepend_scheme": "last"}, "`prepend_scheme` must be one of"),
        ({"split": "yes"}, "`split` must be one of"),
        ({"added_tokens": [":("]}, "`added_tokens` to be tokens of the vocabulary.*':.'"),
        ({"pad_token": ":)"}, "`added_tokens` to be .* not special.*':.'"),
        ({"pad_token": "o"}, "no text has. Received: 'o', a character"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


@pytest.mark.slow
def test_two_saved_models_keep_their_own_vocabularies(tokenizer, small, tmp_path):
    """As a service has them: both in one process, and no Python of ours in them."""
    kinds = {"one": tokenizer, "two": small}

    def save(kind, path):
        module = tf.Module()
        module.tokenizer = kind
        module.read = tf.function(
            lambda texts: kind.encode(texts).to_tensor(kind.pad_id),
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )
        tf.saved_model.save(module, str(path))

    for name, kind in kinds.items():
        save(kind, tmp_path / name)
    loaded = {name: tf.saved_model.load(str(tmp_path / name)) for name in kinds}
    cases = tensor([*CASES, "lo:)) ㅠㅠ lo"])
    for name, kind in kinds.items():
        expected = kind.encode(cases).to_tensor(kind.pad_id)
        assert (loaded[name].read(cases) == expected).numpy().all()


@pytest.mark.slow
def test_a_folder_of_kogpt2s_shape(content, tmp_path):
    """51,200 tokens, no file but the model's and `tokenizer.json`."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    size = 51_200
    vocabulary = dict(content["model"]["vocab"])
    vocabulary |= {f"<unused{i}>": i for i in range(len(vocabulary), size)}
    content = changed(content, model={"vocab": vocabulary})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf8")
    config = dict(vocab_size=size, n_positions=23, n_embd=14, n_layer=2, n_head=2)
    special = dict(bos_token_id=1, eos_token_id=1, pad_token_id=3)
    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, **special)).eval()
    peer.save_pretrained(tmp_path)
    roles = dict(bos_token="</s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path, **roles)

    model = models.Gpt.from_pretrained(tmp_path)
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.vocab_size == model.get_config()["vocab_size"] == size
    assert (tokenizer.start_id, tokenizer.end_id) == (model.start_id, model.end_id) == (1, 1)
    sentence = "안녕하세요 :) 세계 the lazy dogs ㅠㅠ"
    [ids] = tokenizer.tokenize(tensor([sentence])).to_list()
    assert ids == theirs(sentence)["input_ids"] and len(ids) == 9
    with torch.no_grad():
        logits = peer(input_ids=torch.tensor([ids])).logits.numpy()
    np.testing.assert_allclose(np.asarray(model(np.array([ids]))), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_texts_of_ones_own(peer, tmp_path):
    path = os.environ.get("KOGPT2_TEXT")
    if not path:
        pytest.skip("KOGPT2_TEXT is not set; see the top of this file")
    lines = pathlib.Path(path).read_text("utf8").split("\n")
    texts = [*lines, *of_parts(5003, 31), *hostile.strings(5003, 37)]
    # Without the few whose newest characters only one of the two normalizes.
    ours, theirs = tf_text.normalize_utf8(tensor(texts), "NFKC"), peer.normalizers.NFKC()
    texts = [t for t, form in zip(texts, strings(ours)) if theirs.normalize_str(t) == form]
    contents = [learned_by(peer, lines[:5003], 5003)]
    forms = (None, {"type": "NFC"}, {"type": "NFKC"})
    schemes = ("always", "first", "never")
    unknown = [(True, "<unk>"), (False, "<unk>"), (False, None)]
    choices = itertools.product(unknown, forms, schemes, (True, False))
    contents = [of_settings(contents[0], *first, *others) for first, *others in choices]
    if os.environ.get("KOGPT2_FILE"):
        contents.append(json.loads(pathlib.Path(os.environ["KOGPT2_FILE"]).read_text("utf8")))
    for content in contents:
        tokenizer = tokenizer_of(content, tmp_path)
        found = tokenizer.get_config()["added_tokens"]
        added = [{**t, "special": t["content"] not in found} for t in content["added_tokens"]]
        same_ids(tokenizer, reference_of(peer, {**content, "added_tokens": added}), texts)
