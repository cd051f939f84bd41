"""Words as their characters.

B batch, T words, C characters of a word, E character_dim, N filters of all widths, P projection_dim
"""

from collections.abc import Sequence

import keras
from keras import ops

from keras_xfmr.common.checks import check_int, check_positive_int
from keras_xfmr.common.types import Activation, Config, Ids, Initializer, Shape, Tensor
from keras_xfmr.layers.activations import get_activation, serialize_activation
from keras_xfmr.layers.base import Layer
from keras_xfmr.layers.composite import features, propagate_frozen
from keras_xfmr.layers.initializers import copy_initializer


@keras.saving.register_keras_serializable("keras_xfmr")
class Highway(Layer):
    """y = g * act(x W_t + b_t) + (1 - g) * x, g = sigmoid(x W_g + b_g) (Srivastava et al. 2015).

    Args:
        activation: act, see `PositionWiseFFN`.
        gate_bias: initial value of b_g: at -2 most of x passes unchanged (Kim et al. 2016).
        kernel_initializer: of W_t and W_g; by default normal with deviation 1 / sqrt(N) (ELMo).

    Call arguments:
        inputs: `[..., N]`.

    Returns:
        `[..., N]`.

    Example:

    >>> Highway()(keras.random.normal((2, 5, 8))).shape
    (2, 5, 8)
    """

    token_wise = True

    def __init__(
        self,
        activation: Activation = "relu",
        *,
        gate_bias: float = -2.0,
        kernel_initializer: Initializer | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.activation = activation
        self.gate_bias = gate_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self._activate = get_activation(activation)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "activation": serialize_activation(self.activation),
            "gate_bias": self.gate_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def build(self, input_shape: Shape) -> None:
        self.input_spec = features(input_shape)
        units = input_shape[-1]
        self.transform = self._dense("transform", units, self._activate)
        self.gate = self._dense(
            "gate", units, "sigmoid", bias_initializer=keras.initializers.Constant(self.gate_bias)
        )
        for layer in (self.transform, self.gate):
            layer.build(input_shape)
        propagate_frozen(self)

    def _dense(self, name, units, activation, **options):
        initializer = self.kernel_initializer
        if initializer is None:
            initializer = keras.initializers.RandomNormal(stddev=units**-0.5)
        return keras.layers.Dense(
            units,
            activation,
            kernel_initializer=copy_initializer(initializer),
            dtype=self.dtype_policy,
            name=name,
            **options,
        )

    def call(self, inputs: Tensor) -> Tensor:
        gate = self.gate(inputs)
        return gate * self.transform(inputs) + (1 - gate) * inputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable("keras_xfmr")
class CharacterCNN(Layer):
    """A word's vector from its characters (Kim et al. 2016; Peters et al. 2018).

        for each width w:  y_w = act(max over places of the convolution of width w)
        x = projection(highways(concatenation of all y_w))

    Passes on a mask of the words; no word depends on another. Override `pool` for another
    reduction over the places.

    Args:
        projection_dim: P. If P is N, there is no projection, as in the original.
        filters: pairs of a width and a number of filters; N is the sum of the numbers.
        character_dim: E.
        num_highway: number of `Highway` layers.
        num_characters: number of character ids. Id 0 is padding; its vector is 0 and no weight.
        activation: act, also of the highways.
        kernel_initializer: of the convolutions, the highways and the projection; by default as in
            ELMo: uniform in -0.05 .. 0.05, and normal with deviation 1 / sqrt(N).

    Call arguments:
        inputs: character ids `[B, T, C]`, C at least the greatest width; see
            `keras_xfmr.text.words_to_characters`.

    Returns:
        `[B, T, P]`.

    Raises:
        ValueError: sizes that are not positive, filters wider than a word, or inputs of another
            rank.

    Example:

    >>> layer = CharacterCNN(8, [(1, 4), (3, 12)], character_dim=5)
    >>> layer(np.full((2, 7, 50), 261)).shape
    (2, 7, 8)
    """

    def __init__(
        self,
        projection_dim: int,
        filters: Sequence[Sequence[int]],
        *,
        character_dim: int = 16,
        num_highway: int = 2,
        num_characters: int = 262,
        activation: Activation = "relu",
        kernel_initializer: Initializer | None = None,
        **kwargs,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # half precision would round ids
        self.supports_masking = True
        self.input_spec = keras.InputSpec(ndim=3)
        self.projection_dim = check_positive_int("projection_dim", projection_dim)
        self.filters = check_filters(filters)
        self.character_dim = check_positive_int("character_dim", character_dim)
        self.num_highway = check_int("num_highway", num_highway, least=0)
        self.num_characters = check_int("num_characters", num_characters, least=2)
        self.activation = activation
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self._activate = get_activation(activation)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "projection_dim": self.projection_dim,
            "filters": self.filters,
            "character_dim": self.character_dim,
            "num_highway": self.num_highway,
            "num_characters": self.num_characters,
            "activation": serialize_activation(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def build(self, input_shape: Shape) -> None:
        characters = input_shape[-1]
        widest = max(width for width, _ in self.filters)
        if characters is None or characters < widest:
            raise ValueError(
                f"Words must have at least {widest} characters, the width of a filter, and "
                f"the same number in each batch. Received: shape {tuple(input_shape)}."
            )
        total = sum(count for _, count in self.filters)
        uniform = keras.initializers.RandomUniform(-0.05, 0.05)
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_characters - 1, self.character_dim),
            initializer=keras.initializers.RandomUniform(-1.0, 1.0),
        )
        self.convolutions = [
            keras.layers.Conv1D(
                count, width, kernel_initializer=self._initializer(uniform),
                dtype=self.dtype_policy, name=f"convolution_{i}",
            )
            for i, (width, count) in enumerate(self.filters)
        ]  # fmt: skip
        normal = keras.initializers.RandomNormal(stddev=total**-0.5)
        self.highways = [
            Highway(
                self.activation, kernel_initializer=self._initializer(normal),
                dtype=self.dtype_policy, name=f"highway_{i}",
            )
            for i in range(self.num_highway)
        ]  # fmt: skip
        self.projection = None
        if total != self.projection_dim:
            self.projection = keras.layers.Dense(
                self.projection_dim, kernel_initializer=self._initializer(normal),
                dtype=self.dtype_policy, name="projection",
            )  # fmt: skip
        for layer in self.convolutions:
            layer.build((None, characters, self.character_dim))
        for layer in filter(None, (*self.highways, self.projection)):
            layer.build((None, total))
        propagate_frozen(self)

    def _initializer(self, default):
        return copy_initializer(self.kernel_initializer or default)

    def call(self, inputs: Ids) -> Tensor:
        ids = ops.cast(inputs, "int32")
        rows, words, characters = ops.shape(ids)
        ids = ops.reshape(ids, (-1, characters))
        unknown = ids.shape[0] is None
        if unknown:  # one row more: of no rows, oneDNN's concatenation leaves out columns
            ids = ops.pad(ids, [[0, 1], [0, 0]])
        table = ops.cast(self.embeddings, self.compute_dtype)
        table = ops.pad(table, [[1, 0], [0, 0]])  # padding
        x = ops.take(table, ids, axis=0)  # [B T, C, E]
        x = [self._activate(self.pool(layer(x))) for layer in self.convolutions]
        x = ops.concatenate(x, axis=-1)  # [B T, N]
        for layer in self.highways:
            x = layer(x)
        x = x if self.projection is None else self.projection(x)
        x = x[:-1] if unknown else x
        return ops.reshape(x, (rows, words, self.projection_dim))

    def pool(self, features: Tensor) -> Tensor:
        """The maximum of each filter `[B T, n]`, from a convolution `[B T, places, n]`.

        Override it for another reduction, such as the mean.
        """
        return ops.max(features, axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.projection_dim)

    def compute_output_spec(self, inputs: Tensor) -> keras.KerasTensor:
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


def check_filters(filters):
    """Pairs of a width and a number of filters, in a form for configurations.

    Raises:
        ValueError: they are not pairs of positive integers, or there are none.
    """
    listed = filters if isinstance(filters, (list, tuple)) else []
    pairs = [list(pair) if isinstance(pair, (list, tuple)) else [] for pair in listed]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            "`filters` must be pairs of a width and a number of filters, such as [(1, 32), (3, "
            f"64)]. Received: {filters!r}."
        )
    return [[check_positive_int("filters", value) for value in pair] for pair in pairs]
