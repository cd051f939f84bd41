"""BERT: shapes, inputs, published sizes, what is trained, errors.

Sizes are distinct primes where they may be: B 2, T 7, D 12 (4 heads of 3), F 13, V 31.
"""

import gc
import weakref

import keras
import numpy as np
import pytest

from keras_xfmr import models, training

pytestmark = pytest.mark.portable

SIZES = dict(d_model=12, num_heads=4, ffn_dim=13, num_layers=2, max_length=11)


def make_bert(**overrides):
    keras.utils.set_random_seed(3)
    return models.Bert(31, **{**SIZES, **overrides})


def make_ids(rows=2, length=7, seed=0):
    return np.random.default_rng(seed).integers(5, 31, (rows, length)).astype("int32")


def numpy_of(outputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def test_gives_every_position_and_the_pooled_vector():
    sequence, pooled = make_bert()(make_ids())
    assert tuple(sequence.shape) == (2, 7, 12) and tuple(pooled.shape) == (2, 12)


def test_one_dropout_rate_is_the_heads_and_the_encoders():
    sizes = dict(vocab_size=11, max_length=7)
    model = models.BertClassifier.from_preset("tiny", dropout_rate=0.3, num_classes=3, **sizes)
    assert (model.dropout.rate, model.bert.dropout_rate, model.num_classes) == (0.3, 0.3, 3)


@pytest.mark.parametrize(
    "preset, parameters",  # google-research/bert: 4.4 M, 11.3 M, 29.1 M, 41.7 M, 110 M
    [("tiny", 4_385_920), ("mini", 11_170_560), ("small", 28_763_648), ("medium", 41_373_184)],
)
def test_presets_have_the_published_number_of_weights(preset, parameters):
    assert models.Bert.from_preset(preset).count_params() == parameters


def test_embeddings_are_summed_and_normalized():
    """An encoder of no blocks is the sum of three tables, normalized."""
    bert, ids = make_bert(num_layers=0, pooler=False), make_ids()
    segments = np.array([[0, 0, 0, 1, 1, 1, 1]] * 2, "int32")
    tables = [bert.token_embedding, bert.position_embedding, bert.segment_embedding]
    token, position, segment = (keras.ops.convert_to_numpy(t.embeddings) for t in tables)
    x = token[ids] + position[:7] + segment[segments]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    found = bert({"token_ids": ids, "segment_ids": segments})[0]
    np.testing.assert_allclose(numpy_of(found), x, rtol=1e-5, atol=1e-5)


def test_default_segments_are_zeros_and_default_mask_hides_padding():
    bert, ids = make_bert(), make_ids()
    ids[0, 5:] = 0
    given = {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "attention_mask": (ids != 0).astype("int32"),
    }
    for a, b in zip(numpy_of(bert(ids)), numpy_of(bert(given))):
        np.testing.assert_array_equal(a, b)


def test_more_padding_changes_nothing_with_another_padding_id():
    bert, ids = make_bert(pad_token_id=1), make_ids()
    padded = np.concatenate([ids, np.ones((2, 3), "int32")], axis=1)
    expected, found = numpy_of(bert(ids)), numpy_of(bert(padded))
    np.testing.assert_allclose(found[0][:, :7], expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-5)


def test_id_0_is_a_word_where_the_padding_is_another():
    bert, ids = make_bert(pad_token_id=1), make_ids()
    ids[:, 4] = 0
    other = ids.copy()
    other[:, 4] = 9
    assert not np.allclose(numpy_of(bert(ids))[0][:, 0], numpy_of(bert(other))[0][:, 0])


def test_a_mask_of_zeros_only_gives_finite_vectors():
    inputs = {"token_ids": make_ids(), "attention_mask": np.zeros((2, 7), "int32")}
    assert all(np.isfinite(x).all() for x in numpy_of(make_bert()(inputs)))


def test_survives_a_keras_file(tmp_path):
    bert = make_bert(hidden_act="gelu_new", layer_norm_eps=1e-5)
    bert.save(tmp_path / "bert.keras")
    loaded = keras.saving.load_model(tmp_path / "bert.keras")
    assert loaded.get_config() == bert.get_config()
    for a, b in zip(numpy_of(bert(make_ids())), numpy_of(loaded(make_ids()))):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "make, shapes",
    [
        (lambda b: models.BertClassifier(b, 3), (2, 3)),
        (lambda b: models.BertTokenClassifier(b, 5), (2, 7, 5)),
        (models.BertSpanPredictor, {"start": (2, 7), "end": (2, 7)}),
        (models.BertEmbedder, (2, 12)),
        (lambda b: models.BertEmbedder(b, pooling="cls", normalize=False), (2, 12)),
    ],
)
def test_heads_answer_and_survive_a_keras_file(make, shapes, tmp_path):
    model, ids = make(make_bert()), make_ids()
    expected = numpy_of(model(ids))
    found = keras.tree.map_structure(lambda x: x.shape, expected)
    assert found == shapes
    model.save(tmp_path / "head.keras")
    loaded = numpy_of(keras.saving.load_model(tmp_path / "head.keras")(ids))
    keras.tree.map_structure(np.testing.assert_array_equal, loaded, expected)


def test_pretrainer_predicts_at_the_masked_positions_only():
    model = models.BertPretrainer(make_bert())
    positions = np.array([[1, 3], [0, 6]], "int32")
    every = np.tile(np.arange(7, dtype="int32"), (2, 1))
    some = model({"token_ids": make_ids(), "masked_positions": positions})
    full = model({"token_ids": make_ids(), "masked_positions": every})
    assert some["mlm"].shape == (2, 2, 31) and some["nsp"].shape == (2, 2)
    picked = np.take_along_axis(numpy_of(full["mlm"]), positions[..., None], axis=1)
    np.testing.assert_allclose(numpy_of(some["mlm"]), picked, rtol=1e-5, atol=1e-6)


def test_pretraining_is_one_loss_of_two_and_learns():
    model = models.BertPretrainer(make_bert(dropout_rate=0.0, attention_dropout_rate=0.0))
    model.compile(
        training.AdamW(1e-2),
        loss={
            "mlm": training.MaskedCrossEntropy(),
            "nsp": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        },
        metrics={"mlm": training.MaskedAccuracy(name="accuracy"), "nsp": "accuracy"},
    )
    inputs = {"token_ids": make_ids(6), "masked_positions": np.tile([[1, 4]], (6, 1))}
    labels = {"mlm": make_ids(6)[:, [1, 4]], "nsp": np.array([0, 1] * 3)}
    logs = model.fit(inputs, labels, epochs=25, verbose=0, shuffle=False).history
    total, parts = logs["loss"], np.add(logs["mlm_loss"], logs["nsp_loss"])
    np.testing.assert_allclose(total, parts, rtol=1e-5)
    assert logs["mlm_loss"][-1] < 0.5 * logs["mlm_loss"][0]
    assert logs["nsp_loss"][-1] < 0.5 * logs["nsp_loss"][0]
    assert {"mlm_accuracy", "nsp_accuracy"} <= set(logs)


def test_without_next_sentences_there_is_one_output():
    model = models.BertPretrainer(make_bert(), next_sentence=False)
    outputs = model({"token_ids": make_ids(), "masked_positions": np.array([[1], [2]])})
    assert set(outputs) == {"mlm"}
    assert not model.bert.pooler.trainable


# ---- training a part


def test_frozen_blocks_stay():
    model = models.BertClassifier(make_bert(), 2)
    model.bert.freeze(1)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = {w.path: numpy_of(w) for w in model.weights}
    model.fit(make_ids(4), np.array([0, 1, 0, 1]), verbose=0)
    moved = {w.path for w in model.weights if not np.array_equal(numpy_of(w), before[w.path])}
    assert any("encoder_1" in path for path in moved)
    assert not any("encoder_0" in path or "embedding" in path for path in moved)


def test_learning_rate_factors_fall_towards_the_embeddings():
    bert = make_bert()
    factors = bert.layer_learning_rates(0.5)
    assert factors["encoder_1"] == 0.5 and factors["encoder_0"] == 0.25
    assert factors["token_embedding"] == 0.125
    model = models.BertClassifier(bert, 2, dropout_rate=0.0)
    optimizer = training.AdamW(0.1, weight_decay=0.0, epsilon=1e-20, learning_rate_factors=factors)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = {w.path: numpy_of(w) for w in model.trainable_weights}
    model.fit(make_ids(4), np.array([0, 1, 0, 1]), verbose=0)
    # The first step of Adam is the learning rate, whatever the gradient.
    steps = {w.path: np.abs(numpy_of(w) - before[w.path]).max() for w in model.trainable_weights}
    for layer, factor in (("encoder_1/feed_forward/", 0.5), ("encoder_0/feed_forward/", 0.25)):
        path = next(p for p in steps if layer in p and "kernel" in p)
        np.testing.assert_allclose(steps[path], 0.1 * factor, rtol=1e-2)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.learning_rate_factors == factors


def train_a_little(model):
    model.compile(
        keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(make_ids(4), np.array([0, 1, 0, 1]), epochs=5, verbose=0)


def test_low_rank_updates_train_alone_and_are_merged_on_save(tmp_path):
    model = models.BertClassifier(make_bert(), 2, dropout_rate=0.0)
    model.bert.enable_lora(2)
    assert all("lora" in w.path or "classifier" in w.path for w in model.trainable_weights)
    before = numpy_of(model(make_ids()))
    train_a_little(model)
    expected = numpy_of(model(make_ids()))
    assert not np.allclose(expected, before)
    model.save(tmp_path / "merged.keras")
    loaded = keras.saving.load_model(tmp_path / "merged.keras")
    np.testing.assert_allclose(numpy_of(loaded(make_ids())), expected, rtol=1e-5, atol=1e-6)
    updates = [w for w in loaded.trainable_weights if "lora" in w.path]
    assert len(updates) == 8 and not any(numpy_of(w).any() for w in updates)


def test_what_is_frozen_stays_so_in_a_file(tmp_path):
    model = models.BertClassifier(make_bert(), 2)
    model.bert.freeze(1)
    train_a_little(model)
    model.save(tmp_path / "frozen.keras")
    loaded = keras.saving.load_model(tmp_path / "frozen.keras")
    assert len(loaded.trainable_weights) == len(model.trainable_weights) < len(model.weights)


def test_a_low_rank_update_of_the_pooler():
    model = models.BertClassifier(make_bert(), 2)
    model.bert.enable_lora(2, targets=("pooler",))
    moved = [w.path for w in model.trainable_weights]
    assert sum("lora" in path for path in moved) == 2 and len(moved) == 4


@pytest.mark.parametrize("first", [
    models.BertEmbedder, lambda bert: models.BertPretrainer(bert, next_sentence=False),
])  # fmt: skip
def test_an_encoder_goes_to_a_head_that_trains_the_pooler(first):
    bert = make_bert()
    count = len(bert.trainable_weights)
    first(bert)
    assert len(bert.trainable_weights) == count - 2
    models.BertClassifier(bert, 2)
    assert len(bert.trainable_weights) == count


def test_a_pooler_that_the_user_froze_stays_so():
    bert = make_bert()
    bert.pooler.trainable = False
    models.BertEmbedder(bert)
    models.BertClassifier(bert, 2)
    assert not bert.pooler.trainable


# ---- pooling and spans


def test_mean_pooling_leaves_padding_out():
    bert, ids = make_bert(), make_ids()
    ids[0, 4:] = 0
    sequence = numpy_of(bert(ids)[0])
    mean = np.stack([sequence[0, :4].mean(0), sequence[1].mean(0)])
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    found = numpy_of(models.BertEmbedder(bert)(ids))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    cosines = numpy_of(models.BertEmbedder.similarity(found, found))
    np.testing.assert_allclose(np.diag(cosines), 1.0, rtol=1e-5)


def test_best_spans_equal_a_search_over_all():
    draw = np.random.default_rng(1)
    start, end = draw.normal(size=(2, 5, 7)).astype("float32")
    allowed = draw.random((5, 7)) < 0.7
    first, last, score = (
        numpy_of(x) for x in models.best_spans(start, end, allowed, max_answer_length=3)
    )
    for b in range(5):
        best = max(
            (start[b, i] + end[b, j], i, j)
            for i in range(7)
            for j in range(i, min(i + 3, 7))
            if allowed[b, i] and allowed[b, j]
        )
        assert (first[b], last[b]) == best[1:] and score[b] == pytest.approx(best[0])


# ---- errors


@pytest.mark.parametrize("labels", [[0, 2], [-1, 1]])
@pytest.mark.parametrize("kind", [models.BertClassifier, models.BertTokenClassifier])
def test_labels_outside_the_classes_are_refused(kind, labels):
    model = kind(make_bert(), 2)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.array(labels, "int32")
    if kind is models.BertTokenClassifier:
        labels = np.tile(labels[:, None], (1, 7))
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match="Labels must lie in 0 .. 1 .*Received: labels from"):
            call(make_ids(), labels)
        call(make_ids(), np.abs(labels) % 2)


def test_a_batch_of_no_positions_is_refused_and_one_of_no_rows_is_not():
    with pytest.raises(ValueError, match="at least one position"):
        make_bert()(np.zeros((2, 0), "int32"))
    assert tuple(make_bert()(np.zeros((0, 7), "int32"))[1].shape) == (0, 12)


@pytest.mark.parametrize(
    "inputs, message",
    [
        (np.full((1, 3), 31, "int32"), "0 .. 30"),
        ({"token_ids": make_ids(), "segment_ids": np.full((2, 7), 2)}, "0 .. 1"),
        (make_ids(length=13), "max_length=11"),
        ({"segment_ids": make_ids()}, "token_ids"),
    ],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        make_bert()(inputs)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_heads=5), "divide"),
        (dict(hidden_act="gelo"), "hidden_act"),
        (dict(pad_token_id=31), "pad_token_id"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_bert(**arguments)


def test_bad_calls():
    bert = make_bert()
    with pytest.raises(ValueError, match="base"):
        models.Bert.from_preset("huge")
    with pytest.raises(ValueError, match="num_classes"):
        models.BertClassifier(bert, 0)
    with pytest.raises(TypeError, match="models.Bert"):
        models.BertClassifier("bert", 2)
    with pytest.raises(ValueError, match="pooling"):
        models.BertEmbedder(bert, pooling="max")
    with pytest.raises(ValueError, match="masked_positions"):
        models.BertPretrainer(bert)({"token_ids": make_ids()})
    with pytest.raises(ValueError, match="0 .. 2"):
        bert.freeze(3)
    with pytest.raises(ValueError, match="decay"):
        bert.layer_learning_rates(0.0)
    with pytest.raises(ValueError, match="query"):
        bert.enable_lora(2, targets=("keys",))


@pytest.mark.requires_tensorflow
def test_a_model_that_is_gone_leaves_no_weights_behind():
    model = models.BertClassifier(make_bert(), num_classes=2)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = {"token_ids": np.ones((2, 5), "int32")}
    model.train_on_batch(inputs, np.zeros(2, "int32"))
    # What a graph that outlives the model would hold on to, and with it the memory.
    feed_forward = model.bert.encoder_blocks[0].feed_forward
    kernel = weakref.ref(feed_forward.inner_dense.kernel.value.handle)
    del model, feed_forward
    gc.collect()
    assert kernel() is None
