"""Sizes, and what layers that build other layers share."""

import numbers


def whole_number(name, value, least=1):
    """A size as Python's integer: NumPy's cannot be saved in a configuration.

    Raises:
        ValueError: it is no integer, or below `least`.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        expected = "a positive integer" if least == 1 else f"an integer, at least {least}"
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}.")
    return int(value)


def stay_frozen(layer):
    """Freezes the sublayers of a layer that was frozen before it built them."""
    if not layer.trainable:
        layer.trainable = False  # Keras hands it on to those that are there
