"""Classification of rows, and of each position of a row.

B batch, T length, N documents, C classes
"""

from collections.abc import Iterable, Mapping, Sequence

import keras

from keras_xfmr.common.checks import check_int, check_positive_int
from keras_xfmr.common.types import ArrayLike, ModelInputs
from keras_xfmr.layers import Dropout
from keras_xfmr.models.core.arguments import class_names
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.encoder import Encoder
from keras_xfmr.models.core.inputs import Range
from keras_xfmr.models.heads.head import Head


class ClassHead(Head):
    """A head over `num_classes` classes, perhaps with names: dropout, then a dense layer."""

    use_bias = True  # of the dense layer
    classes_output: str | None = None  # the name of this output, if there are others

    def _make(self, encoder, num_classes, labels, dropout_rate, name, kwargs, **config):
        self._over(encoder)
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.labels = None if labels is None else class_names(labels, self.num_classes)
        config = dict(
            num_classes=self.num_classes, labels=self.labels, dropout_rate=dropout_rate, **config
        )
        rate = encoder.dropout_rate if dropout_rate is None else dropout_rate
        self.dropout = Dropout(rate, dtype=encoder.dtype_policy)
        self.classifier = self._dense(self.num_classes, "classifier", use_bias=self.use_bias)
        self._graph(self._outputs, config, name, kwargs)

    def _outputs(self, sequence, pooled, inputs):
        return self.classifier(self.dropout(pooled if self.pooled else sequence))

    @classmethod
    def _head_arguments(cls, checkpoint, given):
        count, labels = checkpoint.num_labels, checkpoint.labels
        if hasattr(given.get("labels"), "__len__") and not checkpoint.has_classifier:
            count = len(given["labels"])  # the folder has no classes of its own
        named = labels != [f"LABEL_{i}" for i in range(count)]
        return {
            "num_classes": count,
            "labels": labels if named else None,
            "dropout_rate": checkpoint.classifier_dropout,
        }

    def label_ranges(self, labels: ModelInputs, inputs: Mapping[str, ArrayLike]) -> Iterable[Range]:
        dtype = keras.backend.standardize_dtype(labels.dtype)
        outputs = len(labels.shape) == (2 if self.pooled else 3)
        probabilities = outputs and labels.shape[-1] == self.num_classes and "float" in dtype
        if not probabilities and self.num_classes > 1:  # one class may be a regression
            ignored = self.ignored_label(self.classes_output)
            advice = f"num_classes={self.num_classes}"
            yield Range("Labels", labels, self.num_classes, advice, ignored)

    def described_outputs(self) -> Output:
        return Output("classes" if self.num_classes > 1 else "value", self.num_classes)


@keras.saving.register_keras_serializable("keras_xfmr")
class Classifier(ClassHead):
    """Dropout, then a dense layer on the pooled vector, for sentences and pairs of sentences.

    Args:
        encoder: an `Encoder`, such as a `Bert`.
        num_classes: C; 1 for regression.
        labels: names of the classes in their order, for services; a published model has its own.
        dropout_rate: by default the encoder's.
        multi_label: whether a text may have several classes, or none, by default False. Each logit
            is then a yes or no of its own (`BinaryCrossentropy(from_logits=True)`), and labels are
            `[B, C]`.

    Inputs of the call: those of the encoder; if it is `packed`, also `document_starts`,
    integers `[N, 2]`: the row and the first position of each document. By default each row is one
    document. `text.pack_documents` makes them. It pads with (0, 0) and the label -1: pass
    `MaskedCrossEntropy(pad_id=-1)` and `MaskedAccuracy(pad_id=-1)`.

    `fit`, `evaluate` and `predict` accept them only in the batches of a data set, because Keras
    would split arrays of documents and of rows at the same places. For the same reason several
    replicas of a `tf.distribute` strategy are refused.

    Keras cannot load the `.keras` file of your own model with two heads over one encoder: use
    `keras.layers.Dense` on the outputs of one `bert(inputs)`, see `Bert`.

    Returns:
        Logits `[B, C]`, or `[N, C]` of documents. With one class `[B, 1]`: a value for a regression
        loss, a logit for `BinaryCrossentropy(from_logits=True)`. A loss or a metric that does not
        fit logits, or leaves out a class, is refused, see `compile`.

    Raises:
        ValueError: `num_classes` is not positive, or `labels` is not a list of `num_classes` names;
            `document_starts` outside the rows, or arrays of them that Keras would split.

    Example:

    >>> encoder = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> Classifier(encoder, num_classes=3)(np.array([[2, 5, 7, 3]])).shape
    (1, 3)
    """

    pooled = True

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int = 2,
        *,
        labels: Sequence[str] | None = None,
        dropout_rate: float | None = None,
        multi_label: bool = False,
        name: str | None = None,
        **kwargs,
    ) -> None:
        self.multi_label = multi_label
        self._make(
            encoder, num_classes, labels, dropout_rate, name, kwargs, multi_label=multi_label
        )

    @classmethod
    def _head_arguments(cls, checkpoint, given):
        said, kind = super()._head_arguments(checkpoint, given), checkpoint.problem_type
        if kind == "regression" and said["num_classes"] > 1:
            raise ValueError(
                "Expected a regression of one value. Received: problem_type='regression' with "
                f"{said['num_classes']} values in the configuration. For classes, remove it there; "
                "for one new value, pass num_classes=1."
            )
        return {**said, "multi_label": kind == "multi_label_classification"}

    def label_ranges(self, labels: ModelInputs, inputs: Mapping[str, ArrayLike]) -> Iterable[Range]:
        if self.multi_label:
            return [Range("Labels", labels, 2, "0 or 1 for each class", whole=False)]
        return super().label_ranges(labels, inputs)

    def described_outputs(self) -> Output:
        if self.multi_label:
            return Output("multi_label", self.num_classes)
        return super().described_outputs()


@keras.saving.register_keras_serializable("keras_xfmr")
class Tagger(ClassHead):
    """Dropout, then a dense layer on every position: named entities, parts of speech.

    Args:
        encoder: an `Encoder`, such as a `Bert`.
        num_classes: C, the tags.
        labels: names of the tags in their order, as for `Classifier`.
        dropout_rate: by default the encoder's.
        pad_class: the tag of padding, which a loss and metrics may leave out (by `pad_id` or
            `ignore_class`). None, the default: every tag is learned.

    Returns:
        Logits `[B, T, C]`. A loss and metrics may leave out labels that are not tags, such as -1,
        and `pad_class`; those that do not fit logits are refused, see `compile`.

    Raises:
        ValueError: as for `Classifier`; `pad_class` is not a tag.

    Example:

    >>> encoder = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> Tagger(encoder, num_classes=5)(np.array([[2, 5, 7, 3]])).shape
    (1, 4, 5)
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int = 2,
        *,
        labels: Sequence[str] | None = None,
        dropout_rate: float | None = None,
        pad_class: int | None = None,
        name: str | None = None,
        **kwargs,
    ) -> None:
        if pad_class is not None:
            pad_class = check_int("pad_class", pad_class, least=0)
            if pad_class >= check_positive_int("num_classes", num_classes):
                raise ValueError(
                    f"`pad_class` must be one of the {num_classes} tags. Received: {pad_class}."
                )
        self.pad_class = pad_class
        self._make(encoder, num_classes, labels, dropout_rate, name, kwargs, pad_class=pad_class)

    def described_outputs(self) -> Output:
        known = self.pad_class is not None
        hint = "" if known else " If this tag is padding, pass `pad_class` to the model."
        return Output("classes", self.num_classes, self.pad_class, hint, of_tokens=True)
