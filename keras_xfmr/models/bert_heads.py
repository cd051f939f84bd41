"""What people train on top of `Bert`: pretraining, classes, tags, spans, vectors.

B batch, T length, P predictions, D d_model, V vocab_size, C classes
"""

import keras
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_int, check_positive_int
from keras_xfmr.layers import Dropout, MaskedLMTransform, VocabularyBias
from keras_xfmr.models.bert_head import BertHead, check_encoder
from keras_xfmr.models.core.arguments import class_names
from keras_xfmr.models.core.compiled import Output


@keras.saving.register_keras_serializable("keras_xfmr")
class BertPretrainer(BertHead):
    """Masked words and next sentences, trained as one loss (Devlin et al. 2019, section 3.1).

    Args:
        bert: the encoder.
        next_sentence: whether there is a second task on the pooled vector; `from_pretrained` takes
            it from the checkpoint.

    Inputs of the call: those of `Bert`, and `masked_positions`, integers `[B, P]`: where to
    predict, padded with anything whose label is the padding id.

    Returns:
        `{"mlm": logits [B, P, V], "nsp": logits [B, 2]}`; for `nsp`, 0 = B follows A, 1 = it does
        not. A loss and metrics of `mlm` may leave out the padding id, no other token, and those of
        `nsp` no class; what cannot be meant for logits is refused, see `compile`.

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

    further_inputs = ("masked_positions",)

    def __init__(self, bert, *, next_sentence=True, name=None, **kwargs):
        self.bert, self._config = check_encoder(bert), {"next_sentence": next_sentence}
        self.pooled = next_sentence
        self.mlm_transform = MaskedLMTransform(
            bert.activation,
            epsilon=bert.layer_norm_eps,
            kernel_initializer=bert.initializer(),
            dtype=bert.dtype_policy,
            name="mlm_transform",
        )
        self.mlm_bias = VocabularyBias(dtype=bert.dtype_policy, name="mlm_bias")
        self.nsp_dense = self._dense(bert, 2, "nsp_dense") if next_sentence else None

        def outputs(sequence, pooled, inputs):
            positions = ops.expand_dims(inputs["masked_positions"], -1)
            vectors = self.mlm_transform(ops.take_along_axis(sequence, positions, axis=1))
            logits = {"mlm": self.mlm_bias(bert.token_embedding(vectors, reverse=True))}
            if next_sentence:
                logits["nsp"] = self.nsp_dense(pooled)
            return logits

        positions = keras.Input((None,), dtype="int32", name="masked_positions")
        self._graph(bert, outputs, name, {"masked_positions": positions}, **kwargs)

    @classmethod
    def _for_checkpoint(cls, checkpoint, overrides):
        # bert-base-uncased is called so, too, and has the second head.
        alone = checkpoint.architecture == "BertForMaskedLM"
        if alone and "cls.seq_relationship.weight" not in checkpoint.names:
            overrides = {"next_sentence": False, **overrides}
        overrides = {"pooler": overrides.get("next_sentence", True), **overrides}
        return super()._for_checkpoint(checkpoint, overrides)

    def label_ranges(self, labels, length):
        labels = labels if isinstance(labels, dict) else {}
        for name, output in self.described_outputs().items():
            if labels.get(name) is not None:
                ignored = self.ignored_label(name)
                yield f"Labels of `{name}`", labels[name], output.size, "", ignored

    def described_outputs(self):
        bert = self.bert
        outputs = {"mlm": Output("vocabulary", bert.token_embedding.input_dim, bert.pad_token_id)}
        return {**outputs, **({"nsp": Output("classes", 2)} if self.nsp_dense else {})}

    def hub_config(self):
        return {"architectures": ["BertForPreTraining" if self.nsp_dense else "BertForMaskedLM"]}


class _ClassHead(BertHead):
    """A head over `num_classes` classes, which may have names."""

    def _make(self, bert, num_classes, labels, dropout_rate, name, kwargs, **config):
        self.bert = check_encoder(bert)
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.labels = None if labels is None else class_names(labels, self.num_classes)
        self._config = dict(
            num_classes=self.num_classes,
            labels=self.labels,
            dropout_rate=dropout_rate,
            **config,
        )
        rate = bert.dropout_rate if dropout_rate is None else dropout_rate
        self.dropout = Dropout(rate, dtype=bert.dtype_policy)
        self.classifier = self._dense(bert, self.num_classes, "classifier")

        def outputs(sequence, pooled, _):
            return self.classifier(self.dropout(pooled if self.pooled else sequence))

        self._graph(bert, outputs, name, **kwargs)

    @classmethod
    def _head_arguments(cls, checkpoint, given):
        count, labels = checkpoint.num_labels, checkpoint.labels
        if hasattr(given.get("labels"), "__len__") and "classifier.weight" not in checkpoint.names:
            count = len(given["labels"])  # the folder has no classes of its own
        named = labels != [f"LABEL_{i}" for i in range(count)]
        return {
            "num_classes": count,
            "labels": labels if named else None,
            "dropout_rate": checkpoint.classifier_dropout,
        }

    def label_config(self, architecture):
        labels = self.labels or [f"LABEL_{i}" for i in range(self.num_classes)]
        return {
            "architectures": [architecture],
            "classifier_dropout": self._config["dropout_rate"],
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }

    def label_ranges(self, labels, length):
        dtype = keras.backend.standardize_dtype(labels.dtype)
        outputs = len(labels.shape) == len(self.output_shape)
        probabilities = outputs and labels.shape[-1] == self.num_classes and "float" in dtype
        if not probabilities and self.num_classes > 1:  # one class may be a regression
            ignored = self.ignored_label()
            yield "Labels", labels, self.num_classes, f"num_classes={self.num_classes}", ignored

    def described_outputs(self):
        return Output("classes" if self.num_classes > 1 else "value", self.num_classes)


@keras.saving.register_keras_serializable("keras_xfmr")
class BertClassifier(_ClassHead):
    """Dropout, then a dense layer on the pooled vector, for sentences and pairs of sentences.

    Args:
        bert: the encoder.
        num_classes: C; 1 for regression.
        labels: names of the classes in their order, for `save_pretrained` and `export_encoder`; a
            published model brings its own.
        dropout_rate: by default the encoder's.
        multi_label: whether a text may have several classes, or none: each logit is then that of
            its own yes or no (`BinaryCrossentropy(from_logits=True)`), and labels are `[B, C]`.

    Returns:
        Logits `[B, C]`. With one class `[B, 1]`: a value where the loss is that of a regression, a
        logit where it is `BinaryCrossentropy(from_logits=True)`. What cannot be meant for logits,
        or leaves out a class, is refused, see `compile`.

    Raises:
        ValueError: `num_classes` is not positive, or `labels` is no list of so many names.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertClassifier(bert, num_classes=3)(np.array([[2, 5, 7, 3]])).shape
    (1, 3)
    """

    pooled = True

    def __init__(
        self,
        bert,
        num_classes=2,
        *,
        labels=None,
        dropout_rate=None,
        multi_label=False,
        name=None,
        **kwargs,
    ):
        self.multi_label = multi_label
        self._make(
            bert, num_classes, labels, dropout_rate, name, kwargs, multi_label=multi_label
        )

    @classmethod
    def _head_arguments(cls, checkpoint, given):
        said, kind = super()._head_arguments(checkpoint, given), checkpoint.problem_type
        if kind == "regression" and said["num_classes"] > 1:
            raise ValueError(
                "Expected a regression of one value. Received: problem_type='regression' with "
                f"{said['num_classes']} in the configuration. For classes, take it out there; for "
                "one new value, give num_classes=1."
            )
        return {**said, "multi_label": kind == "multi_label_classification"}

    def label_ranges(self, labels, length):
        if self.multi_label:
            return [("Labels", labels, 2, "0 or 1 for each class", None, False)]
        return super().label_ranges(labels, length)

    def described_outputs(self):
        if self.multi_label:
            return Output("multi_label", self.num_classes)
        return super().described_outputs()

    def hub_config(self):
        config = self.label_config("BertForSequenceClassification")
        kind = {"problem_type": "multi_label_classification"} if self.multi_label else {}
        return {**config, **kind}


@keras.saving.register_keras_serializable("keras_xfmr")
class BertTokenClassifier(_ClassHead):
    """Dropout, then a dense layer on every position: named entities, parts of speech.

    Args:
        bert: the encoder.
        num_classes: C, the tags.
        labels: names of the tags in their order, as for `BertClassifier`.
        dropout_rate: by default the encoder's.
        pad_class: a tag that stands for padding, which a loss and metrics may leave out (by
            `pad_id` or `ignore_class`); None, the default, where every tag is learned. A `.keras`
            file keeps it, `save_pretrained` has no place for it.

    Returns:
        Logits `[B, T, C]`. A loss and metrics may leave out labels that are no tags, such as -1,
        and `pad_class`; what cannot be meant for logits is refused, see `compile`.

    Raises:
        ValueError: as of `BertClassifier`; `pad_class` is no tag.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertTokenClassifier(bert, num_classes=5)(np.array([[2, 5, 7, 3]])).shape
    (1, 4, 5)
    """

    def __init__(
        self,
        bert,
        num_classes=2,
        *,
        labels=None,
        dropout_rate=None,
        pad_class=None,
        name=None,
        **kwargs,
    ):
        if pad_class is not None:
            pad_class = check_int("pad_class", pad_class, least=0)
            if pad_class >= check_positive_int("num_classes", num_classes):
                raise ValueError(
                    f"`pad_class` must be one of the {num_classes} tags. Received: {pad_class}."
                )
        self.pad_class = pad_class
        self._make(bert, num_classes, labels, dropout_rate, name, kwargs, pad_class=pad_class)

    def described_outputs(self):
        known = self.pad_class is not None
        hint = "" if known else " Where this tag is padding, give the model `pad_class`."
        return Output("classes", self.num_classes, self.pad_class, hint)

    def hub_config(self):
        return self.label_config("BertForTokenClassification")


@keras.saving.register_keras_serializable("keras_xfmr")
class BertSpanPredictor(BertHead):
    """Where an answer begins and ends in a text (Devlin et al. 2019, section 4.2).

    Args:
        bert: the encoder.

    Inputs of the call: as of `Bert`, a question and its text as two segments.

    Returns:
        `{"start": logits [B, T], "end": logits [B, T]}`. Labels are a dictionary with these names.
        A loss and metrics may leave out labels that are no positions, such as -1 (0 is one: no
        answer); what cannot be meant for logits is refused, see `compile`.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertSpanPredictor(bert)(np.array([[2, 5, 7, 3]]))["start"].shape
    (1, 4)
    """

    def __init__(self, bert, *, name=None, **kwargs):
        self.bert, self._config = check_encoder(bert), {}
        self.span_dense = self._dense(bert, 2, "span_dense")

        def outputs(sequence, *_):
            logits = self.span_dense(sequence)
            return {"start": logits[:, :, 0], "end": logits[:, :, 1]}

        self._graph(bert, outputs, name, **kwargs)

    def _named_labels(self, labels):
        if isinstance(labels, (list, tuple)):
            raise ValueError(
                "Labels must be a dictionary of `start` and `end`: of a pair, Keras would take the "
                f"first as the end, in the order of the names. Received: a {type(labels).__name__}."
            )
        return super()._named_labels(labels)

    def label_ranges(self, labels, length):
        for name, values in (labels if isinstance(labels, dict) else {}).items():
            if length is not None:
                ignored = self.ignored_label(name)
                yield f"Labels of `{name}`", values, length, "positions of a row", ignored

    def described_outputs(self):
        return {name: Output("positions") for name in ("start", "end")}

    def hub_config(self):
        return {"architectures": ["BertForQuestionAnswering"]}


def best_spans(start, end, allowed, *, max_answer_length=30):
    """The most probable span of each text: argmax of start[i] + end[j], i <= j < i + max length.

    Args:
        start, end: logits `[B, T]`.
        allowed: `[B, T]`, where an answer may lie (the second segment, for instance).
        max_answer_length: the most tokens of an answer, by default 30.

    Returns:
        First and last positions `[B]` each, and scores `[B]`; where nothing is allowed, 0, 0 and
        -1e9.

    Example:

    >>> first, last, _ = best_spans(np.eye(1, 4, 1), np.eye(1, 4, 2), np.ones((1, 4)))
    >>> int(first[0]), int(last[0])
    (1, 2)
    """
    length = ops.shape(start)[1]
    allowed = ops.cast(allowed, "bool")
    scores = ops.expand_dims(start, 2) + ops.expand_dims(end, 1)  # [B, T, T]
    place = ops.arange(length)
    distance = ops.expand_dims(place, 0) - ops.expand_dims(place, 1)
    fits = ops.logical_and(distance >= 0, distance < max_answer_length)
    fits = ops.logical_and(
        fits, ops.logical_and(ops.expand_dims(allowed, 2), ops.expand_dims(allowed, 1))
    )
    flat = ops.reshape(ops.where(fits, scores, -1e9), (-1, length * length))
    best = ops.argmax(flat, axis=-1)
    return best // length, best % length, ops.max(flat, axis=-1)


@keras.saving.register_keras_serializable("keras_xfmr")
class BertEmbedder(BertHead):
    """A vector of each text, whose cosine is a similarity (Reimers and Gurevych 2019).

    Args:
        bert: the encoder.
        pooling: `"mean"` of the positions that `attention_mask` shows, or `"cls"`, position 0.
        normalize: whether vectors have the length 1.

    Returns:
        `[B, D]`.

    Raises:
        ValueError: an unknown pooling.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertEmbedder(bert)(np.array([[2, 5, 7, 3]])).shape
    (1, 16)
    """

    def __init__(self, bert, *, pooling="mean", normalize=True, name=None, **kwargs):
        if pooling not in ("mean", "cls"):
            raise ValueError(
                "`pooling` must be 'mean' or 'cls'. A published folder that says 'other' makes its "
                f"vectors in a way that is not here. Received: {pooling!r}."
            )
        self.bert = check_encoder(bert)
        self._config = dict(pooling=pooling, normalize=normalize)
        self.pooling, self.normalize = pooling, normalize
        self._graph(
            bert, lambda x, _, inputs: self._pool(x, inputs["attention_mask"]), name, **kwargs
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

    def hub_files(self):
        kinds = ["Transformer", "Pooling", *(["Normalize"] if self.normalize else [])]
        paths = ["", "1_Pooling", "2_Normalize"]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(zip(kinds, paths))
        ]
        pooling = {
            "word_embedding_dimension": self.bert.d_model,
            "pooling_mode_cls_token": self.pooling == "cls",
            "pooling_mode_mean_tokens": self.pooling == "mean",
        }
        return {"1_Pooling/config.json": pooling, "modules.json": modules}

    @staticmethod
    def similarity(a, b):
        """Cosines `[A, B]` of vectors `[A, D]` and `[B, D]`.

        Example:

        >>> cosines = BertEmbedder.similarity(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]]))
        >>> round(float(cosines[0, 0]), 4)
        0.6
        """
        return ops.matmul(functional.l2_normalize(a), ops.transpose(functional.l2_normalize(b)))
