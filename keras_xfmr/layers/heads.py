"""Layers on top of an encoder: the head of a masked language model.

B batch, T length, D d_model, V vocab_size
"""

import keras

from keras_xfmr.common.checks import check_epsilon
from keras_xfmr.common.types import Activation, Config, Initializer, Shape, Tensor
from keras_xfmr.layers.activations import get_activation, serialize_activation
from keras_xfmr.layers.base import Layer
from keras_xfmr.layers.composite import features, propagate_frozen
from keras_xfmr.layers.initializers import copy_initializer
from keras_xfmr.layers.normalization import LayerNorm


@keras.saving.register_keras_serializable("keras_xfmr")
class MaskedLMTransform(Layer):
    """LayerNorm(act(x W + b)), before the product with the tied token table.

    The first part of the masked language model's head (Devlin et al. 2019, section 3.1, task 1;
    google-research/bert, `get_masked_lm_output`).

        logits = token_embedding(transform(x), reverse=True) + bias

    Args:
        activation: a name of `PositionWiseFFN` without a gate, any Keras activation, or a function.
        epsilon: of the norm.
        kernel_initializer: of W.

    Call arguments:
        inputs: `[B, T, D]`.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: an unknown activation, or an `epsilon` outside (0, 1).

    Example:

    >>> x = keras.random.normal((2, 5, 8))
    >>> MaskedLMTransform()(x).shape
    (2, 5, 8)
    """

    token_wise = True

    def __init__(
        self,
        activation: Activation = "gelu",
        *,
        epsilon: float = 1e-12,
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.activation = activation
        self.epsilon = check_epsilon("epsilon", epsilon)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self._activate = get_activation(activation)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "activation": serialize_activation(self.activation),
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def build(self, input_shape: Shape) -> None:
        self.input_spec = features(input_shape)
        self.dense = keras.layers.Dense(
            input_shape[-1],
            kernel_initializer=copy_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build(input_shape)
        self.norm = LayerNorm(epsilon=self.epsilon, dtype=self.dtype_policy, name="norm")
        self.norm.build(input_shape)
        propagate_frozen(self)

    def call(self, inputs: Tensor) -> Tensor:
        return self.norm(self._activate(self.dense(inputs)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable("keras_xfmr")
class VocabularyBias(Layer):
    """logits + b: the bias of an output whose weights are tied to a token table.

    Call arguments:
        logits: `[..., V]`.

    Example:

    >>> VocabularyBias()(keras.ops.zeros((2, 3, 7))).shape
    (2, 3, 7)
    """

    token_wise = True

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        self.input_spec = features(input_shape)
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],), initializer="zeros")

    def get_config(self) -> Config:
        return super().get_config()  # Keras' default refuses a policy instead of a name

    def call(self, logits: Tensor) -> Tensor:
        return logits + self.bias

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
