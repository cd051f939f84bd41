"""What a service is sent: checked, and bounded, before a model reads it."""

import tensorflow as tf

from keras_xfmr.text.words import as_utf8

CHARACTERS_A_PIECE = 16  # of a text are read for each piece that a model can read
CHARACTERS_A_PIECE_OF_CONTEXT = 8  # of a long text, where that is still more than any language has
ROWS_AT_ONCE = 16  # that a model reads where one text may become many rows


def cut_text(texts, most):
    """The first `most` Unicode characters of each text, and which texts lost their end.

    Bytes that are no UTF-8 become U+FFFD.

    A request may hold texts of any size, and a tokenizer takes many times the memory of its text.

    Args:
        texts: strings `[B]`.
        most: an integer.

    Returns:
        Strings `[B]` and bool `[B]`.
    """
    kept = as_utf8(tf.strings.substr(texts, 0, 4 * most))  # a character has 4 bytes at most
    cut = tf.logical_or(
        tf.strings.length(texts) > 4 * most, tf.strings.length(kept, unit="UTF8_CHAR") > most
    )
    return tf.strings.substr(kept, 0, most, unit="UTF8_CHAR"), cut


def cut_beginning(texts, most):
    """As `cut_text`, the last `most` characters, and which texts lost their beginning."""
    first = tf.maximum(tf.strings.length(texts) - 4 * most, 0)
    # A character that the cut divides becomes more than `most`, and is left out below.
    kept = as_utf8(tf.strings.substr(texts, first, tf.fill(tf.shape(first), 4 * most)))
    more = tf.maximum(tf.strings.length(kept, unit="UTF8_CHAR") - most, 0)
    kept = tf.strings.substr(kept, more, tf.fill(tf.shape(more), most), unit="UTF8_CHAR")
    return kept, tf.logical_or(first > 0, more > 0)


def in_parts(function, inputs, rows=ROWS_AT_ONCE):
    """`function(inputs)`, for a fixed number of rows at a time.

    So the memory of a request does not grow with the number of windows of a text.

    Args:
        function: from named tensors `[R, ...]` to named tensors `[R, ...]`.
        inputs: name -> tensor `[R, ...]`.
        rows: how many rows the function reads at once.
    """
    names = list(inputs)
    specs = [tf.TensorSpec([None, *inputs[name].shape[1:]], inputs[name].dtype) for name in names]
    part = tf.function(
        lambda *values: function(dict(zip(names, values))), input_signature=specs, autograph=False
    ).get_concrete_function()
    total = tf.shape(inputs[names[0]])[0]
    count = tf.maximum((total + rows - 1) // rows, 1)  # the function runs once for no rows, too
    found = {
        name: tf.TensorArray(spec.dtype, count, infer_shape=False, element_shape=spec.shape)
        for name, spec in part.structured_outputs.items()
    }

    def step(i, found):
        answers = part(*(inputs[name][i * rows : (i + 1) * rows] for name in names))
        return i + 1, {name: array.write(i, answers[name]) for name, array in found.items()}

    _, found = tf.while_loop(
        lambda i, _: i < count, step, (0, found), parallel_iterations=1, maximum_iterations=count
    )
    return {name: array.concat() for name, array in found.items()}


def same_rows(*texts):
    """The tensors, of which each has as many rows as the others.

    Raises:
        tf.errors.InvalidArgumentError: another number of them.
    """
    first, *others = (tf.shape(text)[0] for text in texts)
    message = "Expected as many rows in each input."
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
    return refuse(values, tf.logical_or(values < 0, values >= size), message)


def refuse(values, wrong, message):
    """The values, none of which is wrong.

    Raises:
        tf.errors.InvalidArgumentError: one is.
    """
    with tf.control_dependencies(_operations([_refuse(wrong, values, message)])):
        return tf.identity(values)


def read_up_to(token_ids, lengths, longest, *, vocab_size, pad_id, name="token_ids"):
    """The first `lengths` ids of each row, padding behind them.

    Args:
        token_ids, lengths, longest, name: see `first_of_rows`.
        vocab_size: ids lie below it.
        pad_id: what is put behind a row's length.

    Returns:
        What `first_of_rows` returns.

    Raises:
        tf.errors.InvalidArgumentError: as of `first_of_rows`; an id outside the vocabulary, where
            a compiled search would read another row, and a GPU zeros.
    """
    token_ids, mask = first_of_rows(token_ids, lengths, longest, pad_id, name)
    message = f"Expected ids in 0 .. {vocab_size - 1}, the rows of the model's table."
    return inside(token_ids, vocab_size, message), mask


def first_of_rows(values, lengths, longest, padding, name):
    """The first `lengths` values of each row, `padding` behind them.

    Args:
        values: `[B, S]` or `[B, S, C]`; what stands behind a row's length is not looked at.
        lengths: `[B]`.
        longest: the most values of a row.
        padding: what is put there.
        name: of the values, for messages.

    Returns:
        The values, and a mask of ones and zeros, int32, both as wide as the values are, `longest`
        at most: a server may have padded them beyond that.

    Raises:
        tf.errors.InvalidArgumentError: another number of lengths than of rows; a length below 0,
            beyond the values or `longest`.
    """
    rows = tf.shape(values)[0], tf.shape(lengths)[0]
    width = tf.shape(values, lengths.dtype)[1]
    message = f"Expected each of `lengths` in 0 .. the width of `{name}`."
    checks = [
        tf.debugging.assert_equal(*rows, f"Expected a length for each row of `{name}`."),
        _refuse(tf.logical_or(lengths < 0, lengths > width), lengths, message),
    ]
    message = f"Expected `lengths` of at most {longest}, which the service reads."
    checks.append(_refuse(lengths > longest, lengths, message))
    values = values[:, :longest]
    # Or what follows might run first, and fail with a message of its own.
    with tf.control_dependencies(_operations(checks)):
        mask = tf.sequence_mask(lengths, tf.shape(values)[1])
    shown = mask if values.shape.rank == 2 else mask[:, :, None]
    return tf.where(shown, values, padding), tf.cast(mask, tf.int32)


def _refuse(wrong, values, message):
    """The check that no value is wrong; it names the first few that are."""
    named = [message, "Received:", tf.boolean_mask(values, wrong)[:5]]
    return tf.debugging.Assert(tf.logical_not(tf.reduce_any(wrong)), named)


def _operations(checks):
    """Those of a graph; in eager execution a check has raised by now."""
    return [check for check in checks if check is not None]
