"""Answers that are parts of a text: where they begin and end.

B batch, T length
"""

from collections.abc import Iterable, Mapping

import keras
from keras import ops

from keras_xfmr.common.types import ArrayLike, ModelInputs, Tensor
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.encoder import Encoder
from keras_xfmr.models.core.inputs import Range
from keras_xfmr.models.heads.head import Head


@keras.saving.register_keras_serializable("keras_xfmr")
class SpanPredictor(Head):
    """Predicts where an answer begins and ends in a text (Devlin et al. 2019, section 4.2).

    Args:
        encoder: an `Encoder`, such as a `Bert`.

    Inputs of the call: those of the encoder, a question and its text as two segments.

    Returns:
        `{"start": logits [B, T], "end": logits [B, T]}`. Labels are a dictionary with these names.
        A loss and metrics may leave out labels that are not positions, such as -1 (0 is a position:
        no answer); those that do not fit logits are refused, see `compile`.

    Example:

    >>> encoder = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> SpanPredictor(encoder)(np.array([[2, 5, 7, 3]]))["start"].shape
    (1, 4)
    """

    one_a_row = "one answer"

    def __init__(self, encoder: Encoder, *, name: str | None = None, **kwargs) -> None:
        self._over(encoder)
        self.span_dense = self._dense(2, "span_dense")

        def outputs(sequence, *_):
            logits = self.span_dense(sequence)
            return {"start": logits[:, :, 0], "end": logits[:, :, 1]}

        self._graph(outputs, {}, name, kwargs)

    def _named_labels(self, labels):
        if isinstance(labels, (list, tuple)):
            raise ValueError(
                "Labels must be a dictionary of `start` and `end`: Keras sorts names, so the first "
                f"of a pair would be the end. Received: a {type(labels).__name__}."
            )
        return super()._named_labels(labels)

    def label_ranges(self, labels: ModelInputs, inputs: Mapping[str, ArrayLike]) -> Iterable[Range]:
        length = inputs[self.encoder.words_input].shape[1]
        for name, values in (labels if isinstance(labels, dict) else {}).items():
            if length is not None:
                ignored = self.ignored_label(name)
                yield Range(f"Labels of `{name}`", values, length, "positions of a row", ignored)

    def described_outputs(self) -> dict[str, Output]:
        return {name: Output("positions") for name in ("start", "end")}


def best_spans(
    start: ArrayLike, end: ArrayLike, allowed: ArrayLike, *, max_answer_length: int = 30
) -> tuple[Tensor, Tensor, Tensor]:
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
    # Keras' argmax compares bits to distinguish -0 from 0, which ONNX and LiteRT cannot.
    total, best = (values[:, 0] for values in ops.top_k(flat, 1))
    return best // length, best % length, total
