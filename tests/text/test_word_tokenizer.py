"""Vocabularies of whole words, and the words that they are learned from."""

import collections

import pytest
import tensorflow as tf
from sentences import SENTENCES, SPECIAL, corpus, same_answers, strings

from keras_xfmr import text
from keras_xfmr.text.tokenizers import learning, sentence_piece_training

WORDS = [*SPECIAL, ".", "the", "dog", "안녕", "세", "don't"]


def ids_of(source, split="bert"):
    return text.WordTokenizer(WORDS, split=split).tokenize(tf.constant([source])).to_list()[0]


def test_words_have_their_ids_and_others_are_unknown():
    assert ids_of("the old dog.안녕") == [5, 1, 6, 4, 7]
    assert ids_of("the don't dog. 안녕", "whitespace") == [5, 9, 1, 7]
    assert ids_of("세 .\u3000s", "characters") == [8, 4, 1]
    assert ids_of("The DOG") == [1, 1]  # as they are spelled
    assert ids_of(b"dog \xff dog", "whitespace") == [6, 1, 6]
    assert ids_of("") == ids_of(" \t") == []


def test_names_of_special_tokens_in_a_text_are_unknown_words():
    assert ids_of(" ".join(SPECIAL), "whitespace") == [1, 1, 1, 1]


def test_words_of_any_shape_are_looked_up():
    tokenizer = text.WordTokenizer(WORDS)
    assert tokenizer.words_to_ids([["dog", ""], ["[PAD]", "the"]]).numpy().tolist() == [
        [6, 1],
        [1, 5],
    ]
    words, starts, ends = tokenizer.split_words(["the dog.", ""])
    assert words.to_list() == [[b"the", b"dog", b"."], []]
    assert starts.to_list() == [[0, 4, 7], []] and ends.to_list() == [[3, 7, 8], []]
    assert tokenizer.words_to_ids(words).to_list() == [[5, 6, 4], []]


def test_ids_become_words_with_blanks_between_them():
    tokenizer = text.WordTokenizer(WORDS)
    assert strings(tokenizer.detokenize([[2, 5, 7, 4, 3, 6], [1, 0, 99, 5, 0, 0]])) == [
        "the 안녕 .",
        "[UNK] [UNK] the",
    ]


@pytest.mark.parametrize("split", ["bert", "whitespace"])
def test_a_saved_tokenizer_loads_as_it_was(split, tmp_path):
    tokenizer = text.learn_words(corpus(), 23, split=split)
    tokenizer.save(tmp_path)
    again = text.load_tokenizer(tmp_path)
    assert type(again) is text.WordTokenizer and again.split == split
    assert again.get_vocabulary() == tokenizer.get_vocabulary()
    same_answers(tokenizer, again)


def test_a_tokenizer_travels_inside_a_saved_model(tmp_path):
    module = tf.Module()
    module.tokenizer = text.WordTokenizer(WORDS, split="whitespace")
    signature = [tf.TensorSpec([None], tf.string)]
    module.ids = tf.function(lambda x: module.tokenizer.tokenize(x).to_tensor(), signature)
    tf.saved_model.save(module, str(tmp_path / "model"))
    again = tf.saved_model.load(str(tmp_path / "model"))
    assert again.ids(tf.constant(["the 안녕 x"])).numpy().tolist() == [[5, 7, 1]]


def test_frequent_words_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "WORD_LINES", 3)
    (tmp_path / "a.txt").write_text("b a 안 c\n\nb é [END]\n[END] [END]\n", "utf8")
    (tmp_path / "b.txt").write_text("🙂 안\nb 🙂 c\uffee\n", "utf8")
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    learned = text.learn_words(files, 1009, split="whitespace").get_vocabulary()
    # Code points, not the 16-bit halves, in which the emoji would be smaller than U+FFEE.
    assert learned == [*SPECIAL, "b", "안", "🙂", "a", "c", "c\uffee", "é"]
    assert text.learn_words(files, 7, split="whitespace").get_vocabulary() == learned[:7]


def test_the_words_that_are_counted_are_those_that_are_looked_up(monkeypatch):
    monkeypatch.setattr(sentence_piece_training, "LONGEST", 29)  # longer lines are cut at blanks
    tokenizer = text.learn_words(corpus(), 1009)
    words = tokenizer.split_words(SENTENCES)[0].flat_values.numpy().tolist()
    counts = collections.Counter(word.decode() for word in words)
    order = sorted(counts, key=lambda word: (-counts[word], word))
    assert tokenizer.get_vocabulary()[4:] == order
    assert 1 not in tokenizer.tokenize(SENTENCES).flat_values.numpy()


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`split` must be one of .*Received: 'blank'"):
        text.WordTokenizer(WORDS, split="blank")
    with pytest.raises(ValueError, match="must begin with"):
        text.WordTokenizer(["a", *SPECIAL])
    with pytest.raises(ValueError, match="`vocab_size` must be .*Received: 4"):
        text.learn_words(corpus(), 4)
    with pytest.raises(ValueError, match="`split` must be one of"):
        text.learn_words(corpus(), 11, split=None)
    with pytest.raises(ValueError, match="Expected strings"):
        text.WordTokenizer(WORDS).split_words("dog")
    (tmp_path / "a.txt").write_bytes("\u200b\n".encode())
    with pytest.raises(ValueError, match="Expected text to learn a vocabulary from"):
        text.learn_words(tmp_path / "a.txt", 11)
    (tmp_path / "a.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(ValueError, match="a.txt:2: not valid UTF-8"):
        text.learn_words(tmp_path / "a.txt", 11)
