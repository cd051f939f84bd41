"""Attention in blocks of queries and keys; its memory grows with T and S, not with T x S.

B batch, T target, S source, N heads, K key/value heads, G = N / K, H head_dim, V value_dim,
Q rows of a block of queries, C columns of a block of keys, I and J numbers of such blocks

The running softmax is that of Milakov and Gimelshein (2018), the blocks and the recomputation in
the backward pass are those of Rabe and Staats (2021). With the scores s of a block and the maximum
m, the sum l and the output o of the blocks before it:

    m' = max(m, max s);  p = exp(s - m');  l' = exp(m - m') l + sum p;  o' = exp(m - m') o + p V

and o / l after the last block. The backward pass computes p again from m and l:

    dV = p^T dO;  ds = p (dO V^T - sum(dO O));  dQ = ds K;  dK = ds^T Q
"""

import functools

import tensorflow as tf

from keras_xfmr.kernels import portable
from keras_xfmr.kernels.tensorflow_blocks import Blocks, hidden
from keras_xfmr.kernels.tensorflow_replicas import seed_of_replica


def blockwise_attention(query, key, value, seen, bias=None, scale=1.0, dropout=None, block=None):
    """`portable.blockwise_attention` with blocks of keys, too, and a running softmax.

    Blocks of keys that are hidden from all queries of a block, by `seen.behind` and `seen.ahead`,
    are skipped. The dropout equals `kernels.dropout` number by number.
    """
    tensors = {
        "query": query * tf.cast(scale, query.dtype), "key": key, "value": value, "bias": bias,
        "mask": seen.mask, "query_mask": seen.query_mask, "source_mask": seen.source_mask,
        "query_documents": seen.query_documents, "source_documents": seen.source_documents,
        "position": tf.cast(seen.position, tf.int32),
    }  # fmt: skip
    rate, seed = (0.0, None) if dropout is None else dropout
    tensors["seed"] = None if seed is None else seed_of_replica(seed)  # `_function` has no replica
    tensors = {name: tf.convert_to_tensor(x) for name, x in tensors.items() if x is not None}
    for name in {"mask", "bias"} & tensors.keys():
        tensors[name] = _whole_axes(tensors[name], query, key)
    signature = tuple((name, _signature(name, x), x.dtype) for name, x in tensors.items())
    block = portable.BLOCK if block is None else block
    rows, columns = (_size(block, x.shape[1]) for x in (query, key))
    sizes = rows, columns, key.shape[1] is not None and key.shape[1] % columns == 0
    limits = seen.behind, seen.ahead, seen.slopes
    return _function(limits, float(rate), sizes, signature)(tensors)


def _signature(name, x):
    """The fixed sizes of a graph: heads and features, and axes of 1 in masks and biases."""
    if name in ("query", "key", "value"):
        return (None, None, *x.shape[2:])
    if name in ("mask", "bias"):
        return tuple(n if n == 1 or axis == 1 else None for axis, n in enumerate(x.shape))
    return (None,) * len(x.shape) if name != "seed" else (2,)


def _size(block, length):
    """Size of a block: at most the power of 2 that holds all positions."""
    return block if length is None else min(block, 1 << max(length - 1, 0).bit_length())


@functools.cache
def _function(limits, rate, sizes, signature):
    """The attention as one `tf.function` for all layers with these heads.

    TensorFlow keeps a custom gradient, and the graph that contains it, forever. A graph of its own
    holds no model.
    """

    def run(tensors):
        # Arguments of `tf.custom_gradient` may have a gradient; the other tensors are closed over.
        names = [name for name in ("query", "key", "value", "bias") if name in tensors]

        @tf.custom_gradient
        def attend(*values):
            given = {**tensors, **dict(zip(names, values))}
            blocks = Blocks(given, *limits, rate, sizes)
            output, largest, shares = _forward(blocks)

            def gradient(upstream):
                return _backward(blocks, output, largest, shares, upstream)

            return output, gradient

        return attend(*(tensors[name] for name in names))

    specs = {name: tf.TensorSpec(shape, dtype) for name, shape, dtype in signature}
    with tf.init_scope():  # not part of the graph that calls it first
        return tf.function(run, autograph=False).get_concrete_function(specs)


def _forward(blocks):
    """The output `[B, T, N, V]`, and for each row the maximum and 1 / l, `[I, B, K, G, Q]`."""
    row = (blocks.batch, blocks.kv_heads, blocks.groups, blocks.rows)
    width = blocks.value.shape[3]

    def read_keys(i, j, largest, total, output):
        scores, seen = blocks.scores(i, j)
        higher = tf.maximum(largest, tf.reduce_max(scores, -1))
        weights = tf.exp(scores - higher[..., None])
        weights = hidden(weights, seen, 0.0)
        shrink = tf.exp(largest - higher)
        total = total * shrink + tf.reduce_sum(weights, -1)
        weights = weights * blocks.kept(i, j) if blocks.rate else weights
        update = _per_head(tf.cast(weights, blocks.dtype), blocks.values[j])
        return i, j + 1, higher, total, output * shrink[..., None] + update

    def read_queries(i, *parts):
        start = tf.fill(row, portable.MASKED_SCORE), tf.zeros(row), tf.zeros((*row, width))
        _, _, largest, total, output = tf.while_loop(
            lambda i, j, *_: j < blocks.end(i),
            read_keys,
            (i, blocks.first(i), *start),
            parallel_iterations=1,
        )
        share = tf.math.divide_no_nan(1.0, total)  # 0 where a row sees nothing
        output = tf.cast(output * share[..., None], blocks.dtype)
        done = zip(parts, (output, largest, share))
        return (i + 1, *(array.write(i, part) for array, part in done))

    empty = [
        _array((blocks.row_blocks, *row, *size), dtype)
        for size, dtype in (((width,), blocks.dtype), ((), tf.float32), ((), tf.float32))
    ]
    _, output, largest, shares = tf.while_loop(
        lambda i, *_: i < blocks.row_blocks,
        read_queries,
        (tf.constant(0), *empty),
        parallel_iterations=1,
    )
    output = tf.reshape(output.stack(), (*blocks.lead(0), blocks.groups * blocks.rows, width))
    return blocks.to_queries(output), largest.stack(), shares.stack()


def _backward(blocks, output, largest, shares, upstream):
    """The gradients of query, key, value, and of the bias, if there is one."""
    row = (blocks.batch, blocks.kv_heads, blocks.groups * blocks.rows)
    products = tf.reduce_sum(tf.cast(upstream, tf.float32) * tf.cast(output, tf.float32), -1)
    products = tf.reshape(blocks.of_queries(products[..., None]), tf.shape(largest))
    upstream = blocks.of_queries(upstream)
    shape = blocks.pair()

    def read_keys(i, j, of_query, of_keys, of_values, *of_bias):
        scores, seen = blocks.scores(i, j)
        weights = tf.exp(scores - largest[i][..., None]) * shares[i][..., None]
        weights = hidden(weights, seen, 0.0)
        above = tf.matmul(upstream[i], blocks.values[j], transpose_b=True)
        above = tf.reshape(tf.cast(above, tf.float32), shape)
        dropped = weights
        if blocks.rate:
            kept = blocks.kept(i, j)
            dropped, above = weights * kept, above * kept
        of_scores = weights * (above - products[i][..., None])
        dropped, narrow = (
            tf.reshape(tf.cast(x, blocks.dtype), (*row, blocks.columns))
            for x in (dropped, of_scores)
        )
        of_query += tf.cast(tf.matmul(narrow, blocks.keys[j]), tf.float32)
        of_keys = _add(of_keys, j, tf.matmul(narrow, blocks.queries[i], transpose_a=True))
        of_values = _add(of_values, j, tf.matmul(dropped, upstream[i], transpose_a=True))
        if of_bias:
            place, summed = _place(blocks.biases, i, j), _sum_to(blocks.biases, of_scores)
            of_bias = [_add(of_bias[0], place, summed)]
        return i, j + 1, of_query, of_keys, of_values, *of_bias

    def read_queries(i, of_queries, *others):
        start = tf.zeros((*row, blocks.query.shape[3]))
        _, _, of_query, *others = tf.while_loop(
            lambda i, j, *_: j < blocks.end(i),
            read_keys,
            (i, blocks.first(i), start, *others),
            parallel_iterations=1,
        )
        of_query = tf.cast(of_query, blocks.query.dtype)
        return (i + 1, of_queries.write(i, of_query), *others)

    arrays = [_array(tf.shape(blocks.queries), blocks.query.dtype)]
    arrays += [_array(tf.shape(x), tf.float32) for x in (blocks.keys, blocks.values)]
    if blocks.biases is not None:
        size = tf.shape(blocks.biases)
        arrays.append(_array(tf.concat([[size[0] * size[1]], size[2:]], 0), tf.float32))
    _, of_queries, of_keys, of_values, *of_bias = tf.while_loop(
        lambda i, *_: i < blocks.row_blocks,
        read_queries,
        (tf.constant(0), *arrays),
        parallel_iterations=1,
    )
    gradients = [blocks.to_queries(_stacked(of_queries, blocks.queries))]
    for array, like in ((of_keys, blocks.keys), (of_values, blocks.values)):
        gradients.append(blocks.to_keys(tf.cast(_stacked(array, like), like.dtype)))
    if of_bias:
        found = tf.reshape(of_bias[0].stack(), tf.shape(blocks.biases))
        gradients.append(tf.cast(blocks.to_bias(found), blocks.bias.dtype))
    return gradients


def _whole_axes(x, query, key):
    """A mask or bias of rank 4; each axis is known to be 1, or is B, N, T or S."""
    if x.shape.is_fully_defined():
        return x
    (batch, target), source = tf.unstack(tf.shape(query)[:2]), tf.shape(key)[1]
    wanted = batch, query.shape[2], target, source
    return tf.broadcast_to(x, [1 if n == 1 else size for n, size in zip(x.shape, wanted)])


def _array(shape, dtype):
    """Zeros `[I, ...]` as an array; its elements are written in place."""
    zeros = tf.zeros(shape, dtype)
    array = tf.TensorArray(dtype, size=tf.shape(zeros)[0], clear_after_read=False)
    return array.unstack(zeros)


def _stacked(array, like):
    return tf.reshape(array.stack(), tf.shape(like))


def _add(array, place, update):
    return array.write(place, array.read(place) + tf.cast(update, array.dtype))


def _per_head(weights, values):
    """`[B, K, G, Q, C]` times `[B, K, C, V]`: float32 `[B, K, G, Q, V]`."""
    shape = tf.shape(weights)
    rows = tf.reshape(weights, (shape[0], shape[1], shape[2] * shape[3], shape[4]))
    output = tf.cast(tf.matmul(rows, values), tf.float32)
    return tf.reshape(output, (*tf.unstack(shape)[:4], values.shape[-1]))


def _place(pairs, i, j):
    """Index of a pair of blocks in a tensor, which may have one block for all pairs."""
    i = tf.constant(0) if pairs.shape[0] == 1 else i
    j = tf.constant(0) if pairs.shape[1] == 1 else j
    return i * tf.shape(pairs)[1] + j


def _sum_to(pairs, x):
    """Sums `[B, K, G, Q, C]` over the axes that have size 1 in `pairs`."""
    axes = [axis for axis in range(5) if pairs.shape[axis + 2] == 1]
    return tf.reduce_sum(x, axes, keepdims=True)
