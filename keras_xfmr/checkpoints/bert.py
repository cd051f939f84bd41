"""Published BERT weights, to and from this library's models.

Names here are those of Hugging Face's `BertModel` without the `bert.` prefix. Matrices are stored
(out, in) there, (in, out) in TensorFlow 1 checkpoints and in Keras.
"""

import dataclasses
import math

import numpy as np

from keras_xfmr.checkpoints.bert_checkpoint import not_there
from keras_xfmr.checkpoints.bert_config import ARGUMENTS
from keras_xfmr.checkpoints.bert_names import DECODER_BIAS, NOT_WEIGHTS
from keras_xfmr.checkpoints.formats.safetensors import write_safetensors
from keras_xfmr.common.files import write_json

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


# ---- reading


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What a checkpoint gave, by Hugging Face's names without `bert.`.

    Attributes:
        loaded: weights that were read.
        missing: weights of the model that the checkpoint does not have; freshly drawn.
        unexpected: what the checkpoint has besides.

    Example:

    >>> print(LoadReport(("embeddings.LayerNorm.weight",), ("classifier.bias",), ()))
    1 weights loaded; 1 missing: classifier.bias; 0 unexpected
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


def load_bert(model, checkpoint):
    """Fills a model from a `BertCheckpoint`, by name.

    Returns:
        A `LoadReport`.

    Raises:
        ValueError: a weight of the encoder is missing, or a shape or type differs.

    Example::

        with open_bert("bert-base-uncased") as checkpoint:
            model = keras_xfmr.models.Bert(**checkpoint.arguments)
            print(load_bert(model, checkpoint))
    """
    weights = {weight.name: weight for weight in weight_map(model)}
    there = set(checkpoint.names)
    if checkpoint.new_classifier:
        there -= {"classifier.weight", "classifier.bias"}
    missing = [name for name in weights if name not in there]
    lost = [name for name in missing if weights[name].needed]
    if lost:
        raise ValueError(not_there(lost))
    loaded = [name for name in weights if name in there]
    for name in loaded:
        weight = weights[name]
        weight.value.assign(checkpoint.read(name, tuple(weight.value.shape), weight.inputs))
    if "cls.predictions.bias" in loaded:
        _check_tied(checkpoint)
    unexpected = [
        name
        for name in checkpoint.names
        if not (name in weights and name in there) and not NOT_WEIGHTS.fullmatch(name)
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
    """Writes `config.json` and `model.safetensors`, each aside and renamed.

    Args:
        model: a `Bert` or one of its heads.
        folder: a `pathlib.Path`, made where it is not there.

    Raises:
        ValueError: a model that `transformers` has no form for, or a quantized one.

    Example::

        save_bert(model, pathlib.Path("mine"))
    """
    bert = getattr(model, "bert", model)
    if bert is not model and model.pooled and bert.pooler is None:
        raise ValueError(
            "`transformers` has no head on position 0 as it is, without a pooler, and would draw "
            f"one. Build the encoder with pooler=True. Received: a {type(model).__name__} on an "
            "encoder with pooler=False."
        )
    for weight in weight_map(model):
        mode = getattr(weight.layer, "quantization_mode", None)
        if mode:
            raise ValueError(
                "Expected weights in floating point: save the model before it is quantized. "
                f"Received: {weight.name} as {mode}."
            )
    folder.mkdir(parents=True, exist_ok=True)
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
    for path, content in {**model.hub_files(), "config.json": config}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        write_json(folder / path, content)
