"""GptClassifier there and back: logits equal those of PyTorch's GPT2ForSequenceClassification.

Sizes: T 7 of 11, D 12 (4 heads of 3), F 17, V 31, C 3.
"""

import json

import keras
import numpy as np
import pytest

from keras_xfmr import models

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
IDS = np.random.default_rng(0).integers(3, 31, (2, 7)).astype("int32")
IDS[1, 4:] = 0  # padding
SIZES = dict(vocab_size=31, n_positions=11, n_embd=12, n_layer=2, n_head=4, n_inner=17)
LABELS = ["bad", "good", "so so"]


@pytest.fixture(scope="module")
def peer():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        **SIZES, layer_norm_epsilon=1e-2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)},
    )  # fmt: skip
    peer = transformers.GPT2ForSequenceClassification(config).eval()
    with torch.no_grad():
        for weight in peer.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return peer


@pytest.fixture
def folder(peer, tmp_path):
    peer.save_pretrained(tmp_path)
    return tmp_path


def logits_of(peer):
    ids = torch.tensor(IDS.astype("int64"))
    with torch.no_grad():
        return peer(input_ids=ids, attention_mask=(ids != 0).long()).logits.numpy()


def numpy_of(outputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_logits_there_and_back(peer, folder):
    model = models.GptClassifier.from_pretrained(folder)
    assert not model.load_report.missing and not model.load_report.unexpected
    assert model.labels == LABELS and model.gpt.pad_id == 0
    found = numpy_of(model(IDS))
    close(found["classes"], logits_of(peer))
    writer = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()  # the table is tied
    shown = IDS != 0
    close(found["lm"][shown], logits_of(writer)[shown])
    model.save_pretrained(folder / "back")
    again, report = transformers.GPT2ForSequenceClassification.from_pretrained(
        folder / "back", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert again.config.pad_token_id == 0 and again.config.id2label[2] == "so so"
    close(logits_of(again.eval()), logits_of(peer))


def test_a_new_head_is_drawn_reported_and_logged(folder, monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    model = models.GptClassifier.from_pretrained(folder, num_classes=5, dropout_rate=0.2)
    assert model.load_report.missing == ("score.weight",)
    assert said == ["Not in the checkpoint, so randomly initialized: score.weight"]
    assert model.num_classes == 5 and model.labels is None
    assert (model.dropout.rate, model.gpt.dropout_rate) == (0.2, 0.2)
    assert 0.01 < np.std(model.classifier.kernel) < 0.03
    # Of a language model alone, under the labels that are given.
    model.gpt.save_pretrained(folder / "gpt")
    model = models.GptClassifier.from_pretrained(folder / "gpt", labels=["no", "yes"])
    assert model.load_report.missing == ("score.weight",) and model.labels == ["no", "yes"]
    assert not models.Gpt.from_pretrained(folder).load_report.missing


def test_an_output_table_of_its_own_is_refused(peer, folder):
    from keras_xfmr import checkpoints

    with checkpoints.read_checkpoint(folder) as saved:
        tensors = {name: saved[name] for name in saved}
    tensors["lm_head.weight"] = np.ones((31, 12), "float32")
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(ValueError, match="lm_head.*ties"):
        models.GptClassifier.from_pretrained(folder)


def test_several_labels_are_published(folder):
    model = models.GptClassifier.from_pretrained(folder, multi_label=True)
    model.save_pretrained(folder / "back")
    config = json.loads((folder / "back" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert models.GptClassifier.from_pretrained(folder / "back").multi_label
