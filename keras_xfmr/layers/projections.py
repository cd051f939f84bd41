"""Dense layers as products of two matrices, and those matrices computed once for a whole loop.

D features in, N heads, H head_dim
"""

import math

import keras
from keras import ops


class RowDense(keras.layers.EinsumDense):
    """A dense layer over the last axes of its input, as one product of two matrices.

    `EinsumDense` on `[B, T, D]` multiplies a batch of matrices, whose gradient is a batch of
    kernels that has to be summed.
    """

    def __init__(self, contracted, output_axes, *, use_bias=True, **kwargs):
        self._contracted, self._output_axes = contracted, tuple(output_axes)
        inner, outer = "bcdefg"[:contracted], "uvwxyz"[: len(output_axes)]
        super().__init__(
            f"a{inner},{inner}{outer}->a{outer}",
            output_shape=self._output_axes,
            bias_axes=outer if use_bias else None,
            **kwargs,
        )
        self.prepared = None

    def build(self, input_shape):
        super().build((None, *input_shape[-self._contracted :]))
        self.input_spec = None  # it speaks of the rows, not of what `call` takes

    def prepare(self):
        """The kernel as a matrix, `[D, N H]` for a kernel `[D, N, H]`."""
        kernel = ops.cast(self.kernel, self.compute_dtype)
        return ops.reshape(kernel, (-1, math.prod(self._output_axes)))

    def call(self, inputs, training=None):
        kernel = self.prepare() if self.prepared is None else self.prepared
        x = ops.matmul(ops.reshape(inputs, (-1, kernel.shape[0])), kernel)
        if self.bias is not None:
            x = x + ops.reshape(ops.cast(self.bias, x.dtype), (kernel.shape[1],))
        if self.activation is not None:
            x = self.activation(x)
        kept = ops.shape(inputs)[: -self._contracted]
        return ops.reshape(x, (*kept, *self._output_axes))

    def compute_output_shape(self, input_shape):
        return (*input_shape[: -self._contracted], *self._output_axes)

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)


class Prepared:
    """The matrices of some layers, computed where this is made and used inside `with`.

    For the body of a loop whose weights do not change. A cast or a transposition is then made once
    and not at every step, and what is left in the loop is a product with a plain matrix: with a
    matrix that is the view of a kernel `[D, N, H]`, XLA:CPU makes the product of a single row a
    scalar loop over columns.

    Args:
        layers: each has `prepare()`, and reads `prepared` where that is not None.

    Example::

        matrices = Prepared(attention.projections())

        def step(x):
            with matrices:
                return attention(x, x)
    """

    def __init__(self, layers):
        self._matrices = [(layer, layer.prepare()) for layer in layers]

    def __enter__(self):
        for layer, matrix in self._matrices:
            layer.prepared = matrix
        return self

    def __exit__(self, *error):
        for layer, _ in self._matrices:
            layer.prepared = None
