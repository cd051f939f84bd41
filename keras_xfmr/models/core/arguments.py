"""Arguments and inputs of models: their names, unknown ones, sizes."""

import collections.abc
from typing import Any

import keras

from keras_xfmr.common.arguments import argument_names, refuse_unknown
from keras_xfmr.common.checks import (
    check_choice,
    check_epsilon,
    check_positive_int,
    check_rate,
)
from keras_xfmr.common.types import Config, Mixin

# Arguments that are True or False.
FLAGS = (
    "norm_first", "use_bias", "tie_output", "output_bias", "scale_embeddings", "pooler", "packed",
    "skip_connections", "rematerialize",
)  # fmt: skip


class NamedArguments(Mixin):
    """A mixin for models whose constructor takes sizes by name."""

    @classmethod
    def argument_names(cls) -> list[str]:
        """Names of the constructor's arguments, those of constructors that it calls included."""
        return argument_names(kind for kind in cls.__mro__ if issubclass(kind, NamedArguments))

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses to replace a layer, or the padding id, of the built graph.

        The graph would keep the old layer, so `fit` and `generate` would use different models.
        """
        if _replaces(vars(self), name, value):
            self._refuse_to_change(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """Refuses to delete a layer that the graph was built with."""
        if _replaces(vars(self), name, None):
            self._refuse_to_change(name)
        super().__delattr__(name)

    def _refuse_to_change(self, name):
        raise AttributeError(
            f"{type(self).__name__} was built with its `{name}`, and `fit` would still use the old "
            "one. Pass an argument of the constructor, or build a model of your own from layers."
        )

    def quantize(self, *args, **kwargs) -> None:
        """Refused: Keras quantizes only its own dense layers, and a model that is loaded again
        could not hold their new weights."""
        raise NotImplementedError(
            f"{type(self).__name__} cannot be quantized. Use `dtype='bfloat16'` for half the "
            "memory, or quantize the exported SavedModel with a tool for that."
        )

    @classmethod
    def refuse_unknown(cls, arguments: Config) -> None:
        """Raises TypeError for arguments that `keras.Model` would ignore."""
        refuse_unknown(cls, set(arguments) - {"trainable"}, cls.argument_names())


def _replaces(attributes, name, value):
    """Whether setting an attribute would replace a layer, or the padding id, of a built model."""
    if name.startswith("_") or name not in attributes or not attributes.get("built"):
        return False
    old = attributes[name]
    if name in ("pad_id", "pad_token_id"):
        return old != value
    return old is not value and any(map(_holds_layers, (old, value)))


def _holds_layers(value):
    items = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(item, keras.layers.Layer) for item in items)


def check_sizes(config, sizes, optional=()):
    """Checks what all configurations have, in place: NumPy's integers become Python's.

    Args:
        config: name of an argument -> value.
        sizes: names of positive integers.
        optional: names of positive integers or None.

    Raises:
        ValueError: a wrong size, dropout rate, epsilon or flag, or `num_heads`, if there are heads,
            does not divide `d_model`.
    """
    for name in (*sizes, *optional):
        if name in sizes or config[name] is not None:
            config[name] = check_positive_int(name, config[name])
    for name, value in config.items():
        if name.endswith("dropout_rate") and value is not None:
            check_rate(name, value)
        elif name in ("epsilon", "layer_norm_eps"):
            check_epsilon(name, value)
        elif name in FLAGS:
            check_choice(name, value, (True, False))
        elif name == "final_norm":
            check_choice(name, value, (True, False, None))
    if "num_heads" in config and config["d_model"] % config["num_heads"]:
        raise ValueError(
            "`num_heads` must divide `d_model`. "
            f"Received: d_model={config['d_model']}, num_heads={config['num_heads']}."
        )


def class_names(labels, count):
    """The names of `count` classes, in their order, as strings.

    Raises:
        ValueError: another number of them, or not a list: the keys of a dictionary, such as
            `label2id`, may have another order.
    """
    listed = not isinstance(labels, (str, bytes, collections.abc.Mapping, collections.abc.Set))
    names = [
        label.decode("utf8") if isinstance(label, bytes) else str(label)  # of a data set
        for label in (labels if listed else [])
    ]
    if len(names) != count:
        raise ValueError(
            f"`labels` must name the {count} classes, in a list. Received: {labels!r}."
        )
    return names
