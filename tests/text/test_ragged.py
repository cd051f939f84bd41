"""Rows that are cut and joined, against lists."""

import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr.text import ragged

ROWS = [[5, 7, 11], [], [13], [17, 19]]
OTHERS = [[], [2], [3, 23], [29]]


def rows_of(rows, splits="int64"):
    return tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1, row_splits_dtype=splits)


def test_a_row_begins_where_it_did_and_ends_sooner():
    found = ragged.take_first(rows_of(ROWS), [2, 0, 1, 0])
    assert found.to_list() == [[5, 7], [], [13], []]


def test_stretches_may_overlap():
    begin, size = tf.constant([0, 1, 1]), tf.constant([3, 2, 0])
    found = ragged.stretches(tf.constant([2, 3, 5, 7, 11]), begin, size)
    assert found.to_list() == [[2, 3, 5], [3, 5], []]


@pytest.mark.parametrize("splits", ["int32", "int64"])
def test_rows_and_entries_are_joined_in_order(splits):
    found = ragged.join(rows_of(ROWS, splits), [31, 37, 41, 43], rows_of(OTHERS, splits))
    assert found.to_list() == [
        [*row, entry, *other] for row, entry, other in zip(ROWS, [31, 37, 41, 43], OTHERS)
    ]
    assert found.dtype == tf.int32 and found.row_splits.dtype == tf.int64


def test_what_has_another_number_of_rows_is_not_joined():
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        ragged.join(rows_of(ROWS), [31, 37, 41])


@pytest.mark.parametrize("counts", [[2, 0, 3, 0], [0, 0], [5], []])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_each_entry_has_its_row(counts, dtype):
    found = ragged.owners(tf.constant(counts, dtype))
    np.testing.assert_array_equal(found, np.repeat(np.arange(len(counts)), counts))


def test_parts_of_entries_become_rows():
    found = ragged.merge(rows_of([[0, 0], [], [0, 0]]), rows_of([[5, 7], [2], [], [11]]))
    assert found.to_list() == [[5, 7, 2], [], [11]]


def test_no_rows_become_none():
    none = rows_of([])
    assert ragged.take_first(none, tf.constant([], tf.int64)).to_list() == []
    assert ragged.join(none, tf.constant([], tf.int32)).to_list() == []
    assert ragged.merge(none, rows_of([])).to_list() == []
