"""Query rows that read the same keys and values: the beams of a source.

B rows of the cache, F query rows for each of them, T target, S source, N heads, H head_dim
"""

from keras import ops


class SharedRows:
    """Groups the F query rows of a cache row, and splits them again.

    One product then reads each key once, and nothing is repeated in memory.

    Args:
        query: heads `[B * F, T, N, H]`.
        batch: B.

    Raises:
        ValueError: the rows of the query are not a multiple of B.
    """

    def __init__(self, query, batch):
        self._rows, self._target, self._heads, self._head_dim = ops.shape(query)
        self._batch = batch
        known = isinstance(batch, int) and isinstance(self._rows, int)
        nonempty = max(batch, 1) if known else ops.maximum(batch, 1)
        if known and self._rows % nonempty:
            raise ValueError(
                "The batch of the query must be a multiple of the cache's. "
                f"Received: {self._rows} rows for a cache of {batch}."
            )
        self._factor = self._rows // nonempty
        self.is_single = known and self._rows == batch

    def group(self, x):
        """`[B * F, T, ...]` to `[B, F * T, ...]`."""
        kept = ops.shape(x)[2:]
        return ops.reshape(x, (self._batch, self._factor * self._target, *kept))

    def group_mask(self, mask):
        """A mask or bias of `[..., T, S]` to `[..., F * T, S]`.

        It has the rows of the cache, one row, or the rows of the query (if both numbers are known).
        """
        if mask is None or mask.shape[-2] == 1 and not self._is_of_query(mask):
            return mask
        shape = ops.shape(mask)
        lead, source = shape[:-2], shape[-1]
        mask = ops.broadcast_to(mask, (*lead, self._target, source))
        if not self._is_of_query(mask):
            return ops.tile(mask, [1] * len(lead) + [self._factor, 1])
        mask = ops.reshape(mask, (self._batch, self._factor, *lead[1:], self._target, source))
        if len(lead) == 2:
            mask = ops.transpose(mask, (0, 2, 1, 3, 4))
        length = self._factor * self._target
        return ops.reshape(mask, (self._batch, *lead[1:], length, source))

    def _is_of_query(self, mask):
        known = isinstance(self._rows, int) and not self.is_single
        return known and len(mask.shape) > 2 and mask.shape[0] == self._rows

    def ungroup(self, x):
        """`[B, F * T, ...]` to `[B * F, T, ...]`."""
        return ops.reshape(x, (self._rows, self._target, *ops.shape(x)[2:]))

    def ungroup_weights(self, weights):
        """`[B, N, F * T, S]` to `[B * F, N, T, S]`."""
        if weights is None:
            return None
        heads, source = self._heads, ops.shape(weights)[-1]
        shape = (self._batch, heads, self._factor, self._target, source)
        weights = ops.transpose(ops.reshape(weights, shape), (0, 2, 1, 3, 4))
        return ops.reshape(weights, (self._rows, heads, self._target, source))
