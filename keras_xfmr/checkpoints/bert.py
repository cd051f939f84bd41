"""Published BERT weights and configurations, to and from this library's names.

Names here are those of Hugging Face's `BertModel` without the `bert.` prefix. Matrices are stored
(out, in) there, (in, out) in TensorFlow 1 checkpoints and in Keras.
"""

import dataclasses
import json
import math
import os
import pathlib
import re

import numpy as np
from keras import ops

from keras_xfmr.checkpoints.files import read_checkpoint
from keras_xfmr.checkpoints.safetensors_format import write_safetensors

# Hugging Face's name of each size -> our argument, and the default where a file is silent.
ARGUMENTS = {
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("d_model", 768),
    "num_attention_heads": ("num_heads", 12),
    "intermediate_size": ("ffn_dim", 3072),
    "num_hidden_layers": ("num_layers", 12),
    "max_position_embeddings": ("max_length", 512),
    "type_vocab_size": ("type_vocab_size", 2),
    "hidden_dropout_prob": ("dropout_rate", 0.1),
    "attention_probs_dropout_prob": ("attention_dropout_rate", 0.1),
    "hidden_act": ("hidden_act", "gelu"),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
    "pad_token_id": ("pad_token_id", 0),
    "initializer_range": ("initializer_range", 0.02),
}
CONFIG_FILES = ("config.json", "bert_config.json")
CONFIG_BYTES = 16 << 20  # id2label of a large classifier is long, but not longer
MOST_LABELS = 1_000_000
# In files, but no weights of the model: buffers, the optimizer's state, the tied output table.
DECODER_BIAS = "cls.predictions.decoder.bias"
NOT_WEIGHTS = re.compile(
    r"embeddings\.(position_ids|token_type_ids)|.*[./]adam_[mv]|global_step|cls\.predictions\.decoder\.\w+"
)


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What a checkpoint gave, by Hugging Face's names without `bert.`.

    Attributes:
        loaded: weights that were read.
        missing: weights of the model that the checkpoint does not have; freshly drawn.
        unexpected: what the checkpoint has besides.
    """

    loaded: tuple
    missing: tuple
    unexpected: tuple

    def __str__(self):
        parts = [f"{len(self.loaded)} weights loaded"]
        for title in ("missing", "unexpected"):
            names = getattr(self, title)
            parts.append(f"{len(names)} {title}" + (f": {', '.join(names)}" if names else ""))
        return "; ".join(parts)


# ---- reading


def open_bert(source):
    """The weights and the configuration of a published BERT, unread: a `BertCheckpoint`.

    Args:
        source: a folder, a TensorFlow 1 prefix beside its `bert_config.json`, or a KerasHub
            `BertBackbone`.
    """
    if hasattr(source, "get_config") and hasattr(source, "weights"):
        from keras_xfmr.checkpoints.keras_hub import read_backbone

        config, tensors = read_backbone(source)
        return BertCheckpoint(config, tensors, out_in=False)
    path = pathlib.Path(source)
    config = _read_config(path if path.is_dir() else path.parent)
    tensors = read_checkpoint(path)
    return BertCheckpoint(config, tensors, out_in=tensors.format != "tf1")


class BertCheckpoint:
    """Weights by canonical name.

    Attributes:
        arguments: of `keras_xfmr.models.Bert`.
        num_labels: classes of a head.
        names: canonical name -> name in the file.
    """

    def __init__(self, config, tensors, *, out_in):
        self._tensors, self._out_in = tensors, out_in
        self.names = {}
        for name in tensors:
            canonical = _canonical(name)
            if canonical in self.names:
                raise ValueError(
                    f"The checkpoint has {canonical!r} twice, as {self.names[canonical]!r} and as "
                    f"{name!r}."
                )
            self.names[canonical] = name
        # The bias of the masked words has two names, of which a file has either or both.
        if "cls.predictions.bias" not in self.names and DECODER_BIAS in self.names:
            self.names["cls.predictions.bias"] = self.names.pop(DECODER_BIAS)
        self.arguments = _arguments(config)
        self._check_sizes()
        self.num_labels = self._count_labels(config)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if hasattr(self._tensors, "close"):
            self._tensors.close()

    def shape(self, name):
        """As stored."""
        stored = self.names[name]
        shapes = getattr(self._tensors, "shapes", None)
        return tuple(self._tensors[stored].shape if shapes is None else shapes[stored])

    def read(self, name, shape, inputs):
        """A weight in this library's shape; the first `inputs` axes of a matrix are its input."""
        # Google stored this one matrix as PyTorch does all of them.
        out_in = self._out_in or self.names[name].endswith("output_weights")
        if inputs:
            sides = (math.prod(shape[:inputs]), math.prod(shape[inputs:]))
            expected = sides[::-1] if out_in else sides
        else:
            expected = (math.prod(shape),) if name.endswith("bias") else tuple(shape)
        if self.shape(name) != expected:
            raise ValueError(
                f"{self.names[name]!r} must have the shape {expected} in this model. Received: "
                f"{self.shape(name)}. Where it is a head of another task, load the encoder alone: "
                "Head(Bert.from_pretrained(path), ...)."
            )
        view = getattr(self._tensors, "view", self._tensors.__getitem__)
        array = view(self.names[name])
        # Copied or turned round by the backend, straight from the file and on all cores.
        turned = ops.transpose(array) if inputs and out_in else ops.copy(array)
        return ops.reshape(turned, shape)

    def _check_sizes(self):
        """The configuration agrees with the file, before any memory is taken on its word."""
        sizes = self.arguments
        blocks = {
            int(m[1]) for name in self.names if (m := re.match(r"encoder\.layer\.(\d+)\.", name))
        }
        if len(blocks) != sizes["num_layers"] or blocks != set(range(len(blocks))):
            raise ValueError(
                f"The configuration names {sizes['num_layers']} blocks, the weights have "
                f"{len(blocks)}: {sorted(blocks)[:3]} .. {sorted(blocks)[-1:]}."
            )
        d_model, ffn_dim = sizes["d_model"], sizes["ffn_dim"]
        inner = (ffn_dim, d_model) if self._out_in else (d_model, ffn_dim)
        tables = {
            "embeddings.word_embeddings.weight": (sizes["vocab_size"], d_model),
            "embeddings.position_embeddings.weight": (sizes["max_length"], d_model),
            "embeddings.token_type_embeddings.weight": (sizes["type_vocab_size"], d_model),
            "encoder.layer.0.intermediate.dense.weight": inner,
        }
        for name, expected in tables.items():
            if name not in self.names:
                raise ValueError(f"{name!r} is not in the checkpoint: no BERT, or damaged.")
            if self.shape(name) != expected:
                raise ValueError(
                    f"By the configuration {name!r} has the shape {expected}. Received: "
                    f"{self.shape(name)}."
                )

    def _count_labels(self, config):
        if "classifier.weight" in self.names:
            shape = self.shape("classifier.weight")
            return shape[0] if self._out_in else shape[-1]
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
        if not isinstance(count, int) or not 1 <= count <= MOST_LABELS:
            raise ValueError(f"`num_labels` must lie in 1 .. {MOST_LABELS}. Received: {count!r}.")
        return count


def _canonical(name):
    """A name of TensorFlow 1, of old or new PyTorch files, in one spelling."""
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


def _read_config(folder):
    for name in CONFIG_FILES:
        file = folder / name
        if file.is_file():
            break
    else:
        raise FileNotFoundError(f"No {' or '.join(CONFIG_FILES)} in {str(folder)!r}.")
    if file.stat().st_size > CONFIG_BYTES:
        raise ValueError(f"{str(file)!r} is too large for a configuration.")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{str(file)!r} must hold an object. Received: {type(config).__name__}.")
    return config


def _arguments(config):
    """Arguments of `Bert` from a Hugging Face or Google configuration."""
    kind, positions = config.get("model_type", "bert"), config.get("position_embedding_type")
    if kind != "bert" or positions not in (None, "absolute") or config.get("is_decoder"):
        raise ValueError(
            "Expected a BERT encoder with absolute positions. Received: "
            f"model_type={kind!r}, position_embedding_type={positions!r}, "
            f"is_decoder={config.get('is_decoder')!r}."
        )
    arguments = {}
    for theirs, (ours, default) in ARGUMENTS.items():
        value = config.get(theirs, default)
        value = default if value is None else value
        wanted = (int, float) if isinstance(default, float) else type(default)
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise ValueError(f"`{theirs}` in the configuration is {value!r}.")
        if isinstance(default, int) and value < (theirs != "pad_token_id"):
            raise ValueError(f"`{theirs}` in the configuration is {value!r}.")
        arguments[ours] = value
    return arguments


# ---- the map of names


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight of a model: its canonical name, where it stands, and how many axes are inputs."""

    name: str
    layer: object
    attribute: str
    inputs: int = 0  # of a matrix; 0 for tables, norms and biases

    @property
    def value(self):
        """The variable; with a low-rank update, the merged matrix."""
        return getattr(self.layer, self.attribute)

    @property
    def needed(self):
        return self.name.startswith(("embeddings.", "encoder."))


def weight_map(model):
    """Every weight of a `Bert` or of a head on it."""
    bert = getattr(model, "bert", model)
    yield Weight("embeddings.word_embeddings.weight", bert.token_embedding, "embeddings")
    yield Weight("embeddings.position_embeddings.weight", bert.position_embedding, "embeddings")
    yield Weight("embeddings.token_type_embeddings.weight", bert.segment_embedding, "embeddings")
    yield from _norm("embeddings.LayerNorm", bert.embeddings_norm)
    for i, block in enumerate(bert.encoder_blocks):
        attention, feed_forward = block.self_attention, block.feed_forward
        place = f"encoder.layer.{i}"
        yield from _dense(f"{place}.attention.self.query", attention.query_dense)
        yield from _dense(f"{place}.attention.self.key", attention.key_dense)
        yield from _dense(f"{place}.attention.self.value", attention.value_dense)
        yield from _dense(f"{place}.attention.output.dense", attention.output_dense, inputs=2)
        yield from _norm(f"{place}.attention.output.LayerNorm", block.self_attention_add_norm.norm)
        yield from _dense(f"{place}.intermediate.dense", feed_forward.inner_dense)
        yield from _dense(f"{place}.output.dense", feed_forward.output_dense)
        yield from _norm(f"{place}.output.LayerNorm", block.feed_forward_add_norm.norm)
    if bert.pooler is not None:
        yield from _dense("pooler.dense", bert.pooler)
    if hasattr(model, "mlm_transform"):
        yield from _dense("cls.predictions.transform.dense", model.mlm_transform.dense)
        yield from _norm("cls.predictions.transform.LayerNorm", model.mlm_transform.norm)
        yield Weight("cls.predictions.bias", model.mlm_bias, "bias")
    heads = {
        "nsp_dense": "cls.seq_relationship",
        "classifier": "classifier",
        "span_dense": "qa_outputs",
    }
    for attribute, name in heads.items():
        if getattr(model, attribute, None) is not None:
            yield from _dense(name, getattr(model, attribute))


def _dense(name, layer, inputs=1):
    yield Weight(f"{name}.weight", layer, "kernel", inputs)
    yield Weight(f"{name}.bias", layer, "bias")


def _norm(name, layer):
    yield Weight(f"{name}.weight", layer, "gamma")
    yield Weight(f"{name}.bias", layer, "beta")


def load_bert(model, checkpoint):
    """Fills a model from a `BertCheckpoint`, by name.

    Returns:
        A `LoadReport`.

    Raises:
        ValueError: a weight of the encoder is missing, or a shape differs.
    """
    weights = {weight.name: weight for weight in weight_map(model)}
    missing = [name for name in weights if name not in checkpoint.names]
    lost = [name for name in missing if weights[name].needed]
    if lost:
        raise ValueError(
            f"{len(lost)} weights of the encoder are not in the checkpoint: {', '.join(lost[:5])}"
            f"{' ...' if len(lost) > 5 else ''}."
        )
    loaded = [name for name in weights if name in checkpoint.names]
    for name in loaded:
        weight = weights[name]
        weight.value.assign(checkpoint.read(name, tuple(weight.value.shape), weight.inputs))
    if "cls.predictions.bias" in loaded:
        _check_tied(checkpoint)
    unexpected = [
        name for name in checkpoint.names if name not in weights and not NOT_WEIGHTS.fullmatch(name)
    ]
    return LoadReport(tuple(loaded), tuple(missing), tuple(unexpected))


def _check_tied(checkpoint):
    """An output table or bias of its own would be lost without a word."""
    tied = {
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        DECODER_BIAS: "cls.predictions.bias",
    }
    for name, other in tied.items():
        if name in checkpoint.names and not (
            checkpoint.shape(name) == checkpoint.shape(other)
            and np.array_equal(*(checkpoint.read(n, checkpoint.shape(n), 0) for n in (name, other)))
        ):
            raise ValueError(f"{name!r} differs from {other!r}; this library ties the two.")


# ---- writing


def save_bert(model, folder):
    """Writes `config.json` and `model.safetensors`, each aside and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    bert = getattr(model, "bert", model)
    inner = bert is not model and "BertModel" not in model.hub_config()["architectures"]
    tensors = {}
    for weight in weight_map(model):
        array = np.asarray(weight.value, "float32")
        if weight.inputs:
            array = array.reshape(math.prod(array.shape[: weight.inputs]), -1).T
        elif weight.name.endswith("bias"):
            array = array.reshape(-1)
        encoder = weight.name.startswith(("embeddings.", "encoder.", "pooler."))
        name = f"bert.{weight.name}" if inner and encoder else weight.name
        tensors[name] = np.ascontiguousarray(array)
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    arguments = bert.get_config()
    config = {theirs: arguments[ours] for theirs, (ours, _) in ARGUMENTS.items()}
    config = {"model_type": "bert", **config, **model.hub_config()}
    aside = folder / f".config.json.{os.getpid()}"
    aside.write_text(json.dumps(config, indent=2) + "\n", "utf8")
    os.replace(aside, folder / "config.json")
