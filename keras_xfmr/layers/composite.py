"""What layers that build other layers share."""


def propagate_frozen(layer):
    """Freezes the sublayers of a layer that was frozen before it built them."""
    if not layer.trainable:
        layer.trainable = False  # Keras sets it on the existing sublayers
