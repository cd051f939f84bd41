"""GPT-2: Hugging Face's folders and OpenAI's TensorFlow 1 checkpoints.

Attributes that the model must have: `token_embedding`, `position_embedding`, `decoder_blocks` with
`self_attention.query_dense`, `key_dense`, `value_dense` and `output_dense`,
`feed_forward.inner_dense` and `output_dense`, `self_attention_add_norm.norm` and
`feed_forward_add_norm.norm`; `final_norm`; of a head `classifier`, without a bias. Its
configuration has the arguments of `OPTIONS` and `CONSTANTS`.
"""

import dataclasses

from keras_xfmr.checkpoints.configuration import choice, deviation, epsilon, rate, size
from keras_xfmr.checkpoints.tables import (
    HEAD,
    HUGGING_FACE,
    Family,
    Style,
    Tied,
    dense,
    norm,
    table,
)

# Both store matrices as (in, out), OpenAI with an axis of 1 in front.
TRANSPOSED = dataclasses.replace(HUGGING_FACE, out_in=False)
OPENAI = Style("/w", "/b", "/g", "/b", "", out_in=False, joined=True)
D, F = "d_model", "ffn_dim"


def spelled(theirs):
    """A layer's name in both styles, which differ in separators: `h.{i}.attn` and `h{i}/attn`."""
    return {TRANSPOSED: theirs, OPENAI: theirs.replace("h.{i}", "h{i}").replace(".", "/")}


ATTENTION, NETWORK = "decoder_blocks.{i}.self_attention", "decoder_blocks.{i}.feed_forward"
QUERY_KEY_VALUE = tuple(f"{ATTENTION}.{part}_dense" for part in ("query", "key", "value"))
WEIGHTS = (
    *table("token_embedding", ("vocab_size", D), spelled("wte")),
    *table("position_embedding", ("max_length", D), spelled("wpe")),
    *norm(f"{ATTENTION}_add_norm.norm", D, spelled("h.{i}.ln_1")),
    *dense(QUERY_KEY_VALUE, (D, (D, D, D)), spelled("h.{i}.attn.c_attn")),
    *dense(f"{ATTENTION}.output_dense", (D, D), spelled("h.{i}.attn.c_proj")),
    *norm(f"{NETWORK}_add_norm.norm", D, spelled("h.{i}.ln_2")),
    *dense(f"{NETWORK}.inner_dense", (D, F), spelled("h.{i}.mlp.c_fc")),
    *dense(f"{NETWORK}.output_dense", (F, D), spelled("h.{i}.mlp.c_proj")),
    *norm("final_norm", D, spelled("ln_f")),
    *dense("classifier", (D, None), {HUGGING_FACE: "score"}, use_bias=False, part=HEAD),
)

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


def last_row(arguments):
    """Of the token table: the one token that begins and ends texts in GPT-2."""
    return arguments["vocab_size"] - 1


# The second name is that of OpenAI's `hparams.json`.
OPTIONS = (
    size("vocab_size", "vocab_size", "n_vocab", default=50257),
    size("max_length", "n_positions", "n_ctx", default=1024),
    size("d_model", "n_embd", default=768),
    size("num_layers", "n_layer", default=12, least=0),
    size("num_heads", "n_head", default=12),
    size("ffn_dim", "n_inner", default=lambda arguments: 4 * arguments["d_model"]),
    choice("activation", "activation_function", default="gelu_tanh", values=ACTIVATIONS),
    rate("dropout_rate", "resid_pdrop", default=0.1),
    rate(
        "embedding_dropout_rate",
        "embd_pdrop",
        default=0.1,
        unset=lambda arguments: arguments["dropout_rate"],
    ),
    rate("attention_dropout_rate", "attn_pdrop", default=0.1),
    epsilon("epsilon", "layer_norm_epsilon", default=1e-5),
    size("start_id", "bos_token_id", default=last_row, least=0),
    size("end_id", "eos_token_id", default=last_row, least=0),
    size("pad_id", "pad_token_id", default=None, least=0),
    deviation("initializer_range", "initializer_range", default=0.02),
)
CONSTANTS = {
    "norm": "layer_norm",
    "norm_first": True,
    "use_bias": True,
    "positions": "learned",
    "tie_output": True,
}


def check(gpt, model):
    """Raises ValueError for keys and values that several heads share."""
    config = gpt.get_config()
    heads, shared = config["num_heads"], config.get("num_key_value_heads")
    if shared not in (None, heads):
        raise ValueError(
            f"A GPT-2 of `transformers` has a key and a value for each of its {heads} heads. "
            f"Received: num_key_value_heads={shared}."
        )


GPT2 = Family(
    model_type="gpt2",
    title="GPT-2",
    model="Gpt",
    architectures=r"(TF|Flax)?GPT2(Model|LMHeadModel|DoubleHeadsModel|For\w+)",
    bare="GPT2Model",
    options=OPTIONS,
    weights=WEIGHTS,
    constants=CONSTANTS,
    fixed={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False, True),  # what is computed in float32, as here
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    prefixes=("transformer.", "model/"),
    ignored=r"h\.\d+\.attn\.(masked_)?bias",
    tied=(Tied("lm_head.weight", "wte.weight", "token_embedding"),),
    classifier="score",
    check=check,
)
