"""Losses over tokens without padding, and means over all replicas of a strategy.

B batch, T length, V vocab_size
"""

import math
import operator
from collections.abc import Mapping, Sequence, Set

import keras
from keras import ops

from keras_xfmr import functional, kernels
from keras_xfmr.common.arguments import refuse_unknown
from keras_xfmr.common.checks import check_choice, check_rate
from keras_xfmr.common.types import Config, Self, Tensor

MEAN = "mean_with_sample_weight"


class _OverReplicas(keras.losses.Loss):
    """A loss with the mean over all replicas of a `tf.distribute` strategy.

    A mean of the replicas' means would weight a row by the other rows of its replica. Here replica
    r of N has the loss

        sum_all / weight_all, with the gradient of sum_r / weight_all,

    so the replicas' gradients, which the optimizer adds, sum to those of one process. With
    `reduction="sum"` the loss is sum_all, with the gradient of sum_r. `call` returns the loss of
    each row or token.
    """

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        replicas = kernels.replicas()
        if replicas == 1 or self.reduction not in (MEAN, "sum"):
            return super().__call__(y_true, y_pred, sample_weight)
        losses = self.call(*(ops.cast(functional.as_array(y), "float32") for y in (y_true, y_pred)))

        def reduced(reduction, values):
            return _Given(values, reduction)(y_true, y_pred, sample_weight)

        own = reduced("sum", losses)
        if self.reduction == MEAN:
            # Both are linear in the losses. Their slopes, sum w_i and sum w_i / (N weight_r), give
            # the weight by which Keras divides, for all masks and for weights with fewer axes.
            weights = kernels.slope(lambda x: reduced("sum", x), losses)
            weight = replicas * kernels.slope(lambda x: reduced(MEAN, x), losses)
            weight = ops.divide_no_nan(weights, weight)
            total, weight = ops.unstack(kernels.sum_over_replicas(ops.stack([own, weight])))
            total, own = (ops.divide_no_nan(x, weight) for x in (total, own))
        else:
            total = kernels.sum_over_replicas(own)
        # Keras multiplies the reported loss by N, because it divides its own means by N.
        return own + ops.stop_gradient(total / replicas - own)


class _Given(keras.losses.Loss):
    """Reduces given values, without those that their mask or the mask of `y_pred` hides."""

    def __init__(self, values, reduction):
        super().__init__(reduction=reduction, dtype="float32")
        self._values = values

    def call(self, y_true, y_pred):
        return self._values


@keras.saving.register_keras_serializable("keras_xfmr")
class GlobalMean(_OverReplicas):
    """The weighted mean of a Keras loss over the rows of all replicas.

        L = sum_i w_i l_i / sum_i w_i

    Keras computes the mean of each replica and then the mean of these. That differs if the replicas
    have unequal numbers of rows, as in a last batch, or of rows with weight 0. With one replica
    this is the loss with `reduction="mean_with_sample_weight"`.

    `MaskedCrossEntropy` needs no `GlobalMean`; use it with `pad_id=-1` for a classifier.

    Args:
        loss: a `keras.losses.Loss` whose `call` returns a loss for each row, and that does not
            define `__call__`.
        reduction: `"mean_with_sample_weight"`, the default, or `"sum"`, for
            `keras_xfmr.text.accumulate`.

    Call arguments:
        y_true, y_pred, sample_weight: see `loss`.

    Raises:
        TypeError: `loss` is not a `keras.losses.Loss`, for instance a name or a function; an
            unknown argument.
        ValueError: another `reduction`; a loss that defines `__call__`, which would be ignored.

    Example:

    >>> loss = GlobalMean(keras.losses.BinaryCrossentropy(from_logits=True))
    >>> round(float(loss(np.array([[1.0]]), np.zeros((1, 1)))), 4)
    0.6931
    """

    def __init__(
        self, loss: keras.losses.Loss, *, reduction: str = MEAN, name: str | None = None, **kwargs
    ) -> None:
        refuse_unknown(GlobalMean, kwargs)
        if not isinstance(loss, keras.losses.Loss):
            raise TypeError(
                "`loss` must be an object such as keras.losses.MeanSquaredError(). "
                f"Received: {loss!r}."
            )
        check_reduction(reduction)
        if type(loss).__call__ is not keras.losses.Loss.__call__:
            raise ValueError(
                "`loss` must not define `__call__`, because `GlobalMean` would ignore it. Pass "
                "MaskedCrossEntropy or a GlobalMean to `compile` directly: it is such a mean "
                "already. In your own loss, define only `call`. Received: a "
                f"{type(loss).__name__}."
            )
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name or loss.name, reduction=reduction, **kwargs)
        self.wrapped = loss

    def get_config(self) -> Config:
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.wrapped)}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each row."""
        return self.wrapped.call(y_true, y_pred)


def check_reduction(reduction):
    """The reduction, if it works over all replicas."""
    return check_choice("reduction", reduction, (MEAN, "sum"))


@keras.saving.register_keras_serializable("keras_xfmr")
class MaskedCrossEntropy(_OverReplicas):
    """Cross-entropy with smoothed labels, the mean over the target tokens of a batch.

    With eps = `label_smoothing` and the target distribution (1 - eps) onehot(y) + eps / V
    (Szegedy et al. 2016, section 7; Vaswani et al. 2017, section 5.4), a token's loss is

        logsumexp(z) - (1 - eps) z_y - eps mean(z),

    in float32. Tokens with the label `pad_id` have no loss and do not count; a batch without any
    target has loss 0. Under a `tf.distribute` strategy the mean is over the target tokens of all
    replicas.

    Args:
        label_smoothing: eps, in [0, 1).
        pad_id: the label that is ignored, by default 0, the padding of most vocabularies. For class
            labels, where 0 is a class, pass -1 and use the label -1 for rows without a target.
        class_weights: weights of the labels: V numbers, or a dictionary of some labels (the others
            have weight 1). None: all have weight 1. The mean is sum(w_y loss) / sum(w_y), which
            without smoothing is PyTorch's.

    Call arguments:
        y_true: integers `[B, T]`.
        y_pred: logits `[B, T, V]`.
        sample_weight: `[B, T]`, `[B, 1]` or `[B]`; the mean is then weighted.

    Raises:
        TypeError: an unknown argument.
        ValueError: `label_smoothing` outside [0, 1); `class_weights` that are negative or do not
            match the logits; labels of another shape than the logits; a known label outside the
            classes. In a compiled step such a label gives the loss NaN.

    Example:

    >>> loss = MaskedCrossEntropy(label_smoothing=0.1)
    >>> round(float(loss(np.array([[1, 0]]), np.zeros((1, 2, 8)))), 4)
    2.0794
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        *,
        pad_id: int = 0,
        class_weights: Sequence[float] | Mapping[int, float] | None = None,
        name: str = "masked_cross_entropy",
        **kwargs,
    ) -> None:
        refuse_unknown(MaskedCrossEntropy, kwargs)
        check_rate("label_smoothing", label_smoothing)
        kwargs.setdefault("reduction", MEAN)
        kwargs.setdefault("dtype", "float32")  # labels are cast to it too
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing
        self.pad_id = pad_id
        self.class_weights = _as_weights(class_weights)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "pad_id": self.pad_id,
            "class_weights": self.class_weights,
        }

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        y_true, y_pred = check_labels(y_true, y_pred)
        self._check_classes(y_true, y_pred.shape[-1])
        weight = token_weight(y_true, self.pad_id, sample_weight)
        if self.class_weights is not None:
            weight = weight * self._weight_of_class(y_true, y_pred.shape[-1])
        return super().__call__(y_true, y_pred, weight)

    def _weight_of_class(self, labels, classes):
        """`[B, T]`."""
        given = self.class_weights
        listed = isinstance(given, list)
        if classes is None or (len(given) != classes if listed else max(given) >= classes):
            found = f"{len(given)} weights" if listed else f"a weight of class {max(given)}"
            raise ValueError(
                f"`class_weights` must be {classes} numbers, or a dictionary of classes below "
                f"{classes}. Received: {found}."
            )
        weights = given if listed else [given.get(label, 1.0) for label in range(classes)]
        labels = ops.clip(ops.cast(labels, "int32"), 0, classes - 1)  # padding may not be a class
        return ops.take(ops.convert_to_tensor(weights, "float32"), labels)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each token, `[B, T]`."""
        logits = ops.cast(y_pred, "float32")
        labels = ops.where(ops.equal(y_true, self.pad_id), 0, y_true)  # padding may not be a class
        if self.label_smoothing:
            normalizer = ops.logsumexp(logits, axis=-1)
            chosen = select_label(logits, labels)
            eps = self.label_smoothing
            loss = normalizer - (1 - eps) * chosen - eps * ops.mean(logits, axis=-1)
        else:  # the backend's own operation needs less memory
            loss = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        # The classes of a span are the positions of a row; a graph may not know their number.
        inside = ops.logical_and(labels >= 0, ops.less(labels, ops.shape(logits)[-1]))
        # 0, or NaN outside. A constant NaN would stop `enable_check_numerics`.
        return ops.where(inside, loss, 0.0) + ops.sqrt(ops.cast(inside, "float32") - 1.0)

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


def _as_weights(given):
    """A list of floats, a dictionary from integers (in JSON: strings) to floats, or None."""
    if given is None:
        return None
    by_class = isinstance(given, Mapping)
    try:
        if isinstance(given, (str, bytes, Set)):
            raise TypeError
        items = given.items() if by_class else enumerate(given)
        weights = {int(k) if isinstance(k, str) else operator.index(k): float(w) for k, w in items}
        fit = min(weights) >= 0 and all(0 <= w < math.inf for w in weights.values())
    except (TypeError, ValueError):  # no numbers, or none at all
        fit = False
    if not fit:
        raise ValueError(
            "`class_weights` must be numbers, not negative, one for each class, or a "
            f"dictionary from classes to such numbers. Received: {given!r}."
        )
    return weights if by_class else list(weights.values())


def check_labels(labels, logits):
    """Both as arrays; ValueError if the labels have another shape, which would broadcast."""
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

    A comparison with every index, which a compiler fuses with its neighbours. The gradient of a
    gather would be a scatter into a tensor of the size of `values`.
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
    if len(given) == len(wanted) + 1 and given[-1] == 1:  # [B, T, 1], as in Keras' losses
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
