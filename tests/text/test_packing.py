"""Packing: BERT's inputs by hand and by its own loop, words and their labels."""

import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import models, text

# Padding is not 0, the start token is not 2.
VOCABULARY = ["[UNK]", "[PAD]", "a", "b", "##a", "[CLS]", "##b", "[MASK]", "[SEP]", "c"]
UNKNOWN, PAD, A, B, XA, CLS, XB, MASK, SEP, C = range(10)


@pytest.fixture(scope="module")
def tokenizer():
    return text.BertTokenizer(VOCABULARY)


def rows(packed):
    return {name: value.numpy().tolist() for name, value in packed.items()}


# ---- by hand


def test_one_sentence_by_hand(tokenizer):
    packed = text.SentencePacker(tokenizer, 7)(tf.constant(["ab c", "", "b"]))
    assert rows(packed) == {
        "token_ids": [[CLS, A, XB, C, SEP], [CLS, SEP, *[PAD] * 3], [CLS, B, SEP, PAD, PAD]],
        "segment_ids": [[0] * 5] * 3,
        "attention_mask": [[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]],
    }
    assert {value.dtype for value in packed.values()} == {tf.int32}


def test_two_sentences_by_hand(tokenizer):
    packer = text.SentencePacker(tokenizer, 8, pad_to_max_length=True, report_truncation=True)
    first = tf.constant(["ab c", "c", "a b c a b c", "a b c a b c"])
    second = tf.constant(["b", "", "b b b b b", "c"])
    assert rows(packer(first, second)) == {
        "token_ids": [
            [CLS, A, XB, C, SEP, B, SEP, PAD],
            [CLS, C, SEP, SEP, *[PAD] * 4],
            [CLS, A, B, C, SEP, B, B, SEP],
            [CLS, A, B, C, A, SEP, C, SEP],
        ],
        "segment_ids": [
            [0, 0, 0, 0, 0, 1, 1, 0],
            [0, 0, 0, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 1, 1, 1],
            [0, 0, 0, 0, 0, 0, 1, 1],
        ],
        "attention_mask": [[1] * 7 + [0], [1] * 4 + [0] * 4, [1] * 8, [1] * 8],
        "truncated": [False, False, True, True],
    }


def test_one_kind_of_segment_has_pairs_too(tokenizer):
    first, second = tf.constant(["ab c", "c"]), tf.constant(["b", ""])
    two = text.SentencePacker(tokenizer, 11)(first, second)
    one = text.SentencePacker(tokenizer, 11, type_vocab_size=1)(first, second)
    assert rows(one) == {**rows(two), "segment_ids": [[0] * 7] * 2}
    bert = models.Bert(
        10, d_model=6, num_heads=3, ffn_dim=5, num_layers=1, max_length=11, type_vocab_size=1,
        pad_token_id=PAD,
    )  # fmt: skip
    classifier = models.Classifier(bert, 2)
    without = {name: one[name] for name in ("token_ids", "attention_mask")}
    np.testing.assert_array_equal(classifier(one), classifier(without))
    with pytest.raises(ValueError, match="must lie in 0 .. 0 .packers take type_vocab_size=1"):
        classifier(rows(two))


@pytest.mark.parametrize("longest, width", [(1, 4), (2, 4), (3, 8), (9, 12), (23, 12)])
def test_rows_are_as_long_as_the_next_multiple(longest, width, tokenizer):
    packer = text.SentencePacker(tokenizer, 12, pad_to_multiple_of=4)
    texts = tf.constant(["a " * longest, "b"])
    plain, padded = text.SentencePacker(tokenizer, 12)(texts), packer(texts)
    size = plain["token_ids"].shape[1]
    for name, padding in (("token_ids", PAD), ("segment_ids", 0), ("attention_mask", 0)):
        found = padded[name].numpy()
        assert found.shape == (2, width) and (found[:, size:] == padding).all()
        np.testing.assert_array_equal(found[:, :size], plain[name])
    if longest == 9:
        words = tf.RaggedTensor.from_row_lengths(["a"] * 23, [20, 3])
        assert packer.pack_word_windows(words)["token_ids"].shape[1] == 12
        assert packer(tf.constant([], tf.string))["token_ids"].shape == (0, 4)


# ---- by BERT's own loop


def truncate_seq_pair(first, second, room):
    """google-research/bert, run_classifier.py."""
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()


@pytest.mark.parametrize("max_length", [3, 4, 5, 11, 12, 31])
def test_pairs_are_cut_as_by_berts_loop(tokenizer, max_length, rng):
    names = np.array(["a", "b", "c"])
    words = [[names[rng.integers(3, size=rng.integers(17))] for _ in range(199)] for _ in "ab"]
    texts = [tf.constant([" ".join(row) for row in side]) for side in words]
    packer = text.SentencePacker(tokenizer, max_length, report_truncation=True)
    packed = rows(packer(*texts))
    ids = {"a": A, "b": B, "c": C}
    width, cut = 0, []
    for index, pair in enumerate(zip(*words)):
        first, second = ([ids[word] for word in side] for side in pair)
        truncate_seq_pair(first, second, max_length - 3)
        cut.append(len(first) + len(second) < sum(map(len, pair)))
        row, segments = [CLS, *first, SEP, *second, SEP], [0] * (len(first) + 2)
        found = packed["attention_mask"][index]
        assert found == [1] * len(row) + [0] * (len(found) - len(row))
        assert packed["token_ids"][index] == row + [PAD] * (len(found) - len(row))
        segments += [1] * (len(row) - len(segments)) + [0] * (len(found) - len(row))
        assert packed["segment_ids"][index] == segments
        width = max(width, len(row))
    assert len(packed["token_ids"][0]) == width
    assert packed["truncated"] == cut and any(cut)


def test_pairs_are_those_of_the_peer():
    peer = pytest.importorskip("tokenizers")
    model = peer.models.WordPiece({t: i for i, t in enumerate(VOCABULARY)}, unk_token="[UNK]")
    reference = peer.Tokenizer(model)
    reference.normalizer = peer.normalizers.BertNormalizer()
    reference.pre_tokenizer = peer.pre_tokenizers.BertPreTokenizer()
    reference.post_processor = peer.processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    reference.enable_padding(pad_id=PAD, pad_token="[PAD]", length=13)
    pairs = [("ab c", "B a!"), ("", "c"), ("x", ""), ("aab bab", "c c c c")]
    packer = text.SentencePacker(text.BertTokenizer(VOCABULARY), 13, pad_to_max_length=True)
    packed = rows(packer(*(tf.constant(side) for side in zip(*pairs))))
    expected = reference.encode_batch(pairs)
    assert packed["token_ids"] == [e.ids for e in expected]
    assert packed["segment_ids"] == [e.type_ids for e in expected]
    assert packed["attention_mask"] == [e.attention_mask for e in expected]


# ---- words


def test_words_by_hand(tokenizer):
    packer = text.SentencePacker(tokenizer, 7, report_truncation=True)
    words = tf.ragged.constant([["ab", "\u200b", "c", "x-b", "a"], ["bab"], []])
    expected = {
        "token_ids": [
            [CLS, A, XB, C, UNKNOWN, UNKNOWN, SEP],
            [CLS, B, XA, XB, SEP, PAD, PAD],
            [CLS, SEP, *[PAD] * 5],
        ],
        "segment_ids": [[0] * 7] * 3,
        "attention_mask": [[1] * 7, [1] * 5 + [0] * 2, [1, 1, 0, 0, 0, 0, 0]],
        # Nothing is left of a blank; of "x-b" the first pieces are; "a" is cut away.
        "word_positions": [[1, -1, 3, 4, -1], [1, -2, -2, -2, -2], [-2] * 5],
        "truncated": [True, False, False],
    }
    packed = packer.pack_words(words)
    assert rows(packed) == expected
    dense = rows(packer.pack_words(words.to_tensor("")))
    expected["word_positions"][1:] = [[1, -1, -1, -1, -1], [-1] * 5]  # where rows end is not known
    assert dense == expected
    assert packed["word_positions"].dtype == tf.int32


def test_labels_go_to_first_pieces(tokenizer):
    packer = text.SentencePacker(tokenizer, 7)
    words = tf.ragged.constant([["ab", "", "c", "x-b", "a"], ["bab"], []])
    labels = tf.ragged.constant([[11, 12, 13, 14, 15], [16], []])
    packed = packer.pack_words(words)
    for given in (labels, labels.to_tensor(0)):
        found = text.spread_word_labels(given, packed["word_positions"], 7, ignore_id=-3)
        assert found.numpy().tolist() == [
            [-3, 11, -3, 13, 14, -3, -3],
            [-3, 16, *[-3] * 5],
            [-3] * 7,
        ]
        assert found.dtype == tf.int32


def test_words_and_pieces_agree_on_random_rows(tokenizer, rng):
    letters = np.array(list("abcx"))
    words = [
        ["".join(letters[rng.integers(4, size=rng.integers(1, 5))]) for _ in range(n)]
        for n in rng.integers(0, 11, 97)
    ]
    packer = text.SentencePacker(tokenizer, 13)
    packed = rows(packer.pack_words(tf.ragged.constant(words)))
    for index, row in enumerate(words):
        position = 1
        for place, word in enumerate(row):
            pieces = tokenizer.tokenize(tf.constant([word])).to_list()[0]
            expected = position if position < 12 else -1
            assert packed["word_positions"][index][place] == expected
            if expected > 0:
                assert packed["token_ids"][index][position] == pieces[0]
            position += len(pieces)


# ---- shapes, graphs, errors


def test_an_empty_batch_stays_empty(tokenizer):
    packer = text.SentencePacker(tokenizer, 7, pad_to_max_length=True)
    nothing = tf.constant([], tf.string)
    for packed in (packer(nothing), packer(nothing, nothing)):
        assert {value.shape for value in packed.values()} == {(0, 7)}
    words = tf.ragged.constant([], dtype=tf.string, ragged_rank=1)
    assert packer.pack_words(words)["word_positions"].shape == (0, 0)


def test_the_length_is_static_where_asked(tokenizer):
    data = tf.data.Dataset.from_tensor_slices(["a", "b c"]).batch(2)
    for static, length in ((True, 7), (False, None)):
        packer = text.SentencePacker(tokenizer, 7, pad_to_max_length=static)
        for spec in data.map(packer).element_spec.values():
            assert spec.shape.as_list() == [None, length]
        (packed,) = data.map(packer)
        assert rows(packed) == rows(packer(tf.constant(["a", "b c"])))


def test_a_saved_model_packs_alike(tokenizer, tmp_path):
    sentence_piece = text.learn_bert_sentence_piece(
        tf.data.Dataset.from_tensor_slices(["ab ba abba c"] * 7), 17
    )
    archive = tf.Module()
    archive.packers = [
        text.SentencePacker(kind, 11, report_truncation=True)
        for kind in (tokenizer, sentence_piece)
    ]
    spec = tf.TensorSpec([None], tf.string)
    archive.pair = tf.function(lambda a, b: [p(a, b) for p in archive.packers], [spec, spec])
    archive.words = tf.function(
        lambda words: [p.pack_words(words) for p in archive.packers],
        [tf.TensorSpec([None, None], tf.string)],
    )
    pair = tf.constant(["ab c", "abba abba", ""]), tf.constant(["c", "abba ba c ab", "b"])
    words = tf.constant([["ab", "c", ""], ["abba", "abba", "ba"]])
    tf.saved_model.save(archive, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for found, expected in (
        (loaded.pair(*pair), archive.pair(*pair)),
        (loaded.words(words), archive.words(words)),
    ):
        assert [rows(packed) for packed in found] == [rows(packed) for packed in expected]


# ---- texts with blanks


def test_masks_in_a_text_by_hand(tokenizer):
    packer = text.SentencePacker(tokenizer, 7, report_truncation=True)
    texts = ["ab [MASK] c", "[MASK]", "", "[MASK][MASK]a", "a b c ab[MASK]", "[mask]"]
    packed = rows(packer.pack_masked(tf.constant(texts)))
    assert packed["token_ids"] == [
        [CLS, A, XB, MASK, C, SEP, PAD],
        [CLS, MASK, SEP, *[PAD] * 4],
        [CLS, SEP, *[PAD] * 5],
        [CLS, MASK, MASK, A, SEP, PAD, PAD],
        [CLS, A, B, C, A, XB, SEP],
        [CLS, UNKNOWN, UNKNOWN, UNKNOWN, SEP, PAD, PAD],
    ]
    assert packed["masked_positions"] == [[3, 0], [1, 0], [0, 0], [1, 2], [0, 0], [0, 0]]
    assert packed["truncated"] == [False] * 4 + [True, False]
    assert [sum(mask) for mask in packed["attention_mask"]] == [6, 3, 2, 5, 7, 5]
    plain = packer.pack_masked(tf.constant(["ab", "c"]))
    np.testing.assert_array_equal(plain.pop("masked_positions"), [[0], [0]])
    assert rows(plain) == rows(packer(tf.constant(["ab", "c"])))


def test_masks_need_a_mask_token():
    packer = text.SentencePacker(text.ByteTokenizer(), 7)
    with pytest.raises(ValueError, match="mask token. Received: ByteTokenizer with mask_id=None"):
        packer.pack_masked(tf.constant(["[MASK]"]))


@pytest.mark.parametrize("max_length", [2, 0, -7, 7.0, None])
def test_a_length_that_holds_nothing_is_refused(tokenizer, max_length):
    with pytest.raises(ValueError, match="`max_length` must be .*Received: "):
        text.SentencePacker(tokenizer, max_length)


def test_a_length_that_is_no_multiple_is_refused(tokenizer):
    message = "`max_length` must be a multiple .* such as 88 or 96. Received: max_length=89"
    with pytest.raises(ValueError, match=message):
        text.SentencePacker(tokenizer, 89, pad_to_multiple_of=8)
    for wrong in (0, 2.5):
        with pytest.raises(ValueError, match=f"`pad_to_multiple_of` must be .*Received: {wrong}"):
            text.SentencePacker(tokenizer, 89, pad_to_multiple_of=wrong)
    with pytest.raises(ValueError, match="`type_vocab_size` must be .*Received: 0"):
        text.SentencePacker(tokenizer, 89, type_vocab_size=0)


def test_what_is_no_batch_of_strings_is_refused(tokenizer):
    packer = text.SentencePacker(tokenizer, 7)
    with pytest.raises(ValueError, match="Expected strings of rank 1 as `first`.*int32"):
        packer(tf.constant([3]))
    with pytest.raises(ValueError, match="Expected strings of rank 1 as `second`.*shape"):
        packer(tf.constant(["a"]), tf.constant("a"))
    with pytest.raises(ValueError, match="Expected strings of rank 2 as `words`"):
        packer.pack_words(tf.constant(["a"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have the same number of rows"):
        packer(tf.constant(["a"]), tf.constant(["a", "b"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected a label for each word"):
        text.spread_word_labels(tf.constant([[3, 5]]), tf.constant([[1]]), 7, ignore_id=-1)
    words = tf.ragged.constant([["a"], ["a", "b"]])
    positions = packer.pack_words(words)["word_positions"]
    for labels in ([[1], [2]], [[1, 2], [3]], [[1, 2], [3, 4]], [[], [1, 2]]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected a label for each word"):
            text.spread_word_labels(tf.ragged.constant(labels, tf.int32), positions, 7, ignore_id=0)
