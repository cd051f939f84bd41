"""What a model is given arrives in its layers: a rate that is lost changes no shape."""

import functools

import keras
import numpy as np
import pytest

from keras_xfmr import layers, models

pytestmark = pytest.mark.portable
SIZES = dict(d_model=6, num_heads=2, ffn_dim=7, num_layers=1)


RATES = dict(dropout_rate=0.2, attention_dropout_rate=0.3)
HALF = dict(dtype="mixed_bfloat16")
OTHER = dict(activation="swiglu", norm="rms_norm", norm_first=True, **RATES, **HALF)
DRAWN = dict(initializer_range=0.5)
BERT = dict(vocab_size=11, max_length=5, hidden_act="gelu_new", layer_norm_eps=0.01, **SIZES)
GPT = dict(vocab_size=11, max_length=5, **SIZES)
NORMAL = keras.initializers.RandomNormal(stddev=0.5)


# ---- models and blocks, every argument away from its default


def transformer():
    other = dict(positions="tensor2tensor", scale_embeddings=False)
    return models.Transformer(11, **SIZES, **OTHER, **other)


def learned_transformer():
    return models.Transformer(11, **SIZES, positions="learned", max_length=5)


def bert():
    return models.Bert(**BERT, **RATES, **HALF, **DRAWN)


def gpt():
    return models.Gpt(
        **GPT, **OTHER, **DRAWN, embedding_dropout_rate=0.4, num_key_value_heads=1, use_bias=False,
        epsilon=0.01, tie_output=False,
    )  # fmt: skip


def first_gpt():
    return models.Gpt(**GPT, **RATES, positions="tensor2tensor", norm_first=False)


def rotary_gpt():
    return models.Gpt(**{**GPT, "d_model": 8}, positions="rotary")


def classifier():
    return models.Classifier(bert(), dropout_rate=0.4)


def tagger():
    return models.Tagger(bert())


def spans():
    return models.SpanPredictor(bert())


def masked():
    return models.MaskedLanguageModel(bert())


def encoder_block():
    return built(layers.EncoderBlock(2, 7, **OTHER, epsilon=0.01, kernel_initializer=NORMAL))


def decoder_block():
    return built(layers.DecoderBlock(2, 7, **OTHER, epsilon=0.01, kernel_initializer=NORMAL))


def feed_forward():
    return built(layers.PositionWiseFFN(7, "swiglu", bias_initializer=NORMAL))


def attention():
    layer = layers.MultiHeadAttention(2, 3, bias_initializer=NORMAL, use_gate=True)
    layer.build((None, None, 6), (None, None, 6))
    return layer


def built(block):
    block.build((None, None, 6))
    return block


def parts(value, *kinds):
    """All layers of some kinds that hang on a model, each once."""
    found, waiting, seen = [], [value], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, keras.layers.Layer):
            if isinstance(part, kinds):
                found.append(part)
            waiting.extend(vars(part).values())
        elif isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(part)
    return found


NORMS = layers.LayerNorm, layers.RMSNorm
DENSE = keras.layers.Dense, keras.layers.EinsumDense
TABLES = layers.TokenEmbedding, layers.PositionEmbedding


def of(name, *kinds):
    """A function from a model to the attribute of its layers of some kinds."""
    return lambda model: [getattr(part, name) for part in parts(model, *kinds)]


def kind_of(*kinds):
    return lambda model: [type(part) for part in parts(model, *kinds)]


def deviations(*kinds):
    names = "kernel_initializer", "embeddings_initializer"
    return lambda model: [
        getattr(part, name).stddev
        for part in parts(model, *kinds)
        for name in names
        if hasattr(part, name)
    ]


def policies(model):
    """Of every layer but a model's inputs and the models themselves."""
    kept = [*NORMS, *DENSE, *TABLES, layers.Dropout, layers.MultiHeadAttention, layers.AddNorm]
    kept += [layers.PositionWiseFFN, layers.EncoderBlock, layers.DecoderBlock]
    kept += [layers.MaskedLMTransform, layers.VocabularyBias, layers.PositionalEncoding]
    return [part.dtype_policy.name for part in parts(model, *kept)]


BLOCKS = layers.EncoderBlock, layers.DecoderBlock
epsilons = of("epsilon", *NORMS)
activations = of("activation", layers.PositionWiseFFN)
WITH_BLOCKS = transformer, bert, gpt, encoder_block, decoder_block
WITHOUT_BERT = transformer, gpt, encoder_block, decoder_block
HEADS = classifier, tagger, spans, masked
CASES = {
    "attention dropout": (WITH_BLOCKS, of("dropout", layers.MultiHeadAttention), 0.3),
    "dropout": (WITH_BLOCKS, of("dropout_rate", layers.AddNorm), 0.2),
    "dropout of embeddings": ((bert, first_gpt), lambda m: [m.embeddings_dropout.rate], 0.2),
    "another dropout of embeddings": ([gpt], lambda m: [m.embeddings_dropout.rate], 0.4),
    "dropout of both embeddings": (
        [transformer], lambda m: [m.source_dropout.rate, m.target_dropout.rate], 0.2,
    ),
    "dropout of a head": ([classifier], lambda m: [m.dropout.rate], 0.4),
    "dropout of a head's encoder": ([tagger], lambda m: [m.dropout.rate], 0.2),
    "epsilon": ((bert, gpt, encoder_block, decoder_block, *HEADS), epsilons, 0.01),
    "epsilon of the paper": ([transformer], epsilons, 1e-6),
    "activation": (WITHOUT_BERT, activations, "swiglu"),
    "activation of BERT": ((bert, *HEADS), activations, "gelu_tanh"),
    "activation of a head": ([masked], of("activation", layers.MaskedLMTransform), "gelu_tanh"),
    "activation of the pooler": ([bert], lambda m: [m.pooler.activation], keras.activations.tanh),
    "norm": (WITHOUT_BERT, lambda m: list(map(type, parts(m, *NORMS))), layers.RMSNorm),
    "norm first": (WITHOUT_BERT, of("norm_first", *BLOCKS), True),
    "a norm at the end": (
        [transformer], lambda m: [type(m.encoder_norm), type(m.decoder_norm)], layers.RMSNorm,
    ),
    "no norm at the end": ([first_gpt], lambda m: [m.final_norm], None),
    "precision": ((*WITH_BLOCKS, *HEADS), policies, "mixed_bfloat16"),
    "deviation": ((bert, gpt, encoder_block, decoder_block, *HEADS), deviations(*DENSE), 0.5),
    "deviation of tables": ([bert], deviations(*TABLES), 0.5),
    "deviation of tokens": ([gpt], deviations(layers.TokenEmbedding), 0.5),
    "deviation of positions": ([gpt], deviations(layers.PositionEmbedding), 0.25),
    "deviation of biases": (
        (feed_forward, attention), lambda m: [d.bias_initializer.stddev for d in parts(m, *DENSE)],
        0.5,
    ),
    "scale": ((transformer, bert, gpt), of("scale", layers.TokenEmbedding), False),
    "scale of the paper": ([learned_transformer], of("scale", layers.TokenEmbedding), True),
    "layout": ((transformer, first_gpt), of("layout", layers.PositionalEncoding), "tensor2tensor"),
    "positions": (
        (learned_transformer, bert, gpt), of("max_length", layers.PositionEmbedding), 5,
    ),
    "rotation": (
        [rotary_gpt], lambda m: [type(a.rotary) for a in parts(m, layers.MultiHeadAttention)],
        layers.RotaryEmbedding,
    ),
    "heads of keys": ([gpt], of("num_key_value_heads", layers.MultiHeadAttention), 1),
    "biases": ([gpt], of("bias", *DENSE), None),
}  # fmt: skip
example = functools.cache(lambda make: make())


@pytest.mark.parametrize("name", CASES)
def test_an_argument_reaches_every_layer(name):
    makes, found, value = CASES[name]
    for make in makes:
        reached = found(example(make))
        assert reached and set(reached) == {value}, make.__name__


def test_the_activations_of_bert_are_what_they_are_called():
    for name, expected in (("gelu", "gelu_exact"), ("gelu_new", "gelu_tanh"), ("relu", "relu")):
        model = models.Bert(**{**BERT, "hidden_act": name})
        assert set(activations(model)) == {expected}


def parts_of_a_call(make):
    """Functions of `training` that call the parts of a model by themselves."""
    model, ids = example(make), np.array([[5, 7, 3]])
    if make is transformer:
        memory = model.encode(ids)
        return [
            functools.partial(model.encode, ids),
            functools.partial(model.decode, ids, memory, ids),
        ]
    return [functools.partial(model.encode, **model.validated_inputs(ids))]


@pytest.mark.parametrize("make", [transformer, bert, gpt])
def test_training_reaches_every_dropout(make, monkeypatch):
    seen = []

    def call(self, inputs, training=False):
        seen.append((self.rate, training))
        return inputs

    for part in parts_of_a_call(make):
        monkeypatch.setattr(layers.Dropout, "call", call)
        for training in (True, False):
            seen.clear()
            part(training=training)
            assert {each for _, each in seen} == {training}
            assert {0.2, 0.3} <= {rate for rate, _ in seen}
        monkeypatch.undo()


# ---- arguments of other names


@pytest.mark.parametrize("kind, meant", [
    (models.Bert, dict(
        hidden_size="d_model", n_embd="d_model", embed_dim="d_model", hidden_dim="d_model",
        intermediate_dim="ffn_dim", ff_dim="ffn_dim", n_inner="ffn_dim", n_layer="num_layers",
        num_layer="num_layers", max_sequence_length="max_length", n_positions="max_length",
        rate="dropout_rate", dropout="dropout_rate", hidden_dropout_prob="dropout_rate",
        attention_dropout="attention_dropout_rate", epsilon="layer_norm_eps",
        activation="hidden_act", pad_id="pad_token_id", eos_token_id=None, bos_token_id=None,
        end_id=None, hidden=None, hidden_units=None, kernel_initializer=None, num_kv_heads=None,
    )),
    (models.Gpt, dict(
        layer_norm_epsilon="epsilon", layer_norm_eps="epsilon", activation_function="activation",
        hidden_act="activation", pad_token_id="pad_id", bos_token_id="start_id",
        eos_token_id="end_id", sep_token_id=None, resid_pdrop="dropout_rate", nhead="num_heads",
        num_kv_heads="num_key_value_heads", attn_pdrop="attention_dropout_rate",
        embd_pdrop="embedding_dropout_rate",
    )),
])  # fmt: skip
def test_names_of_others_are_told_from_each_other(kind, meant):
    for name, one in meant.items():
        with pytest.raises(TypeError) as error:
            kind(11, **{name: 3})
        hint = f" {name} is {one} here." if one else ""
        assert str(error.value).endswith(f"Received: {name}.{hint}"), error.value


def test_a_layer_has_no_hint_where_the_meaning_differs():
    for name in ("kernel_regularizer", "hidden_dim"):
        with pytest.raises(ValueError) as error:
            layers.EncoderBlock(2, 7, **{name: 3})
        assert f"{name} is " not in str(error.value)
    with pytest.raises(ValueError, match="intermediate_dim is ffn_dim here"):
        layers.EncoderBlock(2, 7, intermediate_dim=3)
