"""Checks of data before a model reads it."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_xfmr.common.checks import check_int

MOST_PLACES = 10**8  # of a shuffle's buffer: 2.5 GB, before the first row is read


def check_ids(vocab_size: int, name: str = "token_ids") -> Callable[[Any], Any]:
    """A function for `Dataset.map` that returns ids unchanged, or fails if one is out of range.

    Inside a compiled step an id outside the table silently reads another row or zeros, and a label
    outside the classes makes the loss NaN. The input pipeline runs before that step, on the CPU,
    and can raise an error.

    Args:
        vocab_size: the allowed ids are 0 .. vocab_size - 1; for labels, the number of classes.
        name: the name of the ids in the error message.

    Returns:
        A function that takes a tensor, a ragged tensor or a nest of them, and returns the same.

    Raises:
        ValueError: ids that are not integers.
        tf.errors.InvalidArgumentError: from the data set's iterator, with the bad range.

    Example:

    >>> data = tf.data.Dataset.from_tensor_slices([[5, 7]]).map(check_ids(8))
    """
    advice = " Is this the tokenizer that the model was built for?" if "ids" in name else ""

    def check_one(ids):
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(check_one(ids.flat_values))
        ids = tf.convert_to_tensor(ids)
        if not ids.dtype.is_integer:
            raise ValueError(f"{name} must be integers. Received: dtype {ids.dtype.name}.")
        values = tf.cast(ids, tf.int64)  # a smaller type may not hold the size
        low, high = tf.reduce_min(values), tf.reduce_max(values)
        inside = tf.logical_and(low >= 0, high < vocab_size)
        message = tf.strings.format(
            f"{name} must lie in 0 .. {vocab_size - 1} (vocab_size={vocab_size}). Received: ids "
            f"from {{}} to {{}}.{advice}",
            (low, high),
        )
        check = tf.debugging.Assert(tf.logical_or(inside, tf.equal(tf.size(ids), 0)), [message])
        with tf.control_dependencies([check]):
            return tf.identity(ids)

    @tf.autograph.experimental.do_not_convert
    def check(*elements):
        checked = tf.nest.map_structure(check_one, elements)
        return checked[0] if len(checked) == 1 else checked

    return check


def check_shuffle_buffer(places):
    """Refuses a value that is not a number of rows, or that needs too much memory."""
    check_int("shuffle_buffer", places, 0, MOST_PLACES)


def as_strings(texts):
    """The tensor of strings `[B]` of a tensor or a list.

    Raises:
        ValueError: something else, such as one string alone.
    """
    try:
        strings = tf.convert_to_tensor(texts, tf.string)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected strings [B]. Received: {texts!r}.") from error
    if strings.shape.rank not in (1, None):
        raise ValueError(
            f"Expected strings [B], such as tf.constant(['a text']). Received: {texts!r} of shape "
            f"{strings.shape}."
        )
    return strings


def check_strings(texts, name, rank):
    """`texts` as a tensor of strings, dense or ragged, of this rank.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(texts, tf.RaggedTensor):
        texts = tf.convert_to_tensor(texts)
    if texts.dtype != tf.string or texts.shape.rank != rank:
        raise ValueError(
            f"Expected strings of rank {rank} as `{name}`. Received: {texts.dtype.name} of shape "
            f"{texts.shape}."
        )
    return texts
