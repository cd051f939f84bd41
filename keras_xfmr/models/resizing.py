"""Changes the number of tokens of a model: longer or shorter tables, other weights unchanged.

V vocab_size
"""

import typing

import keras
import numpy as np
from keras import ops

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.models.core.arguments import NamedArguments

SIZES = ("vocab_size", "source_vocab_size", "target_vocab_size")

Model = typing.TypeVar("Model", bound=keras.Model)


def resize_token_embeddings(model: Model, size: int | tuple[int, int]) -> Model:
    """A new model with `size` tokens, for a tokenizer with added tokens.

    Token tables, and outputs with a number for each token (tied or not, with their biases), keep
    their first rows. A new row is the mean of the old ones, so a new token is about as probable as
    others (Hewitt 2021). All other weights are copied; `model` does not change.

    Args:
        model: a `Transformer`, a `Gpt`, a `Bert`, an `Elmo` of word ids, or a head over one.
        size: V of the new model; of a `Transformer` with two vocabularies a pair (source, target).

    Returns:
        A model of the same class, not compiled. The special ids are those of `model`.

    Raises:
        ValueError: a model without a token table, or with a special id in a row that the new table
            does not have.

    Example:

    >>> model = Gpt.from_preset("tiny", vocab_size=100)
    >>> longer = resize_token_embeddings(model, 103)
    >>> longer(np.array([[5, 7, 102]])).shape
    (1, 3, 103)
    """
    if not isinstance(model, NamedArguments):
        raise ValueError(f"Expected a model of keras_xfmr. Received: {type(model).__name__}.")
    sizes = size if isinstance(size, (list, tuple)) else [size]
    sizes = [check_positive_int("size", one) for one in sizes]
    changed: list[str] = []
    config = _resized(model.get_config(), sizes, changed)
    if not changed:
        raise ValueError(f"This {type(model).__name__} has no table of tokens to resize.")
    resized = type(model).from_config(config)
    for new, old in zip(resized.weights, model.weights, strict=True):
        new.assign(_rows(ops.convert_to_numpy(old), tuple(new.shape)))
    return resized


def _resized(config, sizes, changed):
    """A configuration with new numbers of tokens, also of an encoder in it.

    Appends the names of the changed sizes to `changed`.
    """
    if not isinstance(config, dict):
        return config
    config = {name: _resized(value, sizes, changed) for name, value in config.items()}
    names = [name for name in SIZES if config.get(name) is not None]
    if names and len(names) != len(sizes):
        expected = "a pair (source, target)" if len(names) > 1 else "one size"
        raise ValueError(f"Expected {expected}, of {', '.join(names)}. Received: {sizes}.")
    for name in ("start_id", "end_id"):
        if names and name in config and config[name] is None:  # the last token, of this model
            config[name] = config[names[-1]] - 1
    changed += names
    return {**config, **dict(zip(names, sizes))}


def _rows(values, shape):
    """The values, cut or filled up with their mean along the axis where the shape differs."""
    for axis, size in enumerate(shape):
        if size != values.shape[axis]:
            mean = values.astype("float64").mean(axis, keepdims=True).astype(values.dtype)
            added = np.repeat(mean, max(0, size - values.shape[axis]), axis)
            kept = values.take(range(min(size, values.shape[axis])), axis)
            values = np.concatenate([kept, added], axis)
    return values
