"""Dense layers as products of two matrices, and those matrices computed once for a whole loop.

D features in, N heads, H head_dim
"""

import contextvars
import math
import types

import keras
from keras import ops

UPDATES = ("lora_kernel_a", "lora_kernel_b")


class KeepsUpdates:
    """A mixin of Keras' dense layers that saves low-rank updates beside the merged kernel.

    Keras saves the sum alone, and sets A and B to 0 where it is loaded, from where neither has a
    gradient: training would go on without a change.
    """

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.built and self.lora_enabled:
            for name in UPDATES:
                store[name] = getattr(self, name)

    def load_own_variables(self, store):
        rest = {key: store[key] for key in store.keys() if key not in UPDATES}
        if not self.built or not self.lora_enabled:
            return super().load_own_variables(rest)  # the sum
        if set(UPDATES) <= set(store.keys()):
            a, b = (ops.convert_to_tensor(store[name]) for name in UPDATES)
            update = ops.matmul(a, b) * (self.lora_alpha / self.lora_rank)
            merged = ops.convert_to_tensor(rest["0"])
            rest["0"] = merged - ops.cast(update, merged.dtype)
        else:
            shape = self.lora_kernel_a.shape
            a = keras.initializers.HeUniform()(shape, "float32")  # as Keras draws it
            b = ops.zeros(self.lora_kernel_b.shape)
        super().load_own_variables(rest)
        for name, value in zip(UPDATES, (a, b)):
            getattr(self, name).assign(value)


@keras.saving.register_keras_serializable("keras_xfmr")
class AdaptableDense(KeepsUpdates, keras.layers.Dense):
    """`keras.layers.Dense` whose low-rank updates outlive saving."""


class RowDense(KeepsUpdates, keras.layers.EinsumDense):
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

    def build(self, input_shape):
        super().build((None, *input_shape[-self._contracted :]))
        self.input_spec = None  # it speaks of the rows, not of what `call` takes

    def prepare(self):
        """The kernel as a matrix, `[D, N H]` for a kernel `[D, N, H]`."""
        kernel = ops.cast(self.kernel, self.compute_dtype)
        return ops.reshape(kernel, (-1, math.prod(self._output_axes)))

    def call(self, inputs, training=None):
        kernel = matrix_of(self)
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


# id of a layer -> its matrix. Each thread has its own, as several may trace a model at once.
_prepared = contextvars.ContextVar("prepared", default=types.MappingProxyType({}))


def matrix_of(layer):
    """What `layer.prepare()` gives, computed before where a `Prepared` is in use."""
    prepared = _prepared.get().get(id(layer))
    return layer.prepare() if prepared is None else prepared


class Prepared:
    """The matrices of some layers, computed where this is made and used inside `with`.

    For the body of a loop whose weights do not change. A cast or a transposition is then made once
    and not at every step, and what is left in the loop is a product with a plain matrix: with a
    matrix that is the view of a kernel `[D, N, H]`, XLA:CPU makes the product of a single row a
    scalar loop over columns.

    Args:
        layers: each has `prepare()`, and multiplies with `matrix_of(self)`.

    Example::

        matrices = Prepared(attention.projections())

        def step(x):
            with matrices:
                return attention(x, x)
    """

    def __init__(self, layers):
        self._matrices = {id(layer): layer.prepare() for layer in layers}

    def __enter__(self):
        self._before = _prepared.set(self._matrices)
        return self

    def __exit__(self, *error):
        _prepared.reset(self._before)
