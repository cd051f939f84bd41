"""Dropout whose random bits are cheap under XLA."""

import keras

from keras_xfmr import kernels
from keras_xfmr.common.types import Tensor
from keras_xfmr.layers.base import Checked


@keras.saving.register_keras_serializable("keras_xfmr")
class Dropout(Checked, keras.layers.Dropout):
    """`keras.layers.Dropout` with the same arguments, drawn by `kernels.dropout`.

    y = x * keep / (1 - rate), keep ~ Bernoulli(1 - rate) (Srivastava et al. 2014).

    Example:

    >>> layer = Dropout(0.1, seed=7)
    >>> layer(keras.ops.ones((2, 5)), training=True).shape
    (2, 5)
    """

    token_wise = True

    def call(self, inputs: Tensor, training: bool | None = False) -> Tensor:
        if not training or self.rate == 0:
            return inputs
        if self.rate == 1:
            return keras.ops.zeros_like(inputs)
        if self.noise_shape is not None:
            return super().call(inputs, training=training)
        return kernels.dropout(inputs, self.rate, self.seed_generator.next())
