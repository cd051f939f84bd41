"""BERT: shapes, inputs, published sizes, what is trained, errors.

Sizes are distinct primes where they may be: B 2, T 7, D 12 (4 heads of 3), F 13, V 31.
"""

import functools
import gc
import weakref
import zipfile

import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import models, training

pytestmark = pytest.mark.portable

SIZES = dict(d_model=12, num_heads=4, ffn_dim=13, num_layers=1, max_length=11)


EAGER = dict(run_eagerly=True, jit_compile=False)  # where it does not matter how a step runs


def make_bert(**overrides):
    keras.utils.set_random_seed(3)
    return models.Bert(31, **{**SIZES, **overrides})


make_deep = functools.partial(make_bert, num_layers=2)  # where blocks are told apart


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


@pytest.mark.parametrize("make", [
    lambda: make_bert(num_layers=0, dropout_rate=0.5, pooler=False),
    lambda: make_bert(num_layers=1, dropout_rate=0.0, attention_dropout_rate=0.5),
    lambda: models.BertClassifier(make_bert(num_layers=0, dropout_rate=0.0), 2, dropout_rate=0.5),
], ids=["embeddings", "attention", "head"])  # fmt: skip
def test_each_dropout_acts_in_training(make):
    model, ids = make(), make_ids()
    plain, trained = (
        keras.tree.flatten(numpy_of(model(ids, training=training)))[0] for training in (False, True)
    )
    assert np.abs(trained - plain).max() > 1e-4


@pytest.mark.slow
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


def test_id_0_is_a_word_where_the_padding_is_another():
    bert, ids = make_bert(pad_token_id=1), make_ids()
    ids[:, 4] = 0
    other = ids.copy()
    other[:, 4] = 9
    assert not np.allclose(numpy_of(bert(ids))[0][:, 0], numpy_of(bert(other))[0][:, 0])


def test_a_mask_of_zeros_only_gives_finite_vectors():
    inputs = {"token_ids": make_ids(), "attention_mask": np.zeros((2, 7), "int32")}
    assert all(np.isfinite(x).all() for x in numpy_of(make_bert()(inputs)))


@pytest.mark.parametrize("pad_id", [0, 1])
def test_a_mask_that_shows_the_padding_gives_one_warning_a_call(pad_id):
    bert, ids = make_bert(pad_token_id=pad_id, num_layers=0), make_ids()
    head = models.BertClassifier(bert, 2)
    ids[0, 5:] = pad_id
    hides = ids == pad_id  # 1 = hide
    for mask in (hides.astype("int32"), np.where(hides, -1e4, 0.0).astype("float32")):
        for model in (bert, head):
            for call in (model, model.predict_on_batch):
                with pytest.warns(UserWarning, match=f"pad_token_id={pad_id}.*1 - att") as found:
                    call({"token_ids": ids, "attention_mask": mask})
                assert len(found) == 1


def test_a_mask_that_may_be_meant_gives_no_warning():
    bert, ids = make_bert(num_layers=0), make_ids()
    rows = {"token_ids": ids, "attention_mask": (ids != 0).astype("int32")}
    ids[0, 5:] = 0
    masks = [ids != 0, ids == 0, np.zeros_like(ids), np.ones_like(ids), np.arange(7) > ids * 0 + 2]
    masks[1][0, 5] = False  # some padding hidden, too
    for mask in masks:
        bert({**rows, "attention_mask": mask.astype("int32")})
    ids[0] = 0  # a row that fills a batch
    bert({**rows, "attention_mask": (ids == 0).astype("int32")})


def test_the_mask_of_encode_is_one_of_positions():
    bert, ids = make_bert(), make_ids()[:, :3]
    with pytest.raises(ValueError, match=r"`attention_mask` must have one value .*\(2, 3, 3\)"):
        bert.encode(ids, np.zeros_like(ids), np.ones((2, 3, 3), "int32"))


def test_heads_are_drawn_in_the_initializer_range():
    bert = make_bert(num_layers=0, initializer_range=1e-3)
    for head in (models.BertPretrainer, models.BertClassifier, models.BertSpanPredictor):
        matrices = [numpy_of(w) for w in head(bert).weights if len(w.shape) > 1]
        assert len(matrices) > 3 and all(5e-4 < matrix.std() < 2e-3 for matrix in matrices)


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
    assert not any("pooler" in weight.path for weight in model.trainable_weights)


# ---- training a part


def train_a_little(model, epochs=2):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, run_eagerly=True, jit_compile=False)
    model.fit(make_ids(4), np.array([0, 1, 0, 1]), epochs=epochs, verbose=0)


def test_low_rank_updates_train_alone_and_are_merged_on_save(tmp_path):
    no_dropout = dict(dropout_rate=0.0, attention_dropout_rate=0.0)
    model = models.BertClassifier(make_deep(**no_dropout), 2)
    model.bert.enable_lora(2)
    assert all("lora" in w.path or "classifier" in w.path for w in model.trainable_weights)
    before = numpy_of(model(make_ids()))
    train_a_little(model)
    expected = numpy_of(model(make_ids()))
    assert not np.allclose(expected, before)
    model.save(tmp_path / "merged.keras")
    loaded = keras.saving.load_model(tmp_path / "merged.keras")
    np.testing.assert_allclose(numpy_of(loaded(make_ids())), expected, rtol=1e-5, atol=1e-6)
    # Training goes on with the same updates, from a model and from a file of weights.
    updates = {w.path: numpy_of(w) for w in model.trainable_weights if "lora" in w.path}
    assert len(updates) == 8 and all(update.any() for update in updates.values())
    model.save_weights(tmp_path / "merged.weights.h5")
    other = models.BertClassifier(make_deep(**no_dropout), 2)
    other.bert.enable_lora(2)
    other.load_weights(tmp_path / "merged.weights.h5")
    for again in (loaded, other):
        found = {w.path: numpy_of(w) for w in again.trainable_weights if "lora" in w.path}
        keras.tree.map_structure(np.testing.assert_array_equal, found, updates)
        train_a_little(again)
    train_a_little(model)
    for again in (loaded, other):
        found = numpy_of(again(make_ids()))
        np.testing.assert_allclose(found, numpy_of(model(make_ids())), atol=1e-4)
    # Without updates of its own a model takes the sum.
    plain = models.BertClassifier(make_deep(), 2, dropout_rate=0.0)
    plain.load_weights(tmp_path / "merged.weights.h5")
    np.testing.assert_allclose(numpy_of(plain(make_ids())), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_updates_of_a_file_without_any_are_drawn(tmp_path):
    """Where A and B are both 0, neither has a gradient."""
    models.BertClassifier(make_deep(), 2).save_weights(tmp_path / "plain.weights.h5")
    model = models.BertClassifier(make_deep(), 2, dropout_rate=0.0)
    model.bert.enable_lora(2, targets=("query", "inner", "pooler"))
    model.load_weights(tmp_path / "plain.weights.h5")
    train_a_little(model)
    updates = [numpy_of(w) for w in model.trainable_weights if "lora" in w.path]
    assert len(updates) == 10 and all(update.any() for update in updates)


def test_a_low_rank_update_is_scaled_by_alpha_and_rank(tmp_path):
    scaled, plain = make_bert(num_layers=1), make_bert(num_layers=1)
    scaled.enable_lora(2, alpha=8)
    plain.enable_lora(2)
    for mine, other in zip(scaled.trainable_weights, plain.trainable_weights):
        mine.assign(keras.random.normal(mine.shape, seed=1) / 5)
        other.assign(mine * (4.0 if other.path.endswith("kernel_b") else 1.0))
    expected = numpy_of(plain(make_ids())[0])
    scaled.save(tmp_path / "merged.keras")
    for model in (scaled, keras.saving.load_model(tmp_path / "merged.keras")):
        np.testing.assert_allclose(numpy_of(model(make_ids())[0]), expected, rtol=1e-5, atol=1e-5)


def freeze_by_keras(bert):
    bert.encoder_blocks[0].trainable = bert.pooler.trainable = False


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    lambda bert: bert.freeze(1),
    lambda bert: bert.freeze(2, embeddings=False),
    freeze_by_keras,
    lambda bert: setattr(bert, "trainable", False),
    lambda bert: (bert.enable_lora(2), bert.freeze(1)),
    lambda bert: (bert.freeze(1), bert.enable_lora(2, targets=("key",)), bert.enable_lora(3)),
])  # fmt: skip
def test_what_is_frozen_stays_so_in_a_file(change, tmp_path):
    model = models.BertClassifier(make_deep(), 2)
    change(model.bert)
    model.classifier.bias.trainable = False
    trained = [weight.path for weight in model.trainable_weights]
    train_a_little(model, epochs=1)
    model.save(tmp_path / "frozen.keras")
    loaded = keras.saving.load_model(tmp_path / "frozen.keras")
    assert [weight.path for weight in loaded.trainable_weights] == trained
    assert 0 < len(trained) < len(model.weights) - 1


@pytest.mark.parametrize("freeze, thaw", [
    (lambda m: m.bert.freeze(2), lambda m: m.bert.freeze(1, embeddings=False)),
    (lambda m: setattr(m.bert, "trainable", False), lambda m: setattr(m.bert, "trainable", True)),
    (lambda m: setattr(m, "trainable", False), lambda m: setattr(m, "trainable", True)),
    (lambda m: freeze_by_keras(m.bert), lambda m: m.bert.freeze(0)),
    (lambda m: (m.bert.enable_lora(2), m.bert.freeze(2)), lambda m: m.bert.freeze(1)),
])  # fmt: skip
def test_what_a_file_keeps_frozen_can_be_trained_again(freeze, thaw, tmp_path):
    model = models.BertClassifier(make_deep(), 2)
    freeze(model)
    model.save(tmp_path / "frozen.keras")
    loaded = keras.saving.load_model(tmp_path / "frozen.keras")
    frozen = len(loaded.trainable_weights)
    for one in (model, loaded):
        thaw(one)
    paths = [[weight.path for weight in one.trainable_weights] for one in (model, loaded)]
    assert paths[0] == paths[1] and len(paths[0]) > frozen
    paths = [[weight.path for weight in one.bert.trainable_weights] for one in (model, loaded)]
    assert paths[0] == paths[1]


def test_freezing_trains_all_of_the_other_blocks():
    bert = make_deep()
    bert.encoder_blocks[1].feed_forward.trainable = False
    bert.freeze(1)
    assert all(weight.trainable for weight in bert.encoder_blocks[1].weights)


@pytest.mark.slow
def test_freezing_and_low_rank_updates_do_not_undo_each_other():
    def trained(*calls):
        bert = make_deep()
        for name, *arguments in calls:
            getattr(bert, name)(*arguments)
        return {weight.path for weight in bert.trainable_weights}

    updates = trained(("enable_lora", 2))
    assert len(updates) == 8 and all("lora" in path for path in updates)
    upper = {path for path in updates if "encoder_1" in path}
    assert trained(("enable_lora", 2), ("freeze", 1)) == upper
    assert trained(("freeze", 1), ("enable_lora", 2)) == upper
    for last in (("freeze", 0), ("freeze", 2), ("freeze", 1)):
        found = trained(("enable_lora", 2), ("freeze", 2), last)
        assert found == {0: updates, 1: upper, 2: set()}[last[1]]
    assert trained(("freeze", 2), ("enable_lora", 2), ("freeze", 0)) == updates
    both = make_deep()
    both.enable_lora(2, targets=("query",))
    both.enable_lora(2, targets=("value",))
    assert {weight.path for weight in both.trainable_weights} == updates
    with pytest.raises(ValueError, match=r"\['query'\] have low-rank updates already"):
        both.enable_lora(2, targets=("key", "query"))
    assert {weight.path for weight in both.trainable_weights} == updates
    for rank in (0, -1, 1.5):
        with pytest.raises(ValueError, match="`rank` must be a positive integer"):
            make_deep().enable_lora(rank)


def test_a_low_rank_update_of_the_pooler():
    model = models.BertClassifier(make_bert(), 2)
    model.bert.enable_lora(2, targets=("pooler",))
    moved = [w.path for w in model.trainable_weights]
    assert sum("lora" in path for path in moved) == 2 and len(moved) == 4


@pytest.mark.parametrize("first", [
    models.BertEmbedder, lambda bert: models.BertPretrainer(bert, next_sentence=False),
])  # fmt: skip
def test_heads_of_one_encoder_train_what_they_read(first):
    bert = make_bert()
    classifier = models.BertClassifier(bert, 2)
    trained = {weight.path for weight in classifier.trainable_weights}
    other = first(bert)
    for kind in ("variables", "weights"):
        mine = {v.path for v in getattr(other, f"trainable_{kind}")}
        rest = {v.path for v in getattr(other, f"non_trainable_{kind}")}
        assert not any("pooler" in path for path in mine | rest) and not mine & rest
        assert mine | rest == {v.path for v in getattr(other, kind)}
    assert {weight.path for weight in classifier.trainable_weights} == trained
    assert sum("pooler" in path for path in trained) == 2
    bert.enable_lora(2)
    third = models.BertClassifier(bert, 2)
    assert not any("pooler" in weight.path for weight in third.trainable_weights)


@pytest.mark.parametrize("kind, options", [
    (models.BertTokenClassifier, {}), (models.BertPretrainer, {"next_sentence": False}),
])  # fmt: skip
def test_a_head_has_no_pooler_that_it_does_not_read(kind, options, tmp_path):
    bert = make_bert()
    bert.enable_lora(2, targets=("query", "pooler"))
    bert.pooler.trainable = False
    head = kind(bert, **options)
    assert head.bert is bert and bert.pooler is not None
    assert not any("pooler" in weight.path for weight in head.variables)
    assert head.count_params() == sum(np.prod(weight.shape) for weight in head.weights)
    head.save(tmp_path / "head.keras")
    with zipfile.ZipFile(tmp_path / "head.keras") as file:
        config, weights = (file.read(name) for name in ("config.json", "model.weights.h5"))
    assert b'"pooler": false' in config and config.count(b"pooler") == 1
    assert b"adaptable_dense" not in weights and b"pooler" not in weights
    back = keras.saving.load_model(tmp_path / "head.keras")
    assert back.bert.pooler is None and back.get_config() == head.get_config()
    assert [w.path for w in back.trainable_weights] == [w.path for w in head.trainable_weights]
    for mine, theirs in zip(head.weights, back.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(mine), numpy_of(theirs))
    assert kind.from_preset("tiny", vocab_size=31, **options).bert.pooler is None


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
    plain = numpy_of(models.BertEmbedder(bert, normalize=False)(ids))
    np.testing.assert_allclose(plain, mean, rtol=1e-5, atol=1e-6)
    cosines = numpy_of(models.BertEmbedder.similarity(3 * found, plain))
    np.testing.assert_allclose(np.diag(cosines), 1.0, rtol=1e-5)


POOLINGS = {
    "max": lambda x: x.max(0),
    "mean_sqrt_len_tokens": lambda x: x.sum(0) / np.sqrt(len(x)),
    "weightedmean": lambda x: np.average(x, axis=0, weights=np.arange(1, 1 + len(x))),
    "lasttoken": lambda x: x[-1],
    ("max", "cls"): lambda x: np.concatenate([x.max(0), x[0]]),
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_other_poolings_leave_padding_out(pooling):
    bert, ids = make_bert(), make_ids()
    ids[0, 4:] = 0
    sequence = numpy_of(bert(ids)[0])
    expected = [POOLINGS[pooling](x) for x in (sequence[0, :4], sequence[1])]
    model = models.BertEmbedder(bert, pooling=pooling, normalize=False)
    np.testing.assert_allclose(numpy_of(model(ids)), expected, rtol=1e-5, atol=1e-6)
    again = models.BertEmbedder.from_config(model.get_config())
    assert again.pooling == model.pooling == pooling


@pytest.mark.parametrize("pooling", [p for p in POOLINGS if "cls" not in p] + ["mean"])
def test_the_vector_of_a_text_without_tokens_is_zero(pooling):
    model = models.BertEmbedder(make_bert(num_layers=0), pooling=pooling)
    vectors = model({"token_ids": make_ids(), "attention_mask": np.zeros((2, 7), "int32")})
    np.testing.assert_array_equal(numpy_of(vectors), np.zeros((2, 12)))


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


@pytest.mark.parametrize(
    "labels", [{"good": 1, "bad": 0}, {0: "bad", 1: "good"}, {"bad", "good"}, "no", ["bad"], []]
)
def test_what_lists_no_names_of_the_classes_is_refused(labels):
    with pytest.raises(ValueError, match="must name the 2 classes, in a list"):
        models.BertClassifier(make_bert(), labels=labels)


def test_names_of_classes_may_come_from_a_data_set():
    names = [b"good", "나쁨".encode()]  # as its iterator gives strings
    assert models.BertClassifier(make_bert(), labels=names).labels == ["good", "나쁨"]


@pytest.mark.parametrize("labels", [[0, 2], [-1, 1]])
@pytest.mark.parametrize("kind", [models.BertClassifier, models.BertTokenClassifier])
def test_labels_outside_the_classes_are_refused(kind, labels):
    model = kind(make_bert(num_layers=0), 2)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **EAGER)
    labels = np.array(labels, "int32")
    if kind is models.BertTokenClassifier:
        labels = np.tile(labels[:, None], (1, 7))
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match="Labels must lie in 0 .. 1 .*Received: labels from"):
            call(make_ids(), labels)
        call(make_ids(), np.abs(labels) % 2)


def test_ignored_labels_are_no_error():
    model = models.BertTokenClassifier(make_bert(num_layers=0), 2)
    model.compile("sgd", training.MaskedCrossEntropy(pad_id=-1), **EAGER)
    labels = np.tile(np.array([[0], [-1]], "int32"), (1, 7))
    assert np.isfinite(model.train_on_batch(make_ids(), labels))
    with pytest.raises(ValueError, match="Labels must lie in 0 .. 1"):
        model.train_on_batch(make_ids(), labels - 1)


def test_labels_in_arrays_are_looked_at():
    """Under XLA the loss would be NaN."""
    classifier, labels = models.BertClassifier(make_bert(num_layers=0), 2), np.array([0, 1])
    loss, eager = keras.losses.SparseCategoricalCrossentropy(from_logits=True), EAGER
    classifier.compile("sgd", loss, **eager)
    for call in (classifier.fit, classifier.evaluate, classifier.train_on_batch):
        with pytest.raises(ValueError, match="Labels must lie in 0 .. 1"):
            call(make_ids(), np.array([0.0, 5.0]))
    one_hot = np.eye(2, dtype="float32")
    classifier.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), **eager)
    assert np.isfinite(classifier.train_on_batch(make_ids(), one_hot))
    spans = models.BertSpanPredictor(make_bert(num_layers=0))
    spans.compile("sgd", {"start": loss, "end": loss}, **eager)
    with pytest.raises(ValueError, match="Labels of `end` must lie in 0 .. 6"):
        spans.fit(make_ids(), {"start": labels, "end": np.array([1, 7])})
    pretrainer = models.BertPretrainer(make_bert(num_layers=0))
    pretrainer.compile("sgd", {"mlm": training.MaskedCrossEntropy(), "nsp": loss}, **eager)
    inputs = {"token_ids": make_ids(), "masked_positions": np.array([[1], [6]])}
    with pytest.raises(ValueError, match="Labels of `nsp` must lie in 0 .. 1"):
        pretrainer.fit(inputs, {"mlm": np.array([[5], [6]]), "nsp": labels + 1})


@pytest.mark.slow
def test_an_input_more_changes_no_other():
    """Keras would take the values of a dictionary in the order of their names."""
    ids = make_ids()
    inputs = {"token_ids": ids, "segment_ids": ids % 2, "attention_mask": np.ones_like(ids)}
    for model in (make_bert(), models.BertTokenClassifier(make_bert())):
        expected = numpy_of(model(inputs))
        packed = {"truncated": np.zeros(2, bool), "word_positions": ids, "row": np.arange(2)}
        for found in (model({**inputs, **packed}), model.predict({**packed, **inputs}, verbose=0)):
            for one, other in zip(keras.tree.flatten(expected), keras.tree.flatten(found)):
                np.testing.assert_allclose(numpy_of(other), one, atol=1e-6)
        for name in ("labels", "segments", "masked_positions"):
            with pytest.raises(ValueError, match=f"Expected `token_ids`, and optionally.*'{name}'"):
                model({**inputs, name: ids})
        # Once, for Keras on JAX leaves a model without its values where `predict` fails.
        with pytest.raises(ValueError, match="labels"):
            model.predict({**inputs, "labels": ids}, verbose=0)
    with pytest.raises(ValueError, match="Expected `token_ids` and `masked_positions`"):
        models.BertPretrainer(make_bert())(inputs)


@pytest.mark.parametrize("name", ["segment_ids", "attention_mask"])
def test_inputs_do_not_broadcast(name):
    ids, message = make_ids(), rf"`{name}` must have the shape (of `token_ids`|\[B, T\])"
    for shape in ((2, 1), (1, 7), (7,), (2, 7, 1)):
        with pytest.raises(ValueError, match=message):
            make_bert()({"token_ids": ids, name: np.ones(shape, "int32")})


@pytest.mark.requires_tensorflow
def test_ragged_ids_and_texts_are_named():
    import tensorflow as tf

    model, ragged = make_bert(num_layers=0), tf.ragged.constant([[2, 5, 3], [2, 3]])
    texts = [np.array(["a text"]), tf.constant(["a text"]), ["a text"]]
    for call in (model, model.predict):
        with pytest.raises(ValueError, match="rows of equal length: .*Received: a ragged tensor"):
            call(ragged)
        for given in texts[:2] if call is not model else texts:
            with pytest.raises(ValueError, match="`token_ids` must be ids, .*Received: texts"):
                call(given)


def test_an_argument_that_neither_head_nor_encoder_has_is_named_with_the_head_s():
    with pytest.raises(TypeError, match="takes .*num_classes, .*num_labels is num_classes here"):
        models.BertClassifier.from_preset("tiny", num_labels=3)


def test_names_of_classes_say_how_many_where_a_folder_has_no_head(tmp_path):
    make_bert(num_layers=0).save_pretrained(tmp_path)
    model = models.BertClassifier.from_pretrained(tmp_path, labels=["a", "b", "c"])
    assert model.num_classes == 3 and model.labels == ["a", "b", "c"]


@keras.saving.register_keras_serializable("tests")
class Reviewer(keras.Model):
    """A user's own head on a BERT."""

    def __init__(self, bert, **kwargs):
        super().__init__(**kwargs)
        self.bert, self.head = bert, keras.layers.Dense(3)

    def call(self, inputs):
        return self.head(self.bert(inputs)[1])

    def get_config(self):
        return {**super().get_config(), "bert": keras.saving.serialize_keras_object(self.bert)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("bert")), **config)


@pytest.mark.parametrize("named", [False, True])
def test_a_user_s_own_head_comes_back_from_a_file(named, tmp_path):
    ids = ops.convert_to_tensor(make_ids(), "int32")
    inputs = {"token_ids": ids, "segment_ids": ops.ones_like(ids)} if named else ids
    model = Reviewer(make_bert())
    expected = ops.convert_to_numpy(model(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")  # built from float32 placeholders
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(inputs)), expected)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_integers_that_keras_averages_over_replicas_are_integers():
    import tensorflow as tf

    model = make_bert(num_layers=0)
    for call in (model, lambda ids: model({"token_ids": ids, "segment_ids": ids})):
        tf.function(call).get_concrete_function(tf.TensorSpec((2, 7), tf.float64))
        with pytest.raises(ValueError, match="must be integers"):
            tf.function(call).get_concrete_function(tf.TensorSpec((2, 7), tf.float16))


def test_the_label_that_a_loss_leaves_out_is_no_class():
    labels = np.array([[1, -100, 0, 2, -100, 1, 1]] * 2)
    tagger = models.BertTokenClassifier(make_bert(num_layers=0), 3)
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
    for loss in (keras_loss, training.MaskedCrossEntropy(pad_id=-100)):
        tagger.compile("sgd", loss, **EAGER)
        assert np.isfinite(tagger.train_on_batch(make_ids(), labels))
        with pytest.raises(ValueError, match="Labels must lie in 0 .. 2"):
            tagger.train_on_batch(make_ids(), labels - 1)
    pretrainer = models.BertPretrainer(make_bert(num_layers=0), next_sentence=False)
    pretrainer.compile("sgd", {"mlm": training.MaskedCrossEntropy(pad_id=-100)}, **EAGER)
    inputs = {"token_ids": make_ids(), "masked_positions": make_ids() % 7}
    assert np.isfinite(pretrainer.train_on_batch(inputs, {"mlm": labels}))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.data")
def test_labels_in_data_sets_are_looked_at():
    import tensorflow as tf

    def batches(inputs, targets):
        return tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(2)

    model = models.BertClassifier(make_bert(num_layers=0), 2)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **EAGER)
    good, bad = batches(make_ids(), [0, 1]), batches(make_ids(), [0, 5])

    def fit_with(unseen=None):
        return functools.partial(model.fit, validation_data=unseen, shuffle=False, verbose=0)

    message = "Labels must lie in 0 .. 1 .num_classes=2.. Received: .5"
    for call in (fit_with(), model.evaluate, lambda data: fit_with(data)(good)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            call(bad)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Token ids must lie"):
        fit_with(batches(make_ids() + 20, [0, 1]))(good)
    assert np.isfinite(fit_with(good)(good).history["val_loss"][0])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True), **EAGER)
    fit_with()(batches(make_ids(), np.eye(2, dtype="float32")))


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.function")
@pytest.mark.parametrize("replicas", [False, True])
@pytest.mark.parametrize("train", ["fit", "train_on_batch"])
def test_a_step_is_traced_once(train, replicas):
    """Keras makes the optimizer's variables while it traces, and must then trace again."""
    import tensorflow as tf

    traces = []

    class Traced(models.BertClassifier):
        def train_step(self, data):
            traces.append(data)
            return super().train_step(data)

    mirrored, default = tf.distribute.MirroredStrategy, tf.distribute.get_strategy
    strategy = mirrored(["CPU:0"]) if replicas else default()
    with strategy.scope():
        model = Traced(make_bert(num_layers=0), 2, dropout_rate=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.1), loss, jit_compile=False)
    before = numpy_of(model.classifier.kernel)
    getattr(model, train)(make_ids(), np.array([0, 1]))
    assert len(traces) == 1 and model.optimizer.iterations.numpy() == 1
    assert np.abs(numpy_of(model.classifier.kernel) - before).max() > 0.05


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.function")
@pytest.mark.parametrize("arrays", [True, False])
@pytest.mark.parametrize("outputs", [1, 2])
def test_metrics_and_losses_of_outputs_cost_no_second_trace(outputs, arrays, monkeypatch):
    import tensorflow as tf

    traces, step = [], keras.Model.train_step

    def train_step(self, data):
        traces.append(data)
        return step(self, data)

    monkeypatch.setattr(keras.Model, "train_step", train_step)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    inputs, labels = {"token_ids": make_ids()}, np.array([0, 1])
    if outputs == 1:
        model = models.BertClassifier(make_bert(num_layers=0), 2)
        model.compile("adam", loss, metrics=["accuracy"])
    else:
        model = models.BertPretrainer(make_bert(num_layers=0))
        both = {"mlm": training.MaskedCrossEntropy(), "nsp": loss}
        model.compile("adam", both, metrics={"mlm": [training.MaskedAccuracy()], "nsp": "accuracy"})
        inputs["masked_positions"] = make_ids() % 7
        labels = {"mlm": make_ids(), "nsp": labels}
    data = (inputs, labels) if arrays else (tf.data.Dataset.from_tensors((inputs, labels)),)
    history = model.fit(*data, verbose=0, shuffle=arrays).history
    assert len(traces) == 1 and len(history) == (2 if outputs == 1 else 5)
    assert all(np.isfinite(values).all() for values in history.values())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.data")
@pytest.mark.parametrize("chosen, expected", [(None, False), (True, True), (False, False)])
def test_no_epoch_waits_for_a_tuner_unless_it_was_asked_for(chosen, expected, monkeypatch):
    import tensorflow as tf

    options, found = tf.data.Options(), []
    if chosen is not None:
        options.autotune.enabled = chosen
    data = tf.data.Dataset.from_tensors((make_ids(), [0, 1])).with_options(options)
    model = models.BertClassifier(make_bert(num_layers=0), 2)
    monkeypatch.setattr(keras.Model, "fit", lambda self, x, *args, **kwargs: found.append(x))
    model.fit(data)
    assert found[0].options().autotune.enabled is expected


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.data")
def test_the_label_that_a_loss_leaves_out_is_no_class_in_a_data_set_either():
    import tensorflow as tf

    tagger = models.BertTokenClassifier(make_bert(num_layers=0), 3)
    tagger.compile("sgd", training.MaskedCrossEntropy(pad_id=-100), **EAGER)
    labels = np.array([[1, -100, 0, 2, -100, 1, 1]] * 2)
    data = tf.data.Dataset.from_tensors((make_ids(), labels))
    assert np.isfinite(tagger.evaluate(data, verbose=0))
    data = tf.data.Dataset.from_tensors((make_ids(), labels - 1))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must lie in 0 .. 2"):
        tagger.evaluate(data, verbose=0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.data")
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint16", "int64"])
def test_sizes_beyond_the_type_of_the_data_are_no_error(dtype):
    import tensorflow as tf

    model = models.BertClassifier(models.Bert(65536, **SIZES), num_classes=256)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **EAGER)
    data = tf.data.Dataset.from_tensors((make_ids().astype(dtype), np.array([0, 1], dtype)))
    if dtype == "bool":  # of the labels
        data = tf.data.Dataset.from_tensors((make_ids(), np.array([False, True])))
    assert np.isfinite(model.evaluate(data, verbose=0))


def test_names_of_other_libraries_are_refused_with_ours():
    with pytest.raises(TypeError, match="Received: hidden_size, n_layers. hidden_size is d_model"):
        make_bert(hidden_size=5, n_layers=7)
    with pytest.raises(TypeError, match="bert, num_classes, labels.*num_labels is num_class"):
        models.BertClassifier(make_bert(), num_labels=7)
    for name in ("token_type_ids", "input_ids"):
        with pytest.raises(ValueError, match=f"{name} is `"):
            make_bert()({"token_ids": make_ids(), name: make_ids()})
    with pytest.raises(ValueError, match="`segment_ids` must lie in 0 .. 1"):
        make_bert()({"token_ids": make_ids(), "segment_ids": make_ids()})


@pytest.mark.parametrize("name, value", [
    ("num_layers", -1), ("num_heads", 0), ("max_length", 0), ("ffn_dim", 1.5), ("ffn_dim", True),
    ("layer_norm_eps", -1.0), ("layer_norm_eps", float("nan")), ("initializer_range", np.inf),
    ("dropout_rate", 1.5), ("dropout_rate", 1.0), ("layer_norm_eps", 1.0),
])  # fmt: skip
def test_sizes_are_checked(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {value!r}"):
        make_bert(**{name: value})


def test_numpy_s_integers_are_integers(tmp_path):
    bert = make_bert(num_layers=np.int64(1), max_length=np.int32(9), pad_token_id=np.int64(1))
    models.BertClassifier(bert, np.int64(3)).save_pretrained(tmp_path)
    assert models.BertClassifier.from_pretrained(tmp_path).num_classes == 3


@keras.saving.register_keras_serializable("tests")
class OwnBert(models.Bert):
    def __init__(self, *args, extra=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = extra


@keras.saving.register_keras_serializable("tests")
class OwnClassifier(models.BertClassifier):
    def __init__(self, bert, extra=1, **kwargs):
        super().__init__(bert, **kwargs)
        self.extra = extra


def test_models_with_a_constructor_of_their_own(tmp_path):
    bert = OwnBert(31, **SIZES, extra=2)
    assert bert.extra == 2 and bert.get_config()["d_model"] == 12
    model = OwnClassifier.from_preset("tiny", vocab_size=31, num_classes=5, extra=3)
    assert model.num_classes == 5 and model.extra == 3 and model.bert.d_model == 128
    OwnClassifier(bert, num_classes=4).save_pretrained(tmp_path)
    assert OwnClassifier.from_pretrained(tmp_path, extra=7).num_classes == 4


@pytest.mark.slow
def test_heads_have_the_encoder_s_precision(tmp_path):
    for name, compute in (("mixed_bfloat16", "bfloat16"), ("bfloat16", "bfloat16")):
        for head in (models.BertClassifier, models.BertPretrainer):
            model = head(make_bert(dtype=name))
            dense = [layer for layer in model.layers if layer.name in ("classifier", "nsp_dense")]
            assert dense[0].dtype_policy.name == name and dense[0].compute_dtype == compute
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.BertClassifier(make_bert())
        assert models.BertClassifier(make_bert(dtype="float32")).classifier.dtype == "float32"
        model.save(tmp_path / "mixed.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    loaded = keras.saving.load_model(tmp_path / "mixed.keras")
    assert loaded.classifier.compute_dtype == "bfloat16"


def test_a_batch_of_no_positions_is_refused_and_one_of_no_rows_is_not():
    with pytest.raises(ValueError, match="at least one position"):
        make_bert()(np.zeros((2, 0), "int32"))
    assert tuple(make_bert()(np.zeros((0, 7), "int32"))[1].shape) == (0, 12)


def test_an_input_that_is_missing_is_named():
    with pytest.raises(ValueError, match="token_ids"):
        make_bert()({"segment_ids": make_ids()})


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
    for pooling in ("median", (), ("mean", "mean"), None, 3):
        with pytest.raises(ValueError, match="`pooling` must be one of 'mean', .*Received: "):
            models.BertEmbedder(bert, pooling=pooling)
    with pytest.raises(ValueError, match="`units` must be a positive integer"):
        models.BertEmbedder(bert, projections=[{"units": 0}])
    with pytest.raises(ValueError, match="`projections` must be dictionaries of `units`"):
        models.BertEmbedder(bert, projections=[{"unit": 3}])
    with pytest.raises(ValueError, match="masked_positions"):
        models.BertPretrainer(bert)({"token_ids": make_ids()})
    with pytest.raises(ValueError, match="0 .. 1"):
        bert.freeze(2)
    with pytest.raises(ValueError, match="decay"):
        bert.layer_learning_rates(0.0)
    with pytest.raises(ValueError, match="query"):
        bert.enable_lora(2, targets=("keys",))


@pytest.mark.slow
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
