"""Prediction of masked words, and of whether one text follows another.

B batch, T length, P predictions, V vocab_size
"""

from collections.abc import Iterable, Mapping

import keras
from keras import ops

from keras_xfmr.common.types import ArrayLike, Config, ModelInputs
from keras_xfmr.layers import MaskedLMTransform, VocabularyBias
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.encoder import Encoder
from keras_xfmr.models.core.inputs import Input, Range
from keras_xfmr.models.heads.head import Head


@keras.saving.register_keras_serializable("keras_xfmr")
class MaskedLanguageModel(Head):
    """Predicts masked words and next sentences, with one loss (Devlin et al. 2019, section 3.1).

    Args:
        encoder: an `Encoder`, such as a `Bert`; the logits of words use its token table.
        next_sentence: whether to predict next sentences from the pooled vector, by default True;
            must be False over a packed encoder.

    Inputs of the call: those of the encoder, and `masked_positions`, integers `[B, P]`: the
    positions to predict. Pad with any position, and give it the padding id as its label.

    Returns:
        `{"mlm": logits [B, P, V], "nsp": logits [B, 2]}`; for `nsp`, 0 = B follows A, 1 = it does
        not. A loss and metrics of `mlm` may leave out only the padding id, those of `nsp` no class;
        those that do not fit logits are refused, see `compile`.

    Example:

    >>> encoder = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> ids = {"token_ids": np.array([[2, 5, 4, 3]]), "masked_positions": np.array([[2]])}
    >>> MaskedLanguageModel(encoder, next_sentence=False)(ids)["mlm"].shape
    (1, 1, 100)
    """

    further_inputs = (Input("masked_positions", "`masked_positions`", size="token_ids"),)

    def __init__(
        self, encoder: Encoder, *, next_sentence: bool = True, name: str | None = None, **kwargs
    ) -> None:
        self.pooled = next_sentence
        if getattr(encoder, "mixes", False):
            raise ValueError(
                "The words of a masked language model are tied to a token table, and the encoder "
                f"must read them from both sides at once. Received: a {type(encoder).__name__}; "
                "train it with a `keras_xfmr.models.ElmoLanguageModel`."
            )
        if next_sentence and getattr(encoder, "packed", False):
            raise ValueError(
                "Next sentences are predicted for whole rows, and rows of a packed encoder may "
                "hold several documents. Pass next_sentence=False. Received: next_sentence=True "
                "over an encoder with packed=True."
            )
        self._over(encoder)
        self.mlm_transform = MaskedLMTransform(
            encoder.activation,
            epsilon=encoder.layer_norm_eps,
            kernel_initializer=encoder.initializer(),
            dtype=encoder.dtype_policy,
            name="mlm_transform",
        )
        self.mlm_bias = VocabularyBias(dtype=encoder.dtype_policy, name="mlm_bias")
        self.nsp_dense = self._dense(2, "nsp_dense") if next_sentence else None

        def outputs(sequence, pooled, inputs):
            positions = ops.expand_dims(inputs["masked_positions"], -1)
            vectors = self.mlm_transform(ops.take_along_axis(sequence, positions, axis=1))
            logits = {"mlm": self.mlm_bias(encoder.token_embedding(vectors, reverse=True))}
            if next_sentence:
                logits["nsp"] = self.nsp_dense(pooled)
            return logits

        self._graph(outputs, {"next_sentence": next_sentence}, name, kwargs)

    @classmethod
    def reads_pooled(cls, arguments: Config) -> bool:
        return arguments.get("next_sentence", True)

    def label_ranges(self, labels: ModelInputs, inputs: Mapping[str, ArrayLike]) -> Iterable[Range]:
        labels = labels if isinstance(labels, dict) else {}
        for name, output in self.described_outputs().items():
            if labels.get(name) is not None:
                ignored = self.ignored_label(name)
                size = output.size or 0  # both have one
                yield Range(f"Labels of `{name}`", labels[name], size, "", ignored)

    def described_outputs(self) -> dict[str, Output]:
        size, padding = self.encoder.token_embedding.input_dim, self.encoder.pad_token_id
        outputs = {"mlm": Output("vocabulary", size, -1 if padding is None else padding)}
        return {**outputs, **({"nsp": Output("classes", 2)} if self.nsp_dense else {})}
