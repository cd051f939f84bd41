"""Metrics over tokens, padding left out.

B batch, T length, V vocab_size
"""

import keras
from keras import ops

from keras_xfmr.training.losses import MaskedCrossEntropy, check_labels, token_weight


@keras.saving.register_keras_serializable("keras_xfmr")
class MaskedAccuracy(keras.metrics.Mean):
    """The share of target tokens whose logit is the largest.

    Args:
        pad_id: the label that is left out.

    Call arguments:
        y_true: integers `[B, T]`.
        y_pred: logits `[B, T, V]`.

    Example:

    >>> metric = MaskedAccuracy()
    >>> float(metric(np.array([[1, 0]]), np.eye(2)[None, ::-1]))
    1.0
    """

    def __init__(self, *, pad_id=0, name="accuracy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.pad_id = pad_id

    def get_config(self):
        return {**super().get_config(), "pad_id": self.pad_id}

    def update_state(self, y_true, y_pred, sample_weight=None):
        check_labels(y_true, y_pred)
        hits = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), ops.cast(y_true, "int32"))
        weight = token_weight(y_true, self.pad_id, sample_weight)
        return super().update_state(ops.cast(hits, "float32"), sample_weight=weight)


@keras.saving.register_keras_serializable("keras_xfmr")
class MaskedPerplexity(keras.metrics.Mean):
    """exp of the mean cross-entropy of the target tokens, all of them alike.

    Args:
        pad_id: the label that is left out.

    Call arguments:
        y_true: integers `[B, T]`.
        y_pred: logits `[B, T, V]`.

    Example:

    >>> metric = MaskedPerplexity()
    >>> round(float(metric(np.array([[1, 0]]), np.zeros((1, 2, 8)))), 4)
    8.0
    """

    def __init__(self, *, pad_id=0, name="perplexity", **kwargs):
        super().__init__(name=name, **kwargs)
        self.pad_id = pad_id

    def get_config(self):
        return {**super().get_config(), "pad_id": self.pad_id}

    def update_state(self, y_true, y_pred, sample_weight=None):
        check_labels(y_true, y_pred)
        losses = MaskedCrossEntropy(pad_id=self.pad_id).call(y_true, y_pred)
        weight = token_weight(y_true, self.pad_id, sample_weight)
        return super().update_state(losses, sample_weight=weight)

    def result(self):
        return ops.exp(super().result())
