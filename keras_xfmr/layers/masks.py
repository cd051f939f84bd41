"""Masks that would be read as something else than they are.

B batch, T target, S source, N heads
"""

import warnings

import numpy as np

from keras_xfmr import functional


def mask_of_positions(name, mask, shape, instead="attention_mask"):
    """A mask with one value for each position of what it masks.

    Args:
        name: of the argument, for the message.
        mask: boolean, of the rank of `shape` without its last axis; or None.
        shape: of what is masked, `[B, T, D]` or with more axes before the features.
        instead: name of the argument that takes a mask of queries and keys, or None.

    Returns:
        The mask; a list as an array.

    Raises:
        ValueError: another rank. A mask `[B, T, S]` would be read as one mask for each head where
            T is the number of heads.
    """
    mask = functional.as_array(mask)
    if mask is not None and len(mask.shape) != len(shape) - 1:
        axes = ", ".join("?" if size is None else str(size) for size in shape[:-1])
        advice = (
            f" A mask of queries and keys, [B, T, S] or [B, N, T, S], is `{instead}=`."
            if instead
            else ""
        )
        raise ValueError(
            f"`{name}` must have one value for each position, here the shape [{axes}]. Received: "
            f"shape {tuple(mask.shape)}.{advice}"
        )
    return mask


def warn_of_inverted(attention_mask):
    """Warns of a mask `[1, T, T]` in which each position sees exactly the positions behind it.

    That is a look-ahead mask in which True hides, as PyTorch writes it.
    """
    *others, size, columns = attention_mask.shape
    if size is None or size != columns or size < 2 or set(others) != {1}:
        return
    values = functional.concrete_value(attention_mask)
    if values is None:
        return
    if np.array_equal(np.reshape(values, (size, size)), np.triu(np.ones((size, size)), 1)):
        warnings.warn(
            "`attention_mask` shows each position exactly those behind it, and the last position "
            "nothing. True must mean that a query may attend. If it means the opposite in yours, "
            "pass `~attention_mask`, or use_causal_mask=True.",
            stacklevel=3,
        )
