"""Heads over an encoder: what a call validates, and what is no encoder.

That every head goes over an encoder of a user is tested by `test_every_model.py`.
"""

import keras
import numpy as np
import pytest
from conformance import IDS, Reader
from keras import ops

from keras_xfmr import models
from keras_xfmr.models import Input, Inputs

pytestmark = pytest.mark.portable


def test_each_call_is_validated_once(monkeypatch):
    head, runs, check = models.Tagger(Reader()), [], Inputs.check
    monkeypatch.setattr(Inputs, "check", lambda self, inputs: (runs.append(1), check(self, inputs)))
    head(IDS)
    assert len(runs) == 1
    models.BertClassifier(models.Bert(31, d_model=6, num_heads=2, ffn_dim=7, num_layers=1))(IDS)
    assert len(runs) == 2


class Means(models.Encoder, keras.Model):
    """An encoder with the mixin alone, and with what a `Classifier` needs."""

    dropout_rate = 0.0

    def __init__(self):
        self.embedding = keras.layers.Embedding(31, 5)
        self.dense = keras.layers.Dense(5)
        self.declared_inputs = Inputs(
            Input("token_ids", "Token ids", 31),
            Input("attention_mask", "mask", default=lambda x: ops.ones_like(x["token_ids"])),
        )
        inputs = self.declared_inputs.symbolic()
        super().__init__(inputs, self.encode(**inputs))

    def encode(self, token_ids, attention_mask, training=None, run=None):
        shown = ops.cast(ops.expand_dims(attention_mask, -1), "float32")
        return self.dense(self.embedding(token_ids) * shown)

    def initializer(self):
        return "glorot_uniform"


def test_an_encoder_needs_no_other_mixin():
    encoder = Means()
    head = models.Classifier(encoder, 3)
    given = {"token_ids": IDS, "attention_mask": np.ones_like(IDS)}
    np.testing.assert_allclose(head(given), head(IDS), rtol=1e-6)
    head.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    head.fit(given, np.arange(len(IDS)), verbose=0)
    (last,) = head.hidden_states(IDS)
    np.testing.assert_allclose(last, encoder(given), rtol=1e-6)
    with pytest.raises(ValueError, match="Token ids must lie in 0 .. 30"):
        encoder.hidden_states(IDS + 31)


def test_a_causal_encoder_has_no_vector_in_its_first_position():
    gpt = models.Gpt(31, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, max_length=7)
    with pytest.raises(ValueError, match="attends only to itself"):
        models.Embedder(gpt, pooling="cls")


def test_an_encoder_without_padding_leaves_out_the_label_minus_one():
    gpt = models.Gpt(31, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, max_length=7)
    model = models.MaskedLanguageModel(gpt, next_sentence=False)
    assert model.described_outputs()["mlm"].padding == -1


def test_a_user_s_model_with_two_tasks_on_one_encoder_comes_back_from_a_file(tmp_path):
    """The way out that `Bert` names: two heads in one model are an error of Keras at loading."""
    bert = models.Bert(31, d_model=6, num_heads=2, ffn_dim=7, num_layers=1)
    inputs = {"token_ids": keras.Input((None,), dtype="int32", name="token_ids")}

    def save(outputs):
        model = keras.Model(inputs, outputs)
        model.save(tmp_path / "model.keras")
        return model

    sequence, pooled = bert(inputs)
    model = save([keras.layers.Dense(3)(pooled), keras.layers.Dense(5)(sequence)])
    again = keras.saving.load_model(tmp_path / "model.keras")
    for found, expected in zip(again({"token_ids": IDS}), model({"token_ids": IDS}), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    save([models.Classifier(bert)(inputs), models.Tagger(bert)(inputs)])
    with pytest.raises((ValueError, UserWarning)):  # where it loads, the docstring is out of date
        keras.saving.load_model(tmp_path / "model.keras")


def test_what_is_no_encoder_is_refused():
    with pytest.raises(TypeError, match="`encoder` must be an encoder, such as .*Bert"):
        models.Classifier(keras.layers.Dense(3))
    with pytest.raises(TypeError, match="`bert` must be an encoder, such as .*Bert"):
        models.BertClassifier(keras.layers.Dense(3))
