"""Rows of words for ELMo: what is in them, what is cut, and where labels go."""

import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import text

SPECIAL = ["[PAD]", "[UNK]", "[START]", "[END]"]
TEXTS = ["the dog, barks loudly.", "", "한국 the"]
SPLIT = [["the", "dog", ",", "barks", "loudly", "."], [], ["한국", "the"]]
KEPT = [row[:5] for row in SPLIT]
M, C = 5, 11


@pytest.fixture(scope="module")
def tokenizer():
    return text.WordTokenizer([*SPECIAL, "the", "dog", "barks", ","])


def ragged(rows):
    rows = [[word.encode() for word in row] for row in rows]
    return tf.ragged.constant(rows, tf.string, ragged_rank=1)


def test_texts_become_characters():
    packer = text.WordPacker(M, max_characters=C, report_truncation=True)
    assert packer.max_length == M
    packed = packer(tf.constant(TEXTS))
    expected = text.words_to_characters(ragged(KEPT), max_characters=C)
    np.testing.assert_array_equal(packed["character_ids"], expected)
    mask = [[1, 1, 1, 1, 1], [0] * 5, [1, 1, 0, 0, 0]]
    assert packed["attention_mask"].numpy().tolist() == mask
    assert packed["truncated"].numpy().tolist() == [True, False, False]
    assert set(packed) == {"character_ids", "attention_mask", "truncated"}
    dtypes = [packed[k].dtype for k in ("character_ids", "attention_mask", "truncated")]
    assert dtypes == [tf.int32, tf.int32, tf.bool]


def test_texts_become_ids(tokenizer):
    packed = text.WordPacker(M, tokenizer=tokenizer)(tf.constant(TEXTS))
    assert packed["token_ids"].numpy().tolist() == [[4, 5, 7, 6, 1], [0] * 5, [1, 4, 0, 0, 0]]
    assert packed["token_ids"].dtype == tf.int32 and set(packed) == {"token_ids", "attention_mask"}


def test_the_split_is_the_one_that_was_named(tokenizer):
    packer = text.WordPacker(M, tokenizer=tokenizer, split="whitespace")
    assert packer(tf.constant(["the dog, dog"]))["token_ids"].numpy().tolist() == [[4, 1, 5]]
    words, starts, ends = packer.split_words(tf.constant(["the dog, 한"]))
    assert words.to_list() == [[b"the", b"dog,", "한".encode()]]
    assert (starts.to_list(), ends.to_list()) == ([[0, 4, 9]], [[3, 8, 10]])


@pytest.mark.parametrize("texts", [[""], [" ", "\t"], []])
def test_rows_without_words_are_padding(texts, tokenizer):
    texts = tf.constant(texts, tf.string)
    packed = text.WordPacker(M, max_characters=C)(texts)
    assert packed["character_ids"].shape == (len(texts), 1, C)
    assert not packed["character_ids"].numpy().any() and not packed["attention_mask"].numpy().any()
    packed = text.WordPacker(M, tokenizer=tokenizer)(texts)
    assert packed["token_ids"].shape == (len(texts), 1)


@pytest.mark.slow
def test_shapes_are_static_where_all_rows_are_filled(tokenizer):
    signature = [tf.TensorSpec([None], tf.string)]
    for config in ({"max_characters": C}, {"tokenizer": tokenizer}):
        packer = text.WordPacker(7, pad_to_max_length=True, split="whitespace", **config)
        graph = tf.function(packer, input_signature=signature).get_concrete_function()
        shapes = {k: tuple(v.shape) for k, v in graph.structured_outputs.items()}
        ids = {"token_ids": (None, 7)} if "tokenizer" in config else {"character_ids": (None, 7, C)}
        assert shapes == {**ids, "attention_mask": (None, 7)}
        mask = graph(tf.constant(TEXTS))["attention_mask"]
        assert mask.numpy().sum(axis=1).tolist() == [4, 0, 2]


@pytest.mark.parametrize("words, width", [(0, 3), (3, 3), (4, 6), (7, 6)])
def test_rows_are_as_long_as_the_next_multiple(words, width, tokenizer):
    for vocabulary, name in ((None, "character_ids"), (tokenizer, "token_ids")):
        packer = text.WordPacker(6, max_characters=5, tokenizer=vocabulary, pad_to_multiple_of=3)
        packed = packer(tf.constant(["a " * words]))
        assert packed[name].shape[:2] == packed["attention_mask"].shape == (1, width)
        assert packed["attention_mask"].numpy().sum() == min(words, 6)
    with pytest.raises(ValueError, match="`max_words` must be a multiple .*max_words=7"):
        text.WordPacker(7, pad_to_multiple_of=3)


def test_words_have_the_positions_of_their_labels(tokenizer):
    packer = text.WordPacker(M, tokenizer=tokenizer)
    packed = packer.pack_words(ragged(SPLIT))
    np.testing.assert_array_equal(packed["token_ids"], packer(tf.constant(TEXTS))["token_ids"])
    positions = packed["word_positions"]
    assert positions.dtype == tf.int32
    assert positions.numpy().tolist() == [
        [0, 1, 2, 3, 4, -1],
        [-2] * 6,
        [0, 1, -2, -2, -2, -2],
    ]
    labels = tf.ragged.constant([[2, 3, 5, 7, 11, 13], [], [17, 19]])
    spread = text.spread_word_labels(labels, positions, M, ignore_id=-1)
    assert spread.numpy().tolist() == [[2, 3, 5, 7, 11], [-1] * 5, [17, 19, -1, -1, -1]]
    with pytest.raises(tf.errors.InvalidArgumentError, match="a label for each word"):
        text.spread_word_labels(labels[:, :1], positions, M, ignore_id=-1)
    dense = packer.pack_words(ragged(SPLIT).to_tensor(""))
    for key, value in packed.items():
        np.testing.assert_array_equal(dense[key], value)


def test_words_that_are_empty_keep_their_places():
    packed = text.WordPacker(M, max_characters=C).pack_words(tf.constant([["a", "", "b", ""]]))
    assert packed["word_positions"].numpy().tolist() == [[0, 1, 2, -2]]
    assert packed["attention_mask"].numpy().tolist() == [[1, 1, 1]]
    assert packed["character_ids"][0, 1, :3].numpy().tolist() == [259, 260, 261]


def test_no_rows_of_words_have_no_positions():
    packer = text.WordPacker(M, max_characters=C)
    for words in (ragged([]), tf.zeros([0, 3], tf.string)):
        packed = packer.pack_words(words)
        assert packed["word_positions"].shape[0] == 0
        assert packed["character_ids"].shape == (0, 1, C)


@pytest.mark.parametrize("stride", [2, None, 5])
def test_long_texts_are_read_in_windows(stride, tokenizer):
    rows = [[f"w{i}" for i in range(count)] for count in (13, 0, 5, 1, 6)]
    packed = text.WordPacker(M, max_characters=C).pack_word_windows(ragged(rows), stride)
    assert set(packed) == {"character_ids", "attention_mask", "word_windows", "word_positions"}
    first, step = 0, stride or 2
    places = zip(packed["word_windows"].to_list(), packed["word_positions"].to_list())
    for row, (windows, positions) in zip(rows, places):
        begins = [0]
        while begins[-1] + M < len(row):
            begins.append(begins[-1] + step)
        for number, begin in enumerate(begins, first):
            part = row[begin : begin + M]
            assert packed["attention_mask"][number].numpy().sum() == len(part)
            expected = text.words_to_characters(ragged([part]), max_characters=C)[0]
            found = packed["character_ids"][number, : len(part)]
            np.testing.assert_array_equal(found, expected)

        def around(place, begin, last=begins[-1]):  # beyond the ends of a text nothing is missing
            sides = place - begin if begin else 99, begin + M - 1 - place if begin < last else 99
            return min(sides)

        for place, (window, position) in enumerate(zip(windows, positions)):
            assert begins[window - first] + position == place
            fitting = [begin for begin in begins if begin <= place < begin + M]
            most = max(around(place, begin) for begin in fitting)
            assert around(place, begins[window - first]) == most
        first += len(begins)
    assert len(packed["attention_mask"]) == first
    with pytest.raises(ValueError, match="`stride` must be an integer in 1 .. 5"):
        text.WordPacker(M, tokenizer=tokenizer).pack_word_windows(ragged(rows), M + 1)


def test_what_does_not_fit_is_refused():
    for arguments, message in (
        ({"max_words": 0}, "`max_words` must be .*Received: 0"),
        ({"max_characters": 2}, "`max_characters` must be .*Received: 2"),
        ({"split": "x"}, "`split` must be one of .*Received: 'x'"),
        ({"tokenizer": text.ByteTokenizer()}, "Expected a `WordTokenizer`.*Received: ByteTok"),
    ):
        with pytest.raises(ValueError, match=message):
            text.WordPacker(**{"max_words": M, **arguments})
    packer = text.WordPacker(M)
    with pytest.raises(ValueError, match="strings of rank 1 as `texts`"):
        packer([["a"]])
    with pytest.raises(ValueError, match="strings of rank 2 as `words`"):
        packer.pack_words(["a"])


def test_a_packer_divides_texts_as_its_vocabulary_does():
    vocabulary = ["[PAD]", "[UNK]", "[START]", "[END]", "don't", "stop."]
    tokenizer = text.WordTokenizer(vocabulary, split="whitespace")
    packer = text.WordPacker(8, tokenizer=tokenizer)
    assert packer(tf.constant(["don't stop."]))["token_ids"].numpy().tolist() == [[4, 5]]
    packer = text.WordPacker(8, tokenizer=tokenizer, split="bert")
    assert packer(tf.constant(["don't stop."]))["token_ids"].numpy().tolist() == [[1] * 5]


@pytest.mark.parametrize("split", ["whitespace", "bert", "characters"])
def test_what_stands_behind_a_nul_is_read(split):
    words, starts, ends = text.WordPacker(8, split=split).split_words(tf.constant([b"a \x00 b"]))
    assert words.to_list()[0][-1] == b"b"
    assert (starts.to_list()[0][-1], ends.to_list()[0][-1]) == (4, 5)
