"""What people train on top of `Bert`: pretraining, classes, tags, spans, vectors.

B batch, T length, P predictions, D d_model, V vocab_size, C classes
"""

import keras
import numpy as np
from keras import ops

from keras_xfmr import functional
from keras_xfmr.layers import Dropout, MaskedLMTransform, VocabularyBias
from keras_xfmr.models.bert import Bert, symbolic_inputs
from keras_xfmr.models.pretrained import Pretrained


class _BertHead(Pretrained, keras.Model):
    """What the models on top of `Bert` share: inputs, configuration, making the encoder."""

    pooled = False  # whether the head reads the pooled vector

    def _graph(self, bert, outputs_of, name, extra_inputs=None, **kwargs):
        """Builds the functional graph `outputs_of(sequence, pooled, inputs)`."""
        if bert.pooler is not None:
            bert.read_pooler(self.pooled)
        inputs = symbolic_inputs()
        sequence, pooled = bert(inputs)
        inputs = {**inputs, **(extra_inputs or {})}
        outputs = outputs_of(sequence, pooled, inputs)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self.bert.complete_inputs(inputs), *args, **kwargs)

    def call(self, inputs, training=None, mask=None):
        # Training on JAX comes here directly.
        return super().call(self.bert.complete_inputs(inputs), training=training, mask=mask)

    def _dense(self, bert, units, name):
        return keras.layers.Dense(
            units, kernel_initializer=bert.initializer(), dtype=bert.dtype_policy, name=name
        )

    def get_config(self):
        return {"bert": keras.saving.serialize_keras_object(self.bert), **self._config}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**{**config, "bert": keras.saving.deserialize_keras_object(config["bert"])})

    @classmethod
    def from_preset(cls, preset, **overrides):
        """The sizes of a published model, with freshly drawn weights: see `Bert.from_preset`.

        Args:
            preset: its name.
            **overrides: arguments of the head and of `Bert`.

        Example::

            model = BertClassifier.from_preset("tiny", num_classes=2)
        """
        mine, encoder = cls._divide(overrides)
        return cls(Bert.from_preset(preset, **encoder), **mine)

    @classmethod
    def _for_checkpoint(cls, checkpoint, overrides):
        mine, encoder = cls._divide(overrides)
        arguments = {**checkpoint.arguments, "pooler": cls.pooled, **encoder}
        return cls(Bert(**arguments), **{**cls._head_arguments(checkpoint), **mine})

    @classmethod
    def _head_arguments(cls, checkpoint):
        """What the published configuration says about the head."""
        return {}

    @classmethod
    def _divide(cls, arguments):
        """Arguments of the head, and those of the encoder; `dropout_rate` is both's."""
        own = set(cls.argument_names()) - {"bert"}
        theirs = (set(arguments) - own) | {"dropout_rate"}
        mine = {key: value for key, value in arguments.items() if key in own}
        return mine, {key: value for key, value in arguments.items() if key in theirs}


@keras.saving.register_keras_serializable("keras_xfmr")
class BertPretrainer(_BertHead):
    """Masked words and next sentences, trained as one loss (Devlin et al. 2019, section 3.1).

    Args:
        bert: the encoder.
        next_sentence: whether there is a second task on the pooled vector.

    Inputs of the call: those of `Bert`, and `masked_positions`, integers `[B, P]`: where to
    predict, padded with anything whose label is the padding id.

    Returns:
        `{"mlm": logits [B, P, V], "nsp": logits [B, 2]}`; for `nsp`, 0 = B follows A, 1 = it does
        not.

    Example::

        model = BertPretrainer(Bert.from_preset("tiny", vocab_size=tokenizer.vocab_size))
        model.compile(
            training.AdamW(training.LinearWarmupDecay(1e-4, 1000, 10000), clipnorm=1.0),
            loss={
                "mlm": training.MaskedCrossEntropy(pad_id=model.bert.pad_token_id),
                "nsp": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            },
        )
        model.fit(text.PretrainingDataset("corpus.txt", tokenizer).dataset(), shuffle=False)
    """

    def __init__(self, bert, *, next_sentence=True, name="bert_pretrainer", **kwargs):
        self.bert, self._config = _encoder(bert), {"next_sentence": next_sentence, "name": name}
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

    def __call__(self, inputs, *args, **kwargs):
        if not isinstance(inputs, dict) or inputs.get("masked_positions") is None:
            raise ValueError(
                "`masked_positions` [B, P] is needed besides `token_ids`: logits are computed at "
                "the masked positions only."
            )
        return super().__call__(inputs, *args, **kwargs)

    @classmethod
    def _for_checkpoint(cls, checkpoint, overrides):
        overrides = {"pooler": overrides.get("next_sentence", True), **overrides}
        return super()._for_checkpoint(checkpoint, overrides)

    def hub_config(self):
        return {"architectures": ["BertForPreTraining" if self.nsp_dense else "BertForMaskedLM"]}


class _ClassHead(_BertHead):
    """A head over `num_classes` classes, which looks at the labels that it is given as an array."""

    def fit(self, x=None, y=None, *args, **kwargs):
        self.check_labels(y)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        self.check_labels(y)
        return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        self.check_labels(y)
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        self.check_labels(y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def check_labels(self, labels):
        """Raises ValueError where an integer label is no class: under XLA its loss would be NaN.

        `fit` and its kin call this with arrays; a `tf.data` data set is looked at by
        `data.map(lambda x, y: (x, check(y)))`, `check = text.check_ids(num_classes, "labels")`.
        """
        labels = np.asarray([] if labels is None else labels)
        if self.num_classes == 1 or labels.dtype.kind not in "iu" or not labels.size:
            return
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"Labels must lie in 0 .. {self.num_classes - 1} (num_classes={self.num_classes}). "
                f"Received: labels from {labels.min()} to {labels.max()}."
            )


@keras.saving.register_keras_serializable("keras_xfmr")
class BertClassifier(_ClassHead):
    """Dropout, then a dense layer on the pooled vector, for sentences and pairs of sentences.

    Args:
        bert: the encoder.
        num_classes: C; 1 for regression.
        dropout_rate: by default the encoder's.

    Returns:
        Logits `[B, C]`; for regression the value `[B, 1]`.

    Raises:
        ValueError: `num_classes` is not positive.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertClassifier(bert, num_classes=3)(np.array([[2, 5, 7, 3]])).shape
    (1, 3)
    """

    pooled = True

    def __init__(self, bert, num_classes=2, *, dropout_rate=None, name="bert_classifier", **kwargs):
        self.bert = _encoder(bert)
        self._config = dict(num_classes=num_classes, dropout_rate=dropout_rate, name=name)
        self.num_classes = _at_least_one(num_classes)
        self.dropout = _dropout(bert, dropout_rate)
        self.classifier = self._dense(bert, num_classes, "classifier")
        self._graph(bert, lambda _, x, __: self.classifier(self.dropout(x)), name, **kwargs)

    @classmethod
    def _head_arguments(cls, checkpoint):
        return {"num_classes": checkpoint.num_labels}

    def hub_config(self):
        return _label_config("BertForSequenceClassification", self.num_classes)


@keras.saving.register_keras_serializable("keras_xfmr")
class BertTokenClassifier(_ClassHead):
    """Dropout, then a dense layer on every position: named entities, parts of speech.

    Args:
        bert: the encoder.
        num_classes: C, the tags.
        dropout_rate: by default the encoder's.

    Returns:
        Logits `[B, T, C]`.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertTokenClassifier(bert, num_classes=5)(np.array([[2, 5, 7, 3]])).shape
    (1, 4, 5)
    """

    def __init__(
        self, bert, num_classes=2, *, dropout_rate=None, name="bert_token_classifier", **kwargs
    ):
        self.bert = _encoder(bert)
        self._config = dict(num_classes=num_classes, dropout_rate=dropout_rate, name=name)
        self.num_classes = _at_least_one(num_classes)
        self.dropout = _dropout(bert, dropout_rate)
        self.classifier = self._dense(bert, num_classes, "classifier")
        self._graph(bert, lambda x, *_: self.classifier(self.dropout(x)), name, **kwargs)

    @classmethod
    def _head_arguments(cls, checkpoint):
        return {"num_classes": checkpoint.num_labels}

    def hub_config(self):
        return _label_config("BertForTokenClassification", self.num_classes)


@keras.saving.register_keras_serializable("keras_xfmr")
class BertSpanPredictor(_BertHead):
    """Where an answer begins and ends in a text (Devlin et al. 2019, section 4.2).

    Returns:
        `{"start": logits [B, T], "end": logits [B, T]}`.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> BertSpanPredictor(bert)(np.array([[2, 5, 7, 3]]))["start"].shape
    (1, 4)
    """

    def __init__(self, bert, *, name="bert_span_predictor", **kwargs):
        self.bert, self._config = _encoder(bert), {"name": name}
        self.span_dense = self._dense(bert, 2, "span_dense")

        def outputs(sequence, *_):
            logits = self.span_dense(sequence)
            return {"start": logits[:, :, 0], "end": logits[:, :, 1]}

        self._graph(bert, outputs, name, **kwargs)

    def hub_config(self):
        return {"architectures": ["BertForQuestionAnswering"]}


def best_spans(start, end, allowed, *, max_answer_length=30):
    """The most probable span of each text: argmax of start[i] + end[j], i <= j < i + max length.

    Args:
        start, end: logits `[B, T]`.
        allowed: `[B, T]`, where an answer may lie (the second segment, for instance).
        max_answer_length: the most tokens of an answer.

    Returns:
        First and last positions `[B]` each, and scores `[B]`.

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
class BertEmbedder(_BertHead):
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

    def __init__(self, bert, *, pooling="mean", normalize=True, name="bert_embedder", **kwargs):
        if pooling not in ("mean", "cls"):
            raise ValueError(f"`pooling` must be 'mean' or 'cls'. Received: {pooling!r}.")
        self.bert = _encoder(bert)
        self._config = dict(pooling=pooling, normalize=normalize, name=name)
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

    @staticmethod
    def similarity(a, b):
        """Cosines `[A, B]` of vectors `[A, D]` and `[B, D]`."""
        return ops.matmul(functional.l2_normalize(a), ops.transpose(functional.l2_normalize(b)))


def _encoder(bert):
    if not isinstance(bert, Bert):
        raise TypeError(f"`bert` must be a keras_xfmr.models.Bert. Received: {bert!r}.")
    return bert


def _dropout(bert, rate):
    return Dropout(bert.dropout_rate if rate is None else rate, dtype=bert.dtype_policy)


def _at_least_one(num_classes):
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(
            "`num_classes` must be a positive integer, 1 for regression. "
            f"Received: {num_classes!r}."
        )
    return num_classes


def _label_config(architecture, num_classes):
    names = {str(i): f"LABEL_{i}" for i in range(num_classes)}
    ids = {name: int(i) for i, name in names.items()}
    return {"architectures": [architecture], "id2label": names, "label2id": ids}
