"""The parts of a family's weight table: one row for each weight, with its name in every style.

A name has `{i}` in the place of a block's number. The first name of a row, Hugging Face's without
its prefix, is the one in reports. Sizes are those of the weight as (in, out): names of arguments,
numbers, or None for any size.
"""

import dataclasses
import functools
import math
import re

# What a row belongs to: the model that every checkpoint has, a part of it that some lack, a head.
CORE, OPTIONAL, HEAD = "core", "optional", "head"
# In files, but no weights of a model: what a TensorFlow 1 optimizer left.
OPTIMIZER = r".*[./]adam_[mv]|global_step"
BLOCK_NUMBER = re.compile(r"(0|[1-9]\d{0,5})(?!\d)")


@dataclasses.dataclass(frozen=True, eq=False)
class Style:
    """How a publisher names the variables of a layer, and how its matrices lie.

    Attributes:
        kernel, bias, gamma, beta, embeddings, recurrent_kernel: what follows the name of the layer;
            a tuple where files differ, of which the first is written.
        out_in: whether matrices are stored (out, in), as PyTorch does, else (in, out).
        joined: whether a weight may have more axes, `[D, N, H]` or (1, in, out) for (in, out).
    """

    kernel: str = ".weight"
    bias: str = ".bias"
    gamma: str = (".weight", ".gamma")
    beta: str = (".bias", ".beta")
    embeddings: str = ".weight"
    recurrent_kernel: str = ".weight_hh"
    out_in: bool = True
    joined: bool = False

    def names(self, layer, variable):
        ends = getattr(self, variable)
        return [f"{layer}{end}" for end in ((ends,) if isinstance(ends, str) else ends)]


HUGGING_FACE = Style()
TENSORFLOW_1 = Style("/kernel", "/bias", "/gamma", "/beta", "", out_in=False)
KERAS_HUB = dataclasses.replace(TENSORFLOW_1, embeddings="/embeddings", joined=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A row: where a weight stands in the model and in files.

    Attributes:
        name: in reports.
        layers: paths of attributes. Several layers have their weights side by side in one stored
            array, along its last axis.
        variable: of the layers, by its name in `Style`.
        sizes: as (in, out), or as the weight is; the last is a tuple for several layers.
        spellings: pairs of a name in files and its `Style`.
        part: `CORE`, `OPTIONAL` or `HEAD`.
        gates: where the last axis is divided into gates, the stored position of each of ours.
    """

    name: str
    layers: tuple
    variable: str
    sizes: tuple
    spellings: tuple
    part: str
    gates: tuple

    @property
    def numbered(self):
        return "{i}" in self.name

    def name_in(self, block):
        return self.name if block is None else self.name.replace("{i}", str(block))

    def sides(self, arguments):
        """The shape as (in, out), or as the weight is, in a model of these arguments."""
        return tuple(_size(size, arguments) for size in self.sizes)

    def turned(self, style):
        """Whether files of a style have it as (out, in)."""
        return style.out_in and self.variable in ("kernel", "recurrent_kernel")


def _size(size, arguments):
    if isinstance(size, tuple):
        return sum(_size(part, arguments) for part in size)
    return arguments[size] if isinstance(size, str) else size


def _rows(layers, variables, names, part=CORE, gates=()):
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    rows = []
    for variable, sizes in variables.items():
        spellings = tuple(
            (name, style)
            for style, layer in names.items()
            if layer is not None
            for name in style.names(layer, variable)
        )
        rows.append(Weight(spellings[0][0], layers, variable, sizes, spellings, part, gates))
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
    """The row of a bias that stands alone."""
    return _rows(layer, {"bias": (size,)}, names, **options)


@dataclasses.dataclass(frozen=True)
class Tied:
    """A name in files whose array is that of another weight, wherever a model has `attribute`."""

    name: str
    to: str
    attribute: str


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """What a family's table says about a name in a file; `weight` is None for a foreign name."""

    name: str
    weight: Weight = None
    style: Style = None
    block: int = None


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Everything about a published family: its configuration table and its weight table.

    Attributes:
        model_type: in `config.json`, and the name of the family here.
        title: for messages.
        model: the class here.
        architectures: a pattern of transformers' classes.
        bare: the class without a head, whose names have no prefix.
        options: the configuration table, of `configuration.Option`.
        weights: the weight table, rows of `table`, `norm`, `dense`, `bias`.
        core: what a `CORE` weight is one of, for messages.
        fixed: option of a configuration -> values that this library computes.
        constants: arguments of the class that no configuration says.
        prefixes: in front of names, or not; the first is written for models with a head.
        ignored: a pattern of names that are no weights.
        tied: names whose arrays are those of others, of `Tied`.
        backbone: KerasHub's class.
        backbone_fixed: what its layers have built in, by names of the configuration.
        classifier: the name of the layer with an output for each label.
        check: raises ValueError for a model (the core, the model) that transformers has no form
            for.
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
    backbone: str = None
    backbone_fixed: dict = dataclasses.field(default_factory=dict)
    classifier: str = "classifier"
    check: callable = lambda core, model: None

    @functools.cached_property
    def _spellings(self):
        return {name: (w, style) for w in self.weights for name, style in w.spellings}

    @functools.cached_property
    def numbered_starts(self):
        """What stands before a block's number, in each style."""
        return tuple(dict.fromkeys(n.partition("{i}")[0] for n in self._spellings if "{i}" in n))

    def identify(self, stored):
        """The `Known` of a name in a file."""
        prefix = next((prefix for prefix in self.prefixes if stored.startswith(prefix)), "")
        name = spelling = stored[len(prefix) :]
        block = None
        for start in self.numbered_starts:
            number = BLOCK_NUMBER.match(name, len(start)) if name.startswith(start) else None
            if number:
                block, spelling = int(number[0]), f"{start}{{i}}{name[number.end() :]}"
                break
        weight, style = self._spellings.get(spelling, (None, None))
        if weight is None:
            return Known(name, block=block)
        return Known(weight.name_in(block), weight, style, block)

    def expand(self, blocks):
        """Pairs of a weight and its block's number, in the order of the model."""
        numbered = [weight for weight in self.weights if weight.numbered]
        for weight in self.weights:
            if not weight.numbered:
                yield weight, None
            elif weight is numbered[0]:
                yield from ((weight, i) for i in range(blocks) for weight in numbered)

    @property
    def classifier_weights(self):
        """The names of the weights that have an output for each label."""
        return f"{self.classifier}.weight", f"{self.classifier}.bias"

    def is_no_weight(self, name):
        """Whether nobody misses what stands in a file by this name."""
        tied = [tied.name for tied in self.tied]
        return name in tied or any(re.fullmatch(p, name) for p in (OPTIMIZER, self.ignored))


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
