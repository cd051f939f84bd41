"""GptClassifier: the vector that it reads, its two losses, what a file holds.

B 2, T 5 and 7, D 6, V 29, C 3
"""

import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import models, training

pytestmark = pytest.mark.portable
V, C = 29, 3
IDS = np.array([[5, 7, 3, 11, 2], [9, 4, 2, 0, 0]], "int32")
MASK = (IDS != 0).astype("int32")
LM = np.array([[7, 3, 11, 2, -1], [4, 2, -1, -1, -1]])


def make(**options):
    keras.utils.set_random_seed(7)
    gpt = models.Gpt(
        V, d_model=6, num_heads=2, ffn_dim=7, num_layers=2, max_length=13, initializer_range=0.5,
        pad_id=0, start_id=1, end_id=2,
    )  # fmt: skip
    return models.GptClassifier(gpt, **{"num_classes": C, **options})


@pytest.fixture(scope="module")
def model():
    return make()


def numpy_of(outputs):
    return keras.tree.map_structure(ops.convert_to_numpy, outputs)


def test_classes_are_read_from_the_last_token_and_the_language_model_is_that_of_the_gpt(model):
    found = numpy_of(model(IDS))
    assert {name: value.shape for name, value in found.items()} == {
        "classes": (2, C), "lm": (2, 5, V),
    }  # fmt: skip
    gpt = model.gpt
    np.testing.assert_allclose(found["lm"], numpy_of(gpt(IDS)), rtol=1e-5, atol=1e-5)
    inputs = {"token_ids": IDS, "attention_mask": MASK, "document_ids": np.ones_like(IDS)}
    vectors = numpy_of(gpt.encode(**inputs))
    kernel = numpy_of(model.classifier.kernel)
    for row, last in enumerate((4, 2)):
        np.testing.assert_allclose(
            found["classes"][row], vectors[row, last] @ kernel, rtol=1e-4, atol=1e-5
        )
    assert model.classifier.bias is None
    # The head of any encoder over the same `Gpt`, without the language model.
    plain = models.Classifier(gpt, num_classes=C)
    plain.classifier.kernel.assign(kernel)
    np.testing.assert_allclose(numpy_of(plain(IDS)), found["classes"], rtol=1e-5, atol=1e-5)


def classes_of(model, ids, mask=None):
    return numpy_of(model({"token_ids": ids, "attention_mask": mask}))["classes"]


def test_padding_changes_nothing_and_the_last_token_does(model):
    expected = classes_of(model, IDS)
    wider = np.pad(IDS, [(0, 0), (0, 2)], constant_values=13)
    mask = np.pad(MASK, [(0, 0), (0, 2)])
    np.testing.assert_allclose(classes_of(model, wider, mask), expected, rtol=1e-4, atol=1e-5)
    in_front = np.roll(wider, 2, axis=1), np.roll(mask, 2, axis=1)
    np.testing.assert_allclose(classes_of(model, *in_front), expected, rtol=1e-4, atol=1e-5)
    for place in (0, 2):
        changed = IDS.copy()
        changed[1, place] = 17
        found = classes_of(model, changed)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
        assert np.abs(found[1] - expected[1]).max() > 1e-2


def compiled(model, **options):
    model.compile(
        keras.optimizers.SGD(0.1),
        loss={
            "classes": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "lm": training.MaskedCrossEntropy(pad_id=-1),
        },
        loss_weights={"lm": 0.5},
        metrics={
            "classes": keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            "lm": training.MaskedPerplexity(pad_id=-1),
        },
        **options,
    )
    return model


def nats(logits, labels):
    logits = logits.astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], -1)[..., 0]
    return -chosen[labels >= 0].mean()


def test_the_loss_is_the_sum_of_both(model):
    labels = {"classes": np.array([2, 0]), "lm": LM}
    logits = numpy_of(model(IDS))
    classes, words = (nats(logits[name], labels[name]) for name in ("classes", "lm"))
    found = compiled(model, run_eagerly=True).evaluate(IDS, labels, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(classes + 0.5 * words, rel=1e-4)
    assert found["classes_loss"] == pytest.approx(classes, rel=1e-4)
    assert found["lm_perplexity"] == pytest.approx(np.exp(words), rel=1e-4)
    right = np.mean(logits["classes"].argmax(-1) == labels["classes"])
    assert found["classes_accuracy"] == pytest.approx(right)


@pytest.mark.parametrize("labels, message", [
    ({"classes": np.array([0, C]), "lm": LM}, "Labels of `classes` must lie in 0 .. 2"),
    ({"classes": np.array([0, 1]), "lm": LM + V}, "Labels of `lm` must lie in 0 .. 28"),
    ((np.array([0, C]), LM), "Labels of `classes` must lie in 0 .. 2"),
])  # fmt: skip
def test_labels_are_validated(model, labels, message):
    with pytest.raises(ValueError, match=message):
        compiled(model, run_eagerly=True).fit(IDS, labels, verbose=0)


@pytest.mark.parametrize("name, loss, message", [
    ("classes", "sparse_categorical_crossentropy", "output `classes` of GptClassifier.*probabil"),
    ("lm", training.MaskedCrossEntropy(pad_id=5), "output `lm`.*leaves out the label 5, a token"),
])  # fmt: skip
def test_losses_that_do_not_fit_are_refused(model, name, loss, message):
    model.compile("sgd", loss={name: loss})
    with pytest.raises(ValueError, match=message):
        model.fit(IDS, {"classes": np.array([0, 1]), "lm": LM}, verbose=0)


def test_several_classes_at_once():
    model = make(multi_label=True)
    entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile("sgd", loss={"classes": entropy, "lm": training.MaskedCrossEntropy(pad_id=-1)})
    classes = np.array([[1, 0, 1], [0, 0, 2]])
    with pytest.raises(ValueError, match="Labels of `classes` must lie in 0 .. 1 .*each class"):
        model.evaluate(IDS, {"classes": classes, "lm": LM}, verbose=0)


def test_a_file_holds_it_all(tmp_path):
    model = make(labels=["a", "b", "c"], dropout_rate=0.3)
    model.gpt.freeze(1)
    model.gpt.enable_lora(2, targets=["query"])
    compiled(model, run_eagerly=True)
    model.fit(IDS, {"classes": np.array([2, 0]), "lm": LM}, verbose=0)
    model.save(tmp_path / "model.keras")
    back = keras.models.load_model(tmp_path / "model.keras")
    assert type(back.gpt) is models.Gpt and back.get_config() == model.get_config()
    trained = [weight.path for weight in model.trainable_weights]
    assert [weight.path for weight in back.trainable_weights] == trained and len(trained) == 3
    keras.tree.map_structure(
        np.testing.assert_array_equal, numpy_of(back(IDS)), numpy_of(model(IDS))
    )
    rates = model.gpt.layer_learning_rates(0.5)
    assert rates["decoder_1"] == 0.5 and rates["position_embedding"] == 0.125


def test_what_is_no_gpt_is_refused():
    bert = models.Bert(V, d_model=6, num_heads=2, ffn_dim=7, num_layers=0)
    with pytest.raises(TypeError, match="`gpt` must be a keras_xfmr.models.Gpt. Received"):
        models.GptClassifier(bert)
