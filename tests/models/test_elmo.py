"""Elmo beside NumPy, its state, and its language model.

B batch, T words, C characters, P projection_dim, U units, V vocab_size
"""

import functools

import elmo_oracles as oracles
import keras
import numpy as np
import pytest
from conformance import draw_weights
from keras import ops

from keras_xfmr import functional, layers, models, training

pytestmark = pytest.mark.portable

B, T, C, P, U, V = 3, 5, 7, 4, 6, 29
SIZES = dict(
    units=U, projection_dim=P, cell_clip=0.9, projection_clip=0.8, max_characters=C,
    character_dim=3, filters=[(1, 2), (3, 5)], num_highway=1,
)  # fmt: skip
LENGTHS = [5, 2, 0]
DIRECTIONS = ("forward", "backward")


def built(**options):
    return draw_weights(models.Elmo(**{**SIZES, **options}), scale=0.7)


def draw_words(model, seed=2):
    rng = np.random.default_rng(seed)
    if not model.of_characters:
        ids = rng.integers(4, V, (B, T))
        return np.where(np.arange(T) < np.array(LENGTHS)[:, None], ids, 0)
    ids = rng.integers(1, 262, (B, T, C))
    return np.where((np.arange(T) < np.array(LENGTHS)[:, None])[..., None], ids, 0)


def numpy_elmo(model, ids, skip, states=None):
    """All layers of rows whose words are in front, and the states; row by row."""
    def numbers(layer):
        return [ops.convert_to_numpy(w) for w in layer.weights]

    embedding = model.token_embedding
    if model.of_characters:
        markers = [[259, m, 260, 261, 261, 261, 261] for m in (257, 258)]
        cnn = (
            ops.convert_to_numpy(embedding.embeddings), list(map(numbers, embedding.convolutions)),
            list(map(numbers, embedding.highways)), numbers(embedding.projection),
        )  # fmt: skip
        def embed(words):
            return oracles.character_cnn(np.asarray(words)[None], *cnn)[0]
    else:
        markers = [2, 3]
        def embed(words):
            return numbers(embedding)[0][np.asarray(words)]
    depth = len(model.encoder_blocks)
    states = states or [[[(np.zeros(P), np.zeros(U))] * 2 for _ in range(depth)] for _ in range(B)]
    outputs = np.zeros((depth + 1, B, T, 2 * P))
    for b, length in enumerate(LENGTHS):
        x = embed([markers[0], *ids[b, :length], markers[1]])
        if length:
            outputs[0, b, :length] = np.concatenate([x, x], -1)[1:-1]
        both = [x, x[::-1]]
        for i, block in enumerate(model.encoder_blocks):
            after = []
            for d, lstm in enumerate((block.forward, block.backward)):
                weights = {w.name: ops.convert_to_numpy(w) for w in lstm.cell.weights}
                h, c = states[b][i][d]
                y, h, c = oracles.projected_lstm(
                    both[d][None], weights, h[None], c[None], cell_clip=0.9, projection_clip=0.8
                )
                both[d] = y[0] + both[d] if skip and i else y[0]
                after.append((h[0], c[0]))
            states[b][i] = after
            outputs[i + 1, b, :length] = np.concatenate([both[0], both[1][::-1]], -1)[1:-1]
    return outputs, states


@pytest.mark.parametrize("options", [
    dict(num_layers=3), dict(skip_connections=False), dict(vocab_size=V), dict(num_layers=0),
], ids=str)  # fmt: skip
def test_every_layer_is_the_formula_of_the_paper(options):
    model = built(**options)
    ids = draw_words(model)
    expected, _ = numpy_elmo(model, ids, options.get("skip_connections", True))
    shown = np.arange(T) < np.array(LENGTHS)[:, None]
    for i, (found, other) in enumerate(zip(model(ids), expected, strict=True)):
        found = ops.convert_to_numpy(found)
        np.testing.assert_allclose(found[shown], other[shown], rtol=1e-4, atol=1e-5)
        assert i == 0 or not found[~shown].any()


def test_a_state_goes_on_where_it_is_asked_for_and_only_there():
    model, states, state = built(), None, None
    for seed in (2, 3):
        ids = draw_words(model, seed)
        expected, states = numpy_elmo(model, ids, True, states)
        found, state = model.encode(ids, state)
        for one, other in zip(found[1:], expected[1:], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert np.abs(expected[1] - numpy_elmo(model, ids, True)[0][1]).max() > 0.01
    once, twice = model(ids), model(ids)
    for one, other in zip(once, twice):
        np.testing.assert_array_equal(one, other)


def test_a_state_that_does_not_fit_is_refused():
    model, other = built(vocab_size=V), built(vocab_size=V, num_layers=1)
    ids = np.array([[5, 7]])
    for state in (model.encode(ids)[1][:1], other.encode(ids)[1], "x"):
        with pytest.raises(ValueError, match="what an earlier `encode` returned.*Received: shapes"):
            model.encode(ids, state)
    with pytest.raises(ValueError, match="for the same number of rows"):
        model.encode(np.array([[5], [7]]), model.encode(ids)[1])


def test_rows_of_no_words_are_refused():
    with pytest.raises(ValueError, match="at least one position"):
        built(vocab_size=V)(np.zeros((2, 0), "int32"))
    with pytest.raises(ValueError, match="at least one position"):
        built()(np.zeros((2, 0, C), "int32"))


def test_a_word_moves_only_what_is_read_after_it():
    model = built(vocab_size=V)
    ids = np.array([[5, 7, 11, 13, 17]])
    changed = np.array([[5, 7, 23, 13, 17]])
    before, after = (ops.convert_to_numpy(model(x)[-1])[0] for x in (ids, changed))
    moved = np.abs(before - after) > 1e-6
    assert not moved[:2, :P].any() and not moved[3:, P:].any()
    assert moved[2:, :P].any(-1).all() and moved[:3, P:].any(-1).all()


def test_a_mask_may_hide_any_word():
    model = built(vocab_size=V)
    ids, mask = np.array([[5, 7, 11, 13, 17]]), np.array([[0, 1, 0, 1, 1]])
    found = model({"token_ids": ids, "attention_mask": mask})
    for one, other in zip(found[1:], model(ids[mask == 1][None])[1:], strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one)[mask == 1], other[0], rtol=1e-5)


def test_a_frozen_encoder_still_learns_its_mix():
    encoder = built(vocab_size=V)
    encoder.trainable = False
    model = models.Tagger(encoder, num_classes=3)
    names = [w.path.split("/")[0] for w in model.trainable_weights]
    assert sorted(set(names)) == ["classifier", "scalar_mix"]
    assert isinstance(model.scalar_mix, layers.ScalarMix)
    other = models.Classifier(encoder, num_classes=3)
    assert other.scalar_mix is not model.scalar_mix


@pytest.mark.requires_tensorflow
def test_data_sets_have_words_of_the_width_of_the_model():
    """Also where a step has been traced already, and takes words of any width."""
    import tensorflow as tf

    model = models.Classifier(built(), 2)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def data(width):
        return tf.data.Dataset.from_tensors((np.full((2, T, width), 26), np.zeros(2, "int64")))

    model.fit(data(C), verbose=0, shuffle=False)
    fit = functools.partial(model.fit, shuffle=False)
    for call in (fit, model.evaluate, model.predict):
        for width in (C - 1, C + 9):
            with pytest.raises(ValueError, match=rf"shape \[B, T, {C}\]. Received: .*{width}\)"):
                call(data(width), verbose=0)


def test_a_head_mixes_and_pools_words_alone():
    encoder = built(vocab_size=V, scalar_mix={"layer_norm": True})
    model = draw_weights(models.Classifier(encoder, num_classes=3, dropout_rate=0.0))
    ids = draw_words(encoder)
    mix = oracles.scalar_mix(
        [ops.convert_to_numpy(x) for x in encoder(ids)],
        ops.convert_to_numpy(model.scalar_mix.weight), float(model.scalar_mix.gamma), True,
    )  # fmt: skip
    kernel, bias = (ops.convert_to_numpy(w) for w in model.classifier.weights)
    for b, length in enumerate(LENGTHS):
        pooled = mix[b, :length].mean(0) if length else np.zeros(2 * P)
        np.testing.assert_allclose(model(ids)[b], pooled @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_masked_words_are_not_for_it():
    with pytest.raises(ValueError, match="ElmoLanguageModel"):
        models.MaskedLanguageModel(built(vocab_size=V))


@pytest.mark.parametrize("wrong, message", [
    (dict(filters=[(9, 2)]), "at least 9"), (dict(max_characters=2), "at least 3"),
    (dict(num_layers=-1), "num_layers"), (dict(cell_clip=-1.0), "cell_clip"),
    (dict(scalar_mix={"l2": -1.0}), "l2"), (dict(vocab_size=3), "end_id"),
], ids=str)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        models.Elmo(**{**SIZES, **wrong})


# ---- the language model


def language_model(**options):
    encoder = models.Elmo(**SIZES, vocab_size=V, dropout_rate=0.0)
    return models.ElmoLanguageModel(encoder, V, **options)


def stream(length, seed=5, rows=B):
    """Rows of words, what each direction reads, and what comes next."""
    words = np.random.default_rng(seed).integers(4, V, (rows, length + 1))
    turned = words[:, ::-1]
    inputs = {"token_ids": words[:, :-1], "reverse_token_ids": turned[:, :-1]}
    return inputs, {"forward": words[:, 1:].copy(), "backward": turned[:, 1:].copy()}


def compiled(model, optimizer="sgd", **options):
    model.compile(
        optimizer,
        loss={name: training.MaskedCrossEntropy(pad_id=-1) for name in DIRECTIONS},
        metrics={name: [training.MaskedPerplexity(pad_id=-1)] for name in DIRECTIONS},
        **options,
    )
    return model


def test_each_direction_reads_its_own_text_up_to_a_word():
    model = draw_weights(language_model())
    inputs, _ = stream(T)
    before = model(inputs)
    for name, moved in (("token_ids", "forward"), ("reverse_token_ids", "backward")):
        changed = {**inputs, name: np.where(np.arange(T) == 3, 9, inputs[name])}
        for direction, after in model(changed).items():
            same = ops.convert_to_numpy(after) == ops.convert_to_numpy(before[direction])
            assert same[:, :3].all()
            assert same[:, 3:].all() == (direction != moved)


def test_the_loss_is_the_mean_and_the_softmax_is_one():
    model = compiled(draw_weights(language_model()))
    inputs, labels = stream(T)
    found = model.evaluate(inputs, labels, return_dict=True, verbose=0)
    logits = {name: ops.convert_to_numpy(x) for name, x in model(inputs).items()}
    for name in DIRECTIONS:
        chosen = np.take_along_axis(oracles.softmax(logits[name]), labels[name][..., None], -1)
        np.testing.assert_allclose(found[f"{name}_loss"], -np.log(chosen).mean(), rtol=1e-5)
        np.testing.assert_allclose(
            found[f"{name}_perplexity"], np.exp(-np.log(chosen).mean()), rtol=1e-4
        )
    mean = (found["forward_loss"] + found["backward_loss"]) / 2
    np.testing.assert_allclose(found["loss"], mean, rtol=1e-6)
    assert [w.path for w in model.weights if "softmax" in w.path] == [
        "softmax/kernel", "softmax/bias"
    ]  # fmt: skip


def test_rows_go_on_in_the_next_batch_and_begin_anew_in_each_evaluation():
    model = compiled(draw_weights(language_model(state_rows=B)))
    inputs, labels = stream(3 * T)
    parts = [
        [{name: x[:, i : i + T] for name, x in one.items()} for one in (inputs, labels)]
        for i in range(0, 3 * T, T)
    ]
    whole = compiled(language_model())
    values = {w.path: ops.convert_to_numpy(w) for w in model.weights}
    for weight in whole.weights:
        weight.assign(values[weight.path])
    expected = whole.evaluate(inputs, labels, batch_size=B, return_dict=True, verbose=0)
    joined = [
        {name: np.concatenate([part[i][name] for part in parts]) for name in parts[0][i]}
        for i in range(2)
    ]
    for weight in model.state.weights:  # of training: it comes back
        weight.assign(ops.full(weight.shape, 0.25))
    for _ in range(2):
        found = model.evaluate(*joined, batch_size=B, return_dict=True, verbose=0)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
        assert all((ops.convert_to_numpy(w) == 0.25).all() for w in model.state.weights)
    stateless = whole.evaluate(*joined, batch_size=B, return_dict=True, verbose=0)
    assert abs(stateless["loss"] - expected["loss"]) > 1e-3


def test_the_states_of_cells_stay_float32_in_half_precision():
    encoder = models.Elmo(**SIZES, vocab_size=V, dtype="mixed_float16")
    model = draw_weights(models.ElmoLanguageModel(encoder, V, state_rows=B), scale=0.1)

    def cells():
        return [ops.convert_to_numpy(w) for w in model.state.weights if w.name.endswith("_c")]

    def is_half(array):
        return (array == array.astype("float16")).all()

    model(stream(T)[0])
    assert len(cells()) == 4 and not any(map(is_half, cells()))
    # A row of padding alone keeps its state.
    c = np.random.default_rng(7).normal(size=(B, U)).astype("float32")
    x, hidden = ops.zeros((B, T, P), "float16"), ops.zeros((B, T), "bool")
    before = ((ops.zeros((B, P)), c),) * 2
    *_, after = encoder.encoder_blocks[0](x, x, masks=(hidden, hidden), initial_state=before)
    for _, found in after:
        np.testing.assert_array_equal(found, c)


def test_rows_of_another_number_are_refused():
    model = compiled(language_model(state_rows=2))
    inputs, labels = stream(T)  # 3 rows
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="state_rows=2 rows. Pass .* Received: 1"):
            call(inputs, labels, 2)
        with pytest.raises(ValueError, match="Received: 3"):
            call(inputs, labels)
    with pytest.raises(ValueError, match="must have state_rows=2 rows. Received: 3"):
        model(inputs)
    six, labels = stream(T, rows=6)
    five = {name: ids[:5] for name, ids in six.items()}
    for validation in (dict(validation_data=(five, labels)), dict(validation_split=0.4)):
        with pytest.raises(ValueError, match="state_rows=2 rows. Pass .* Received: 1"):
            model.fit(six, labels, 2, **validation)


def test_one_row_is_not_broadcast_to_all():
    """Also where a graph does not know the number of rows."""
    model = compiled(draw_weights(language_model(state_rows=B)))
    inputs, _ = stream(T)
    one = {name: ids[:1] for name, ids in inputs.items()}

    class Batches(keras.utils.PyDataset):
        num_batches = 2

        def __getitem__(self, index):
            return (one if index else inputs,)

    for predict in (lambda: model.predict(Batches()), lambda: model.predict_on_batch(one)):
        with pytest.raises(ValueError, match=f"state_rows={B} rows. Pass .* Received: 1"):
            predict()
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        kinds = {name: tf.TensorSpec((None, None), "int64") for name in inputs}
        read = tf.function(lambda ids: model(ids)["forward"], input_signature=[kinds])
        assert read({name: ids.astype("int64") for name, ids in inputs.items()}).shape == (B, T, V)
        with pytest.raises(tf.errors.InvalidArgumentError):
            read({name: ids.astype("int64") for name, ids in one.items()})


@pytest.mark.requires_tensorflow
def test_a_data_set_has_batches_of_one_size():
    import tensorflow as tf

    model = compiled(language_model(state_rows=2))
    data = tf.data.Dataset.from_tensor_slices(stream(T))
    with pytest.raises(ValueError, match="drop_remainder=True.*Received: no fixed number"):
        model.fit(data.batch(2))
    with pytest.raises(ValueError, match="Received: 3"):
        model.evaluate(data.batch(3, drop_remainder=True))


@pytest.mark.slow
def test_a_prediction_begins_with_zeros_and_leaves_the_state():
    model = compiled(draw_weights(language_model(state_rows=B)))
    inputs, labels = stream(T)
    before = [ops.convert_to_numpy(w) for w in model.state.weights]
    once, twice = (model.predict(inputs, batch_size=B, verbose=0) for _ in range(2))
    np.testing.assert_array_equal(once["forward"], twice["forward"])
    for one, other in zip(model.state.weights, before):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), other)
    with pytest.raises(ValueError, match="must not be shuffled"):
        model.fit(inputs, labels, batch_size=B, shuffle=True)
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    model.fit(inputs, labels, B, 1, 0, [callback])  # by their places
    assert seen == [0]


class Contiguous:
    """Data with `seek` and `dataset`, as `BackupAndRestore` takes it."""

    def __init__(self):
        self.place = (0, 0)

    def seek(self, epoch, batch=0):
        self.place = epoch, batch

    def dataset(self):
        import tensorflow as tf

        def batches():
            (epoch, first), self.place = self.place, (self.place[0] + 1, 0)
            for i in range(first, 4):
                yield stream(T, seed=11 * epoch + i)

        spec = tf.TensorSpec((B, T), tf.int64)
        signature = (
            {"token_ids": spec, "reverse_token_ids": spec}, {name: spec for name in DIRECTIONS}
        )  # fmt: skip
        data = tf.data.Dataset.from_generator(batches, output_signature=signature)
        return data.apply(tf.data.experimental.assert_cardinality(4 - self.place[1]))


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_killed_run_goes_on_with_its_state(tmp_path):
    found = []
    for killed in (False, True):
        for stop in ([Stop()], []) if killed else ([],):
            keras.utils.set_random_seed(3)
            model = compiled(language_model(state_rows=B), keras.optimizers.SGD(0.5))
            data = Contiguous()
            backup = training.BackupAndRestore(
                tmp_path / str(killed), save_freq=1, data=data, delete_checkpoint=False
            )
            try:
                model.fit(
                    data.dataset(), epochs=2, verbose=0, shuffle=False, callbacks=[backup, *stop]
                )
            except KeyboardInterrupt:
                assert any(ops.convert_to_numpy(w).any() for w in model.state.weights)
        assert not any(ops.convert_to_numpy(w).any() for w in model.state.weights)
        found.append(model.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- a sampled softmax


def test_a_sample_has_the_frequencies_of_zipf():
    drawn = ops.convert_to_numpy(functional.log_uniform(50_000, 7, seed=3))
    k = np.arange(7)
    expected = np.log((k + 2) / (k + 1)) / np.log(8)
    np.testing.assert_allclose(np.bincount(drawn, minlength=7) / 50_000, expected, atol=0.01)


def test_the_loss_over_a_large_sample_is_that_over_all_words():
    rng = np.random.default_rng(3)
    x, kernel, bias = rng.normal(size=(2, T, P)), rng.normal(size=(P, V)), rng.normal(size=V)
    labels = rng.integers(V, size=(2, T))
    drawn = functional.log_uniform(100_000, V, seed=3)
    logits = functional.sampled_logits(x, labels, drawn, kernel, bias)
    logits = ops.convert_to_numpy(logits).astype("float64")
    found = np.log(np.exp(logits).sum(-1)) - logits[..., 0]
    whole = x @ kernel + bias
    chosen = np.take_along_axis(whole, labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(found, np.log(np.exp(whole).sum(-1)) - chosen, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_samples_and_evaluation_does_not(jit):
    model = compiled(language_model(num_sampled=5), jit_compile=jit)
    inputs, labels = stream(T)
    labels["forward"][:, 3:] = -1
    history = model.fit(
        inputs, labels, verbose=0, epochs=2, validation_data=(inputs, labels)
    ).history
    losses = {"loss", "forward_loss", "backward_loss"}
    assert {name for name in history if not name.startswith("val_")} == losses
    assert "val_forward_perplexity" in history and np.isfinite(history["loss"]).all()
    assert model(inputs)["forward"].shape == (B, T, V)
    assert model(inputs, training=True)["forward"].shape == (B, T, P)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["eager", "generator", "reloaded"])
def test_a_sampled_model_trains_wherever_its_metrics_are_not_built(how, tmp_path):
    eager = dict(run_eagerly=True, jit_compile=False) if how == "eager" else {}
    model = compiled(language_model(num_sampled=5), **eager)
    inputs, labels = stream(T)
    if how == "reloaded":
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    data, options = (inputs, labels), {}
    if how == "generator":
        data, options = [((inputs, labels) for _ in range(9))], dict(steps_per_epoch=2)
    history = model.fit(*data, shuffle=False, verbose=0, **options).history
    assert set(history) == {"loss", "forward_loss", "backward_loss"}


@pytest.mark.parametrize("kind", ["one", "list", "dictionary"])
def test_the_loss_is_the_mean_however_it_is_given(kind):
    model = draw_weights(language_model())
    loss = training.MaskedCrossEntropy(pad_id=-1)
    given = {"one": loss, "list": [loss] * 2, "dictionary": dict.fromkeys(DIRECTIONS, loss)}[kind]
    model.compile("sgd", given)
    found = model.evaluate(*stream(T), return_dict=True, verbose=0)
    mean = (found["forward_loss"] + found["backward_loss"]) / 2
    np.testing.assert_allclose(found["loss"], mean, rtol=1e-6)


def test_a_language_model_is_over_an_elmo():
    with pytest.raises(TypeError, match="must be a keras_xfmr.models.Elmo. Received: 3"):
        models.ElmoLanguageModel(3, V)
    with pytest.raises(ValueError, match="`num_sampled` must be an integer in 1 .. 28"):
        language_model(num_sampled=V)
