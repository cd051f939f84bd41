"""`mask_tokens`: how many, which, and what stands in their place."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr.text.data.masking import mask_tokens

MASK, VOCABULARY = 4, 8009
ROWS, LENGTH = 2003, 61


@pytest.fixture
def rows(rng):
    """Ids 7 .. 8008 whose candidates are the places 1 .. n, n from 0 to 59."""
    ids = rng.integers(7, VOCABULARY, (ROWS, LENGTH)).astype("int32")
    counts = rng.integers(0, LENGTH - 1, ROWS)
    places = np.arange(LENGTH)
    return ids, (places >= 1) & (places <= counts[:, None])


def hide(ids, candidates, seed=(5, 0), **options):
    options = {"max_predictions": 11, "replacements": np.arange(7, VOCABULARY), **options}
    found = mask_tokens(ids, candidates, seed, mask_id=MASK, pad_id=1, **options)
    return [value.numpy() for value in found]


def test_what_is_given_back_fits_together(rows):
    ids, candidates = rows
    hidden, positions, labels = hide(ids, candidates)
    assert hidden.dtype == positions.dtype == labels.dtype == "int32"
    assert hidden.shape == ids.shape and positions.shape == labels.shape == (ROWS, 11)
    for row in range(ROWS):
        n = candidates[row].sum()
        # min(max_predictions, max(1, round(0.15 n))), but a row without candidates has none.
        expected = min(11, max(1, round(0.15 * n)), n)
        used, rest = positions[row, :expected], positions[row, expected:]
        assert list(used) == sorted(set(used)) and candidates[row, used].all()
        np.testing.assert_array_equal(labels[row, :expected], ids[row, used])
        np.testing.assert_array_equal(labels[row, expected:], 1)
        np.testing.assert_array_equal(rest, 0)
        untouched = np.delete(np.arange(LENGTH), used)
        np.testing.assert_array_equal(hidden[row, untouched], ids[row, untouched])


def test_eighty_ten_ten(rng):
    ids = rng.integers(7, VOCABULARY, (ROWS, LENGTH)).astype("int32")
    replacements = np.arange(101, 601)
    hidden, positions, labels = hide(
        ids, ids > 0, max_predictions=30, replacements=replacements, mask_rate=0.5
    )
    now = np.take_along_axis(hidden, positions, axis=1)
    masked, kept = now == MASK, now == labels
    other = now[~masked & ~kept]
    assert labels.size == ROWS * 30
    # Five standard deviations; a random id is the same one by chance with 1 / 8002.
    assert abs(masked.mean() - 0.8) < 0.009
    assert abs(kept.mean() - 0.1) < 0.007 and abs(other.size / labels.size - 0.1) < 0.007
    assert np.isin(other, replacements).all()
    assert len(np.unique(other)) == 500
    assert abs(other.mean() - 350) < 10  # the mean of 6,000 has a deviation of 1.9


def test_every_candidate_is_chosen_equally_often(rng):
    candidates = np.tile(rng.random(LENGTH) < 0.7, (ROWS * 5, 1))
    ids = np.full(candidates.shape, 7, "int32")
    _, positions, labels = hide(ids, candidates)
    n = candidates[0].sum()
    share = round(0.15 * n) / n
    shares = np.bincount(positions[labels == 7], minlength=LENGTH) / len(ids)
    np.testing.assert_allclose(shares, np.where(candidates[0], share, 0), atol=0.02)


def test_the_seed_decides(rows):
    first = hide(*rows)
    keras.utils.set_random_seed(1009)
    for one, other in zip(first, hide(*rows)):
        np.testing.assert_array_equal(one, other)
    for seed in ((5, 1), (6, 0)):
        same = hide(*rows, seed=seed)[1] == first[1]
        assert np.mean(same[first[2] != 1]) < 0.3  # by chance, most of it in short rows


def test_more_places_than_tokens():
    hidden, positions, labels = hide([[7, 8, 9]], [[True] * 3], mask_rate=1.0)
    assert positions.tolist() == [[0, 1, 2] + [0] * 8] and labels.tolist() == [[7, 8, 9] + [1] * 8]
    assert hidden.shape == (1, 3)


# ---- whole words


def words_of(candidates, continues):
    """Lists of places, one for each word of a row."""
    words = []
    for place in np.flatnonzero(candidates):
        if continues[place] and words and words[-1][-1] == place - 1:
            words[-1].append(int(place))
        else:
            words.append([int(place)])
    return words


@pytest.mark.parametrize("rate, most", [(0.15, 11), (0.4, 7), (1.0, 61)])
def test_words_are_chosen_whole_while_they_fit(rate, most, rows, rng):
    ids, candidates = rows
    candidates = candidates & (rng.random(candidates.shape) < 0.95)  # special tokens among them
    continues = rng.random(candidates.shape) < 0.5
    _, positions, labels = hide(
        ids, candidates, continues=continues, mask_rate=rate, max_predictions=most
    )
    fewer = 0
    for row in range(ROWS):
        chosen = set(positions[row][labels[row] != 1].tolist())
        n = candidates[row].sum()
        left = min(most, max(1, round(float(np.float32(rate) * np.float32(n)))), n) - len(chosen)
        assert left >= 0
        fewer += left > 0
        for word in words_of(candidates[row], continues[row]):
            taken = chosen.intersection(word)
            assert taken in (set(), set(word))
            # Whatever was passed over did not fit, so it does not fit what is left at the end.
            assert taken or len(word) > left
    assert fewer < ROWS / 4


def test_every_word_comes_first_equally_often():
    ids = np.full((10_007, 6), 7, "int32")
    continues = np.tile([False, False, True, False, True, True], (10_007, 1))
    _, positions, labels = hide(ids, ids > 0, continues=continues, mask_rate=0.5)
    # Three of six: the word of three, or those of one and two, whichever of the three is first.
    assert np.all((labels != 1).sum(axis=1) == 3)
    assert abs(np.mean(positions[:, 0] == 3) - 1 / 3) < 0.024  # five standard deviations


def test_words_of_one_token_are_tokens(rows):
    ids, candidates = rows
    for one, other in zip(hide(ids, candidates), hide(ids, candidates, continues=ids < 0)):
        np.testing.assert_array_equal(one, other)


def test_no_word_may_fit():
    continues = [[False, True, True]]
    hidden, positions, labels = hide([[7, 8, 9]], [[True] * 3], continues=continues)
    assert hidden.tolist() == [[7, 8, 9]] and set(labels[0]) == {1} and set(positions[0]) == {0}


@pytest.mark.parametrize(
    "options", [{"mask_rate": 0.0}, {"mask_rate": 1.5}, {"max_predictions": 0}]
)
def test_arguments_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must"):
        hide([[7]], [[True]], **options)


def test_inside_a_graph_of_unknown_shape(rows):
    ids, candidates = (tf.constant(value) for value in rows)
    signature = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.bool)]
    options = {"mask_id": MASK, "replacements": tf.range(7, VOCABULARY), "max_predictions": 11}
    graph = tf.function(
        lambda i, c: mask_tokens(i, c, (5, 0), pad_id=1, **options), input_signature=signature
    )
    for one, other in zip(hide(ids, candidates), graph(ids, candidates)):
        np.testing.assert_array_equal(one, other)
