"""Masked language modelling: chooses tokens and replaces them.

B batch, T length, P max_predictions, V vocab_size
"""

import tensorflow as tf

from keras_xfmr.common.checks import check_int
from keras_xfmr.common.types import ArrayLike, Ids, Tensor

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens; the rest does not change


@tf.autograph.experimental.do_not_convert
def mask_tokens(
    token_ids: Ids,
    candidates: Tensor,
    seed: ArrayLike,
    *,
    mask_id: int,
    replacements: Tensor,
    max_predictions: int,
    mask_rate: float = 0.15,
    continues: Tensor | None = None,
    pad_id: int = 0,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Masks a share of the tokens of each row (Devlin et al. 2019, section 3.1 and appendix A.1).

    Of the n candidates of a row, min(max_predictions, max(1, round(mask_rate n))) are chosen at
    random. A chosen token becomes the mask token with probability 0.8, one of `replacements` with
    0.1, and does not change with 0.1. google-research/bert counts the special tokens in n; here
    they are not candidates.

    With `continues`, whole words are chosen instead of tokens: in random order, each word that
    still fits into the number above. So a row of long words may have fewer predictions, or none.

    Args:
        token_ids: int32 `[B, T]`.
        candidates: bool `[B, T]`, True if a token may be chosen: no special token, no padding.
        seed: two integers; the result depends only on them and the other arguments.
        mask_id: id of the mask token.
        replacements: int32 vector of ids, from which random tokens are drawn.
        max_predictions: P, the maximum number of predictions in a row.
        mask_rate: share of the candidates, in (0, 1].
        continues: bool `[B, T]`, True if a token continues the word before it; a candidate after a
            token that is not a candidate always begins a word.
        pad_id: the label of unused places.

    Returns:
        Token ids `[B, T]` with masks; their positions `[B, P]`, rising, then 0; the original ids
        `[B, P]`, then `pad_id`. All int32.

    Raises:
        ValueError: `mask_rate` or `max_predictions` out of range.

    Example::

        hidden, positions, labels = mask_tokens(
            ids, ids > 4, (7, 0), mask_id=4, replacements=tf.range(5, 8000), max_predictions=20
        )
    """
    if not 0 < mask_rate <= 1:
        raise ValueError(f"`mask_rate` must lie in (0, 1]. Received: {mask_rate!r}.")
    check_int("max_predictions", max_predictions, 1)
    token_ids, candidates = tf.convert_to_tensor(token_ids), tf.convert_to_tensor(candidates)
    choice, fate, other = tf.unstack(tf.random.split(seed, 3))
    length = tf.shape(token_ids)[1]
    chosen = _choose(candidates, continues, mask_rate, max_predictions, choice)
    positions = tf.sort(tf.where(chosen, tf.range(length), length))[:, :max_predictions]
    short = tf.maximum(max_predictions - length, 0)
    positions = tf.pad(positions, [[0, 0], [0, short]], constant_values=length)
    positions = tf.ensure_shape(positions, [None, max_predictions])  # [B, P]
    taken = positions < length
    found = tf.gather(token_ids, tf.minimum(positions, length - 1), batch_dims=1)

    shape = tf.shape(positions)
    drawn = tf.random.stateless_uniform(shape, other, 0, tf.size(replacements), tf.int32)
    drawn = tf.gather(tf.cast(replacements, tf.int32), drawn)
    draw = tf.random.stateless_uniform(shape, fate)
    hidden = tf.where(draw < MASKED, mask_id, tf.where(draw < MASKED + RANDOM, drawn, found))

    row, slot = tf.unstack(tf.where(taken), axis=1)
    column = tf.cast(tf.gather_nd(positions, tf.stack([row, slot], axis=1)), tf.int64)
    token_ids = tf.tensor_scatter_nd_update(
        token_ids, tf.stack([row, column], axis=1), tf.boolean_mask(hidden, taken)
    )
    return token_ids, tf.where(taken, positions, 0), tf.where(taken, found, pad_id)


def _choose(candidates, continues, rate, most, seed):
    """Bool `[B, T]`: the tokens to predict. Without `continues` each token is a word."""
    count = tf.reduce_sum(tf.cast(candidates, tf.int32), axis=1)
    share = tf.cast(tf.round(rate * tf.cast(count, tf.float32)), tf.int32)
    budget = tf.minimum(tf.minimum(most, count), tf.maximum(1, share))  # [B]
    starts = candidates
    if continues is not None:
        after = tf.pad(candidates[:, :-1], [[0, 0], [1, 0]])
        starts = candidates & ~(tf.convert_to_tensor(continues) & after)
    starts = tf.cast(starts, tf.int32)
    word = tf.maximum(tf.cumsum(starts, axis=1) - 1, 0)  # [B, T], the word of each token
    slots = tf.range(tf.shape(candidates)[1])
    is_word = slots < tf.reduce_sum(starts, axis=1, keepdims=True)
    scores = tf.random.stateless_uniform(tf.shape(candidates), seed)
    order = tf.argsort(tf.where(is_word, scores, 2.0))  # words in random order, then empty places
    if continues is None:
        taken = slots < budget[:, None]
    else:
        sizes = _word_sizes(word, candidates)
        taken = _take_while_they_fit(tf.gather(sizes, order, batch_dims=1), budget)
    taken = tf.gather(taken, tf.argsort(order), batch_dims=1)  # in the order of the words
    return candidates & tf.gather(taken, word, batch_dims=1)


def _word_sizes(word, candidates):
    """Number of candidates of each word, int32 `[B, T]`."""
    rows, length = tf.unstack(tf.shape(word))
    flat = tf.reshape(word + length * tf.range(rows)[:, None], [-1])
    ones = tf.reshape(tf.cast(candidates, tf.int32), [-1])
    sizes = tf.math.unsorted_segment_sum(ones, flat, rows * length)
    return tf.reshape(sizes, [rows, length])


def _take_while_they_fit(sizes, budget):
    """Bool `[B, T]`: from left to right, the items that fit into the rest of the budget."""
    steps = tf.transpose(sizes)  # [T, B]
    most = tf.reduce_max(tf.reduce_sum(tf.cast(sizes > 0, tf.int32), axis=1))

    def step(i, left, taken):
        fits = (steps[i] > 0) & (steps[i] <= left)
        return i + 1, left - tf.where(fits, steps[i], 0), taken.write(i, fits)

    _, _, taken = tf.while_loop(
        lambda i, left, _: (i == 0) | ((i < most) & tf.reduce_any(left > 0)),
        step,
        (0, budget, tf.TensorArray(tf.bool, 1, dynamic_size=True)),
    )
    taken = taken.stack()
    missing = tf.shape(steps)[0] - tf.shape(taken)[0]
    return tf.transpose(tf.pad(taken, [[0, missing], [0, 0]]))
