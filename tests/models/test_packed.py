"""Several documents in one row: each has the vectors, logits and gradients that it has alone.

B rows, T length, N documents, P predictions, D d_model, V vocab_size, C classes
"""

import keras
import numpy as np
import pytest
from conformance import draw_weights
from keras import ops

from keras_xfmr import kernels, models, training

pytestmark = pytest.mark.portable

T, D, V, C, PAD = 11, 6, 31, 5, 1
SIZES = dict(d_model=D, num_heads=2, ffn_dim=7, num_layers=1, max_length=13, pad_token_id=PAD)
STILL = dict(dropout_rate=0.0, attention_dropout_rate=0.0)
RNG = np.random.default_rng(3)
DOCUMENTS = [RNG.integers(2, V, size) for size in (3, 5, 2, 7, 1)]
SEGMENTS = [RNG.integers(0, 2, document.size) for document in DOCUMENTS]
PLACES = [(0, 0), (0, 3), (0, 8), (1, 0), (1, 7)]  # row and first position of each
LABELS = np.array([4, 0, 3, 1, 1])


def packed_rows():
    rows = {
        "token_ids": np.full((2, T), PAD),
        "segment_ids": np.zeros((2, T), int),
        "document_ids": np.zeros((2, T), int),
    }
    for number, (document, segments, (row, start)) in enumerate(zip(DOCUMENTS, SEGMENTS, PLACES)):
        place = row, slice(start, start + document.size)
        rows["token_ids"][place] = document
        rows["segment_ids"][place] = segments
        rows["document_ids"][place] = 1 + number  # any numbers that differ in a row
    return rows


ROWS = packed_rows()
PACKED = {**ROWS, "document_starts": np.array([*PLACES, (0, 0), (0, 0)])}
PADDED = np.concatenate([LABELS, [-1, -1]])


def bert(**options):
    return draw_weights(models.Bert(V, **{**SIZES, **STILL, **options}))


@pytest.fixture(scope="module")
def encoders():
    """Without packing, and with it; weights are the same."""
    return bert(), bert(packed=True)


@pytest.fixture(scope="module")
def classifiers(encoders):
    return [draw_weights(models.BertClassifier(encoder, C), seed=5) for encoder in encoders]


def alone(model, index):
    inputs = {"token_ids": DOCUMENTS[index][None], "segment_ids": SEGMENTS[index][None]}
    return model({**inputs, "attention_mask": np.ones_like(inputs["token_ids"])})


def numbers(x):
    return ops.convert_to_numpy(x)


def test_vectors_are_those_of_documents_alone(encoders):
    plain, packed = encoders
    sequence, _ = packed(ROWS)
    for index, (row, start) in enumerate(PLACES):
        expected = numbers(alone(plain, index)[0])[0]
        found = numbers(sequence)[row, start : start + len(expected)]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_logits_are_those_of_documents_alone(classifiers):
    plain, packed = classifiers
    expected = np.concatenate([numbers(alone(plain, i)) for i in range(len(DOCUMENTS))])
    logits = numbers(packed(PACKED))
    assert logits.shape == (7, C)
    np.testing.assert_allclose(logits[:5], expected, rtol=1e-5, atol=1e-5)


def test_logits_of_tokens_and_of_masked_words_are_those_of_documents_alone(encoders):
    plain, packed = encoders
    tagger, packed_tagger = (
        draw_weights(models.Tagger(encoder, C), seed=7) for encoder in encoders
    )
    words, packed_words = (
        draw_weights(models.MaskedLanguageModel(encoder, next_sentence=False), seed=7)
        for encoder in encoders
    )
    document, (row, start) = DOCUMENTS[1][None], PLACES[1]
    inputs = {"token_ids": document, "segment_ids": SEGMENTS[1][None]}
    tags = numbers(packed_tagger(ROWS))[row, start : start + document.size]
    np.testing.assert_allclose(tags, numbers(tagger(inputs))[0], rtol=1e-5, atol=1e-5)
    places = np.array([[2, 4]])
    expected = words({**inputs, "masked_positions": places})["mlm"]
    found = packed_words({**ROWS, "masked_positions": np.array([start + places[0], [0, 0]])})["mlm"]
    np.testing.assert_allclose(numbers(found)[row], numbers(expected)[0], rtol=1e-5, atol=1e-5)


def test_rows_of_one_document_need_no_numbers(encoders, classifiers):
    rows = {name: ROWS[name] for name in ("token_ids", "segment_ids")}
    shown = rows["token_ids"] != PAD
    sequence, packed_sequence = (numbers(encoder(rows)[0])[shown] for encoder in encoders)
    np.testing.assert_allclose(packed_sequence, sequence, rtol=1e-5, atol=1e-5)
    logits, packed_logits = (numbers(model(rows)) for model in classifiers)
    np.testing.assert_allclose(packed_logits, logits, rtol=1e-5, atol=1e-5)


def test_what_a_mask_hides_is_in_no_document(encoders):
    _, packed = encoders
    mask = np.ones_like(ROWS["token_ids"])
    mask[0, 6:8] = 0  # the last two tokens of the second document
    others = np.where(mask, ROWS["token_ids"], 17)
    one, other = (
        numbers(packed({**ROWS, "token_ids": ids, "attention_mask": mask})[0])
        for ids in (ROWS["token_ids"], others)
    )
    np.testing.assert_array_equal(one[mask == 1], other[mask == 1])


@pytest.mark.requires_tensorflow
def test_loss_and_gradients_are_those_of_a_batch_of_documents(classifiers):
    import tensorflow as tf

    plain, packed = classifiers
    loss, rows = training.MaskedCrossEntropy(pad_id=-1), np.full((5, 7), PAD)
    segments = np.zeros_like(rows)
    for row, (document, parts) in enumerate(zip(DOCUMENTS, SEGMENTS)):
        rows[row, : document.size], segments[row, : document.size] = document, parts
    inputs = {"token_ids": rows, "segment_ids": segments}
    found = []
    for model, given, labels in ((plain, inputs, LABELS), (packed, PACKED, PADDED)):
        with tf.GradientTape() as tape:
            value = loss(labels, model(given))
        gradients = tape.gradient(value, model.trainable_weights)
        found.append([value, *map(tf.convert_to_tensor, gradients)])
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_long_rows_of_many_documents():
    """Of so many positions that attention is computed in blocks."""
    length, size = 1031, 7
    numbers_of = np.arange(length) // size + 1
    ids = 2 + np.arange(length) % (size * 4)
    plain, packed = (bert(max_length=length, packed=packed) for packed in (False, True))
    found = numbers(packed({"token_ids": ids[None], "document_ids": numbers_of[None]})[0])[0]
    whole = length // size * size
    expected = numbers(plain(ids[:whole].reshape(-1, size))[0]).reshape(whole, D)
    np.testing.assert_allclose(found[:whole], expected, rtol=1e-5, atol=1e-5)


def test_an_encoder_without_pooler_gives_the_first_vectors():
    encoder = bert(pooler=False, packed=True)
    model = draw_weights(models.Classifier(encoder, C))
    sequence = numbers(encoder(ROWS)[0])
    first = sequence[tuple(np.transpose(PLACES))]
    expected = numbers(model.classifier(first))
    np.testing.assert_allclose(numbers(model(PACKED))[:5], expected, rtol=1e-5, atol=1e-5)


def compiled(model, **options):
    metrics = [training.MaskedAccuracy(pad_id=-1)]
    model.compile("sgd", training.MaskedCrossEntropy(pad_id=-1), metrics=metrics, **options)
    return model


@pytest.mark.requires_tensorflow
def test_data_sets_of_documents_are_fitted_evaluated_and_predicted():
    import tensorflow as tf

    model = compiled(models.BertClassifier(bert(packed=True), C))
    data = tf.data.Dataset.from_tensors((PACKED, PADDED)).repeat(2)
    before = numbers(model(PACKED))
    np.testing.assert_allclose(model.predict(data, verbose=0)[:7], before, rtol=1e-5, atol=1e-5)
    hits = np.mean(before[:5].argmax(-1) == LABELS)
    assert model.evaluate(data, verbose=0)[1] == pytest.approx(hits)
    losses = model.fit(data, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    outside = {**PACKED, "document_starts": np.array([[1, 0], [2, 0]])}
    bad = tf.data.Dataset.from_tensors((outside, PADDED[:2]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Rows of `document_starts`.* 0 .. 1"):
        model.predict(bad, verbose=0)


def test_a_file_keeps_the_packing_and_takes_the_weights_of_a_model_without(classifiers, tmp_path):
    plain, packed = classifiers
    packed.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numbers(loaded(PACKED)), numbers(packed(PACKED)))
    plain.save_weights(tmp_path / "plain.weights.h5")
    fresh = models.BertClassifier(models.Bert(V, packed=True, **SIZES), C)
    fresh.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_array_equal(numbers(fresh(PACKED)), numbers(packed(PACKED)))
    plain.bert.save_pretrained(tmp_path / "hub")
    found = models.Bert.from_pretrained(tmp_path / "hub", packed=True)
    expected = numbers(packed.bert(ROWS)[0])
    np.testing.assert_allclose(numbers(found(ROWS)[0]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "starts, message",
    [
        ([[2, 0]], r"Rows of `document_starts` must lie in 0 .. 1\. .*from 2 to 2"),
        ([[1, 0], [0, T]], r"Positions of `document_starts` must lie in 0 .. 10\. .*from 0 to 11"),
        ([[0, -1]], r"Positions of `document_starts` must lie in 0 .. 10\. .*from -1 to -1"),
        ([0, 3], r"`document_starts` must have the shape \[N, 2\]. Received: shape \(2,\)"),
        ([[0.5, 1.0]], r"`document_starts` must be integers"),
    ],
)
def test_starts_that_are_no_places_are_refused(starts, message, classifiers):
    with pytest.raises(ValueError, match=message):
        classifiers[1]({**ROWS, "document_starts": np.array(starts)})


def test_inputs_of_a_packed_model_are_unknown_to_others(encoders, classifiers):
    with pytest.raises(ValueError, match="document_ids is an input of encoders with packed=True"):
        encoders[0](ROWS)
    with pytest.raises(ValueError, match="document_starts is an input of a Classifier over"):
        models.Tagger(encoders[1])(PACKED)
    with pytest.raises(ValueError, match="`document_ids` must have the shape of `token_ids`"):
        encoders[1]({**ROWS, "document_ids": ROWS["document_ids"][:, :7]})


def test_arrays_that_keras_would_cut_are_refused(classifiers):
    model, labels = compiled(classifiers[1], run_eagerly=True, jit_compile=False), PADDED[:2]
    arrays = {**PACKED, "document_starts": PACKED["document_starts"][:2]}  # as many as rows
    message = "`document_starts` counts documents.*batches, such as"
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            call(arrays, labels, verbose=0)
    with pytest.raises(ValueError, match=message):
        model.predict(arrays, verbose=0)
    assert np.isfinite(model.test_on_batch(PACKED, PADDED)).all()


def test_several_replicas_are_refused(classifiers, monkeypatch):
    monkeypatch.setattr(kernels, "replicas", lambda: 2)
    with pytest.raises(ValueError, match="cannot split them together. Expected one replica"):
        classifiers[1](PACKED)
    classifiers[1](ROWS)  # a document a row


@pytest.mark.parametrize(
    "head, message",
    [
        (models.Embedder, "Embedder gives one vector for each row.*packed=False"),
        (models.BertSpanPredictor, "BertSpanPredictor gives one answer for each row.*packed=False"),
        (models.BertPretrainer, "Next sentences .* next_sentence=False"),
    ],
)
def test_heads_of_whole_rows_are_refused(head, message, encoders):
    with pytest.raises(ValueError, match=message):
        head(encoders[1])
