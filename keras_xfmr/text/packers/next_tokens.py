"""Labels of a language model that is trained on packed rows.

B batch, T length
"""

import tensorflow as tf

from keras_xfmr.common.types import Ids, Tensor


def next_token_labels(token_ids: Ids, attention_mask: Tensor, *, ignore_id: int = -1) -> tf.Tensor:
    """The next token of each position: the labels of a causal language model.

    Args:
        token_ids: integers `[B, T]`.
        attention_mask: `[B, T]`, 1 = a token, 0 = padding.
        ignore_id: label of the last token and of padding, which a loss leaves out.

    Returns:
        int32 `[B, T]`.

    Example:

    >>> next_token_labels([[2, 5, 3, 0]], [[1, 1, 1, 0]]).numpy().tolist()
    [[5, 3, -1, -1]]
    """
    ids, mask = tf.cast(token_ids, tf.int32), tf.cast(attention_mask, tf.bool)
    labels = tf.where(mask[:, :-1] & mask[:, 1:], ids[:, 1:], ignore_id)
    return tf.pad(labels, [[0, 0], [0, 1]], constant_values=ignore_id)
