"""Weights that make several small batches equal to one large batch."""

import tensorflow as tf

from keras_xfmr.common.checks import check_int


def accumulate(data: tf.data.Dataset, steps: int, *, pad_id: int | None = 0) -> tf.data.Dataset:
    """Adds sample weights, so that `steps` batches have the gradient of one large batch.

    Keras' `gradient_accumulation_steps=k` averages the gradients of k batches. If the loss is a
    mean over the tokens of its batch, a token counts more in a batch with few tokens. Here a token
    of the batches 1 .. k has the weight

        w_i k / sum_j w_j,  j over the tokens of all k batches,

    so with losses that are sums, the average over k batches is the mean over all their tokens. The
    weights w are those of the data set, or 1. Tokens with the label `pad_id` have weight 0.

    If fewer than k batches are left at the end of an epoch, copies of the last one with weight 0
    are added, so that no update spans two epochs. k batches are in memory.

    Args:
        data: a `tf.data.Dataset` of `(inputs, labels)` or `(inputs, labels, weights)`; labels and
            weights are tensors, or dictionaries or tuples of the same structure.
        steps: k, the `gradient_accumulation_steps` of the optimizer. For validation data 1, because
            the loss is a sum there too.
        pad_id: the label that is left out; -1 if labels are classes; None if a row has numbers or
            several classes, and then each row has one weight; for named labels it may be a
            dictionary of these.

    Returns:
        A `tf.data.Dataset` of `(inputs, labels, weights)`. Under a `tf.distribute` strategy of
        several replicas Keras accumulates no gradients; use only `steps=1` there.

    Raises:
        ValueError: `steps` below 1; elements without labels, or labels without a `pad_id`; a
            `pad_id` that is no integer; weights with more axes than the labels.

    Example::

        model.compile(
            training.AdamW(1e-4, gradient_accumulation_steps=4),
            training.MaskedCrossEntropy(reduction="sum"),
        )
        model.fit(text.accumulate(pairs.dataset(), 4), validation_data=text.accumulate(held_out, 1))
    """
    k = check_int("steps", steps, 1)
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ValueError(
            "Expected a data set of (inputs, labels) or (inputs, labels, weights). Received: "
            f"elements {spec}."
        )
    ignored = _pad_ids(pad_id, spec[1])

    def weigh(inputs, labels, weights=None):
        ones = tf.nest.map_structure(_inside, labels, ignored)
        if weights is None:
            return inputs, labels, ones
        return inputs, labels, tf.nest.map_structure(_product, ones, weights)

    def normalize(*window):
        batches = tf.data.Dataset.zip(window)
        zeros = tf.nest.map_structure(lambda _: tf.zeros([]), labels_spec)
        totals = batches.reduce(
            zeros,
            lambda sums, batch: tf.nest.map_structure(
                lambda total, weight: total + tf.reduce_sum(weight), sums, batch[2]
            ),
        )
        count = batches.reduce(tf.constant(0, tf.int64), lambda n, _: n + 1)
        last = batches.skip(count - 1).repeat().take(k - count)
        return batches.map(lambda *batch: _scaled(batch, totals, k)).concatenate(
            last.map(lambda *batch: _scaled(batch, totals, 0))
        )

    labels_spec = spec[1]
    weighed = data.map(weigh, num_parallel_calls=tf.data.AUTOTUNE)
    result = weighed.window(k).flat_map(normalize).prefetch(1)
    length = data.cardinality()
    if length >= 0:
        result = result.apply(tf.data.experimental.assert_cardinality(-(-length // k) * k))
    return result


def _pad_ids(pad_id, labels):
    """The `pad_id` of each label."""
    if not isinstance(pad_id, dict):
        _check_pad("pad_id", pad_id)
        return tf.nest.map_structure(lambda _: pad_id, labels)
    if isinstance(labels, dict) and set(labels) == set(pad_id):
        for name, value in pad_id.items():
            _check_pad(f"pad_id[{name!r}]", value)
    else:
        named = sorted(labels) if isinstance(labels, dict) else "labels without names"
        raise ValueError(
            f"`pad_id` must be an integer, or one for each of the labels. Received: {pad_id}, for "
            f"{named}."
        )
    return pad_id


def _check_pad(name, pad):
    if pad is not None:
        check_int(name, pad)


def _inside(labels, pad):
    """1.0 for each label that is not `pad`; the type of the labels may be too small for `pad`."""
    if pad is None:
        return tf.ones(tf.shape(labels)[:1])
    if labels.dtype.is_integer:
        labels = tf.cast(labels, tf.int64)
    return tf.cast(tf.not_equal(labels, tf.cast(pad, labels.dtype)), tf.float32)


def _product(ones, weight):
    """The weights of labels `[B, T]`; `weight` may have fewer axes, or one more of size 1."""
    weight = tf.cast(weight, tf.float32)
    if weight.shape.rank == ones.shape.rank + 1 and weight.shape[-1] == 1:
        weight = weight[..., 0]
    if weight.shape.rank > ones.shape.rank:
        raise ValueError(
            "Weights must have the shape [B, T], [B, 1], [B] or [B, T, 1] of labels [B, T], and "
            f"[B] if `pad_id` is None. Received: weights of shape {weight.shape}, labels of shape "
            f"{ones.shape}."
        )
    while weight.shape.rank < ones.shape.rank:
        weight = weight[..., None]
    return ones * weight


def _scaled(batch, totals, factor):
    inputs, labels, weights = batch
    weights = tf.nest.map_structure(
        lambda weight, total: tf.math.divide_no_nan(weight * factor, total), weights, totals
    )
    return inputs, labels, weights
