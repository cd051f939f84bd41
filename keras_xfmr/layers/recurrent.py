"""LSTM with a projected output.

B batch, T length, D features in, U units, P projection_dim
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_xfmr import functional, kernels
from keras_xfmr.common.checks import check_number, check_positive_int
from keras_xfmr.common.types import Config, Index, Initializer, Outputs, Shape, Tensor
from keras_xfmr.layers.base import Layer
from keras_xfmr.layers.composite import features, propagate_frozen
from keras_xfmr.layers.initializers import copy_initializer
from keras_xfmr.layers.masks import mask_of_positions

INITIALIZERS = ("kernel_initializer", "recurrent_initializer", "projection_initializer")


@keras.saving.register_keras_serializable("keras_xfmr")
class ProjectedLSTMCell(Layer):
    """One step of an LSTM whose output is projected (Sak et al. 2014), for `keras.layers.RNN`.

        i, j, f, o = x W + h R + b
        c' = clip(sigmoid(f + forget_bias) c + sigmoid(i) tanh(j))
        h' = clip((sigmoid(o) tanh(c')) W_p)

    The gates in W, R and b have the order of TensorFlow's `LSTMCell`, i, j, f, o, which published
    weights of ELMo use. `keras.layers.LSTM` has the order i, f, j, o, and adds its forget bias to
    b. A step computes c in float32 for every dtype policy, and returns it in the dtype of its input
    state: `keras.layers.RNN` stores all states in the dtype of the policy.

    Args:
        units: U, the size of the cell state.
        projection_dim: P, the size of the output.
        cell_clip: the maximum absolute value of c', or None.
        projection_clip: the maximum absolute value of h', or None.
        forget_bias: a constant added to f; it is no weight.
        use_bias: whether to use b.
        kernel_initializer, recurrent_initializer, projection_initializer: of W, R and W_p.

    Call arguments:
        inputs: x `[B, D]`.
        states: h `[B, P]` and c `[B, U]`.

    Returns:
        h' `[B, P]`, and the new states `[h', c']`.

    Raises:
        ValueError: a size or a clip is not positive.

    Example:

    >>> rnn = keras.layers.RNN(ProjectedLSTMCell(16, 8, cell_clip=3.0))
    >>> rnn(keras.random.normal((2, 5, 4))).shape
    (2, 8)
    """

    def __init__(
        self,
        units: int,
        projection_dim: int,
        *,
        cell_clip: float | None = None,
        projection_clip: float | None = None,
        forget_bias: float = 1.0,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "glorot_uniform",
        projection_initializer: Initializer = "glorot_uniform",
        **kwargs,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # c stays float32
        self.units = check_positive_int("units", units)
        self.projection_dim = check_positive_int("projection_dim", projection_dim)
        self.cell_clip = _check_clip("cell_clip", cell_clip)
        self.projection_clip = _check_clip("projection_clip", projection_clip)
        self.forget_bias = forget_bias
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        self.projection_initializer = keras.initializers.get(projection_initializer)
        self.state_size = [self.projection_dim, self.units]
        self.output_size = self.projection_dim

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "units": self.units,
            "projection_dim": self.projection_dim,
            "cell_clip": self.cell_clip,
            "projection_clip": self.projection_clip,
            "forget_bias": self.forget_bias,
            "use_bias": self.use_bias,
            **{
                name: keras.initializers.serialize(getattr(self, name)) for name in INITIALIZERS
            },
        }

    def build(self, input_shape: Shape) -> None:
        def add(name, shape, initializer):
            return self.add_weight(
                name=name, shape=shape, initializer=copy_initializer(initializer)
            )

        wide = 4 * self.units
        self.kernel = add("kernel", (input_shape[-1], wide), self.kernel_initializer)
        self.recurrent_kernel = add(
            "recurrent_kernel", (self.projection_dim, wide), self.recurrent_initializer
        )
        self.bias = add("bias", (wide,), keras.initializers.Zeros()) if self.use_bias else None
        self.projection_kernel = add(
            "projection_kernel", (self.units, self.projection_dim), self.projection_initializer
        )

    def input_product(self, inputs: Tensor) -> Tensor:
        """x W + b `[..., 4 U]`, with the forget bias: the part that depends on no other step."""
        features = inputs.shape[-1]
        z = ops.matmul(ops.reshape(inputs, (-1, features)), ops.cast(self.kernel, inputs.dtype))
        forget = ops.repeat(ops.array([0.0, 0.0, self.forget_bias, 0.0]), self.units)
        bias = forget if self.bias is None else ops.cast(self.bias, "float32") + forget
        z = z + ops.cast(bias, z.dtype)
        return ops.reshape(z, (*ops.shape(inputs)[:-1], 4 * self.units))

    def steps(
        self,
        z: Tensor,
        states: Sequence[Tensor],
        mask: Tensor | None = None,
        training: bool | None = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """All steps: `input_product`s `[T, B, 4 U]` to outputs `[T, B, P]` and the last states.

        Args:
            z: result of `input_product`.
            states: the first h and c.
            mask: bool `[T, B, 1]`, False where a row keeps its states, or None.
            training: whether gradients will be computed; it affects only speed.
        """
        h, c = states
        return kernels.projected_lstm(
            z,
            ops.cast(self.recurrent_kernel, z.dtype),
            ops.cast(self.projection_kernel, z.dtype),
            (ops.cast(h, z.dtype), ops.cast(c, "float32")),
            mask,
            (self.cell_clip, self.projection_clip),
            training=bool(training),
        )

    def call(
        self, inputs: Tensor, states: Sequence[Tensor], training: bool | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        z = self.input_product(ops.cast(inputs, self.compute_dtype))
        outputs, (h, c) = self.steps(ops.expand_dims(z, 0), states, training=training)
        return outputs[0], [h, ops.cast(c, states[1].dtype)]

    def get_initial_state(self, batch_size: Index | None = None) -> list[Tensor]:
        return [
            ops.zeros((batch_size, self.projection_dim), self.compute_dtype),
            ops.zeros((batch_size, self.units), "float32"),
        ]


@keras.saving.register_keras_serializable("keras_xfmr")
class ProjectedLSTM(Layer):
    """`ProjectedLSTMCell` over sequences, with the input product of all steps outside the loop.

    Masked steps keep the state and return zeros, so padding changes nothing at any position. The
    cell state c is float32 for every dtype policy.
    Override `get_initial_state` for another first state, such as a learned one.

    Args:
        units: U.
        projection_dim: P.
        go_backwards: whether to read the last step first. The outputs keep the order of the inputs;
            `keras.layers.LSTM` reverses them.
        return_state: whether to return the last h and c, too.
        **kwargs: the other arguments of `ProjectedLSTMCell`, and those of a layer.

    Call arguments:
        inputs: `[B, T, D]`.
        mask: bool `[B, T]`, False for padding; by default the implicit mask of the inputs.
        initial_state: h `[B, P]` and c `[B, U]`; by default `get_initial_state`.

    Returns:
        `[B, T, P]`; with `return_state` also h `[B, P]` and c `[B, U]`.

    Raises:
        ValueError: as for the cell; inputs, a mask or a state of another shape.

    Example:

    >>> ProjectedLSTM(16, 8, cell_clip=3.0)(keras.random.normal((2, 5, 4))).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        units: int,
        projection_dim: int,
        *,
        go_backwards: bool = False,
        return_state: bool = False,
        cell_clip: float | None = None,
        projection_clip: float | None = None,
        forget_bias: float = 1.0,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "glorot_uniform",
        projection_initializer: Initializer = "glorot_uniform",
        **kwargs,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # c stays float32
        self.supports_masking = True
        self.input_spec = keras.InputSpec(ndim=3)
        self.go_backwards = go_backwards
        self.return_state = return_state
        self.cell = ProjectedLSTMCell(
            units,
            projection_dim,
            cell_clip=cell_clip,
            projection_clip=projection_clip,
            forget_bias=forget_bias,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            projection_initializer=projection_initializer,
            dtype=self.dtype_policy,
            name="cell",
        )

    def get_config(self) -> Config:
        cell = self.cell.get_config()
        own = super().get_config()
        shared = {name: value for name, value in cell.items() if name not in own}
        return {
            **own, **shared, "go_backwards": self.go_backwards, "return_state": self.return_state
        }  # fmt: skip

    def build(self, input_shape: Shape) -> None:
        self.input_spec = features(input_shape, rank=3)
        self.cell.build(input_shape)
        propagate_frozen(self)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        initial_state: Sequence[Tensor] | None = None,
        training: bool | None = None,
    ) -> Outputs:
        mask = mask_of_positions("mask", mask, inputs.shape, None)
        self._check_state(inputs.shape, initial_state)
        x = ops.transpose(ops.cast(inputs, self.compute_dtype), (1, 0, 2))
        if mask is not None:
            mask = ops.expand_dims(ops.transpose(ops.cast(mask, "bool")), -1)
        if self.go_backwards:
            x = ops.flip(x, 0)
            mask = None if mask is None else ops.flip(mask, 0)
        if initial_state is None:
            initial_state = self.get_initial_state(ops.shape(inputs)[0])
        z = self.cell.input_product(x)
        outputs, states = self.cell.steps(z, initial_state, mask, training)
        if mask is not None:
            outputs = ops.where(mask, outputs, ops.zeros_like(outputs))
        if self.go_backwards:
            outputs = ops.flip(outputs, 0)
        outputs = ops.transpose(outputs, (1, 0, 2))
        return (outputs, *states) if self.return_state else outputs

    def get_initial_state(self, batch_size: Index | None = None) -> list[Tensor]:
        """Zeros h `[B, P]` and c float32 `[B, U]`; override it for another default first state."""
        return self.cell.get_initial_state(batch_size)

    def _check_state(self, shape, state):
        sizes = self.cell.projection_dim, self.cell.units
        if state is None:
            return
        given = [tuple(x.shape) for x in state]
        wanted = [(shape[0], size) for size in sizes]
        if len(given) != 2 or not all(map(functional.shapes_agree, given, wanted)):
            raise ValueError(
                f"`initial_state` must be h and c, of the shapes {wanted}. Received: {given}."
            )

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Any:
        return [mask, None, None] if self.return_state else mask

    def compute_output_shape(self, input_shape: Shape, **_) -> Shape | tuple[Shape, ...]:
        rows = input_shape[0]
        outputs = (*input_shape[:-1], self.cell.projection_dim)
        if not self.return_state:
            return outputs
        return outputs, (rows, self.cell.projection_dim), (rows, self.cell.units)

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        initial_state: Sequence[Tensor] | None = None,
        training: bool | None = None,
    ) -> Any:
        mask_of_positions("mask", mask, inputs.shape, None)
        self._check_state(inputs.shape, initial_state)
        shapes = self.compute_output_shape(inputs.shape)
        if not self.return_state:
            return keras.KerasTensor(shapes, dtype=self.compute_dtype)
        dtypes = self.compute_dtype, self.compute_dtype, "float32"
        return tuple(keras.KerasTensor(s, dtype=d) for s, d in zip(shapes, dtypes))


def _check_clip(name, value):
    return None if value is None else check_number(name, value, zero=False)
