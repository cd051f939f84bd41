"""The plain version of each formula in `keras.ops`, correct on every backend.

B batch, T target, S source, N heads, K key/value heads, G = N / K, H head_dim, V value_dim,
D last axis
"""

import contextlib
import functools
import re
import typing
from typing import Any

import keras
import numpy as np
from keras import ops

# The float32 score of a hidden key. It is below every real score, and finite, because a row with
# only this score must not become NaN.
MASKED_SCORE = float(np.finfo("float32").min)
BLOCK = 256  # queries, and keys, of a block of scores in memory


class Seen(typing.NamedTuple):
    """Who sees whom, in a form that can be computed for a block of queries and keys.

    Attributes:
        mask: boolean, of rank 4, broadcastable to `[B, N, T, S]`, or None.
        query_mask, source_mask: boolean `[B, T]` and `[B, S]`, or None.
        query_documents, source_documents: integers `[B, T]` and `[B, S]`, or None. A query sees the
            keys with its number; number 0 sees none.
        position: position of the first query among the keys, an integer or a scalar tensor.
        behind, ahead: how many keys before and after its own position a query sees; None: all.
        slopes: m_n of linear biases -m_n |t - s|, a tuple of a number for each head; None: none.
    """

    mask: typing.Any = None
    query_mask: typing.Any = None
    source_mask: typing.Any = None
    query_documents: typing.Any = None
    source_documents: typing.Any = None
    position: typing.Any = 0
    behind: int | None = None
    ahead: int | None = None
    slopes: tuple[float, ...] | None = None


def layer_norm(inputs, gamma, beta, epsilon):
    """gamma * (x - mean) / sqrt(var + epsilon) + beta, with float32 statistics."""
    x = ops.cast(inputs, "float32")
    mean = ops.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    return _scale_and_shift(centred * ops.rsqrt(variance + epsilon), gamma, beta, inputs.dtype)


def rms_norm(inputs, gamma, epsilon):
    """gamma * x / sqrt(mean(x^2) + epsilon), with float32 statistics."""
    x = ops.cast(inputs, "float32")
    mean_square = ops.mean(ops.square(x), axis=-1, keepdims=True)
    return _scale_and_shift(x * ops.rsqrt(mean_square + epsilon), gamma, None, inputs.dtype)


def _scale_and_shift(normalized, gamma, beta, dtype):
    if gamma is not None:
        normalized = normalized * ops.cast(gamma, "float32")
    if beta is not None:
        normalized = normalized + ops.cast(beta, "float32")
    return ops.cast(normalized, dtype)


def empty(shape, dtype):
    """An array that is written before it is read."""
    return ops.zeros(shape, dtype)


def tensor_from_array(array):
    """A tensor with a copy of an array's values."""
    return ops.convert_to_tensor(np.array(array, order="C"))


def dropout(inputs, rate, seed):
    """Zeroes each element with probability `rate`, scales the others by 1 / (1 - rate)."""
    return keras.random.dropout(inputs, rate, seed=seed)


def build_training(model, data, labels=None):
    """Does nothing: `fit` creates all variables before it compiles a step."""


def program(model, to_numpy=True):
    """A function from inputs to the model's outputs as NumPy arrays, compiled once per shape."""
    return model.predict_on_batch


def validated(data, ranges):
    """The data unchanged: only TensorFlow's data sets are checked."""
    return data


def replicas():
    """1: a step on several devices is one program for the whole batch."""
    return 1


def strategy_replicas():
    """1, as `replicas`."""
    return 1


def replicas_of(model):
    """1, as `replicas`."""
    return 1


def refuse_branches(optimizer, strategy=None):
    """Does nothing: a step on several devices is one program."""


def slope(function, values):
    """Only for several replicas."""
    raise NotImplementedError


@contextlib.contextmanager
def refusing_uneven(model):
    """ValueError if the rows of a batch cannot be divided among devices (`keras.distribution`)."""
    try:
        yield
    except ValueError as error:
        rows = re.search(r"full shape: \((\d+)", str(error))
        distribution = keras.distribution.distribution()
        if distribution is None or rows is None or "evenly divide" not in str(error):
            raise
        model.jax_state_sync()  # a loop of Keras holds the weights
        raise ValueError(
            "The rows of every batch, also of the last one, must be a multiple of the "
            f"{distribution.num_model_replicas} devices of the axis "
            f"`{distribution.batch_dim_name}`. Choose such a `batch_size`, and leave out the last "
            "rows, with a data set by `drop_remainder=True`. Received: a batch of "
            f"{rows[1]} rows."
        ) from error


def copies(variable):
    """Only the variable."""
    return (variable,)


def step_memory(loss, *arguments):
    """Peak memory in bytes of a loss and its gradients, and the number of operations.

    Operations run in their order. A result lives until the last operation that reads it. Arguments
    and gradients of weights do not count.

    Args:
        loss: a function of the groups of `arguments`, lists of tensors; the first has the weights.
        *arguments: groups of `(shape, dtype)` pairs.

    Returns:
        Bytes and operations.
    """
    raise NotImplementedError(
        "The memory of a step is read from TensorFlow's graph. Set KERAS_BACKEND=tensorflow. "
        f"Received: KERAS_BACKEND={keras.config.backend()}."
    )


def is_chief(strategy: Any = None) -> bool:
    """Whether this process writes files: the first of several workers, or the only one.

    Args:
        strategy: a `tf.distribute.Strategy`; by default the one whose scope is active.

    Example:

    >>> keras_xfmr.training.is_chief()
    True
    """
    return True


def sum_over_workers(model, value):
    """None: this is the only process."""
    return None


def of_chief(model, value):
    """The value: this is the only process."""
    return value


def dense(gradient):
    """The gradient unchanged: it is a tensor."""
    return gradient


def sum_over_replicas(values):
    """The tensor unchanged: there is one replica."""
    return values


def uniform(shape, seed):
    """float32 numbers in [0, 1). `seed` is an integer, a `keras.random.SeedGenerator`, or None."""
    return keras.random.uniform(shape, seed=seed)


def uniform_of_rows(seeds, length, copies=1):
    """float32 numbers in [0, 1) that depend on the seed of the row and on the place in the row.

    Args:
        seeds: integers `[B]`, int32 or int64; equal numbers of both types give equal results.
        length: L, numbers in a row.
        copies: n, adjacent rows for each seed. The first is the row of `copies=1`.

    Returns:
        `[L, B * n]`.
    """
    wide = keras.backend.standardize_dtype(seeds.dtype) in ("int64", "uint64")
    high = ops.right_shift(seeds, 32 if wide else 31)  # the sign of an int32 seed
    low = ops.bitwise_and(seeds, 2**32 - 1) if wide else seeds
    key = [ops.cast(ops.repeat(word, copies), "uint32") for word in (low, high)]
    rows = ops.arange(ops.shape(key[0])[0], dtype="int32") % copies
    index = ops.expand_dims(ops.arange(length, dtype="int32"), 1)
    bits, _ = threefry(key, [ops.cast(index, "uint32"), ops.cast(rows, "uint32")])
    bits = ops.right_shift(bits, _word(8))
    return ops.cast(ops.cast(bits, "int32"), "float32") * 2.0**-24


def threefry(key, counter):
    """Two random words from two words of a key and two of a counter, each a uint32 tensor.

    Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2,
    3"). Different keys give independent streams; the hash of `uniform` does not promise that.
    """
    keys = (*key, ops.bitwise_xor(ops.bitwise_xor(*key), _word(0x1BD11BDA)))
    first, second = counter[0] + keys[0], counter[1] + keys[1]
    for i in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            first = first + second
            left = ops.left_shift(second, _word(turn))
            turned = ops.bitwise_or(left, ops.right_shift(second, _word(32 - turn)))
            second = ops.bitwise_xor(turned, first)
        first = first + keys[(i + 1) % 3]
        second = second + keys[(i + 2) % 3] + _word(i + 1)
    return first, second


def _word(value):
    return ops.convert_to_tensor(value, "uint32")


def write(tensor, update, index, axis):
    """`tensor` with `update` at positions index .. index + width of one axis; index is a scalar."""
    index = ops.cast(index, "int32")
    start = [index if i == axis else ops.zeros((), "int32") for i in range(len(tensor.shape))]
    return ops.slice_update(tensor, ops.stack(start), update)


def softmax(scores):
    """Softmax over the last axis. Keras warns of an axis of size 1, which is valid here."""
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


def attention(query, key, value, mask=None, bias=None, scale=1.0, drop=None):
    """softmax(scale * Q K^T + bias) V over masked scores, softmax in float32.

    Args:
        query: `[B, T, N, H]`.
        key: `[B, S, K, H]`; head n of the query reads head n // G.
        value: `[B, S, K, V]`.
        mask: boolean, broadcastable to `[B, N, T, S]`, True = attend.
        bias: broadcastable to `[B, N, T, S]`; -inf hides a position as the mask does.
        drop: function applied to the weights before they multiply the values.

    Returns:
        `[B, T, N, V]` and the weights `[B, N, T, S]`.
    """
    query = query * ops.cast(scale, query.dtype)
    scores = ops.cast(_query_key_product(query, key), "float32")
    if bias is not None:
        scores, mask = _add_bias(scores, bias, mask)
    if mask is not None:
        scores = ops.where(mask, scores, ops.cast(MASKED_SCORE, "float32"))
    weights = softmax(scores)
    if mask is not None:
        # A query that is masked everywhere has uniform weights here; it must return zeros.
        attends = ops.any(mask, axis=-1, keepdims=True)
        weights = weights * ops.cast(attends, "float32")
    weights = ops.cast(weights, value.dtype)
    dropped = weights if drop is None else drop(weights)
    return _weights_value_product(dropped, value), weights


def blockwise_attention(query, key, value, seen, bias=None, scale=1.0, dropout=None, block=None):
    """`attention` with the scores of one block of queries at a time, forward and backward.

    Rabe and Staats (2021), with all keys for each block of queries. The scores in memory are
    `[B, N, block, S]`; the backward pass computes them again, if `recompute` does.

    Args:
        query, key, value: see `attention`.
        seen: who sees whom, a `Seen`.
        bias, scale: see `attention`.
        dropout: a rate and a seed of two integers, or None.
        block: queries in a block.

    Returns:
        `[B, T, N, V]`.
    """
    block, target, source = block or BLOCK, ops.shape(query)[1], ops.shape(key)[1]
    count = -(-target // block)
    rest = count * block - target

    def cut(x, axis, wanted=True):
        """Splits an axis into blocks and moves these to the front, if the axis is not 1."""
        if x is None or not wanted or x.shape[axis] == 1:
            return x
        widths = [(0, rest if i == axis else 0) for i in range(len(x.shape))]
        x, shape = ops.pad(x, widths), list(ops.shape(x))
        shape[axis : axis + 1] = [count, block]
        return ops.moveaxis(ops.reshape(x, shape), axis, 0)

    moving = {"query": cut(query, 1), "index": ops.arange(count, dtype="int32")}
    whole = {"key": key, "value": value}
    rows = {"query_mask": 1, "query_documents": 1, "mask": 2}
    given = {**{name: getattr(seen, name) for name in rows}, "bias": bias}
    for name, axis in {**rows, "bias": 2}.items():
        if given[name] is not None:
            fixed = given[name].shape[axis] == 1 and target != 1
            (whole if fixed else moving)[name] = given[name] if fixed else cut(given[name], axis)
    for name in ("source_mask", "source_documents"):
        if getattr(seen, name) is not None:
            whole[name] = getattr(seen, name)

    def attend(whole, part):
        part = {**whole, **part}
        first = part["index"] * block
        mask = _seen(part, seen, first, block, source)
        bias = part.get("bias")
        if seen.slopes is not None:
            distance = ops.cast(ops.abs(_ahead(seen, first, block, source)), "float32")
            linear = -np.array(seen.slopes, "float32")[:, None, None] * distance
            bias = linear if bias is None else linear + bias
        drop = None
        if dropout is not None:
            rate, seed = dropout
            of_block = ops.cast(ops.stack([0 * part["index"], part["index"]]), "uint32")
            seed = ops.cast(seed, "uint32") + of_block
            drop = lambda w: keras.random.dropout(w, rate, seed=seed)  # noqa: E731
        heads = part["query"], part["key"], part["value"]
        return attention(*heads, mask, bias, scale, drop)[0]

    once = recompute(attend)
    _, blocks = ops.scan(lambda carry, part: (carry, once(whole, part)), ops.zeros(()), moving)
    output = ops.moveaxis(blocks, 0, 1)
    shape = ops.shape(output)
    return ops.reshape(output, (shape[0], count * block, *shape[3:]))[:, :target]


def _ahead(seen, first, count, source):
    """How far each key is ahead of each of `count` queries from number `first` on, `[count, S]`."""
    rows = ops.arange(count, dtype="int32") + first + ops.cast(seen.position, "int32")
    return ops.arange(source, dtype="int32") - ops.expand_dims(rows, 1)


def _seen(part, seen, first, count, source):
    """The mask of `count` queries from number `first` on, or None if they see all keys."""
    masks = []
    if seen.behind is not None or seen.ahead is not None:
        ahead = _ahead(seen, first, count, source)
        if seen.ahead is not None:
            masks.append(ahead <= seen.ahead)
        if seen.behind is not None:
            masks.append(ahead >= -seen.behind)
    if "query_mask" in part:
        masks.append(part["query_mask"][:, None, :, None])
    if "source_mask" in part:
        masks.append(part["source_mask"][:, None, None, :])
    if "query_documents" in part:
        documents = part["source_documents"][:, None, None, :]
        same = ops.equal(part["query_documents"][:, None, :, None], documents)
        masks.append(ops.logical_and(same, ops.not_equal(documents, 0)))
    if "mask" in part:
        masks.append(part["mask"])
    return functools.reduce(ops.logical_and, masks) if masks else None


def recompute(function):
    """The function, whose intermediate values are computed again in the backward pass.

    They are not stored for the gradient. JAX uses `jax.checkpoint`; other backends than JAX and
    TensorFlow store what they always store.

    Args:
        function: from two lists of tensors (weights and seeds; inputs) to a list of tensors.
    """
    if keras.config.backend() != "jax":
        return function
    from keras_xfmr.kernels.jax import checkpoint

    return checkpoint(function)


def _add_bias(scores, bias, mask):
    """Biased scores, shifted so that each row's largest visible one is 0, and the visible mask.

    A bias may be as low as `MASKED_SCORE`, which is often used for padding. In a row of only such
    scores, hidden keys would otherwise get the same weight.
    """
    scores = scores + ops.cast(bias, "float32")
    # Only -inf is below it. A constant -inf would stop `tf.debugging.enable_check_numerics`.
    seen = ops.logical_not(scores < MASKED_SCORE)
    seen = seen if mask is None else ops.logical_and(seen, mask)
    largest = ops.max(ops.where(seen, scores, MASKED_SCORE), axis=-1, keepdims=True)
    return scores - ops.stop_gradient(largest), seen


def _query_key_product(query, key):
    heads, kv_heads = query.shape[2], key.shape[2]
    if heads == kv_heads:
        return ops.einsum("btnh,bsnh->bnts", query, key)
    batch, target, source = ops.shape(query)[0], ops.shape(query)[1], ops.shape(key)[1]
    grouped = ops.reshape(query, (batch, target, kv_heads, heads // kv_heads, query.shape[3]))
    scores = ops.einsum("btkgh,bskh->bkgts", grouped, key)
    return ops.reshape(scores, (batch, heads, target, source))


def _weights_value_product(weights, value):
    heads, kv_heads = weights.shape[1], value.shape[2]
    if heads == kv_heads:
        return ops.einsum("bnts,bsnh->btnh", weights, value)
    batch, target, source = ops.shape(weights)[0], ops.shape(weights)[2], ops.shape(value)[1]
    grouped = ops.reshape(weights, (batch, kv_heads, heads // kv_heads, target, source))
    output = ops.einsum("bkgts,bskh->btkgh", grouped, value)
    return ops.reshape(output, (batch, target, heads, value.shape[3]))


TOP_K_BLOCK = 128


def top_k(scores, k):
    """The k largest of each row of `scores [R, V]`, in descending order, and their int32 indices.

    Equal scores keep the order of their indices, as in `keras.ops.top_k`. A long row is searched in
    two passes, because the backends' own search is a scalar loop over V on a CPU: the k largest are
    in the k blocks with the largest maxima.
    """
    size = scores.shape[-1]
    blocks = size // TOP_K_BLOCK
    if blocks < 4 * k:
        values, ids = ops.top_k(scores, k)
        return values, ops.cast(ids, "int32")
    rows, searched = ops.shape(scores)[0], blocks * TOP_K_BLOCK
    head = ops.reshape(scores[:, :searched], (rows, blocks, TOP_K_BLOCK))
    _, best = ops.top_k(ops.max(head, axis=-1), k)
    best = ops.sort(ops.cast(best, "int32"), axis=-1)  # [R, k], ascending: equal scores keep order
    first = ops.expand_dims(ops.arange(rows, dtype="int32") * blocks, -1)
    candidates = ops.take(ops.reshape(head, (-1, TOP_K_BLOCK)), first + best, axis=0)
    places = ops.expand_dims(best * TOP_K_BLOCK, -1) + ops.arange(TOP_K_BLOCK, dtype="int32")
    candidates, places = (ops.reshape(x, (rows, k * TOP_K_BLOCK)) for x in (candidates, places))
    if searched < size:
        rest = ops.expand_dims(ops.arange(searched, size, dtype="int32"), 0)
        places = ops.concatenate([places, ops.repeat(rest, rows, axis=0)], axis=1)
        candidates = ops.concatenate([candidates, scores[:, searched:]], axis=1)
    values, where = ops.top_k(candidates, k)
    return values, ops.take_along_axis(places, ops.cast(where, "int32"), axis=1)


def projected_lstm(inputs, recurrent, projection, state, mask, clips, training=False):
    """The loop of an LSTM with a projected output (Sak et al. 2014), gates in the order i, j, f, o.

        i, j, f, o = sigmoid, tanh, sigmoid, sigmoid of z_t + h_{t-1} R
        c_t = clip(f c_{t-1} + i j);  h_t = clip((o tanh(c_t)) P)

    Args:
        inputs: z `[T, B, 4 U]`, added to the recurrent product of each step.
        recurrent: R `[P, 4 U]`.
        projection: P `[U, P]`.
        state: the first h `[B, P]` and c float32 `[B, U]`.
        mask: bool `[T, B, 1]`, False where a row keeps its state; or None.
        clips: the maximum absolute values of c and h, or None each.
        training: whether there will be a gradient; the result is correct in any case.

    Returns:
        All h `[T, B, P]`, and the last (h, c).
    """
    cell_clip, projection_clip = clips

    def step(state, at):
        h, c = state
        z = at[0] + ops.matmul(h, recurrent)
        i, j, f, o = ops.split(ops.cast(z, "float32"), 4, axis=-1)
        i, f, o = ops.sigmoid(i), ops.sigmoid(f), ops.sigmoid(o)
        new_c = _clip(f * c + i * ops.tanh(j), cell_clip)
        new_h = ops.cast(o * ops.tanh(new_c), inputs.dtype)
        new_h = _clip(ops.matmul(new_h, projection), projection_clip)
        if mask is not None:
            new_h, new_c = ops.where(at[1], new_h, h), ops.where(at[1], new_c, c)
        return (new_h, new_c), new_h

    state, outputs = ops.scan(step, state, (inputs,) if mask is None else (inputs, mask))
    return outputs, state


def _clip(x, limit):
    return x if limit is None else ops.clip(x, -limit, limit)
