"""Overlapping windows over rows of ids that are too long for a model.

B batch, R windows, C ids of a row, W words of all rows
"""

import typing

import tensorflow as tf

from keras_xfmr.common.checks import check_int
from keras_xfmr.text.ragged import owners, stretches


class Windows(typing.NamedTuple):
    """The windows of all rows, one row after the other.

    Attributes:
        ids: ragged `[R, (T)]`.
        row: int32 `[R]`, the row of each window.
        first: int64 `[R]`, the begin of each window in its row.
        count: int64 `[B]`, number of windows of each row.
        cut: bool `[B]`, whether some ids of the row are in no window.
    """

    ids: tf.RaggedTensor
    row: tf.Tensor
    first: tf.Tensor
    count: tf.Tensor
    cut: tf.Tensor


def cut_windows(ids, room, stride, most=None):
    """Windows of M = `room` ids; each begins `stride` ids after the one before.

    A row of C ids has 1 + ceil((C - M) / stride) windows (Devlin et al. 2019, section 4.2, as in
    its code), at most `most`.

    Args:
        ids: ragged `[B, (C)]`.
        room: M, an integer, or int64 `[B]`, one for each row.
        stride: at most M.
        most: maximum number of windows of a row; the rest of the ids is left out. None: no limit.

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


def check_stride(stride, room):
    """A stride between windows of `room` ids: None is half of that.

    Raises:
        ValueError: a stride that would leave out ids.
    """
    return check_int("stride", max(room // 2, 1) if stride is None else stride, 1, room)


def windows_of_words(windows, row, place, room, stride):
    """The window of each word, and its position in that window.

    A word belongs to the window with the most context on both sides of it, to the first window if
    two are equal.

    Args:
        windows: `Windows`, without a limit `most`.
        row: int32 `[W]`, the row of each word.
        place: int64 `[W]`, the begin of each word in its row.
        room, stride: as in `cut_windows`.

    Returns:
        int64 `[W]` each: the window, an index of `windows.ids`, and the position in it.
    """
    margin = (room - stride + 1) // 2
    last = tf.gather(windows.count, row) - 1
    window = tf.clip_by_value((place - margin) // stride, 0, last)
    position = place - window * stride
    return window + tf.gather(tf.cumsum(windows.count, exclusive=True), row), position
