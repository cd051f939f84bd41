"""Dense layers over rows, and matrices that are made once."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import layers
from keras_xfmr.layers.projections import Prepared, RowDense, project, times_transposed

pytestmark = pytest.mark.portable


def draw(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_dense(contracted=1, output_axes=(3, 5), features=(7,), **options):
    dense = RowDense(contracted, output_axes, **options)
    dense.build((None, None, *features))
    dense.set_weights([draw(*weight.shape, seed=i) for i, weight in enumerate(dense.weights)])
    return dense


def test_one_axis_to_heads_is_the_einsum_over_all_rows():
    dense, x = make_dense(), draw(2, 11, 7)
    kernel, bias = dense.get_weights()
    expected = np.einsum("btd,dnh->btnh", x, kernel) + bias
    np.testing.assert_allclose(dense(x), expected, atol=1e-5)


def test_heads_to_one_axis_is_the_einsum_over_all_rows():
    dense, x = make_dense(2, (13,), (3, 5), activation="relu"), draw(2, 11, 3, 5)
    kernel, bias = dense.get_weights()
    expected = np.maximum(np.einsum("btnh,nhd->btd", x, kernel) + bias, 0)
    np.testing.assert_allclose(dense(x), expected, atol=1e-5)


@pytest.mark.parametrize("contracted, outputs, features", [(1, (3, 5), (7,)), (2, (7,), (3, 5))])
@pytest.mark.parametrize("rows", [1, 2, 3, 32, 33])
def test_a_matrix_is_transposed_for_few_rows(contracted, outputs, features, rows, monkeypatch):
    dense = make_dense(contracted, outputs, features)
    x = draw(rows, 1, *features)
    expected, used = dense(x), []

    def watched(x, transposed):
        used.append(transposed.shape)
        return times_transposed(x, transposed)

    monkeypatch.setattr("keras_xfmr.layers.projections.times_transposed", watched)
    np.testing.assert_allclose(project(dense, x, Prepared([dense], rows)), expected, atol=1e-5)
    matrix = math.prod(outputs), math.prod(features)
    assert used == ([matrix] if 3 <= rows <= 32 else [])


@pytest.mark.parametrize("rows", [None, 5])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_a_prepared_network_is_the_same(activation, rows):
    network = layers.PositionWiseFFN(11, activation)
    x = draw(5, 1, 7)
    network(x)
    network.set_weights([draw(*weight.shape, seed=i) for i, weight in enumerate(network.weights)])
    expected = ops.convert_to_numpy(network(x))
    products = Prepared(network.projections(), rows)
    matrices = [weight for weight in network.weights if len(weight.shape) == 2]
    assert len(matrices) == (3 if activation == "swiglu" else 2)
    for weight in matrices:
        weight.assign(np.zeros(weight.shape))
    prepared = network(x, products=products)  # made before the weights were changed
    np.testing.assert_allclose(prepared, expected, atol=1e-4)
    assert np.abs(ops.convert_to_numpy(network(x)) - expected).max() > 1


def test_a_network_of_other_layers_is_not_prepared():
    class Own(layers.PositionWiseFFN):
        def _dense(self, name, units, input_shape):
            return keras.layers.Dense(units, name=name)

    network = Own(11)
    network(draw(5, 1, 7))
    assert network.projections() == []


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_prepared_matrices_give_the_same_and_are_those_of_their_time(dtype):
    attention = layers.MultiHeadAttention(3, 5, use_gate=True, dtype=dtype)
    embedding = layers.TokenEmbedding(17, 7, dtype=dtype)
    x = draw(2, 11, 7)
    expected = attention(x, x), embedding(x, reverse=True)
    prepared = Prepared([embedding, *attention.projections()])
    answer = attention(x, x, products=prepared), project(embedding, x, prepared, reverse=True)
    weights = [ops.convert_to_numpy(weight) for weight in attention.weights]
    attention.set_weights([0 * weight for weight in weights])
    kept = project(embedding, x, prepared, reverse=True)
    from_prepared = ops.convert_to_numpy(project(attention.query_dense, x, prepared))
    for one, other in zip(answer, expected, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))
    assert kept.dtype == expected[1].dtype
    assert np.abs(from_prepared).max() > 0  # the matrix from before the weights were changed
    assert np.abs(ops.convert_to_numpy(attention.query_dense(x))).max() == 0


def test_steps_of_a_call_may_be_overridden_without_products():
    class Attention(layers.MultiHeadAttention):
        def project_query(self, query, position=0):
            return 2 * super().project_query(query, position)

        def project_key_value(self, value, key=None, position=0):
            return super().project_key_value(2 * value, key, position)

    class Network(layers.PositionWiseFFN):
        def activate(self, inputs):
            return 2 * super().activate(inputs)

    class Plain(keras.layers.Layer):
        def call(self, query, value):
            return 2 * query

    x = draw(2, 11, 6)
    for attention in (Attention(3, 5), Plain()):
        block = layers.EncoderBlock(3, 7, self_attention=attention, feed_forward=Network(7))
        expected = block(x)
        products = Prepared(block.projections())
        np.testing.assert_allclose(block(x, products=products), expected, atol=1e-5)


def test_low_rank_updates_are_prepared_too():
    dense, x = make_dense(), draw(2, 11, 7)
    kernel, bias = dense.get_weights()
    dense.enable_lora(2)  # its factor is alpha / rank = 1
    dense.lora_kernel_b.assign(draw(*dense.lora_kernel_b.shape, seed=3))
    down, up = map(ops.convert_to_numpy, (dense.lora_kernel_a, dense.lora_kernel_b))
    expected = np.einsum("btd,dnh->btnh", x, kernel + down @ up) + bias
    np.testing.assert_allclose(dense(x), expected, atol=1e-5)
    np.testing.assert_allclose(project(dense, x, Prepared([dense])), expected, atol=1e-5)


def test_keras_weights_still_fit():
    ours, theirs = layers.MultiHeadAttention(3, 5), keras.layers.MultiHeadAttention(3, 5)
    x = draw(2, 11, 7)
    theirs(x, x)
    ours(x, x)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(x, x), theirs(x, x), atol=1e-5)


@pytest.mark.requires_tensorflow  # with another backend `.keras` files are the conformance's matter
def test_low_rank_updates_of_an_embedding_outlive_saving(tmp_path):
    model = keras.Sequential([keras.Input((5,), dtype="int32"), layers.TokenEmbedding(13, 6)])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_embeddings_b.assign(draw(2, 6))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    ids = np.array([[1, 5, 2, 0, 12]])
    np.testing.assert_allclose(loaded(ids), model(ids), atol=1e-6)
    for one, other in zip(loaded.trainable_weights, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
