"""Vectors of texts.

B batch, T length, D d_model
"""

from collections.abc import Sequence

import keras
from absl import logging
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.common.types import ArrayLike, Config, Tensor
from keras_xfmr.layers.activations import get_activation, serialize_activation
from keras_xfmr.models.core.encoder import Encoder
from keras_xfmr.models.heads.head import Head
from keras_xfmr.models.heads.pooling import POOLINGS


@keras.saving.register_keras_serializable("keras_xfmr")
class Embedder(Head):
    """One vector for each text; their cosines are similarities (Reimers and Gurevych 2019).

    Args:
        encoder: an `Encoder`, such as a `Bert`.
        pooling: `"mean"` of the positions that `attention_mask` shows, or `"cls"`, position 0; as
            in sentence-transformers also `"max"`, `"mean_sqrt_len_tokens"` (the sum divided by the
            square root of their number), `"weightedmean"` (the n-th token has the weight n) and
            `"lasttoken"`. The vectors of several are concatenated.
        normalize: whether vectors have the length 1.
        projections: dense layers after the pooling, each a dictionary of `units`, `activation` (by
            default `"tanh"`) and `use_bias` (by default True). Their weights are the attribute
            `projection_layers`.

    Returns:
        `[B, D]`, or as wide as the last projection.

    Raises:
        ValueError: an unknown pooling or projection; an encoder of packed rows.

    Example:

    >>> encoder = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> Embedder(encoder)(np.array([[2, 5, 7, 3]])).shape
    (1, 16)
    """

    one_a_row = "one vector"

    def __init__(
        self,
        encoder: Encoder,
        *,
        pooling: str | Sequence[str] = "mean",
        normalize: bool = True,
        projections: Sequence[Config] = (),
        name: str | None = None,
        **kwargs,
    ) -> None:
        modes = _checked_modes(pooling)
        if "cls" in modes and getattr(encoder, "causal", False):
            raise ValueError(
                "The first position of a causal encoder attends only to itself, so all texts would "
                "have the same vector. Pass pooling='mean'. Received: pooling='cls'."
            )
        self._over(encoder)
        self.pooling = modes[0] if len(modes) == 1 else modes
        self.normalize = normalize
        self.projections = list(map(_checked_projection, projections))
        self.projection_layers = [
            keras.layers.Dense(
                settings["units"],
                get_activation(settings["activation"]),
                use_bias=settings["use_bias"],
                kernel_initializer=encoder.initializer(),
                dtype="float32",
                name=f"projection_{i}",
            )
            for i, settings in enumerate(self.projections)
        ]
        config = {"pooling": self.pooling, "normalize": normalize, "projections": self.projections}
        self._graph(
            lambda x, _, inputs: self._pool(x, inputs["attention_mask"], modes),
            config,
            name,
            kwargs,
        )

    def _pool(self, sequence, attention_mask, modes):
        vectors = ops.cast(sequence, "float32")
        shown = ops.expand_dims(ops.cast(attention_mask, "float32"), -1)
        pooled = [POOLINGS[mode](vectors, shown) for mode in modes]
        vectors = pooled[0] if len(pooled) == 1 else ops.concatenate(pooled, axis=-1)
        for layer in self.projection_layers:
            vectors = layer(vectors)
        return functional.l2_normalize(vectors) if self.normalize else vectors

    @classmethod
    def _head_arguments(cls, checkpoint, given):
        # Given arguments are not read, since their file may be damaged.
        asked = {"pooling", "normalize", "projections"} - set(given)
        said = {name: getattr(checkpoint, name) for name in asked}
        for sentence in checkpoint.not_honoured if asked else ():
            logging.warning("A folder of sentence-transformers: %s", sentence)
        return {name: value for name, value in said.items() if value is not None}

    @staticmethod
    def similarity(a: ArrayLike, b: ArrayLike) -> Tensor:
        """Cosines `[A, B]` of vectors `[A, D]` and `[B, D]`.

        Example:

        >>> cosines = Embedder.similarity(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]]))
        >>> round(float(cosines[0, 0]), 4)
        0.6
        """
        return ops.matmul(functional.l2_normalize(a), ops.transpose(functional.l2_normalize(b)))


def _checked_modes(pooling):
    """A tuple of poolings."""
    several = isinstance(pooling, (list, tuple))
    modes = tuple(pooling) if several else (pooling,)
    known = modes and all(isinstance(mode, str) and mode in POOLINGS for mode in modes)
    if not known or len(set(modes)) < len(modes):
        raise ValueError(
            f"`pooling` must be one of {', '.join(map(repr, POOLINGS))}, or a list of several "
            f"different ones. Received: {pooling!r}."
        )
    return modes


def _checked_projection(settings):
    """All settings of a dense layer."""
    default = {"units": None, "activation": "tanh", "use_bias": True}
    if not isinstance(settings, dict) or not set(settings) <= set(default):
        raise ValueError(
            "`projections` must be dictionaries of `units`, and optionally `activation` and "
            f"`use_bias`. Received: {settings!r}."
        )
    settings = {**default, **settings}
    get_activation(settings["activation"])  # refuses an unknown one
    return {
        "units": check_positive_int("units", settings["units"]),
        "activation": serialize_activation(settings["activation"]),
        "use_bias": bool(settings["use_bias"]),
    }
