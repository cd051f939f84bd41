"""Feed-forward networks, norms, residual connections, dropout: against the oracles and Keras.

B batch, T length, D d_model, F ffn_dim
"""

import math

import keras
import numpy as np
import oracles
import pytest
from arrays import as_numpy, normal, randomize
from keras import ops

from keras_xfmr.layers import (
    AddNorm,
    Dropout,
    LayerNorm,
    MaskedLMTransform,
    MultiHeadAttention,
    PositionWiseFFN,
    RMSNorm,
)

pytestmark = pytest.mark.portable

B, T, D, F = 2, 5, 7, 11
CLOSE = {"rtol": 1e-5, "atol": 5e-6}  # float32 sums of a few dozen products of numbers near 1


KINDS = {
    "relu": "relu", "gelu": "gelu", "gelu_exact": "gelu", "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh", "glu": "glu", "reglu": "reglu", "swiglu": "swiglu", "geglu": "geglu",
}  # fmt: skip


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", KINDS)
def test_the_feed_forward_network_equals_its_formula(rng, activation, use_bias):
    x = normal(rng, B, T, D)
    layer = PositionWiseFFN(F, activation, use_bias=use_bias, output_dim=3)
    layer.build(x.shape)
    randomize(rng, layer)
    dense = {"1": layer.inner_dense, "2": layer.output_dense}
    if activation in ("glu", "reglu", "swiglu", "geglu"):
        dense["g"] = layer.gate_dense
    weights = {f"w{name}": d.kernel.numpy() for name, d in dense.items()}
    if use_bias:
        weights.update({f"b{name}": d.bias.numpy() for name, d in dense.items()})
    expected = oracles.feed_forward(as_numpy(x), KINDS[activation], weights)
    np.testing.assert_allclose(as_numpy(layer(x)), expected, **CLOSE)
    assert len(layer.weights) == len(weights)


@pytest.mark.parametrize("dtype, rtol, atol", [("float32", 1e-6, 1e-6), ("bfloat16", 2e-2, 0)])
def test_exact_gelu_keeps_its_small_values(dtype, rtol, atol):
    layer = PositionWiseFFN(1, "gelu", use_bias=False, dtype=dtype)
    x = ops.cast(np.linspace(-3, 6, 997), dtype)
    layer.build((None, None, 1))
    layer.set_weights([np.ones((1, 1)), np.ones((1, 1))])
    found = as_numpy(ops.cast(layer(ops.reshape(x, (1, -1, 1)))[0, :, 0], "float32"))
    x = as_numpy(ops.cast(x, "float32")).astype("float64")
    expected = [value * math.erfc(-value / math.sqrt(2)) / 2 for value in x]
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("activation", ["tanh", ops.tanh])
def test_any_activation_of_keras_and_any_function_serves(rng, activation):
    x = normal(rng, B, T, D)
    layer = PositionWiseFFN(F, activation)
    output = as_numpy(layer(x))
    hidden = np.tanh(as_numpy(layer.inner_dense(x)))
    np.testing.assert_allclose(output, hidden @ layer.output_dense.kernel.numpy(), **CLOSE)


@pytest.mark.parametrize("make", [lambda a: PositionWiseFFN(F, a), MaskedLMTransform])
def test_a_configuration_names_the_function_that_a_layer_was_given(make):
    config = make(keras.activations.silu).get_config()
    assert config["activation"] == "silu"


@pytest.mark.parametrize("arguments, message", [
    ({"ffn_dim": 0}, "`ffn_dim` must be a positive integer. Received: 0"),
    ({"output_dim": 0}, "`output_dim` must be a positive integer. Received: 0"),
    ({"dropout_rate": 2}, "rate.*2"),
])  # fmt: skip
def test_sizes_of_a_feed_forward_network_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        PositionWiseFFN(**{"ffn_dim": F, **arguments})


@pytest.mark.parametrize("activation", ["no_such_function", 3.0])
def test_an_unknown_activation_is_an_error_that_names_the_known_ones(activation):
    with pytest.raises(ValueError, match="`activation` must be one of .*'swiglu'.*Received"):
        PositionWiseFFN(F, activation)


def test_the_feed_forward_network_drops_inner_features_in_training_alone(rng):
    x = normal(rng, B, T, D)
    layer = PositionWiseFFN(F, dropout_rate=0.5, seed=3)
    plain, trained = as_numpy(layer(x)), as_numpy(layer(x, training=True))
    np.testing.assert_array_equal(plain, as_numpy(layer(x)))
    assert np.abs(plain - trained).max() > 0.01


@pytest.mark.parametrize("epsilon", [1e-3, 1e-12])
def test_layer_norm_equals_equation_four_and_keras_layer(rng, epsilon):
    x = normal(rng, B, T, D) * 3.0 + 5.0
    layer, theirs = LayerNorm(epsilon=epsilon), keras.layers.LayerNormalization(epsilon=epsilon)
    for each in (layer, theirs):
        each.build(x.shape)
    randomize(rng, layer)
    theirs.set_weights(layer.get_weights())
    expected = oracles.layer_norm(as_numpy(x), *layer.get_weights(), epsilon)
    np.testing.assert_allclose(as_numpy(layer(x)), expected, **CLOSE)
    np.testing.assert_allclose(as_numpy(layer(x)), as_numpy(theirs(x)), **CLOSE)


def test_rms_norm_equals_equation_four(rng):
    x = normal(rng, B, T, D) * 3.0 + 5.0
    layer = RMSNorm(epsilon=1e-3)
    layer.build(x.shape)
    randomize(rng, layer)
    expected = oracles.rms_norm(as_numpy(x), *layer.get_weights(), 1e-3)
    np.testing.assert_allclose(as_numpy(layer(x)), expected, **CLOSE)


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`, which is deprecated")
@pytest.mark.parametrize("options", [
    {"center": False}, {"scale": False}, {"axis": 1}, {"axis": [1, 2]}, {"axis": [2]},
    {"rms_scaling": True},
], ids=str)  # fmt: skip
def test_layer_norm_takes_the_options_of_keras_layer(rng, options):
    x = normal(rng, B, T, D)
    layer, theirs = LayerNorm(**options), keras.layers.LayerNormalization(**options)
    for each in (layer, theirs):
        each.build(x.shape)
    randomize(rng, layer)
    theirs.set_weights(layer.get_weights())
    np.testing.assert_allclose(as_numpy(layer(x)), as_numpy(theirs(x)), **CLOSE)


@pytest.mark.requires_tensorflow
def test_the_gradients_of_layer_norm_are_those_of_keras_layer(rng):
    import tensorflow as tf

    x, along = normal(rng, B, T, D), normal(rng, B, T, D)
    gradients = []
    for layer in (LayerNorm(epsilon=1e-6), keras.layers.LayerNormalization(epsilon=1e-6)):
        layer.build(x.shape)
        randomize(np.random.default_rng(3), layer)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) * along)
        gradients.append(tape.gradient(loss, [x, *(v.value for v in layer.trainable_weights)]))
    assert len(gradients[0]) == 3
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(as_numpy(ours), as_numpy(theirs), **CLOSE)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_the_statistics_of_a_norm_are_float32_in_half_precision(norm):
    # 300^2 is beyond float16, and its sum beyond bfloat16's eight bits.
    x = ops.cast(np.linspace(-300.0, 300.0, 4 * D).reshape(1, 4, D), "float16")
    output = norm(dtype="float16")(x)
    exact = norm()(ops.cast(x, "float32"))
    np.testing.assert_allclose(
        as_numpy(ops.cast(output, "float32")), as_numpy(exact), rtol=2.0**-10, atol=2.0**-10
    )


@pytest.mark.parametrize("norm, oracle", [
    ("layer_norm", lambda x: oracles.layer_norm(x, 1.0, 0.0, 0.01)),
    ("rms_norm", lambda x: oracles.rms_norm(x, 1.0, 0.01)),
])  # fmt: skip
def test_add_norm_is_post_norm_and_its_halves_are_pre_norm(rng, norm, oracle):
    x, y = normal(rng, B, T, D), normal(rng, B, T, D)
    layer = AddNorm(norm, epsilon=0.01)
    np.testing.assert_allclose(as_numpy(layer(x, y)), oracle(as_numpy(x) + as_numpy(y)), **CLOSE)
    np.testing.assert_allclose(as_numpy(layer.normalize(x)), oracle(as_numpy(x)), **CLOSE)
    np.testing.assert_array_equal(as_numpy(layer.add(x, y)), as_numpy(x) + as_numpy(y))


def test_add_norm_takes_a_layer_as_its_norm(rng):
    x, y = normal(rng, B, T, D), normal(rng, B, T, D)
    layer = AddNorm(keras.layers.UnitNormalization())
    total = as_numpy(x) + as_numpy(y)
    expected = total / np.linalg.norm(total, axis=-1, keepdims=True)
    np.testing.assert_allclose(as_numpy(layer(x, y)), expected, **CLOSE)


def test_add_norm_drops_the_sublayer_and_not_the_residual():
    layer = AddNorm(dropout_rate=0.5, seed=3)
    added = as_numpy(layer.add(ops.ones((B, 101)), ops.ones((B, 101)), training=True))
    assert set(np.unique(added)) == {1.0, 3.0}


def test_add_norm_says_what_it_cannot_take(rng):
    with pytest.raises(ValueError, match="`norm` must be a layer or one of .*Received: 'batch'"):
        AddNorm("batch")
    with pytest.raises(ValueError, match="must keep the shape of its input"):
        AddNorm()(normal(rng, B, T, D), normal(rng, B, T, 1))
    layer = AddNorm()
    layer(normal(rng, B, T, D), normal(rng, B, T, D))
    with pytest.raises(ValueError, match="input .*, output .*1, 7"):
        layer(normal(rng, B, T, D), normal(rng, B, 1, D))
    with pytest.raises(ValueError, match="Received: 'swiglu'"):
        MaskedLMTransform("swiglu")
    assert PositionWiseFFN(np.int64(7)).get_config()["ffn_dim"] == 7


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_honours_its_rate_and_keeps_the_mean(rate):
    output = as_numpy(Dropout(rate, seed=3)(ops.ones((101, 997)), training=True))
    deviation = (rate * (1 - rate) / output.size) ** 0.5
    assert (output == 0).mean() == pytest.approx(rate, abs=5 * deviation)
    assert output.mean() == pytest.approx(1.0, abs=5 * deviation / (1 - rate))
    np.testing.assert_allclose(np.unique(output), [0.0, 1 / (1 - rate)], rtol=1e-4)


def test_dropout_is_the_same_under_one_seed_and_new_at_each_call():
    first, second = Dropout(0.5, seed=3), Dropout(0.5, seed=3)
    x = ops.ones((7, 101))
    draws = [as_numpy(layer(x, training=True)) for layer in (first, first, second, second)]
    np.testing.assert_array_equal(draws[0], draws[2])
    np.testing.assert_array_equal(draws[1], draws[3])
    assert (draws[0] != draws[1]).any()


def test_what_dropout_draws_is_independent_of_place_call_and_seed():
    layer, x = Dropout(0.5, seed=3), ops.ones((101, 997))
    calls = (layer, layer, Dropout(0.5, seed=4))
    first, second, other = (as_numpy(each(x, training=True)).ravel() > 0 for each in calls)
    pairs = [(first, second), (first, other), (second, other)]
    pairs += [(first[:-lag], first[lag:]) for lag in (1, 2, 3, 7, 16, 997, 1024, 2**15)]
    for one, another in pairs:
        assert (one == another).mean() == pytest.approx(0.5, abs=2.5 / len(one) ** 0.5)


@pytest.mark.requires_tensorflow
def test_compiled_dropout_draws_what_the_eager_one_draws():
    import tensorflow as tf

    x = ops.ones((7, 101))
    expected = as_numpy(Dropout(0.3, seed=3)(x, training=True))
    for jit_compile in (False, True):
        layer = Dropout(0.3, seed=3)
        compiled = tf.function(lambda x, f=layer: f(x, training=True), jit_compile=jit_compile)
        np.testing.assert_array_equal(as_numpy(compiled(x)), expected)


def test_dropout_leaves_inference_alone_and_rate_one_leaves_nothing(rng):
    x = normal(rng, 7, 11)
    np.testing.assert_array_equal(as_numpy(Dropout(0.5)(x)), as_numpy(x))
    np.testing.assert_array_equal(as_numpy(Dropout(0.0)(x, training=True)), as_numpy(x))
    assert not as_numpy(Dropout(1.0)(x, training=True)).any()


def test_dropout_draws_once_for_what_the_noise_shape_joins():
    layer = Dropout(0.5, noise_shape=(7, 1), seed=3)
    output = as_numpy(layer(ops.ones((7, 11)), training=True))
    assert (output == output[:, :1]).all() and len(np.unique(output)) == 2


def ones(x):
    return ops.ones_like(x)


def dropped_features(rate):
    layer = PositionWiseFFN(997, ones, dropout_rate=rate, use_bias=False, seed=3)
    layer.build((101, 997))
    layer.set_weights([np.zeros((997, 997)), np.eye(997)])
    return layer(ops.ones((101, 997)), training=True)


def dropped_weights(rate):
    """One head whose queries see all keys alike, and whose values tell the keys apart."""
    options = {"value_dim": 997, "output_shape": 997, "use_bias": False}
    layer = MultiHeadAttention(1, 1, dropout=rate, seed=3, **options)
    layer.build((1, 101, 2), (1, 997, 997))
    for dense in (layer.value_dense, layer.output_dense):
        dense.kernel.assign(np.eye(997).reshape(dense.kernel.shape))
    return layer(ops.zeros((1, 101, 2)), ops.eye(997)[None], training=True)


@pytest.mark.parametrize("dropped", [dropped_features, dropped_weights])
def test_inner_features_and_attention_weights_are_dropped_at_their_rate(dropped):
    output = as_numpy(dropped(0.3))
    assert (output == 0).mean() == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / output.size) ** 0.5)


@pytest.mark.parametrize("call", [
    lambda x, seed: PositionWiseFFN(F, dropout_rate=0.5, seed=seed)(x, training=True),
    lambda x, seed: AddNorm(dropout_rate=0.5, seed=seed)(x, x, training=True),
    lambda x, seed: MultiHeadAttention(3, 4, dropout=0.5, seed=seed)(x, x, training=True),
], ids=["feed-forward", "add and norm", "attention"])  # fmt: skip
def test_the_seed_of_a_layer_is_that_of_its_dropout(rng, call):
    x, draws = normal(rng, B, T, D), []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(5)  # for the weights
        draws.append(as_numpy(call(x, seed)))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
