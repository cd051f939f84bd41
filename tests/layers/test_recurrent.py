"""The projected LSTM beside NumPy, Keras and PyTorch.

B batch, T length, D features in, U units, P projection_dim
"""

import elmo_oracles as oracles
import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import layers

pytestmark = pytest.mark.portable

B, T, D, U, P = 3, 7, 5, 11, 4
MASK = np.array([[1] * 7, [1, 1, 0, 1, 1, 0, 0], [0] * 7], bool)
CLIPS = dict(cell_clip=0.7, projection_clip=0.5)


def built(kind=layers.ProjectedLSTM, scale=1.0, **options):
    """A layer of large weights, and their arrays."""
    layer = kind(U, P, **options)
    layer.build((B, T, D) if kind is layers.ProjectedLSTM else (B, D))
    rng = np.random.default_rng(5)
    for weight in layer.weights:
        weight.assign(scale * rng.normal(size=weight.shape))
    cell = getattr(layer, "cell", layer)
    return layer, {w.name: ops.convert_to_numpy(w) for w in cell.weights}


def draw(*shape):
    return np.random.default_rng(3).normal(size=shape).astype("float32")


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_it_is_the_formula_of_the_paper(mask, backwards):
    layer, weights = built(go_backwards=backwards, return_state=True, forget_bias=0.3, **CLIPS)
    x, h, c = draw(B, T, D), draw(B, P), draw(B, U)
    found = layer(x, mask=mask, initial_state=(h, c))
    expected = oracles.projected_lstm(
        x, weights, h, c, mask=mask, backwards=backwards, forget_bias=0.3, **CLIPS
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, rtol=1e-5, atol=1e-6)


def test_the_cell_in_a_keras_rnn_gives_the_same():
    layer, _ = built(**CLIPS)
    cell, _ = built(layers.ProjectedLSTMCell, **CLIPS)
    rnn = keras.layers.RNN(cell, return_sequences=True)
    x = draw(B, T, D)
    np.testing.assert_allclose(rnn(x), layer(x), rtol=1e-5, atol=1e-6)


@keras.saving.register_keras_serializable("tests")
class HalvedInputs(layers.ProjectedLSTMCell):
    def input_product(self, inputs):
        return super().input_product(0.5 * inputs)


@pytest.mark.parametrize("kind", [layers.ProjectedLSTMCell, HalvedInputs])
def test_a_cell_comes_back_from_a_file_with_all_its_arguments(kind, tmp_path):
    arguments = {
        **CLIPS,
        "forget_bias": 0.3,
        "use_bias": False,
        **{f"{name}_initializer": "he_normal" for name in ("kernel", "recurrent", "projection")},
    }
    cell, _ = built(kind, **arguments)
    config = cell.get_config()
    assert all(config[name] == arguments.get(name, config[name]) for name in [*CLIPS, "use_bias"])
    assert {"units", "projection_dim", *arguments} <= set(config)
    assert kind.from_config(config).get_config() == config
    plain, _ = built(layers.ProjectedLSTMCell, **arguments)
    x = draw(B, T, D)
    first = ops.convert_to_numpy(keras.layers.RNN(plain)(x))
    inputs = keras.Input((T, D))
    model = keras.Model(inputs, keras.layers.RNN(cell)(inputs))
    assert (np.abs(model(x) - first).max() > 0.01) == (kind is HalvedInputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1].cell) is kind
    assert loaded.layers[-1].cell.get_config() == config
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_a_cell_in_a_keras_rnn_of_half_precision(mask):
    cell, _ = built(layers.ProjectedLSTMCell, scale=0.5, dtype="mixed_float16")
    rnn = keras.layers.RNN(cell, return_sequences=True, dtype="mixed_float16")
    full, _ = built(layers.ProjectedLSTMCell, scale=0.5)
    x = draw(B, T, D)
    expected = keras.layers.RNN(full, return_sequences=True)(x, mask=mask)
    outputs = rnn(x, mask=mask)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    np.testing.assert_allclose(outputs, expected, atol=2.0**-7)


def test_the_cell_state_is_float32_in_half_precision():
    layer, _ = built(return_state=True, scale=0.0, forget_bias=40.0, dtype="mixed_float16")
    h, c = draw(B, P), draw(B, U)
    outputs, _, last = layer(draw(B, T, D), initial_state=(h, c))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    np.testing.assert_allclose(last, c, rtol=1e-6)  # forgets nothing, reads nothing


def test_with_a_projection_that_changes_nothing_it_is_the_lstm_of_keras():
    layer = layers.ProjectedLSTM(U, U)
    theirs = keras.layers.LSTM(U, return_sequences=True)
    x = draw(B, T, D)
    layer.build(x.shape), theirs.build(x.shape)
    kernel, recurrent, bias = (draw(*w.shape) for w in theirs.weights)
    order = [0, 2, 1, 3]  # ours is i, j, f, o, theirs i, f, j, o
    gates = [
        np.concatenate([np.split(w, 4, -1)[i] for i in order], -1) for w in (kernel, recurrent)
    ]
    theirs.set_weights([kernel, recurrent, bias])
    bias = [np.split(bias, 4)[i] for i in order]
    bias[2] = bias[2] - 1.0  # theirs is part of the bias
    layer.cell.set_weights([*gates, np.concatenate(bias), np.eye(U)])
    np.testing.assert_allclose(layer(x), theirs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_it_is_the_lstm_of_torch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    layer, weights = built(forget_bias=0.0, return_state=True, scale=0.5)
    theirs = torch.nn.LSTM(D, U, batch_first=True, proj_size=P)
    order = [0, 2, 1, 3]  # theirs is i, f, j, o

    def gates(array):
        parts = np.split(array, 4, -1)
        return torch.tensor(np.concatenate([parts[i] for i in order], -1).T.copy())

    state = {
        "weight_ih_l0": gates(weights["kernel"]),
        "weight_hh_l0": gates(weights["recurrent_kernel"]),
        "bias_ih_l0": gates(weights["bias"]),
        "bias_hh_l0": torch.zeros(4 * U),
        "weight_hr_l0": torch.tensor(weights["projection_kernel"].T.copy()),
    }
    theirs.load_state_dict(state)
    x = draw(B, T, D)
    outputs, h, c = layer(x)
    expected, (their_h, their_c) = theirs(torch.tensor(x))
    for one, other in ((outputs, expected), (h, their_h[0]), (c, their_c[0])):
        np.testing.assert_allclose(
            ops.convert_to_numpy(one), other.detach().numpy(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("backwards", [False, True])
def test_padding_changes_nothing_and_gives_zeros(backwards):
    layer, _ = built(go_backwards=backwards, return_state=True, **CLIPS)
    x = draw(B, T, D)
    alone = layer(x)
    wide = np.concatenate([x[:, :2], draw(B, 3, D), x[:, 2:]], axis=1)
    mask = np.array([[True] * 2 + [False] * 3 + [True] * 5] * B)
    outputs, *state = layer(wide, mask=mask)
    outputs = ops.convert_to_numpy(outputs)
    assert not outputs[:, 2:5].any()
    for one, other in zip((outputs[mask].reshape(B, T, P), *state), alone):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_the_state_goes_on_where_it_was():
    layer, _ = built(return_state=True, **CLIPS)
    x = draw(B, T, D)
    whole = layer(x)
    first, *state = layer(x[:, :3])
    second, *state = layer(x[:, 3:], initial_state=state)
    joined = ops.concatenate([first, second], axis=1)
    for one, other in zip((joined, *state), whole):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_its_gradient_is_that_of_the_plain_loop(mask, jit):
    import tensorflow as tf

    layer, _ = built(return_state=True, **CLIPS)
    x, h, c = (tf.constant(draw(*shape)) for shape in ((B, T, D), (B, P), (B, U)))
    factors = [draw(*shape) for shape in ((B, T, P), (B, P), (B, U))]

    @tf.function(jit_compile=jit)
    def gradients(training):
        with tf.GradientTape() as tape:
            tape.watch([x, h, c])
            found = layer(x, mask=mask, initial_state=(h, c), training=training)
            loss = sum(tf.reduce_sum(y * f) for y, f in zip(found, factors))
        return tape.gradient(loss, [x, h, c, *layer.trainable_weights])

    # Only in training the loop has a gradient of its own.
    for one, other in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["units", "projection_dim", "cell_clip", "projection_clip"])
def test_sizes_and_clips_are_positive(name):
    arguments = {"units": U, "projection_dim": P, name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be a positive"):
        layers.ProjectedLSTM(**arguments)
