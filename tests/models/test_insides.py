"""`hidden_states` and `attention_weights` of encoders and of heads over them."""

import conformance
import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import models

pytestmark = pytest.mark.portable

IDS = conformance.IDS
BERT = dict(conformance.BERT, num_layers=2, dropout_rate=0.3, attention_dropout_rate=0.3)
GPT = dict(conformance.GPT, num_layers=2, dropout_rate=0.3, attention_dropout_rate=0.3)


@pytest.fixture(scope="module")
def bert():
    return models.Bert(**BERT)


@pytest.fixture(scope="module")
def gpt():
    return models.Gpt(**GPT)


def close(found, expected):
    found, expected = map(ops.convert_to_numpy, (found, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_each_state_of_a_bert_is_what_the_next_block_reads(bert):
    states = bert.hidden_states(IDS)
    mask = ops.expand_dims(ops.convert_to_tensor(IDS != conformance.PAD), 1)
    assert len(states) == 3
    for block, state, behind in zip(bert.encoder_blocks, states, states[1:]):
        close(block(state, attention_mask=mask), behind)
    close(states[-1], bert(IDS)[0])
    shown = {"token_ids": IDS, "segment_ids": 0 * IDS, "attention_mask": 0 * IDS + 1}
    assert not np.allclose(bert.hidden_states(shown)[1], states[1])


def test_the_last_state_of_a_gpt_gives_its_logits(gpt):
    states = gpt.hidden_states(IDS)
    assert len(states) == 3
    close(gpt.logits(states[-1]), gpt(IDS))
    close(gpt.decoder_blocks[0](states[0], use_causal_mask=True)[0], states[1][0])


def test_attention_weights_are_shares_of_what_may_be_seen(bert, gpt):
    for weights in bert.attention_weights(IDS):
        weights = ops.convert_to_numpy(weights)
        assert weights.shape == (2, 3, 7, 7)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        assert (weights[1, :, :, 4:] == 0).all() and (weights[0] > 0).all()
    for weights in gpt.attention_weights(IDS):
        weights = ops.convert_to_numpy(weights)
        assert (np.triu(weights[0], 1) == 0).all() and (weights[0, :, 6] > 0).all()


def test_heads_give_those_of_their_encoder(bert):
    pretrainer = models.BertPretrainer(bert)
    inputs = {"token_ids": IDS, **conformance.PLACES}
    for name in ("hidden_states", "attention_weights"):
        for found, expected in zip(
            getattr(pretrainer, name)(inputs), getattr(bert, name)(IDS), strict=True
        ):
            close(found, expected)


def test_an_elmo_gives_its_layers_and_has_no_attention():
    elmo = models.Elmo(**conformance.ELMO_WORDS)
    states = elmo.hidden_states(IDS)
    for found, expected in zip(states, elmo(IDS), strict=True):
        close(found, expected)
    with pytest.raises(ValueError, match="Expected an encoder with attention.*Elmo"):
        elmo.attention_weights(IDS)


def test_bad_inputs_and_encoders_that_run_blocks_themselves_are_refused(bert, gpt):
    with pytest.raises(ValueError, match="Token ids must lie in 0 .. 30"):
        bert.hidden_states(np.array([[31]]))
    for model in (bert, gpt):
        with pytest.raises(ValueError, match=r"`token_ids` must have the shape \[B, T\].*\(3,\)"):
            model.hidden_states(np.array([5, 7, 3]))
    with pytest.raises(NotImplementedError, match="takes `run`.*Reader"):
        conformance.Reader().hidden_states(IDS)


def test_states_can_be_outputs_of_a_functional_model(bert):
    ids = keras.Input((7,), dtype="int32")
    model = keras.Model(ids, bert.hidden_states(ids))
    for found, expected in zip(model(IDS), bert.hidden_states(IDS), strict=True):
        close(found, expected)
