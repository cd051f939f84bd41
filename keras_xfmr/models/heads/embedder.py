"""Vectors of texts.

B batch, T length, D d_model
"""

import keras
from keras import ops

from keras_xfmr import functional
from keras_xfmr.models.heads.head import Head


@keras.saving.register_keras_serializable("keras_xfmr")
class Embedder(Head):
    """A vector of each text, whose cosine is a similarity (Reimers and Gurevych 2019).

    Args:
        encoder: an `Encoder`, such as a `Bert`.
        pooling: `"mean"` of the positions that `attention_mask` shows, or `"cls"`, position 0.
        normalize: whether vectors have the length 1.

    Returns:
        `[B, D]`.

    Raises:
        ValueError: an unknown pooling; an encoder of packed rows.

    Example:

    >>> encoder = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> Embedder(encoder)(np.array([[2, 5, 7, 3]])).shape
    (1, 16)
    """

    one_a_row = "one vector"

    def __init__(self, encoder, *, pooling="mean", normalize=True, name=None, **kwargs):
        if pooling not in ("mean", "cls"):
            raise ValueError(
                "`pooling` must be 'mean' or 'cls'. A published folder that says 'other' makes its "
                f"vectors in a way that is not here. Received: {pooling!r}."
            )
        if pooling == "cls" and getattr(encoder, "causal", False):
            raise ValueError(
                "The first position of a causal encoder sees itself alone, so that all texts would "
                "have one vector. Pass pooling='mean'. Received: pooling='cls'."
            )
        self._over(encoder)
        self.pooling, self.normalize = pooling, normalize
        self._graph(
            lambda x, _, inputs: self._pool(x, inputs["attention_mask"]),
            dict(pooling=pooling, normalize=normalize),
            name,
            kwargs,
        )

    def _pool(self, sequence, attention_mask):
        vectors = ops.cast(sequence, "float32")
        if self.pooling == "cls":
            vectors = vectors[:, 0]
        else:
            weight = ops.expand_dims(ops.cast(attention_mask, "float32"), -1)
            # At least 1, so that a text without tokens gives zeros.
            count = ops.maximum(ops.sum(weight, axis=1), 1.0)
            vectors = ops.sum(vectors * weight, axis=1) / count
        return functional.l2_normalize(vectors) if self.normalize else vectors

    @classmethod
    def _head_arguments(cls, checkpoint, given):
        asked = {"pooling", "normalize"} - set(given)  # a damaged file may say what is given
        said = {name: getattr(checkpoint, name) for name in asked}
        return {name: value for name, value in said.items() if value is not None}

    @staticmethod
    def similarity(a, b):
        """Cosines `[A, B]` of vectors `[A, D]` and `[B, D]`.

        Example:

        >>> cosines = Embedder.similarity(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]]))
        >>> round(float(cosines[0, 0]), 4)
        0.6
        """
        return ops.matmul(functional.l2_normalize(a), ops.transpose(functional.l2_normalize(b)))
