"""Overlapping windows over rows of ids that are longer than a model reads at once.

B batch, R windows, C ids of a row
"""

import typing

import tensorflow as tf

from keras_xfmr.text.ragged import owners, stretches


class Windows(typing.NamedTuple):
    """The windows of all rows, one row after the other.

    Attributes:
        ids: ragged `[R, (T)]`.
        row: int32 `[R]`, the row of each window.
        first: int64 `[R]`, where in its row a window begins.
        count: int64 `[B]`, windows of each row.
        cut: bool `[B]`, whether ids of the row are in no window.
    """

    ids: tf.RaggedTensor
    row: tf.Tensor
    first: tf.Tensor
    count: tf.Tensor
    cut: tf.Tensor


def cut_windows(ids, room, stride, most=None):
    """Windows of M = `room` ids, each of which begins `stride` ids after the one before.

    A row of C ids has 1 + ceil((C - M) / stride) windows (Devlin et al. 2019, section 4.2, as in
    its code), and `most` at most.

    Args:
        ids: ragged `[B, (C)]`.
        room: M, an integer, or int64 `[B]`, one for each row.
        stride: at most M.
        most: the most windows of a row; the ids behind them are left out. None: no limit.

    Returns:
        `Windows`.
    """
    length = ids.row_lengths()
    room = tf.broadcast_to(tf.cast(room, length.dtype), tf.shape(length))
    needed = 1 + (tf.maximum(length - room, 0) + stride - 1) // stride
    count = needed if most is None else tf.minimum(needed, most)
    row = owners(count)
    first = tf.ragged.range(count).flat_values * stride
    size = tf.minimum(tf.gather(room, row), tf.gather(length, row) - first)
    begin = tf.gather(ids.row_starts(), row) + first
    return Windows(stretches(ids.values, begin, size), row, first, count, count < needed)
