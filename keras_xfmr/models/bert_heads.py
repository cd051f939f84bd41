"""The heads of `models/heads/` over a `Bert`; they load and save published weights.

Other arguments, inputs, outputs and errors are those of the head's class.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_xfmr.checkpoints.sentence_modules import module_files
from keras_xfmr.common.types import Config
from keras_xfmr.models.bert import Bert
from keras_xfmr.models.heads.classifier import Classifier, Tagger
from keras_xfmr.models.heads.embedder import Embedder
from keras_xfmr.models.heads.masked_lm import MaskedLanguageModel
from keras_xfmr.models.heads.published import OverPublished
from keras_xfmr.models.heads.spans import SpanPredictor


class OverBert(OverPublished):
    """A mixin for heads over a `Bert`, their argument `bert`; it comes before the head's class."""

    over, argument, family = Bert, "bert", Bert.family

    @property
    def bert(self) -> Bert:
        """The encoder."""
        return self.encoder


@keras.saving.register_keras_serializable("keras_xfmr")
class BertPretrainer(OverBert, MaskedLanguageModel):
    """A `MaskedLanguageModel` over a `Bert`: masked words and next sentences as one loss.

    `from_pretrained` takes `next_sentence` from the checkpoint.

    Args:
        bert: the encoder.
        next_sentence: whether to predict next sentences from the pooled vector, by default True.

    Example::

        model = BertPretrainer(Bert.from_preset("tiny", vocab_size=tokenizer.vocab_size))
        model.compile(
            training.AdamW(training.LinearWarmupDecay(1e-4, 1000, 10000), global_clipnorm=1.0),
            loss={
                "mlm": training.MaskedCrossEntropy(pad_id=model.bert.pad_token_id),
                "nsp": keras.losses.SparseCategoricalCrossentropy(
                    from_logits=True,
                    reduction="mean_with_sample_weight",  # rows that fill a batch do not count
                ),
            },
        )
        model.fit(text.PretrainingDataset("corpus.txt", tokenizer).dataset(), shuffle=False)
    """

    def __init__(
        self, bert: Bert, *, next_sentence: bool = True, name: str | None = None, **kwargs
    ) -> None:
        super().__init__(bert, next_sentence=next_sentence, name=name, **kwargs)

    @classmethod
    def _for_checkpoint(cls, checkpoint, overrides):
        # bert-base-uncased also has this architecture, and has the second head.
        alone = checkpoint.architecture == "BertForMaskedLM"
        if alone and "cls.seq_relationship.weight" not in checkpoint.names:
            overrides = {"next_sentence": False, **overrides}
        return super()._for_checkpoint(checkpoint, overrides)

    def hub_config(self) -> Config:
        return {"architectures": ["BertForPreTraining" if self.nsp_dense else "BertForMaskedLM"]}


@keras.saving.register_keras_serializable("keras_xfmr")
class BertClassifier(OverBert, Classifier):
    """A `Classifier` over a `Bert`: sentences, pairs of sentences, regression, several classes.

    Args:
        bert: the encoder.
        num_classes, labels, dropout_rate, multi_label: see `Classifier`.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertClassifier(bert, num_classes=3)(np.array([[2, 5, 7, 3]])).shape
    (1, 3)
    """

    def __init__(
        self,
        bert: Bert,
        num_classes: int = 2,
        *,
        labels: Sequence[str] | None = None,
        dropout_rate: float | None = None,
        multi_label: bool = False,
        name: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            bert,
            num_classes,
            labels=labels,
            dropout_rate=dropout_rate,
            multi_label=multi_label,
            name=name,
            **kwargs,
        )

    def hub_config(self) -> Config:
        return self._label_config("BertForSequenceClassification")


@keras.saving.register_keras_serializable("keras_xfmr")
class BertTokenClassifier(OverBert, Tagger):
    """A `Tagger` over a `Bert`: named entities, parts of speech.

    Args:
        bert: the encoder.
        num_classes, labels, dropout_rate: see `Tagger`.
        pad_class: see `Tagger`. A `.keras` file saves it, `save_pretrained` does not.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertTokenClassifier(bert, num_classes=5)(np.array([[2, 5, 7, 3]])).shape
    (1, 4, 5)
    """

    def __init__(
        self,
        bert: Bert,
        num_classes: int = 2,
        *,
        labels: Sequence[str] | None = None,
        dropout_rate: float | None = None,
        pad_class: int | None = None,
        name: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            bert,
            num_classes,
            labels=labels,
            dropout_rate=dropout_rate,
            pad_class=pad_class,
            name=name,
            **kwargs,
        )

    def hub_config(self) -> Config:
        return self._label_config("BertForTokenClassification")


@keras.saving.register_keras_serializable("keras_xfmr")
class BertSpanPredictor(OverBert, SpanPredictor):
    """A `SpanPredictor` over a `Bert`: answers that are parts of a text.

    Args:
        bert: the encoder.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertSpanPredictor(bert)(np.array([[2, 5, 7, 3]]))["start"].shape
    (1, 4)
    """

    def __init__(self, bert: Bert, *, name: str | None = None, **kwargs) -> None:
        super().__init__(bert, name=name, **kwargs)

    def hub_config(self) -> Config:
        return {"architectures": ["BertForQuestionAnswering"]}


@keras.saving.register_keras_serializable("keras_xfmr")
class BertEmbedder(OverBert, Embedder):
    """An `Embedder` over a `Bert`: one vector for each text.

    Args:
        bert: the encoder.
        pooling, normalize, projections: see `Embedder`; `from_pretrained` reads them from a folder
            of sentence-transformers. What else the folder does to texts is logged as a warning. Its
            prompts are in `checkpoints.open_pretrained(folder).prompts`.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertEmbedder(bert)(np.array([[2, 5, 7, 3]])).shape
    (1, 16)
    """

    def __init__(
        self,
        bert: Bert,
        *,
        pooling: str | Sequence[str] = "mean",
        normalize: bool = True,
        projections: Sequence[Config] = (),
        name: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            bert,
            pooling=pooling,
            normalize=normalize,
            projections=projections,
            name=name,
            **kwargs,
        )

    def hub_files(self) -> dict[str, Any]:
        return module_files(self.pooling, self.normalize, self.projections, self.bert.d_model)

    def hub_layers(self) -> dict[str, keras.layers.Layer]:
        return {f"{i}_Dense": layer for i, layer in enumerate(self.projection_layers, 2)}
