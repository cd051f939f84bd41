"""Metrics over tokens without padding.

B batch, T length, V vocab_size
"""

from typing import Any

import keras
from keras import ops

from keras_xfmr.common.arguments import refuse_unknown
from keras_xfmr.common.types import Config, Self, Tensor
from keras_xfmr.training.losses import MaskedCrossEntropy, check_labels, token_weight


class _TokenMean(keras.metrics.MeanMetricWrapper):
    """The mean of `of_tokens` over target tokens.

    Keras' wrapper also ignores what the implicit mask of the logits hides, as losses do.

    Args:
        better: `"up"` or `"down"`: tells Keras' callbacks, such as `EarlyStopping`, whether a
            larger value is better.
    """

    def __init__(self, *, pad_id: int = 0, name: str, better: str, **kwargs) -> None:
        refuse_unknown(type(self), kwargs, ("pad_id", "name", "dtype"))  # Keras takes any
        super().__init__(self.of_tokens, name=name, **kwargs)
        self.pad_id = pad_id
        self._direction = better  # where Keras' callbacks look for it

    def get_config(self) -> Config:
        return {"name": self.name, "dtype": self.dtype, "pad_id": self.pad_id}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**config)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Any:
        y_true, y_pred = check_labels(y_true, y_pred)
        weight = token_weight(y_true, self.pad_id, sample_weight)
        return super().update_state(y_true, y_pred, weight)

    def of_tokens(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        raise NotImplementedError


@keras.saving.register_keras_serializable("keras_xfmr")
class MaskedAccuracy(_TokenMean):
    """The share of target tokens whose logit is the largest.

    Args:
        pad_id: the label that is ignored, as in the loss: see `MaskedCrossEntropy`.

    Call arguments:
        y_true: integers `[B, T]`.
        y_pred: logits `[B, T, V]`.
        sample_weight: `[B, T]`, `[B, 1]` or `[B]`; the mean is then weighted.

    Raises:
        TypeError: an unknown argument.

    Example:

    >>> metric = MaskedAccuracy()
    >>> float(metric(np.array([[1, 0]]), np.eye(2)[None, ::-1]))
    1.0
    """

    def __init__(self, *, pad_id: int = 0, name: str = "accuracy", **kwargs) -> None:
        super().__init__(pad_id=pad_id, name=name, better="up", **kwargs)

    def of_tokens(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        hits = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), ops.cast(y_true, "int32"))
        return ops.cast(hits, "float32")


@keras.saving.register_keras_serializable("keras_xfmr")
class MaskedPerplexity(_TokenMean):
    """exp of the mean cross-entropy of the target tokens.

    Args:
        pad_id: the label that is ignored, as in the loss: see `MaskedCrossEntropy`.

    Call arguments:
        y_true: integers `[B, T]`.
        y_pred: logits `[B, T, V]`.
        sample_weight: `[B, T]`, `[B, 1]` or `[B]`; the mean is then weighted.

    Raises:
        TypeError: an unknown argument.

    Example:

    >>> metric = MaskedPerplexity()
    >>> round(float(metric(np.array([[1, 0]]), np.zeros((1, 2, 8)))), 4)
    8.0
    """

    def __init__(self, *, pad_id: int = 0, name: str = "perplexity", **kwargs) -> None:
        super().__init__(pad_id=pad_id, name=name, better="down", **kwargs)

    def of_tokens(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return MaskedCrossEntropy(pad_id=self.pad_id).call(y_true, y_pred)

    def result(self) -> Tensor:
        return ops.exp(super().result())
