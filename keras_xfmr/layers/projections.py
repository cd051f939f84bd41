"""Dense layers as products of two matrices, which a loop can prepare once.

R rows, D features in, F features out, N heads, H head_dim
"""

import functools
import inspect
import math
from typing import Any

import keras
from keras import ops

from keras_xfmr.common.types import Mixin

# For so many rows XLA:CPU reads a transposed matrix up to 1.7 times faster.
FEW_ROWS = range(3, 33)


class SavesLora(Mixin):
    """A mixin for Keras' layers that saves low-rank updates beside the merged kernel.

    Keras saves only the sum, and loads A and B as 0. Then neither has a gradient, and training
    would change nothing.
    """

    updates = ("lora_kernel_a", "lora_kernel_b")

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.built and self.lora_enabled:
            for name in self.updates:
                store[name] = getattr(self, name)

    def load_own_variables(self, store: Any) -> None:
        rest = {key: store[key] for key in store.keys() if key not in self.updates}
        if not self.built or not self.lora_enabled:
            return super().load_own_variables(rest)  # the sum
        if set(self.updates) <= set(store.keys()):
            a, b = (ops.convert_to_tensor(store[name]) for name in self.updates)
            update = ops.matmul(a, b) * (self.lora_alpha / self.lora_rank)
            merged = ops.convert_to_tensor(rest["0"])
            rest["0"] = merged - ops.cast(update, merged.dtype)
        else:
            a, b = (getattr(self, name) for name in self.updates)
            a = keras.initializers.HeUniform()(a.shape, "float32")  # as Keras draws it
            b = ops.zeros(b.shape)
        super().load_own_variables(rest)
        for name, value in zip(self.updates, (a, b)):
            getattr(self, name).assign(value)


@keras.saving.register_keras_serializable("keras_xfmr")
class AdaptableDense(SavesLora, keras.layers.Dense):
    """`keras.layers.Dense` that saves its low-rank updates."""

    def prepare(self, rows=None):
        """The product with the kernel `[D, F]`, for `Prepared`."""
        return _product(ops.cast(self.kernel, self.compute_dtype), rows)

    def call(self, inputs, training=None, product=None):
        if product is None:
            return super().call(inputs, training=training)
        x = product(ops.reshape(inputs, (-1, inputs.shape[-1])))
        if self.bias is not None:
            x = x + ops.cast(self.bias, x.dtype)
        if self.activation is not None:
            x = self.activation(x)
        return ops.reshape(x, (*ops.shape(inputs)[:-1], self.units))


class RowDense(SavesLora, keras.layers.EinsumDense):
    """A dense layer over the last axes of its input, as one product of two matrices.

    `EinsumDense` on `[B, T, D]` multiplies a batch of matrices. Its gradient is a batch of kernels
    that must be summed.
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

    def build(self, input_shape):
        super().build((None, *input_shape[-self._contracted :]))
        axes = {axis: input_shape[axis] for axis in range(-self._contracted, 0)}
        self.input_spec = keras.InputSpec(axes=axes)  # Keras' describes the matrix of rows

    def prepare(self, rows=None):
        """The product with the kernel as a matrix, `[D, N H]` for a kernel `[D, N, H]`."""
        kernel = ops.cast(self.kernel, self.compute_dtype)
        return _product(ops.reshape(kernel, (-1, math.prod(self._output_axes))), rows)

    def call(self, inputs, training=None, product=None):
        features = math.prod(inputs.shape[-self._contracted :])
        product = self.prepare() if product is None else product
        x = product(ops.reshape(inputs, (-1, features)))
        if self.bias is not None:
            x = x + ops.reshape(ops.cast(self.bias, x.dtype), (math.prod(self._output_axes),))
        if self.activation is not None:
            x = self.activation(x)
        kept = ops.shape(inputs)[: -self._contracted]
        return ops.reshape(x, (*kept, *self._output_axes))

    def compute_output_shape(self, input_shape):
        return (*input_shape[: -self._contracted], *self._output_axes)

    def compute_output_spec(self, inputs, training=None, product=None):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)


def _product(matrix, rows):
    """The function from `x [R, D]` to `x` times `matrix [D, F]`; R = `rows` if known."""
    if rows in FEW_ROWS:
        return functools.partial(times_transposed, transposed=ops.transpose(matrix))
    return lambda x: ops.matmul(x, matrix)


def times_transposed(x, transposed):
    """`x [R, D]` times the transpose of `transposed [F, D]`, without transposing it."""
    return ops.transpose(ops.matmul(transposed, ops.transpose(x)))


class Prepared:
    """The products with some layers' matrices, prepared once for a loop of calls.

    For the body of a loop whose weights do not change. A cast or a transposition is then done once,
    not at every step, and the loop multiplies by a plain matrix. With a view of a kernel
    `[D, N, H]` instead, XLA:CPU computes the product of a single row by a scalar loop over columns.

    Args:
        layers: each has `prepare(rows)`, a function from `[R, D]` to `[R, F]`, and a call argument
            `product`, such a function.
        rows: R inside the loop, if known: for few rows the matrices are transposed.

    Example::

        products = Prepared(attention.projections())

        def step(x):
            return attention(x, x, products=products)
    """

    def __init__(self, layers, rows=None):
        self._products = {layer: layer.prepare(rows) for layer in layers}

    def of(self, layer):
        """The product for a layer, or None."""
        return self._products.get(layer)


def project(layer, inputs, products=None, **arguments):
    """`layer(inputs)`, with the layer's product from `products` (a `Prepared` or None), if any."""
    product = None if products is None else products.of(layer)
    if product is not None:
        arguments["product"] = product
    return layer(inputs, **arguments)


def handed(function, products):
    """`{"products": products}`, or nothing if there are none or `function` does not take them.

    A subclass may override a method without this argument: results are the same, but slower.
    """
    if products is None or "products" not in inspect.signature(function).parameters:
        return {}
    return {"products": products}
