"""GPT-2's tables: logits of a stand-in, made of this library's layers, equal PyTorch's.

Sizes: T 7 of 11, D 12 (4 heads of 3), F 17, V 31.
"""

import json

import keras
import numpy as np
import pytest

from keras_xfmr import checkpoints, models
from keras_xfmr.layers import EncoderBlock, LayerNorm, PositionEmbedding, TokenEmbedding
from keras_xfmr.models.core.pretrained import Pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
IDS = np.random.default_rng(0).integers(0, 31, (2, 7)).astype("int32")


class Decoder(Pretrained, keras.Model):
    """What `families/gpt2.py` says that a model must have."""

    family = "gpt2"

    def __init__(self, vocab_size, *, initializer=None, **config):
        d_model, epsilon = config["d_model"], config["epsilon"]
        self.token_embedding = TokenEmbedding(vocab_size, d_model, scale=False)
        self.position_embedding = PositionEmbedding(config["max_length"])
        self.decoder_blocks = [
            EncoderBlock(
                config["num_heads"],
                config["ffn_dim"],
                activation=config["activation"],
                norm_first=True,
                epsilon=epsilon,
                kernel_initializer=initializer or "glorot_uniform",
            )
            for _ in range(config["num_layers"])
        ]
        self.final_norm = LayerNorm(epsilon=epsilon)
        ids = keras.Input((None,), dtype="int32")
        x = self.position_embedding(self.token_embedding(ids))
        for block in self.decoder_blocks:
            x = block(x, use_causal_mask=True)
        logits = self.token_embedding(self.final_norm(x), reverse=True)
        super().__init__(inputs=ids, outputs=logits)
        self._config = {"vocab_size": vocab_size, **config}

    def get_config(self):
        return self._config

    def hub_config(self):
        return {"architectures": ["GPT2LMHeadModel"]}


def make_peer(**config):
    """A peer with large weights and a large epsilon, and its logits."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=31, n_positions=11, n_embd=12, n_layer=2, n_head=4, n_inner=17)
    config = {**sizes, "layer_norm_epsilon": 1e-2, "bos_token_id": 3, "eos_token_id": 5, **config}
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)).eval()
    with torch.no_grad():
        for weight in peer.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return peer, logits_of(peer)


def logits_of(peer):
    with torch.no_grad():
        return peer(input_ids=torch.tensor(IDS.astype("int64"))).logits.numpy()


@pytest.fixture(scope="module")
def published():
    return make_peer()


@pytest.fixture
def folder(published, tmp_path):
    published[0].save_pretrained(tmp_path)
    return tmp_path


def check(model, logits):
    assert not model.load_report.missing and not model.load_report.unexpected
    np.testing.assert_allclose(np.asarray(model(IDS)), logits, rtol=1e-5, atol=1e-5)


def change(folder, config=None, **tensors):
    """Other options in the configuration, more arrays beside the weights."""
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, **(config or {})}))
    with checkpoints.read_checkpoint(folder) as saved:
        tensors = {**{name: saved[name] for name in saved}, **tensors}
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def test_a_model_with_its_head_there_and_back(published, folder):
    masks = {"h.0.attn.bias": np.ones((1, 1, 11, 11), "uint8"), "h.0.attn.masked_bias": np.ones(())}
    masks |= {"lm_head.weight": published[0].transformer.wte.weight.detach().numpy()}
    model = Decoder.from_pretrained(change(folder, **masks))
    check(model, published[1])
    assert model.get_config()["start_id"] == 3 and model.get_config()["end_id"] == 5
    model.save_pretrained(folder / "back")
    again, report = transformers.GPT2LMHeadModel.from_pretrained(
        folder / "back", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    np.testing.assert_allclose(logits_of(again.eval()), published[1], rtol=1e-5, atol=1e-5)


def test_states_equal_those_of_transformers(published, folder):
    model = models.Gpt.from_pretrained(folder)
    with torch.no_grad():
        ids = torch.tensor(IDS.astype("int64"))
        wanted = published[0](input_ids=ids, output_hidden_states=True).hidden_states
    for found, expected in zip(model.hidden_states(IDS), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=2e-5)


def test_names_without_a_prefix_and_other_files(published, tmp_path):
    peer, logits = published
    peer.transformer.save_pretrained(tmp_path / "bare")
    peer.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    (tmp_path / "bin").mkdir()
    torch.save(peer.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bin" / "config.json").write_text(peer.config.to_json_string())
    for name in ("bare", "shards", "bin"):
        check(Decoder.from_pretrained(tmp_path / name), logits)


def test_what_a_model_leaves_unset_is_written(tmp_path):
    model = models.Gpt.from_preset("tiny", vocab_size=31, dropout_rate=0.3)
    model.save_pretrained(tmp_path)
    peer = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    config = peer.config
    assert (config.embd_pdrop, config.bos_token_id, config.eos_token_id) == (0.3, 30, 30)
    np.testing.assert_allclose(np.asarray(model(IDS)), logits_of(peer), rtol=1e-5, atol=1e-5)


def test_loading_draws_nothing(folder, monkeypatch):
    drawn = []

    def watch(self, shape, dtype=None):
        drawn.append(shape)
        return keras.ops.zeros(shape, dtype)

    for name in ("RandomNormal", "TruncatedNormal", "GlorotUniform"):
        monkeypatch.setattr(getattr(keras.initializers, name), "__call__", watch)
    model = models.Gpt.from_preset("tiny", vocab_size=31)
    assert len(drawn) == 14
    drawn.clear()
    model = models.Gpt.from_pretrained(folder)
    assert not drawn and model.get_config()["initializer"] is None
    model = models.Gpt(31, d_model=12, num_heads=3, ffn_dim=5, num_layers=1, initializer="ones")
    assert np.all(models.Gpt.from_config(model.get_config()).token_embedding.embeddings == 1)


def test_openai_s_checkpoint(published, folder):
    import tensorflow as tf

    variables = {}
    with checkpoints.read_checkpoint(folder) as saved:
        for name in saved:
            array = saved[name]
            name = name.removeprefix("transformer.").replace("h.", "h", 1).split(".")
            end = {"weight": "g" if "ln" in name[-2] else "w", "bias": "b"}[name[-1]]
            name = [*name[:-1], *([end] if "wte" not in name and "wpe" not in name else [])]
            if end == "w" and len(name) > 1:
                array = array[None]
            variables["/".join(["model", *name])] = tf.constant(array)
    assert variables["model/h1/attn/c_attn/w"].shape == (1, 12, 36)
    (folder / "gpt").mkdir()
    tf.raw_ops.SaveV2(
        prefix=str(folder / "gpt" / "model.ckpt"),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=list(variables.values()),
    )
    sizes = {"n_vocab": 31, "n_ctx": 11, "n_embd": 12, "n_head": 4, "n_layer": 2}
    (folder / "gpt" / "hparams.json").write_text(json.dumps(sizes))
    with pytest.raises(ValueError, match=r"'model/h0/mlp/c_fc/w' has the shape \(12, 48\)"):
        Decoder.from_pretrained(folder / "gpt")  # four times as wide, where nothing is said
    sizes = {**sizes, "n_inner": 17, "layer_norm_epsilon": 1e-2}
    (folder / "gpt" / "hparams.json").write_text(json.dumps(sizes))
    model = Decoder.from_pretrained(folder / "gpt")
    check(model, published[1])
    assert model.get_config()["end_id"] == 30


def test_options_that_are_computed_here(tmp_path):
    same = {"reorder_and_upcast_attn": True, "scale_attn_weights": True}  # float32 is here, too
    peer, logits = make_peer(n_inner=None, activation_function="gelu", **same)
    peer.save_pretrained(tmp_path)
    model = Decoder.from_pretrained(tmp_path)
    check(model, logits)
    config = model.get_config()
    assert (config["ffn_dim"], config["activation"]) == (48, "gelu_exact")
    model.save_pretrained(tmp_path / "back")
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (written["n_inner"], written["activation_function"]) == (48, "gelu")


@pytest.mark.parametrize(
    "config, message",
    [
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"activation_function": "quick"}, "activation_function.*one of gelu_new"),
        ({"n_layer": 3}, "names 3 blocks"),
        ({"n_embd": 13}, "wte.weight' has the shape"),
        ({"model_type": "bert"}, r"Expected .* GPT-2 .*models\.Bert"),
    ],
)
def test_what_is_not_here_is_refused(config, message, folder):
    with pytest.raises(ValueError, match=message):
        Decoder.from_pretrained(change(folder, config))


def test_an_output_table_of_its_own_is_refused(folder):
    change(folder, **{"lm_head.weight": np.ones((31, 12), "float32")})
    with pytest.raises(ValueError, match="lm_head.*ties"):
        Decoder.from_pretrained(folder)


def test_what_transformers_has_no_form_for_is_not_written(folder):
    model = Decoder.from_pretrained(folder)
    config = model.get_config()
    for name, value in {
        "norm": "rms_norm", "tie_output": False, "num_key_value_heads": 2, "activation": "swiglu",
    }.items():  # fmt: skip
        model._config = {**config, name: value}
        with pytest.raises(ValueError, match=f"(?s){name}={value!r}"):
            model.save_pretrained(folder / "back")
    assert not (folder / "back").exists()
