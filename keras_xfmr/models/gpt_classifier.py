"""A `Gpt` that classifies texts, and is trained as a language model at the same time.

B batch, T length, C classes, V vocab_size
"""

from collections.abc import Iterable, Mapping, Sequence

import keras

from keras_xfmr.common.types import ArrayLike, Config, ModelInputs
from keras_xfmr.layers import TokenEmbedding
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.inputs import Range
from keras_xfmr.models.gpt import Gpt
from keras_xfmr.models.heads.classifier import Classifier
from keras_xfmr.models.heads.published import OverPublished


@keras.saving.register_keras_serializable("keras_xfmr")
class GptClassifier(OverPublished, Classifier):
    """Classifies by the vector of a row's last token; the language model is a second output.

        classes = W Dropout(x_last);  lm = logits of the `Gpt`;  loss = classes + 0.5 * lm

    (Radford et al. 2018, section 3.2). The last token is the last one that `attention_mask` shows:
    begin texts with the start token and end them with the end token, as `text.SentencePacker` does.
    A `Classifier` over a `Gpt` is the same without `lm`, and with a bias.

    Args:
        gpt: the `Gpt`.
        num_classes, labels, dropout_rate, multi_label: see `Classifier`.

    Inputs of the call: those of the `Gpt`. If its padding is also the start or the end, pass
    `attention_mask`: the ids do not show it.

    Returns:
        `{"classes": logits [B, C], "lm": logits [B, T, V]}`. Labels of `lm` are the next tokens,
        `text.next_token_labels`, and -1 where there is none; its loss and metrics leave out -1.

    Example::

        model = GptClassifier.from_pretrained("gpt2", num_classes=2)
        model.compile(
            training.AdamW(6.25e-5),
            loss={
                "classes": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                "lm": training.MaskedCrossEntropy(pad_id=-1),
            },
            loss_weights={"classes": 1.0, "lm": 0.5},
            metrics={
                "classes": keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                "lm": training.MaskedPerplexity(pad_id=-1),
            },
        )

    >>> model = GptClassifier.from_preset("tiny", vocab_size=100, num_classes=3)
    >>> {name: value.shape for name, value in model(np.array([[5, 7, 3]])).items()}
    {'classes': (1, 3), 'lm': (1, 3, 100)}
    """

    over, argument, family = Gpt, "gpt", Gpt.family
    use_bias = False
    classes_output = "classes"

    def __init__(
        self,
        gpt: Gpt,
        num_classes: int = 2,
        *,
        labels: Sequence[str] | None = None,
        dropout_rate: float | None = None,
        multi_label: bool = False,
        name: str | None = None,
        **kwargs,
    ) -> None:
        if not isinstance(gpt, Gpt):
            raise TypeError(f"`gpt` must be a keras_xfmr.models.Gpt. Received: {gpt!r}.")
        super().__init__(
            gpt,
            num_classes,
            labels=labels,
            dropout_rate=dropout_rate,
            multi_label=multi_label,
            name=name,
            **kwargs,
        )

    @property
    def gpt(self) -> Gpt:
        """The `Gpt`."""
        return self.encoder

    @property
    def token_embedding(self) -> TokenEmbedding:
        """The table that may compute `lm`."""
        return self.gpt.token_embedding

    def _outputs(self, sequence, pooled, inputs):
        classes = super()._outputs(sequence, pooled, inputs)
        return {"classes": classes, "lm": self.gpt.logits(sequence)}

    def label_ranges(self, labels: ModelInputs, inputs: Mapping[str, ArrayLike]) -> Iterable[Range]:
        labels = labels if isinstance(labels, dict) else {}
        if labels.get("classes") is not None:
            for part in super().label_ranges(labels["classes"], inputs):
                yield part._replace(title="Labels of `classes`")
        if labels.get("lm") is not None:
            size = self.token_embedding.input_dim
            yield Range("Labels of `lm`", labels["lm"], size, ignored=self.ignored_label("lm"))

    def described_outputs(self) -> dict[str, Output]:
        return {"classes": super().described_outputs(), "lm": self.gpt.described_outputs()}

    def hub_config(self) -> Config:
        return self._label_config("GPT2ForSequenceClassification")
