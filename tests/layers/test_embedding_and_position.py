"""Tokens to vectors and back, and the layers that say where a token stands.

B batch, T length, D d_model, V vocab_size
"""

import keras
import numpy as np
import oracles
import pytest
from arrays import as_numpy, normal, randomize
from keras import ops

from keras_xfmr import layers
from keras_xfmr.layers import (
    PositionalEncoding,
    PositionEmbedding,
    RotaryEmbedding,
    TokenEmbedding,
)

pytestmark = pytest.mark.portable

B, T, D, V = 2, 5, 6, 13
CLOSE = {"rtol": 1e-5, "atol": 5e-6}  # float32 sums of a few dozen products of numbers near 1


@pytest.mark.parametrize("scale, factor", [(True, D**0.5), (False, 1.0), (0.5, 0.5)])
def test_token_vectors_are_scaled_rows_of_the_table(scale, factor):
    layer = TokenEmbedding(V, D, scale=scale)
    ids = np.array([[5, 0, 12], [3, 3, 7]])
    output = as_numpy(layer(ids))
    np.testing.assert_allclose(output, factor * layer.embeddings.numpy()[ids], rtol=1e-6)


def test_the_reverse_direction_is_tied_to_the_table(rng):
    layer = TokenEmbedding(V, D)
    layer.build()
    (table,) = randomize(rng, layer).get_weights()
    x = normal(rng, B, T, D)
    expected = as_numpy(x) @ table.T
    np.testing.assert_allclose(as_numpy(layer(x, reverse=True)), expected, **CLOSE)
    np.testing.assert_allclose(as_numpy(layer(x[:, 1], reverse=True)), expected[:, 1], **CLOSE)


def test_token_vectors_and_logits_start_with_a_variance_near_one(rng):
    layer = TokenEmbedding(503, 101)
    vectors = as_numpy(layer(np.arange(503)[None]))
    logits = as_numpy(layer(normal(rng, 7, 11, 101), reverse=True))
    assert vectors.std() == pytest.approx(1.0, abs=0.02)
    assert logits.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("ids, low, high", [([[1, -1]], -1, 1), ([[V, 2]], 2, V)])
def test_ids_outside_the_vocabulary_are_an_error(ids, low, high):
    message = rf"must lie in 0 \.\. 12.*Received: ids from {low} to {high}"
    with pytest.raises(ValueError, match=message):
        TokenEmbedding(V, D)(np.array(ids))


def test_ids_that_are_not_integers_are_an_error():
    with pytest.raises(ValueError, match="must be integers. Received: dtype float32"):
        TokenEmbedding(V, D)(np.array([[1.5, 2.0]], "float32"))


def test_whole_numbers_of_another_dtype_serve_as_ids():
    layer = TokenEmbedding(V, D)
    output = layer(np.array([[5.0, 7.0]], "float32"))
    np.testing.assert_array_equal(as_numpy(output), as_numpy(layer(np.array([[5, 7]]))))


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("inputs", [[], [keras.Input((T,))]], ids=["none", "floats"])
def test_ids_that_a_model_turned_into_floats_serve(inputs, rng):
    ids = rng.integers(V, size=(B, T))
    model = keras.Sequential([*inputs, TokenEmbedding(V, D)])
    found = model.predict(ids, verbose=0)
    np.testing.assert_array_equal(found, as_numpy(model.layers[-1](ids)))


@pytest.mark.requires_tensorflow
def test_ids_that_a_model_turned_into_halves_are_an_error_with_the_way_out():
    model = keras.Sequential([TokenEmbedding(V, D, dtype="mixed_float16")])
    with pytest.raises(ValueError, match='takes integers where its input is.*dtype="int32"'):
        model.predict(np.ones((B, T), "int32"), verbose=0)


@pytest.mark.parametrize("layout", ["interleaved", "halves", "tensor2tensor"])
def test_positional_encoding_adds_the_sinusoids(rng, layout):
    x = normal(rng, B, T, D)
    layer = PositionalEncoding(layout, max_wavelength=100.0)
    for offset, row in ((0, 0), (3, 3)):
        expected = as_numpy(x) + oracles.sinusoid(T, D, layout, row, 100.0)
        np.testing.assert_allclose(as_numpy(layer(x, offset=offset)), expected, **CLOSE)
    expected = as_numpy(x) + [oracles.sinusoid(T, D, layout, row, 100.0) for row in (3, 17)]
    several = layer(x, offset=ops.convert_to_tensor([3, 17]))
    np.testing.assert_allclose(as_numpy(several), expected, **CLOSE)


def test_positional_encoding_is_exact_beyond_the_integers_of_bfloat16():
    layer = PositionalEncoding(dtype="bfloat16")
    output = as_numpy(ops.cast(layer(ops.zeros((1, 2, 4), "bfloat16"), offset=4099), "float32"))
    np.testing.assert_allclose(output[0], oracles.sinusoid(2, 4, offset=4099), atol=2.0**-8)


def test_position_embedding_adds_its_rows_from_the_offset(rng):
    x = normal(rng, B, T, D)
    layer = PositionEmbedding(11)
    layer.build(x.shape)
    (table,) = randomize(rng, layer).get_weights()
    for offset in (0, 6, ops.full((), 6, dtype="int32")):
        expected = as_numpy(x) + table[int(offset) : int(offset) + T]
        np.testing.assert_allclose(as_numpy(layer(x, offset=offset)), expected, rtol=1e-6)


@pytest.mark.parametrize("length, offset", [(12, 0), (5, 7)])
def test_positions_beyond_the_table_are_an_error(rng, length, offset):
    layer = PositionEmbedding(11)
    for start in (offset, ops.full((), offset, dtype="int32")):
        with pytest.raises(ValueError, match=f"max_length=11 rows. Received: {length} positions"):
            layer(normal(rng, B, length, D), offset=start)


@pytest.mark.parametrize("offset", [-1, -5])
def test_a_negative_offset_of_a_table_is_an_error(rng, offset):
    for start in (offset, np.int64(offset), ops.full((), offset, dtype="int32")):
        with pytest.raises(ValueError, match=f"must not be negative. Received: offset={offset}"):
            PositionEmbedding(11)(normal(rng, B, T, D), offset=start)


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("offset, length", [(10, 2), (10, 3), (11, 1), (9, 3), (0, 12)])
def test_the_last_row_does_not_stand_for_those_beyond_it(rng, offset, length, jit_compile):
    import tensorflow as tf

    layer = PositionEmbedding(11)
    layer.build((B, None, D))
    function = tf.function(
        lambda x: layer(x, offset=offset),
        input_signature=[tf.TensorSpec((None, None, D))],
        jit_compile=jit_compile,
    )
    x = normal(rng, B, 11 - offset, D)
    expected = as_numpy(x) + as_numpy(layer.embeddings)[offset:]
    np.testing.assert_array_equal(as_numpy(function(x)), expected)
    with pytest.raises(Exception, match=rf"size\[0\] in \[0, {11 - offset}\], but got {length}"):
        function(normal(rng, B, length, D))


@pytest.mark.requires_tensorflow
def test_an_offset_beyond_the_table_is_an_error_whatever_the_length():
    import tensorflow as tf

    layer = PositionEmbedding(11)
    layer.build((B, None, D))
    function = tf.function(lambda x: layer(x, offset=12))
    with pytest.raises(ValueError, match="Received: any number of positions from 12"):
        function.get_concrete_function(tf.TensorSpec((None, None, D)))


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_positions_beyond_the_table_fail_in_a_graph_of_any_length(rng, jit_compile):
    inputs = keras.Input((None, D))
    model = keras.Model(inputs, PositionEmbedding(11)(inputs))
    model.compile(jit_compile=jit_compile)
    for length in (5, 6, 7):  # Keras then traces for any length
        model.predict_on_batch(normal(rng, B, length, D))
    with pytest.raises(Exception, match=r"size\[0\] in \[0, 11\], but got 12"):
        model.predict_on_batch(normal(rng, B, 12, D))


def test_a_model_of_sequences_longer_than_the_table_cannot_be_built():
    with pytest.raises(ValueError, match="max_length=11 rows. Received: 12 positions"):
        PositionEmbedding(11)(keras.Input((12, D)))


def test_an_unknown_layout_is_an_error_at_once():
    with pytest.raises(ValueError, match="`layout` must be one of .*'tensor2tensor'.*'zigzag'"):
        PositionalEncoding("zigzag")
    with pytest.raises(ValueError, match="`layout` must be one of .*'halves'.*'interlaced'"):
        RotaryEmbedding(layout="interlaced")


@pytest.mark.parametrize("layer, shape, message", [
    (lambda: PositionalEncoding("halves"), (B, T, 5), "needs an even depth. Received: depth=5"),
    (lambda: PositionalEncoding(), (B, D), "`inputs` must have the shape .batch, length, features"),
    (lambda: PositionEmbedding(11), (B, T, D, 1), "`inputs` must have the shape .batch, length, f"),
    (lambda: RotaryEmbedding(), (B, T, D), "`inputs` must have the shape .batch, length, heads"),
    (lambda: RotaryEmbedding(), (B, T, 2, 5), "need an even head_dim.*Received: head_dim=5"),
], ids=lambda x: x if isinstance(x, str) else "")  # fmt: skip
def test_a_position_layer_says_what_it_cannot_take(rng, layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer()(normal(rng, *shape))


@pytest.mark.parametrize("layout", ["halves", "interleaved"])
def test_rotary_embedding_rotates_by_the_position(rng, layout):
    x = normal(rng, B, T, 3, 4)
    layer = RotaryEmbedding(layout=layout, max_wavelength=100.0)
    np.testing.assert_allclose(
        as_numpy(layer(x, offset=3)), oracles.rotary(as_numpy(x), 3, 100.0, layout), **CLOSE
    )


def test_whole_numbers_of_another_dtype_keep_their_mask():
    vectors = TokenEmbedding(7, 3, mask_zero=True)(np.array([[1.0, 0.0]], "float32"))
    assert as_numpy(vectors._keras_mask).tolist() == [[True, False]]


def test_vectors_on_their_way_to_logits_are_no_ids_that_hide_themselves(rng):
    """Pooled vectors with zeros in them, as many rows as features: `[B, D]`."""
    table = TokenEmbedding(V, D, mask_zero=True)
    vectors, labels = ops.relu(normal(rng, D, D)), np.arange(D)
    logits = table(vectors, reverse=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = loss(labels, ops.convert_to_tensor(as_numpy(logits)))
    np.testing.assert_allclose(as_numpy(loss(labels, logits)), as_numpy(expected), rtol=1e-6)


@pytest.mark.parametrize("layer, shape", [
    (PositionalEncoding(dtype="bfloat16"), (B, T, D)),
    (RotaryEmbedding(dtype="bfloat16"), (B, T, 3, D)),
])  # fmt: skip
def test_an_offset_that_was_rounded_is_an_error(rng, layer, shape):
    with pytest.raises(ValueError, match="`offset` must be .* Received: dtype bfloat16"):
        layer(normal(rng, *shape), offset=ops.convert_to_tensor(257.0))


def test_ids_keep_their_mask_beside_vectors_of_another_call():
    class Interrupted(TokenEmbedding):  # as by another thread
        def call(self, inputs, reverse=False):
            outputs = super().call(inputs, reverse=reverse)
            if not reverse:
                self(outputs, reverse=True)
            return outputs

    found = Interrupted(7, 3, mask_zero=True)(np.array([[1, 0]]))
    assert as_numpy(found._keras_mask).tolist() == [[True, False]]


def test_a_mask_that_is_asked_for_by_itself_is_that_of_ids_or_of_vectors():
    table, mask = TokenEmbedding(7, 3, mask_zero=True), np.array([[False, True]])
    ids = np.array([[5, 0], [0, 6]])
    assert as_numpy(table.compute_mask(ids)).tolist() == [[True, False], [False, True]]
    assert as_numpy(table.compute_mask(ids.astype("float32"))).tolist() == (ids > 0).tolist()
    assert table.compute_mask(np.zeros((1, 2, 3), "float32"), mask) is mask


def test_float_ids_as_many_as_features_have_their_mask():
    ids = keras.Input((4,))  # of Keras' default type
    assert TokenEmbedding(11, 4, mask_zero=True)(ids)._keras_mask is not None


def test_rows_of_a_table_may_begin_at_positions_of_their_own():
    layer = PositionEmbedding(5)
    x = ops.zeros((3, 4, 2))
    layer.build(x.shape)
    table = as_numpy(layer.embeddings)
    output = layer(x, offset=ops.convert_to_tensor([0, 1, -2]))
    np.testing.assert_array_equal(output, table[[[0, 1, 2, 3], [1, 2, 3, 4], [0, 0, 0, 1]]])
    with pytest.raises(ValueError, match="max_length=5 rows. Received: 4 positions from 2"):
        layer(x, offset=ops.convert_to_tensor([0, 2, -2]))
    with pytest.raises(ValueError, match=r"or a tensor .batch.. Received: shape \(3, 1\)"):
        layer(x, offset=ops.zeros((3, 1), "int32"))


@pytest.mark.parametrize("make, message", [
    (lambda: PositionEmbedding(0), "`max_length` must be a positive integer. Received: 0"),
    (lambda: PositionEmbedding(2.5), "`max_length` must be a positive integer. Received: 2.5"),
    (lambda: TokenEmbedding(0, 5), "`vocab_size` must be a positive integer. Received: 0"),
    (lambda: TokenEmbedding(5, 0), "`d_model` must be a positive integer. Received: 0"),
])  # fmt: skip
def test_sizes_of_tables_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: layers.PositionalEncoding()(keras.Input((5,))), r"\[batch, length, features\]"),
        (lambda: layers.PositionEmbedding(7)(keras.Input((5, 6, 3))), r"length, features\]"),
        (lambda: layers.RotaryEmbedding()(keras.Input((5, 6))), "heads, head_dim"),
        (lambda: layers.RotaryEmbedding()(keras.Input((5, 2, 7))), "even head_dim"),
        (
            lambda: layers.AddNorm()(keras.Input((5, 6)), keras.Input((5, 7))),
            "sublayer must keep the shape",
        ),
    ],
)
def test_symbolic_inputs_are_checked_as_others(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_table_is_not_quantized_by_its_policy():
    with pytest.raises(NotImplementedError, match="TokenEmbedding cannot be quantized"):
        layers.TokenEmbedding(11, 6, dtype="int8_from_float32")
    table = layers.TokenEmbedding(11, 6)
    table.build()
    with pytest.raises(NotImplementedError, match="TokenEmbedding cannot be quantized"):
        table.quantize("int8")
    policies = keras.dtype_policies.DTypePolicyMap()
    policies["tokens"] = keras.dtype_policies.get("int8_from_float32")
    with pytest.raises(NotImplementedError, match="TokenEmbedding cannot be quantized"):
        layers.TokenEmbedding(11, 6, dtype=policies, name="tokens").build()
    later = layers.TokenEmbedding(11, 6)
    later.dtype_policy = "int8_from_float32"
    with pytest.raises(NotImplementedError, match="TokenEmbedding cannot be quantized"):
        later(np.array([[3]]))


@pytest.mark.parametrize("make", [
    lambda dtype: layers.MultiHeadAttention(2, 3, dtype=dtype),
    lambda dtype: layers.EncoderBlock(2, 7, dtype=dtype),
    lambda dtype: layers.PositionEmbedding(11, dtype=dtype),
])  # fmt: skip
def test_layers_are_not_quantized_by_their_policy(make):
    with pytest.raises(NotImplementedError, match="cannot be quantized: it has no form in int"):
        make("int8_from_float32")


PLACED = [
    pytest.param(layer, shape, id=type(layer).__name__)
    for layer, shape in (
        (PositionalEncoding(), (B, T, D)),
        (PositionEmbedding(11), (B, T, D)),
        (RotaryEmbedding(), (B, T, 3, D)),
    )
]


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("layer, shape", PLACED)
def test_an_offset_is_one_or_one_for_each_row(rng, layer, shape, symbolic):
    def given(shape, dtype="int32"):
        return keras.KerasTensor(shape, dtype) if symbolic else ops.zeros(shape, dtype)

    x = given(shape, "float32")
    for right in ((), (B,)):
        assert layer(x, offset=given(right)).shape == shape
    for wrong in ((B, 1), (1, B), (1,), (B + 1,)):
        with pytest.raises(ValueError, match=r"`offset` must be.*\[batch\]"):
            layer(x, offset=given(wrong))
    if not symbolic:
        listed, array = (layer(normal(rng, *shape), offset=f([2, 3])) for f in (list, np.array))
        assert listed.shape == array.shape == shape


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("layer, shape", PLACED[:2])
def test_positions_are_one_for_each_token(layer, shape, symbolic):
    def given(shape, dtype="int32"):
        return keras.KerasTensor(shape, dtype) if symbolic else ops.zeros(shape, dtype)

    x = given(shape, "float32")
    for right in ((B, T), (1, T)):
        assert layer(x, positions=given(right)).shape == shape
    for wrong in ((B, T - 1), (B, 1), (T,), (B, B, T)):
        with pytest.raises(ValueError, match=r"`positions` must have the shape \[batch, length\]"):
            layer(x, positions=given(wrong))


def test_positions_in_half_precision_are_an_error():
    x, places = ops.zeros((B, T, D)), ops.zeros((B, T))  # which the layers would cast
    for layer in (PositionalEncoding(dtype="float16"), PositionEmbedding(11, dtype="bfloat16")):
        with pytest.raises(ValueError, match="`positions` must be an integer.*dtype b?float16"):
            layer(x, positions=places)
