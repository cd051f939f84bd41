"""Configurations and weights that do not fit: refused before anything is built on their word."""

import json

import numpy as np
import pytest
from weight_files import (
    BERT_SIZES,
    bert_arrays,
    bert_shapes,
    entry,
    safetensors_file,
    state_dict,
    storage,
    tensor,
    torch_zip,
)

from keras_xfmr import checkpoints, models

WEIGHT = "encoder.layer.1.attention.self.query.weight"


def write(folder, arrays=None, **config):
    """A folder of a configuration and of weights, by default those of an encoder."""
    (folder / "config.json").write_text(json.dumps({**BERT_SIZES, **config}))
    arrays = bert_arrays() if arrays is None else arrays
    checkpoints.write_safetensors(folder / "model.safetensors", arrays)
    return folder


def is_refused_unbuilt(folder, message):
    """Opening it is an error already, and opening builds nothing."""
    with pytest.raises(ValueError, match=message):
        checkpoints.open_pretrained(folder, family="bert")


# ---- the weights against the configuration


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool", "complex64"])
def test_weights_that_are_no_floating_point_numbers(dtype, tmp_path):
    arrays = bert_arrays()
    arrays[WEIGHT] = arrays[WEIGHT].astype(dtype)
    is_refused_unbuilt(write(tmp_path, arrays), f"{WEIGHT}.* has the type {dtype}.*quantised")


def test_a_head_that_is_no_floating_point_numbers(tmp_path):
    head = {"classifier.weight": np.ones((3, 12), "int8"), "classifier.bias": np.ones(3, "float32")}
    write(tmp_path, {**bert_arrays(), **head})
    assert models.Bert.from_pretrained(tmp_path).load_report.unexpected == tuple(sorted(head))
    with pytest.raises(ValueError, match="'classifier.weight' has the type int8"):
        models.BertClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floating_point_numbers(dtype, tmp_path):
    arrays = {name: array.astype(dtype) / 3 for name, array in bert_arrays().items()}
    model = models.Bert.from_pretrained(write(tmp_path, arrays))
    for weight in model.encoder_blocks[1].weights:
        np.testing.assert_array_equal(weight, np.float32(arrays[WEIGHT].flat[0]))


def test_weights_in_bfloat16(tmp_path):
    header, position = {}, 0
    for name, shape in bert_shapes().items():
        size = 2 * int(np.prod(shape))
        header[name] = entry("BF16", list(shape), position, position + size)
        position += size
    write(tmp_path)
    halves = b"\x80\x3f" * (position // 2)  # 1.0
    (tmp_path / "model.safetensors").write_bytes(safetensors_file(header, halves))
    model = models.Bert.from_pretrained(tmp_path)
    assert all(np.all(weight == 1) for weight in model.encoder_blocks[0].weights)


@pytest.mark.parametrize("name", bert_shapes())
def test_every_weight_is_there_in_its_shape(name, tmp_path):
    arrays = bert_arrays()
    is_refused_unbuilt(write(tmp_path, {**arrays, name: arrays[name][:-1]}), f"{name}' has the sha")
    arrays["lost"] = arrays.pop(name)
    message = f"1 weights of the encoder are not in the checkpoint: {name}"
    is_refused_unbuilt(write(tmp_path, arrays), message)


def test_a_large_model_in_a_small_file(tmp_path):
    sizes = dict(hidden_size=8192, intermediate_size=1, num_hidden_layers=1, vocab_size=1)
    shapes = {name: shape for name, shape in bert_shapes(**sizes).items() if shape != 2 * (8192,)}
    arrays = {name: np.ones(shape, "float16") for name, shape in shapes.items()}
    is_refused_unbuilt(write(tmp_path, arrays, **sizes), "4 weights of the encoder are not in")


def test_many_blocks_without_content(tmp_path):
    arrays = bert_arrays(num_hidden_layers=1)
    arrays |= {f"encoder.layer.{i}.x": np.zeros(0, "float32") for i in range(1, 300)}
    message = "4784 weights of the encoder are not in"
    is_refused_unbuilt(write(tmp_path, arrays, num_hidden_layers=300), message)


def write_aliased(folder, layers, storages, kind="FloatStorage", itemsize=4):
    """A torch file of an encoder whose weights show a few storages."""
    sizes = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=layers)
    shapes = bert_shapes(**sizes)
    largest = max(int(np.prod(shape)) for shape in shapes.values())
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        shared = storage(kind, str(i % storages), largest)
        tensors[name] = tensor(shared, 0, shape, (shape[1], 1) if len(shape) == 2 else (1,))
    (folder / "config.json").write_text(json.dumps({**BERT_SIZES, **sizes}))
    stored = {str(i): bytes(largest * itemsize) for i in range(storages)}
    (folder / "pytorch_model.bin").write_bytes(torch_zip(state_dict(**tensors), stored))
    return folder


@pytest.mark.parametrize("kind, itemsize", [("FloatStorage", 4), ("HalfStorage", 2)])
def test_many_weights_of_the_same_bytes(kind, itemsize, tmp_path):
    is_refused_unbuilt(write_aliased(tmp_path, 17, 1, kind, itemsize), "bytes, the file")


def test_a_weight_that_is_shared_now_and_then(tmp_path):
    with checkpoints.open_pretrained(write_aliased(tmp_path, 1, 5), family="bert") as checkpoint:
        assert len(checkpoint.names) == 21


def test_the_size_of_a_model_in_several_files(tmp_path):
    arrays = bert_arrays(hidden_size=64, num_attention_heads=1)
    write(tmp_path, arrays, hidden_size=64)
    (tmp_path / "model.safetensors").unlink()
    shards = {name: f"{i % 7}.safetensors" for i, name in enumerate(arrays)}
    for shard in set(shards.values()):
        part = {name: arrays[name] for name in arrays if shards[name] == shard}
        checkpoints.write_safetensors(tmp_path / shard, part)
    index = json.dumps({"weight_map": shards})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with checkpoints.open_pretrained(tmp_path, family="bert") as checkpoint:
        assert set(checkpoint.names) == set(arrays)
    with checkpoints.read_checkpoint(tmp_path) as checkpoint:
        files = tmp_path.glob("*.safetensors")
        assert checkpoint.file_bytes == sum(file.stat().st_size for file in files)


# ---- numbers of the configuration

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    "name, values",
    [
        ("layer_norm_eps", [NAN, INFINITE, -1e-12, 0, 0.0, 1e300, 10**400]),
        ("initializer_range", [NAN, INFINITE, -0.02, 1e300, 10**400]),
        ("hidden_dropout_prob", [NAN, INFINITE, -0.1, 1, 1.0, 10**400]),
        ("attention_probs_dropout_prob", [NAN, -0.1, 1.0, 1.5]),
    ],
)
def test_numbers_outside_their_range(name, values, tmp_path):
    for value in values:
        is_refused_unbuilt(write(tmp_path, **{name: value}), f"`{name}` in the configuration")


def test_numbers_at_the_edge_of_their_range(tmp_path):
    write(tmp_path, hidden_dropout_prob=0, initializer_range=0.0, layer_norm_eps=1e-3)
    model = models.Bert.from_pretrained(tmp_path)
    assert (model.dropout_rate, model.layer_norm_eps) == (0, 1e-3)


# ---- labels

NAMES = ["NEG", "NEU", "POS"]


def id2label(names):
    return {str(i): name for i, name in enumerate(names)}


@pytest.mark.parametrize("cls", [models.BertClassifier, models.BertTokenClassifier])
@pytest.mark.parametrize(
    "config",
    [{"num_labels": 10_001}, {"id2label": id2label(["a"] * 10_001)}, {"num_labels": 10**6}],
)
def test_many_labels_without_their_weights(cls, config, tmp_path):
    write(tmp_path, **config)
    with checkpoints.open_pretrained(tmp_path, family="bert") as checkpoint:
        with pytest.raises(ValueError, match="no classifier.*num_classes="):
            print(checkpoint.num_labels)
    with pytest.raises(ValueError, match="no classifier.*num_classes="):
        cls.from_pretrained(tmp_path)
    assert cls.from_pretrained(tmp_path, num_classes=3).num_classes == 3
    models.Bert.from_pretrained(tmp_path)  # which has no labels


def test_the_caller_s_number_of_classes_goes_before_any_of_the_file(tmp_path):
    for count in (10**12, "3", -1, 0, True):
        write(tmp_path, num_labels=count)
        model = models.BertClassifier.from_pretrained(tmp_path, num_classes=5)
        assert model.num_classes == 5
        is_refused_unbuilt(tmp_path, "num_labels")


@pytest.mark.parametrize("shape", [(10**9, 0), (3,), (), (3, 13), (12, 3), (0, 12)])
def test_a_classifier_of_another_shape_is_not_believed(shape, tmp_path):
    write(tmp_path, {**bert_arrays(), "classifier.weight": np.ones(shape, "float32")})
    models.Bert.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="classifier.weight"):
        models.BertClassifier.from_pretrained(tmp_path)


def labels_of(folder, **given):
    with checkpoints.open_pretrained(folder, family="bert", **given) as checkpoint:
        return checkpoint.labels


def test_names_of_labels(tmp_path):
    reverse = dict(reversed(id2label(NAMES).items()))
    head = {"classifier.weight": np.ones((3, 12), "float32")}
    for arrays in (None, {**bert_arrays(), **head}):
        assert labels_of(write(tmp_path, arrays, id2label=reverse)) == NAMES
        assert labels_of(tmp_path, num_labels=3) == NAMES
        assert labels_of(tmp_path, num_labels=2) is None
    assert labels_of(write(tmp_path)) is None


@pytest.mark.parametrize(
    "names",
    [
        id2label(NAMES[:2]),
        id2label([*NAMES, "MORE"]),
        id2label(["NEG", 1, "POS"]),
        id2label(["NEG", None, "POS"]),
        {"1": "NEG", "2": "NEU", "3": "POS"},
        {"0": "NEG", "1": "NEU", "02": "POS"},
        {"a": "NEG", "b": "NEU", "c": "POS"},
        NAMES,
        "NEG",
    ],
)
def test_names_that_do_not_fit_are_no_names(names, tmp_path):
    head = {"classifier.weight": np.ones((3, 12), "float32")}
    assert labels_of(write(tmp_path, {**bert_arrays(), **head}, id2label=names)) is None
