"""What only JAX has."""

import jax


def checkpoint(function):
    """The function, whose intermediate values are computed again in the backward pass."""
    return jax.checkpoint(function)
