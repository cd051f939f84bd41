"""What every layer must do, whatever it computes: steps shared by the conformance tests."""

import dataclasses
import typing

import keras
import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer, its arguments away from their defaults, and what it is called with.

    Attributes:
        layer: the class.
        arguments: of the constructor.
        shapes: of the call's tensors; the first axes are batch and length.
        vocab_size: the tensors are ids below this number; None: they are normal numbers.
        options: of the call.
        optional: further options of the call that add outputs, or None.
        subclasses: of the layer, each with one documented method overridden.
        name: of the case, where a layer has several.
        listed: whether a call takes one list of the tensors.
    """

    layer: type
    arguments: dict
    shapes: tuple
    vocab_size: int | None = None
    options: dict = dataclasses.field(default_factory=dict)
    optional: dict | None = None
    subclasses: typing.Sequence[type] = ()
    name: str = ""
    listed: bool = False

    def __str__(self):
        return self.name or self.layer.__name__

    @property
    def dtype(self):
        return "float32" if self.vocab_size is None else "int32"

    def make(self, cls=None, **kwargs):
        """A new layer. Layers among the arguments are copied: `kwargs` are theirs too."""
        copies = {
            name: value.__class__.from_config({**value.get_config(), **kwargs})
            for name, value in self.arguments.items()
            if isinstance(value, keras.layers.Layer)
        }
        return (cls or self.layer)(**{**self.arguments, **copies, **kwargs})

    def draw(self, seed=11):
        rng = np.random.default_rng(seed)
        if self.vocab_size is not None:
            return [rng.integers(self.vocab_size, size=shape) for shape in self.shapes]
        return [rng.normal(size=shape).astype("float32") for shape in self.shapes]

    def given(self, tensors):
        """The positional arguments of a call with these tensors (or their shapes)."""
        return (list(tensors),) if self.listed else tuple(tensors)

    def built(self, cls=None, **kwargs):
        """A new layer whose weights are drawn: zeros and ones would hide some of them."""
        layer = self.make(cls, **kwargs)
        self.run(layer, self.draw())
        rng = np.random.default_rng(13)
        variables = [v for v in layer.weights if v.dtype == "float32"]  # not the seeds
        for variable in variables:
            variable.assign(rng.normal(size=variable.shape) / 2)
        return layer

    def run(self, function, tensors, **options):
        """All outputs of a call, as a flat list."""
        tensors = [ops.convert_to_tensor(x, dtype=self.dtype) for x in tensors]
        return keras.tree.flatten(function(*self.given(tensors), **{**self.options, **options}))

    def model(self, layer, around=lambda x: x, before=lambda x: x):
        """A functional model that holds the layer."""
        inputs = [keras.Input(shape[1:], dtype=self.dtype) for shape in self.shapes]
        given = self.given(before(x) for x in inputs)
        return keras.Model(inputs, around(layer(*given, **self.options)))

    def variants(self):
        """The sets of options under which the layer can be called."""
        return [{}] if self.optional is None else [{}, self.optional]


def as_numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def assert_equal(actual, expected, **tolerance):
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(as_numpy(ours), as_numpy(theirs), **tolerance)


def without_build_configs(config):
    """Whether a layer among the arguments is built does not belong to the arguments."""
    if isinstance(config, dict):
        items = config.items()
        return {k: without_build_configs(v) for k, v in items if k != "build_config"}
    return config


def state_of(value):
    """All that hangs on a layer and its sublayers: path -> value; variables by themselves."""
    if isinstance(value, keras.layers.Layer):
        parts = vars(value)
    elif isinstance(value, (dict, list, tuple)):
        parts = value if isinstance(value, dict) else dict(enumerate(value))
    else:
        return {(): value}
    return {
        (key, *path): leaf for key, part in parts.items() for path, leaf in state_of(part).items()
    }


def changed(before, after):
    """Where two states differ. Variables are the same, whatever numbers they hold."""
    plain = (bool, int, float, str, set, frozenset)
    same = {
        path
        for path in before.keys() & after.keys()
        if after[path] is before[path]
        or (isinstance(before[path], plain) and after[path] == before[path])
    }
    return sorted(map(str, (before.keys() | after.keys()) - same))


def constructor_arguments(cls):
    """The names that the constructors of our classes in its ancestry take."""
    names = set()
    for parent in cls.__mro__:
        if parent.__module__.startswith("keras_xfmr") and "__init__" in vars(parent):
            code = parent.__init__.__code__
            names.update(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
    return names - {"attention_layers"}  # how the blocks hand their sublayers to their base


class Marked(keras.layers.Layer):
    """Attaches an implicit mask."""

    def __init__(self, mask):
        super().__init__()
        self.supports_masking = True
        self.mask = mask

    def call(self, inputs):
        return ops.copy(inputs)  # a tensor of its own

    def compute_mask(self, inputs, mask=None):
        return ops.convert_to_tensor(self.mask)


@keras.saving.register_keras_serializable("tests")
class Holder(keras.Model):
    """A user's own model around a layer, which Keras builds again from shapes alone."""

    def __init__(self, layer, options, **kwargs):
        super().__init__(**kwargs)
        self.layer, self.options = layer, options
        self.head = keras.layers.Dense(3)

    def call(self, inputs):
        return self.head(self.layer(*inputs, **self.options))

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer, "options": self.options}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})


class Spy(keras.layers.Layer):
    """Sees the implicit mask that reaches it."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True
        self.seen = None

    def call(self, inputs, mask=None):
        self.seen = None if mask is None else ops.convert_to_numpy(mask)
        return inputs
