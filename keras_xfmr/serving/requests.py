"""Checks and bounds requests before a model reads them."""

import tensorflow as tf

from keras_xfmr.text.words import as_utf8

CHARACTERS_A_PIECE = 16  # of a text are read for each piece that the model can read
CHARACTERS_A_PIECE_OF_CONTEXT = 8  # of a long text; no language has so many
ROWS_AT_ONCE = 16  # that a model reads at once if one text may become many rows


def cut_text(texts, most):
    """The first `most` Unicode characters of each text, and which texts lost their end.

    Bytes that are not UTF-8 become U+FFFD.

    A request may have texts of any size, and a tokenizer needs many times the memory of its text.

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
    # A character that the cut divides is one more than `most`, and is left out below.
    kept = as_utf8(tf.strings.substr(texts, first, tf.fill(tf.shape(first), 4 * most)))
    more = tf.maximum(tf.strings.length(kept, unit="UTF8_CHAR") - most, 0)
    kept = tf.strings.substr(kept, more, tf.fill(tf.shape(more), most), unit="UTF8_CHAR")
    return kept, tf.logical_or(first > 0, more > 0)


def in_parts(function, inputs, rows=ROWS_AT_ONCE):
    """`function(inputs)`, for a fixed number of rows at a time.

    The memory of a request then does not grow with the number of windows of a text.

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
    count = tf.maximum((total + rows - 1) // rows, 1)  # the function also runs once for no rows
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
    """The tensors, checked to have equally many rows.

    Raises:
        tf.errors.InvalidArgumentError: the numbers of rows differ.
    """
    first, *others = (tf.shape(text)[0] for text in texts)
    message = "Expected as many rows in each input."
    checks = [tf.debugging.assert_equal(first, other, message) for other in others]
    with tf.control_dependencies(_operations(checks)):
        return [tf.identity(text) for text in texts]


def rows_inside(values, size):
    """Bool `[B]`, whether all integers of a row lie in 0 .. size - 1."""
    return rows_with(tf.logical_and(values >= 0, values < size))


def rows_with(right):
    """Bool `[B]`, whether all values of a row are right."""
    return tf.reduce_all(right, axis=list(range(1, right.shape.rank)))


def where_rows(valid, values, others):
    """The values of valid rows; `others` for the rest."""
    return tf.where(tf.reshape(valid, [-1] + [1] * (values.shape.rank - 1)), values, others)


def answer_by_rows(endpoints):
    """The endpoints, so that each also returns `valid [B]`.

    A server joins the requests of several clients to one batch, so an error would fail all of them.
    A row that a model cannot read returns empty strings, zeros and False instead, and the other
    rows do not change.

    Args:
        endpoints: name -> (function, input signature). A function returns `valid` if a row of its
            inputs may be wrong.
    """

    def answering(function):
        def answer(*inputs):
            found = dict(function(*inputs))
            valid = found.pop("valid", None)
            if valid is None:
                valid = tf.fill(tf.shape(next(iter(found.values())))[:1], True)
            else:
                found = {
                    name: where_rows(valid, values, tf.zeros_like(values))
                    for name, values in found.items()
                }
            return {**found, "valid": valid}

        return answer

    return {name: (answering(one), signature) for name, (one, signature) in endpoints.items()}


def read_up_to(token_ids, lengths, longest, *, vocab_size, pad_id, name="token_ids"):
    """The first `lengths` ids of each row, padding behind them.

    Args:
        token_ids, lengths, longest, name: see `first_of_rows`.
        vocab_size: ids must be below it. For others, a lookup fails for the whole batch, a compiled
            search reads another row, and a GPU reads zeros.
        pad_id: the id after a row's length.

    Returns:
        What `first_of_rows` returns; a row with an id outside the vocabulary is also not valid.
    """
    token_ids, mask, valid = first_of_rows(token_ids, lengths, longest, pad_id, name)
    known = rows_inside(token_ids, vocab_size)
    token_ids, mask = where_rows(known, token_ids, pad_id), where_rows(known, mask, 0)
    return token_ids, mask, tf.logical_and(valid, known)


def first_of_rows(values, lengths, longest, padding, name):
    """The first `lengths` values of each row, `padding` behind them.

    Args:
        values: `[B, S]` or `[B, S, C]`; values after a row's length are ignored.
        lengths: `[B]`.
        longest: the most values of a row.
        padding: the value after a row's length.
        name: of the values, for messages.

    Returns:
        The values and a mask of ones and zeros, int32, both of the width of the values, at most
        `longest`, because a server may pad beyond it; and bool `[B]`, which rows are valid. The
        length of a valid row is in 0 .. the width of the values, and at most `longest`. Other rows
        get the length 0.

    Raises:
        tf.errors.InvalidArgumentError: the numbers of lengths and rows differ.
    """
    rows = tf.shape(values)[0], tf.shape(lengths)[0]
    check = tf.debugging.assert_equal(*rows, f"Expected a length for each row of `{name}`.")
    values = values[:, :longest]
    width = tf.shape(values, lengths.dtype)[1]
    # Without this, later operations might run first, and fail with their own message.
    with tf.control_dependencies(_operations([check])):
        valid = tf.logical_and(lengths >= 0, lengths <= width)
    mask = tf.sequence_mask(tf.where(valid, lengths, 0), width)
    shown = mask if values.shape.rank == 2 else tf.expand_dims(mask, 2)
    return tf.where(shown, values, padding), tf.cast(mask, tf.int32), valid


def _operations(checks):
    """The operations of a graph; in eager execution a check has already raised."""
    return [check for check in checks if check is not None]
