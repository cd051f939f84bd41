"""The mathematics of the Transformer, without state.

B batch, T target, S source, N heads, K key/value heads, H head_dim, V value_dim,
D d_model

Masks are boolean and True means "may attend". They have rank 3 or 4 and broadcast to
`[B, T, S]` or `[B, N, T, S]`.
"""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_xfmr import kernels
from keras_xfmr.common.checks import check_choice
from keras_xfmr.common.types import ArrayLike, Ids, Index, Outputs, Shape, Tensor

__all__ = [
    "alibi_bias",
    "alibi_slopes",
    "apply_rotary",
    "check_broadcast",
    "combine_masks",
    "concrete_value",
    "could_be_ids",
    "document_mask",
    "document_positions",
    "l2_normalize",
    "log_uniform",
    "look_ahead_mask",
    "padding_mask",
    "rotary_angles",
    "sampled_logits",
    "scaled_dot_product_attention",
    "shapes_agree",
    "sinusoidal_encoding",
    "update_cache",
]

SINUSOID_LAYOUTS = ("interleaved", "halves", "tensor2tensor")
ROTARY_LAYOUTS = ("halves", "interleaved")


def concrete_value(x: ArrayLike) -> np.ndarray | None:
    """`x` as a NumPy array if its values are known now, None while a graph is traced.

    Checks of values (ids inside the vocabulary, positions inside a table) run only if this is not
    None, so they cost nothing in a compiled step.

    Example:

    >>> concrete_value(np.array([1, 2])).tolist()
    [1, 2]
    """
    # A traced TensorFlow tensor has a `graph`. Without this test NumPy would warn before it raised.
    if isinstance(x, keras.KerasTensor) or hasattr(x, "graph"):
        return None
    try:
        return ops.convert_to_numpy(x)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None


def shapes_agree(one: Shape, other: Shape) -> bool:
    """Whether two shapes are equal, as far as their sizes are known.

    Example:

    >>> shapes_agree((None, 7), (2, 7)), shapes_agree((2, 1), (2, 7))
    (True, False)
    """
    return len(one) == len(other) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(one, other)
    )


def as_array(x):
    """Converts a list to an array; returns others unchanged."""
    return np.asarray(x) if isinstance(x, (list, tuple)) else x


def could_be_ids(x: ArrayLike) -> bool:
    """Whether `x` holds integers or whole numbers, as far as its values are known.

    During tracing, float32 and float64 are accepted: Keras builds a reloaded model, and averages a
    batch over replicas, with floats instead of ids. Half precision is never accepted, because it
    rounds large ids: 4097 becomes 4096.

    Example:

    >>> could_be_ids(np.array([1.0, 2.0])), could_be_ids(np.array([1.5]))
    (True, False)
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    if "int" in dtype:
        return True
    if dtype not in ("float32", "float64"):
        return False
    values = concrete_value(x)
    if values is None:
        return True
    return bool((np.isfinite(values) & (values == np.round(values))).all())


# ---- masks


def look_ahead_mask(
    target_length: Index,
    source_length: Index | None = None,
    offset: Index = 0,
    window: int | None = None,
) -> Tensor:
    """Mask in which position t sees the positions up to t (Vaswani et al. 2017, section 3.2.3).

    For a length of 3::

        [[[True, False, False],
          [True, True,  False],
          [True, True,  True ]]]

    Args:
        target_length: T, an integer or scalar tensor.
        source_length: S, by default T.
        offset: position of the first target row among the source positions, for cached decoding.
        window: if given, a query sees only the last `window` positions, including its own.

    Returns:
        Boolean tensor `[1, T, S]`.

    Example:

    >>> keras_xfmr.functional.look_ahead_mask(2).numpy().tolist()
    [[[True, False], [True, True]]]
    """
    source_length = target_length if source_length is None else source_length
    rows = ops.expand_dims(ops.arange(target_length, dtype="int32"), 1) + ops.cast(offset, "int32")
    columns = ops.expand_dims(ops.arange(source_length, dtype="int32"), 0)
    mask = columns <= rows
    if window is not None:
        mask = ops.logical_and(mask, columns > rows - window)
    return ops.expand_dims(mask, 0)


def padding_mask(token_ids: Ids, pad_id: int = 0) -> Tensor:
    """Mask that hides padding from every query.

    Args:
        token_ids: integers `[B, S]`.
        pad_id: the padding id of the tokenizer; it is not 0 in every vocabulary.

    Returns:
        Boolean tensor `[B, 1, S]`, False where `token_ids == pad_id`.

    Raises:
        ValueError: `token_ids` is not `[B, S]`.

    Example:

    >>> mask = keras_xfmr.functional.padding_mask(np.array([[7, 5, 0]]))
    >>> mask.numpy().tolist()
    [[[True, True, False]]]
    """
    token_ids = as_array(token_ids)
    if len(token_ids.shape) != 2:
        raise ValueError(
            "`token_ids` must have the shape [B, S]: a mask with more axes would be read as a mask "
            f"for each head. Received: shape {tuple(token_ids.shape)}. Use "
            "`keras.ops.not_equal(token_ids, pad_id)` and add the axes that you need."
        )
    return ops.expand_dims(ops.not_equal(token_ids, pad_id), 1)


def document_mask(document_ids: Ids) -> Tensor:
    """Mask in which a token sees the tokens of its own document.

    For the documents `[1, 1, 2, 0]`, 0 = padding::

        [[[True,  True,  False, False],
          [True,  True,  False, False],
          [False, False, True,  False],
          [False, False, False, False]]]

    Args:
        document_ids: integers `[B, T]`; the tokens of a document must be contiguous.

    Returns:
        Boolean tensor `[B, T, T]`.

    Example:

    >>> keras_xfmr.functional.document_mask(np.array([[1, 2]])).numpy().tolist()
    [[[True, False], [False, True]]]
    """
    queries, keys = ops.expand_dims(document_ids, 2), ops.expand_dims(document_ids, 1)
    return ops.logical_and(ops.equal(queries, keys), ops.not_equal(keys, 0))


def document_positions(document_ids: Ids) -> Tensor:
    """Position of each token in its own document, from 0; 0 for padding.

    Args:
        document_ids: integers `[B, T]`, 0 = padding; the tokens of a document must be contiguous.

    Returns:
        int32 `[B, T]`.

    Example:

    >>> document_positions(np.array([[1, 1, 2, 2, 2, 0]])).numpy().tolist()
    [[0, 1, 0, 1, 2, 0]]
    """
    visible = ops.not_equal(document_ids, 0)
    count = ops.cumsum(ops.cast(visible, "int32"), axis=1)
    index = ops.cumsum(ops.ones_like(count), axis=1) - 1
    last = index[:, -1:] + 1  # larger than every index
    # The indices of the tokens that are not padding, then those of padding.
    places = ops.sort(ops.where(visible, index, index + last), axis=1)
    inside = places < last
    ids = ops.take_along_axis(document_ids, ops.where(inside, places, places - last), axis=1)
    begins = ops.concatenate([ops.ones_like(inside[:, :1]), ids[:, 1:] != ids[:, :-1]], axis=1)
    begins = ops.logical_and(begins, inside)
    # The start of the first document, the second, ...; and the document number of each token.
    starts = ops.sort(ops.where(begins, places, last), axis=1)
    number = ops.cumsum(ops.cast(begins, "int32"), axis=1) - 1
    number = ops.take_along_axis(number, ops.maximum(count - 1, 0), axis=1)
    start = ops.take_along_axis(starts, ops.maximum(number, 0), axis=1)
    return ops.where(visible, index - start, 0)


def combine_masks(*masks) -> Tensor | None:
    """The logical AND of masks; `None` allows everything.

    Args:
        *masks: boolean tensors of rank 3 or 4 (`[B, T, S]`, `[B, N, T, S]`, broadcastable), or
            None. A rank-3 mask applies to every head.

    Returns:
        One boolean tensor, or None when every mask is None.

    Raises:
        ValueError: a mask has another rank, or known values that are negative.

    Example:

    >>> look_ahead, padding = look_ahead_mask(3), padding_mask(np.array([[7, 5, 0]]))
    >>> combine_masks(look_ahead, padding, None).shape
    (1, 3, 3)
    """
    given = [as_array(mask) for mask in masks if mask is not None]
    for mask in given:
        if len(mask.shape) not in (3, 4):
            raise ValueError(
                "A mask must have the shape [B, T, S] or [B, N, T, S], where any axis may be 1. "
                f"Received: shape {tuple(mask.shape)}. padding_mask() and look_ahead_mask() return "
                "such masks."
            )
    rank = max((len(mask.shape) for mask in given), default=0)
    combined = None
    for mask in given:
        mask = _as_boolean(mask)
        if len(mask.shape) < rank:
            mask = ops.expand_dims(mask, 1)
        combined = mask if combined is None else ops.logical_and(combined, mask)
    return combined


def _as_boolean(mask):
    """The mask as boolean. Refuses an additive mask, because the cast would invert it."""
    if keras.backend.standardize_dtype(mask.dtype) == "bool":
        return mask
    values = concrete_value(mask)
    if values is not None and (values < 0).any():
        raise ValueError(
            "A mask must be boolean, or numbers where 0 hides. Received: numbers from "
            f"{values.min()} to {values.max()}. Pass numbers that are added to the scores (0 and "
            "-1e9) as `attention_bias=`."
        )
    return ops.cast(mask, "bool")


# ---- attention


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    drop: Callable[[Tensor], Tensor] | None = None,
    return_weights: bool = False,
) -> Outputs:
    """softmax(Q K^T / sqrt(H)) V (Vaswani et al. 2017, equation 1).

    The softmax is computed in float32 for every dtype of the inputs. A query that is masked
    everywhere returns zeros. With fewer key/value heads than query heads, query head n reads head
    n // (N / K) (grouped-query attention, Ainslie et al. 2023); nothing is repeated in memory.

    Args:
        query: `[B, T, N, H]`.
        key: `[B, S, K, H]`, K a divisor of N.
        value: `[B, S, K, V]`.
        mask: boolean, `[B, T, S]` or `[B, N, T, S]`, True = may attend.
        bias: added to the scaled scores, `[N, T, S]`, `[B, N, T, S]` or broadcastable to it. -inf
            hides a position as the mask does; a finite number does not, however low.
        scale: factor of the scores, by default 1 / sqrt(H).
        drop: function applied to the weights `[B, N, T, S]` before they multiply the values.
        return_weights: also return the weights, before `drop`.

    Returns:
        `[B, T, N, V]`, or a pair with the weights `[B, N, T, S]`.

    Raises:
        ValueError: ranks, heads or mask do not match.

    Example:

    >>> x = keras.random.normal((2, 5, 4, 8))
    >>> scaled_dot_product_attention(x, x, x, mask=look_ahead_mask(5)).shape
    (2, 5, 4, 8)
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if len(tensor.shape) != 4:
            raise ValueError(
                f"`{name}` must have the shape [batch, length, heads, head_dim]. "
                f"Received: shape {tuple(tensor.shape)}."
            )
    batches = {tensor.shape[0] for tensor in (query, key, value)} - {None, 1}
    if not (
        len(batches) < 2
        and shapes_agree(key.shape[1:3], value.shape[1:3])
        and shapes_agree(query.shape[3:], key.shape[3:])
    ):
        raise ValueError(
            "`key` and `value` must have the same length and heads, `query` and `key` the same "
            "head_dim, and all one batch. Received: query of shape "
            f"{tuple(query.shape)}, key of shape {tuple(key.shape)}, value of shape "
            f"{tuple(value.shape)}."
        )
    if query.shape[2] % key.shape[2]:
        raise ValueError(
            "The number of query heads must be a multiple of the number of key/value heads. "
            f"Received: {query.shape[2]} and {key.shape[2]}."
        )
    scores = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    seen = combine_masks(mask)
    if seen is not None:
        if len(seen.shape) == 3:
            seen = ops.expand_dims(seen, 1)
        check_broadcast("mask", seen.shape, scores)
    if bias is not None:
        check_broadcast("bias", bias.shape, scores)
    scale = 1.0 / math.sqrt(query.shape[3]) if scale is None else scale
    output, weights = kernels.attention(query, key, value, seen, bias, scale, drop)
    return (output, weights) if return_weights else output


def check_broadcast(name: str, shape: Shape, scores: Shape) -> None:
    """Raises ValueError unless a shape broadcasts to the scores. Unknown sizes are accepted.

    Args:
        name: name of the array, for the message.
        shape: its sizes, None where unknown.
        scores: `(B, N, T, S)`.

    Example:

    >>> check_broadcast("mask", (1, 1, 5, 5), (2, 4, 5, 5))
    """
    for size, expected in zip(reversed(shape), reversed(scores)):
        if size not in (None, 1) and expected is not None and size != expected:
            raise ValueError(
                f"The attention {name} must broadcast to [..., {scores[2]}, {scores[3]}] (target "
                f"length, source length); the whole shape is {tuple(scores)}. Received: "
                f"shape {tuple(shape)}."
            )


def update_cache(cache: Tensor, update: Tensor, index: Index, axis: int = 1) -> Tensor:
    """Writes `update` into `cache` at positions index .. index + T of an axis.

    The cache has its full length from the start, so shapes stay static inside a loop.

    Args:
        cache: a tensor of any rank.
        update: the shape of the cache, except T positions along `axis`; cast to the cache's dtype.
        index: where the update begins, an integer or a scalar tensor.
        axis: the axis of the positions, by default 1.

    Returns:
        A tensor of the cache's shape and dtype.

    Raises:
        ValueError: `index` is not a scalar; `index` is negative, or index + T is larger than the
            length of the cache, if they are known. A compiled graph cannot check `index`.

    Example:

    >>> cache = keras.ops.zeros((2, 16, 4, 8))
    >>> update_cache(cache, keras.ops.ones((2, 1, 4, 8)), 3)[0, :5, 0, 0].numpy().tolist()
    [0.0, 0.0, 0.0, 1.0, 0.0]
    """
    shape = getattr(index, "shape", ())
    if len(shape):
        raise ValueError(
            "The index of a cache must be a scalar: all rows are written at the same positions. "
            f"Received: shape {tuple(shape)}. Pad shorter prompts in front, and hide the "
            "padding with a mask as long as the cache."
        )
    start, length, width = concrete_value(index), cache.shape[axis], update.shape[axis]
    known = None not in (length, width)
    if start is not None and known and not 0 <= int(start) <= length - width:
        raise ValueError(
            f"An update must lie inside its cache of {length} positions. Received: {width} "
            f"positions from {int(start)}. Make the cache as long as the longest sequence."
        )
    return kernels.write(cache, ops.cast(update, cache.dtype), index, axis)


# ---- positions


def sinusoidal_encoding(
    length: Index,
    depth: int,
    *,
    offset: float | Tensor = 0,
    layout: str = "interleaved",
    max_wavelength: float = 10000.0,
) -> Tensor:
    """Sinusoidal position encoding (Vaswani et al. 2017, section 3.5).

    With the angle `a(p, i) = p / max_wavelength^(2i / depth)`:

    - `"interleaved"`: column 2i is sin a(p, i), column 2i + 1 is cos a(p, i), as in the paper.
    - `"halves"`: all sines, then all cosines, as in Hugging Face's Marian.
    - `"tensor2tensor"`: halves with `a(p, i) = p / max_wavelength^(i / (depth/2 - 1))`, the layout
      of tensor2tensor, OpenNMT-tf and Marian itself.

    Computed in float32 for every dtype policy: bfloat16 rounds position 257 to 256.

    Args:
        length: number of positions, an integer or scalar tensor.
        depth: size of an encoding; must be even for `"halves"` and `"tensor2tensor"`.
        offset: the first position, a number or a tensor; a tensor `[B]` has a start for each row.
        layout: one of the three above.
        max_wavelength: the base of the geometric progression.

    Returns:
        float32 `[length, depth]`, or `[B, length, depth]` if `offset` is `[B]`.

    Raises:
        ValueError: unknown layout, or an odd depth with a halves layout.

    Example:

    >>> sinusoidal_encoding(50, 512).shape
    (50, 512)
    """
    check_choice("layout", layout, SINUSOID_LAYOUTS)
    if layout != "interleaved" and depth % 2:
        raise ValueError(f"The layout {layout!r} needs an even depth. Received: depth={depth}.")
    pairs = (depth + 1) // 2
    divisor = max(1, pairs - 1) if layout == "tensor2tensor" else depth / 2
    frequency = np.power(max_wavelength, -np.arange(pairs) / divisor).astype("float32")
    angle = ops.expand_dims(_positions(length, offset), -1) * frequency
    sine, cosine = ops.sin(angle), ops.cos(angle)
    if layout != "interleaved":
        return ops.concatenate([sine, cosine], axis=-1)
    stacked = ops.stack([sine, cosine], axis=-1)  # [..., length, pairs, 2]
    shape = tuple(ops.shape(stacked)[:-2]) + (2 * pairs,)
    return ops.reshape(stacked, shape)[..., :depth]


def _positions(length, offset):
    offset = ops.expand_dims(ops.cast(offset, "float32"), -1)
    return offset + ops.arange(length, dtype="float32")


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """The slopes m_n of `alibi_bias` (Press et al. 2022, section 3).

    m_n = 2^(-8 n / N), n = 1 .. N, if N is a power of 2. Other N take the slopes of the power
    below, then every second slope of twice that power, as the paper's own code does.

    Args:
        num_heads: N.

    Returns:
        N numbers.

    Example:

    >>> alibi_slopes(2)
    (0.0625, 0.00390625)
    """
    power = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * n / power) for n in range(1, power + 1)]
    return (*slopes, *(2 ** (-4 * n / power) for n in range(1, 2 * (num_heads - power), 2)))


def alibi_bias(num_heads: int, query_positions: Ids, key_positions: Ids) -> Tensor:
    """-m_n |t - s|, the linear bias of head n (Press et al. 2022, section 3).

    The slopes m_n are those of `alibi_slopes`.

    Args:
        num_heads: N.
        query_positions, key_positions: integers `[T]` and `[S]`.

    Returns:
        float32 `[N, T, S]`, to be added to scaled scores.

    Example:

    >>> alibi_bias(2, np.array([3]), np.arange(4)).numpy().tolist()
    [[[-0.1875, -0.125, -0.0625, -0.0]], [[-0.01171875, -0.0078125, -0.00390625, -0.0]]]
    """
    slopes = np.array(alibi_slopes(num_heads), "float32")
    query_positions, key_positions = (
        ops.cast(x, "float32") for x in (query_positions, key_positions)
    )
    distance = ops.abs(ops.expand_dims(query_positions, 1) - ops.expand_dims(key_positions, 0))
    return -slopes[:, None, None] * distance


def rotary_angles(
    length: Index, head_dim: int, *, offset: float | Tensor = 0, max_wavelength: float = 10000.0
) -> Tensor:
    """The angles m * theta_i with theta_i = max_wavelength^(-2i / H) (Su et al. 2021, eq. 15).

    Args:
        length: number of positions, an integer or scalar tensor.
        head_dim: H, even.
        offset: the first position, a number or a tensor; a tensor `[B]` has a start for each row.
        max_wavelength: the base of the geometric progression.

    Returns:
        float32 `[length, H / 2]`, or `[B, length, H / 2]` if `offset` is `[B]`.

    Raises:
        ValueError: an odd H.

    Example:

    >>> rotary_angles(5, 8).shape
    (5, 4)
    """
    _check_even(head_dim)
    frequency = np.power(max_wavelength, -np.arange(0, head_dim, 2) / head_dim).astype("float32")
    return ops.expand_dims(_positions(length, offset), -1) * frequency


def _check_even(head_dim):
    if head_dim % 2:
        raise ValueError(
            "Rotary positions need an even head_dim: features are rotated in pairs. "
            f"Received: head_dim={head_dim}."
        )


def apply_rotary(x: Tensor, angles: Tensor, layout: str = "halves") -> Tensor:
    """Rotates pairs of features by their position's angle (Su et al. 2021, equation 34).

    Args:
        x: `[B, T, N, H]`, H even.
        angles: `[T, H / 2]` or `[B, T, H / 2]`, see `rotary_angles`.
        layout: `"halves"` pairs feature i with i + H/2 (GPT-NeoX, Llama), `"interleaved"` pairs
            2i with 2i + 1 (the paper). They differ by a fixed permutation of the features.

    Returns:
        `[B, T, N, H]` in the dtype of `x`; the rotation itself is float32.

    Raises:
        ValueError: an unknown layout, or an odd H.

    Example:

    >>> x = keras.random.normal((2, 5, 4, 8))
    >>> apply_rotary(x, rotary_angles(5, 8)).shape
    (2, 5, 4, 8)
    """
    check_choice("layout", layout, ROTARY_LAYOUTS)
    _check_even(x.shape[-1])
    cosine, sine = (ops.expand_dims(f(angles), -2) for f in (ops.cos, ops.sin))
    wide = ops.cast(x, "float32")
    half = x.shape[-1] // 2
    if layout == "halves":
        first, second = wide[..., :half], wide[..., half:]
    else:
        first, second = wide[..., 0::2], wide[..., 1::2]
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    if layout == "halves":
        joined = ops.concatenate(rotated, axis=-1)
    else:
        joined = ops.reshape(ops.stack(rotated, axis=-1), ops.shape(x))
    return ops.cast(joined, x.dtype)


# ---- vectors


def l2_normalize(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """x / max(|x|, epsilon) over the last axis, in float32.

    Example:

    >>> l2_normalize(np.array([[3.0, 4.0]])).numpy().tolist()[0]
    [0.6000000238418579, 0.800000011920929]
    """
    x = ops.cast(x, "float32")
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    # The lower bound comes before the root: 1 / sqrt(0) is an infinity, in the gradient too.
    return x * ops.rsqrt(ops.maximum(squares, max(epsilon**2, float(np.finfo("float32").tiny))))


def log_uniform(
    count: int, size: int, seed: int | keras.random.SeedGenerator | None = None
) -> Tensor:
    """Integers `[count]` in 0 .. size - 1 with P(k) = log((k + 2) / (k + 1)) / log(size + 1).

    Zipf's law, for vocabularies sorted by frequency. Numbers may repeat.

    Args:
        count: how many numbers.
        size: size of the vocabulary.
        seed: an integer or a `keras.random.SeedGenerator`.

    Example:

    >>> tuple(log_uniform(3, 100, seed=1).shape)
    (3,)
    """
    uniform = keras.random.uniform((count,), seed=seed)
    drawn = ops.floor(ops.exp(uniform * math.log(size + 1))) - 1
    return ops.clip(ops.cast(drawn, "int32"), 0, size - 1)


def sampled_logits(
    vectors: Tensor, labels: Ids, drawn: Ids, kernel: Tensor, bias: Tensor
) -> Tensor:
    """Logits of the label and of K drawn words, for a softmax over those (Bengio and Senecal 2008).

        label: x W_y + b_y            drawn k: x W_k + b_k - log(K P(k)),  P of `log_uniform`

    The sum of their exponentials is an unbiased estimate of the sum over all words, so the loss
    tends to that of the full softmax (Blanc and Rendle 2018, equation 4). A drawn word that equals
    the label is not counted twice. TensorFlow's `sampled_softmax_loss` draws without replacement,
    and also corrects the logit of the label.

    Args:
        vectors: x `[..., D]`.
        labels: integers `[...]`; negative ones are replaced by 0.
        drawn: integers `[K]`.
        kernel: W `[D, V]`.
        bias: b `[V]`.

    Returns:
        float32 `[..., 1 + K]`; the first is the logit of the label.

    Example:

    >>> vectors, kernel, bias = np.ones((2, 3, 4)), np.ones((4, 100)), np.zeros(100)
    >>> logits = sampled_logits(vectors, np.ones((2, 3), int), np.array([5, 7]), kernel, bias)
    >>> tuple(logits.shape)
    (2, 3, 3)
    """
    size, count = kernel.shape[-1], drawn.shape[0]
    labels = ops.maximum(labels, 0)
    x = ops.cast(vectors, "float32")
    rows = ops.transpose(ops.cast(kernel, "float32"))  # [V, D]
    bias = ops.cast(bias, "float32")
    true = ops.sum(x * ops.take(rows, labels, axis=0), -1) + ops.take(bias, labels)
    others = ops.matmul(x, ops.transpose(ops.take(rows, drawn, axis=0))) + ops.take(bias, drawn)
    probability = ops.log1p(1 / (ops.cast(drawn, "float32") + 1)) / math.log(size + 1)
    others = others - ops.log(count * probability)
    others = ops.where(ops.equal(ops.expand_dims(labels, -1), drawn), -1e30, others)
    return ops.concatenate([ops.expand_dims(true, -1), others], axis=-1)
