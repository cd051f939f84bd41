"""What a folder of sentence-transformers says about pooling and normalization."""

import json

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
    """As the first releases had them."""
    write(tmp_path, [{**TRANSFORMER, "path": inner}, POOLING], **{CLS: True})
    (tmp_path / inner).mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).rename(tmp_path / inner / name)
    model = models.BertEmbedder.from_pretrained(tmp_path)
    assert model.pooling == "cls" and not model.normalize
    (tmp_path / inner / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    assert text.load_pretrained_tokenizer(tmp_path).vocab_size == 5


def test_a_folder_without_modules(tmp_path):
    write(tmp_path, **{MEAN: True})
    (tmp_path / "modules.json").unlink()
    assert read(tmp_path) == (None, None)


def test_vectors_that_mean_and_cls_do_not_give_are_others(tmp_path):
    assert read(write(tmp_path, **{MAX: True})) == ("other", True)
    assert read(write(tmp_path, **{MEAN: True, CLS: True})) == ("other", True)
    assert read(write(tmp_path, pooling_mode="max")) == ("other", True)
    assert read(write(tmp_path, pooling_mode=["mean", "cls"])) == ("other", True)
    assert read(write(tmp_path, pooling_mode=[["mean"]])) == ("other", True)
    assert read(write(tmp_path, [TRANSFORMER, POOLING, DENSE], **{MEAN: True})) == ("other", False)
    assert read(write(tmp_path, [TRANSFORMER, POOLING, POOLING], **{MEAN: True}))[0] == "other"


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
    model = models.BertEmbedder.from_pretrained(tmp_path, pooling="mean", normalize=False)
    assert (model.pooling, model.normalize) == ("mean", False)
    with pytest.raises(ValueError, match="modules.json"):
        models.BertEmbedder.from_pretrained(tmp_path, pooling="mean")
