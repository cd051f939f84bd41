"""Loads published weights into a model and saves them, by the table of its family."""

import dataclasses
import math
import pathlib

import keras
import numpy as np
from keras import ops

from keras_xfmr import kernels
from keras_xfmr.checkpoints.configuration import written_config
from keras_xfmr.checkpoints.families import family_called
from keras_xfmr.checkpoints.formats.hdf5 import write_hdf5
from keras_xfmr.checkpoints.formats.safetensors import write_safetensors
from keras_xfmr.checkpoints.published import Published
from keras_xfmr.checkpoints.tables import CORE, HEAD, Weight, joins
from keras_xfmr.common.files import write_json


def core_of(model):
    """The model under a head; a model without a head itself."""
    encoder = getattr(model, "encoder", None)
    return model if getattr(encoder, "family", None) is None else encoder


# ---- a row of the table in a model


@dataclasses.dataclass(frozen=True)
class Bound:
    """A weight of a model: its name, its row, its block's number, and its variables."""

    name: str
    weight: Weight
    block: int | None
    layers: list

    @property
    def values(self):
        """The variables; with a low-rank update, the merged matrix."""
        variables = self.weight.variable, *self.weight.below
        return [getattr(layer, variable) for layer in self.layers for variable in variables]

    def widths(self, sides):
        """The size of each variable along the axis of a stored array; None if they do not fit."""
        if not sides:
            return None
        shapes, axis = [tuple(value.shape) for value in self.values], self.weight.axis
        other = math.prod(self._with_side(sides, 1))
        widths = [math.prod(shape) // max(other, 1) for shape in shapes]
        fits = all(joins(s, self._with_side(sides, width)) for s, width in zip(shapes, widths))
        return widths if fits and sum(widths) == sides[axis] else None

    def _with_side(self, sides, size):
        """The sides, with `size` for the axis along which the variables are joined."""
        sides = list(sides)
        sides[self.weight.axis] = size
        return tuple(sides)

    def assign(self, array, widths):
        """Fills the variables from an array (in, out)."""
        if self.weight.gates:
            array = _gates(array, self.weight.gates)
        parts = np.split(array, np.cumsum(widths[:-1]), self.weight.axis)
        for value, part in zip(self.values, parts):
            value.assign(ops.reshape(kernels.tensor_from_array(part), value.shape))

    def stored(self, arguments):
        """The array in the family's first style."""
        sides = self._with_side(self.weight.sides(arguments, self.block), -1)
        parts = [np.reshape(np.asarray(value, "float32"), sides) for value in self.values]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts, self.weight.axis)
        if self.weight.gates:
            array = _gates(array, np.argsort(self.weight.gates))
        style = self.weight.spellings[0][1]
        if self.weight.variable == "kernel":
            array = array.reshape((1,) * style.ones + array.shape)
        return np.ascontiguousarray(array.T if self.weight.turned(style) else array)


def _gates(array, order):
    """The last axis, cut into as many blocks as `order` has, in that order."""
    blocks = array.reshape(*array.shape[:-1], len(order), -1)
    return blocks[..., list(order), :].reshape(array.shape)


def bind(model):
    """Every weight of a model or of a head on it, in the order of its family's table."""
    core = core_of(model)
    family = family_called(getattr(core, "family", None))
    owned = {id(weight) for weight in model.weights}
    for weight, block in family.expand(core.get_config()):
        root = model if weight.part == HEAD else core
        layers = [_layer(root, path, block, weight.part == CORE) for path in weight.layers]
        if all(layer is not None and _has(layer, weight.variable, owned) for layer in layers):
            yield Bound(weight.name_in(block), weight, block, layers)


def _has(layer, variable, owned):
    """A dense layer may have no bias, an encoder a pooler that a head does not read. The kernel is
    not read here: reading merges low-rank updates."""
    there = any(id(weight) in owned for weight in layer.weights)
    return there and (variable != "bias" or layer.bias is not None)


def _layer(root, path, block, needed):
    for name in path.split("."):
        if name == "{i}":
            root = root[block]
        else:
            root = getattr(root, name) if needed else getattr(root, name, None)
        if root is None:
            return None
    return root


# ---- reading


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What was loaded from a checkpoint, by its family's first names, without a prefix.

    Attributes:
        loaded: weights that were read.
        missing: weights of the model that the checkpoint does not have; randomly initialized.
        unexpected: other weights of the checkpoint.
        tied: names in the checkpoint whose array is that of a loaded weight, such as an output
            table. Both arrays are equal, or the file has only this name.

    Example:

    >>> print(LoadReport(("embeddings.LayerNorm.weight",), ("classifier.bias",), ()))
    1 weights loaded; 1 missing: classifier.bias; 0 unexpected
    """

    loaded: tuple
    missing: tuple
    unexpected: tuple
    tied: tuple = ()

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} weights loaded"]
        for title in ("missing", "unexpected"):
            names = getattr(self, title)
            parts.append(f"{len(names)} {title}" + (f": {', '.join(names)}" if names else ""))
        if self.tied:
            parts.append(f"{len(self.tied)} tied: {', '.join(self.tied)}")
        return "; ".join(parts)


def load_pretrained(model: keras.Model, checkpoint: Published) -> LoadReport:
    """Fills a model from the result of `open_pretrained`, by name.

    Returns:
        A `LoadReport`.

    Raises:
        ValueError: a weight of the model without its head is missing, or a shape or type differs.

    Example::

        with open_pretrained("bert-base-uncased") as checkpoint:
            model = keras_xfmr.models.Bert(**checkpoint.arguments)
            print(load_pretrained(model, checkpoint))
    """
    family = checkpoint.family
    weights = {bound.name: bound for bound in bind(model)}
    there = set(checkpoint.names)
    if checkpoint.new_classifier:
        there -= set(family.classifier_weights)
    missing = [name for name in weights if name not in there]
    lost = [name for name in missing if weights[name].weight.part == CORE]
    if lost:
        raise ValueError(checkpoint.lost(lost))
    loaded = [name for name in weights if name in there]
    for name in loaded:
        widths = weights[name].widths(checkpoint.sides(name))
        if widths is None:
            shapes = " and ".join(str(tuple(value.shape)) for value in weights[name].values)
            raise ValueError(
                f"{checkpoint.names[name]!r} must fit a weight of shape {shapes} in this model. "
                f"Received: {checkpoint.shape(name)}. {checkpoint.way_out(name)}"
            )
        weights[name].assign(checkpoint.read(name), widths)
    tied = _check_tied(model, checkpoint)
    beside = _load_projections(model, checkpoint)
    loaded, missing = loaded + beside[0], missing + beside[1]
    known = {*loaded, *tied}
    unexpected = [
        name for name in checkpoint.names if name not in known and not family.is_no_weight(name)
    ]
    return LoadReport(tuple(loaded), tuple(missing), tuple(unexpected), tuple(tied))


def _load_projections(model, checkpoint):
    """Fills the dense layers after a pooling, whose weights have folders of their own.

    Returns:
        Names of weights that were read, and of those that the folder does not have.
    """
    layers = getattr(model, "projection_layers", [])
    if not layers:
        return [], []
    ends = ("linear.weight", "linear.bias")
    if checkpoint.projections != model.projections:
        return [], [f"{layer.name}.{e}" for layer in layers for e, _ in zip(ends, layer.weights)]
    loaded = []
    for layer, (path, arrays) in zip(layers, checkpoint.projection_weights()):
        for value, array, end in zip(layer.weights, arrays, ends):
            if tuple(value.shape) != array.shape:
                raise ValueError(
                    f"{path!r} reads vectors of {array.shape[0]} numbers, and the pooling gives "
                    f"{value.shape[0]}. Leave `pooling=` out, or pass projections=()."
                )
            value.assign(kernels.tensor_from_array(array))
            loaded.append(f"{path}.{end}")
    return loaded, []


def _check_tied(model, checkpoint):
    """The names of tied weights. Raises if they differ: one of them would be silently lost."""
    found = []
    for tied in checkpoint.family.tied:
        name, other = tied.name, tied.to
        if name not in checkpoint.names:
            continue
        if checkpoint.names[name] != checkpoint.names[other]:
            if not hasattr(model, tied.attribute):
                continue
            same_shape = checkpoint.shape(name) == checkpoint.shape(other)
            if not same_shape or not np.array_equal(*map(checkpoint.read_stored, (name, other))):
                raise ValueError(f"{name!r} differs from {other!r}; this library ties the two.")
        found.append(name)
    return found


# ---- writing

WRITERS = {
    "model.safetensors": lambda path, arrays: write_safetensors(path, arrays, {"format": "pt"}),
    "lm_weights.hdf5": write_hdf5,
}


def save_pretrained(model: keras.Model, folder: pathlib.Path) -> None:
    """Writes a model's configuration and its weights, each under a temporary name, then renamed.

    `config.json` and `model.safetensors` of Hugging Face, or the files of its family.

    Args:
        model: a model of a published family, or one of its heads.
        folder: a `pathlib.Path`, made if missing.

    Raises:
        ValueError: a model that the published family does not have, or a quantized one.

    Example::

        save_pretrained(model, pathlib.Path("mine"))
    """
    core, weights = core_of(model), list(bind(model))
    family = family_called(core.family)
    family.check(core, model)
    for bound in weights:
        modes = [getattr(layer, "quantization_mode", None) for layer in bound.layers]
        if any(modes):
            raise ValueError(
                "Expected weights in floating point: save the model before it is quantized. "
                f"Received: {bound.name} as {next(filter(None, modes))}."
            )
    arguments, said = core.get_config(), model.hub_config()
    config = family.nest({**written_config(family, arguments), **said})
    folder.mkdir(parents=True, exist_ok=True)
    bare = not family.prefixes or family.bare in said["architectures"]
    prefix = "" if bare else family.prefixes[0]
    tensors = {}
    for bound in weights:
        name = bound.name if bound.weight.part == HEAD else f"{prefix}{bound.name}"
        tensors[name] = bound.stored(arguments)
    WRITERS[family.weights_file](folder / family.weights_file, tensors)
    for path, content in {**model.hub_files(), family.config_files[0]: config}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        write_json(folder / path, content)
    for path, layer in model.hub_layers().items():
        arrays = [np.asarray(value, "float32").T for value in layer.weights]
        names = ("linear.weight", "linear.bias")
        tensors = {n: np.ascontiguousarray(array) for n, array in zip(names, arrays)}
        write_safetensors(folder / path / "model.safetensors", tensors, {"format": "pt"})
