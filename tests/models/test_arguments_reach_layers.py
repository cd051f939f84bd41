"""What a model is given arrives in its layers: a rate that is lost changes no shape."""

import pytest

from keras_xfmr import models

pytestmark = pytest.mark.portable
SIZES = dict(d_model=6, num_heads=2, ffn_dim=7, num_layers=1)


def transformer(**arguments):
    return models.Transformer(11, **SIZES, **arguments)


def bert(**arguments):
    return models.Bert(11, max_length=5, **SIZES, **arguments)


def gpt(**arguments):
    return models.Gpt(11, max_length=5, **SIZES, **arguments)


def attentions(model):
    blocks = [*getattr(model, "encoder_blocks", []), *getattr(model, "decoder_blocks", [])]
    kinds = ("self_attention", "cross_attention")
    return [getattr(block, kind) for block in blocks for kind in kinds if hasattr(block, kind)]


def add_norms(model):
    blocks = [*getattr(model, "encoder_blocks", []), *getattr(model, "decoder_blocks", [])]
    return [part for block in blocks for name, part in vars(block).items() if "add_norm" in name]


def feed_forwards(model):
    blocks = [*getattr(model, "encoder_blocks", []), *getattr(model, "decoder_blocks", [])]
    return [block.feed_forward for block in blocks]


CASES = [
    (transformer, "attention_dropout_rate", 0.3, lambda m: [a.dropout for a in attentions(m)]),
    (transformer, "dropout_rate", 0.3, lambda m: [a.dropout_rate for a in add_norms(m)]),
    (transformer, "dropout_rate", 0.3, lambda m: [m.source_dropout.rate, m.target_dropout.rate]),
    (transformer, "activation", "swiglu", lambda m: [f.activation for f in feed_forwards(m)]),
    (bert, "attention_dropout_rate", 0.3, lambda m: [a.dropout for a in attentions(m)]),
    (bert, "dropout_rate", 0.3, lambda m: [a.dropout_rate for a in add_norms(m)]),
    (bert, "dropout_rate", 0.3, lambda m: [m.embeddings_dropout.rate]),
    (bert, "layer_norm_eps", 0.01, lambda m: [a.norm.epsilon for a in add_norms(m)]),
    (bert, "layer_norm_eps", 0.01, lambda m: [m.embeddings_norm.epsilon]),
    (gpt, "attention_dropout_rate", 0.3, lambda m: [a.dropout for a in attentions(m)]),
    (gpt, "dropout_rate", 0.3, lambda m: [a.dropout_rate for a in add_norms(m)]),
    (gpt, "embedding_dropout_rate", 0.3, lambda m: [m.embeddings_dropout.rate]),
    (gpt, "epsilon", 0.01, lambda m: [a.norm.epsilon for a in add_norms(m)]),
    (gpt, "epsilon", 0.01, lambda m: [m.final_norm.epsilon]),
    (gpt, "num_key_value_heads", 1, lambda m: [a.num_key_value_heads for a in attentions(m)]),
    (gpt, "use_bias", False, lambda m: [f.use_bias for f in feed_forwards(m)]),
    (gpt, "use_bias", False, lambda m: [a.use_bias for a in attentions(m)]),
]


@pytest.mark.parametrize("make, name, value, found", CASES)
def test_an_argument_reaches_every_layer(make, name, value, found):
    reached = found(make(**{name: value}))
    assert reached and set(reached) == {value}


def test_the_activations_of_bert_are_what_they_are_called():
    for name, expected in (("gelu", "gelu_exact"), ("gelu_new", "gelu_tanh"), ("relu", "relu")):
        assert {f.activation for f in feed_forwards(bert(hidden_act=name))} == {expected}
