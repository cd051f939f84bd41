"""Names and shapes of a published BERT's weights.

Names here are those of Hugging Face's `BertModel` without the `bert.` prefix.

V vocab_size, T max_length, S type_vocab_size, D d_model, F ffn_dim
"""

import re

DECODER_BIAS = "cls.predictions.decoder.bias"
# In files, but no weights of the model: buffers, the optimizer's state, the tied output table.
NOT_WEIGHTS = re.compile(
    r"embeddings\.(position_ids|token_type_ids)|.*[./]adam_[mv]|global_step|cls\.predictions\.decoder\.\w+"
)
# Heads as run_classifier.py and run_squad.py of google-research/bert name them.
GOOGLE_HEADS = {
    "output_weights": "classifier.weight",
    "output_bias": "classifier.bias",
    "cls/squad/output_weights": "qa_outputs.weight",
    "cls/squad/output_bias": "qa_outputs.bias",
}


def canonical(name):
    """A name of TensorFlow 1, of old or new PyTorch files, in one spelling."""
    if name in GOOGLE_HEADS:
        return GOOGLE_HEADS[name]
    if "/" in name:  # TensorFlow 1
        name = name.replace("/", ".")
        name = re.sub(r"\blayer_(\d+)\.", r"layer.\1.", name)
        name = re.sub(r"(embeddings)$", r"\1.weight", name)
        name = re.sub(r"\boutput_weights$", "weight", name)
        name = re.sub(r"\boutput_bias$", "bias", name)
        name = re.sub(r"\bkernel$", "weight", name)
    name = name.removeprefix("bert.")
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def encoder_shapes(arguments, *, out_in):
    """The weights that every BERT of these sizes has, without its pooler and heads.

    Args:
        arguments: of `keras_xfmr.models.Bert`; `num_layers` is believed.
        out_in: whether matrices are stored (out, in), else (in, out).

    Yields:
        Canonical name and stored shape.
    """
    d_model, ffn_dim = arguments["d_model"], arguments["ffn_dim"]
    tables = {
        "word": arguments["vocab_size"],
        "position": arguments["max_length"],
        "token_type": arguments["type_vocab_size"],
    }
    for name, rows in tables.items():
        yield f"embeddings.{name}_embeddings.weight", (rows, d_model)
    square = ("self.query", "self.key", "self.value", "output.dense")
    block = {f"attention.{name}": (d_model, d_model) for name in square}
    block["attention.output.LayerNorm"] = (d_model,)
    block["intermediate.dense"] = (d_model, ffn_dim)
    block["output.dense"] = (ffn_dim, d_model)
    block["output.LayerNorm"] = (d_model,)
    yield from _with_bias("embeddings.LayerNorm", (d_model,), out_in)
    for i in range(arguments["num_layers"]):
        for name, shape in block.items():
            yield from _with_bias(f"encoder.layer.{i}.{name}", shape, out_in)


def _with_bias(name, shape, out_in):
    """A matrix (in, out) or a norm, and its bias."""
    yield f"{name}.weight", shape[::-1] if out_in else shape
    yield f"{name}.bias", shape[-1:]
