"""The position-wise feed-forward network.

B batch, T length, D d_model, F ffn_dim
"""

import keras
from keras import ops

from keras_xfmr.common.checks import check_positive_int, check_rate
from keras_xfmr.common.types import Activation, Config, Initializer, Seed, Shape, Tensor
from keras_xfmr.layers.activations import gelu_exact, get_activation, serialize_activation
from keras_xfmr.layers.base import Layer
from keras_xfmr.layers.composite import features, propagate_frozen
from keras_xfmr.layers.dropout import Dropout
from keras_xfmr.layers.initializers import copy_initializer
from keras_xfmr.layers.projections import AdaptableDense, Prepared, handed, project

GATES = {"glu": ops.sigmoid, "reglu": ops.relu, "swiglu": ops.silu, "geglu": gelu_exact}


@keras.saving.register_keras_serializable("keras_xfmr")
class PositionWiseFFN(Layer):
    """FFN(x) = act(x W_1 + b_1) W_2 + b_2 (Vaswani et al. 2017, equation 2).

    Gated variants (Shazeer 2020): FFN(x) = (act(x W_g + b_g) * (x W_1 + b_1)) W_2 + b_2 with the
    sigmoid (`"glu"`), ReLU (`"reglu"`), SiLU (`"swiglu"`) or exact GELU (`"geglu"`).

    `"gelu"` is exact here, as in published BERT configurations; `"gelu_tanh"` (also
    `"gelu_new"`) is the tanh approximation.

    Args:
        ffn_dim: F, the inner size.
        activation: a name above, any Keras activation, or a function.
        dropout_rate: dropout on the inner features, in [0, 1]; the paper has none.
        use_bias: whether the products have biases.
        output_dim: size of the output; by default D.
        kernel_initializer, bias_initializer: of the products.
        seed: seed of the dropout.

    Call arguments:
        inputs: `[B, T, D]`.
        products: a `Prepared` of `projections()`, for a loop of calls.

    Returns:
        `[B, T, output_dim]`.

    Raises:
        ValueError: an unknown activation, or a rate outside [0, 1].

    Example:

    >>> PositionWiseFFN(2048, activation="swiglu")(keras.random.normal((2, 5, 512))).shape
    (2, 5, 512)
    """

    token_wise = True

    def __init__(
        self,
        ffn_dim: int,
        activation: Activation = "relu",
        *,
        dropout_rate: float = 0.0,
        use_bias: bool = True,
        output_dim: int | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        seed: Seed | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.ffn_dim = check_positive_int("ffn_dim", ffn_dim)
        self.activation = activation
        self.dropout_rate = check_rate("dropout_rate", dropout_rate, all_too=True)
        self.use_bias = use_bias
        self.output_dim = (
            None if output_dim is None else check_positive_int("output_dim", output_dim)
        )
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.seed = seed
        self.dropout = Dropout(dropout_rate, seed=seed, dtype=self.dtype_policy)
        if isinstance(activation, str) and activation in GATES:
            self.gated, self._activate = True, GATES[activation]
        else:
            self.gated, self._activate = False, get_activation(activation, further=GATES)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "ffn_dim": self.ffn_dim,
            "activation": serialize_activation(self.activation),
            "dropout_rate": self.dropout_rate,
            "use_bias": self.use_bias,
            "output_dim": self.output_dim,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "seed": self.seed,
        }

    def build(self, input_shape: Shape) -> None:
        self.input_spec = features(input_shape)
        output_dim = self.compute_output_shape(input_shape)[-1]
        inner_shape = (*input_shape[:-1], self.ffn_dim)
        self.inner_dense = self._dense("inner", self.ffn_dim, input_shape)
        if self.gated:
            self.gate_dense = self._dense("gate", self.ffn_dim, input_shape)
        self.output_dense = self._dense("output", output_dim, inner_shape)
        propagate_frozen(self)

    def _dense(self, name, units, input_shape):
        layer = AdaptableDense(
            units,
            use_bias=self.use_bias,
            kernel_initializer=copy_initializer(self.kernel_initializer),
            bias_initializer=copy_initializer(self.bias_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build(input_shape)
        return layer

    def projections(self) -> list[keras.layers.Layer]:
        """The dense layers, for `Prepared`; a subclass may return others."""
        names = ("inner_dense", "gate_dense", "output_dense")
        layers = (getattr(self, name, None) for name in names)
        return [layer for layer in layers if isinstance(layer, AdaptableDense)]

    def call(
        self, inputs: Tensor, training: bool | None = None, products: Prepared | None = None
    ) -> Tensor:
        inner = self.activate(inputs, **handed(self.activate, products))
        return project(self.output_dense, self.dropout(inner, training=training), products)

    def activate(self, inputs: Tensor, products: Prepared | None = None) -> Tensor:
        """The inner features `[B, T, F]`; override it for another activation."""
        inner = project(self.inner_dense, inputs, products)
        if self.gated:
            return self._activate(project(self.gate_dense, inputs, products)) * inner
        return self._activate(inner)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], input_shape[-1] if self.output_dim is None else self.output_dim)
