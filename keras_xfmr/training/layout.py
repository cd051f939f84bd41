"""The axis of each weight that is split among devices, for `keras.distribution`."""

import keras
from absl import logging

from keras_xfmr.layers import MultiHeadAttention, PositionWiseFFN, TokenEmbedding


def layout_map(
    model: keras.Model, mesh: keras.distribution.DeviceMesh, *, axis: str = "model"
) -> keras.distribution.LayoutMap:
    """A `keras.distribution.LayoutMap` that splits the weights of a model among devices.

    As in Megatron-LM (Shoeybi et al. 2019, section 3), so that each block needs one sum over the
    devices after its attention and one after its feed-forward network:

    - queries, keys and values by heads, the output of attention by its input heads;
    - the feed-forward network by its inner units;
    - token tables, and the product that computes logits, by the rows of the vocabulary.

    Each device has a full copy of all other weights, also of an axis that the number of devices
    does not divide; a warning then names a size that works. Slots of the optimizer are split like
    their weights.

    Works on the JAX backend, like `keras.distribution.ModelParallel`.

    Args:
        model: a model of this library, or one with its layers. Only names and shapes of weights are
            read. A model that is created in `keras.StatelessScope(initialize_variables=False)`
            needs no memory for them.
        mesh: a `keras.distribution.DeviceMesh`.
        axis: the axis of the mesh along which weights are split.

    Returns:
        A `keras.distribution.LayoutMap`; its keys are paths of variables.

    Raises:
        ValueError: the mesh has no such axis.

    Example::

        mesh = keras.distribution.DeviceMesh((2, 4), ["batch", "model"])
        with keras.StatelessScope(initialize_variables=False):
            layouts = training.layout_map(models.Gpt.from_preset("gpt2"), mesh)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
        )
        model = models.Gpt.from_preset("gpt2")
    """
    if axis not in mesh.axis_names:
        raise ValueError(f"The mesh must have an axis {axis!r}. Received: {mesh.axis_names}.")
    devices = mesh.shape[mesh.axis_names.index(axis)]
    layouts, named = keras.distribution.LayoutMap(mesh), set()
    whole: dict[tuple, list[str]] = {}
    for layer in _layers_of(model, set()):
        for weight, place in _split_axes(layer):
            if isinstance(layer, TokenEmbedding) and weight.shape[place] < devices:
                continue  # a table of a few kinds, such as segments
            if weight.shape[place] % devices:
                counted = _counted(layer, weight.shape[place], devices)
                whole.setdefault((weight.shape[place], *counted), []).append(weight.path)
            elif weight.path not in named:  # `in` a `LayoutMap` is always true
                named.add(weight.path)
                names = [axis if i == place else None for i in range(len(weight.shape))]
                layouts[weight.path] = tuple(names)
    for (size, kind, possible), paths in whole.items():
        logging.warning(
            "%d %s cannot be split among %d devices; each has them whole. %s can be. In: %s.",
            size,
            kind,
            devices,
            possible,
            ", ".join(paths[:3]) + (" ..." if len(paths) > 3 else ""),
        )
    return layouts


def _layers_of(thing, seen):
    """A layer and all layers inside it, each once."""
    if isinstance(thing, (list, tuple)):
        for each in thing:
            yield from _layers_of(each, seen)
    elif isinstance(thing, keras.Layer) and id(thing) not in seen:
        seen.add(id(thing))
        yield thing
        yield from _layers_of(getattr(thing, "layers", []), seen)
        for value in list(vars(thing).values()):
            yield from _layers_of(value, seen)


def _split_axes(layer):
    """Pairs of a layer's weight and the axis that is split."""
    if isinstance(layer, TokenEmbedding):
        return [(weight, 0) for weight in layer.weights if weight.name == "embeddings"]
    if isinstance(layer, MultiHeadAttention):
        by_heads = (layer.query_dense, layer.key_dense, layer.value_dense)
        return [*_columns(by_heads), *_rows(layer.output_dense)]
    if isinstance(layer, PositionWiseFFN):
        inner = [layer.inner_dense, *([layer.gate_dense] if hasattr(layer, "gate_dense") else [])]
        return [*_columns(inner), *_rows(layer.output_dense)]
    if isinstance(layer, keras.Model) and getattr(layer, "output_dense", None) is not None:
        return _columns([layer.output_dense])
    return []


def _columns(layers):
    """Kernels `[D, n, ...]` and biases `[n, ...]`, split by n."""
    places = {"kernel": 1, "bias": 0}
    return [(w, places[w.name]) for layer in layers for w in layer.weights if w.name in places]


def _rows(layer):
    """The kernel `[n, ...]`, split by n; the bias is added to the sum."""
    return [(weight, 0) for weight in layer.weights if weight.name == "kernel"]


def _counted(layer, size, devices):
    """For a warning: the unit of a layer's axis, and a number that the devices divide."""
    up = lambda number: -(-number // devices) * devices  # noqa: E731
    if not isinstance(layer, MultiHeadAttention):
        kind = "inner units" if isinstance(layer, PositionWiseFFN) else "rows of the vocabulary"
        return kind, str(up(size))
    heads = up(layer.num_heads)
    if size == layer.num_heads:
        return "heads", str(heads)
    divisors = (n for n in range(up(size), heads + 1, devices) if heads % n == 0)
    return "key/value heads", f"{next(divisors)} of {heads} heads"
