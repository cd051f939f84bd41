"""What layers that build other layers share."""

import numbers


def positive(name, value):
    """A size as Python's integer: NumPy's cannot be saved in a configuration.

    Raises:
        ValueError: it is no positive integer.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    return int(value)


def stay_frozen(layer):
    """Freezes the sublayers of a layer that was frozen before it built them."""
    if not layer.trainable:
        layer.trainable = False  # Keras hands it on to those that are there
