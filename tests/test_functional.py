"""The mathematics against the oracles and against matrices that fit on a hand.

B batch, T target, S source, N heads, K key/value heads, H head_dim, V value_dim
"""

import keras
import numpy as np
import oracles
import pytest
from keras import ops

from keras_xfmr import functional

pytestmark = pytest.mark.portable

B, T, S, N, K, H, V = 2, 3, 5, 6, 3, 7, 11
SUMS = 2e-6  # float32 sums of a dozen products of numbers near 1
# Scores, weights and outputs are each rounded to the dtype: some four half-units in the last place.
ROUNDED = {"float32": SUMS, "bfloat16": 4 * 2.0**-8, "float16": 4 * 2.0**-11}


def heads(rng, kv_heads=N, dtype="float32"):
    """Query, key and value as tensors of `dtype`, and the same rounded numbers in float64.

    Values of about 1 and below, for tolerances are absolute and rounding is relative.
    """
    shapes = (B, T, N, H), (B, S, kv_heads, H), (B, S, kv_heads, V)
    drawn = [rng.normal(size=shape).astype("float32") for shape in shapes]
    drawn[2] /= 2
    tensors = [ops.cast(x, dtype) for x in drawn]
    return tensors, [as_numpy(tensor).astype("float64") for tensor in tensors]


def as_numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def test_the_look_ahead_mask_of_three_is_the_lower_triangle():
    mask = ops.convert_to_numpy(functional.look_ahead_mask(3))
    assert mask.dtype == bool
    assert mask.tolist() == [[[True, False, False], [True, True, False], [True, True, True]]]


def test_the_look_ahead_mask_starts_at_its_offset():
    mask = ops.convert_to_numpy(functional.look_ahead_mask(2, 5, offset=2))
    assert mask.astype(int).tolist() == [[[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]]


def test_the_offset_of_the_look_ahead_mask_may_be_a_tensor():
    mask = functional.look_ahead_mask(2, 5, offset=ops.full((), 3, dtype="int32"))
    assert ops.convert_to_numpy(mask).astype(int).tolist() == [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]]


def test_a_window_limits_how_far_a_row_looks_back():
    mask = ops.convert_to_numpy(functional.look_ahead_mask(4, window=2))
    assert mask.astype(int).tolist() == [[[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]]


@pytest.mark.parametrize("pad_id", [0, 1])
def test_the_padding_mask_hides_the_tokenizers_own_padding(pad_id):
    mask = ops.convert_to_numpy(functional.padding_mask(np.array([[7, 0, 1]]), pad_id))
    assert mask.tolist() == [[[True, pad_id != 0, pad_id != 1]]]


@pytest.mark.parametrize("shape", [(3,), (2, 5, 3)])
def test_the_padding_mask_is_that_of_rows_of_ids(shape):
    with pytest.raises(ValueError, match=r"`token_ids` must have the shape \[B, S\].*Received"):
        functional.padding_mask(np.ones(shape, "int32"))


def test_combined_masks_allow_what_all_of_them_allow():
    padding = functional.padding_mask(np.array([[7, 5, 0], [7, 0, 0]]))
    mask = functional.combine_masks(None, functional.look_ahead_mask(3), padding)
    assert ops.convert_to_numpy(mask).astype(int).tolist() == [
        [[1, 0, 0], [1, 1, 0], [1, 1, 0]],
        [[1, 0, 0], [1, 0, 0], [1, 0, 0]],
    ]


def test_a_mask_of_rank_three_meets_one_of_rank_four_at_every_head(rng):
    three, four = rng.random((B, T, S)) < 0.5, rng.random((B, N, T, S)) < 0.5
    mask = functional.combine_masks(ops.convert_to_tensor(three), ops.convert_to_tensor(four))
    np.testing.assert_array_equal(ops.convert_to_numpy(mask), three[:, None] & four)


def test_no_masks_combine_to_none():
    assert functional.combine_masks(None, None) is None


def test_numbers_serve_as_masks_and_zero_hides():
    mask = functional.combine_masks(ops.convert_to_tensor([[[2.0, 0.0]]]))
    assert ops.convert_to_numpy(mask).tolist() == [[[True, False]]]


@pytest.mark.parametrize("shape", [(B, S), (B, 1, N, T, S)])
def test_a_mask_of_another_rank_is_an_error(shape):
    with pytest.raises(ValueError, match=r"\[B, T, S\] or \[B, N, T, S\].*Received: shape"):
        functional.combine_masks(ops.ones(shape, "bool"))


@pytest.mark.parametrize("kv_heads", [N, K, 1])
@pytest.mark.parametrize("dtype", ROUNDED)
def test_attention_equals_equation_one(rng, dtype, kv_heads):
    tensors, exact = heads(rng, kv_heads, dtype)
    expected, expected_weights = oracles.attention(*exact)
    output, weights = functional.scaled_dot_product_attention(*tensors, return_weights=True)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    np.testing.assert_allclose(as_numpy(output), expected, rtol=0, atol=ROUNDED[dtype])
    np.testing.assert_allclose(as_numpy(weights), expected_weights, rtol=0, atol=ROUNDED[dtype])


@pytest.mark.parametrize("kv_heads", [N, K])
@pytest.mark.parametrize("bias_shape", [(N, T, S), (B, N, T, S), (1, 1, 1, S)])
@pytest.mark.parametrize("mask_shape", [(B, T, S), (B, N, T, S), (1, 1, S), (B, 1, T, 1)])
def test_attention_takes_every_broadcast_of_mask_and_bias(rng, mask_shape, bias_shape, kv_heads):
    tensors, exact = heads(rng, kv_heads)
    mask = rng.random(mask_shape) < 0.7
    bias = rng.normal(size=bias_shape).astype("float32")
    full = mask[:, None] if mask.ndim == 3 else mask
    expected, expected_weights = oracles.attention(*exact, mask=full, bias=bias, scale=0.31)
    output, weights = functional.scaled_dot_product_attention(
        *tensors,
        mask=ops.convert_to_tensor(mask),
        bias=ops.convert_to_tensor(bias),
        scale=0.31,
        return_weights=True,
    )
    np.testing.assert_allclose(as_numpy(output), expected, rtol=0, atol=SUMS)
    np.testing.assert_allclose(as_numpy(weights), expected_weights, rtol=0, atol=SUMS)


@pytest.mark.parametrize("dtype", ROUNDED)
def test_a_row_that_may_attend_nowhere_gives_exact_zeros(rng, dtype):
    tensors, exact = heads(rng, K, dtype)
    mask = np.ones((B, T, S), bool)
    mask[0, 1] = mask[1, :, :2] = False
    expected, _ = oracles.attention(*exact, mask=mask[:, None])
    output, weights = functional.scaled_dot_product_attention(
        *tensors, mask=ops.convert_to_tensor(mask), return_weights=True
    )
    assert (as_numpy(output)[0, 1] == 0).all() and (as_numpy(weights)[0, :, 1] == 0).all()
    assert (as_numpy(weights)[1, :, :, :2] == 0).all()
    np.testing.assert_allclose(as_numpy(output), expected, rtol=0, atol=ROUNDED[dtype])


LOW = {"-1e9": -1e9, "lowest": float(np.finfo("float32").min), "-inf": -np.inf}


def run(function, how, *tensors):
    """The answer of a function: eager, or compiled for the backend in one of two ways."""
    if how == "eager":
        return function(*tensors)
    if keras.config.backend() == "jax":
        import jax

        return jax.jit(function)(*tensors)
    import tensorflow as tf

    return tf.function(function, jit_compile=how == "xla")(*tensors)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("low", LOW.values(), ids=LOW)
@pytest.mark.parametrize("dtype", ROUNDED)
def test_a_low_bias_does_not_uncover_what_the_mask_hides(rng, dtype, low, how):
    tensors, exact = heads(rng, K, dtype)
    mask = rng.random((B, T, S)) < 0.6
    mask[0, 0] = mask[1, 1] = False
    mask[0, 0, 1] = True  # a row whose only place has the low bias, and one without a place
    bias = np.zeros((B, 1, 1, S), "float32")
    bias[:, ..., 1] = low
    hidden = ~mask[:, None] | np.isneginf(bias)

    def attend(mask, bias, *tensors):
        return functional.scaled_dot_product_attention(
            *tensors, mask=mask, bias=bias, return_weights=True
        )

    output, weights = run(attend, how, *map(ops.convert_to_tensor, (mask, bias)), *tensors)
    finite = np.maximum(bias.astype("float64"), -1e300)  # the oracle knows no infinity
    expected, expected_weights = oracles.attention(*exact, mask=~hidden, bias=finite)
    assert not as_numpy(weights)[np.broadcast_to(hidden, weights.shape)].any()
    np.testing.assert_allclose(as_numpy(output), expected, rtol=0, atol=ROUNDED[dtype])
    np.testing.assert_allclose(as_numpy(weights), expected_weights, rtol=0, atol=ROUNDED[dtype])
    assert not as_numpy(output)[1, 1].any()
    assert as_numpy(output)[0, 0].any() == np.isfinite(low)


def test_a_bias_of_minus_infinity_hides_without_a_mask(rng):
    tensors, exact = heads(rng)
    bias = np.where(rng.random((B, 1, T, S)) < 0.4, -np.inf, 0.0).astype("float32")
    bias[0, :, 1] = -np.inf
    output = functional.scaled_dot_product_attention(*tensors, bias=ops.convert_to_tensor(bias))
    expected, _ = oracles.attention(*exact, mask=np.isfinite(bias))
    np.testing.assert_allclose(as_numpy(output), expected, rtol=0, atol=SUMS)
    assert not as_numpy(output)[0, 1].any()


def test_one_lowest_bias_in_all_places_is_no_mask(rng):
    tensors, _ = heads(rng)
    bias = ops.full((1, 1, 1, S), LOW["lowest"], dtype="float32")
    output = functional.scaled_dot_product_attention(*tensors, bias=bias)
    # The scores vanish beside the bias, so that all places are alike.
    expected = np.broadcast_to(as_numpy(tensors[2]).mean(1, keepdims=True), output.shape)
    np.testing.assert_allclose(as_numpy(output), expected, rtol=0, atol=SUMS)


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("low", LOW.values(), ids=LOW)
def test_gradients_stay_finite_whatever_the_bias(rng, low, jit_compile):
    import tensorflow as tf

    tensors, _ = heads(rng)
    mask = functional.look_ahead_mask(T, S, offset=S - T)  # the last row sees all
    bias = np.zeros((B, N, T, S), "float32")
    bias[..., 0] = bias[0, :, T - 1] = low

    @tf.function(jit_compile=jit_compile)
    def gradients(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            *heads, bias = inputs
            output = functional.scaled_dot_product_attention(*heads, mask=mask, bias=bias)
            loss = tf.reduce_sum(output**2)
        return tape.gradient(loss, inputs)

    found = [as_numpy(x) for x in gradients(*tensors, tf.constant(bias))]
    assert all(np.isfinite(x).all() and x.any() for x in found)
    assert not found[3][..., ~ops.convert_to_numpy(mask)[0]].any()


def test_a_single_key_takes_all_the_weight_and_none_where_it_is_hidden(rng):
    (query, key, value), _ = heads(rng)
    mask = ops.convert_to_tensor(np.array([[[True]], [[False]]]))
    output = functional.scaled_dot_product_attention(query, key[:, :1], value[:, :1], mask=mask)
    assert (as_numpy(output)[0] == as_numpy(value)[0, :1]).all()
    assert not as_numpy(output)[1].any()


def test_large_scores_do_not_overflow_in_half_precision(rng):
    tensors, exact = heads(rng, N, "float16")
    output = functional.scaled_dot_product_attention(*tensors, scale=10.0)
    expected, _ = oracles.attention(*exact, scale=10.0)
    # Scores near 100 are rounded by up to 2^-5, and so are their exponentials, relatively.
    np.testing.assert_allclose(as_numpy(output), expected, rtol=0, atol=0.1)


def test_dropped_weights_weigh_the_values_and_whole_ones_are_returned(rng):
    tensors, exact = heads(rng)
    expected, expected_weights = oracles.attention(*exact)
    output, weights = functional.scaled_dot_product_attention(
        *tensors, drop=lambda w: w * 3.0, return_weights=True
    )
    np.testing.assert_allclose(as_numpy(output), 3.0 * expected, rtol=0, atol=3 * SUMS)
    np.testing.assert_allclose(as_numpy(weights), expected_weights, rtol=0, atol=SUMS)


@pytest.mark.parametrize("position, name", [(0, "query"), (1, "key"), (2, "value")])
def test_heads_of_another_rank_are_an_error(rng, position, name):
    tensors, _ = heads(rng)
    tensors[position] = tensors[position][:, :, 0]
    with pytest.raises(ValueError, match=f"`{name}` must have the shape .batch, length, heads"):
        functional.scaled_dot_product_attention(*tensors)


@pytest.mark.parametrize("position, cut", [
    (0, np.s_[:, :, :, 1:]), (1, np.s_[:, 1:]), (2, np.s_[:, :, 1:]), (0, np.s_[1:]),
])  # fmt: skip
def test_heads_of_another_size_are_an_error(rng, position, cut):
    tensors, _ = heads(rng)
    tensors[position] = ops.concatenate([tensors[position]] * 2)[cut]
    tensors = [x if i == position else ops.concatenate([x] * 2) for i, x in enumerate(tensors)]
    with pytest.raises(ValueError, match="`key` and `value` must have the same length and heads"):
        functional.scaled_dot_product_attention(*tensors)


def test_heads_that_cannot_be_shared_evenly_are_an_error(rng):
    tensors, _ = heads(rng, 4)
    with pytest.raises(ValueError, match="multiple of the number of key/value.*Received: 6 and 4"):
        functional.scaled_dot_product_attention(*tensors)


@pytest.mark.parametrize("kind", ["mask", "bias"])
@pytest.mark.parametrize("shape", [(B, S, T), (B, T, S + 1), (B, N, 2, S)])
def test_a_mask_or_bias_of_another_shape_is_an_error(rng, shape, kind):
    tensors, _ = heads(rng)
    value = ops.ones(shape, "bool" if kind == "mask" else "float32")
    with pytest.raises(ValueError, match=rf"attention {kind} must broadcast to \[..., 3, 5\]"):
        functional.scaled_dot_product_attention(*tensors, **{kind: value})


@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_cache_is_written_at_its_index_and_nowhere_else(rng, index):
    cache, update = rng.normal(size=(B, 7, K, H)), rng.normal(size=(B, T, K, H))
    cache, update = cache.astype("float32"), update.astype("float32")
    written = functional.update_cache(
        ops.convert_to_tensor(cache), ops.convert_to_tensor(update), ops.full((), index, "int32")
    )
    cache[:, index : index + T] = update
    np.testing.assert_array_equal(as_numpy(written), cache)


@pytest.mark.parametrize("index", [5, -1])
def test_a_write_outside_its_cache_is_an_error(index):
    cache, update = ops.zeros((B, 7, K, H)), ops.zeros((B, T, K, H))
    for where in (index, np.int64(index), ops.full((), index, dtype="int32")):
        with pytest.raises(ValueError, match=f"of 7 positions. Received: 3 positions from {index}"):
            functional.update_cache(cache, update, where)
    with pytest.raises(ValueError, match="of 3 positions. Received: 7 positions from 0"):
        functional.update_cache(update, cache, 0)


@pytest.mark.parametrize("convert", [np.array, ops.convert_to_tensor])
def test_an_index_for_each_row_of_a_cache_is_an_error(convert):
    cache, update = ops.zeros((B, 7, K, H)), ops.zeros((B, T, K, H))
    with pytest.raises(ValueError, match=rf"must be a scalar.*Received: shape \({B},\)"):
        functional.update_cache(cache, update, convert([1] * B))


def test_an_update_is_cast_to_the_dtype_of_its_cache():
    cache = ops.zeros((1, 2, 1, 1), "bfloat16")
    written = functional.update_cache(cache, ops.ones((1, 1, 1, 1)), 1)
    assert keras.backend.standardize_dtype(written.dtype) == "bfloat16"
    assert as_numpy(written).ravel().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("layout, depth", [
    ("interleaved", 14), ("interleaved", 13), ("halves", 14), ("tensor2tensor", 14),
    ("tensor2tensor", 2),
])  # fmt: skip
@pytest.mark.parametrize("offset, length", [(0, 11), (17, 5), (100_000, 3)])
def test_sinusoids_equal_their_formula(layout, depth, offset, length):
    codes = functional.sinusoidal_encoding(length, depth, offset=offset, layout=layout)
    expected = oracles.sinusoid(length, depth, layout, offset)
    assert codes.shape == (length, depth)
    # The angle of the last position has two float32 roundings, of the frequency and the product.
    tolerance = 2.0**-23 * max(offset + length, 2)
    np.testing.assert_allclose(as_numpy(codes), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", functional.SINUSOID_LAYOUTS)
def test_sinusoids_take_an_offset_for_each_row_and_a_wavelength(layout):
    offsets = [0, 3, 257]
    codes = functional.sinusoidal_encoding(
        5, 6, offset=ops.convert_to_tensor(offsets), layout=layout, max_wavelength=100.0
    )
    expected = [oracles.sinusoid(5, 6, layout, offset, 100.0) for offset in offsets]
    np.testing.assert_allclose(as_numpy(codes), expected, rtol=0, atol=2.0**-23 * 262)


def test_an_unknown_layout_or_an_odd_half_is_an_error():
    with pytest.raises(ValueError, match="`layout` must be one of .*Received: 'zigzag'"):
        functional.sinusoidal_encoding(3, 4, layout="zigzag")
    with pytest.raises(ValueError, match="'halves' needs an even depth. Received: depth=5"):
        functional.sinusoidal_encoding(3, 5, layout="halves")


@pytest.mark.parametrize("layout", functional.ROTARY_LAYOUTS)
@pytest.mark.parametrize("offset", [0, 19])
def test_rotated_features_equal_equation_34(rng, layout, offset):
    x = rng.normal(size=(B, T, N, 10)).astype("float32")
    angles = functional.rotary_angles(T, 10, offset=offset, max_wavelength=500.0)
    rotated = functional.apply_rotary(ops.convert_to_tensor(x), angles, layout)
    expected = oracles.rotary(x, offset, 500.0, layout)
    np.testing.assert_allclose(as_numpy(rotated), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("heads, powers", [
    (1, [-8]), (4, [-2, -4, -6, -8]), (6, [-2, -4, -6, -8, -1, -3]),
], ids=str)  # fmt: skip
def test_a_linear_bias_falls_with_the_distance(heads, powers):
    found = functional.alibi_bias(heads, np.array([3, 7]), np.arange(5))
    distance = np.abs(np.array([[3], [7]]) - np.arange(5))
    slopes = 2.0 ** np.array(powers)[:, None, None]
    np.testing.assert_array_equal(as_numpy(found), -slopes * distance)


@pytest.mark.parametrize("layout", functional.ROTARY_LAYOUTS)
def test_rotary_angles_take_an_offset_for_each_row(rng, layout):
    x = rng.normal(size=(B, T, N, 10)).astype("float32")
    angles = functional.rotary_angles(T, 10, offset=ops.convert_to_tensor([5, 23]))
    rotated = functional.apply_rotary(ops.convert_to_tensor(x), angles, layout)
    for row, offset in enumerate([5, 23]):
        expected = oracles.rotary(x[row : row + 1], offset, layout=layout)
        np.testing.assert_allclose(as_numpy(rotated)[row : row + 1], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", functional.ROTARY_LAYOUTS)
def test_a_rotated_product_depends_on_the_distance_alone(rng, layout):
    query, key = (ops.convert_to_tensor(rng.normal(size=(1, 1, 1, 14))) for _ in range(2))

    def product(query_position, key_position):
        rotated = [
            functional.apply_rotary(
                ops.cast(x, "float32"), functional.rotary_angles(1, 14, offset=position), layout
            )
            for x, position in ((query, query_position), (key, key_position))
        ]
        return float(ops.sum(rotated[0] * rotated[1]))

    assert product(13, 2) == pytest.approx(product(113, 102), abs=1e-4)
    assert abs(product(13, 2) - product(13, 3)) > 1e-2


def test_rotation_keeps_the_dtype_and_is_done_in_float32():
    x = ops.ones((1, 1, 1, 2), "bfloat16")
    rotated = functional.apply_rotary(x, functional.rotary_angles(1, 2, offset=1001))
    assert keras.backend.standardize_dtype(rotated.dtype) == "bfloat16"
    expected = oracles.rotary(np.ones((1, 1, 1, 2)), 1001)
    np.testing.assert_allclose(as_numpy(rotated), expected, rtol=2.0**-8, atol=1e-3)


@pytest.mark.parametrize("x, could", [
    (np.array([[-3, 2]], "int8"), True), (np.array([[3.0, 2.0]], "float16"), False),
    (np.array([[3.0, 2.5]]), False), (np.array([True]), False),
    (np.array([float("nan")]), False), (np.array([float("inf")]), False),
    (np.zeros((2, 0)), True),
    (keras.KerasTensor((2,), "uint8"), True), (keras.KerasTensor((2,)), True),
    (keras.KerasTensor((2,), "float16"), False), (keras.KerasTensor((2,), "bfloat16"), False),
])  # fmt: skip
def test_what_could_be_ids(x, could):
    assert functional.could_be_ids(x) is could


def test_a_concrete_value_is_an_array_and_a_symbolic_one_is_none():
    assert functional.concrete_value(ops.convert_to_tensor([2, 3])).tolist() == [2, 3]
    assert functional.concrete_value(5) == 5
    assert functional.concrete_value(keras.KerasTensor((2, 3))) is None


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_value_that_is_being_traced_is_not_concrete(jit_compile):
    seen = []

    def look(x):
        seen.append(functional.concrete_value(x))
        return x

    if keras.config.backend() == "jax":
        import jax

        jax.jit(look)(np.array([2]))
    else:
        import tensorflow as tf

        tf.function(look, jit_compile=jit_compile)(tf.constant([2]))
    assert seen and all(value is None for value in seen)


def test_a_rotation_says_what_it_cannot_take(rng):
    x = ops.ones((2, 3, 1, 4))
    with pytest.raises(ValueError, match="`layout` must be one of .* Received: 'hlaves'"):
        functional.apply_rotary(x, functional.rotary_angles(3, 4), "hlaves")
    with pytest.raises(ValueError, match="even head_dim.* Received: head_dim=3"):
        functional.apply_rotary(x[..., :3], functional.rotary_angles(3, 4))
    with pytest.raises(ValueError, match="need an even head_dim.*Received: head_dim=5"):
        functional.rotary_angles(3, 5)


def test_vectors_are_divided_by_their_length_and_zeros_stay():
    x = ops.convert_to_tensor([[300.0, 400.0], [0.0, 0.0]], dtype="float16")  # 300^2 is beyond it
    found = as_numpy(functional.l2_normalize(x))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
