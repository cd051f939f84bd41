"""Attention over other axes than the second of three, by moving axes.

B batch and all other axes without attention, T and S the attention axes, N heads, H head_dim
"""

import math

from keras import ops


def axes_inside(axes, rank):
    """The axes of inputs of a rank, counted from the front.

    Args:
        axes: negative ones count from the end; None: all but the first and last.
        rank: that of the inputs, before they have heads.

    Raises:
        ValueError: one is the batch or the features, or not there, or twice.
    """
    axes = axes or range(1, rank - 1)
    found = tuple(axis if axis >= 0 else rank + axis for axis in axes)
    if len(set(found)) < len(found) or not set(found) <= set(range(1, rank - 1)):
        raise ValueError(
            "`attention_axes` must be different axes between the batch and the features, for "
            f"inputs of {rank} axes in 1 .. {rank - 2}. Received: {axes}."
        )
    return found


class AxisFolding:
    """Heads `[batch, ..., N, H]` to `[B, T, N, H]` and back, for some attention axes.

    Args:
        heads: query, key and value heads, of equal rank.
        axes: the attention axes; negative ones count from the end of the inputs (which have one
            axis less). None: all but the batch, the heads and the features.
    """

    def __init__(self, heads, axes):
        rank = len(heads[0].shape)
        self.axes = axes_inside(axes, rank - 1)
        self._free = tuple(axis for axis in range(rank - 2) if axis not in self.axes)
        self._order = (*self._free, *self.axes, rank - 2, rank - 1)
        moved = [ops.transpose(x, self._order) for x in heads]
        count = len(self._free)
        self.is_last = self.axes == (rank - 3,)  # the axis before the features, and no other
        self._free_shape = tuple(ops.shape(moved[0])[:count])
        self._target_shape = tuple(ops.shape(moved[0])[count : rank - 2])
        self._source_shape = tuple(ops.shape(moved[1])[count : rank - 2])
        self.target_length = math.prod(self._target_shape)
        self.source_length = math.prod(self._source_shape)
        lengths = (self.target_length, self.source_length, self.source_length)
        self.heads = [
            ops.reshape(x, (-1, length, *x.shape[-2:])) for x, length in zip(moved, lengths)
        ]

    def fold_mask(self, mask):
        """A mask `[batch, ..., (N,) *target axes, *source axes]` to `[B, N or 1, T, S]`."""
        if mask is None:
            return None
        mask, given = ops.cast(mask, "bool"), tuple(mask.shape)
        count = len(self._free)
        while len(mask.shape) < count + 1 + 2 * len(self.axes):
            mask = ops.expand_dims(mask, -2 * len(self.axes) - 1)
        heads = mask.shape[count]
        full = (*self._free_shape, heads, *self._target_shape, *self._source_shape)
        fits = len(mask.shape) == len(full) and all(
            size in (1, wanted) for size, wanted in zip(mask.shape, full) if isinstance(wanted, int)
        )
        if not fits:
            expected = [*self._free_shape, "(heads)", *self._target_shape, *self._source_shape]
            raise ValueError(
                "`attention_mask` must broadcast to [batch, ..., (heads,) *target axes, *source "
                f"axes], here [{', '.join(map(str, expected))}]. Received: shape {given}."
            )
        return ops.reshape(
            ops.broadcast_to(mask, full), (-1, heads, self.target_length, self.source_length)
        )

    def fold_positions(self, mask):
        """A mask of positions, `[batch, ..., T]` or `[batch, ..., S]`, to `[B, T]` or `[B, S]`."""
        return None if mask is None else ops.reshape(mask, (-1, mask.shape[-1]))

    def unfold_output(self, output):
        """`[B, T, N, V]` to the axes of the query."""
        shape = (*self._free_shape, *self._target_shape, *output.shape[-2:])
        inverse = [self._order.index(axis) for axis in range(len(self._order))]
        return ops.transpose(ops.reshape(output, shape), inverse)

    def unfold_weights(self, weights):
        """`[B, N, T, S]` to `[batch, ..., N, *target axes, *source axes]`."""
        shape = (*self._free_shape, weights.shape[1], *self._target_shape, *self._source_shape)
        return ops.reshape(weights, shape)
