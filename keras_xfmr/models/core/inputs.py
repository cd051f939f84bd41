"""Declares the inputs of a model; its `keras.Input`s and all checks of ids use this list.

B batch, T length
"""

import typing
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.types import ArrayLike, ModelInputs, Shape, Tensor

# Names of inputs in other libraries, and inputs that only some models have.
FOREIGN_INPUTS = {
    "input_ids": "`token_ids` here",
    "token_type_ids": "`segment_ids` here",
    "position_ids": "not an input here: positions count from 0 in each row",
    "document_ids": "an input of encoders with packed=True, and of a Gpt",
    "document_starts": "an input of a Classifier over an encoder with packed=True",
}
# Outputs of the packers of `keras_xfmr.text` that are not inputs.
PACKED = ("row", "truncated", "word_positions")


class Input(typing.NamedTuple):
    """An input of integers `[B, T]`, or `[B, T, width]`, or pairs `[N, 2]`.

    Attributes:
        name: its key.
        title: how messages name its values.
        size: values lie in 0 .. size - 1: the rows of its table, or the name of an input in whose
            rows they are positions. None: any numbers, such as those of a mask.
        advice: the argument of the model that decides `size`, for messages.
        longest: the most positions of a row, or None.
        default: None if the input is needed, else a function that makes it from the others.
        like: name of an input with the same rows and positions.
        nonempty: whether a row must have at least one position.
        width: how many numbers a position has, if there are several.
        pairs: whether it has pairs: a row of the input `size`, and a position in that row.

    Example:

    >>> Input("token_ids", "Token ids", 100, longest=64).shape
    (None,)
    """

    name: str
    title: str
    size: int | str | None = None
    advice: str = ""
    longest: int | None = None
    default: typing.Callable | None = None
    like: str | None = None
    nonempty: bool = False
    width: int | None = None
    pairs: bool = False

    @property
    def shape(self) -> Shape:
        """Without the batch."""
        if self.pairs:
            return (2,)
        return (None,) if self.width is None else (None, self.width)

    def symbolic(self) -> keras.KerasTensor:
        """Its `keras.Input`."""
        return keras.Input(self.shape, dtype="int32", name=self.name)

    def check_rank(self, value: Tensor) -> None:
        """Raises ValueError where it has another number of axes."""
        if len(value.shape) != 1 + len(self.shape):
            axes = ["B", "T"] if self.width is None else ["B", "T", self.width]
            expected = "[N, 2]" if self.pairs else f"[{', '.join(map(str, axes))}]"
            raise ValueError(
                f"`{self.name}` must have the shape {expected}. Received: shape "
                f"{tuple(value.shape)}."
            )

    def check_width(self, shape: Shape) -> None:
        """Raises ValueError where the last axis has another size than a fixed one."""
        if self.width is not None and not functional.shapes_agree(shape[1:], self.shape):
            raise ValueError(
                f"`{self.name}` must have the shape [B, T, {self.width}]. Received: shape {shape}."
            )


class Range(typing.NamedTuple):
    """Numbers that must be integers in 0 .. size - 1.

    Attributes:
        title: how messages name them.
        values: an array or a tensor.
        size: see above.
        advice: for messages.
        ignored: one more allowed value, or None.
        whole: whether fractions are refused.
    """

    title: str
    values: typing.Any
    size: int
    advice: str = ""
    ignored: int | None = None
    whole: bool = True


class Inputs:
    """The declared inputs of a model, in the order of its call.

    Args:
        *declared: `Input`s. One without a `default` is needed in each call.

    Example:

    >>> shown = Input("attention_mask", "mask", default=lambda x: keras.ops.sign(x["token_ids"]))
    >>> inputs = Inputs(Input("token_ids", "Token ids", 100, longest=64), shown)
    >>> {name: tuple(one.shape) for name, one in inputs.symbolic().items()}
    {'token_ids': (None, None), 'attention_mask': (None, None)}
    """

    def __init__(self, *declared: Input) -> None:
        self._declared = {one.name: one for one in declared}
        self._needed = [one.name for one in declared if one.default is None]

    def __iter__(self) -> Iterator[Input]:
        return iter(self._declared.values())

    def and_also(self, *declared: Input) -> "Inputs":
        """These inputs and more."""
        return Inputs(*self, *declared)

    def symbolic(self) -> dict[str, keras.KerasTensor]:
        """name -> `keras.Input`."""
        return {one.name: one.symbolic() for one in self}

    def named(self, given: ModelInputs) -> ModelInputs:
        """The inputs by their names; one alone, or several in their order, get their names here.

        Other arguments of `fit`, such as a data set, are returned unchanged.
        """
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if value is not None}
        if len(self._needed) == 1:
            alone = hasattr(given, "shape") or isinstance(given, (list, tuple))
            return {self._needed[0]: given} if alone else given
        pair = isinstance(given, (list, tuple)) and len(given) == len(self._needed)
        return dict(zip(self._needed, given)) if pair else given

    def are_in(self, inputs: dict[str, ArrayLike]) -> bool:
        """Whether all needed inputs are given."""
        return all(inputs.get(name) is not None for name in self._needed)

    def pairs_in(self, given: ModelInputs) -> list[str]:
        """The names of given inputs of pairs; their first axis does not count rows."""
        given = given if isinstance(given, dict) else {}
        return [one.name for one in self if one.pairs and given.get(one.name) is not None]

    def complete(self, given: ModelInputs) -> ModelInputs:
        """All inputs as tensors, with defaults for those left out; their values are not checked.

        Raises:
            ValueError: an input has another rank; a needed one is missing, or there is an unknown
                one: Keras sorts a dictionary by its names, so with one more name the inputs would
                get wrong values.
        """
        inputs = self.named(given)
        if not isinstance(inputs, dict):
            return given
        self._check_names(inputs)
        refuse_unpacked(inputs)
        inputs = {
            name: value if isinstance(value, keras.KerasTensor) else ops.convert_to_tensor(value)
            for name, value in inputs.items()
            if name in self._declared
        }
        for one in self:
            if one.name in inputs:
                one.check_rank(inputs[one.name])
            elif one.default is not None:
                inputs[one.name] = one.default(inputs)
        return {name: inputs[name] for name in self._declared}

    def check(self, inputs: ModelInputs) -> None:
        """Raises ValueError if completed inputs do not fit, as far as they are known.

        Args:
            inputs: what `complete` returned.
        """
        if not isinstance(inputs, dict):
            return
        for one in self:
            shape = tuple(inputs[one.name].shape)
            if one.nonempty and len(shape) > 1 and shape[1] == 0:
                raise ValueError(
                    f"`{one.name}` must have at least one position. Received: shape {shape}."
                )
            if one.longest is not None and len(shape) == 2 and (shape[1] or 0) > one.longest:
                raise ValueError(
                    f"`{one.name}` must have at most max_length={one.longest} positions. "
                    f"Received: {shape[1]} positions."
                )
            one.check_width(shape)
            if one.pairs and not functional.shapes_agree(shape, (None, 2)):
                raise ValueError(
                    f"`{one.name}` must be pairs of a row and a position, [N, 2]. "
                    f"Received: shape {shape}."
                )
            like = tuple(inputs[one.like].shape)[: len(one.shape) + 1] if one.like else shape
            if not functional.shapes_agree(shape, like):
                raise ValueError(
                    f"`{one.name}` must have the shape of `{one.like}`, {like}. "
                    f"Received: shape {shape}."
                )
            if one.size is not None:
                refuse_no_ids(f"`{one.name}`", inputs[one.name])
        known = {name: functional.concrete_value(value) for name, value in inputs.items()}
        for part in self._values({name: v for name, v in known.items() if v is not None}):
            check_range(part)

    def ranges(self, inputs: dict[str, ArrayLike]) -> Iterator[Range]:
        """The `Range` of each given input, and of the positions of its rows.

        Args:
            inputs: name -> array or tensor.
        """
        for one in self:
            if inputs.get(one.name) is not None:
                one.check_width(tuple(inputs[one.name].shape))
        yield from self._values(inputs)
        for one in self:
            values = inputs.get(one.name)
            if values is not None and one.longest is not None and len(values.shape) == 2:
                last = ops.reshape(ops.maximum(ops.shape(values)[1] - 1, 0), (1,))
                yield Range(f"Positions of `{one.name}`", last, one.longest, "max_length")

    def _values(self, inputs):
        for one in self:
            values, size = inputs.get(one.name), one.size
            of = inputs.get(size) if isinstance(size, str) else None
            if values is None or (isinstance(size, str) and of is None):
                continue
            parts = [(one.title, values, of.shape[-1] if isinstance(size, str) else size)]
            if one.pairs:
                rows, positions = of.shape[:2]
                parts = [
                    (f"Rows of {one.title}", values[:, 0], rows),
                    (f"Positions of {one.title}", values[:, 1], positions),
                ]
            for title, part, known in parts:
                if known is not None:
                    yield Range(title, part, known, one.advice)

    def _check_names(self, inputs):
        unknown = sorted(set(inputs) - {*self._declared, *PACKED})
        if unknown or not set(self._needed) <= set(inputs):
            foreign = [name for name in unknown if name in FOREIGN_INPUTS]
            hints = [f" {name} is {FOREIGN_INPUTS[name]}." for name in foreign]
            optional = [name for name in self._declared if name not in self._needed]
            listed = (" and ".join(f"`{n}`" for n in names) for names in (self._needed, optional))
            raise ValueError(
                f"Expected {', and optionally '.join(filter(None, listed))}. Received: inputs "
                f"{sorted(inputs)}.{''.join(hints)}"
            )


def check_range(part):
    """Raises ValueError if a value of a `Range` is outside of it."""
    title, values, size, advice, ignored, whole = part
    array = np.asarray(values)
    if not array.size:
        return
    if whole:
        refuse_no_ids(title, array)
    outside = (array < 0) | (array > size - 1)
    if ignored is not None:
        outside &= array != ignored
    if outside.any():
        raise ValueError(
            f"{title} must lie in 0 .. {size - 1}{f' ({advice})' if advice else ''}. Received: "
            f"{title.lower()} from {array.min()} to {array.max()}."
        )


def refuse_no_ids(title, ids):
    """Raises ValueError if ids are not integers: Keras would cut off their fractions."""
    if hasattr(ids, "dtype") and not functional.could_be_ids(ids):
        dtype = keras.backend.standardize_dtype(ids.dtype)
        raise ValueError(
            f"{title} must be integers; fractions would be cut off. Received: dtype {dtype}."
        )


IDS = "ids, which a tokenizer of `keras_xfmr.text` makes from texts"


def refuse_unpacked(inputs):
    """Raises ValueError if an input is ragged, a symbolic one too, or consists of texts."""
    for name, value in inputs.items():
        if hasattr(value, "row_lengths") or getattr(value, "ragged", False) is True:
            raise ValueError(
                f"`{name}` must be rows of equal length: pad them by `.to_tensor(pad_id)`, or pack "
                "texts by a packer of `keras_xfmr.text`. Received: a ragged tensor."
            )
    refuse_texts(inputs, IDS)


def _of_objects(value):
    """Whether it is an array of Python objects, as pandas has texts."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim > 0


def refuse_texts(values, expected):
    """Raises ValueError if a named value consists of texts."""
    for name, value in values.items():
        first = value
        while len(first) if isinstance(first, (list, tuple)) or _of_objects(first) else False:
            first = first[0]
        dtype = getattr(first, "dtype", None)
        array = getattr(dtype, "kind", None) in ("S", "U")  # NumPy's
        if array or isinstance(first, (str, bytes)) or getattr(dtype, "name", None) == "string":
            raise ValueError(f"`{name}` must be {expected}. Received: texts.")
