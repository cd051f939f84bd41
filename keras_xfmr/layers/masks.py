"""Checks of masks that are easily misread.

B batch, T target, S source, N heads
"""

import warnings

import numpy as np

from keras_xfmr import functional


def mask_of_positions(name, mask, shape, instead="attention_mask"):
    """Checks that a mask has one value for each position.

    Args:
        name: of the argument, for the message.
        mask: boolean, with one axis less than `shape`; or None.
        shape: of the masked tensor, `[B, T, D]` or with more axes before the features. None
            for a size that is not known, or that may differ, as with a cache.
        instead: name of the argument for a mask of queries and keys, or None.

    Returns:
        The mask; a list as an array.

    Raises:
        ValueError: another rank, or another size that is not 1. A mask `[B, T, S]` would be read as
            a mask for each head if T is the number of heads.
    """
    mask = functional.as_array(mask)
    if mask is not None and not (
        len(mask.shape) == len(shape) - 1
        and all(None in pair or pair[0] in (1, pair[1]) for pair in zip(mask.shape, shape))
    ):
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
    """Warns of a mask `[1, T, T]` in which each position sees exactly the later positions.

    That is a look-ahead mask in which True hides, as in PyTorch.
    """
    *others, size, columns = attention_mask.shape
    if size is None or size != columns or size < 2 or set(others) != {1}:
        return
    values = functional.concrete_value(attention_mask)
    if values is None:
        return
    if np.array_equal(np.reshape(values, (size, size)), np.triu(np.ones((size, size)), 1)):
        warnings.warn(
            "`attention_mask` shows each position only the later ones, and the last position "
            "nothing. True must mean that a query may attend. If it means the opposite in yours, "
            "pass `~attention_mask`, or use_causal_mask=True.",
            stacklevel=3,
        )
