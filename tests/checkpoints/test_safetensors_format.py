"""safetensors in and out, beside the package's own answers."""

import os
import types

import numpy as np
import pytest
import safetensors.numpy
from keras import ops
from weight_files import FLOATS, INTEGERS, entry, safetensors_file, sample_safetensors

from keras_xfmr.checkpoints import read_checkpoint, write_safetensors

pytestmark = pytest.mark.portable

TYPES = ("float64", "float32", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool")


def test_a_file_made_by_hand_is_a_lazy_mapping(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(sample_safetensors())
    with read_checkpoint(path) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert checkpoint.shapes == {"floats": (5, 7), "integers": (3,)}
        assert list(checkpoint) == ["floats", "integers"] and len(checkpoint) == 2
        assert "floats" in checkpoint and "doubles" not in checkpoint
        np.testing.assert_array_equal(checkpoint["floats"], FLOATS, strict=True)
        np.testing.assert_array_equal(checkpoint["integers"], INTEGERS, strict=True)
        with pytest.raises(KeyError, match="doubles"):
            checkpoint["doubles"]
    with pytest.raises(ValueError, match="a.safetensors cannot be read"):
        checkpoint["floats"]


@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_written_are_arrays_read(dtype, tmp_path, rng):
    arrays = {"a": rng.integers(0, 2, (5, 7)), "axis": np.ones((1, 3)), "scalar": np.array(1)}
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    arrays |= {"transposed": arrays["a"].T, "nothing": np.zeros((0, 3), dtype)}
    arrays["every other"] = arrays["a"][::2, 1::3]
    write_safetensors(tmp_path / "a.safetensors", arrays)
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    peer = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert set(checkpoint) == set(arrays) == set(peer)
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint[name], array, strict=True)
        np.testing.assert_array_equal(peer[name], array, strict=True)


def test_half_precision_arrives_as_float32(tmp_path):
    halves = np.array([1.5, -2.0, 6e-8], np.float16)
    # 1, -2 and infinity, as the upper halves of float32.
    brains = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)
    header = {"half": entry("F16", [3], 0, 6), "brain": entry("BF16", [3, 1], 6, 12)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_file(header, halves.tobytes() + brains.tobytes()))
    with read_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint["half"], halves.astype(np.float32), strict=True)
        expected = np.array([[1], [-2], [np.inf]], np.float32)
        np.testing.assert_array_equal(checkpoint["brain"], expected, strict=True)


def test_any_byte_but_zero_is_true(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_file({"a": entry("BOOL", [3], 0, 3)}, b"\0\1\xff"))
    assert read_checkpoint(path)["a"].view(np.uint8).tolist() == [0, 1, 1]


def test_a_type_unknown_to_numpy_is_named_when_it_is_read(tmp_path):
    header = {"a": entry("F8_E4M3", [3], 0, 3), "b": entry("U8", [2], 3, 5)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_file(header, b"\1\2\3\4\5"))
    checkpoint = read_checkpoint(path)
    assert checkpoint["b"].tolist() == [4, 5]
    with pytest.raises(ValueError, match="'a' has the type F8_E4M3"):
        checkpoint["a"]


def test_metadata_is_written(tmp_path):
    metadata = types.MappingProxyType({"format": "pt"})  # any mapping is metadata
    write_safetensors(tmp_path / "a.safetensors", {"a": FLOATS}, metadata)
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as peer:
        assert peer.metadata() == {"format": "pt"}


def test_a_written_file_replaces_the_old_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": FLOATS})
    old = read_checkpoint(path)
    write_safetensors(path, {"b": INTEGERS})
    assert os.listdir(tmp_path) == ["a.safetensors"] and list(read_checkpoint(path)) == ["b"]
    np.testing.assert_array_equal(old["a"], FLOATS)

    def interrupted(arrays, aside, metadata):
        aside.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.numpy, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(path, {"c": FLOATS})
    assert os.listdir(tmp_path) == ["a.safetensors"] and list(read_checkpoint(path)) == ["b"]


def test_a_written_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, n=name, f=function: (calls.append(n), f(*args)))
    write_safetensors(tmp_path / "a.safetensors", {"a": FLOATS})
    assert calls == ["fsync", "replace", "fsync"]  # the file, and at last its folder


def test_a_written_file_is_as_readable_as_others(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"a": FLOATS})
    (tmp_path / "other").write_bytes(b"")
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 2 and len(set(modes.values())) == 1, modes


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    for tensors, metadata in (({3: FLOATS}, None), ({"a": FLOATS}, {"step": 3})):
        with pytest.raises(TypeError, match="Expected names and metadata of strings"):
            write_safetensors(path, tensors, metadata)
    with pytest.raises(ValueError, match="'__metadata__' is the format's own"):
        write_safetensors(path, {"__metadata__": FLOATS})
    for array in (np.array(["text"]), np.array([None])):
        with pytest.raises(ValueError, match="'a' has a type that the format lacks"):
            write_safetensors(path, {"a": array})
    with pytest.raises(FileNotFoundError):
        write_safetensors(tmp_path / "missing" / "a.safetensors", {"a": FLOATS})
    assert not os.listdir(tmp_path)


def test_a_view_is_the_file_itself_at_any_byte(tmp_path):
    """Read straight from the file, where other arrays leave no alignment."""
    header = {"a": entry("U8", [3], 0, 3), "floats": entry("F32", FLOATS.shape, 3, 3 + 140)}
    header["half"] = entry("F16", [2], 143, 147)
    path = tmp_path / "a.safetensors"
    halves = np.array([1.5, -2.0], np.float16)
    path.write_bytes(safetensors_file(header, b"\1\2\3" + FLOATS.tobytes() + halves.tobytes()))
    checkpoint = read_checkpoint(path)
    view, copy = checkpoint.view("floats"), checkpoint["floats"]
    assert not view.flags.writeable and copy.flags.writeable and copy.flags.aligned
    for array in (view, copy, ops.convert_to_numpy(ops.convert_to_tensor(view))):
        np.testing.assert_array_equal(array, FLOATS, strict=True)
    turned = ops.convert_to_numpy(ops.transpose(ops.convert_to_tensor(view)))
    np.testing.assert_array_equal(turned, FLOATS.T, strict=True)
    expected = halves.astype(np.float32)
    np.testing.assert_array_equal(checkpoint.view("half"), expected, strict=True)
    checkpoint.close()
    np.testing.assert_array_equal(view, FLOATS, strict=True)  # what was read stays
    with pytest.raises(ValueError, match="'floats' was read after the file had been closed"):
        checkpoint.view("floats")
