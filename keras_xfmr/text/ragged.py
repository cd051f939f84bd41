"""Rows of ids, cut and joined.

This is arithmetic on the positions of the rows in the flat values. TensorFlow's `tf.concat`, slices
and `tf.ragged.boolean_mask` add hundreds of operations to every graph that reads text.

B batch, T length
"""

import tensorflow as tf


def stretches(values, begin, size):
    """`values[begin[n] : begin[n] + size[n]]` as row n of a ragged tensor."""
    places = tf.ragged.range(begin, begin + size)
    return places.with_values(tf.gather(values, places.values))


def take_first(rows, size):
    """The first `size[b]` entries of row b; each row has at least as many."""
    return stretches(rows.values, rows.row_starts(), size)


def take_last(rows, size):
    """The last `size[b]` entries of row b; each row has at least as many."""
    return stretches(rows.values, rows.row_limits() - size, size)


def sizes_of_words(words):
    """How many words the rows of dense `[B, W]` have: empty strings at a row's end are padding."""
    place = tf.range(1, tf.shape(words)[1] + 1)
    last = tf.reduce_max(tf.where(tf.equal(words, ""), 0, place), axis=1)
    return tf.maximum(last, 0)  # of a row without columns it is the least integer


def owners(counts):
    """The row of each entry, for rows of `counts [B]` entries: b repeated `counts[b]` times, int32.

    `tf.repeat`, and so `RaggedTensor.value_rowids`, takes as much memory for every row as for the
    longest one.
    """
    return tf.searchsorted(tf.cumsum(counts), tf.range(tf.reduce_sum(counts)), side="right")


def join(*parts):
    """Ragged `[B, (T)]`: row b of each part, one after the other.

    Args:
        *parts: ragged `[B, (T)]`, or dense `[B]`, an entry for each row.
    """
    begin, size, before = [], [], 0
    for part in parts:
        if isinstance(part, tf.RaggedTensor):
            starts, sizes = part.row_starts(), part.row_lengths()
        else:
            starts = tf.range(tf.size(part, tf.int64))
            sizes = tf.ones_like(starts)
        begin.append(before + tf.cast(starts, tf.int64))
        size.append(tf.cast(sizes, tf.int64))
        before += tf.size(_flat(part), tf.int64)
    begin, size = tf.stack(begin, axis=1), tf.stack(size, axis=1)
    values = tf.concat([_flat(part) for part in parts], axis=0)
    joined = stretches(values, tf.reshape(begin, [-1]), tf.reshape(size, [-1]))
    sizes = tf.reduce_sum(size, axis=1)
    return tf.RaggedTensor.from_row_lengths(joined.values, sizes, validate=False)


def merge(rows, parts):
    """Ragged `[B, (T)]`: joins the rows of `parts`, ragged `[N, (t)]`. Row n of `parts` belongs to
    entry n of `rows`, ragged `[B, (n)]`."""
    splits = tf.gather(parts.row_splits, rows.row_splits)
    return tf.RaggedTensor.from_row_splits(parts.values, splits, validate=False)


def _flat(part):
    return part.values if isinstance(part, tf.RaggedTensor) else part
