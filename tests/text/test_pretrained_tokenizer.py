"""Tokenizers from the folders that BERT models are published in, and from damaged ones."""

import json
import os
import struct

import numpy as np
import peers
import pytest
import tensorflow as tf
from peers import BERT, KOBERT
from sentences import CASES, SENTENCES, same_answers, strings

from keras_xfmr import text
from keras_xfmr.common import files


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def reference(peer):
    return peers.word_piece(peer)


@pytest.fixture
def folder(reference, peer, tmp_path):
    """A published uncased model: tokenizer.json, vocab.txt and tokenizer_config.json."""
    reference.normalizer = peers.normalizer(peer, True)
    reference.save(str(tmp_path / "tokenizer.json"))
    vocabulary = peers.tokens_of(reference)
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), "utf8")
    config = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture(scope="module")
def kobert():
    return peers.kobert(pytest.importorskip("sentencepiece"))


# ---- WordPiece


@pytest.mark.parametrize("word, lowercase", [("Ann", False), ("ann", True)])
def test_a_vocabulary_alone_says_whether_it_is_cased(word, lowercase, tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", word]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf8")
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.lowercase is lowercase
    assert tokenizer.tokenize(["Ann"]).to_list() == [[6]]
    for content in ('{"strip_accents": null}', "{}"):
        (tmp_path / "tokenizer_config.json").write_text(content)
        assert text.load_pretrained_tokenizer(tmp_path).lowercase  # as Hugging Face's


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_special_tokens_of_other_names_are_refused(name, tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<mask>", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf8")
    for token in ("[MASK]", {"content": "[MASK]"}):
        (tmp_path / name).write_text(json.dumps({"mask_token": token}))
        assert text.load_pretrained_tokenizer(tmp_path).mask_id == 4
    for token in ("<mask>", {"content": "<mask>"}):
        (tmp_path / name).write_text(json.dumps({"mask_token": token}))
        with pytest.raises(ValueError, match=rf"mask_token='\[MASK\]' in {name}.*'<mask>'"):
            text.load_pretrained_tokenizer(tmp_path)


def test_a_published_folder_loads(folder, reference):
    expected = peers.peer_ids(reference, list(CASES))
    config = {"lowercase": True, "strip_accents": None, "split_cjk": True}
    both = text.load_pretrained_tokenizer(folder)
    os.remove(folder / "tokenizer.json")
    plain = text.load_pretrained_tokenizer(str(folder))
    for tokenizer in (both, plain):
        assert tokenizer.get_config() == config and tokenizer.special_ids == (0, 2, 3, 4)
        assert peers.ids_of(tokenizer, list(CASES)) == expected
    os.remove(folder / "tokenizer_config.json")
    os.remove(folder / "vocab.txt")
    with pytest.raises(FileNotFoundError, match="Expected tokenizer.json, vocab.txt or a Sent"):
        text.load_pretrained_tokenizer(folder)


def test_a_name_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Nothing is downloaded.*`hf download some/bert "):
        text.load_pretrained_tokenizer("some/bert")


def test_a_path_in_the_place_of_tokens_or_of_a_folder(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(LINES)
    with pytest.raises(ValueError, match="Expected a folder, such as .*from_file"):
        text.load_pretrained_tokenizer(path)
    for given in (path, str(path)):
        for kind in (text.BertTokenizer, text.WordTokenizer):
            with pytest.raises(TypeError, match="Expected tokens in.*vocab.txt.*from_file"):
                kind(given)
        for kind in (text.BytePairTokenizer, text.CharacterBytePairTokenizer):
            with pytest.raises(TypeError, match="Expected tokens in.*vocab.txt"):
                kind(given, [])
        with pytest.raises(TypeError, match="Expected the bytes of a model.*read_bytes"):
            text.SentencePieceTokenizer(given)


@pytest.mark.parametrize(
    "name", ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "spiece.model"]
)
def test_a_pointer_of_git_lfs_is_no_tokenizer(name, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(LINES)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 3\n")
    with pytest.raises(ValueError, match=f"{name}' is a pointer of git-lfs.*git lfs pull"):
        text.load_pretrained_tokenizer(tmp_path)


def test_the_settings_of_a_published_folder_count(folder, reference, peer):
    reference.normalizer = peers.normalizer(peer, False, True, False)
    reference.save(str(folder / "tokenizer.json"))
    os.remove(folder / "tokenizer_config.json")
    found = text.load_pretrained_tokenizer(folder).get_config()
    assert found == {"lowercase": False, "strip_accents": True, "split_cjk": False}
    # What the model was published with comes before what its tokenizer was built with.
    config = {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found = text.load_pretrained_tokenizer(folder).get_config()
    assert found == {"lowercase": True, "strip_accents": False, "split_cjk": True}


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"do_lower_case": True}, (True, None, True)),
        ({"tokenizer_class": "BertTokenizerFast"}, (True, None, True)),
        ({"model_max_length": 512}, (True, None, True)),
        ({"tokenizer_class": "TokenizersBackend", "do_lower_case": True}, (False, True, False)),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, (False, True, False)),
    ],
)
def test_settings_that_contradict_each_other_are_read_as_transformers_does(
    config, expected, folder, reference, peer
):
    reference.normalizer = peers.normalizer(peer, False, True, False)
    reference.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    found = text.load_pretrained_tokenizer(folder)
    assert tuple(found.get_config().values()) == expected
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    asked = ["Ann's Café 中国", "ÉTÉ été 国"]
    assert found.tokenize(asked).to_list() == theirs(asked, add_special_tokens=False)["input_ids"]


def test_a_saved_tokenizer_loads_both_ways(tmp_path):
    vocabulary = ["[SEP]", "[UNK]", "[CLS]", "[PAD]", "e", "##é", "É"]
    tokenizer = text.BertTokenizer(vocabulary, strip_accents=False, split_cjk=False)
    tokenizer.save(tmp_path)
    for load in (text.load_tokenizer, text.load_pretrained_tokenizer):
        again = load(tmp_path)
        assert type(again) is text.BertTokenizer and again.get_vocabulary() == vocabulary
        assert again.get_config() == tokenizer.get_config()
        same_answers(tokenizer, again, ["eé É", "[CLS] x"])
    os.remove(tmp_path / "keras_xfmr_tokenizer.json")  # which others do not read
    assert text.load_pretrained_tokenizer(tmp_path).get_config() == tokenizer.get_config()


def test_a_vocabulary_file_may_come_from_another_machine(tmp_path):
    content = "\ufeff" + "\r\n".join([*BERT, "A ", "##\u00e9\t\u00a0"]) + "\r\n\n\r\n"
    (tmp_path / "vocab.txt").write_bytes(content.encode("utf8"))
    tokenizer = text.BertTokenizer.from_file(tmp_path / "vocab.txt", lowercase=False)
    assert tokenizer.get_vocabulary() == [*BERT, "A", "##é"]
    assert tokenizer.tokenize(tf.constant(["Aé"])).to_list() == [[5, 6]]


LINES = "\n".join(BERT).encode()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "nothing in line 1"),
        (LINES + b"\na\n\nb\n", "nothing in line 7"),
        (LINES + b"\na\nb\na\n", "Received twice: 'a'"),
        (LINES + b"\na\n\xffb\n", "Expected UTF-8.*line 7"),
        (b"a\nb\n", r"Missing: \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        (LINES + b"\n" + b"x" * 997, "at most 997 bytes"),
        (LINES + b"\na" * 100, "at most 97 lines"),
        (LINES + b"\n" + b"x" * 307, "Not a vocabulary of word pieces"),
    ],
)
def test_a_damaged_vocabulary_file_is_called_so(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 997)
    monkeypatch.setattr(files, "MAX_LINES", 97)
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        text.BertTokenizer.from_file(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match=message):
        text.load_pretrained_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="No missing.txt in"):
        text.BertTokenizer.from_file(tmp_path / "missing.txt")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 99_991, b'{"model": {}', b""])
def test_a_file_that_is_no_json_object_is_called_so(content, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(LINES)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}' is damaged"):
            text.load_pretrained_tokenizer(tmp_path)


def description():
    return {
        "added_tokens": [{"id": 4, "content": "[MASK]", "special": True}],
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "vocab": {token: i for i, token in enumerate(BERT[:4])}},
    }


def test_a_special_token_may_be_added_to_the_model(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(description()))
    assert text.load_pretrained_tokenizer(tmp_path).get_vocabulary() == BERT


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("model", "type"), "WordLevel", "Expected type='WordPiece' in model.*'WordLevel'"),
        (("model", "type"), "Unigram", "damaged: its model has no pieces with their scores"),
        (("model", "continuing_subword_prefix"), "@@", "Expected continuing_subword_prefix='##'"),
        (("model", "max_input_chars_per_word"), 10**9, "Expected max_input_chars_per_word=100"),
        (("model", "vocab"), ["[PAD]"], "damaged: its model has no vocabulary"),
        (("model", "vocab", "a"), 7, "Expected each id 0 .. 5 once"),
        (("model", "vocab", "a"), 4, "Expected each id 0 .. 5 once"),
        (("model", "vocab", "a"), 5.0, "damaged: an id is no integer"),
        (("model", "vocab", "a"), True, "damaged: an id is no integer"),
        (("model", "vocab", "\ud800"), 5, "surrogates not allowed"),
        (("model", "vocab", "[MASK]"), 5, "two ids"),
        (("model",), None, "Received: model=None"),
        (("normalizer",), None, "Received: normalizer=None"),
        (("normalizer", "type"), "NFC", "Expected type='BertNormalizer' in normalizer"),
        (("normalizer", "clean_text"), False, "Expected clean_text=True"),
        (("normalizer", "lowercase"), 3, "Expected true or false as 'do_lower_case'.*3"),
        (("pre_tokenizer", "type"), "ByteLevel", "Expected type='BertPreTokenizer'"),
        (("added_tokens",), {"a": 3}, "damaged: its model has no vocabulary"),
        (("added_tokens",), [3], "damaged: an added token has no content"),
        (("added_tokens",), [{"id": 4, "content": "hi"}], "Expected added tokens to be special"),
    ],
)
def test_a_foreign_tokenizer_json_is_refused(path, value, message, tmp_path):
    content = description()
    part = content
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        text.load_pretrained_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name, value",
    [
        ("do_basic_tokenize", False),
        ("never_split", ["x"]),
        ("do_lower_case", "yes"),
        ("word_tokenizer_type", "mecab"),
        ("subword_tokenizer_type", "character"),
        ("tokenizer_class", "BertJapaneseTokenizer"),
        ("tokenizer_class", ["BertTokenizer"]),
    ],
)
def test_a_foreign_configuration_is_refused(name, value, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(LINES)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({name: value}))
    with pytest.raises(ValueError, match=f"Expected .*{name}.*Received"):
        text.load_pretrained_tokenizer(tmp_path)


def test_a_configuration_of_the_model_may_name_the_class(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(LINES)
    (tmp_path / "config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
    with pytest.raises(ValueError, match="cuts words in another way"):
        text.load_pretrained_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"tokenizer_class": "ElectraTokenizerFast"}')
    assert text.load_pretrained_tokenizer(tmp_path).get_vocabulary() == BERT


def added(tmp_path, decoder, beside):
    (tmp_path / "vocab.txt").write_bytes(LINES)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    (tmp_path / "added_tokens.json").write_text(json.dumps(beside))
    return tmp_path


def test_special_tokens_that_were_added_to_a_vocabulary_have_their_ids(tmp_path):
    decoder = {str(i): {"content": token, "special": True} for i, token in enumerate(BERT)}
    decoder |= {"6": {"content": "[E2]", "special": True}, "5": {"content": "a", "special": True}}
    tokenizer = text.load_pretrained_tokenizer(added(tmp_path, decoder, {"[E2]": 6, "a": 5}))
    assert tokenizer.get_vocabulary() == [*BERT, "a", "[E2]"]


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("special", [["<e1>"], [{"content": "<e1>"}]], ids=str)
def test_additional_special_tokens_as_older_releases_name_them(name, special, tmp_path):
    folder = added(tmp_path, {}, {"<e1>": 5, "[MASK]": 4})
    (tmp_path / name).write_text(json.dumps({"additional_special_tokens": special}))
    assert text.load_pretrained_tokenizer(folder).get_vocabulary() == [*BERT, "<e1>"]


@pytest.mark.parametrize(
    "decoder, beside, message",
    [
        ({"5": {"content": "new", "special": False}}, {}, "to be special.*new"),
        ({}, {"new": 5}, "Expected added tokens to be special.*new"),
        ({}, {"new": [5]}, "added_tokens.json is damaged: 'new' has no number"),
        ({"6": {"content": "a", "special": True}}, {}, "Expected each id 0 .. 5 once"),
        ({"4": {"content": "a", "special": True}}, {}, "Expected each id 0 .. 5 once"),
        ({"3": {"content": "[MASK]", "special": True}}, {}, "two ids"),
        ({}, {"[MASK]": 3}, "two ids"),
        ({"x": {"content": "a", "special": True}}, {}, "an id is no integer"),
        ({"9" * 5000: {"content": "a", "special": True}}, {}, "an id is no integer"),
        ({"5": "a"}, {}, "an added token has no content"),
        ([1], {}, "`added_tokens_decoder` is no object"),
    ],
)
def test_tokens_that_cannot_be_added_are_refused(decoder, beside, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        text.load_pretrained_tokenizer(added(tmp_path, decoder, beside))


@pytest.mark.parametrize("saved_before", [False, True])
def test_another_tokenizer_in_the_folder_is_neither_left_in_charge_nor_removed(
    saved_before, kobert, tmp_path
):
    (tmp_path / "ko.model").write_bytes(kobert)
    pieces, folder = text.load_pretrained_tokenizer(tmp_path), tmp_path / "saved"
    folder.mkdir()
    if saved_before:
        pieces.save(folder)
    (folder / "tokenizer.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for tokenizer in (pieces, text.BertTokenizer(BERT)):
        with pytest.raises(FileExistsError, match="another tokenizer"):
            tokenizer.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    text.ByteTokenizer().save(folder)  # which Hugging Face's libraries do not read
    assert (folder / "tokenizer.json").read_text() == "{}"


def test_a_tokenizer_takes_the_place_of_one_of_another_kind(kobert, tmp_path):
    (tmp_path / "ko.model").write_bytes(kobert)
    pieces, words = text.load_pretrained_tokenizer(tmp_path), text.BertTokenizer(BERT)
    folder = tmp_path / "saved"
    for tokenizer in (pieces, words, pieces, words):
        tokenizer.save(folder)
        same_answers(text.load_pretrained_tokenizer(folder), tokenizer)
        assert (folder / "tokenizer.json").exists() is (tokenizer is pieces)


# ---- what sentence-transformers says


def say(folder, **settings):
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    return text.load_pretrained_tokenizer(folder)


def test_the_longest_row_is_the_default_of_a_packer(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(LINES)
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.max_length is None
    with pytest.raises(ValueError, match="`max_length` must be given"):
        text.SentencePacker(tokenizer)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert text.load_pretrained_tokenizer(tmp_path).max_length is None
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 37}')
    assert text.load_pretrained_tokenizer(tmp_path).max_length == 37
    assert say(tmp_path, max_seq_length=None).max_length == 37
    tokenizer = say(tmp_path, max_seq_length=17)
    assert text.SentencePacker(tokenizer).max_length == 17
    tokenizer.save(tmp_path / "saved")
    for load in (text.load_tokenizer, text.load_pretrained_tokenizer):
        assert load(tmp_path / "saved").max_length == 17
    written = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert written["model_max_length"] == 17
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 13}')
    assert say(tmp_path, max_seq_length=17).max_length == 13
    for wrong in (0, "17", 1.5, True):
        with pytest.raises(ValueError, match="a whole number from 1 as 'max_seq_length'"):
            say(tmp_path, max_seq_length=wrong)


def test_sentence_transformers_may_lower_texts(tmp_path):
    """It does so before the tokenizer, which then keeps accents."""
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT, "Ann", "été"]) + "\n", "utf8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = say(tmp_path, do_lower_case=True)
    assert tokenizer.lowercase and tokenizer.strip_accents is False
    assert tokenizer.tokenize(["ÉTÉ Ann"]).to_list() == [[6, 1]]
    assert not say(tmp_path, do_lower_case=False).lowercase
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    assert not text.load_pretrained_tokenizer(tmp_path, lowercase=False).lowercase
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert say(tmp_path, do_lower_case=True).strip_accents is None  # as before
    with pytest.raises(ValueError, match="true or false as 'do_lower_case'"):
        say(tmp_path, do_lower_case="yes")


def test_a_step_that_lowers_texts_before_berts_normalizer(tmp_path):
    """As version 3 of sentence-transformers and later save `do_lower_case`."""
    content = description()
    steps = [{"type": "Lowercase"}, {"type": "BertNormalizer", "lowercase": False}]
    content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.lowercase and tokenizer.strip_accents is False
    content["normalizer"]["normalizers"] = steps[::-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Expected type='BertNormalizer' in normalizer"):
        text.load_pretrained_tokenizer(tmp_path)


def test_other_tokenizers_cannot_lower_texts(kobert, tmp_path):
    (tmp_path / "spiece.model").write_bytes(kobert)
    with pytest.raises(ValueError, match="`do_lower_case` in the sentence_.*_config.json"):
        say(tmp_path, do_lower_case=True)
    assert say(tmp_path, do_lower_case=False, max_seq_length=11).max_length == 11


# ---- SentencePiece, as KoBERT has it


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer_78b3253a26.model", "ko.model"])
def test_kobert_has_its_own_special_ids(kobert, name, tmp_path):
    import sentencepiece

    (tmp_path / name).write_bytes(kobert)
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.get_vocabulary()[:5] == KOBERT and tokenizer.vocab_size == 97
    assert (tokenizer.unknown_id, tokenizer.special_ids) == (0, (1, 2, 3, 4))
    peer = sentencepiece.SentencePieceProcessor(model_proto=kobert)
    expected = [[2, *peer.encode(sentence), 3] for sentence in SENTENCES]
    assert tokenizer.encode(tf.constant(SENTENCES), start=True).to_list() == expected
    assert 4 in peer.encode("the [MASK] dog")
    ids = tokenizer.tokenize(tf.constant(["the [MASK] dog [SEP]"])).to_list()[0]
    assert not set(ids) & {1, 2, 3, 4} and 0 in ids
    tokenizer.save(tmp_path / "saved")
    again = text.load_tokenizer(tmp_path / "saved")
    same_answers(tokenizer, again)
    assert again.mask_id == 4


def test_hugging_face_s_libraries_read_what_is_saved(kobert, peer, tmp_path):
    (tmp_path / "spiece.model").write_bytes(kobert)
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    tokenizer.save(tmp_path / "saved")
    theirs = peer.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    texts = [*SENTENCES, "", "  the  dog ", "the\u00a0dog"]
    expected = tokenizer.encode(tf.constant(texts), start=True).to_list()
    assert [found.ids for found in theirs.encode_batch(texts)] == expected
    pair = theirs.encode("the dog", "he barks")
    packed = text.SentencePacker(tokenizer, 97)(*map(tf.constant, (["the dog"], ["he barks"])))
    assert pair.ids == packed["token_ids"].numpy()[0].tolist()
    assert pair.type_ids == packed["segment_ids"].numpy()[0].tolist()
    assert theirs.decode(expected[0]) == strings(tokenizer.detokenize([expected[0]]))[0]
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text("utf8"))
    assert config["pad_token"] == "[PAD]" and config["mask_token"] == "[MASK]"
    os.remove(tmp_path / "saved" / "keras_xfmr_tokenizer.json")
    same_answers(tokenizer, text.load_pretrained_tokenizer(tmp_path / "saved"))


@pytest.mark.parametrize("kind", ["word_piece", "sentence_piece"])
def test_hugging_face_s_tokenizer_cuts_to_the_positions_of_a_model(kind, kobert, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "spiece.model").write_bytes(kobert)
    loaded = text.load_pretrained_tokenizer(tmp_path)
    tokenizer = text.BertTokenizer([*BERT, "a"]) if kind == "word_piece" else loaded
    tokenizer.save(tmp_path / "saved", max_length=7)
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "bert"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert len(theirs("a " * 30, truncation=True)["input_ids"]) == 7


def test_they_say_so_where_they_cannot_read_it(kobert, tmp_path):
    """Without a class that they do not know they would make a tokenizer of five tokens."""
    (tmp_path / "spiece.model").write_bytes(kobert)
    plain = text.load_pretrained_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(plain.get_vocabulary()[:-1]), "utf8")
    text.load_pretrained_tokenizer(tmp_path).save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text("utf8"))
    assert config["tokenizer_class"] == "keras_xfmr.SentencePieceTokenizer"
    assert not (tmp_path / "saved" / "tokenizer.json").exists()
    transformers = pytest.importorskip("transformers")
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError):
        transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")


def test_other_ids_are_those_of_hugging_face_s_libraries_too(kobert, peer, tmp_path):
    (tmp_path / "spiece.model").write_bytes(kobert)
    pieces = text.load_pretrained_tokenizer(tmp_path).get_vocabulary()
    (tmp_path / "vocab.txt").write_text("\n".join([*KOBERT, *sorted(pieces[5:])]), "utf8")
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    tokenizer.save(tmp_path / "saved")
    theirs = peer.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    expected = tokenizer.encode(tf.constant(SENTENCES), start=True).to_list()
    assert [found.ids for found in theirs.encode_batch(list(SENTENCES))] == expected


def test_a_vocabulary_beside_the_model_gives_the_ids(kobert, tmp_path):
    (tmp_path / "spiece.model").write_bytes(kobert)
    plain = text.load_pretrained_tokenizer(tmp_path)
    order = [*KOBERT, *sorted(plain.get_vocabulary()[5:])]
    (tmp_path / "vocab.txt").write_text("\n".join(order) + "\n", "utf8")
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.get_vocabulary() == order != plain.get_vocabulary()
    new = np.array([order.index(piece) for piece in plain.get_vocabulary()])
    expected = [new[row].tolist() for row in plain.encode(tf.constant(CASES), start=True).to_list()]
    ids = tokenizer.encode(tf.constant(CASES), start=True)
    assert ids.to_list() == expected
    back = strings(plain.detokenize(plain.encode(tf.constant(CASES))))
    assert strings(tokenizer.detokenize(ids)) == back
    np.testing.assert_array_equal(tokenizer.continuations()[new], plain.continuations())
    tokenizer.save(tmp_path / "saved")
    same_answers(tokenizer, text.load_pretrained_tokenizer(tmp_path / "saved"))


def test_a_vocabulary_without_a_piece_makes_it_unknown(kobert, tmp_path):
    (tmp_path / "spiece.model").write_bytes(kobert)
    plain = text.load_pretrained_tokenizer(tmp_path)
    the = plain.tokenize(tf.constant(["the dog"])).to_list()[0][0]
    order = [p for i, p in enumerate(plain.get_vocabulary()) if i != the]
    (tmp_path / "vocab.txt").write_text("\n".join(order), "utf8")
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 96
    assert tokenizer.tokenize(tf.constant(["the dog"])).to_list()[0][0] == 0


def test_sentence_piece_folders_that_do_not_fit_are_refused(kobert, tmp_path):
    (tmp_path / "spiece.model").write_bytes(kobert)
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT, "un", "##aff"]))
    with pytest.raises(ValueError, match="Expected the pieces of spiece.model in vocab.txt"):
        text.load_pretrained_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(ValueError, match="normalizes by its own rules.*`do_lower_case`"):
        text.load_pretrained_tokenizer(tmp_path)
    for name in ("a.model", "b.model"):
        os.replace(tmp_path / "spiece.model", tmp_path / name)
        (tmp_path / "spiece.model").write_bytes(b"")
    os.remove(tmp_path / "spiece.model")
    with pytest.raises(ValueError, match="Expected one SentencePiece model.*a.model, b.model"):
        text.load_pretrained_tokenizer(tmp_path)


@pytest.fixture(scope="module")
def xlm_r():
    return peers.xlm_r(pytest.importorskip("sentencepiece"))


def write_xlm_r(folder, model, config, special=None, **said):
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **said}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special or {}))
    return folder


XLM_R = {"tokenizer_class": "XLMRobertaTokenizer", "mask_token": "<mask>"}


def test_a_bert_with_the_pieces_of_xlm_r(xlm_r, tmp_path):
    """As paraphrase-multilingual-MiniLM-L12-v2 has them."""
    transformers = pytest.importorskip("transformers")
    write_xlm_r(tmp_path, xlm_r, XLM_R)
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.get_vocabulary()[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert (tokenizer.unknown_id, tokenizer.special_ids) == (3, (1, 0, 2, 84))
    theirs = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)
    texts = [*SENTENCES, *CASES]
    ids = tokenizer.encode(tf.constant(texts), start=True)
    assert ids.to_list() == theirs(texts)["input_ids"]
    assert theirs.mask_token_id == 84 == len(theirs) - 1
    assert strings(tokenizer.detokenize(ids))[0] == theirs.decode(
        ids.to_list()[0], skip_special_tokens=True
    )
    tokenizer.save(tmp_path / "saved")
    same_answers(tokenizer, text.load_pretrained_tokenizer(tmp_path / "saved"))
    theirs.save_pretrained(tmp_path / "theirs")  # which leaves a tokenizer.json alone
    again = text.load_pretrained_tokenizer(tmp_path / "theirs")
    assert again.get_vocabulary() == tokenizer.get_vocabulary()
    same_answers(again, tokenizer)


UNIGRAM = {
    "model": {
        "type": "Unigram",
        "unk_id": 1,
        "vocab": [*([t, 0.0] for t in BERT), ["\u2581", -3.0], ["a", -1], ["\u2581a", -2.5]],
    },
    "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
}


def test_a_unigram_model_with_berts_tokens(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(UNIGRAM))
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.tokenize(tf.constant(["aa a", "[MASK]b"])).to_list() == [[7, 6, 7], [5, 1]]
    assert tokenizer.special_ids == (0, 2, 3, 4)


@pytest.mark.parametrize(
    "model, others, message",
    [
        ({"unk_id": 8}, {}, "`unk_id` is 8"),
        ({"vocab": [["a"]]}, {}, "no pieces with their scores"),
        ({"vocab": [["a", 1e999]]}, {}, "no pieces with their scores"),
        ({"vocab": [["a", 0], ["a", 0]]}, {}, "Expected each id 0 .. 0 once"),
        ({"byte_fallback": True}, {}, "Expected byte_fallback=false"),
        ({}, {"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer Metaspace.*Whitespace"),
        ({}, {"pre_tokenizer": {"type": "Sequence", "pretokenizers": 3}}, "are no objects"),
        ({}, {"normalizer": {"type": "Lowercase"}}, "a normalizer Precompiled.*Lowercase"),
        ({}, {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "is damaged"),
        ({}, {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "Not a Sent"),
        ({}, {"added_tokens": {"a": 3}}, "`added_tokens` is no list"),
    ],
)
def test_a_unigram_model_that_is_no_sentence_piece_is_refused(model, others, message, tmp_path):
    content = {**UNIGRAM, **others, "model": {**UNIGRAM["model"], **model}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        text.load_pretrained_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "config, special, said",
    [
        ({}, {"mask_token": "<mask>", "cls_token": "<s>", "unk_token": "<unk>"}, {}),
        (
            {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": {"content": "<mask>"}},
            {"pad_token": {"content": "<pad>"}},
            {},
        ),
        ({}, {}, {"tokenizer_class": "XLMRobertaTokenizer"}),
        # What a BertTokenizerFast wrote: XLM-R's tokenizer does not lower texts.
        (
            {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "mask_token": "<mask>"},
            {},
            {},
        ),
    ],
)
def test_what_says_that_pieces_are_those_of_xlm_r(config, special, said, xlm_r, tmp_path):
    write_xlm_r(tmp_path, xlm_r, config, special, **said)
    added = {"84": {"content": "<mask>", "special": True}, "85": {"content": "<e>"}}
    added["85"]["special"] = True
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**config, "added_tokens_decoder": added})
    )
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    assert tokenizer.mask_id == 84 and tokenizer.get_vocabulary()[84:] == ["<mask>", "<e>"]


def test_pieces_that_are_not_those_of_xlm_r_are_refused(kobert, xlm_r, tmp_path):
    write_xlm_r(tmp_path, xlm_r, {**XLM_R, "tokenizer_class": "CamembertTokenizer"})
    with pytest.raises(ValueError, match="Expected mask_token"):
        text.load_pretrained_tokenizer(tmp_path)
    write_xlm_r(tmp_path, kobert, XLM_R)
    with pytest.raises(ValueError, match="to begin with the pieces .*<unk>.*as XLM-R's"):
        text.load_pretrained_tokenizer(tmp_path)


def test_a_model_without_berts_names_is_refused(learned, tmp_path):
    (tmp_path / "spiece.model").write_bytes(learned["sentence_piece"].vocabulary_bytes())
    with pytest.raises(ValueError, match=r"Missing: \[PAD\], \[UNK\], \[CLS\], \[SEP\]"):
        text.load_pretrained_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="Expected `mask_id` in 0 .. .*Received: 9973"):
        text.SentencePieceTokenizer(learned["sentence_piece"].vocabulary_bytes(), mask_id=9973)


def test_mutated_models_are_read_or_refused(kobert, rng):
    refused = 0
    for _ in range(211):
        content = bytearray(kobert)
        for place in rng.integers(0, len(kobert), 3):
            content[place] = rng.integers(256)
        content = content[: rng.integers(1, len(kobert))] if rng.random() < 0.5 else content
        try:
            text.SentencePieceTokenizer(bytes(content))
        except ValueError as error:
            refused += 1
            assert "SentencePiece model" in str(error) or "Expected `" in str(error)
    assert 53 < refused < 211


def with_table(proto, table, field=3):
    """The model with a table by which characters are normalized, as a last part of its message."""

    def part(number, content):
        size = len(content)
        size = [size & 127 | 128, size >> 7 & 127 | 128, size >> 14]
        return bytes([number << 3 | 2, *size]) + content

    return proto + part(field, part(2, table))


UNITS = 256
TABLES = {  # the size, the units of a trie, the texts that it leads to
    "no trie": (0, [], b"abc\0"),
    "shorter than its size": (2**32 - 1, [0] * UNITS, b"abc\0"),
    "a size of half a unit": (4 * UNITS - 2, [0] * UNITS, b"abc\0"),
    "no texts": (4 * UNITS, [0] * UNITS, b""),
    "texts without an end": (4 * UNITS, [0] * UNITS, b"abc"),
    "a child far away": (4 * UNITS, [0x7FFFFC00] * UNITS, b"abc\0"),
    "a root that is a value": (4 * UNITS, [2**32 - 1] + [0] * (UNITS - 1), b"abc\0"),
    "a text far away": (4 * UNITS, [0x100] + [0x80000004] * (UNITS - 1), b"abc\0"),
    "a trie that ends early": (4 * (UNITS - 1), [0] * (UNITS - 1), b"abc\0"),
}


@pytest.mark.parametrize("field", [3, 5], ids=["normalizer", "denormalizer"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_characters_leads_nowhere_else(name, field, kobert, tmp_path):
    """TensorFlow's reader would follow it beyond its end, and the process would end."""
    size, units, texts = TABLES[name]
    table = struct.pack(f"<I{len(units)}I", size, *units) + texts
    good = with_table(kobert, struct.pack("<I", 1024) + bytes(1024) + b"abc\0", field)
    for proto in (with_table(kobert, table, field), with_table(good, table, field)):
        (tmp_path / "spiece.model").write_bytes(proto)
        with pytest.raises(ValueError, match="its table of characters"):
            text.load_pretrained_tokenizer(tmp_path)
    hidden = with_table(with_table(kobert, table, field), b"", field)  # by an empty one behind it
    (tmp_path / "spiece.model").write_bytes(hidden)
    with pytest.raises(ValueError, match="its table of characters"):
        text.load_pretrained_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(good)
    assert text.load_pretrained_tokenizer(tmp_path).vocab_size == 97
