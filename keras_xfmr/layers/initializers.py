"""Initializers that several weights share."""

import keras


def copy_initializer(initializer):
    """A fresh copy of an initializer: a shared seeded one would give equal weights.

    What is no `Initializer`, such as a function `f(shape, dtype)`, is given back as it is.
    """
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.__class__.from_config(initializer.get_config())
    return initializer
