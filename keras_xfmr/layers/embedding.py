"""Token ids to vectors, and vectors back to scores of tokens.

B batch, T length, D d_model, V vocab_size
"""

import functools
import math
from collections.abc import Callable

import keras
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.common.types import Config, Ids, Initializer, Shape, Tensor
from keras_xfmr.layers.base import Checked, refuse_quantized
from keras_xfmr.layers.projections import SavesLora, times_transposed

QUANTIZED = "Keras would ignore its factor and its logits"


@keras.saving.register_keras_serializable("keras_xfmr")
class TokenEmbedding(Checked, SavesLora, keras.layers.Embedding):
    """sqrt(D) E[id], and in reverse the logits x E^T with the same matrix E.

    Vaswani et al. 2017, section 3.4; Press and Wolf 2017 for the tied output. An extension of
    `keras.layers.Embedding`, with its weight.

    Args:
        vocab_size: V.
        d_model: D.
        scale: factor of the embeddings; True is the paper's sqrt(D), False is 1.
        embeddings_initializer: by default normal with deviation 1 / sqrt(D), so that scaled
            embeddings and logits both start with a variance near 1.
        **kwargs: of `keras.layers.Embedding`.

    Call arguments:
        inputs: integer ids `[B, T]`, or with `reverse=True` vectors `[B, T, D]`, whose implicit
            mask is passed on to the logits.
        reverse: whether to project vectors to logits.
        validate: whether to check the ids; a model that has checked them passes False.
        product: a product of `Prepared`, for a loop of calls with `reverse=True`.

    Returns:
        `[B, T, D]`, or `[B, T, V]` in reverse.

    Raises:
        ValueError: ids that are not whole numbers, or known ids outside 0 .. V-1 (in eager
            execution). A compiled graph cannot check them, so check data with
            `keras_xfmr.text.check_ids`.

    Example:

    >>> embedding = TokenEmbedding(32000, 512)
    >>> x = embedding(np.array([[5, 7, 11]]))
    >>> embedding(x, reverse=True).shape
    (1, 3, 32000)
    """

    token_wise = True

    updates = ("lora_embeddings_a", "lora_embeddings_b")

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        scale: bool | float = True,
        embeddings_initializer: Initializer | None = None,
        **kwargs,
    ) -> None:
        vocab_size = check_positive_int("vocab_size", vocab_size)
        d_model = check_positive_int("d_model", d_model)
        if embeddings_initializer is None:
            embeddings_initializer = keras.initializers.RandomNormal(stddev=d_model**-0.5)
        super().__init__(
            vocab_size, d_model, embeddings_initializer=embeddings_initializer, **kwargs
        )
        self.supports_masking = True
        self.scale = scale
        if self.quantization_mode is not None:
            refuse_quantized(self, QUANTIZED)

    def build(self, input_shape: Shape | None = None) -> None:
        if self.quantization_mode is not None:  # by a map of policies, or a later assignment
            refuse_quantized(self, QUANTIZED)
        super().build(input_shape)

    def get_config(self) -> Config:
        config = super().get_config()
        config["vocab_size"] = config.pop("input_dim")
        config["d_model"] = config.pop("output_dim")
        return {**config, "scale": self.scale}

    def quantize(self, *args, **kwargs) -> None:
        """Refused, also by a dtype policy: Keras' quantized table ignores factor and reverse."""
        refuse_quantized(self, QUANTIZED)

    def prepare(self, rows: int | None = None) -> Callable[[Tensor], Tensor]:
        """The product with the table `[V, D]` in the dtype of the logits, for `Prepared`."""
        # `Embedding` turns autocasting off, so the table is float32 inside other layers.
        return functools.partial(_logits, table=ops.cast(self.embeddings, self.compute_dtype))

    def call(
        self,
        inputs: Tensor,
        reverse: bool = False,
        validate: bool = True,
        product: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        if reverse:
            product = self.prepare() if product is None else product
            return product(ops.cast(inputs, self.compute_dtype))
        if validate:
            self.check_ids(inputs)
        vectors = super().call(inputs)
        factor = math.sqrt(self.output_dim) if self.scale is True else float(self.scale or 1.0)
        return vectors if factor == 1.0 else vectors * ops.cast(factor, vectors.dtype)

    def check_ids(self, token_ids: Ids) -> None:
        """Raises ValueError if the values are known and one is not a row of the table."""
        if not functional.could_be_ids(token_ids):
            dtype = keras.backend.standardize_dtype(token_ids.dtype)
            raise ValueError(
                f"Token ids must be integers. Received: dtype {dtype}. A model takes integers "
                'where its input is `keras.Input(shape, dtype="int32")`.'
            )
        values = functional.concrete_value(token_ids)
        if values is None or not values.size:
            return
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.input_dim:
            raise ValueError(
                f"Token ids must lie in 0 .. {self.input_dim - 1} (vocab_size={self.input_dim}). "
                f"Received: ids from {low} to {high}. Is this the tokenizer that the model was "
                "built for?"
            )

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Ids are masked where they are 0, with `mask_zero=True`; vectors keep their mask.

        Keras calls this after `call`, without the arguments of `call`. Vectors are floats with at
        least three axes, the last of which is D: float32 ids `[B, T]` may have T = D.
        """
        floats = "float" in keras.backend.standardize_dtype(inputs.dtype)
        wide = len(inputs.shape) > 2 or not functional.could_be_ids(inputs)
        vectors = floats and wide and inputs.shape[-1] == self.output_dim
        return mask if vectors else super().compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape: Shape, reverse: bool = False) -> Shape:
        if reverse:
            if input_shape[-1] not in (None, self.output_dim):
                raise ValueError(
                    f"Expected vectors of d_model={self.output_dim} features. Received: shape "
                    f"{tuple(input_shape)}."
                )
            return (*input_shape[:-1], self.input_dim)
        return (*input_shape, self.output_dim)

    def compute_output_spec(
        self,
        inputs: Tensor,
        reverse: bool = False,
        validate: bool = True,
        product: Callable[[Tensor], Tensor] | None = None,
    ) -> keras.KerasTensor:
        shape = self.compute_output_shape(inputs.shape, reverse)
        ragged = getattr(inputs, "ragged", False)
        return keras.KerasTensor(shape, dtype=self.compute_dtype, ragged=ragged)


def _logits(x, table):
    """`[..., D]` to `[..., V]`."""
    if len(x.shape) > 2:
        return ops.matmul(x, ops.transpose(table))
    # A step of decoding has few rows. Transposing 32,000 x 512 once takes as long as four steps of
    # 64 rows, and TensorFlow's product with a transposed view is two to four times slower.
    return times_transposed(x, table)
