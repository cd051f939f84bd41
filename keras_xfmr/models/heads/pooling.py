"""Pools the vectors of positions to one vector (Reimers and Gurevych 2019, section 3).

B batch, T length, D d_model. Vectors are float32 `[B, T, D]`, `shown` is float32 `[B, T, 1]`, 1 at
a token and 0 at padding. A text without tokens gives zeros.
"""

from keras import ops


def first(vectors, shown):
    """Position 0, even if it is padding."""
    return vectors[:, 0]


def highest(vectors, shown):
    """The maximum of each component."""
    lowest = ops.where(shown > 0, vectors, -3e38)
    return ops.where(ops.any(shown > 0, axis=1), ops.max(lowest, axis=1), 0.0)


def mean(vectors, shown):
    """sum x / n."""
    return _weighted_mean(vectors, shown)


def mean_sqrt_len(vectors, shown):
    """sum x / sqrt(n)."""
    return mean(vectors, shown) * ops.sqrt(ops.sum(shown, axis=1))


def weighted_mean(vectors, shown):
    """The mean in which the n-th token has the weight n (Muennighoff 2022, equation 2)."""
    return _weighted_mean(vectors, shown * ops.cumsum(shown, axis=1))


def last(vectors, shown):
    """The last token."""
    rank = shown * ops.cumsum(shown, axis=1)
    highest_rank = ops.max(rank, axis=1, keepdims=True)
    is_last = ops.logical_and(shown > 0, ops.equal(rank, highest_rank))
    return ops.sum(ops.where(is_last, vectors, 0.0), axis=1)


def _weighted_mean(vectors, weight):
    # At least 1, so that a text without tokens gives zeros.
    return ops.sum(vectors * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1.0)


# The names are those of sentence-transformers.
POOLINGS = {
    "mean": mean,
    "cls": first,
    "max": highest,
    "mean_sqrt_len_tokens": mean_sqrt_len,
    "weightedmean": weighted_mean,
    "lasttoken": last,
}
