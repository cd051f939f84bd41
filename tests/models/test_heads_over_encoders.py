"""Heads over an encoder: what a call validates, and what is no encoder.

That every head goes over an encoder of a user is tested by `test_every_model.py`.
"""

import keras
import pytest
from conformance import IDS, Reader

from keras_xfmr import models
from keras_xfmr.models.core.inputs import Inputs

pytestmark = pytest.mark.portable


def test_each_call_is_validated_once(monkeypatch):
    head, runs, check = models.Tagger(Reader()), [], Inputs.check
    monkeypatch.setattr(Inputs, "check", lambda self, inputs: (runs.append(1), check(self, inputs)))
    head(IDS)
    assert len(runs) == 1
    models.BertClassifier(models.Bert(31, d_model=6, num_heads=2, ffn_dim=7, num_layers=1))(IDS)
    assert len(runs) == 2


def test_a_causal_encoder_has_no_vector_in_its_first_position():
    gpt = models.Gpt(31, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, max_length=7)
    with pytest.raises(ValueError, match="sees itself alone"):
        models.Embedder(gpt, pooling="cls")


def test_an_encoder_without_padding_leaves_out_the_label_minus_one():
    gpt = models.Gpt(31, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, max_length=7)
    model = models.MaskedLanguageModel(gpt, next_sentence=False)
    assert model.described_outputs()["mlm"].padding == -1


def test_what_is_no_encoder_is_refused():
    with pytest.raises(TypeError, match="`encoder` must be an encoder, such as .*Bert"):
        models.Classifier(keras.layers.Dense(3))
    with pytest.raises(TypeError, match="`bert` must be an encoder, such as .*Bert"):
        models.BertClassifier(keras.layers.Dense(3))
