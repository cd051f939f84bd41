"""What a model is given in any of the forms that Keras takes, looked at before a compiled step.

B batch, T length, V vocab_size
"""

import keras
import numpy as np
import pytest

from keras_xfmr import models

pytestmark = pytest.mark.portable

B, T, V = 2, 5, 23
SIZES = dict(d_model=6, num_heads=2, ffn_dim=7, num_layers=0)
IDS = np.full((B, T), 7)
BAD = np.full((B, T), V)
IDS_MESSAGE = r"Token ids must lie in 0 .. 22. Received: token ids from 23 to 23"


def make_bert(**arguments):
    return models.Bert(V, max_length=T, **{**SIZES, **arguments})


def compiled(model, loss):
    model.compile("sgd", loss, run_eagerly=True, jit_compile=False)
    return model


def classifier():
    return compiled(models.BertClassifier(make_bert(), 3), logits_loss())


def logits_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def span_predictor():
    losses = {"start": logits_loss(), "end": logits_loss()}
    return compiled(models.BertSpanPredictor(make_bert()), losses)


class Batches(keras.utils.PyDataset):
    def __init__(self, ids, labels, **kwargs):
        super().__init__(**kwargs)
        self.batch, self.ended = (ids, labels), 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.batch

    def on_epoch_end(self):
        self.ended += 1


def generator(ids, labels):
    for _ in range(3):
        yield ids, labels


@pytest.mark.parametrize("form", [Batches, generator])
def test_batches_that_python_makes_are_looked_at(form):
    model, labels = classifier(), np.zeros(B, "int32")
    with pytest.raises(ValueError, match=IDS_MESSAGE):
        model.fit(form(BAD, labels), verbose=0, shuffle=False)
    with pytest.raises(ValueError, match=r"Labels must lie in 0 .. 2\b.*from 3 to 3"):
        model.evaluate(form(IDS, labels + 3), verbose=0)
    with pytest.raises(ValueError, match=IDS_MESSAGE):
        model.fit(IDS, labels, validation_data=form(BAD, labels), verbose=0)
    data = form(IDS, labels)
    history = model.fit(data, steps_per_epoch=3, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"][0])
    assert getattr(data, "ended", 1) >= 1


def test_validation_data_by_position_are_looked_at():
    model, labels = classifier(), np.zeros(B, "int32")
    batch_size, epochs, verbose, callbacks, split = 2, 1, 0, None, 0.0
    with pytest.raises(ValueError, match=IDS_MESSAGE):
        validation = Batches(BAD, labels)
        model.fit(IDS, labels, batch_size, epochs, verbose, callbacks, split, validation)


class Foreign:
    """An array of another library, such as a tensor of PyTorch."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __array__(self, *args, **kwargs):
        return self.values


def test_arrays_of_another_library_are_looked_at():
    with pytest.raises(ValueError, match=IDS_MESSAGE):
        classifier().fit(Foreign(BAD), np.zeros(B, "int32"), verbose=0)


def test_labels_of_a_span_have_their_names():
    model = span_predictor()
    with pytest.raises(ValueError, match="`end` must lie in 0 .. 4.*from 99 to 99"):
        model.fit(IDS, {"start": np.full(B, 1), "end": np.full(B, 99)}, verbose=0)
    with pytest.raises(ValueError, match="must be a dictionary of `start` and `end`.*Keras sorts"):
        model.fit(IDS, [np.full(B, 1), np.full(B, 4)], verbose=0)


def test_labels_of_unlike_shapes_may_come_in_their_order():
    model = models.BertPretrainer(make_bert())
    compiled(model, {"mlm": logits_loss(), "nsp": logits_loss()})
    inputs = {"token_ids": IDS, "masked_positions": np.ones((B, 3), "int32")}
    labels = {"mlm": np.ones((B, 3), "int32"), "nsp": np.zeros(B, "int32")}
    in_order = [labels["mlm"], labels["nsp"]]
    assert np.isfinite(model.fit(inputs, in_order, verbose=0).history["loss"][0])
    labels["mlm"][0, 0] = V
    with pytest.raises(ValueError, match="`mlm` must lie in 0 .. 22"):
        model.fit(inputs, in_order, verbose=0)


@pytest.mark.requires_tensorflow
def test_labels_in_their_order_are_looked_at_in_a_data_set():
    import tensorflow as tf

    model = models.BertPretrainer(make_bert())
    compiled(model, {"mlm": logits_loss(), "nsp": logits_loss()})
    inputs = {"token_ids": IDS, "masked_positions": np.ones((B, 3), "int32")}
    data = tf.data.Dataset.from_tensors((inputs, (np.full((B, 3), V), np.zeros(B, "int32"))))
    with pytest.raises(tf.errors.InvalidArgumentError, match="`mlm` must lie in 0 .. 22"):
        model.fit(data, verbose=0, shuffle=False)
    spans = tf.data.Dataset.from_tensors((IDS, (np.full(B, 1), np.full(B, 1))))
    with pytest.raises(ValueError, match="must be a dictionary of `start` and `end`"):
        span_predictor().fit(spans, verbose=0, shuffle=False)


def test_a_model_is_not_quantized():
    for model in (make_bert(), classifier(), models.Transformer(V, **SIZES)):
        with pytest.raises(NotImplementedError, match=f"{type(model).__name__} cannot be quanti"):
            model.quantize("int8")


LONG = np.full((B, T + 1), 7)


@pytest.mark.requires_tensorflow
def test_rows_of_a_data_set_longer_than_the_positions_are_named():
    import tensorflow as tf

    model = classifier()
    rows = tf.data.Dataset.from_generator(
        lambda: iter([(LONG, np.zeros(B, "int32"))]),
        output_signature=(tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)),
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="Positions of `token_ids` must lie"):
        model.fit(rows, verbose=0, shuffle=False)


def token_classifier():
    return compiled(models.BertTokenClassifier(make_bert(), 3), logits_loss())


@pytest.mark.requires_tensorflow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras learns the length so
def test_the_loss_of_data_of_unknown_length_is_that_of_its_batches():
    """Keras without XLA runs the step in which the data end, and would count its loss as 0."""
    import tensorflow as tf

    model = models.BertClassifier(make_bert(), 3)
    model.compile("sgd", logits_loss(), jit_compile=False)
    data = tf.data.Dataset.from_tensors((IDS, np.array([0, 2]))).repeat(3)
    unknown = data.filter(lambda *batch: True)
    expected = model.evaluate(data, verbose=0)
    np.testing.assert_allclose(model.evaluate(unknown, verbose=0), expected, rtol=1e-6)
    history = model.fit(unknown, verbose=0, shuffle=False, validation_data=unknown).history
    expected = model.evaluate(data, verbose=0)
    np.testing.assert_allclose(history["val_loss"], [expected], rtol=1e-6)


def test_weights_of_classes_are_for_one_label_a_row():
    classifier().fit(IDS, np.array([0, 2]), class_weight={0: 1.0, 1: 2.0, 2: 1.0}, verbose=0)
    with pytest.raises(ValueError, match=r"per token. Pass weights \[B, T\] as `sample_weight`"):
        token_classifier().fit(IDS, np.ones((B, T)), class_weight={1: 2.0}, verbose=0)


@pytest.mark.parametrize("labels, message", [
    (np.array([0.4, 1.9]), "Labels must be integers"),
    (np.array(["good", "bad"]), "`labels` must be numbers, such as .*Received: texts"),
    (["good", "bad"], "`labels` must be numbers, such as .*Received: texts"),
])  # fmt: skip
def test_labels_that_are_no_numbers_of_classes_are_refused(labels, message):
    model = classifier()
    for call in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(ValueError, match=message):
            call(IDS, labels)


@pytest.mark.requires_tensorflow
def test_labels_in_a_data_set_that_are_no_numbers_of_classes_are_refused():
    import tensorflow as tf

    model = classifier()
    with pytest.raises(ValueError, match="Labels must be numbers. Received: texts"):
        model.fit(tf.data.Dataset.from_tensors((IDS, ["good", "bad"])))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels .*integers. Received: .1.9"):
        model.fit(tf.data.Dataset.from_tensors((IDS, [1.0, 1.9])), verbose=0, shuffle=False)


def test_one_class_may_be_a_regression():
    model = models.BertClassifier(make_bert(), 1)
    fitted = compiled(model, "mse").fit(IDS, np.array([-0.5, 7.3]), verbose=0)
    assert np.isfinite(fitted.history["loss"][0])


def test_labels_of_several_classes_are_yes_or_no():
    model = models.BertClassifier(make_bert(), 3, multi_label=True)
    compiled(model, keras.losses.BinaryCrossentropy(from_logits=True))
    assert np.isfinite(model.fit(IDS, np.eye(3)[:B], verbose=0).history["loss"][0])
    for wrong in (7, 1.5, -1):
        with pytest.raises(ValueError, match="Labels must lie in 0 .. 1 .0 or 1 for each class"):
            model.fit(IDS, np.full((B, 3), wrong), verbose=0)
    smoothed = 0.1 + 0.8 * np.eye(3, dtype="float16")[:B]
    assert np.isfinite(model.fit(IDS, smoothed, verbose=0).history["loss"][0])
