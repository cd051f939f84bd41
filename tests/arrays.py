"""Tensors from draws, and back to NumPy."""

from keras import ops

as_numpy = ops.convert_to_numpy


def normal(rng, *shape):
    return ops.convert_to_tensor(rng.normal(size=shape).astype("float32"))


def mask(rng, *shape):
    """True with probability 0.7, and in the first column always: Keras has no empty rows."""
    values = rng.random(shape) < 0.7
    values[..., 0] = True
    return ops.convert_to_tensor(values)


def randomize(rng, layer):
    """Gives every weight a drawn value: zeros and ones would hide a bias or a scale."""
    layer.set_weights([rng.normal(size=w.shape) / 2 for w in layer.get_weights()])
    return layer
