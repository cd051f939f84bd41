"""Words from characters, and the mix of layers, beside NumPy.

B batch, T words, C characters of a word, E character_dim, P projection_dim
"""

import elmo_oracles as oracles
import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import layers

pytestmark = pytest.mark.portable

B, T, C, E, P = 2, 3, 11, 5, 4
FILTERS = [(1, 3), (2, 5), (7, 2)]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_cnn_is_the_formula_of_the_paper(activation):
    layer = layers.CharacterCNN(
        P, FILTERS, character_dim=E, num_characters=19, activation=activation
    )
    rng = np.random.default_rng(2)
    ids = rng.integers(19, size=(B, T, C))
    ids[0, 1] = 0  # no word
    layer.build(ids.shape)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    expected = oracles.character_cnn(
        ids,
        ops.convert_to_numpy(layer.embeddings),
        [tuple(map(ops.convert_to_numpy, one.weights)) for one in layer.convolutions],
        [tuple(map(ops.convert_to_numpy, one.weights)) for one in layer.highways],
        tuple(map(ops.convert_to_numpy, layer.projection.weights)),
        activation,
    )
    np.testing.assert_allclose(layer(ids), expected, rtol=1e-4, atol=1e-4)


def test_a_new_highway_carries_most_of_its_input():
    layer = layers.Highway()
    layer.build((None, 8))
    np.testing.assert_array_equal(layer.gate.bias, np.full(8, -2.0))
    layer.gate.kernel.assign(np.zeros((8, 8)))
    layer.transform.kernel.assign(np.zeros((8, 8)))
    gate = 1 / (1 + np.exp(2.0))
    np.testing.assert_allclose(layer(np.ones((1, 8))), np.full((1, 8), 1 - gate), rtol=1e-6)


@pytest.mark.parametrize(
    "filters, message",
    [([], "pairs"), ([3, 4], "pairs"), ([(1, 2, 3)], "pairs"), ([(0, 2)], "positive")],
)
def test_filters_are_pairs_of_positive_integers(filters, message):
    with pytest.raises(ValueError, match=message):
        layers.CharacterCNN(P, filters)


def test_a_word_has_as_many_characters_as_the_widest_filter():
    with pytest.raises(ValueError, match="at least 7 characters.*Received: shape"):
        layers.CharacterCNN(P, FILTERS)(np.zeros((B, T, 6), "int32"))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_mix_is_the_formula_of_the_paper(layer_norm):
    mix = layers.ScalarMix(layer_norm=layer_norm)
    rng = np.random.default_rng(3)
    values = [rng.normal(size=(B, T, P)).astype("float32") for _ in range(3)]
    np.testing.assert_allclose(
        mix(values), oracles.scalar_mix(values, np.zeros(3), 1.0, layer_norm), rtol=1e-5, atol=1e-6
    )
    weight = rng.normal(size=3)
    mix.weight.assign(weight)
    mix.gamma.assign(1.7)
    np.testing.assert_allclose(
        mix(values), oracles.scalar_mix(values, weight, 1.7, layer_norm), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(mix.layer_weights(), oracles.softmax(weight), rtol=1e-6)


def test_dropout_leaves_out_whole_layers_and_never_all():
    mix = layers.ScalarMix(layer_dropout_rate=0.8, seed=3)
    values = [np.full((1, 1, 2), 10.0**j, "float32") for j in range(3)]
    mix(values)
    weight = np.array([2.0, 0.0, -1.0])
    mix.weight.assign(weight)
    expected = set()  # of each set of layers that is not empty
    for kept in range(1, 8):
        there = [j for j in range(3) if kept >> j & 1]
        share = oracles.softmax(weight[there])
        expected.add(round(float(share @ [10.0**j for j in there]), 2))
    found = {round(float(mix(values, training=True)[0, 0, 0]), 2) for _ in range(60)}
    assert len(found) > 3 and found <= expected
    whole = oracles.softmax(weight) @ [1.0, 10.0, 100.0]
    np.testing.assert_allclose(mix(values)[0, 0, 0], whole, rtol=1e-6)  # all, without training
    with pytest.raises(ValueError, match="vectors of 3 layers.*Received: 2"):
        mix(values[:2])


def test_ids_are_not_rounded_in_half_precision():
    layer = layers.CharacterCNN(P, FILTERS, dtype="mixed_bfloat16")
    ids = np.array([[[257, 258, 259, 260, 261, 261, 261, 261]]])
    np.testing.assert_array_equal(layer(ids), layer(ids.astype("float32")))


def test_l2_of_the_weights_is_part_of_the_loss():
    mix = layers.ScalarMix(l2=0.25)
    mix([np.zeros((1, 1, 2), "float32")] * 3)
    mix.weight.assign([1.0, 2.0, 3.0])
    np.testing.assert_allclose(float(sum(mix.losses)), 0.25 * 14)


def test_one_tensor_is_no_list_of_layers():
    with pytest.raises(ValueError, match="Expected a list.*Received: a single shape"):
        layers.ScalarMix()(keras.ops.zeros((2, 3, 4)))
