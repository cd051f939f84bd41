"""Activations by the names in papers and published configurations."""

import keras
from keras import ops


def gelu_exact(x):
    """x Phi(x) = x (1 + erf(x / sqrt(2))) / 2 (Hendrycks and Gimpel 2016), to 1e-6 in float32.

    TensorFlow's own GELU uses erfc, which is slower and which ONNX does not have. LiteRT
    recognizes GELU by this order of the products.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    # In half precision 1 + erf would lose the small values of the negative side.
    wide = ops.cast(x, "float32") if dtype in ("float16", "bfloat16") else x
    return 0.5 * x * ops.cast(1.0 + ops.erf(wide * 0.5**0.5), dtype)


def gelu_tanh(x):
    """The tanh approximation of GELU, `gelu_new` in published configurations."""
    return ops.gelu(x, approximate=True)


ACTIVATIONS = {
    "gelu": gelu_exact,
    "gelu_exact": gelu_exact,
    "gelu_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
}


def serialize_activation(activation):
    """The entry of a configuration: a name unchanged, a function as Keras serializes it."""
    if isinstance(activation, str):
        return activation
    return keras.activations.serialize(keras.activations.get(activation))


def get_activation(activation, further=()):
    """The function for a name above, for a Keras activation, or the function itself.

    Args:
        activation: the argument of a layer.
        further: more names that the layer accepts, for the message.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return ACTIVATIONS[activation]
    try:
        return keras.activations.get(activation)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`activation` must be one of {sorted({*ACTIVATIONS, *further})}, the name of a Keras "
            f"activation or a function. Received: {activation!r}."
        ) from error
