"""Initializers that several weights share."""

import keras


def copy_initializer(initializer):
    """A copy of an initializer: a shared one with a seed would give equal weights.

    Anything else, such as a function `f(shape, dtype)`, is returned unchanged.
    """
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer
