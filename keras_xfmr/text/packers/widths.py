"""The width of the rows of a batch."""

import tensorflow as tf

from keras_xfmr.common.checks import check_int


def check_multiple(multiple, name, longest):
    """Checks `pad_to_multiple_of`, None or a divisor of the longest row's length.

    Raises:
        ValueError: other values.
    """
    if multiple is None:
        return None
    multiple = check_int("pad_to_multiple_of", multiple, 1)
    if longest % multiple:
        low = longest - longest % multiple
        raise ValueError(
            f"`{name}` must be a multiple of `pad_to_multiple_of`, such as {low or multiple} or "
            f"{low + multiple}. Received: {name}={longest}, pad_to_multiple_of={multiple}."
        )
    return multiple


def rounded_up(width, multiple):
    """An int32 width, rounded up to a multiple."""
    return width if multiple is None else tf.maximum(-(-width // multiple), 1) * multiple
