"""Vocabularies are learned from text; without any there is an error."""

import pytest
import tensorflow as tf

from keras_xfmr import text

LEARN = {
    "word_piece": lambda texts: text.learn_word_piece(texts, 40),
    "sentence_piece": lambda texts: text.learn_sentence_piece(texts, 40),
    "bert_word_piece": lambda texts: text.learn_bert_word_piece(texts, 40),
    "bert_sentence_piece": lambda texts: text.learn_bert_sentence_piece(texts, 40),
    "characters": text.learn_characters,
}


@pytest.mark.parametrize("learn", LEARN.values(), ids=LEARN)
def test_no_text_is_an_error(learn, tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text("\n \n")
    for texts in ([path], path, [], tf.data.Dataset.from_tensor_slices(["", " "])):
        with pytest.raises(ValueError, match="Expected text to learn a vocabulary from. Received"):
            learn(texts)


@pytest.mark.parametrize("nothing", ["\u3000", "\u200b\x07"])
@pytest.mark.parametrize("name", [name for name in LEARN if name != "characters"])
def test_text_without_a_visible_character_is_an_error(name, nothing):
    lines = tf.data.Dataset.from_tensor_slices([nothing] * 3)
    with pytest.raises(ValueError, match="Expected text .*Received: none, in the data set"):
        LEARN[name](lines)


@pytest.mark.parametrize("learn", [
    text.learn_word_piece, text.learn_bert_word_piece, text.learn_sentence_piece,
    text.learn_bert_sentence_piece,
])  # fmt: skip
def test_a_size_that_is_none_is_an_error(learn):
    lines = tf.data.Dataset.from_tensor_slices(["a text"])
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match="`vocab_size` must be an integer, at least 1"):
            learn(lines, size)


def test_characters_that_are_all_too_rare_are_an_error():
    lines = tf.data.Dataset.from_tensor_slices(["a text"])
    with pytest.raises(ValueError, match="stands at least 3 times.*Received: min_count=3"):
        text.learn_characters(lines, min_count=3)


@pytest.mark.parametrize("learn", [text.learn_sentence_piece, text.learn_bert_sentence_piece])
def test_fewer_pieces_than_characters_are_an_error(learn):
    lines = tf.data.Dataset.from_tensor_slices(["가나다라마바사아자차카타파하 abcdefghijk"] * 9)
    with pytest.raises(ValueError, match="`vocab_size` must be at least [234].*Received: 12"):
        learn(lines, 12)


def test_a_byte_order_mark_is_no_character(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbfab\n")
    tokenizer = text.learn_characters([tmp_path / "a.txt", tmp_path / "b.txt"])
    assert tokenizer.get_vocabulary()[4:] == ["a", "b"]


def test_lines_that_a_carriage_return_ends_are_an_error(tmp_path):
    (tmp_path / "mac.txt").write_bytes(b"a\rb\r")
    with pytest.raises(ValueError, match="mac.txt has a carriage return inside a line, at byte 1"):
        text.learn_characters(tmp_path / "mac.txt")


def test_a_vocabulary_is_learned_from_the_first_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_xfmr.text.vocabulary.SAMPLE_LINES", 2)
    (tmp_path / "a.txt").write_text("a\nb\nc\n")
    for texts in (tmp_path / "a.txt", tf.data.Dataset.from_tensor_slices(["a", "b", "c"])):
        assert text.learn_characters(texts).get_vocabulary()[4:] == ["a", "b"]


@pytest.mark.parametrize("learn", [text.learn_sentence_piece, text.learn_bert_sentence_piece])
def test_sentence_pieces_are_of_the_case_and_the_kind_asked_for(learn):
    lines = tf.data.Dataset.from_tensor_slices(["The DOG ran", "the dog RAN"] * 9)
    upper, lower = tf.constant(["THE DOG"]), tf.constant(["the dog"])
    for lowercase in (True, False):
        tokenizer = learn(lines, 60, lowercase=lowercase)
        ids = [tokenizer.tokenize(texts).to_list() for texts in (upper, lower)]
        assert (ids[0] == ids[1]) is lowercase
    pieces = learn(lines, 60, model_type="char").get_vocabulary()[5:]
    assert pieces and all(len(piece) == 1 for piece in pieces)


def test_word_pieces_for_bert_keep_how_they_were_cut():
    config = {"lowercase": True, "strip_accents": False, "split_cjk": False}
    lines = tf.data.Dataset.from_tensor_slices(["Déjà 東京"] * 9)
    tokenizer = text.learn_bert_word_piece(lines, 60, **config)
    assert tokenizer.get_config() == config
