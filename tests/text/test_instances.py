"""Where instances begin and end, against google-research/bert's loop over lists of segments."""

import numpy as np
import pytest
import tensorflow as tf
from numbers_corpus import documents_of, random_lengths

from keras_xfmr.text.data.instances import (
    Chunk,
    Ranges,
    make_instances,
    next_sentence,
    one_sequence,
    pack,
    sentence_order,
    truncate,
)

SEED = (17, 3)


def chunk_of(lengths, numbers=None):
    """Lengths of the segments of each document to a `Chunk`."""
    tokens = [t for d in documents_of(lengths) for s in d for t in s]
    flat = [n for document in lengths for n in document]
    last = np.cumsum([len(document) for document in lengths])
    numbers = np.arange(len(lengths)) if numbers is None else numbers
    columns = (tokens, np.cumsum([0, *flat]), last - [len(d) for d in lengths], last, numbers)
    return Chunk(*(tf.constant(column, tf.int32) for column in columns))


def columns(ranges):
    return [tuple(int(v) for v in row) for row in np.stack(ranges, axis=1)]


# ---- by hand

#          tokens of the segments      they begin at         segments
LENGTHS = [[2, 3, 5, 4], [7, 1], [6]]  # 0 2 5 10, 14 21, 22   0-3, 4-5, 6


@pytest.mark.parametrize(
    "step, draws, expected, after",
    [
        # Nine tokens wanted: three, two, one segment in hand. split 0.5: A is the first 2 of 3 -
        # or, of 2, the first 1. coin 0.9: B is the rest; the lone segment has no rest, so its B is
        # from document floor(0.7 * 2) = 1 of the others, from segment floor(0.9 * 2) = 1 on.
        (
            next_sentence,
            (0.5, 0.9, 0.7, 0.9),
            [(0, 5, 5, 10, 0, 1), (14, 21, 21, 22, 0, 1), (22, 28, 21, 22, 1, 1)],
            [3, 6, 7],
        ),
        # coin 0.4: B is random. The others of 0 are 1, 2; of 1: 0, 2; of 2: 0, 1; lender 0.2 takes
        # the first. B has at least 9 - 2, 9 - 7 and 9 - 6 tokens. Segments after A are put back.
        (
            next_sentence,
            (0.1, 0.4, 0.2, 0.0),
            [(0, 2, 14, 21, 1, 1), (14, 21, 0, 2, 1, 1), (22, 28, 0, 5, 1, 1)],
            [1, 5, 7],
        ),
        # The lone segment of 6 tokens is cut after 1 + floor(0.3 * 5) = 2.
        (
            sentence_order,
            (0.5, 0.9, 0.3, 0.0),
            [(0, 5, 5, 10, 0, 1), (14, 21, 21, 22, 0, 1), (22, 24, 24, 28, 0, 1)],
            [3, 6, 7],
        ),
        (
            sentence_order,
            (0.5, 0.4, 0.3, 0.0),
            [(5, 10, 0, 5, 1, 1), (21, 22, 14, 21, 1, 1), (24, 28, 22, 24, 1, 1)],
            [3, 6, 7],
        ),
        # 2 + 3 tokens fit into nine, 2 + 3 + 5 do not.
        (
            one_sequence,
            (0.5, 0.4, 0.3, 0.0),
            [(0, 5, 0, 0, 0, 0), (14, 22, 0, 0, 0, 0), (22, 28, 0, 0, 0, 0)],
            [2, 6, 7],
        ),
    ],
)
def test_steps_by_hand(step, draws, expected, after):
    chunk = chunk_of(LENGTHS)
    draws = [tf.fill([3], d) for d in draws]
    ranges, following = step(chunk, chunk.first, tf.fill([3], 9), draws)
    assert columns(ranges) == expected
    assert following.numpy().tolist() == after


def test_one_token_alone_has_no_order():
    chunk = chunk_of([[1], [2]])
    ranges, _ = sentence_order(chunk, chunk.first, tf.fill([2], 7), [tf.fill([2], 0.1)] * 4)
    assert columns(ranges) == [(0, 1, 1, 1, 0, 0), (2, 3, 1, 2, 1, 1)]


def test_a_part_lends_nothing_to_another_part_of_its_document():
    chunk = chunk_of([[2], [3], [5], [7], [11]], numbers=[13, 7, 13, 7, 13])
    lent = {i: set() for i in range(5)}
    for draw in np.arange(0, 1, 0.01, dtype="float32"):
        for i, other in enumerate(chunk.another(tf.fill([5], draw)).numpy()):
            lent[i].add(int(other))
    assert lent == {0: {1, 3}, 1: {0, 2, 4}, 2: {1, 3}, 3: {0, 2, 4}, 4: {1, 3}}


# ---- against the loop


def draws_of(iteration, documents):
    """The numbers that `make_instances` draws in one iteration, `[6, G]`."""
    return tf.random.stateless_uniform([6, documents], tf.random.fold_in(SEED, iteration)).numpy()


def google(documents, index, size, short_rate):
    """create_instances_from_document, with a length for each instance: (A, B, label) in ids."""
    document, instances, i, chunk, length, target = documents[index], [], 0, [], 0, None
    while i < len(document):
        if target is None:
            draws = draws_of(len(instances), len(documents))[:, index]
            short, where, split, coin, lender, begin = draws
            target = 2 + int(where * np.float32(size - 1)) if short < short_rate else size
        chunk.append(document[i])
        length += len(document[i])
        if i == len(document) - 1 or length >= target:
            end = 1 if len(chunk) == 1 else 1 + int(split * np.float32(len(chunk) - 1))
            a, rest = sum(chunk[:end], []), sum(chunk[end:], [])
            if len(chunk) == 1 or coin < 0.5:
                others = documents[:index] + documents[index + 1 :]
                other = others[int(lender * np.float32(len(others)))]
                b = []
                for segment in other[int(begin * np.float32(len(other))) :]:
                    b += segment
                    if len(b) >= target - len(a):
                        break
                instances.append((a, b, 1))
                i -= len(chunk) - end
            else:
                instances.append((a, rest, 0))
            chunk, length, target = [], 0, None
        i += 1
    return instances


@pytest.mark.parametrize("short_rate", [0.0, 0.3, 1.0])
def test_instances_are_those_of_the_loop(short_rate, rng):
    lengths = random_lengths(rng, documents=31, segments=23, tokens=13)
    chunk, documents = chunk_of(lengths), documents_of(lengths)
    ranges = make_instances(chunk, next_sentence, SEED, size=29, short_rate=short_rate)
    tokens = chunk.tokens.numpy().tolist()
    found = [(tokens[a:b], tokens[c:d], label) for a, b, c, d, label, _ in columns(ranges)]
    expected = [google(documents, i, 29, short_rate) for i in range(len(documents))]
    assert found == sum(expected, [])
    assert {label for _, _, label in found} == {0, 1}


@pytest.mark.parametrize("step", [next_sentence, sentence_order, one_sequence])
def test_every_token_of_a_document_comes_once_in_its_order(step, rng):
    lengths = random_lengths(rng, documents=37, segments=29, tokens=11)
    chunk = chunk_of(lengths)
    at = 0
    for a, b, c, d, label, _ in columns(make_instances(chunk, step, SEED, size=23, short_rate=0.2)):
        if step is next_sentence and label:
            own = [(a, b)]  # what follows A was put back
        else:
            own = sorted(range_ for range_ in ((a, b), (c, d)) if range_[0] < range_[1])
            assert (own[0] != (a, b)) == (step is sentence_order and label == 1)
        for begin, end in own:
            assert begin == at
            at = end
    assert at == len(chunk.tokens)


def test_no_document_has_no_instance():
    chunk = Chunk(*(tf.zeros(n, tf.int32) for n in (0, 1, 0, 0, 0)))
    ranges = make_instances(chunk, next_sentence, SEED, size=23, short_rate=0.2)
    assert columns(ranges) == []


# ---- statistics

DOCUMENT = 1009  # segments of one token in each of many documents


def inner_instances(step, documents, **options):
    """Rows of `Ranges` but those at the end of a document, which may fall short."""
    chunk = chunk_of([[1] * DOCUMENT] * documents)
    rows = columns(make_instances(chunk, step, SEED, **options))
    ends = [
        max(b, d) if step is not next_sentence else a + options["size"] for a, b, _, d, *_ in rows
    ]
    return [row for row, end in zip(rows, ends) if end % DOCUMENT >= row[0] % DOCUMENT]


@pytest.mark.slow
def test_half_of_the_pairs_are_random():
    rows = inner_instances(next_sentence, 13, size=3, short_rate=0.0)
    labels = np.array([label for *_, label, _ in rows])
    assert len(labels) > 5000
    assert abs(labels.mean() - 0.5) < 0.03  # more than four standard deviations of a fair coin


@pytest.mark.slow
def test_lengths_of_short_instances():
    rows = inner_instances(sentence_order, 199, size=11, short_rate=0.25)
    lengths = [b - a + d - c for a, b, c, d, *_ in rows]
    # A tenth of the short ones has the full length: it is drawn from 2 .. 11.
    shares = np.bincount(lengths, minlength=12) / len(lengths)
    np.testing.assert_allclose(shares, [0, 0] + [0.025] * 9 + [0.775], atol=0.008)  # 5 deviations


@pytest.mark.slow
def test_a_is_any_beginning_of_what_is_in_hand():
    rows = inner_instances(sentence_order, 41, size=7, short_rate=0.0)
    one = [d - c if label else b - a for a, b, c, d, label, _ in rows]
    shares = np.bincount(one, minlength=7)[1:] / len(one)
    np.testing.assert_allclose(shares, 1 / 6, atol=0.025)  # 5 deviations


# ---- truncation


def shortened(a, b, size):
    """truncate_seq_pair, without its coin: the lengths that are left."""
    while a + b > size:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    return a, b


def test_pairs_are_shortened_as_by_the_loop(rng):
    lengths = rng.integers(1, 71, (2003, 2)).astype("int32")
    lengths[:50] = 40  # equally long
    zeros = np.zeros(2003, "int32")
    before = Ranges(zeros, lengths[:, 0], zeros + 1000, lengths[:, 1] + 1000, zeros, zeros)
    after = np.stack(truncate(Ranges(*map(tf.constant, before)), 53, SEED))
    a_begin, a_end, b_begin, b_end, *_ = after
    expected = [shortened(a, b, 53) for a, b in lengths]
    np.testing.assert_array_equal(np.stack([a_end - a_begin, b_end - b_begin], axis=1), expected)
    assert np.all(a_begin >= 0) and np.all(a_end <= lengths[:, 0])
    assert np.all(b_begin >= 1000) and np.all(b_end <= lengths[:, 1] + 1000)


def test_tokens_go_from_front_and_back_with_equal_odds():
    rows = 20_011
    zeros, end = tf.zeros(rows, tf.int32), tf.fill([rows], 30)
    ranges = truncate(Ranges(zeros, end, zeros + 100, end + 100, zeros, zeros), 40, SEED)
    for front in (ranges.a_begin.numpy(), ranges.b_begin.numpy() - 100):  # of ten tokens each
        assert front.min() >= 0 and front.max() <= 10
        assert abs(front.mean() - 5) < 0.06  # five standard deviations of the mean
        assert abs(front.var() - 2.5) < 0.13
    a, b = (begin.numpy() for begin in (ranges.a_begin, ranges.b_begin))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.04


# ---- packing


def test_packing_by_hand():
    rows = [(1, 4, 7, 9, 0, 1), (0, 2, 5, 5, 0, 0)]
    ranges = Ranges(*(tf.constant(column) for column in zip(*rows)))
    tokens = tf.range(10, 20)
    packed = pack(tokens, ranges, 11, start_id=2, end_id=3, pad_id=1)
    ids, segments, mask, is_text = (value.numpy().tolist() for value in packed)
    assert ids[0] == [2, 11, 12, 13, 3, 17, 18, 3, 1, 1, 1]
    assert segments[0] == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert mask[0] == [1] * 8 + [0] * 3
    assert is_text[0] == [False, True, True, True, False, True, True] + [False] * 4
    assert ids[1] == [2, 10, 11, 3] + [1] * 7  # B is empty
    assert segments[1] == [0] * 11 and mask[1] == [1] * 4 + [0] * 7
