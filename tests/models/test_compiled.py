"""What `compile` is given and cannot be meant for a model's outputs."""

import functools

import keras
import numpy as np
import pytest

from keras_xfmr import models, training

pytestmark = pytest.mark.portable

B, T, V, C = 2, 5, 23, 3
IDS = np.full((B, T), 7)
losses, metrics = keras.losses, keras.metrics


def make_bert(**arguments):
    sizes = dict(d_model=6, num_heads=2, ffn_dim=7, num_layers=0, max_length=T)
    return models.Bert(V, **{**sizes, **arguments})


@pytest.fixture(scope="module")
def heads():
    """One model of each kind of output, and data for it."""
    bert, later = make_bert(), make_bert(pad_token_id=2)
    yes_no = np.eye(C, dtype="float32")[:B]
    first, spans, word = np.array([0, 1]), models.BertSpanPredictor(bert), np.full((B, 1), 5)
    places = {"token_ids": IDS, "masked_positions": np.full((B, 1), 2)}
    targets = {"source_ids": IDS, "target_ids": IDS}
    sizes = dict(d_model=6, num_heads=2, ffn_dim=7, num_layers=0)
    return {
        "classes": (models.BertClassifier(bert, C), IDS, np.array([0, 2])),
        "multi_label": (models.BertClassifier(bert, C, multi_label=True), IDS, yes_no),
        "value": (models.BertClassifier(bert, 1), IDS, np.array([[0.0], [1.0]], "float32")),
        "tags": (models.BertTokenClassifier(bert, C), IDS, IDS % C),
        "padded tags": (models.BertTokenClassifier(bert, C, pad_class=2), IDS, IDS % C),
        "spans": (spans, IDS, {"start": first, "end": first + 2}),
        "pretraining": (models.BertPretrainer(later), places, {"mlm": word, "nsp": first}),
        "words": (models.BertPretrainer(later, next_sentence=False), places, {"mlm": word}),
        "translation": (models.Transformer(V, **sizes, pad_id=2, start_id=0), targets, IDS),
        "vectors": (models.BertEmbedder(bert), IDS, np.ones((B, 6), "float32")),
    }  # fmt: skip


def compile_head(heads, kind, loss, of=None, weighted=None):
    model, inputs, labels = heads[kind]
    model.compile("sgd", loss, metrics=of, weighted_metrics=weighted, jit_compile=False)
    model.run_eagerly = True  # a step is not traced for each case
    return model, inputs, labels


def refused(heads, kind, loss, message, **given):
    model, inputs, labels = compile_head(heads, kind, loss, **given)
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(inputs, labels)


def accepted(heads, kind, loss, **given):
    model, inputs, labels = compile_head(heads, kind, loss, **given)
    assert np.isfinite(model.train_on_batch(inputs, labels)).all()


def sparse(**arguments):
    return losses.SparseCategoricalCrossentropy(**{"from_logits": True, **arguments})


def binary():
    return losses.BinaryCrossentropy(from_logits=True)


# What fits, where a case is about metrics alone.
FITTING = {
    "classes": sparse(), "multi_label": binary(), "value": binary(), "tags": sparse(),
    "padded tags": sparse(), "spans": sparse(), "pretraining": sparse(), "words": sparse(),
    "translation": sparse(),
}  # fmt: skip


class Weighted(losses.BinaryCrossentropy):
    def call(self, y_true, y_pred):
        return 3.0 * super().call(y_true, y_pred)


class OfLogits(metrics.AUC):
    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, keras.ops.sigmoid(y_pred), sample_weight)


class Precision(metrics.Precision):
    pass


class Plain(losses.Loss):
    def call(self, y_true, y_pred):
        return losses.sparse_categorical_crossentropy(y_true, keras.ops.softmax(y_pred))

    def get_config(self):
        raise NotImplementedError


def binary_crossentropy(y_true, y_pred):
    return losses.binary_crossentropy(y_true, keras.ops.sigmoid(y_pred))


def test_a_loss_over_all_replicas_is_read_as_what_it_wraps(heads):
    probabilities = training.GlobalMean(losses.BinaryCrossentropy())
    refused(heads, "multi_label", probabilities, r"GlobalMean\(BinaryCrossentropy\(from_logits=Fa")
    accepted(heads, "multi_label", training.GlobalMean(binary()))


# ---- probabilities


@pytest.mark.parametrize("loss, way_out", [
    ("sparse_categorical_crossentropy", r"SparseCategoricalCrossentropy\(from_logits=True"),
    ("SparseCategoricalCrossentropy", r"SparseCategoricalCrossentropy\(from_logits=True"),
    ("categorical_crossentropy", r"losses.CategoricalCrossentropy\(from_logits=True"),
    ("categorical_focal_crossentropy", "CategoricalFocalCrossentropy"),
    ("crossentropy", "SparseCategoricalCrossentropy"),
    ("CE", "SparseCategoricalCrossentropy"),
    ("bce", "BinaryCrossentropy"),
    ("BCE", "BinaryCrossentropy"),
    ("kld", "ops.softmax"),
    ("KLD", "ops.softmax"),
    ("kl_divergence", "ops.softmax"),
    ("poisson", "ops.softmax"),
    ("dice", "ops.softmax"),
    (losses.sparse_categorical_crossentropy, "SparseCategoricalCrossentropy"),
    (losses.categorical_focal_crossentropy, "CategoricalFocalCrossentropy"),
    (functools.partial(losses.sparse_categorical_crossentropy, axis=-1), "from_logits=True"),
    (losses.SparseCategoricalCrossentropy(), "SparseCategoricalCrossentropy"),
    (losses.SparseCategoricalCrossentropy, "SparseCategoricalCrossentropy"),
    (losses.serialize(losses.CategoricalCrossentropy()), "CategoricalCrossentropy"),
    (losses.BinaryFocalCrossentropy(), "BinaryFocalCrossentropy"),
    (losses.CategoricalGeneralizedCrossEntropy(), "ops.softmax"),
    (Weighted(), "from_logits=True"),
    ([losses.SparseCategoricalCrossentropy()], "SparseCategoricalCrossentropy"),
])  # fmt: skip
def test_losses_of_probabilities_are_refused_on_logits(loss, way_out, heads):
    message = "`loss` must fit the output of BertClassifier: logits of one .*Received: loss=.*"
    refused(heads, "classes", loss, f"{message}, which expects probabilities.* Pass .*{way_out}")


@pytest.mark.parametrize("kind", ["tags", "translation", "spans", "pretraining", "words"])
def test_all_logits_are_looked_at(kind, heads):
    refused(heads, kind, "sparse_categorical_crossentropy", "which expects probabilities")
    refused(heads, kind, FITTING[kind], "which expects probabilities", of=both(kind, "bce"))
    accepted(heads, kind, FITTING[kind])


def both(kind, metric):
    """A metric for each of a model's outputs."""
    return {"spans": [[metric], [metric]], "pretraining": [metric, metric]}.get(kind, [metric])


@pytest.mark.parametrize("kind, loss", [
    ("multi_label", "binary_crossentropy"),
    ("multi_label", losses.binary_focal_crossentropy),
    ("multi_label", losses.BinaryCrossentropy()),
    ("value", "binary_crossentropy"),
    ("value", losses.Poisson()),
])  # fmt: skip
def test_sigmoids_have_logits_too(kind, loss, heads):
    refused(heads, kind, loss, "which expects probabilities")


@pytest.mark.parametrize("kind, metric, way_out", [
    ("multi_label", "accuracy", "for CategoricalAccuracy here. Pass .*BinaryAccuracy.thresh"),
    ("value", "acc", r"for BinaryAccuracy\(threshold=0.5\) here. Pass .*threshold=0.0"),
    ("value", "Accuracy", "threshold=0.0"),
    ("multi_label", metrics.categorical_accuracy, "one class among several. Pass .*Binary"),
    ("multi_label", metrics.CategoricalAccuracy(), "one class among several"),
    ("multi_label", "top_k_categorical_accuracy", "one class among several"),
    ("multi_label", metrics.F1Score(), "one class among several"),
    ("multi_label", metrics.F1Score(threshold=0.5), "ops.sigmoid"),
    ("multi_label", "binary_accuracy", r"threshold 0.5 .*Pass .*BinaryAccuracy\(threshold=0.0"),
    ("multi_label", metrics.binary_accuracy, r"BinaryAccuracy\(threshold=0.0"),
    ("multi_label", metrics.BinaryAccuracy(), r"BinaryAccuracy\(threshold=0.0"),
    ("multi_label", metrics.BinaryAccuracy, r"BinaryAccuracy\(threshold=0.0"),
    ("multi_label", metrics.MeanMetricWrapper(metrics.binary_accuracy), "threshold=0.0"),
    ("value", metrics.BinaryAccuracy(threshold=0.7), "threshold 0.7 is a probability"),
    ("multi_label", "precision", r"Precision\(thresholds=0.0\)"),
    ("multi_label", Precision(), r"Precision\(thresholds=0.0\)"),
    ("multi_label", metrics.Recall(thresholds=[0, 0.3]), "threshold 0.3"),
    ("multi_label", metrics.TruePositives(), "threshold 0.5"),
    ("multi_label", metrics.PrecisionAtRecall(0.5), "ops.sigmoid"),
    ("multi_label", metrics.AUC(), r"AUC\(from_logits=True\)"),
    ("multi_label", "bce", r"metrics.BinaryCrossentropy\(from_logits=True\)"),
    ("classes", metrics.BinaryAccuracy(), "SparseCategoricalAccuracy.*labels are 0 or 1"),
    ("classes", metrics.Accuracy(), "SparseCategoricalAccuracy"),
    ("classes", metrics.MeanIoU(C), "sparse_y_pred=False"),
    ("classes", "sparse_categorical_crossentropy", "SparseCategoricalCrossentropy"),
    ("tags", metrics.KLDivergence(), "SparseCategoricalAccuracy"),
])  # fmt: skip
def test_metrics_that_cannot_read_the_outputs_are_refused(kind, metric, way_out, heads):
    refused(heads, kind, FITTING[kind], f"`metrics` must fit .*{way_out}", of=[metric])
    refused(heads, kind, FITTING[kind], "`weighted_metrics` must fit", weighted=[metric])


@pytest.mark.parametrize("loss", ["mse", losses.Hinge(), losses.cosine_similarity, losses.Huber()])
def test_losses_of_numbers_are_refused_on_classes(loss, heads):
    for kind in ("classes", "tags", "translation"):
        refused(heads, kind, loss, "compares numbers, not classes.* Pass ")


@pytest.mark.parametrize("metric", [
    "categorical_accuracy", metrics.BinaryAccuracy(threshold=0.0), "mae",
    metrics.TopKCategoricalAccuracy(1),
])  # fmt: skip
def test_metrics_of_other_labels_than_the_loss_are_refused(metric, heads):
    message = "Pass keras.metrics.SparseCategoricalAccuracy"
    refused(heads, "classes", sparse(), message, of=[metric])
    accepted(heads, "classes", sparse(), of=[metrics.SparseCategoricalAccuracy()])


@pytest.mark.parametrize("metric", ["accuracy", metrics.SparseCategoricalAccuracy()])
def test_a_metric_that_counts_what_the_loss_leaves_out_is_refused(metric, heads):
    loss = training.MaskedCrossEntropy(pad_id=-1)
    refused(heads, "tags", loss, r"label -1 .*MaskedAccuracy\(pad_id=-1\)", of=[metric])
    accepted(heads, "tags", loss, of=[training.MaskedAccuracy(pad_id=-1)])
    accepted(heads, "tags", loss, weighted=[metrics.SparseCategoricalAccuracy()])


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", sparse(), "mse"])
def test_one_class_has_no_softmax(loss, heads):
    if loss == "mse":
        return accepted(heads, "value", loss, of=["mae", metrics.BinaryAccuracy()])
    refused(heads, "value", loss, "one class among several. Pass .*Binary.*, or 'mse' for a value")


@pytest.mark.parametrize("kind, loss, of", [
    ("classes", sparse(), ["accuracy", "ACC", metrics.SparseCategoricalAccuracy()]),
    ("classes", functools.partial(losses.sparse_categorical_crossentropy, from_logits=True), None),
    ("classes", lambda y_true, y_pred: keras.ops.sum(y_pred), None),
    ("classes", Plain(), [metrics.SparseTopKCategoricalAccuracy(2)]),
    pytest.param(  # Keras asks JAX for int64 there, which gives a warning
        "classes", sparse(), [metrics.MeanIoU(C, sparse_y_pred=False, ignore_class=0)],
        marks=pytest.mark.requires_tensorflow,
    ),
    ("multi_label", binary(), [metrics.BinaryAccuracy(threshold=0), metrics.AUC(from_logits=True)]),
    ("multi_label", binary_crossentropy, [metrics.Precision(thresholds=0), OfLogits()]),
    ("multi_label", Weighted(from_logits=True), [metrics.Recall(top_k=1)]),
    ("multi_label", losses.BinaryFocalCrossentropy(from_logits=True), [OfLogits()]),
    ("multi_label", "mse", [metrics.BinaryCrossentropy(from_logits=True)]),
    ("multi_label", losses.Hinge(), None),
    ("value", binary(), [metrics.BinaryAccuracy(threshold=0.0)]),
    ("tags", training.MaskedCrossEntropy(pad_id=-1), [training.MaskedAccuracy(pad_id=-1)]),
    ("tags", sparse(ignore_class=-100), None),
    ("tags", training.MaskedCrossEntropy(pad_id=C), None),
    ("padded tags", training.MaskedCrossEntropy(pad_id=2), [training.MaskedAccuracy(pad_id=2)]),
    ("spans", training.MaskedCrossEntropy(pad_id=-1), {"start": "accuracy"}),
    ("pretraining", {"mlm": training.MaskedCrossEntropy(pad_id=2), "nsp": sparse()},
     {"mlm": [training.MaskedPerplexity(pad_id=2), "accuracy"], "nsp": "accuracy"}),
    ("words", {"mlm": training.MaskedCrossEntropy(pad_id=2)}, ["accuracy"]),
    ("translation", training.MaskedCrossEntropy(pad_id=2), [training.MaskedAccuracy(pad_id=-1)]),
    ("vectors", "mse", ["mae"]),
])  # fmt: skip
def test_what_can_be_meant_is_accepted(kind, loss, of, heads):
    accepted(heads, kind, loss, of=of)


# ---- labels that are left out


@pytest.mark.parametrize("kind, loss, message", [
    ("classes", training.MaskedCrossEntropy(), "label 0, one of the 3 classes. Pass pad_id=-1"),
    ("tags", training.MaskedCrossEntropy(pad_id=1), "label 1, .*pass `pad_class` to the model"),
    ("tags", sparse(ignore_class=0), "label 0, one of the 3 classes. Pass ignore_class=-1"),
    ("padded tags", training.MaskedCrossEntropy(), "label 0, one of the 3 classes"),
    ("spans", training.MaskedCrossEntropy(), "label 0, a position. Pass pad_id=-1"),
    ("pretraining", {"mlm": sparse(), "nsp": training.MaskedCrossEntropy()}, "`nsp` .*2 classes"),
    ("pretraining", [training.MaskedCrossEntropy(), sparse()], "`mlm` .*0, a token. Pass pad_id=2"),
    ("words", {"mlm": training.MaskedCrossEntropy(pad_id=5)}, "`mlm` .*label 5, a token"),
    ("translation", sparse(ignore_class=0), "label 0, a token. Pass ignore_class=2"),
    ("multi_label", training.MaskedCrossEntropy(), "one class among several. Pass .*Binary"),
])  # fmt: skip
def test_a_class_that_a_loss_leaves_out_is_refused(kind, loss, message, heads):
    refused(heads, kind, loss, message)


@pytest.mark.parametrize("kind, metric, message", [
    ("classes", training.MaskedAccuracy(), "label 0, one of the 3 classes"),
    ("tags", training.MaskedPerplexity(), "label 0, one of the 3 classes"),
    ("translation", training.MaskedAccuracy(), "label 0, a token. Pass pad_id=2"),
    ("words", training.MaskedAccuracy(), "label 0, a token. Pass pad_id=2"),
])  # fmt: skip
def test_a_class_that_a_metric_leaves_out_is_refused(kind, metric, message, heads):
    fitting = [metrics.SparseTopKCategoricalAccuracy()]
    message = f"`metrics` must fit .*{message}"
    refused(heads, kind, FITTING[kind], message, of=[fitting, metric])


@pytest.mark.parametrize("name, size", [("start", 1), ("nsp", 1), ("mlm", 1)])
def test_a_label_that_is_left_out_is_none_outside_the_classes(name, size, heads):
    kind = "spans" if name == "start" else "pretraining"
    model, inputs, labels = heads[kind]
    masked = training.MaskedCrossEntropy(pad_id=-1)
    model.compile("sgd", {n: masked if n == name else sparse() for n in labels}, jit_compile=False)
    model.run_eagerly = True
    labels = {**labels, name: np.where(np.arange(B).reshape(labels[name].shape), -1, labels[name])}
    assert np.isfinite(model.train_on_batch(inputs, labels)).all()
    with pytest.raises(ValueError, match=f"Labels of `{name}` must lie in 0"):
        model.train_on_batch(inputs, {**labels, name: labels[name] - 1})


@pytest.mark.parametrize("pad_class", [C, -1, 0.5])
def test_the_class_of_padding_is_a_class(pad_class):
    with pytest.raises(ValueError, match="`pad_class` must be"):
        models.BertTokenClassifier(make_bert(), C, pad_class=pad_class)


def test_the_class_of_padding_is_kept(heads):
    model = heads["padded tags"][0]
    assert models.BertTokenClassifier.from_config(model.get_config()).pad_class == 2


# ---- when it is refused


def test_everything_that_trains_or_evaluates_refuses(heads):
    model, inputs, labels = compile_head(heads, "classes", "sparse_categorical_crossentropy")
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match="which expects probabilities"):
            call(inputs, labels)
    assert model.predict(inputs, verbose=0).shape == (B, C)
    accepted(heads, "classes", sparse())


def test_a_file_comes_back_compiled_with_its_optimizer(tmp_path, heads):
    accepted(heads, "classes", sparse())
    model, inputs, labels = heads["classes"]
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy", ["accuracy"])
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(11)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.compiled and int(loaded.optimizer.iterations) == 11
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for call in (loaded.fit, loaded.evaluate):
        with pytest.raises(ValueError, match="which expects probabilities"):
            call(inputs, labels)


def test_a_compile_of_ones_own_is_told_of_by_keras(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Own(models.BertClassifier):
        def compile(self, rate=0.1):
            super().compile(keras.optimizers.SGD(rate), sparse())

    model = Own(make_bert(), C)
    model.compile()
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="`compile.*was not called"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert getattr(loaded, "optimizer", None) is None


@pytest.mark.parametrize("room", [losses, metrics])
@pytest.mark.parametrize("kind", ["classes", "multi_label"])
def test_a_string_is_what_keras_makes_of_it(room, kind, heads):
    model, seen = heads[kind][0], set()
    for name in [*vars(room), "bce", "BCE", "kld", "KLD", "mse"]:
        try:
            thing = room.get(name)
        except (TypeError, ValueError):
            continue  # no name, or one that needs arguments
        if name in ("Accuracy", "get", "serialize", "deserialize"):
            continue  # the first is "accuracy", in the place of the class
        fits = []
        for given in (name, thing):
            if room is losses:
                model.compile("sgd", given)
            else:
                model.compile("sgd", FITTING[kind], metrics=[given])
            fits.append(model.unfit is None)
        assert fits[0] == fits[1], name
        seen.add(fits[0])
    assert seen == {True, False}


def test_no_metric_is_built_to_look_at_it(heads):
    """Keras numbers those that it builds, and the log would have other names."""
    number = int(metrics.AUC().name.partition("_")[2] or 0)
    heads["multi_label"][0].compile("sgd", binary(), metrics=["AUC", metrics.AUC])
    assert metrics.AUC().name == f"auc_{number + 1}"


def test_a_compile_without_metrics_has_none(heads):
    """Keras would go on with those of the compile before, which was refused."""
    compile_head(heads, "multi_label", binary(), of=["accuracy"])
    model, inputs, labels = compile_head(heads, "multi_label", binary())
    assert set(model.train_on_batch(inputs, labels, return_dict=True)) == {"loss"}
