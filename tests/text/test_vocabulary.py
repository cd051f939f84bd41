"""Vocabularies are learned from text, all of it; without any there is an error."""

import bz2
import re

import pytest
import tensorflow as tf

from keras_xfmr import text
from keras_xfmr.text.tokenizers import sampling as module

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


@pytest.mark.parametrize("nothing", ["\u3000", "\u200b\x07", "\u00ad\u2028"])
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
    for size in (0, -1, 2.5, 3, 4):
        with pytest.raises(ValueError, match="`vocab_size` must be an integer, at least [56]"):
            learn(lines, size)


def test_characters_that_are_all_too_rare_are_an_error():
    lines = tf.data.Dataset.from_tensor_slices(["a text"])
    with pytest.raises(ValueError, match="occurs at least 3 times.*Received: min_count=3"):
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


# ---- lines of any length

SENTENCE_PIECE = (text.learn_sentence_piece, text.learn_bert_sentence_piece)


@pytest.mark.parametrize("learn", SENTENCE_PIECE)
def test_a_paragraph_a_line_teaches_what_its_words_do(learn, tmp_path, rng):
    lexicon = ("나는 나를 너는 너를 우리는 우리를 학교에 학교에서 간다 갔다 먹는다 먹었다").split()
    words = rng.choice(lexicon, 1009).tolist()
    paragraphs = [" ".join(words[i : i + 503]) for i in range(0, 1009, 503)]
    assert len(paragraphs[0].encode()) > 4192  # what SentencePiece would leave out
    (tmp_path / "words.txt").write_text("\n".join(words), "utf8")
    (tmp_path / "paragraphs.txt").write_text("\n".join(paragraphs), "utf8")
    one, other = (
        learn(tmp_path / name, 41, model_type="bpe")  # which counts words, wherever they stand
        for name in ("words.txt", "paragraphs.txt")
    )
    assert other.vocab_size == 41 and set(other.get_vocabulary()) == set(one.get_vocabulary())


@pytest.mark.parametrize("learn", SENTENCE_PIECE)
@pytest.mark.parametrize("before", ["", "x", "xx", "짧은 줄\n"])
def test_a_long_line_without_a_blank_is_cut_between_characters(learn, before, tmp_path):
    syllables = "".join(map(chr, range(0xAC00, 0xAC00 + 47))) * 97  # of three bytes each
    (tmp_path / "a.txt").write_text(before + syllables, "utf8")
    tokenizer = learn(tmp_path / "a.txt", 113)
    ids = tokenizer.tokenize([syllables])
    assert tokenizer.unknown_id not in ids.to_list()[0]
    assert not {"\ufffd", "\u00ea"} & set("".join(tokenizer.get_vocabulary()))


def test_a_kind_of_model_that_is_none_is_an_error():
    lines = tf.data.Dataset.from_tensor_slices(["a text"])
    for learn in SENTENCE_PIECE:
        with pytest.raises(ValueError, match="`model_type` must be one of .*Received: 'bbpe'"):
            learn(lines, 40, model_type="bbpe")


# ---- files that are no UTF-8


@pytest.mark.parametrize("learn", LEARN.values(), ids=LEARN)
def test_a_line_in_another_encoding_is_named(learn, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LINES", 2)
    (tmp_path / "good.txt").write_text("좋은 줄\n" * 7, "utf8")
    (tmp_path / "bad.txt").write_bytes(b"ok\n\nok\n" + "안녕 세계\n".encode("cp949"))
    message = re.escape(f"{tmp_path / 'bad.txt'}:4: not valid UTF-8") + ".*Documents.*'skip'"
    with pytest.raises(ValueError, match=message):
        learn([tmp_path / "good.txt", tmp_path / "bad.txt"])
    lines = tf.data.Dataset.from_tensor_slices([b"ok", b"\n", b"ok \xff"])
    with pytest.raises(ValueError, match="the data set:3: not valid UTF-8"):
        learn(lines)


@pytest.mark.parametrize("learn", LEARN.values(), ids=LEARN)
def test_a_data_set_of_something_else_than_strings_is_refused(learn):
    texts = tf.data.Dataset.from_tensor_slices(["a text", "another"])
    for data in (texts.batch(2), texts.map(lambda x: (x, x)), tf.data.Dataset.range(3)):
        with pytest.raises(ValueError, match="Expected a data set of single strings.*elements"):
            learn(data)


@pytest.mark.parametrize("learn", LEARN.values(), ids=LEARN)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(encoding, learn, tmp_path):
    for content in ("hello world\r\n" * 9, "안녕 세계\n" * 9):
        (tmp_path / "a.txt").write_bytes(content.encode(encoding))
        with pytest.raises(ValueError, match="a.txt looks like UTF-16.*iconv -f UTF-16"):
            learn(tmp_path / "a.txt")


def test_a_nul_character_among_much_text_is_named_with_its_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"much text\n" * 101 + b"a\0b\n")
    with pytest.raises(ValueError, match="a.txt:102: not valid UTF-8, or with a NUL"):
        text.learn_characters(tmp_path / "a.txt")


def test_what_the_advice_says_leaves_bad_lines_out(tmp_path):
    (tmp_path / "a.txt").write_bytes("가나\n".encode() * 5 + "다라\n".encode("cp949"))
    documents = text.Documents(tmp_path / "a.txt", on_bad_line="skip")
    assert text.learn_characters(documents.sentences()).get_vocabulary()[4:] == ["가", "나"]
    assert documents.skipped["utf8"] == 1


def test_a_packed_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "a.txt.bz2").write_bytes(bz2.compress(b"a text\n" * 9))
    with pytest.raises(ValueError, match="a.txt.bz2 is packed by bzip2.*bunzip2"):
        text.learn_characters(tmp_path / "a.txt.bz2")
    with pytest.raises(FileNotFoundError, match="No text file at .*Received: a folder"):
        text.learn_characters(tmp_path)


# ---- the sample


def test_each_file_has_its_share_of_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_LINES", 101)
    monkeypatch.setattr(module, "LINES", 7)
    lines = {"a": 211, "b": 3, "c": 97, "d": 199}
    for letter, count in lines.items():
        (tmp_path / letter).write_text(f"{letter}\n" * count)
    files = [tmp_path / letter for letter in lines]

    def kept(min_count):
        return text.learn_characters(files, min_count=min_count).get_vocabulary()[4:]

    # 101 lines: 3 of b; of the others at least 4 * 7 each, and nothing beyond the sample.
    assert kept(3) == ["a", "b", "c", "d"] and kept(28) == ["a", "c", "d"]
    with pytest.raises(ValueError, match="at least 43 times among the 4 of the text"):
        kept(43)


def test_no_more_than_the_sample_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_LINES", 5)
    (tmp_path / "a.txt").write_text("a\n" * 5 + "b\n" * 5)
    lines = tf.data.TextLineDataset(str(tmp_path / "a.txt"))
    for texts in (tmp_path / "a.txt", lines):
        assert text.learn_characters(texts).get_vocabulary()[4:] == ["a"]
