"""When attention is computed in blocks, and who sees whom there.

B batch, T target, S source, N heads
"""

import keras
from keras import ops

from keras_xfmr import functional
from keras_xfmr.kernels import Seen

LONG = 2**20  # smallest T x S for blocks, such as 1,024 queries of as many keys


def is_long(query, key):
    """Whether T x S is known and at least `LONG`."""
    sizes = query.shape[1], key.shape[1]  # JAX has symbols for unknown lengths
    return all(isinstance(size, int) for size in sizes) and sizes[0] * sizes[1] >= LONG


def is_symbolic(x):
    """Whether only the output's shape is computed, for which blocks are not needed."""
    return isinstance(x, keras.KerasTensor)


def overrides(layer, base, names):
    """Whether a subclass, or the layer itself, overrides one of these methods."""
    methods = (getattr(getattr(layer, name), "__func__", None) for name in names)
    return any(method is not getattr(base, name) for method, name in zip(methods, names))


def who_sees_whom(masks, window, scores):
    """The masks of a call as a `kernels.Seen`, from which each block computes its own mask.

    Args:
        masks: `attention_mask`, of rank 3 or 4; `query_mask`, `source_masks`, `document_ids`,
            `position` and `use_causal_mask`, see `compute_mask_for_scores`.
        window: `sliding_window` of the layer, or None.
        scores: `(B, N, T, S)`, None where unknown.
    """
    mask = functional.combine_masks(masks["attention_mask"])
    if mask is not None:
        mask = ops.expand_dims(mask, 1) if len(mask.shape) == 3 else mask
        functional.check_broadcast("mask", mask.shape, scores)
    source = [ops.cast(x, "bool") for x in masks["source_masks"] if x is not None]
    query, documents = masks["query_mask"], masks["document_ids"]
    ahead = None if window is None else window - 1
    return Seen(
        mask=mask,
        query_mask=None if query is None else ops.cast(query, "bool"),
        source_mask=ops.logical_and(*source) if len(source) == 2 else next(iter(source), None),
        query_documents=documents,
        source_documents=documents,
        position=masks["position"],
        behind=ahead,
        ahead=0 if masks["use_causal_mask"] else ahead,
    )


def as_bias(bias, scores):
    """A bias of rank 4, or None."""
    if bias is None:
        return None
    functional.check_broadcast("bias", bias.shape, scores)
    while len(bias.shape) < 4:
        bias = ops.expand_dims(bias, 0)
    return bias
