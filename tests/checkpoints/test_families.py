"""Which family a folder has, and what a table can say that BERT's and GPT-2's do not."""

import json

import keras
import numpy as np
import pytest
from weight_files import BERT_SIZES, bert_arrays

from keras_xfmr import checkpoints, models
from keras_xfmr.checkpoints import families
from keras_xfmr.checkpoints.configuration import size
from keras_xfmr.checkpoints.tables import Family, Style, recurrent
from keras_xfmr.models.core.pretrained import Pretrained


def write(folder, name="config.json", arrays=None, **config):
    (folder / name).write_text(json.dumps({**BERT_SIZES, **config}))
    arrays = bert_arrays() if arrays is None else arrays
    checkpoints.write_safetensors(folder / "model.safetensors", arrays)
    return folder


def family_of(folder, called=None):
    with checkpoints.open_pretrained(folder, family=called) as checkpoint:
        return checkpoint.family.model_type


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert"},
        {"architectures": ["BertModel"]},
        {"architectures": ["BertForMaskedLM", "Another"]},
        {"architectures": ["TFBertLMHeadModel"]},
    ],
)
def test_a_configuration_says_its_family(config, tmp_path):
    assert family_of(write(tmp_path, **config)) == "bert"
    assert not models.Bert.from_pretrained(tmp_path).load_report.unexpected


def test_an_architecture_of_another_family_is_named(tmp_path):
    write(tmp_path, model_type="bert", architectures=["RobertaModel"])
    with pytest.warns(UserWarning, match="'RobertaModel'.*read as those of a BERT"):
        assert family_of(tmp_path) == "bert"


@pytest.mark.parametrize("name", ["config.json", "bert_config.json"])
@pytest.mark.parametrize("config", [{}, {"model_type": None, "architectures": []}])
def test_the_class_says_it_where_the_configuration_does_not(name, config, tmp_path):
    write(tmp_path, name, **config)
    assert family_of(tmp_path, "bert") == "bert"
    with pytest.raises(ValueError, match="neither `model_type` nor `architectures`.*family="):
        family_of(tmp_path)
    with pytest.raises(ValueError, match="names 12 blocks.*no name begins with h"):
        family_of(tmp_path, "gpt2")  # whose table does not fit


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["RobertaModel"]},
        {"architectures": ["BertGenerationEncoder"]},
        {"architectures": ["XBertModel"]},
        {"architectures": "BertModel"},
        {"architectures": [3]},
        {"architectures": {"BertModel": 3}},
        {"model_type": "roberta", "architectures": ["BertModel"]},
        {"model_type": "roberta"},
        {"model_type": ["bert"]},
        {"model_type": 3},
        {"model_type": ""},
    ],
)
def test_other_families_are_refused_though_their_weights_fit(config, tmp_path):
    write(tmp_path, **config)
    key, value = next(iter(config.items()))
    for called in ("bert", None):
        with pytest.raises(ValueError) as error:
            family_of(tmp_path, called)
        assert f"Received: {key}={value!r}" in str(error.value)
        assert "Expected the configuration of a BERT (model_type='bert')" in str(error.value)


def test_the_class_of_another_family_is_named(tmp_path):
    write(tmp_path, model_type="bert")
    with pytest.raises(ValueError, match=r"a GPT-2 .*'bert'.* BERT is loaded by .*models\.Bert"):
        family_of(tmp_path, "gpt2")


def test_a_family_that_is_not_here(tmp_path):
    message = r"`family` must be one of \('bert', 'gpt2', 'elmo'\). Received: "
    with pytest.raises(ValueError, match=f"{message}'roberta'"):
        family_of(write(tmp_path), "roberta")
    with pytest.raises(ValueError, match=f"{message}None"):
        checkpoints.save_pretrained(keras.Sequential(), tmp_path / "a")


def test_a_backbone_of_another_family():
    layer = keras.layers.Dense(3)
    layer.build((None, 3))
    with pytest.raises(ValueError, match="Expected a KerasHub BertBackbone. Received: Dense"):
        checkpoints.open_pretrained(layer)
    with pytest.raises(ValueError, match="no backbone .* as a GPT-2. Received: a Dense"):
        checkpoints.open_pretrained(layer, family="gpt2")


@pytest.mark.parametrize("number", ["{i}", "01"])
def test_names_that_only_look_like_those_of_a_block(number, tmp_path):
    name = f"encoder.layer.{number}.output.dense.bias"
    write(tmp_path, arrays={**bert_arrays(), name: np.ones(12, "float32")})
    assert models.Bert.from_pretrained(tmp_path).load_report.unexpected == (name,)


def test_a_weight_that_is_there_twice(tmp_path):
    arrays = bert_arrays()
    arrays["bert.embeddings.LayerNorm.gamma"] = arrays["embeddings.LayerNorm.weight"]
    message = "'embeddings.LayerNorm.weight' twice, as .*gamma'"
    with pytest.raises(ValueError, match=message):
        models.Bert.from_pretrained(write(tmp_path, arrays=arrays))


@pytest.mark.parametrize("around", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_what_wrappers_put_in_front_of_names(around, tmp_path):
    arrays = {f"{around}bert.{name}": array for name, array in bert_arrays().items()}
    arrays[f"{around}classifier.weight"] = np.ones((3, 12), "float32")
    model = models.BertClassifier.from_pretrained(write(tmp_path, arrays=arrays))
    assert "classifier.weight" in model.load_report.loaded and model.num_classes == 3
    name = f"{around}transformer.h.0.ln_1.weight"
    assert families.FAMILIES["gpt2"].identify(name).name == "h.0.ln_1.weight"


def test_what_others_put_in_front_of_names_is_named(tmp_path):
    write(tmp_path, arrays={f"net.{name}": array for name, array in bert_arrays().items()})
    with pytest.raises(ValueError, match="Take 'net.' off the names"):
        models.Bert.from_pretrained(tmp_path)


def test_a_tied_table_is_reported(tmp_path):
    table, decoder = "embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    arrays = bert_arrays()
    arrays[decoder] = np.arange(31 * 12, dtype="float32").reshape(31, 12)
    assert models.Bert.from_pretrained(write(tmp_path, arrays=arrays)).load_report.unexpected == (
        decoder,
    )
    arrays[table] = arrays[decoder]
    report = models.BertPretrainer.from_pretrained(write(tmp_path, arrays=arrays)).load_report
    assert report.tied == (decoder,) and decoder not in report.unexpected
    assert f"1 tied: {decoder}" in str(report)
    del arrays[table]  # as some files have it, under the name of the output table alone
    for kind in (models.Bert, models.BertPretrainer):
        model = kind.from_pretrained(write(tmp_path, arrays=arrays))
        assert model.load_report.tied == (decoder,) and not model.load_report.unexpected
        assert table in model.load_report.loaded
    table = model.encoder.token_embedding.embeddings
    np.testing.assert_array_equal(np.asarray(table), arrays[decoder])


def test_more_tokens_than_the_checkpoint_has(tmp_path):
    write(tmp_path)
    message = r"word_embeddings.*\(37, 12\).*leave such arguments out.*resize_token_embeddings"
    with pytest.raises(ValueError, match=message):
        models.Bert.from_pretrained(tmp_path, vocab_size=37)
    longer = models.resize_token_embeddings(models.Bert.from_pretrained(tmp_path), 37)
    assert longer.token_embedding.input_dim == 37


# ---- gates in another order

TORCH = Style(kernel=".weight_ih_l0", recurrent_kernel=".weight_hh_l0")
RNN = Family(
    model_type="rnn",
    title="RNN",
    model="Recurrent",
    architectures="RNN",
    bare="RNN",
    options=(size("inputs", "inputs", default=5), size("units", "units", default=7)),
    # torch has reset, update, new; Keras update, reset, new.
    weights=recurrent("rnn.cell", ("inputs", "units"), (1, 0, 2), {TORCH: "rnn"}, use_bias=False),
)


class Recurrent(Pretrained, keras.Model):
    family = "rnn"

    def __init__(self, inputs=5, units=7):
        self.rnn = keras.layers.GRU(units, use_bias=False, return_sequences=True)
        x = keras.Input((None, inputs))
        super().__init__(inputs=x, outputs=self.rnn(x))

    def get_config(self):
        return {"inputs": 5, "units": 7}

    def hub_config(self):
        return {"architectures": ["RNN"]}


def test_gates_in_another_order(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(families.FAMILIES, "rnn", RNN)
    torch.manual_seed(0)
    peer = torch.nn.GRU(5, 7, bias=False, batch_first=True)
    weights = {f"rnn.{name}": value.detach().numpy() for name, value in peer.named_parameters()}
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    with torch.no_grad():
        expected = peer(torch.tensor(x))[0].numpy()
    model = Recurrent.from_pretrained(write(tmp_path, arrays=weights, model_type="rnn"))
    np.testing.assert_allclose(np.asarray(model(x)), expected, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path)
    with checkpoints.read_checkpoint(tmp_path) as saved:
        assert set(saved) == set(weights)
        for name in saved:
            np.testing.assert_array_equal(saved[name], weights[name])
