"""Tensors of an attention in blocks of queries and of keys.

B batch, T target, S source, N heads, K key/value heads, G = N / K, H head_dim, V value_dim, F any
features, Q rows of a block of queries, C columns of a block of keys, I and J numbers of such blocks
"""

import functools

import tensorflow as tf

from keras_xfmr.kernels import portable
from keras_xfmr.kernels.tensorflow_random import random_bits, threshold


class Blocks:
    """The tensors of an attention, split into blocks, and who sees whom in a pair of blocks."""

    def __init__(self, tensors, behind, ahead, slopes, rate, sizes):
        self.query, self.key, self.value = (tensors[n] for n in ("query", "key", "value"))
        self.bias = tensors.get("bias")
        self.behind, self.ahead, self.slopes, self.rate = behind, ahead, slopes, rate
        self.position, self.seed = tensors["position"], tensors.get("seed")
        shape = tf.shape(self.query)
        self.batch, self.target, self.source = shape[0], shape[1], tf.shape(self.key)[1]
        self.heads, self.kv_heads = self.query.shape[2], self.key.shape[2]
        self.groups = self.heads // self.kv_heads
        self.dtype = self.value.dtype
        self.rows, self.columns, self.is_even = sizes
        self.row_blocks = -(-self.target // self.rows)
        self.column_blocks = -(-self.source // self.columns)
        self.queries = self.of_queries(self.query)  # [I, B, K, G * Q, H]
        self.keys, self.values = self.of_keys(self.key), self.of_keys(self.value)
        self.query_mask, self.query_documents = self._of_positions("query", tensors)
        self.source_mask, self.source_documents = self._of_positions("source", tensors)
        self.mask, self.biases = (self._of_pairs(tensors.get(name)) for name in ("mask", "bias"))

    # ---- whole tensors to blocks and back

    def of_queries(self, x):
        """`[B, T, N, F]` to `[I, B, K, G * Q, F]`."""
        size = x.shape[3]
        x = _padded(x, 1, self.row_blocks * self.rows)
        shape = (self.batch, self.row_blocks, self.rows, self.kv_heads, self.groups, size)
        x = tf.transpose(tf.reshape(x, shape), (1, 0, 3, 4, 2, 5))
        return tf.reshape(x, (*self.lead(0), self.groups * self.rows, size))

    def to_queries(self, x):
        """`[I, B, K, G * Q, F]` to `[B, T, N, F]`."""
        size = x.shape[-1]
        x = tf.reshape(x, (*self.lead(0), self.groups, self.rows, size))
        x = tf.transpose(x, (1, 0, 4, 2, 3, 5))
        shape = (self.batch, self.row_blocks * self.rows, self.heads, size)
        return tf.reshape(x, shape)[:, : self.target]

    def of_keys(self, x):
        """`[B, S, K, F]` to `[J, B, K, C, F]`."""
        size = x.shape[3]
        x = _padded(x, 1, self.column_blocks * self.columns)
        shape = (self.batch, self.column_blocks, self.columns, self.kv_heads, size)
        return tf.transpose(tf.reshape(x, shape), (1, 0, 3, 2, 4))

    def to_keys(self, x):
        """`[J, B, K, C, F]` to `[B, S, K, F]`."""
        x = tf.transpose(x, (1, 0, 3, 2, 4))
        shape = (self.batch, self.column_blocks * self.columns, self.kv_heads, x.shape[-1])
        return tf.reshape(x, shape)[:, : self.source]

    def lead(self, axis):
        return ((self.row_blocks, self.column_blocks)[axis], self.batch, self.kv_heads)

    def _of_positions(self, name, tensors):
        """Mask and document ids `[B, T]` or `[B, S]` to `[I, B, Q]` or `[J, B, C]`."""
        count, size = (
            (self.row_blocks, self.rows) if name == "query" else (self.column_blocks, self.columns)
        )
        for x in (tensors.get(f"{name}_mask"), tensors.get(f"{name}_documents")):
            if x is not None:
                x = _padded(x, 1, count * size)
                x = tf.transpose(tf.reshape(x, (-1, count, size)), (1, 0, 2))
            yield x

    def _of_pairs(self, x):
        """A mask or bias `[B, N, T, S]` to `[I, J, B, K, G, Q, C]`; each axis may be 1."""
        if x is None:
            return None
        batch, heads, counts = tf.shape(x)[0], x.shape[1], []
        for axis, count, size in (
            (2, self.row_blocks, self.rows), (3, self.column_blocks, self.columns),
        ):  # fmt: skip
            broadcast = x.shape[axis] == 1
            counts += [1, 1] if broadcast else [count, size]
            x = x if broadcast else _padded(x, axis, count * size)
        split = (1, 1) if heads == 1 else (self.kv_heads, self.groups)
        x = tf.reshape(x, (batch, *split, *counts))
        return tf.transpose(x, (3, 5, 0, 1, 2, 4, 6))

    def to_bias(self, x):
        """`[I, J, B, K, G, Q, C]`, where each axis may be 1, to the shape of the bias."""
        shape = tf.shape(self.bias)
        x = tf.transpose(x, (2, 3, 4, 0, 5, 1, 6))
        found = tf.shape(x)
        x = tf.reshape(x, (shape[0], shape[1], found[3] * found[4], found[5] * found[6]))
        return x[:, :, : shape[2], : shape[3]]

    # ---- pairs of blocks

    def first(self, i):
        """The first block of keys that queries of block i see."""
        if self.behind is None:
            return tf.constant(0)
        column = self.position + i * self.rows - self.behind
        return tf.clip_by_value(column // self.columns, 0, self.column_blocks)

    def end(self, i):
        """One more than the last block of keys that queries of block i see."""
        if self.ahead is None:
            return self.column_blocks
        column = self.position + (i + 1) * self.rows - 1 + self.ahead
        return tf.clip_by_value(column // self.columns + 1, 0, self.column_blocks)

    def scores(self, i, j):
        """Scores `[B, K, G, Q, C]` of two blocks, and their mask, or None if nothing is hidden."""
        products = tf.matmul(self.queries[i], self.keys[j], transpose_b=True)
        scores = tf.reshape(tf.cast(products, tf.float32), self.pair())
        seen = self._seen(i, j)
        if self.slopes is not None:
            slopes = tf.reshape(self.slopes, (self.kv_heads, self.groups, 1, 1))
            scores = scores - slopes * tf.cast(tf.abs(self._ahead(i, j)), tf.float32)
        if self.biases is not None:
            scores = scores + tf.cast(_pair_of(self.biases, i, j), tf.float32)
            finite = tf.logical_not(scores < portable.MASKED_SCORE)  # only -inf is below
            seen = finite if seen is None else seen & finite
        return hidden(scores, seen, portable.MASKED_SCORE), seen

    def kept(self, i, j):
        """The factors of dropout for the weights `[B, K, G, Q, C]`, as in `kernels.dropout`."""
        rows = i * self.rows + tf.range(self.rows)
        columns = j * self.columns + tf.range(self.columns)
        heads = tf.range(self.batch * self.heads)
        # The index of each weight in [B, N, T, S]; after 2^32 weights the bits repeat.
        index, target, source = (tf.cast(x, tf.uint32) for x in (heads, self.target, self.source))
        index = index[:, None] * target + tf.cast(rows, tf.uint32)
        index = index[:, :, None] * source + tf.cast(columns, tf.uint32)
        keep = random_bits(tf.reshape(index, self.pair()), self.seed) >= threshold(self.rate)
        return tf.where(keep, 1.0 / (1.0 - self.rate), 0.0)

    def pair(self):
        return (self.batch, self.kv_heads, self.groups, self.rows, self.columns)

    def _ahead(self, i, j):
        """How far each key is ahead of each query, `[Q, C]`."""
        columns = j * self.columns + tf.range(self.columns)
        rows = self.position + i * self.rows + tf.range(self.rows)
        return columns[None] - rows[:, None]

    def _seen(self, i, j):
        columns = j * self.columns + tf.range(self.columns)
        parts = [] if self.is_even else [columns < self.source]
        if self.behind is not None or self.ahead is not None:
            ahead = self._ahead(i, j)
            if self.ahead is not None:
                parts.append(ahead <= self.ahead)
            if self.behind is not None:
                parts.append(ahead >= -self.behind)
        if self.query_mask is not None:
            parts.append(self.query_mask[i][:, None, None, :, None])
        if self.source_mask is not None:
            parts.append(self.source_mask[j][:, None, None, None])
        if self.source_documents is not None:
            queries = self.query_documents[i][:, None, None, :, None]
            keys = self.source_documents[j][:, None, None, None]
            parts.append(tf.equal(queries, keys) & tf.not_equal(keys, 0))
        if self.mask is not None:
            parts.append(_pair_of(self.mask, i, j))
        return functools.reduce(tf.logical_and, parts) if parts else None


def hidden(x, seen, value):
    return x if seen is None else tf.where(seen, x, value)


def _padded(x, axis, size):
    """Pads the end of an axis of `x` with zeros to a size."""
    widths = [[0, 0] for _ in x.shape]
    widths[axis][1] = size - tf.shape(x)[axis]
    return tf.pad(x, widths)


def _pair_of(pairs, i, j):
    i = tf.constant(0) if pairs.shape[0] == 1 else i
    j = tf.constant(0) if pairs.shape[1] == 1 else j
    return tf.gather_nd(pairs, tf.stack([i, j]))
