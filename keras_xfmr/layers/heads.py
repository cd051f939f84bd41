"""What stands on an encoder: the masked language model's head.

B batch, T length, P predictions, D d_model, V vocab_size
"""

import keras
from keras import ops

from keras_xfmr.layers.feed_forward import PositionWiseFFN
from keras_xfmr.layers.normalization import LayerNorm


@keras.saving.register_keras_serializable("keras_xfmr")
class MaskedLMTransform(keras.layers.Layer):
    """LayerNorm(act(x W + b)) at some positions (Devlin et al. 2019, section 3.1, task 1).

    The product with the token table, tied, and a `VocabularyBias` follow:

        logits = token_embedding(transform(x, positions), reverse=True) + bias

    Args:
        activation: a name of `PositionWiseFFN`.
        epsilon: of the norm.
        kernel_initializer: of W.

    Call arguments:
        inputs: `[B, T, D]`.
        positions: integers `[B, P]`, or None for all of them.

    Returns:
        `[B, P, D]`.

    Example:

    >>> x = keras.random.normal((2, 5, 8))
    >>> MaskedLMTransform()(x, np.array([[1, 3], [0, 2]])).shape
    (2, 2, 8)
    """

    def __init__(
        self,
        activation="gelu",
        *,
        epsilon=1e-12,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.activation = activation
        self.epsilon = epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self._activate = PositionWiseFFN.resolve_activation(activation)

    def get_config(self):
        return {
            **super().get_config(),
            "activation": self.activation,
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def build(self, inputs_shape, positions_shape=None):
        self.dense = keras.layers.Dense(
            inputs_shape[-1],
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build(inputs_shape)
        self.norm = LayerNorm(epsilon=self.epsilon, dtype=self.dtype_policy, name="norm")
        self.norm.build(inputs_shape)

    def call(self, inputs, positions=None):
        if positions is not None:
            inputs = ops.take_along_axis(inputs, ops.expand_dims(positions, -1), axis=1)
        return self.norm(self._activate(self.dense(inputs)))

    def compute_output_shape(self, inputs_shape, positions_shape=None):
        length = inputs_shape[1] if positions_shape is None else positions_shape[1]
        return (inputs_shape[0], length, inputs_shape[2])


@keras.saving.register_keras_serializable("keras_xfmr")
class VocabularyBias(keras.layers.Layer):
    """logits + b: the bias of an output that is tied to a token table.

    Call arguments:
        logits: `[..., V]`.

    Example:

    >>> VocabularyBias()(keras.ops.zeros((2, 3, 7))).shape
    (2, 3, 7)
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],), initializer="zeros")

    def call(self, logits):
        return logits + self.bias
