"""BERT: Hugging Face's folders, Google's TensorFlow 1 checkpoints, KerasHub's `BertBackbone`."""

from keras_xfmr.checkpoints.configuration import choice, deviation, epsilon, rate, size
from keras_xfmr.checkpoints.tables import (
    HEAD,
    HUGGING_FACE,
    KERAS_HUB,
    OPTIONAL,
    TENSORFLOW_1,
    Family,
    Style,
    Tied,
    bias,
    dense,
    norm,
    table,
)

# Google stored the matrices of heads (out, in), as PyTorch does.
GOOGLE_HEAD = Style("output_weights", "output_bias", out_in=True)
D, F = "d_model", "ffn_dim"


def spelled(theirs, hub=None):
    """A layer's name in the three styles; Google's differs from Hugging Face's in separators."""
    google = theirs.replace("layer.{i}", "layer_{i}").replace(".", "/")
    return {HUGGING_FACE: theirs, TENSORFLOW_1: google, KERAS_HUB: hub}


def block(theirs, hub):
    return spelled(f"encoder.layer.{{i}}.{theirs}", f"transformer_layer_{{i}}/{hub}")


ATTENTION, NETWORK = "encoder_blocks.{i}.self_attention", "encoder_blocks.{i}.feed_forward"
WEIGHTS = (
    *table(
        "token_embedding",
        ("vocab_size", D),
        spelled("embeddings.word_embeddings", "token_embedding"),
    ),
    *table(
        "position_embedding",
        ("max_length", D),
        spelled("embeddings.position_embeddings", "position_embedding"),
    ),
    *table(
        "segment_embedding",
        ("type_vocab_size", D),
        spelled("embeddings.token_type_embeddings", "segment_embedding"),
    ),
    *norm("embeddings_norm", D, spelled("embeddings.LayerNorm", "embeddings_layer_norm")),
    *dense(
        f"{ATTENTION}.query_dense",
        (D, D),
        block("attention.self.query", "self_attention_layer/query"),
    ),
    *dense(
        f"{ATTENTION}.key_dense", (D, D), block("attention.self.key", "self_attention_layer/key")
    ),
    *dense(
        f"{ATTENTION}.value_dense",
        (D, D),
        block("attention.self.value", "self_attention_layer/value"),
    ),
    *dense(
        f"{ATTENTION}.output_dense",
        (D, D),
        block("attention.output.dense", "self_attention_layer/attention_output"),
    ),
    *norm(
        f"{ATTENTION}_add_norm.norm",
        D,
        block("attention.output.LayerNorm", "self_attention_layer_norm"),
    ),
    *dense(
        f"{NETWORK}.inner_dense",
        (D, F),
        block("intermediate.dense", "feedforward_intermediate_dense"),
    ),
    *dense(f"{NETWORK}.output_dense", (F, D), block("output.dense", "feedforward_output_dense")),
    *norm(f"{NETWORK}_add_norm.norm", D, block("output.LayerNorm", "feedforward_layer_norm")),
    *dense("pooler", (D, D), spelled("pooler.dense", "pooled_dense"), part=OPTIONAL),
    *dense("mlm_transform.dense", (D, D), spelled("cls.predictions.transform.dense"), part=HEAD),
    *norm("mlm_transform.norm", D, spelled("cls.predictions.transform.LayerNorm"), part=HEAD),
    *bias(
        "mlm_bias",
        "vocab_size",
        {HUGGING_FACE: "cls.predictions", GOOGLE_HEAD: "cls/predictions/"},
        part=HEAD,
    ),
    *dense(
        "nsp_dense",
        (D, 2),
        {HUGGING_FACE: "cls.seq_relationship", GOOGLE_HEAD: "cls/seq_relationship/"},
        part=HEAD,
    ),
    # As run_classifier.py and run_squad.py of google-research/bert name them.
    *dense("classifier", (D, None), {HUGGING_FACE: "classifier", GOOGLE_HEAD: ""}, part=HEAD),
    *dense(
        "span_dense", (D, 2), {HUGGING_FACE: "qa_outputs", GOOGLE_HEAD: "cls/squad/"}, part=HEAD
    ),
)

# Hugging Face's name of each option and its default; Google's `bert_config.json` has the same.
OPTIONS = (
    size("vocab_size", "vocab_size", default=30522, hub="vocabulary_size"),
    size("d_model", "hidden_size", default=768, hub="hidden_dim"),
    size("num_heads", "num_attention_heads", default=12, hub="num_heads"),
    size("ffn_dim", "intermediate_size", default=3072, hub="intermediate_dim"),
    size("num_layers", "num_hidden_layers", default=12, least=0, hub="num_layers"),
    size("max_length", "max_position_embeddings", default=512, hub="max_sequence_length"),
    size("type_vocab_size", "type_vocab_size", default=2, hub="num_segments"),
    rate("dropout_rate", "hidden_dropout_prob", default=0.1, hub="dropout"),
    rate("attention_dropout_rate", "attention_probs_dropout_prob", default=0.1, hub="dropout"),
    choice("hidden_act", "hidden_act", default="gelu"),
    epsilon("layer_norm_eps", "layer_norm_eps", default=1e-12),
    size("pad_token_id", "pad_token_id", default=0, least=0),
    deviation("initializer_range", "initializer_range", default=0.02),
)


def check(bert, model):
    """Raises ValueError for a head that `transformers` does not have."""
    if bert is not model and model.pooled and bert.pooler is None:
        raise ValueError(
            "`transformers` has no head without a pooler, and would initialize one. Build the "
            f"encoder with pooler=True. Received: a {type(model).__name__} on an encoder with "
            "pooler=False."
        )


BERT = Family(
    model_type="bert",
    title="BERT",
    model="Bert",
    architectures=r"(TF|Flax)?Bert(Model|LMHeadModel|For\w+)",
    bare="BertModel",
    options=OPTIONS,
    weights=WEIGHTS,
    core="encoder",
    fixed={"position_embedding_type": ("absolute",), "is_decoder": (False,)},
    prefixes=("bert.", "bert/"),
    ignored=r"embeddings\.(position_ids|token_type_ids)",
    tied=(
        Tied("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight", "mlm_bias"),
        Tied("cls.predictions.decoder.bias", "cls.predictions.bias", "mlm_bias"),
    ),
    backbone="BertBackbone",
    backbone_fixed={"hidden_act": "gelu_new", "layer_norm_eps": 1e-12},
    check=check,
)
