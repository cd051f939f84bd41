"""Losses, metrics and schedules against their formulas.

B 3, T 5, V 11
"""

import json
import types

import keras
import numpy as np
import oracles
import pytest

from keras_xfmr import training

pytestmark = pytest.mark.portable

LABELS = np.array([[4, 10, 1, 0, 0], [7, 7, 2, 3, 5], [0, 0, 0, 0, 0]])
PAD = 0


@pytest.fixture
def logits(rng):
    return rng.normal(size=(3, 5, 11)).astype("float32") * 3


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def token_losses(labels, logits, smoothing=0.0):
    """[B, T], by the definition: the cross-entropy with the smoothed distribution."""
    smooth = (1 - smoothing) * np.eye(11)[labels] + smoothing / 11
    return -(smooth * np.log(softmax(logits.astype("float64")))).sum(-1)


class Table(keras.layers.Layer):
    """Logits that are its weight, for a step of gradient descent to change."""

    def build(self, input_shape):
        self.table = self.add_weight(shape=(3, 5, 11), initializer="zeros", name="table")

    def call(self, inputs):
        return self.table + 0.0 * inputs[:, :, None]


@pytest.mark.parametrize("name, better", [("accuracy", 0.75), ("perplexity", 0.25)])
def test_keras_callbacks_know_which_way_a_metric_is_better(name, better):
    metrics = [training.MaskedAccuracy(), training.MaskedPerplexity()]
    model = keras.Sequential([keras.Input(batch_shape=(3, 5)), Table()])
    model.compile("sgd", training.MaskedCrossEntropy(), metrics=metrics, jit_compile=False)
    model.train_on_batch(np.zeros((3, 5), "float32"), LABELS)
    callback = keras.callbacks.EarlyStopping(f"val_{name}", patience=9)
    callback.set_model(model)
    callback.on_train_begin()
    for value in (0.5, better, 0.5):
        callback.on_epoch_end(0, {f"val_{name}": value})
    assert callback.best == better


def gradient(loss, labels, logits, sample_weight=None):
    """What one step of gradient descent with the rate 1 takes off."""
    model = keras.Sequential([keras.Input(batch_shape=(3, 5)), Table()])
    model.set_weights([logits])
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=False)
    zeros = np.zeros((3, 5), "float32")
    model.train_on_batch(zeros, labels, sample_weight=sample_weight)
    return logits - model.get_weights()[0]


# ---- cross-entropy


@pytest.mark.parametrize("pad_id", [0, 7])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.97])
def test_the_loss_is_the_mean_over_targets(smoothing, pad_id, logits):
    loss = training.MaskedCrossEntropy(smoothing, pad_id=pad_id)
    expected = oracles.label_smoothed_cross_entropy(LABELS, logits, smoothing, pad_id)
    np.testing.assert_allclose(loss(LABELS, logits), expected, rtol=1e-6)


def test_large_logits_stay_finite(logits):
    loss = training.MaskedCrossEntropy(0.1)
    expected = oracles.label_smoothed_cross_entropy(LABELS, logits * 1e4, 0.1)
    np.testing.assert_allclose(loss(LABELS, logits * 1e4), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (3, 1), (3,), (3, 5, 1)])
def test_sample_weights_make_it_a_weighted_mean(shape, logits, rng):
    given = rng.uniform(0.1, 3.0, shape).astype("float32")
    weight = np.broadcast_to(given.reshape(3, -1), (3, 5)) * (LABELS != PAD)
    expected = (token_losses(LABELS, logits, 0.1) * weight).sum() / weight.sum()
    loss = training.MaskedCrossEntropy(0.1)
    np.testing.assert_allclose(loss(LABELS, logits, given), expected, rtol=1e-6)
    found = gradient(loss, LABELS, logits, given)
    smooth = 0.9 * np.eye(11)[LABELS] + 0.1 / 11
    formula = (softmax(logits) - smooth) * (weight / weight.sum())[..., None]
    np.testing.assert_allclose(found, formula, atol=1e-6)


@pytest.mark.parametrize("by_class", [False, True])
def test_class_weights_count_tokens_by_their_labels(by_class, logits, rng):
    weights = rng.uniform(0.1, 3.0, 11).tolist()
    given = weights
    if by_class:
        weights[::2] = [1.0] * 6
        given = dict(enumerate(weights[1::2]))
        given = {2 * place + 1: weight for place, weight in given.items()}
    weight = np.array(weights)[LABELS] * (LABELS != PAD)
    expected = (token_losses(LABELS, logits, 0.1) * weight).sum() / weight.sum()
    loss = training.MaskedCrossEntropy(0.1, class_weights=given)
    np.testing.assert_allclose(loss(LABELS, logits), expected, rtol=1e-6)
    config = json.loads(json.dumps(keras.losses.serialize(loss)))
    again = keras.losses.deserialize(config)
    np.testing.assert_allclose(again(LABELS, logits), expected, rtol=1e-6)


def test_class_weights_may_be_any_mapping():
    given = types.MappingProxyType({2: 3})
    assert training.MaskedCrossEntropy(class_weights=given).class_weights == {2: 3.0}


@pytest.mark.parametrize("given, message", [
    ([1.0] * 10, "must be 11 numbers.*Received: 10 weights"),
    ({11: 2.0}, "classes below 11. Received: a weight of class 11"),
    ([1.0, -1.0], "must be numbers, not negative"),
    ({-1: 1.0}, "must be numbers, not negative"),
    ([], "must be numbers, not negative"),
    ("balanced", "must be numbers, not negative.*Received: 'balanced'"),
    ("12", "must be numbers, not negative"),
    (0.5, "must be numbers, not negative.*Received: 0.5"),
    ({1.0, 2.0}, "must be numbers, not negative"),
    ([[1.0] * 11], "must be numbers, not negative"),
    ({"a": 1.0}, "must be numbers, not negative"),
    ({1.5: 1.0}, "must be numbers, not negative"),
])  # fmt: skip
def test_class_weights_that_do_not_fit_are_refused(given, message, logits):
    with pytest.raises(ValueError, match=message):
        training.MaskedCrossEntropy(class_weights=given)(LABELS, logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_is_that_of_finite_differences(smoothing, logits):
    found = gradient(training.MaskedCrossEntropy(smoothing), LABELS, logits)
    exact, step = logits.astype("float64"), 1e-4
    for place in [(0, 0, 4), (0, 1, 0), (0, 3, 2), (1, 1, 7), (1, 4, 10), (2, 0, 0)]:
        sides = []
        for sign in (1, -1):
            exact[place] += sign * step
            sides.append(oracles.label_smoothed_cross_entropy(LABELS, exact, smoothing))
            exact[place] -= sign * step
        # Central differences are exact to step^2; float32 weights to half an ulp of 8.
        assert abs((sides[0] - sides[1]) / (2 * step) - found[place]) < 1e-6
    assert not found[2].any() and not found[0, 3:].any()  # padding


def test_a_batch_of_padding_has_no_loss_and_no_gradient(logits):
    loss = training.MaskedCrossEntropy(0.1)
    padding = np.zeros((3, 5), "int32")
    assert float(loss(padding, logits)) == 0.0
    np.testing.assert_array_equal(gradient(loss, padding, logits), 0.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_logits_are_computed_in_float32(dtype, logits):
    half = keras.ops.cast(logits, dtype)
    rounded = keras.ops.convert_to_numpy(keras.ops.cast(half, "float32"))
    found = training.MaskedCrossEntropy(0.1)(LABELS, half)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected = oracles.label_smoothed_cross_entropy(LABELS, rounded, 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("floatx", ["bfloat16", "float16"])
def test_labels_keep_their_value_whatever_the_default_precision(floatx, rng):
    # bfloat16 has no 257; a float16 sum of 4099 losses of 7 would overflow.
    logits = rng.normal(size=(4099, 1, 521)).astype("float32")
    labels = np.full((4099, 1), 257)
    expected = oracles.label_smoothed_cross_entropy(labels, logits)
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        found = float(training.MaskedCrossEntropy()(labels, logits))
    finally:
        keras.config.set_floatx(before)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_loss_comes_back_from_its_config():
    loss = training.MaskedCrossEntropy(0.1, pad_id=7, name="n")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, training.MaskedCrossEntropy)
    assert again.get_config() == loss.get_config()
    assert (again.label_smoothing, again.pad_id, again.name) == (0.1, 7, "n")


@pytest.mark.parametrize("smoothing", [1.0, -0.1, 1.5])
def test_a_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=rf"must lie in \[0, 1\). Received: {smoothing}"):
        training.MaskedCrossEntropy(smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("label", [-1, 11])
def test_a_label_outside_the_classes_is_an_error_or_no_number(smoothing, label, logits):
    loss = training.MaskedCrossEntropy(smoothing, pad_id=PAD)
    labels = LABELS.copy()
    labels[0, 0] = label
    with pytest.raises(ValueError, match=r"in 0 .. 10, or be pad_id.*labels from"):
        loss(labels, logits)

    class Given(keras.layers.Layer):  # values are not known while it is traced
        def call(self, labels):
            return loss(labels, keras.ops.convert_to_tensor(logits))

    inputs = keras.Input(batch_shape=LABELS.shape, dtype="int32")
    model = keras.Model(inputs, Given()(inputs))
    model.compile(jit_compile=True)
    assert np.isnan(model.predict_on_batch(labels)).all()
    assert np.isfinite(model.predict_on_batch(LABELS)).all()


# ---- metrics


@pytest.mark.parametrize("pad_id", [0, 7])
def test_accuracy_counts_targets_over_all_batches(pad_id, logits):
    metric = training.MaskedAccuracy(pad_id=pad_id)
    hits, total = 0, 0
    for shift in (0, 1):
        scores = logits.copy()
        scores[1, 2 + shift, LABELS[1, 2 + shift]] += 99.0
        metric.update_state(LABELS, scores)
        kept = pad_id != LABELS
        hits += (scores.argmax(-1) == LABELS)[kept].sum()
        total += kept.sum()
        assert 0 < hits < total
        np.testing.assert_allclose(metric.result(), hits / total, rtol=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_accuracy_takes_sample_weights_and_half_precision(logits):
    weight = np.array([1.0, 3.0, 5.0], "float32")
    scores = logits.copy()
    scores[0, 0, 4] = scores[1, 4, 5] = 99.0
    hits = (scores.argmax(-1) == LABELS) * (LABELS != PAD) * weight[:, None]
    expected = hits.sum() / ((LABELS != PAD) * weight[:, None]).sum()
    metric = training.MaskedAccuracy()
    found = metric(LABELS, keras.ops.cast(scores, "bfloat16"), sample_weight=weight)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    again = keras.metrics.deserialize(keras.metrics.serialize(training.MaskedAccuracy(pad_id=7)))
    assert (type(again), again.pad_id) == (training.MaskedAccuracy, 7)


@pytest.mark.parametrize("pad_id", [0, 7])
def test_perplexity_is_the_exponential_of_the_mean_over_all_targets(pad_id, logits):
    metric, losses, weights = training.MaskedPerplexity(pad_id=pad_id), [], []
    for labels, weight in (
        (LABELS, None),
        (np.where(LABELS > 3, LABELS, pad_id), np.array([1.0, 3.0, 5.0], "float32")),
    ):
        metric.update_state(labels, logits, sample_weight=weight)
        losses.append(token_losses(labels, logits))
        weights.append((labels != pad_id) * (1.0 if weight is None else weight[:, None]))
    expected = np.exp(np.average(losses, weights=weights))
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)
    assert metric.name == "perplexity"
    again = keras.metrics.deserialize(keras.metrics.serialize(training.MaskedPerplexity(pad_id=7)))
    assert (type(again), again.pad_id) == (training.MaskedPerplexity, 7)


# ---- schedules


@pytest.mark.parametrize("warmup", [1, 7, 4000])
def test_the_inverse_square_root_schedule_is_the_papers(warmup):
    schedule = training.InverseSqrtSchedule(23, warmup, scale=2.0)
    for step in (1, 2, 6, 7, 8, 3999, 4000, 4001, 10**6):
        expected = 2 * oracles.inverse_sqrt_schedule(step, 23, warmup)
        np.testing.assert_allclose(schedule(step - 1), expected, rtol=1e-6)


@pytest.mark.parametrize("warmup, total", [(0, 5), (7, 23), (22, 23)])
def test_the_linear_schedule_rises_and_falls_to_zero(warmup, total):
    schedule = training.LinearWarmupDecay(3.0, warmup, total)
    for step in (1, 2, 6, 7, 8, 22, 23, 24, 10**6):
        expected = oracles.linear_warmup_decay(step, 3.0, warmup, total)
        np.testing.assert_allclose(schedule(step - 1), expected, rtol=1e-6, atol=0)


def test_schedules_come_back_from_their_configs():
    schedules = keras.optimizers.schedules
    for schedule in (
        training.InverseSqrtSchedule(23, 7, scale=2.0),
        training.LinearWarmupDecay(3.0, 7, 23),
    ):
        again = schedules.deserialize(schedules.serialize(schedule))
        assert type(again) is type(schedule) and again.get_config() == schedule.get_config()
        assert [float(again(step)) for step in (2, 11)] == [float(schedule(2)), float(schedule(11))]
        optimizer = keras.optimizers.SGD(schedule)
        assert float(optimizer.learning_rate) == float(schedule(0))


def test_steps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`warmup_steps` must be at least 1. Received: 0"):
        training.InverseSqrtSchedule(23, 0)
    with pytest.raises(ValueError, match="`d_model` must be at least 1. Received: -5"):
        training.InverseSqrtSchedule(-5)
    with pytest.raises(ValueError, match="`scale` must not be negative. Received: -1.0"):
        training.InverseSqrtSchedule(23, 7, scale=-1.0)
    with pytest.raises(ValueError, match="`peak` must not be negative. Received: nan"):
        training.LinearWarmupDecay(float("nan"), 0, 10)
    for warmup, total in ((5, 5), (7, 5), (-1, 5)):
        with pytest.raises(ValueError, match=f"warmup_steps={warmup}, total_steps={total}"):
            training.LinearWarmupDecay(1.0, warmup, total)


@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (3,), (2, 3, 1)])
@pytest.mark.parametrize("make", [
    training.MaskedCrossEntropy,
    lambda: training.MaskedCrossEntropy(0.1),
    training.MaskedAccuracy,
    training.MaskedPerplexity,
])  # fmt: skip
def test_labels_of_another_shape_do_not_broadcast(make, shape):
    with pytest.raises(ValueError, match=r"labels of shape .*logits of shape \(2, 3, 5\)"):
        make()(np.ones(shape, "int32"), np.zeros((2, 3, 5), "float32"))


@pytest.mark.parametrize("metric, peer", [
    (training.MaskedAccuracy, keras.metrics.SparseCategoricalAccuracy),
    (training.MaskedPerplexity, keras.metrics.SparseCategoricalCrossentropy),
])  # fmt: skip
def test_what_an_implicit_mask_hides_does_not_count(metric, peer, logits):
    """As Keras' own metrics and every loss have it."""
    right = np.eye(11)[LABELS] * np.array([1, 0, 1, 0, 1])[:, None]
    logits = (logits + 20 * right).astype("float32")

    class Logits(keras.layers.Layer):
        def call(self, ids):
            return keras.ops.where(ids[..., None] < 2, logits, 0.0)

        def compute_mask(self, ids, mask=None):
            return keras.ops.not_equal(ids, 0)

    ids = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    options = {"from_logits": True} if metric is training.MaskedPerplexity else {}
    masked = Logits()(ids)
    found, expected = metric(pad_id=-1)(LABELS, masked), peer(**options)(LABELS, masked)
    expected = np.exp(expected) if options else expected
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.isclose(found, metric(pad_id=-1)(LABELS, logits))


def test_lists_are_taken_as_keras_takes_them():
    logits = [[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]
    for made in (training.MaskedCrossEntropy(), training.MaskedAccuracy()):
        found = made([[1, 0]], logits)
        np.testing.assert_allclose(found, made(np.array([[1, 0]]), np.array(logits)), rtol=1e-6)


@pytest.mark.parametrize("make", [training.MaskedCrossEntropy, training.MaskedAccuracy])
@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 2), (2,), (1, 3, 3)])
def test_weights_of_another_shape_do_not_broadcast(make, shape, rng):
    labels, logits = rng.integers(1, 11, (3, 3)), rng.normal(size=(3, 3, 11)).astype("float32")
    with pytest.raises(ValueError, match="`sample_weight` must have the shape .*Received: weights"):
        make()(labels, logits, np.ones(shape, "float32"))


def test_a_weight_for_each_of_as_many_tokens_as_rows(rng):
    labels, logits = rng.integers(1, 11, (3, 3)), rng.normal(size=(3, 3, 11)).astype("float32")
    weight = rng.uniform(size=(3, 3)).astype("float32")
    loss = training.MaskedCrossEntropy()
    expected = (token_losses(labels, logits, 0.0) * weight).sum() / weight.sum()
    np.testing.assert_allclose(loss(labels, logits, weight[..., None]), expected, rtol=1e-6)


@pytest.mark.parametrize("make, message", [
    (lambda: training.MaskedCrossEntropy(label_smooth=0.1), "label_smooth is label_smoothing here"),
    (lambda: training.MaskedCrossEntropy(ignore_index=0), "label_smoothing, pad_id, class_weights"),
    (lambda: training.GlobalMean(keras.losses.Poisson(), reduce="sum"), "loss, reduction"),
    (lambda: training.MaskedAccuracy(padding_id=1), "takes the arguments pad_id, name, dtype"),
    (lambda: training.MaskedPerplexity(padding_id=1), "takes the arguments pad_id, name, dtype"),
    (lambda: training.AdamW(weight_decay_rate=0.1), "weight_decay_rate is weight_decay here"),
])  # fmt: skip
def test_an_unknown_argument_is_refused_with_those_that_there_are(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_subclass_may_hand_on_arguments_that_it_does_not_take():
    class Sum(training.MaskedCrossEntropy):
        def __init__(self):
            super().__init__(reduction="sum")

    assert Sum().reduction == "sum"
