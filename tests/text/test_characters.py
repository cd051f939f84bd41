"""Words to characters beside a loop written from bilm-tf's `UnicodeCharsVocabulary`."""

import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import text

C = 11
WORDS = [
    [b"", b"a", "한국어".encode(), b"x" * 200, b"<S>"],
    [],
    ["🙂🙂🙂".encode(), bytes([0, 255, 0]), b"\xff\xfe", b"z" * (C - 2), b"z" * (C - 1)],
    [b"[PAD]"],
]


def characters_of(word, size):
    """bilm-tf: begin of word, at most `size` - 2 bytes, end of word, filling; then one more each,
    so that 0 is free for padding."""
    code = np.full(size, 260)
    word = word[: size - 2]
    code[0] = 258
    for k, byte in enumerate(word, start=1):
        code[k] = byte
    code[len(word) + 1] = 259
    return code + 1


def expected(rows, size):
    ids = np.zeros([len(rows), max(map(len, rows)), size], int)
    for b, row in enumerate(rows):
        for t, word in enumerate(row):
            ids[b, t] = characters_of(word, size)
    return ids


def ragged(rows):
    return tf.ragged.constant(rows, tf.string, ragged_rank=1)


@pytest.mark.parametrize("size", [3, C, 53])
def test_words_have_the_ids_of_bilm(size):
    found = text.words_to_characters(ragged(WORDS), max_characters=size)
    assert found.dtype == tf.int32
    np.testing.assert_array_equal(found, expected(WORDS, size))


def test_empty_strings_at_the_end_of_a_row_are_padding():
    dense = tf.constant([["a", "", "b"], ["c", "", ""], ["", "", ""]])
    found = text.words_to_characters(dense, max_characters=C)
    np.testing.assert_array_equal(found, expected([[b"a", b"", b"b"], [b"c"], []], C))


def test_graphs_and_pipelines_give_the_same():
    spec = tf.RaggedTensorSpec([None, None], tf.string)
    graph = tf.function(text.words_to_characters, input_signature=[spec])
    assert graph.get_concrete_function().output_shapes[2] == 50  # the default
    np.testing.assert_array_equal(graph(ragged(WORDS)), expected(WORDS, 50))
    operations = graph.get_concrete_function().graph.get_operations()
    assert "EagerPyFunc" not in {operation.type for operation in operations}
    data = tf.data.Dataset.from_tensors(ragged(WORDS)).map(text.words_to_characters)
    np.testing.assert_array_equal(next(iter(data)), expected(WORDS, 50))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_no_words_have_no_characters(shape):
    assert text.words_to_characters(tf.zeros(shape, tf.string)).shape == (*shape, 50)


def test_the_markers_are_no_words_of_a_text():
    markers = text.sentence_markers(C)
    assert [m.tolist() for m in markers] == [
        [259, 257, 260, *[261] * 8],
        [259, 258, 260, *[261] * 8],
    ]
    every = tf.constant([[bytes([b]) for b in range(256)] + [b"<S>", b"</S>"]])
    found = text.words_to_characters(every, max_characters=C).numpy()[0]
    assert not any((found == marker).all(axis=1).any() for marker in markers)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`max_characters` must be .*Received: 2"):
        text.words_to_characters([["a"]], max_characters=2)
    with pytest.raises(ValueError, match="`max_characters` must be .*Received: 2"):
        text.sentence_markers(2)
    with pytest.raises(ValueError, match="strings of rank 2 as `words`. Received: string of shape"):
        text.words_to_characters(["a"])
    with pytest.raises(ValueError, match="strings of rank 2 as `words`. Received: int32"):
        text.words_to_characters([[1]])
