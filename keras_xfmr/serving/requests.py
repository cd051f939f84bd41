"""What a service is sent, looked at before a model reads it."""

import tensorflow as tf


def same_rows(*texts):
    """The texts, of which each has as many as the others.

    Raises:
        tf.errors.InvalidArgumentError: another number of them.
    """
    first, *others = (tf.shape(text)[0] for text in texts)
    message = "Expected as many texts in each input."
    checks = [tf.debugging.assert_equal(first, other, message) for other in others]
    with tf.control_dependencies(_operations(checks)):
        return [tf.identity(text) for text in texts]


def same_shape(values, others, message):
    """The values, of which there is one for each of the others.

    Raises:
        tf.errors.InvalidArgumentError: the shapes differ.
    """
    alike = tf.reduce_all(tf.equal(tf.shape(values), tf.shape(others)))
    with tf.control_dependencies(_operations([tf.debugging.Assert(alike, [message])])):
        return tf.identity(values)


def inside(values, size, message):
    """The integers, each of which lies in 0 .. size - 1.

    Raises:
        tf.errors.InvalidArgumentError: one does not; a compiled model, or a lookup of what is
            negative, would read another row.
    """
    outside = tf.logical_or(values < 0, values >= size)
    with tf.control_dependencies(_operations([_refuse(outside, values, message)])):
        return tf.identity(values)


def read_up_to(token_ids, lengths, longest, *, vocab_size, pad_id):
    """The first `lengths` ids of each row, padding behind them.

    Args:
        token_ids: `[B, S]`; what stands behind a row's length is not looked at.
        lengths: `[B]`.
        longest: positions of the model, or None where any number will do.
        vocab_size: ids lie below it.
        pad_id: what is put there.

    Returns:
        The ids, and a mask of ones and zeros, int32, both as wide as the ids are, `longest` at
        most: a server may have padded them beyond that.

    Raises:
        tf.errors.InvalidArgumentError: another number of lengths than of rows; a length below 0,
            beyond the ids or `longest`; an id outside the vocabulary, where a compiled search
            would read another row, and a GPU zeros.
    """
    rows = tf.shape(token_ids)[0], tf.shape(lengths)[0]
    width = tf.shape(token_ids, lengths.dtype)[1]
    message = "Expected each of `lengths` in 0 .. the width of `token_ids`."
    checks = [
        tf.debugging.assert_equal(*rows, "Expected a length for each row of ids."),
        _refuse(tf.logical_or(lengths < 0, lengths > width), lengths, message),
    ]
    if longest is not None:
        message = f"Expected `lengths` of at most {longest}, the positions of the model."
        checks.append(_refuse(lengths > longest, lengths, message))
        token_ids = token_ids[:, :longest]
    # Here and below, or what follows might run first, and fail with a message of its own.
    with tf.control_dependencies(_operations(checks)):
        mask = tf.sequence_mask(lengths, tf.shape(token_ids)[1])
    message = f"Expected ids in 0 .. {vocab_size - 1}, the rows of the model's table."
    token_ids = inside(tf.where(mask, token_ids, pad_id), vocab_size, message)
    return token_ids, tf.cast(mask, tf.int32)


def _refuse(wrong, values, message):
    """The check that no value is wrong; it names the first few that are."""
    named = [message, "Received:", tf.boolean_mask(values, wrong)[:5]]
    return tf.debugging.Assert(tf.logical_not(tf.reduce_any(wrong)), named)


def _operations(checks):
    """Those of a graph; in eager execution a check has raised by now."""
    return [check for check in checks if check is not None]
