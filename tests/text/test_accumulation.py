"""Small batches that are together one large batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import models, training
from keras_xfmr.text import accumulate

IDS = np.random.default_rng(3).integers(1, 13, size=(10, 7))
LENGTHS = np.array([7, 1, 1, 2, 6, 1, 5, 3, 1, 7])
LABELS = np.where(np.arange(7) < LENGTHS[:, None], IDS, -1)


def trained(data, steps, validation):
    """The weights and the history of a `Gpt` after two epochs."""
    keras.utils.set_random_seed(5)
    model = models.Gpt(
        13, d_model=6, num_heads=3, ffn_dim=11, num_layers=1, max_length=7, dropout_rate=0.0,
        attention_dropout_rate=0.0,
    )  # fmt: skip
    optimizer = training.AdamW(
        1e-2, epsilon=1e-3, gradient_accumulation_steps=steps if steps > 1 else None
    )
    model.compile(optimizer, training.MaskedCrossEntropy(pad_id=-1, reduction="sum"))
    history = model.fit(data, epochs=2, validation_data=validation, verbose=0, shuffle=False)
    return model.get_weights(), history.history


@pytest.mark.slow
def test_small_batches_train_as_the_large_one_whatever_their_padding():
    data = tf.data.Dataset.from_tensor_slices((IDS, LABELS))
    whole = accumulate(data.batch(10), 1, pad_id=-1)
    wanted, history = trained(whole, 1, whole)
    for small, steps in ((2, 5), (3, 4), (4, 5)):  # the last two with copies of no weight
        found, other = trained(accumulate(data.batch(small), steps, pad_id=-1), steps, whole)
        for a, b in zip(wanted, found):
            np.testing.assert_allclose(a, b, atol=1e-6)
        if small == 2:  # Keras weighs the loss of a batch by its rows
            np.testing.assert_allclose(other["loss"], history["loss"], rtol=1e-6)
        np.testing.assert_allclose(other["val_loss"], history["val_loss"], rtol=1e-6)


def test_weights_count_the_tokens_of_all_batches_of_an_update():
    data = tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(4)
    rows = list(accumulate(data, 2, pad_id=-1))
    counts = [LENGTHS[:8].sum()] * 2 + [LENGTHS[8:].sum()] * 2
    inside = [*np.split(LABELS[:8] >= 0, 2), LABELS[8:] >= 0, np.zeros([2, 7])]
    for (_, _, weights), count, shown in zip(rows, counts, inside, strict=True):
        np.testing.assert_allclose(weights, shown * 2 / count)


@pytest.mark.slow
def test_rows_of_several_classes_have_one_weight_each():
    classes = np.random.default_rng(5).integers(0, 2, (10, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((IDS, classes))
    found = []
    for size, steps in ((10, 1), (4, 3)):
        keras.utils.set_random_seed(5)
        bert = models.Bert(13, d_model=6, num_heads=3, ffn_dim=11, num_layers=1, max_length=7,
                           dropout_rate=0.0, attention_dropout_rate=0.0)  # fmt: skip
        model = models.BertClassifier(bert, 3, multi_label=True, dropout_rate=0.0)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        optimizer = keras.optimizers.SGD(gradient_accumulation_steps=steps if steps > 1 else None)
        model.compile(optimizer, training.GlobalMean(loss, reduction="sum"))
        model.fit(accumulate(data.batch(size), steps, pad_id=None), shuffle=False, verbose=0)
        found.append(model.get_weights())
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_named_labels_have_weights_and_padding_of_their_own():
    labels = {"mlm": np.array([[3, 0], [0, 0], [5, 7]]), "nsp": np.array([0, 1, 1])}
    weights = {"mlm": np.array([1.0, 1.0, 3.0]), "nsp": np.array([2.0, 1.0, 0.0])}
    data = tf.data.Dataset.from_tensor_slices((np.zeros([3, 1]), labels, weights)).batch(1)
    rows = list(accumulate(data, 2, pad_id={"mlm": 0, "nsp": -1}))
    found = {name: [row[2][name].numpy().ravel().tolist() for row in rows] for name in labels}
    assert found == {
        "mlm": [[2.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]],
        "nsp": [[pytest.approx(4 / 3)], [pytest.approx(2 / 3)], [0.0], [0.0]],
    }
    assert int(accumulate(data, 2, pad_id=0).cardinality()) == 4


@pytest.mark.parametrize("axes", [(5, 7, 1), (5, 7), (5, 1), (5,)])
def test_weights_have_the_axes_that_losses_take(axes):
    given = np.random.default_rng(4).uniform(size=axes)
    data = tf.data.Dataset.from_tensor_slices((IDS[:5], LABELS[:5], given)).batch(5)
    ((_, _, weights),) = accumulate(data, 1, pad_id=-1)
    expected = np.where(LABELS[:5] < 0, 0, given.reshape(5, -1))
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-6)


def test_a_label_of_an_unsigned_type_is_not_the_padding_that_it_cannot_be():
    labels = np.array([0, 255, 3], "uint8")
    data = tf.data.Dataset.from_tensor_slices((np.zeros(3), labels)).batch(3)
    ((_, _, weights),) = accumulate(data, 1, pad_id=-1)
    np.testing.assert_allclose(weights, [1 / 3] * 3)


@pytest.mark.parametrize(
    ("given", "pad_id", "steps", "complaint"),
    [
        (([1.0], [1]), 0, 0, "`steps` must be a positive integer"),
        (([1.0], [1]), {"mlm": 0}, 2, "one for each of the labels"),
        (([1.0], ([1], [2])), (0, -1), 2, r"`pad_id` must be .* Received: \(0, -1\)"),
        (([1.0], {"mlm": [1]}), {"mlm": 0.5}, 2, "mlm.* must be .* Received: 0.5"),
        (([1.0], [1], [[[1.0]]]), 0, 2, r"\[B, T, 1\].* Received: weights of shape \(None, 1, 1\)"),
        ([1.0], 0, 2, "a data set of"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, pad_id, steps, complaint):
    with pytest.raises(ValueError, match=complaint):
        accumulate(tf.data.Dataset.from_tensor_slices(given).batch(1), steps, pad_id=pad_id)
