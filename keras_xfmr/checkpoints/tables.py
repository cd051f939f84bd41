"""The parts of a family's weight table: one row for each weight, with its names in all styles.

In a name, `{i}` is a block's number. Reports use the first name of a row, Hugging Face's without
its prefix. Sizes are those of the weight as (in, out): names of arguments, numbers, functions of
the arguments and the block's number, or None for any size.
"""

import collections.abc
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

# A row belongs to the model that every checkpoint has, to an optional part of it, or to a head.
CORE, OPTIONAL, HEAD = "core", "optional", "head"
# In files, but not weights of a model: those of a TensorFlow 1 optimizer.
OPTIMIZER = r".*[./]adam_[mv]|global_step"
BLOCK_NUMBER = re.compile(r"(0|[1-9]\d{0,5})(?!\d)")
# Prefixes of names by DataParallel, torch.compile and modules around a model.
AROUND = re.compile(r"((module|_orig_mod|model)\.)*")


@dataclasses.dataclass(frozen=True, eq=False)
class Style:
    """How a publisher names the variables of a layer, and stores its matrices.

    Attributes:
        kernel, bias, gamma, beta, embeddings, recurrent_kernel, projection_kernel: what follows the
            name of the layer; a tuple if files differ: the first is written.
        out_in: whether matrices are stored (out, in), as PyTorch does, else (in, out).
        joined: whether a weight may have more axes, `[D, N, H]` or (1, in, out) for (in, out).
        ones: how many axes of size 1 are written before those of a kernel.
    """

    kernel: str = ".weight"
    bias: str = ".bias"
    gamma: str | tuple[str, ...] = (".weight", ".gamma")
    beta: str | tuple[str, ...] = (".bias", ".beta")
    embeddings: str = ".weight"
    recurrent_kernel: str = ".weight_hh"
    projection_kernel: str = ".weight_hr"
    out_in: bool = True
    joined: bool = False
    ones: int = 0

    def names(self, layer, variable):
        ends = getattr(self, variable)
        return [f"{layer}{end}" for end in ((ends,) if isinstance(ends, str) else ends)]


HUGGING_FACE = Style()
TENSORFLOW_1 = Style("/kernel", "/bias", "/gamma", "/beta", "", out_in=False)
KERAS_HUB = dataclasses.replace(TENSORFLOW_1, embeddings="/embeddings", joined=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A row: where a weight is in the model and in files.

    Attributes:
        name: in reports.
        layers: paths of attributes. The weights of several layers are joined in one stored array,
            along its last axis.
        variable: of the layers, by its name in `Style`.
        below: further variables of one layer; in the stored array, their rows are below those of
            `variable`.
        sizes: as (in, out), or of the weight; the last is a tuple for several layers, the first for
            several variables.
        spellings: pairs of a name in files and its `Style`.
        part: `CORE`, `OPTIONAL` or `HEAD`.
        gates: if the last axis is divided into gates, the stored position of each of ours.
        count: the argument that says how many blocks there are, or a function of the arguments.
            If the name has no number, a function that tells whether a model has the weight, or None
            if all have it.
    """

    name: str
    layers: tuple
    variable: str
    below: tuple
    sizes: tuple
    spellings: tuple
    part: str
    gates: tuple
    count: str | collections.abc.Callable | None

    @property
    def numbered(self):
        return "{i}" in self.name

    def name_in(self, block):
        return self.name if block is None else self.name.replace("{i}", str(block))

    @property
    def axis(self):
        """The axis of a stored array along which the variables are joined."""
        return 0 if self.below else -1

    def times(self, arguments):
        """How many blocks have it; without a number, 1 or 0."""
        if callable(self.count):
            return int(self.count(arguments))
        return 1 if self.count is None else arguments.get(self.count, 0)

    def sides(self, arguments, block=None):
        """The shape as (in, out), or of the weight, in a model with these arguments."""
        return tuple(_size(size, arguments, block) for size in self.sizes)

    def turned(self, style):
        """Whether files of a style store it as (out, in)."""
        return style.out_in and self.variable.endswith("kernel")


def _size(size, arguments, block):
    if isinstance(size, tuple):
        return sum(_size(part, arguments, block) for part in size)
    if callable(size):
        return size(arguments, block)
    return arguments[size] if isinstance(size, str) else size


def _rows(layers, variables, names, *, part=CORE, gates=(), below=(), count=None):
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    rows = []
    count = "num_layers" if count is None and "{i}" in layers[0] else count
    for variable, sizes in variables.items():
        spellings = tuple(
            (name, style)
            for style, layer in names.items()
            if layer is not None
            for name in style.names(layer, variable)
        )
        name = spellings[0][0]
        rows.append(Weight(name, layers, variable, below, sizes, spellings, part, gates, count))
    return tuple(rows)


def table(layer, sizes, names, **options):
    """The row of an embedding table: `sizes` are (rows, columns), `names` maps styles to names."""
    return _rows(layer, {"embeddings": sizes}, names, **options)


def norm(layer, size, names, **options):
    """The rows of a norm: gamma and beta."""
    return _rows(layer, {"gamma": (size,), "beta": (size,)}, names, **options)


def dense(layers, sizes, names, use_bias=True, **options):
    """The rows of a dense layer (in, out), or of several that files store as one: (in, (out, ...)).

    Kernels `[D, N, H]` and `[N, H, D]` are matrices in files.
    """
    variables = {"kernel": sizes, **({"bias": sizes[-1:]} if use_bias else {})}
    return _rows(layers, variables, names, **options)


def recurrent(cell, sizes, gates, names, use_bias=True, **options):
    """The rows of a recurrent cell of (in, units): its kernels and bias, cut into gates.

    `gates` has the stored position of each of our gates.
    """
    inputs, units = sizes
    wide = (units,) * len(gates)
    variables = {"kernel": (inputs, wide), "recurrent_kernel": (units, wide)}
    variables |= {"bias": (wide,)} if use_bias else {}
    return _rows(cell, variables, names, gates=gates, **options)


def bias(layer, size, names, **options):
    """The row of a bias without a kernel."""
    return _rows(layer, {"bias": (size,)}, names, **options)


def matrix(layer, variables, sizes, names, **options):
    """The row of a single matrix (in, out), by its variable's name.

    Or of several matrices of a layer that files store as one, one above the other: ((in, ...),
    out).
    """
    first, *below = (variables,) if isinstance(variables, str) else variables
    return _rows(layer, {first: sizes}, names, below=tuple(below), **options)


@dataclasses.dataclass(frozen=True)
class Tied:
    """A name in files whose array is that of another weight, if a model has `attribute`."""

    name: str
    to: str
    attribute: str


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """The entry of a family's table for a name in a file; `weight` is None for an unknown name.

    `counted` is a weight whose blocks are counted together with that of the name.
    """

    name: str
    weight: Weight | None = None
    style: Style | None = None
    block: int | None = None
    counted: Weight | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Everything about a published family: its configuration table and its weight table.

    Attributes:
        model_type: in `config.json`, and the name of the family in this library.
        title: for messages.
        model: the class in this library.
        architectures: a pattern of transformers' classes.
        bare: the class without a head, whose names have no prefix.
        options: the configuration table, of `configuration.Option`.
        weights: the weight table, rows of `table`, `norm`, `dense`, `bias`.
        core: the name of what `CORE` weights belong to, for messages.
        fixed: option of a configuration -> values that this library computes.
        constants: arguments of the class that are in no configuration.
        prefixes: optional beginnings of names; the first is written for models with a head.
        ignored: a pattern of names that are not weights.
        tied: names whose arrays are those of others, of `Tied`.
        backbone: KerasHub's class.
        backbone_fixed: fixed properties of its layers, by names of the configuration.
        classifier: the name of the layer with an output for each label.
        check: raises ValueError for a model (the core, the model) that transformers does not have.
        config_files: names of the configuration's file, or patterns that fit one file; the first is
            written.
        weights_file: the file that is written.
        flatten, nest: to dotted names from a configuration with nested options, and back.
        others: further options, which do not change the model; None if any others are allowed.
    """

    model_type: str
    title: str
    model: str
    architectures: str
    bare: str
    options: tuple
    weights: tuple
    core: str = "model"
    fixed: dict = dataclasses.field(default_factory=dict)
    constants: dict = dataclasses.field(default_factory=dict)
    prefixes: tuple = ()
    ignored: str = ""
    tied: tuple = ()
    backbone: str | None = None
    backbone_fixed: dict = dataclasses.field(default_factory=dict)
    classifier: str = "classifier"
    check: Callable[..., Any] = lambda core, model: None
    config_files: tuple = ("config.json", "bert_config.json", "hparams.json")
    weights_file: str = "model.safetensors"
    flatten: Callable[..., Any] = dict
    nest: Callable[..., Any] = dict
    others: tuple | None = None

    @functools.cached_property
    def _spellings(self):
        return {name: (w, style) for w in self.weights for name, style in w.spellings}

    @functools.cached_property
    def numbered_starts(self):
        """The text before a block's number, in each style -> a weight of such a block."""
        starts = {}
        for name, (weight, _) in self._spellings.items():
            if "{i}" in name:
                starts.setdefault(name.partition("{i}")[0], weight)
        return starts

    def identify(self, stored):
        """The `Known` of a name in a file."""
        stored = stored[AROUND.match(stored).end() :]
        prefix = next((prefix for prefix in self.prefixes if stored.startswith(prefix)), "")
        name = spelling = stored[len(prefix) :]
        block = counted = None
        for start, first in self.numbered_starts.items():
            number = BLOCK_NUMBER.match(name, len(start)) if name.startswith(start) else None
            if number:
                block, spelling = int(number[0]), f"{start}{{i}}{name[number.end() :]}"
                counted = first
                break
        weight, style = self._spellings.get(spelling, (None, None))
        if weight is None or weight.numbered and block is None:  # "{i}" may stand in a file
            return Known(name, block=block, counted=counted)
        return Known(weight.name_in(block), weight, style, block, counted)

    def expand(self, arguments):
        """Pairs of a weight and its block's number, in the order of the model."""
        for _, rows in itertools.groupby(self.weights, lambda row: (row.numbered, row.count)):
            rows = list(rows)
            for i in range(rows[0].times(arguments)):
                yield from ((row, i if row.numbered else None) for row in rows)

    @property
    def classifier_weights(self):
        """The names of the weights that have an output for each label."""
        return f"{self.classifier}.weight", f"{self.classifier}.bias"

    def is_no_weight(self, name):
        """Whether a name in a file may be ignored."""
        return any(re.fullmatch(pattern, name) for pattern in (OPTIMIZER, self.ignored))


def joins(shape, sides):
    """Whether neighbouring axes of a shape, multiplied, give `sides`.

    Example:

    >>> joins((12, 4, 3), (12, 12)), joins((12, 4, 3), (4, 36))
    (True, False)
    """
    rest = list(shape)
    for side in sides:
        product = rest.pop(0) if rest else None
        while product is not None and product < side and rest:
            product *= rest.pop(0)
        if product != side:
            return False
    return math.prod(rest) == 1
