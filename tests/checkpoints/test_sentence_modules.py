"""What a folder of sentence-transformers says about pooling and normalization."""

import json

import keras
import numpy as np
import pytest
from weight_files import BERT_SIZES, bert_arrays

from keras_xfmr import checkpoints, models, text

TRANSFORMER = {"path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
NORMALIZE = {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
MEAN, CLS, MAX = (f"pooling_mode_{mode}" for mode in ("mean_tokens", "cls_token", "max_tokens"))


def write(folder, modules=(TRANSFORMER, POOLING, NORMALIZE), **pooling):
    (folder / "config.json").write_text(json.dumps(BERT_SIZES))
    checkpoints.write_safetensors(folder / "model.safetensors", bert_arrays())
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    config = {"word_embedding_dimension": 12, MEAN: False, CLS: False, MAX: False, **pooling}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return folder


def read(folder):
    with checkpoints.open_pretrained(folder, family="bert") as checkpoint:
        return checkpoint.pooling, checkpoint.normalize


def test_pooling_and_normalization(tmp_path):
    assert read(write(tmp_path, **{MEAN: True})) == ("mean", True)
    assert read(write(tmp_path, **{CLS: True})) == ("cls", True)
    assert read(write(tmp_path, [TRANSFORMER, POOLING], **{CLS: True})) == ("cls", False)
    assert read(write(tmp_path, [TRANSFORMER])) == (None, False)


def test_pooling_as_newer_releases_write_it(tmp_path):
    """A name or a list of names; the flags beside it do not count, and mean is what is not said."""
    assert read(write(tmp_path, pooling_mode="mean")) == ("mean", True)
    assert read(write(tmp_path, pooling_mode=["cls"], **{MEAN: True})) == ("cls", True)
    assert read(write(tmp_path)) == ("mean", True)


@pytest.mark.parametrize("inner", ["0_Transformer", "0_BERT"])
def test_the_weights_may_lie_in_a_folder_of_their_own(inner, tmp_path):
    """As the first releases had them, with the version alone in `config.json`."""
    kind = f"sentence_transformers.models.{inner[2:]}"
    write(tmp_path, [{"path": inner, "type": kind}, POOLING], **{CLS: True})
    (tmp_path / inner).mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).rename(tmp_path / inner / name)
    (tmp_path / "config.json").write_text('{"__version__": "0.3.8"}')
    model = models.BertEmbedder.from_pretrained(tmp_path)
    assert model.pooling == "cls" and not model.normalize
    (tmp_path / inner / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    assert text.load_pretrained_tokenizer(tmp_path).vocab_size == 5


def test_a_folder_without_modules(tmp_path):
    write(tmp_path, **{MEAN: True})
    (tmp_path / "modules.json").unlink()
    assert read(tmp_path) == (None, None)


def test_other_and_several_modes(tmp_path):
    assert read(write(tmp_path, **{MAX: True}))[0] == "max"
    assert read(write(tmp_path, pooling_mode_mean_sqrt_len_tokens=True))[0] == (
        "mean_sqrt_len_tokens"
    )
    # Side by side in the order of sentence-transformers; a list is in its own.
    assert read(write(tmp_path, **{MEAN: True, CLS: True}))[0] == ("cls", "mean")
    assert read(write(tmp_path, pooling_mode=["mean", "cls"]))[0] == ("mean", "cls")


@pytest.mark.parametrize(
    "options",
    [
        {"pooling_mode": [["mean"]]}, {"pooling_mode": "median"}, {"pooling_mode": 3},
        {"pooling_mode": ["mean", "mean"]}, {"pooling_mode_of_tomorrow": True},
        {"modules": [TRANSFORMER, POOLING, POOLING]},
        {"modules": [TRANSFORMER, POOLING, NORMALIZE, DENSE]},
        {"modules": [TRANSFORMER, {"path": "2", "type": "sentence_transformers.models.LSTM"}]},
    ],
)  # fmt: skip
def test_vectors_that_are_made_in_another_way_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match="(modules|modes).*pass `pooling=` yourself"):
        read(write(tmp_path, **options))


# ---- dense layers behind the pooling


def write_dense(folder, units, inputs, name="Tanh", number=2, **more):
    """A folder with one more dense layer; its weights."""
    draw = np.random.default_rng(number)
    kernel, bias = draw.normal(size=(units, inputs)), draw.normal(size=units)
    kind = "linear" if name == "Identity" else "activation"
    config = {"in_features": inputs, "out_features": units, "bias": True}
    config["activation_function"] = f"torch.nn.modules.{kind}.{name}"
    (folder / f"{number}_Dense").mkdir(exist_ok=True)
    (folder / f"{number}_Dense" / "config.json").write_text(json.dumps({**config, **more}))
    arrays = {"linear.weight": kernel.astype("float32"), "linear.bias": bias.astype("float32")}
    checkpoints.write_safetensors(folder / f"{number}_Dense" / "model.safetensors", arrays)
    return kernel, bias


IDS = np.array([[2, 5, 7, 3, 0]])
TWO = [TRANSFORMER, POOLING, DENSE, {**DENSE, "path": "3_Dense"}, {**NORMALIZE, "path": "4"}]


def test_dense_layers_there_and_back(tmp_path):
    write(tmp_path, TWO, **{MEAN: True, CLS: True})
    (kernel, bias), (second, _) = (
        write_dense(tmp_path, 7, 24), write_dense(tmp_path, 5, 7, "Identity", number=3, bias=False)
    )  # fmt: skip
    model = models.BertEmbedder.from_pretrained(tmp_path)
    assert {"2_Dense.linear.weight", "3_Dense.linear.weight"} < set(model.load_report.loaded)
    assert not [name for name in model.load_report.missing if "Dense" in name]
    states = np.asarray(model.hidden_states(IDS)[-1])[0]
    pooled = np.concatenate([states[0], states[:4].mean(0)])
    expected = second @ np.tanh(kernel @ pooled + bias)
    expected /= np.sqrt((expected**2).sum())
    np.testing.assert_allclose(np.asarray(model(IDS))[0], expected, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path / "back")
    model.save(tmp_path / "model.keras")
    for again in (
        models.BertEmbedder.from_pretrained(tmp_path / "back"),
        keras.saving.load_model(tmp_path / "model.keras"),
    ):
        assert again.pooling == ("cls", "mean") and again.normalize
        np.testing.assert_array_equal(np.asarray(again(IDS)), np.asarray(model(IDS)))


def test_dense_layers_that_the_user_gives(tmp_path):
    write(tmp_path, [TRANSFORMER, POOLING, DENSE], **{MEAN: True})
    write_dense(tmp_path, 7, 12)
    model = models.BertEmbedder.from_pretrained(tmp_path, projections=[{"units": 3}])
    assert model(IDS).shape == (1, 3)
    assert "projection_0.linear.weight" in model.load_report.missing
    assert models.BertEmbedder.from_pretrained(tmp_path, projections=())(IDS).shape == (1, 12)
    with pytest.raises(ValueError, match="reads vectors of 12 numbers, and the pooling gives 24"):
        models.BertEmbedder.from_pretrained(tmp_path, pooling=("mean", "max"))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"out_features": 10**12}, "must have floats 'linear.weight' of shape"),
        ({"in_features": 10**12}, "reads vectors of 1000000000000 numbers"),
        ({"in_features": "12"}, "must describe a dense layer"),
        ({"activation_function": "os.system"}, "must describe a dense layer"),
        ({"activation_function": ["a"]}, "must describe a dense layer"),
        ({"use_residual": True}, "must describe a dense layer"),
        ({"module_input_name": "token_embeddings"}, "must describe a dense layer"),
    ],
)
def test_dense_layers_that_are_not_here_are_refused(config, message, tmp_path):
    write(tmp_path, [TRANSFORMER, POOLING, DENSE], **{MEAN: True})
    write_dense(tmp_path, 7, 12, **config)
    with pytest.raises(ValueError, match=message):
        models.BertEmbedder.from_pretrained(tmp_path)


# ---- what is not honoured


def test_prompts_and_other_modules_are_logged(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    layer = {"path": "", "type": "sentence_transformers.models.LayerNorm"}
    write(tmp_path, [TRANSFORMER, POOLING, layer], **{MEAN: True}, include_prompt=False)
    prompts = {"query": "query: ", "passage": "", "document": None}
    content = {"prompts": prompts, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(content))
    models.BertEmbedder.from_pretrained(tmp_path, pooling="mean")
    said = [line for line in said if "sentence-transformers" in line]
    assert len(said) == 3 and "['LayerNorm'] are left out" in said[0]
    assert "{'query': 'query: '}. 'query' is the one for all texts" in said[1]
    assert "include_prompt=false" in said[2]
    with checkpoints.open_pretrained(tmp_path, family="bert") as checkpoint:
        assert checkpoint.prompts == {"query": "query: "}
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"a": 3}}')
    with pytest.raises(ValueError, match="`prompts` as an object of texts"):
        models.BertEmbedder.from_pretrained(tmp_path, pooling="mean")


# ---- sentence-transformers itself

MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.slow
def test_vectors_equal_those_of_sentence_transformers(tmp_path):
    peer = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ann", "runs", "far"]
    tokenizer = text.BertTokenizer(words)
    keras.utils.set_random_seed(2)
    bert = models.Bert(
        8, d_model=12, num_heads=4, ffn_dim=13, num_layers=1, max_length=11, initializer_range=0.5
    )
    projections = [{"units": 7}, {"units": 5, "activation": "gelu", "use_bias": False}]
    texts = ["ann runs far", "ann", "runs ann runs ann runs"]
    for pooling in (*MODES, ("max", "cls")):
        model = models.BertEmbedder(bert, pooling=pooling, projections=projections)
        model.save_pretrained(tmp_path)
        tokenizer.save(tmp_path, max_length=11)
        theirs = peer.SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
        again = models.BertEmbedder.from_pretrained(tmp_path)
        found = np.asarray(again(text.SentencePacker(tokenizer, 11)(texts)))
        np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-5)


FOREIGN = ["../1_Pooling", "/etc", "..", ".", "", "a\\b", "C:", "1_Pooling/..", "1_Pooling/"]
FOREIGN += ["a\0b", "x" * 300, "/".join("x" * 600)]


@pytest.mark.parametrize("path", FOREIGN)
def test_the_pooling_lies_in_the_folder(path, tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({MEAN: True}))
    (tmp_path / "inner").mkdir()
    folder = write(tmp_path / "inner", [TRANSFORMER, {**POOLING, "path": path}], **{MEAN: True})
    with pytest.raises(ValueError, match="modules.json.*a folder inside"):
        read(folder)


@pytest.mark.parametrize(
    "content",
    [b"{", b"", b"\xff\xfe", b"[" * 100_003, b"{}", b"[3]", b'[{"path": "a"}]', b" " * (2**22 + 1)],
)
@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json"])
def test_damaged_files_are_refused_and_the_encoder_is_read(name, content, tmp_path):
    write(tmp_path, **{MEAN: True})
    if name != "modules.json" and content == b"{}":
        content = b"[]"
    (tmp_path / name).write_bytes(content)
    with checkpoints.open_pretrained(tmp_path, family="bert") as checkpoint:
        assert checkpoint.arguments["d_model"] == 12
        with pytest.raises(ValueError, match=name):
            print(checkpoint.pooling)


def test_a_pooling_that_is_missing_is_named(tmp_path):
    write(tmp_path, **{MEAN: True})
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="1_Pooling.*pooling="):
        read(tmp_path)


def test_what_the_user_says_is_not_looked_up(tmp_path):
    write(tmp_path, **{MEAN: True})
    (tmp_path / "1_Pooling" / "config.json").unlink()
    model = models.BertEmbedder.from_pretrained(tmp_path, pooling="cls")
    assert (model.pooling, model.normalize) == ("cls", True)
    (tmp_path / "modules.json").write_bytes(b"{")
    given = {"pooling": "mean", "normalize": False, "projections": ()}
    model = models.BertEmbedder.from_pretrained(tmp_path, **given)
    assert (model.pooling, model.normalize) == ("mean", False)
    with pytest.raises(ValueError, match="modules.json"):
        models.BertEmbedder.from_pretrained(tmp_path, pooling="mean")
