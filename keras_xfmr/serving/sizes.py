"""Few sizes for the inputs of compiled functions, which are compiled once for each size.

B batch, S length
"""

import tensorflow as tf

from keras_xfmr.models.core.prompts import round_up

ROWS = [0, *(2**i for i in range(31))]


def sizes_up_to(most):
    """The widths that `generate` pads to, 16, 24, 32, 48 and so on below `most`, and `most`."""
    sizes = [round_up(1, most)]
    while sizes[-1] < most:
        sizes.append(round_up(sizes[-1] + 1, most))
    return sizes


def first_that_holds(size, sizes):
    """The first of the ascending sizes that is not below a scalar; the last if all are below."""
    below = tf.constant(sizes) < tf.cast(size, tf.int32)
    place = tf.reduce_sum(tf.cast(below, tf.int32))
    return tf.gather(sizes, tf.minimum(place, len(sizes) - 1))


def of_width(ids, width, padding):
    """Ids `[B, S]`, cut or padded to `[B, width]`."""
    ids = ids[:, :width]
    return tf.pad(ids, [[0, 0], [0, width - tf.shape(ids)[1]]], constant_values=padding)


def rows_of_few_sizes(inputs):
    """Tensors `[B, ...]` with their last rows repeated, up to the next power of 2.

    It repeats the last row, because an empty row could make a search longer.
    """
    rows = tf.shape(inputs[0])[0]
    places = tf.minimum(tf.range(first_that_holds(rows, ROWS)), rows - 1)
    return [tf.gather(values, places) for values in inputs]
