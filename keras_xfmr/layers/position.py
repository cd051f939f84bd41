"""Token positions: added sinusoids, an added learned table, rotated queries and keys.

B batch, T length, N heads, H head_dim, D d_model
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_choice, check_number, check_positive_int
from keras_xfmr.common.types import Config, Index, Initializer, Shape, Tensor
from keras_xfmr.layers.base import Layer
from keras_xfmr.layers.composite import features


class _Positioned(Layer):
    """A layer whose call takes an `offset`, perhaps `positions`."""

    def compute_output_spec(
        self, inputs: Tensor, offset: float | Tensor = 0, positions: Tensor | None = None
    ) -> Any:
        _check_places(inputs.shape, offset, positions)  # Keras asks for shapes of inputs alone
        return super().compute_output_spec(inputs)


@keras.saving.register_keras_serializable("keras_xfmr")
class PositionalEncoding(_Positioned):
    """x + PE, PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(p / 10000^(2i/D)).

    Vaswani et al. 2017, section 3.5. There is no table and no maximum length. For the other layouts
    see `functional.sinusoidal_encoding`.

    Args:
        layout: `"interleaved"` (the paper), `"halves"` (Hugging Face's Marian) or
            `"tensor2tensor"`.
        max_wavelength: the base of the geometric progression.

    Call arguments:
        inputs: `[B, T, D]`.
        offset: position of the first element, a number, scalar tensor or tensor `[B]`; a decoder
            that reads one token at a time passes its step.
        positions: integers `[B, T]` in 0 .. T - 1 instead of offset .. offset + T - 1, such as
            those of packed documents.

    Returns:
        `[B, T, D]`, the encodings rounded from float32 to the dtype of `inputs`.

    Raises:
        ValueError: an unknown layout, or an odd D with a halves layout; an `offset` or `positions`
            of another shape.

    Example:

    >>> PositionalEncoding()(keras.random.normal((2, 5, 8))).shape
    (2, 5, 8)
    """

    def __init__(
        self, layout: str = "interleaved", *, max_wavelength: float = 10000.0, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.layout = check_choice("layout", layout, functional.SINUSOID_LAYOUTS)
        self.max_wavelength = check_number("max_wavelength", max_wavelength, zero=False)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "layout": self.layout,
            "max_wavelength": self.max_wavelength,
        }

    def call(
        self, inputs: Tensor, offset: float | Tensor = 0, positions: Tensor | None = None
    ) -> Tensor:
        _check_rank(inputs.shape, 3)
        offset, positions = _check_places(inputs.shape, offset, positions)
        several = positions is not None
        codes = functional.sinusoidal_encoding(
            1 if several else ops.shape(inputs)[1],
            inputs.shape[-1],
            offset=positions if several else offset,
            layout=self.layout,
            max_wavelength=self.max_wavelength,
        )
        codes = ops.squeeze(codes, -2) if several else codes
        return inputs + ops.cast(codes, inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        _check_rank(input_shape, 3)  # Keras calls only this method for a `keras.Input`
        return input_shape


@keras.saving.register_keras_serializable("keras_xfmr")
class PositionEmbedding(_Positioned):
    """x + E[p], a learned vector for each position (Gehring et al. 2017; Devlin et al. 2019).

    Args:
        max_length: number of positions in the table.
        embeddings_initializer: of the table.

    Call arguments:
        inputs: `[B, T, D]`, T at most `max_length`.
        offset: position of the first element, an integer or scalar tensor, not negative; or a
            tensor `[B]`, where negative positions (padding) get the vector of position 0.
        positions: integers `[B, T]` in 0 .. T - 1 instead of offset .. offset + T - 1, such as
            those of packed documents.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: an `offset` or `positions` of another shape; offset + T is larger than
            `max_length`, or the offset is negative, if they are known. If a compiled graph gets a
            length only at run time, the backend raises its own error; such an offset is not
            checked.

    Example:

    >>> PositionEmbedding(max_length=512)(keras.random.normal((2, 5, 8))).shape
    (2, 5, 8)
    """

    def __init__(
        self, max_length: int, *, embeddings_initializer: Initializer = "uniform", **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.max_length = check_positive_int("max_length", max_length)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }

    def build(self, input_shape: Shape) -> None:
        _check_rank(input_shape, 3)
        self.input_spec = features(input_shape)
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.max_length, input_shape[-1]),
            initializer=self.embeddings_initializer,
        )

    def call(self, inputs: Tensor, offset: Index = 0, positions: Tensor | None = None) -> Tensor:
        _check_rank(inputs.shape, 3)
        offset, positions = _check_places(inputs.shape, offset, positions)
        length = ops.shape(inputs)[1]
        self._check_length(length, offset)
        if isinstance(offset, int):
            # `slice` fails if there are too few rows. A lookup under XLA would repeat the last
            # row. An index `[offset : offset + length]` may return a single row, which a sum
            # broadcasts; a reshape after it is optimized away.
            table = ops.convert_to_tensor(self.embeddings)
            rows = ops.slice(table, (offset, 0), (length, table.shape[1]))
            if positions is not None:
                rows = ops.take(rows, positions, axis=0)
        else:
            positions = ops.arange(length, dtype="int32")
            if len(getattr(offset, "shape", ())):
                offset = ops.expand_dims(offset, 1)
                positions = ops.maximum(ops.cast(offset, "int32") + positions, 0)
            else:
                positions = ops.cast(offset, "int32") + positions
            rows = ops.take(self.embeddings, positions, axis=0)
        return inputs + rows

    def _check_length(self, length, offset):
        length = functional.concrete_value(length)
        start = functional.concrete_value(offset)
        several = start is not None and np.ndim(start)  # rows that may begin with padding
        start = 0 if start is None else int(np.max(start, initial=0) if several else start)
        if start < 0:
            raise ValueError(f"`offset` must not be negative. Received: offset={start}.")
        if start + int(0 if length is None else length) > self.max_length:
            count = "any number of" if length is None else length
            raise ValueError(
                f"The position table has max_length={self.max_length} rows. Received: {count} "
                f"positions from {start}. Shorten the sequences, or build the layer with a larger "
                "`max_length`."
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        _check_rank(input_shape, 3)
        if input_shape[1] is not None:
            self._check_length(input_shape[1], 0)
        return input_shape


@keras.saving.register_keras_serializable("keras_xfmr")
class RotaryEmbedding(_Positioned):
    """Rotates each pair of features by p * theta_i, theta_i = 10000^(-2i/H).

    Su et al. 2021, equation 34: the product of a rotated query and key depends only on the distance
    of their positions. Pass it as `MultiHeadAttention(rotary=RotaryEmbedding())`.

    Args:
        max_wavelength: the base of the angles.
        layout: `"halves"` pairs feature i with i + H/2 (GPT-NeoX, Llama), `"interleaved"` pairs
            2i with 2i + 1 (the paper).

    Call arguments:
        inputs: `[B, T, N, H]`.
        offset: position of the first element, a number, scalar tensor or tensor `[B]`.

    Returns:
        `[B, T, N, H]`.

    Raises:
        ValueError: an unknown layout or an odd H; an `offset` of another shape.

    Example:

    >>> RotaryEmbedding()(keras.random.normal((2, 5, 4, 8))).shape
    (2, 5, 4, 8)
    """

    def __init__(
        self, *, max_wavelength: float = 10000.0, layout: str = "halves", **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.max_wavelength = check_number("max_wavelength", max_wavelength, zero=False)
        self.layout = check_choice("layout", layout, functional.ROTARY_LAYOUTS)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "layout": self.layout,
        }

    def call(self, inputs: Tensor, offset: float | Tensor = 0) -> Tensor:
        _check_rank(inputs.shape, 4)
        offset, _ = _check_places(inputs.shape, offset)
        angles = functional.rotary_angles(
            ops.shape(inputs)[1],
            inputs.shape[-1],
            offset=offset,
            max_wavelength=self.max_wavelength,
        )
        return functional.apply_rotary(inputs, angles, self.layout)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        _check_rank(input_shape, 4)
        if input_shape[-1] is not None:
            functional.rotary_angles(1, input_shape[-1])  # raises for an odd size
        return input_shape


def _check_places(shape, offset, positions=None):
    """Both, a list as an array; refused where they would give other axes, or not each its place.

    Half precision, to which Keras has cast floats, rounds position 257 to 256.
    """
    offset, positions = functional.as_array(offset), functional.as_array(positions)
    for name, value in (("offset", offset), ("positions", positions)):
        dtype = keras.backend.standardize_dtype(getattr(value, "dtype", "int32"))
        if "float16" in dtype:
            raise ValueError(
                f"`{name}` must be an integer, or a float32 tensor: half precision rounds position "
                f"257 to 256. Received: dtype {dtype}."
            )
    given = tuple(getattr(offset, "shape", ()))
    if len(given) > 1 or not functional.shapes_agree(given, shape[: len(given)]):
        raise ValueError(
            "`offset` must be a number, a scalar tensor or a tensor [batch]. Received: shape "
            f"{given}, inputs of shape {tuple(shape)}."
        )
    given = (1, shape[1]) if positions is None else tuple(positions.shape)
    if not any(functional.shapes_agree(given, (rows, shape[1])) for rows in (1, shape[0])):
        raise ValueError(
            f"`positions` must have the shape [batch, length]. Received: shape {given}, inputs of "
            f"shape {tuple(shape)}."
        )
    return offset, positions


def _check_rank(shape, rank):
    if len(shape) != rank:
        wanted = "[batch, length, features]" if rank == 3 else "[batch, length, heads, head_dim]"
        raise ValueError(f"`inputs` must have the shape {wanted}. Received: shape {tuple(shape)}.")
