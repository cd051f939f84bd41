"""A KerasHub `BertBackbone` as a source of weights."""

import re

import numpy as np

from keras_xfmr.checkpoints.checkpoint import Checkpoint

SIZES = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "max_sequence_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
}
# Part of a variable's path in the backbone -> part of the published name.
PARTS = (
    (r"^token_embedding/embeddings$", "embeddings.word_embeddings.weight"),
    (r"^position_embedding/embeddings$", "embeddings.position_embeddings.weight"),
    (r"^segment_embedding/embeddings$", "embeddings.token_type_embeddings.weight"),
    (r"^embeddings_layer_norm/", "embeddings.LayerNorm."),
    (r"^transformer_layer_(\d+)/", r"encoder.layer.\1."),
    (r"self_attention_layer/(query|key|value)/", r"attention.self.\1."),
    (r"self_attention_layer/attention_output/", "attention.output.dense."),
    (r"self_attention_layer_norm/", "attention.output.LayerNorm."),
    (r"feedforward_intermediate_dense/", "intermediate.dense."),
    (r"feedforward_output_dense/", "output.dense."),
    (r"feedforward_layer_norm/", "output.LayerNorm."),
    (r"^pooled_dense/", "pooler.dense."),
    (r"(kernel|gamma)$", "weight"),
    (r"beta$", "bias"),
)


class BackboneCheckpoint(Checkpoint):
    """Arrays that are in memory already, by their published names."""

    format = "keras_hub"

    def __init__(self, name, arrays):
        super().__init__(name)
        self._arrays = arrays
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self.dtypes = {name: array.dtype.name for name, array in arrays.items()}
        self.file_bytes = sum(array.nbytes for array in arrays.values())

    def _read(self, name):
        return self._arrays[name]


def read_backbone(backbone):
    """The configuration and the weights, matrices as (in, out), of a KerasHub `BertBackbone`.

    KerasHub's layers have the tanh GELU and the epsilon 1e-12 built in.

    Raises:
        ValueError: another kind of backbone; one with low-rank updates or quantized weights.
    """
    config = backbone.get_config()
    unknown = [name for name in SIZES if name not in config]
    if unknown:
        raise ValueError(
            f"Expected a KerasHub BertBackbone. Received: {type(backbone).__name__}, whose "
            f"configuration lacks {unknown}."
        )
    arguments = {theirs: config[ours] for ours, theirs in SIZES.items()}
    arguments["attention_probs_dropout_prob"] = config["dropout"]
    arguments |= {"hidden_act": "gelu_new", "layer_norm_eps": 1e-12}
    changed = [v.path for v in backbone.weights if re.search(r"(lora_kernel_[ab]|scale)$", v.path)]
    if changed:
        raise ValueError(
            "Expected a backbone with plain weights. Received: one with low-rank updates or "
            f"quantized: {changed[0]} and others. `backbone.save(FILE)` merges updates, and "
            "`keras.saving.load_model(FILE)` then gives a plain one."
        )
    arrays = {}
    for variable in backbone.weights:
        name = variable.path
        for pattern, replacement in PARTS:
            name = re.sub(pattern, replacement, name)
        array = np.asarray(variable)
        if name.endswith("dense.weight") or "attention.self" in name and name.endswith("weight"):
            inputs = 2 if "attention.output" in name else 1
            array = array.reshape(int(np.prod(array.shape[:inputs])), -1)
        elif name.endswith("bias"):
            array = array.reshape(-1)
        arrays[name] = array
    return arguments, BackboneCheckpoint(backbone.name, arrays)
