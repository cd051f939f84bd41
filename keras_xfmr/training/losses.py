"""Losses over tokens, padding left out.

B batch, T length, V vocab_size
"""

import keras
from keras import ops

from keras_xfmr import functional


@keras.saving.register_keras_serializable("keras_xfmr")
class MaskedCrossEntropy(keras.losses.Loss):
    """Cross-entropy with smoothed labels, the mean over the target tokens of a batch.

    With eps = `label_smoothing` and the target distribution (1 - eps) onehot(y) + eps / V
    (Szegedy et al. 2016, section 7; Vaswani et al. 2017, section 5.4), a token's loss is

        logsumexp(z) - (1 - eps) z_y - eps mean(z),

    computed in float32. Tokens whose label is `pad_id` have no loss and do not count; a batch
    without any target has the loss 0.

    Args:
        label_smoothing: eps, in [0, 1).
        pad_id: the label that is left out, by default 0, the padding of most vocabularies. Where
            labels are classes, 0 is one of them: pass -1, and label -1 what is not to be learned.

    Call arguments:
        y_true: integers `[B, T]`.
        y_pred: logits `[B, T, V]`.
        sample_weight: `[B, T]`, `[B, 1]` or `[B]`; the mean is then weighted.

    Raises:
        ValueError: `label_smoothing` outside [0, 1); labels of another shape than the logits'; a
            label outside the classes, where its value is known. In a compiled step its loss is NaN.

    Example:

    >>> loss = MaskedCrossEntropy(label_smoothing=0.1)
    >>> round(float(loss(np.array([[1, 0]]), np.zeros((1, 2, 8)))), 4)
    2.0794
    """

    def __init__(self, label_smoothing=0.0, *, pad_id=0, name="masked_cross_entropy", **kwargs):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must lie in [0, 1). Received: {label_smoothing}.")
        kwargs.setdefault("reduction", "mean_with_sample_weight")
        kwargs.setdefault("dtype", "float32")  # labels are cast to it too
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing
        self.pad_id = pad_id

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "pad_id": self.pad_id,
        }

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = check_labels(y_true, y_pred)
        self._check_classes(y_true, y_pred.shape[-1])
        weight = token_weight(y_true, self.pad_id, sample_weight)
        return super().__call__(y_true, y_pred, weight)

    def call(self, y_true, y_pred):
        """The loss of each token, `[B, T]`."""
        logits = ops.cast(y_pred, "float32")
        labels = ops.where(ops.equal(y_true, self.pad_id), 0, y_true)  # padding need not be a class
        if self.label_smoothing:
            normalizer = ops.logsumexp(logits, axis=-1)
            chosen = select_label(logits, labels)
            eps = self.label_smoothing
            loss = normalizer - (1 - eps) * chosen - eps * ops.mean(logits, axis=-1)
        else:  # the backend's own operation needs less memory
            loss = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        # The classes of a span are the positions of a row, whose number a graph may not know.
        inside = ops.logical_and(labels >= 0, ops.less(labels, ops.shape(logits)[-1]))
        return ops.where(inside, loss, float("nan"))

    def _check_classes(self, y_true, classes):
        labels = functional.concrete_value(y_true)
        if labels is None or not labels.size:
            return
        labels = labels[labels != self.pad_id]
        if ((labels < 0) | (labels >= classes)).any():
            raise ValueError(
                f"Labels must lie in 0 .. {classes - 1}, or be pad_id={self.pad_id}. Received: "
                f"labels from {labels.min()} to {labels.max()}."
            )


def check_labels(labels, logits):
    """Both as arrays; ValueError where the labels have another shape, and would broadcast."""
    labels, logits = functional.as_array(labels), functional.as_array(logits)
    given, wanted = tuple(labels.shape), tuple(logits.shape[:-1])
    if not functional.shapes_agree(given, wanted):
        raise ValueError(
            "Expected a label for each row of logits: labels [B, T] for logits [B, T, V]. "
            f"Received: labels of shape {given}, logits of shape {tuple(logits.shape)}."
        )
    return labels, logits


def select_label(values, labels):
    """`values [..., V]` at integer `labels [...]`.

    A comparison with every index, which a compiler fuses with what stands around it; the gradient
    of a gather would be a scatter into a tensor of the size of `values`.
    """
    labels = ops.expand_dims(ops.cast(labels, "int32"), -1)
    hit = ops.equal(ops.arange(ops.shape(values)[-1], dtype="int32"), labels)
    return ops.sum(ops.where(hit, values, 0.0), axis=-1)


def token_weight(y_true, pad_id, sample_weight=None):
    """float32 `[B, T]`: 1 or the sample's weight for a token, 0 for padding."""
    weight = ops.cast(ops.not_equal(y_true, pad_id), "float32")
    if sample_weight is None:
        return weight
    sample_weight = ops.cast(sample_weight, "float32")
    given, wanted = tuple(sample_weight.shape), tuple(weight.shape)
    if len(given) == len(wanted) + 1 and given[-1] == 1:  # [B, T, 1], as Keras' losses take it
        sample_weight = ops.squeeze(sample_weight, -1)
    while len(sample_weight.shape) < len(wanted):
        sample_weight = ops.expand_dims(sample_weight, -1)
    sizes = sample_weight.shape
    if len(sizes) != len(wanted) or any(
        None not in pair and pair[0] not in (1, pair[1]) for pair in zip(sizes, wanted)
    ):
        raise ValueError(
            "`sample_weight` must have the shape [B, T], [B, 1] or [B] of labels [B, T]. Received: "
            f"weights of shape {given}, labels of shape {wanted}."
        )
    return weight * sample_weight
