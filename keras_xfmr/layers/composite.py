"""What layers with weights or other layers share."""

import keras


def features(shape, rank=None):
    """What Keras sees to in each call, symbolic ones too: the last axis is that of the weights.

    Args:
        shape: that the layer is built for.
        rank: number of axes, where it is one alone.

    Raises:
        ValueError: the last axis is not known.
    """
    if shape[-1] is None:
        raise ValueError(
            "The last axis of the inputs, the features, must be known where the layer is built. "
            f"Received: shape {tuple(shape)}."
        )
    return keras.InputSpec(ndim=rank, axes={-1: shape[-1]})


def propagate_frozen(layer):
    """Freezes the sublayers of a layer that was frozen before it built them."""
    if not layer.trainable:
        layer.trainable = False  # Keras sets it on the existing sublayers
