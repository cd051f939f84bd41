"""Which file of a folder is read, and models in several files."""

import json

import numpy as np
import pytest
from weight_files import FLOATS, INTEGERS, sample_state, sample_tf_index, torch_zip, write_tf

from keras_xfmr.checkpoints import read_checkpoint, write_safetensors

pytestmark = pytest.mark.portable


def write_shards(folder, weight_map, name="model.safetensors.index.json", **more):
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map, **more}))


def sharded(folder):
    write_safetensors(folder / "one.safetensors", {"a": FLOATS, "unlisted": FLOATS})
    write_safetensors(folder / "two.safetensors", {"b": INTEGERS})
    write_shards(folder, {"b": "two.safetensors", "a": "one.safetensors"})


def test_a_folder_is_searched_in_order(tmp_path):
    write_tf(tmp_path, sample_tf_index())
    assert read_checkpoint(tmp_path).format == "tf1"
    (tmp_path / "shard.bin").write_bytes(torch_zip(sample_state()))
    write_shards(tmp_path, {"corner": "shard.bin"}, "pytorch_model.bin.index.json")
    assert list(read_checkpoint(tmp_path)) == ["corner"]
    assert read_checkpoint(tmp_path).format == "torch"
    (tmp_path / "pytorch_model.bin").write_bytes(torch_zip(sample_state()))
    assert len(read_checkpoint(tmp_path)) == 3
    sharded(tmp_path)
    assert read_checkpoint(tmp_path).format == "safetensors"
    write_safetensors(tmp_path / "model.safetensors", {"c": FLOATS})
    assert list(read_checkpoint(str(tmp_path))) == ["c"]


def test_a_folder_without_weights_lists_what_is_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"Looked for model.safetensors, .*\['config.json'"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="No weights at .*missing"):
        read_checkpoint(tmp_path / "missing")


def test_several_tensorflow_checkpoints(tmp_path):
    write_tf(tmp_path, sample_tf_index(), name="model.ckpt-10")
    assert len(read_checkpoint(tmp_path)) == 2
    write_tf(tmp_path, sample_tf_index(), name="model.ckpt-20")
    with pytest.raises(ValueError, match="model.ckpt-10.index', 'model.ckpt-20.index"):
        read_checkpoint(tmp_path)
    # The folder may have been moved, and a path out of it is not followed.
    for path in ("model.ckpt-20", "/gone/model.ckpt-20", "../model.ckpt-20"):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
        assert read_checkpoint(tmp_path).path == tmp_path / "model.ckpt-20"


def test_a_model_in_several_files(tmp_path):
    sharded(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        with read_checkpoint(path) as checkpoint:
            assert checkpoint.shapes == {"b": (3,), "a": (5, 7)}
            np.testing.assert_array_equal(checkpoint["a"], FLOATS, strict=True)
            np.testing.assert_array_equal(checkpoint["b"], INTEGERS, strict=True)
            assert "unlisted" not in checkpoint
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint["a"]


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"{}",
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": ["b"]}}',
        b'{"weight_map": {"a": null}}',
        b"\xff\xfe{}",
        b"[" * 100_003,
        b'{"a":' * 100_003,
        b'{"weight_map": ' + b"9" * 10_007 + b"}",
    ],
)
def test_a_damaged_index_is_refused(index, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ValueError, match="index.json cannot be read"):
        read_checkpoint(tmp_path)


FOREIGN = ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", "", "a\0b"]
FOREIGN += ["..\\one.safetensors", "C:one.safetensors", "x" * 256]


@pytest.mark.parametrize("name", FOREIGN)
def test_an_index_names_only_files_beside_it(name, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for parent in (tmp_path, folder / "sub"):
        write_safetensors(parent / "one.safetensors", {"a": FLOATS})
    write_shards(folder, {"a": name})
    with pytest.raises(ValueError, match="Expected files beside the index. Received"):
        read_checkpoint(folder)


def test_an_index_and_its_files_disagree(tmp_path):
    sharded(tmp_path)
    write_shards(tmp_path, {"a": "two.safetensors"})
    with pytest.raises(ValueError, match="'a' is not in two.safetensors"):
        read_checkpoint(tmp_path)
    write_shards(tmp_path, {"a": "three.safetensors"})
    with pytest.raises(FileNotFoundError, match="'three.safetensors', which is missing"):
        read_checkpoint(tmp_path)
    # An index is no weights: it cannot name itself, and so on without end.
    write_shards(tmp_path, {"a": "model.safetensors.index.json"})
    with pytest.raises(ValueError, match="not a file of torch.save"):
        read_checkpoint(tmp_path)


def test_a_pointer_of_git_lfs_says_so(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    write_tf(tmp_path, sample_tf_index())
    for name in (
        "model.safetensors", "pytorch_model.bin", "a.hdf5", "model.safetensors.index.json",
        "model.ckpt.data-00000-of-00001", "model.ckpt.index",
    ):  # fmt: skip
        (tmp_path / name).write_text(pointer)
        with pytest.raises(ValueError, match="git lfs pull"):
            read_checkpoint(tmp_path / name)


def test_any_file_of_a_tensorflow_checkpoint_names_it(tmp_path):
    write_tf(tmp_path, sample_tf_index(), name="model.ckpt-21")
    for end in (".index", ".data-00000-of-00001", ".meta"):
        (tmp_path / "model.ckpt-21.meta").write_bytes(b"a graph")
        with read_checkpoint(tmp_path / f"model.ckpt-21{end}") as checkpoint:
            assert set(checkpoint) == {"floats", "integers"}
    (tmp_path / "model.ckpt-21.index").unlink()
    with pytest.raises(ValueError, match="whose model.ckpt-21.index is missing"):
        read_checkpoint(tmp_path / "model.ckpt-21.data-00000-of-00001")


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_a_file_that_has_no_weights_leads_to_its_folder(name, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="pass its folder"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 5000, "x" * 252])
def test_a_checkpoint_s_name_lies_in_the_folder(name, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    write_tf(tmp_path, sample_tf_index(), name="folder")  # beside it
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
    with pytest.raises(FileNotFoundError, match="No weights in"):
        read_checkpoint(folder)
    write_tf(folder, sample_tf_index())
    with read_checkpoint(folder) as checkpoint:
        assert checkpoint.path == folder / "model.ckpt"
