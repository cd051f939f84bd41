"""The residual connection around a sublayer.

B batch, T length, D d_model
"""

import keras

from keras_xfmr import functional
from keras_xfmr.common.checks import check_rate
from keras_xfmr.common.types import Config, Seed, Self, Shape, Tensor
from keras_xfmr.layers.base import Layer
from keras_xfmr.layers.composite import features, propagate_frozen
from keras_xfmr.layers.dropout import Dropout
from keras_xfmr.layers.normalization import LayerNorm, RMSNorm

NORMS = {"layer_norm": LayerNorm, "rms_norm": RMSNorm}


@keras.saving.register_keras_serializable("keras_xfmr")
class AddNorm(Layer):
    """Norm(x + Dropout(Sublayer(x))) (Vaswani et al. 2017, sections 3.1 and 5.4).

    The call is post-norm. A pre-norm block (Xiong et al. 2020) uses the two parts separately:
    `x = add_norm.add(x, sublayer(add_norm.normalize(x)))`.

    Args:
        norm: `"layer_norm"`, `"rms_norm"`, or a layer.
        dropout_rate: dropout on the sublayer's output, in [0, 1].
        epsilon: of the norm, if it is given by name.
        seed: seed of the dropout.

    Call arguments:
        inputs: x, `[B, T, D]`.
        sublayer_output: `[B, T, D]`.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: an unknown norm, a rate outside [0, 1], an `epsilon` outside (0, 1), or shapes
            that differ.

    Example:

    >>> x = keras.random.normal((2, 5, 8))
    >>> AddNorm(dropout_rate=0.1)(x, keras.layers.Dense(8)(x)).shape
    (2, 5, 8)
    """

    token_wise = True

    def __init__(
        self,
        norm: str | keras.layers.Layer = "layer_norm",
        *,
        dropout_rate: float = 0.0,
        epsilon: float = 1e-6,
        seed: Seed | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(norm, keras.layers.Layer) and norm not in NORMS:
            raise ValueError(
                f"`norm` must be a layer or one of {tuple(NORMS)}. Received: {norm!r}."
            )
        self.supports_masking = True
        self.dropout_rate = check_rate("dropout_rate", dropout_rate, all_too=True)
        self.epsilon = epsilon
        self.seed = seed
        self._norm_argument = norm
        self.norm = (
            NORMS[norm](epsilon=epsilon, dtype=self.dtype_policy, name="norm")
            if isinstance(norm, str)
            else norm
        )
        self.dropout = Dropout(dropout_rate, seed=seed, dtype=self.dtype_policy, name="dropout")

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "norm": keras.saving.serialize_keras_object(self._norm_argument),
            "dropout_rate": self.dropout_rate,
            "epsilon": self.epsilon,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: Config) -> Self:
        norm = keras.saving.deserialize_keras_object(config["norm"])
        return cls(**{**config, "norm": norm})

    def build(self, inputs_shape: Shape, sublayer_output_shape: Shape | None = None) -> None:
        self.input_spec = features(inputs_shape)
        if not self.norm.built:
            self.norm.build(inputs_shape)
        propagate_frozen(self)

    def call(self, inputs: Tensor, sublayer_output: Tensor, training: bool | None = None) -> Tensor:
        return self.normalize(self.add(inputs, sublayer_output, training=training))

    def add(self, inputs: Tensor, sublayer_output: Tensor, training: bool | None = None) -> Tensor:
        """x + Dropout(sublayer output)."""
        _check_shapes(inputs.shape, sublayer_output.shape)
        return inputs + self.dropout(sublayer_output, training=training)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Norm(x)."""
        return self.norm(inputs)

    def compute_output_shape(
        self, inputs_shape: Shape, sublayer_output_shape: Shape | None = None
    ) -> Shape:
        if sublayer_output_shape is not None:  # Keras calls only this for a `keras.Input`
            _check_shapes(inputs_shape, sublayer_output_shape)
        return inputs_shape


def _check_shapes(given, kept):
    if not functional.shapes_agree(tuple(given), tuple(kept)):
        raise ValueError(
            "The sublayer must keep the shape of its input. Received: input "
            f"{tuple(given)}, output {tuple(kept)}."
        )
