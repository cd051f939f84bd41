"""A few sizes for the inputs of compiled functions, which are compiled once for each size.

B batch, S length
"""

import tensorflow as tf

LEAST_WIDTH = 16  # a search over fewer tokens is hardly faster
ROWS = [0, *(2**i for i in range(31))]


def sizes_up_to(most, least=LEAST_WIDTH):
    """The powers of 2 from `least` on that are below `most`, and `most`."""
    sizes = []
    while least < most:
        sizes.append(least)
        least *= 2
    return [*sizes, most]


def first_that_holds(size, sizes):
    """The first of the ascending sizes that is not below a scalar; the last, where all are."""
    below = tf.constant(sizes) < tf.cast(size, tf.int32)
    place = tf.reduce_sum(tf.cast(below, tf.int32))
    return tf.gather(sizes, tf.minimum(place, len(sizes) - 1))


def of_width(ids, width, padding):
    """Ids `[B, S]`, cut or padded to `[B, width]`."""
    ids = ids[:, :width]
    return tf.pad(ids, [[0, 0], [0, width - tf.shape(ids)[1]]], constant_values=padding)


def rows_of_few_sizes(inputs):
    """Tensors `[B, ...]` with their last rows again behind them, up to the next power of 2.

    The last row and no empty one: a search that would go on for an empty row ends with the others.
    """
    rows = tf.shape(inputs[0])[0]
    places = tf.minimum(tf.range(first_that_holds(rows, ROWS)), rows - 1)
    return [tf.gather(values, places) for values in inputs]
