"""HDF5 files in and out, beside h5py's own answers, and files that lie.

No backend has a part in it, so that of these tests two are portable.
"""

import os
import struct

import h5py
import numpy as np
import pytest
from hdf5_files import fill_sample, hdf5_file
from refusal import refuses
from weight_files import FLOATS

from keras_xfmr.checkpoints import read_checkpoint, write_hdf5


@pytest.mark.portable
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_file_of_h5py_is_a_lazy_mapping(version, tmp_path):
    path = tmp_path / "a.hdf5"
    path.write_bytes(hdf5_file(fill_sample, libver=version))
    shapes = {"CNN/W": (1, 5, 7), "CNN/b": (7,), "RNN_0/RNN/Cell0/B": (3,), "char_embed": (2, 3)}
    with read_checkpoint(path) as checkpoint, h5py.File(path) as peer:
        assert checkpoint.format == "hdf5" and checkpoint.file_bytes == path.stat().st_size
        assert checkpoint.shapes == shapes and set(checkpoint) == set(shapes)
        assert checkpoint.dtypes["CNN/b"] == "float64"
        for name in shapes:
            expected = peer[name][...]
            expected = expected.astype("float32" if expected.itemsize == 2 else expected.dtype.name)
            np.testing.assert_array_equal(checkpoint[name], expected, strict=True)
        with pytest.raises(KeyError, match="CNN"):
            checkpoint["CNN"]
    with pytest.raises(ValueError, match="a.hdf5 cannot be read"):
        checkpoint["CNN/W"]


@pytest.mark.portable
def test_arrays_written_are_arrays_read(tmp_path, rng):
    arrays = {"a": rng.random((5, 7)), "g/scalar": 3, "g/h/nothing": np.zeros((0, 3))}
    arrays = {name: np.asarray(array, "float32") for name, array in arrays.items()}
    arrays["transposed"] = arrays["a"].T
    path = tmp_path / "a.h5"
    write_hdf5(path, arrays)
    with h5py.File(path) as peer:
        assert peer["transposed"].chunks is None and peer["g/scalar"].shape == ()
    (tmp_path / "other").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    checkpoint = read_checkpoint(tmp_path)  # the only one in its folder
    assert set(checkpoint) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint[name], array, strict=True)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    write_hdf5(path, {"a": FLOATS})
    with pytest.raises(TypeError, match="names of strings"):
        write_hdf5(path, {3: FLOATS})
    with pytest.raises(ValueError, match="Expected float32. Received: 'a' of float64"):
        write_hdf5(path, {"a": np.ones(3)})
    for name in ("", "/a", "a/", "a//b", "./a", "b/a", "a\0"):
        with pytest.raises(ValueError, match="Expected the path of an array"):
            write_hdf5(path, {name: FLOATS, "b": FLOATS})

    def interrupted(file, name, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(h5py.File, "create_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_hdf5(path, {"b": FLOATS})
    assert os.listdir(tmp_path) == ["a.h5"] and list(read_checkpoint(path)) == ["a"]


def test_which_file_of_a_folder_is_read(tmp_path):
    write_hdf5(tmp_path / "one.h5", {"a": FLOATS})
    assert list(read_checkpoint(tmp_path)) == ["a"]
    write_hdf5(tmp_path / "two.hdf5", {"b": FLOATS})
    with pytest.raises(ValueError, match="several checkpoints: .'one.h5', 'two.hdf5'"):
        read_checkpoint(tmp_path)
    write_hdf5(tmp_path / "lm_weights.hdf5", {"c": FLOATS})
    assert list(read_checkpoint(tmp_path)) == ["c"]


# ---- files that lie


def deep(file, levels):
    for _ in range(levels):
        file = file.create_group("g")


def virtual(file):
    layout = h5py.VirtualLayout((5, 7), "float32")
    layout[:] = h5py.VirtualSource("other.h5", "a", (5, 7))
    file.create_virtual_dataset("v", layout)


def loop(file):
    inner = file.create_group("a/b")
    inner["c"] = file["a"]


def twice(file):
    file["a"] = FLOATS
    file["b"] = file["a"]


def compact(file):
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3,)), dcpl=how)


def odd_float(file):
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    h5py.h5d.create(file.id, b"a", kind, h5py.h5s.create_simple((3,)))


def add(name, **options):
    return lambda file: file.create_dataset(name, **options)


def link(target):
    return lambda file: file.__setitem__("a", target)


CHUNKS, OTHER = (5, 7), [("other.bin", 0, 140)]
LIES = {
    "soft": (link(h5py.SoftLink("/b")), "'a' is a soft link"),
    "external": (link(h5py.ExternalLink("other.h5", "a")), "'a' is a link to another file"),
    "type": (link(np.dtype("float32")), "'a' is neither a group nor an array"),
    "twice": (twice, "'b' is a second name"),
    "loop": (loop, "'a/b/c' is a second name"),
    "root": (lambda file: file.__setitem__("a/b", file), "'a/b/a' is a second name"),
    "deep": (lambda file: deep(file, 32), "more than 32 deep"),
    "many": (lambda file: [file.create_group(f"{i}") for i in range(4097)], "at most 4096 groups"),
    "names": (lambda file: [deep(file.create_group(c * 40_009), 8) for c in "abcd"], "1048576 byt"),
    "virtual": (virtual, "'v': Expected a contiguous array. Received: virtual"),
    "chunked": (add("a", data=FLOATS, chunks=CHUNKS), "Received: chunked"),
    "gzip": (add("a", data=FLOATS, compression="gzip"), "Received: chunked"),
    "compact": (compact, "Received: compact"),
    "elsewhere": (add("a", shape=CHUNKS, dtype="f4", external=OTHER), "one in other files"),
    "no bytes": (add("a", shape=(1009, 1013), dtype="f4"), "Expected 4088468 .* Received: 0"),
    "integers": (add("a", data=np.arange(3)), "'a': Expected float16, float32 or float64"),
    "texts": (add("a", data=["text"]), "Expected float16, float32 or float64"),
    "reference": (add("a", shape=(3,), dtype=h5py.ref_dtype), "Expected float16"),
    "odd float": (odd_float, "Expected float16, float32 or float64"),
    "no shape": (add("a", data=h5py.Empty("f4")), "a dataset without a shape"),
}


@pytest.mark.parametrize("fill, message", list(LIES.values()), ids=list(LIES))
def test_what_no_weights_have(fill, message, tmp_path):
    path = tmp_path / "a.hdf5"
    path.write_bytes(hdf5_file(fill))
    (tmp_path / "other.bin").write_bytes(FLOATS.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["a"] = FLOATS
    refuses(path, message)


def changed(place, form, *numbers):
    content = bytearray(hdf5_file(fill_sample))
    place = content.index(place) if isinstance(place, bytes) else place
    struct.pack_into(form, content, place, *numbers)
    return bytes(content)


def layout(start, size):
    """The sample with other numbers in the place of where `char_embed` begins and its size."""
    content = hdf5_file(fill_sample)
    place = content.index(np.ones(6, "float32").tobytes())
    return content.replace(struct.pack("<QQ", place, 24), struct.pack("<QQ", start, size))


def named(name):
    """A file of one array with a name that h5py would not write."""
    return hdf5_file(add("name", data=FLOATS)).replace(b"name", name)


def tree_below_itself():
    content = bytearray(hdf5_file(fill_sample))
    place = content.index(b"TREE")
    struct.pack_into("<BH", content, place + 5, 1, 1)
    struct.pack_into("<Q", content, place + 32, place)
    return bytes(content)


def tree_at_the_end():
    content = bytearray(hdf5_file(fill_sample))
    place = content.index(b"TREE")
    struct.pack_into("<BH", content, place + 5, 1, 1)
    struct.pack_into("<Q", content, place + 32, len(content))
    return bytes(content) + b"TREE"


DAMAGED = {
    "nothing": (b"", "not an HDF5 file"),
    "another format": (b"PK\3\4" * 29, "not an HDF5 file"),
    "user block": (hdf5_file(fill_sample, userblock_size=512), "nothing in front"),
    "addresses of 4 bytes": (changed(13, "<BB", 4, 4), "addresses of 8 bytes"),
    "truncated": (hdf5_file(fill_sample)[:-3], "not a whole HDF5 file.*truncated"),
    "no table of names": (changed(b"HEAP", "<I", 0), "not a whole HDF5 file"),
    "no group": (changed(b"SNOD", "<I", 0), "not a whole HDF5 file"),
    "a path": (named(b"na/e"), "b'na/e' is no name of a group or array"),
    "itself": (named(b".\0\0\0"), "b'.' is no name of a group or array"),
    "below itself": (tree_below_itself(), "B-tree has itself below it"),
    "below, cut off": (tree_at_the_end(), "cannot be read"),
    "many branches": (b"\x89HDF\r\n\x1a\n" + bytes(5) + b"\x08\x08" + b"TREE\0\1\xff\xff" * 9_001,
                      "more than 65536 branches"),
    "array beyond the end": (layout(10**6, 24), "likely file corruption|reaches beyond the end"),
    "array of another size": (layout(96, 48), "Expected 24 bytes of its shape. Received: 48"),
    "arrays overlap": (None, "Two arrays overlap"),
}  # fmt: skip


@pytest.mark.parametrize("content, message", list(DAMAGED.values()), ids=list(DAMAGED))
def test_damaged_files(content, message, tmp_path):
    path = tmp_path / "a.hdf5"
    if content is None:
        whole = hdf5_file(fill_sample)
        content = layout(whole.index(np.arange(7, dtype=">f8").tobytes()), 24)
    path.write_bytes(content)
    refuses(path, message)
