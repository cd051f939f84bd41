"""A weighted mean of the vectors of several layers.

B batch, T length, D features, L layers
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_number, check_rate
from keras_xfmr.common.types import Config, Seed, Shape, Tensor
from keras_xfmr.layers.base import Layer


@keras.saving.register_keras_serializable("keras_xfmr")
class ScalarMix(Layer):
    """gamma * sum_j s_j h_j, s = softmax(w) (Peters et al. 2018, equation 1).

    w begins at 0, the plain mean, and gamma at 1. Override `compute_layer_weights` for another s.

    Args:
        layer_dropout_rate: probability that a training step drops a layer (Kondratyuk and Straka
            2019): its w is then minus infinity. At least one layer stays.
        l2: factor of the sum of w^2 that is added to the loss.
        layer_norm: whether to normalize each h_j, (h - mean) / sd of the D features of a position,
            without weights. The original takes the mean over all words of the batch, so a vector
            depends on the other rows there.
        seed: seed of the dropout.

    Call arguments:
        inputs: a list of L tensors `[B, T, D]`.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: the inputs are not a list, have different shapes, or are not as many layers as
            in the first call; a rate is outside [0, 1).

    Example:

    >>> layers = [keras.random.normal((2, 5, 8)) for _ in range(3)]
    >>> mix = ScalarMix()
    >>> mix(layers).shape, [round(float(s), 3) for s in mix.layer_weights()]
    ((2, 5, 8), [0.333, 0.333, 0.333])
    """

    def __init__(
        self,
        *,
        layer_dropout_rate: float = 0.0,
        l2: float = 0.0,
        layer_norm: bool = False,
        seed: Seed | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.layer_dropout_rate = check_rate("layer_dropout_rate", layer_dropout_rate)
        self.l2 = check_number("l2", l2)
        self.layer_norm = layer_norm
        self.seed = seed
        self.seed_generator = (
            keras.random.SeedGenerator(seed) if self.layer_dropout_rate else None
        )

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "layer_dropout_rate": self.layer_dropout_rate,
            "l2": self.l2,
            "layer_norm": self.layer_norm,
            "seed": self.seed,
        }

    def build(self, input_shape: Sequence[Shape]) -> None:
        if not isinstance(input_shape, (list, tuple)) or not isinstance(
            input_shape[0], (list, tuple)
        ):
            raise ValueError(
                "Expected a list of the layers' vectors, each [B, T, D]. Received: a single shape "
                f"{input_shape}."
            )
        self._check(input_shape, len(input_shape))
        self.weight = self.add_weight(
            name="weight",
            shape=(len(input_shape),),
            initializer="zeros",
            regularizer=keras.regularizers.L2(self.l2) if self.l2 else None,
        )
        self.gamma = self.add_weight(name="gamma", shape=(), initializer="ones")

    def layer_weights(self) -> np.ndarray:
        """s `[L]`, NumPy float32: the weight of each layer in the mix."""
        return ops.convert_to_numpy(self.compute_layer_weights())

    def compute_layer_weights(self, training: bool | None = None) -> Tensor:
        """s `[L]`, float32; with `training` layers may be dropped. Override it for another s."""
        weight = ops.cast(self.weight, "float32")
        if training and self.layer_dropout_rate:
            drawn = keras.random.uniform(ops.shape(weight), seed=self.seed_generator)
            keep = drawn >= ops.minimum(self.layer_dropout_rate, ops.max(drawn))
            weight = ops.where(keep, weight, -1e30)
        share = ops.exp(weight - ops.max(weight))  # Keras' softmax warns of one layer
        return share / ops.sum(share)

    def call(self, inputs: Sequence[Tensor], training: bool | None = None) -> Tensor:
        share = self.compute_layer_weights(training) * ops.cast(self.gamma, "float32")
        self._check([x.shape for x in inputs], self.weight.shape[0])
        mixed = 0.0
        for j, x in enumerate(inputs):
            x = ops.cast(x, "float32")
            mixed = mixed + share[j] * (_normalize(x) if self.layer_norm else x)
        return ops.cast(mixed, self.compute_dtype)

    def compute_mask(self, inputs: Sequence[Tensor], mask: Any = None) -> Tensor | None:
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def _check(self, shapes, count):
        if len(shapes) != count:
            raise ValueError(
                f"Expected the vectors of {count} layers, as at the first call. "
                f"Received: {len(shapes)}."
            )
        if not all(functional.shapes_agree(shapes[0], shape) for shape in shapes):
            raise ValueError(
                "The layers' vectors must have one shape. Received: shapes "
                f"{', '.join(str(tuple(shape)) for shape in shapes)}."
            )

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        self._check(input_shape, self.weight.shape[0] if self.built else len(input_shape))
        return tuple(input_shape[0])


def _normalize(x):
    mean = ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(x - mean), axis=-1, keepdims=True)
    return (x - mean) / ops.sqrt(variance + 1e-12)
