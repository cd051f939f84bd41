"""AdamW against its formula, and fits with accumulation, averaging and half precision."""

import keras
import numpy as np
import oracles
import pytest

from keras_xfmr import models, training

pytestmark = pytest.mark.portable

# JAX outside of a compiled step compiles every operation by itself.
JIT = keras.config.backend() == "jax"
NAMES = ("kernel", "embeddings", "bias", "output_bias", "gamma", "beta", "scale")
DECAY = {"kernel": 0.01, "embeddings": 0.01}


def variables(rng):
    return [keras.Variable(rng.normal(size=(3, 5)), name=name) for name in NAMES]


def regression():
    """A dense layer with a norm, whose every variable moves."""
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(7, name="d"), keras.layers.LayerNormalization()]
    )


def tiny_transformer(**options):
    sizes = dict(d_model=14, num_heads=2, ffn_dim=19, num_layers=1, dropout_rate=0.0)
    return models.Transformer(13, **{**sizes, **options})


@pytest.mark.parametrize("clip", ["global_clipnorm", "clipnorm", "clipvalue"])
def test_gradients_of_a_repeated_token_are_added_up_before_they_are_clipped(clip):
    """The gradient of a lookup is a list of rows on TensorFlow."""
    table = keras.layers.Embedding(5, 2, embeddings_initializer="zeros")
    model = keras.Sequential([keras.Input((3,), dtype="int32"), table])
    model.compile(
        training.AdamW(0.0, weight_decay=0.0, beta_1=0.0, beta_2=0.0, **{clip: 0.1}),
        loss=lambda y, y_pred: y_pred,
    )
    model.train_on_batch(np.array([[1, 1, 1]]), np.zeros((1, 3)))
    (momentum,) = (v for v in model.optimizer.variables if v.path.endswith("momentum"))
    found = keras.ops.convert_to_numpy(momentum)
    # The gradient of row 1 is 1 in both columns.
    expected = 0.1 if clip == "clipvalue" else 0.1 / np.sqrt(2)
    np.testing.assert_allclose(found[1], [expected] * 2, rtol=1e-5)


def copy_task(rng, rows, length=5):
    """Inputs and labels of sequences that are to be copied; every row has as many tokens."""
    words = rng.integers(4, 13, (rows, length - 1))
    source = np.concatenate([words, np.full((rows, 1), 3)], 1)
    target = np.concatenate([np.full((rows, 1), 2), words], 1)
    return {"source_ids": source, "target_ids": target}, source


# ---- AdamW


def test_three_steps_are_those_of_the_formula(rng):
    trained = variables(rng)
    settings = dict(beta_1=0.8, beta_2=0.95, epsilon=1e-5)
    optimizer = training.AdamW(0.03, weight_decay=0.01, **settings)
    state = [(v.numpy().astype("float64"), 0.0, 0.0) for v in trained]
    for step in (1, 2, 3):
        gradients = [rng.normal(size=(3, 5)).astype("float32") for _ in NAMES]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], trained)
        for i, name in enumerate(NAMES):
            state[i] = oracles.adamw_step(
                state[i][0],
                gradients[i],
                *state[i][1:],
                step=step,
                lr=0.03,
                beta1=0.8,
                beta2=0.95,
                epsilon=1e-5,
                weight_decay=DECAY.get(name, 0.0),
            )
            found = keras.ops.convert_to_numpy(trained[i])
            np.testing.assert_allclose(found, state[i][0], rtol=2e-6, atol=1e-7, err_msg=name)


def test_without_a_gradient_only_kernels_and_embeddings_shrink(rng):
    trained = variables(rng)
    before = [keras.ops.convert_to_numpy(v) for v in trained]
    zeros = [keras.ops.zeros((3, 5)) for _ in NAMES]
    training.AdamW(0.1, weight_decay=0.5).apply(zeros, trained)
    for name, old, new in zip(NAMES, before, trained, strict=True):
        factor = 1 - 0.1 * 0.5 if name in DECAY else 1
        np.testing.assert_allclose(keras.ops.convert_to_numpy(new), old * factor, rtol=1e-6)


def test_which_variables_do_not_decay_can_be_said(rng):
    for no_decay in (("embed",), ()):
        trained = variables(rng)
        before = [keras.ops.convert_to_numpy(v) for v in trained]
        optimizer = training.AdamW(0.1, weight_decay=0.5, no_decay=no_decay)
        optimizer.apply([keras.ops.zeros((3, 5)) for _ in NAMES], trained)
        pairs = zip(NAMES, before, trained, strict=True)
        kept = [n for n, old, new in pairs if (keras.ops.convert_to_numpy(new) == old).all()]
        assert kept == (["embeddings"] if no_decay else [])


def test_no_decay_looks_at_the_name_of_a_variable_and_not_of_its_layer(rng):
    layer = keras.layers.Dense(3, name="multi_scale")
    model = keras.Sequential([keras.Input((5,)), layer], name="unbiased")
    before = keras.ops.convert_to_numpy(layer.kernel)
    layer.bias.assign([1.0, 2.0, 3.0])
    optimizer = training.AdamW(0.1, weight_decay=0.5)
    optimizer.apply([keras.ops.zeros((5, 3)), keras.ops.zeros((3,))], model.trainable_variables)
    np.testing.assert_allclose(layer.kernel, before * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(layer.bias, [1.0, 2.0, 3.0])


def test_a_no_decay_that_is_in_no_name_warns(rng, monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    training.AdamW(0.1).build(variables(rng)[:1])  # the default is for models of all kinds
    training.AdamW(0.1, no_decay=("bias", "LayerNorm")).build(variables(rng))
    assert said == ["`no_decay` names what is not trained, or not there: LayerNorm."]


@pytest.mark.parametrize("no_decay", ["", ("",), None, 3, ("bias", 3), {"bias": 3}])
def test_a_no_decay_that_is_no_name_is_refused(no_decay):
    with pytest.raises(ValueError, match="`no_decay` must be a name or several"):
        training.AdamW(no_decay=no_decay)


def test_keras_own_exclusion_takes_the_place_of_no_decay(rng):
    trained = variables(rng)
    before = [keras.ops.convert_to_numpy(v) for v in trained]
    optimizer = training.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=trained[:1])
    optimizer.apply([keras.ops.zeros((3, 5)) for _ in NAMES], trained)
    same = [(keras.ops.convert_to_numpy(v) == old).all() for v, old in zip(trained, before)]
    assert same == [True] + [False] * (len(NAMES) - 1)


def test_no_decay_survives_saving_and_loading(rng, tmp_path):
    model = regression()
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    optimizer = training.AdamW(0.1, weight_decay=0.5, no_decay=("kernel", "gamma"))
    model.compile(optimizer, "mse", jit_compile=False)
    optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is training.AdamW
    zeros = [keras.ops.zeros(v.shape) for v in again.trainable_variables]
    again.optimizer.apply(zeros, again.trainable_variables)
    for old, new in zip(model.weights, again.weights, strict=True):
        factor = 1.0 if new.name in ("kernel", "gamma") else 1 - 0.1 * 0.5
        old, new = map(keras.ops.convert_to_numpy, (old, new))
        np.testing.assert_allclose(new, old * factor, rtol=1e-6)


@pytest.mark.slow
def test_a_loaded_model_goes_on_as_the_one_in_memory(rng, tmp_path):
    model = regression()
    schedule = training.LinearWarmupDecay(0.1, 2, 101)
    model.compile(training.AdamW(schedule, weight_decay=0.5), "mse", jit_compile=False)
    data = {"x": rng.normal(size=(11, 5)), "y": rng.normal(size=(11, 7)), "verbose": 0}
    model.fit(**data, epochs=2)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, again):
        one.fit(**data, epochs=2)
    assert int(again.optimizer.iterations) == 4
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_the_config_makes_the_optimizer_again():
    optimizer = training.AdamW(0.1, weight_decay=0.5, clipnorm=1.0, no_decay=["x"], use_ema=True)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert (again.no_decay, again.clipnorm, again.use_ema) == (("x",), 1.0, True)


# ---- accumulation and averaging


@pytest.mark.slow
def test_three_micro_batches_are_one_big_batch(rng):
    inputs, labels = copy_task(rng, 6)
    trained = []
    for parts in (1, 3):
        keras.utils.set_random_seed(5)
        model = tiny_transformer()
        steps = None if parts == 1 else parts
        optimizer = training.AdamW(0.01, epsilon=1e-3, gradient_accumulation_steps=steps)
        model.compile(optimizer, training.MaskedCrossEntropy(0.1), jit_compile=JIT)
        start = model.get_weights()
        for _ in range(2):  # two updates, so that what was accumulated must be forgotten
            for rows in np.split(np.arange(6), parts):
                model.train_on_batch({k: v[rows] for k, v in inputs.items()}, labels[rows])
        trained.append(model.get_weights())
        assert int(model.optimizer.iterations) == 2
    moved = [np.abs(end - begin).max() for begin, end in zip(start, trained[0], strict=True)]
    assert max(moved) > 1e-2
    for whole, parts in zip(*trained, strict=True):
        np.testing.assert_allclose(parts, whole, atol=2e-6)


def test_a_schedule_counts_the_batches_that_are_accumulated():
    """The third batch of each update is its last: without a gradient only decay is left."""
    weight, zero = keras.Variable(np.ones(5, "float32")), keras.ops.zeros(5)
    schedule = training.LinearWarmupDecay(0.1, 0, 12)
    optimizer = training.AdamW(schedule, weight_decay=0.5, gradient_accumulation_steps=3)
    for _ in range(12):
        optimizer.apply([zero], [weight])
    expected = np.prod([1 - 0.5 * schedule(batch) for batch in (2, 5, 8, 11)])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(weight), expected, rtol=1e-6)


@pytest.mark.slow
def test_an_exponential_average_of_the_weights_is_left_after_fit(rng):
    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.get_weights())

    seen = []
    model = regression()
    optimizer = training.AdamW(0.1, use_ema=True, ema_momentum=0.7)
    model.compile(optimizer, "mse", jit_compile=False)
    x, y = rng.normal(size=(20, 5)), rng.normal(size=(20, 7))
    model.fit(x, y, batch_size=5, epochs=1, verbose=0, callbacks=[Record()])
    average = seen[0]
    for weights in seen[1:]:
        average = [0.7 * a + 0.3 * w for a, w in zip(average, weights, strict=True)]
    assert len(seen) == 4
    for found, expected, last in zip(model.get_weights(), average, seen[-1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(last - expected).max() > 1e-2


# ---- half precision


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_fit_in_half_precision_falls_and_stays_finite(policy, rng):
    inputs, labels = copy_task(rng, 64)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = tiny_transformer()
        loss = training.MaskedCrossEntropy(0.1)
        model.compile(
            training.AdamW(0.02, clipnorm=1.0),
            loss,
            metrics=[training.MaskedAccuracy(), training.MaskedPerplexity()],
            jit_compile=JIT,
        )
        history = model.fit(inputs, labels, batch_size=16, epochs=11, verbose=0).history
    finally:
        keras.config.set_dtype_policy(before)
    assert model.layers[-1].compute_dtype == policy.removeprefix("mixed_")
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    if scaled:
        assert float(model.optimizer.dynamic_scale) >= 2.0**10  # few steps overflowed
        assert type(model.optimizer.inner_optimizer) is training.AdamW
    assert np.isfinite(history["loss"] + history["perplexity"]).all()
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert history["accuracy"][-1] > history["accuracy"][0]
    for weight in model.weights:
        assert keras.backend.standardize_dtype(weight.dtype) == "float32"
        assert np.isfinite(keras.ops.convert_to_numpy(weight)).all()


def test_rates_of_what_is_not_there_are_said(monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    model = regression()
    training.AdamW(1e-3, learning_rate_factors={"d": 0.5}).build(model.trainable_variables)
    assert not said
    factors = {"d": 0.5, "encoder0": 0.0}
    training.AdamW(1e-3, learning_rate_factors=factors).build(model.trainable_variables)
    assert len(said) == 1 and "encoder0" in said[0] and " d" not in said[0].partition(":")[2]


def test_one_name_that_does_not_decay_is_no_list_of_letters():
    optimizer = training.AdamW(1e-3, weight_decay=0.1, no_decay="bias")
    decays, stays = (keras.Variable([1.0], name=name) for name in ("embeddings", "bias"))
    optimizer.apply([np.zeros(1, "float32")] * 2, [decays, stays])
    assert float(decays[0]) < 1.0 == float(stays[0])
    assert optimizer.get_config()["no_decay"] == ("bias",)


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("given", [
    {"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_overwrite_frequency": 3},
], ids=str)  # fmt: skip
def test_what_keras_cannot_do_at_some_steps_of_a_strategy_is_refused(given):
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        optimizer, weight = training.AdamW(**given), keras.Variable([1.0])
        with pytest.raises(ValueError, match=f"Keras cannot use `{list(given)[-1]}` under a `tf"):
            optimizer.build([weight])
