"""Files that lie: each is a ValueError, at once, and no memory is taken.

No backend has a part in it, so that of these tests one is portable.
"""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from refusal import cases, refuses
from weight_files import (
    FLOATS,
    ORDERED_DICT,
    TF_DATA,
    block,
    bundle_entry,
    entry,
    field,
    number,
    safetensors_file,
    sample_safetensors,
    sample_state,
    sample_tf_index,
    state_dict,
    storage,
    tensor,
    tf_index,
    torch_stream,
    torch_zip,
    tuple_of,
    varint,
    write_tf,
)

from keras_xfmr.checkpoints import read_checkpoint

# ---- safetensors

ONE = entry("F32", [2], 0, 8)
SAFETENSORS = {
    "nothing": (b"", "header too small"),
    "wrong magic": (b"PK\3\4" * 9, "header too large"),
    "truncated": (sample_safetensors()[:-1], "not fully covered"),
    "longer": (sample_safetensors() + b"\0", "not fully covered"),
    "header beyond the end": (safetensors_file({"a": ONE}, bytes(8), 10**6), "header length"),
    "header of 2**64": (safetensors_file({"a": ONE}, bytes(8), 2**64 - 1), "header too large"),
    "no JSON": (safetensors_file(b"no JSON"), "invalid JSON"),
    "a list": (safetensors_file(b"[]"), "invalid JSON"),
    "no UTF-8": (safetensors_file(b'{"\xff":1}'), "UTF-8"),
    "deep": (safetensors_file(b'{"a":' * 100_003), "recursion limit"),
    "offsets swapped": (safetensors_file({"a": entry("F32", [2], 8, 0)}, bytes(8)), "offset"),
    "beyond the end": (safetensors_file({"a": entry("F32", [9], 0, 36)}, bytes(8)), "covered"),
    "shape too large": (safetensors_file({"a": entry("F32", [3], 0, 8)}, bytes(8)), "invalid"),
    "shape negative": (safetensors_file({"a": entry("F32", [-2], 0, 8)}, bytes(8)), "usize"),
    "overflow": (safetensors_file({"a": entry("F32", [2**33] * 2, 0, 8)}, bytes(8)), "overflow"),
    "huge and empty": (safetensors_file({"a": entry("F32", [0, 2**62], 0, 0)}), "addressed"),
    "a hundred axes": (safetensors_file({"a": entry("F32", [1] * 101, 0, 4)}, bytes(4)), "axes"),
    "no type": (safetensors_file({"a": entry("F33", [2], 0, 8)}, bytes(8)), "unknown variant"),
    "overlap": (
        safetensors_file({"a": ONE, "b": entry("F32", [2], 4, 12)}, bytes(12)),
        "invalid offset",
    ),
}


@cases(SAFETENSORS)
def test_safetensors(content, message, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(content)
    refuses(tmp_path / "a.safetensors", message)


def test_a_header_that_takes_long_to_look_at_is_refused(tmp_path):
    many = {f"a{i}": entry("F32", [0], 0, 0) for i in range(100_003)}
    (tmp_path / "a.safetensors").write_bytes(safetensors_file(many))
    refuses(tmp_path / "a.safetensors", "header of at most 4194304 bytes")


# ---- zip


def zip_of(name, **options):
    return torch_zip(sample_state(), records=[(name, b"x")], **options)


def local_header(content, name):
    """Where the entry of this name begins, and where it is written in the central directory."""
    info = zipfile.ZipFile(io.BytesIO(content)).getinfo(name)
    return info.header_offset, content.rindex(name.encode()) - 46


def with_directory(content, name, offset, form, *values):
    """A central directory whose entry of this name says something else."""
    _, place = local_header(content, name)
    changed = bytearray(content)
    struct.pack_into(form, changed, place + offset, *values)
    return bytes(changed)


GOOD = torch_zip(sample_state())
BOMB = torch_zip(
    state_dict(a=tensor(storage("FloatStorage", "0", 2**20), 0, (2**20,), (1,))),
    {"0": bytes(2**22)},
    compression=zipfile.ZIP_DEFLATED,
)
INSIDE = local_header(GOOD, "archive/data/0")[0] + 4
ZIPS = {
    "truncated": (GOOD[:-7], "damaged zip"),
    "half": (GOOD[: len(GOOD) // 2], "damaged zip"),
    "only the magic": (b"PK\3\4", "damaged zip"),
    "no zip": (b"\x89HDF\r\n\x1a\n" + bytes(99), "begins with b'.x89HDF'"),
    "nothing": (b"", "begins with b''"),
    "a bomb": (BOMB, "'archive/data.pkl' is compressed"),
    "parent": (zip_of("archive/../../a"), "outside its folder: 'archive/../../a'"),
    "root": (zip_of("/etc/passwd"), "outside its folder: '/etc/passwd'"),
    "Windows": (zip_of("archive\\..\\a"), "outside its folder"),
    "two pickles": (zip_of("b/data.pkl"), "one data.pkl in the zip file. Received: 2"),
    "no pickle": (GOOD.replace(b"data.pkl", b"data.pkL"), "Received: 0"),
    "twice": (
        GOOD.replace(b"archive/version", b"archive/data/00").replace(b"data/00", b"data/1\0"),
        "two entries 'archive/data/1'",
    ),
    "size beyond": (
        with_directory(GOOD, "archive/data/0", 20, "<II", 10**9, 10**9),
        "'archive/data/0' reaches beyond the end",
    ),
    "size beyond 2**32": (
        with_directory(GOOD, "archive/data/0", 20, "<II", 2**32 - 1, 2**32 - 1),
        "damaged zip|beyond",
    ),
    "sizes differ": (with_directory(GOOD, "archive/data/0", 24, "<I", 10**9), "is compressed"),
    "encrypted": (with_directory(GOOD, "archive/data/0", 8, "<H", 1), "is encrypted"),
    "offset beyond": (with_directory(GOOD, "archive/data/0", 42, "<I", 10**9), "no entry at byte"),
    "offset inside": (with_directory(GOOD, "archive/data/0", 42, "<I", INSIDE), "no entry at byte"),
    "overlap": (with_directory(GOOD, "archive/data/1", 42, "<I", INSIDE - 4), "overlap"),
    "storage short": (torch_zip(sample_state(), {"0": bytes(139), "1": bytes(24)}), "shorter"),
}


@cases(ZIPS)
def test_zip_files(content, message, tmp_path):
    (tmp_path / "a.bin").write_bytes(content)
    refuses(tmp_path / "a.bin", message)


def tensor_with(metadata):
    """A state dict whose tensor has this for its metadata."""
    stored = storage("FloatStorage", "0", 1)
    parts = (stored, number(0), tuple_of(number(1)), tuple_of(number(1)), b"\x89", ORDERED_DICT)
    arguments = tuple_of(*parts, metadata)
    return state_dict(w=b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R")


# Each is a pair of the one before it, twice: 2**40 elements to whoever writes them out.
DOUBLED = b"K\x07\x85q\x01" + b"h\x01\x86q\x01" * 40
LONG_TUPLE = tuple_of(tensor(storage("FloatStorage", "0", 1), 0, (1,), (1,)), b"N" * 100_000)
PARAMETER = b"ctorch._utils\n_rebuild_parameter\nq\x01" + LONG_TUPLE + b"q\x02R"
PICKLES = {
    "metadata doubled": (tensor_with(DOUBLED), "A tensor has metadata"),
    "metadata nested": (tensor_with(b"K\x07\x85" + b"\x85" * 5000), "A tensor has metadata"),
    "arguments repeated": (
        state_dict(w=PARAMETER, a=b"(" + b"h\x01h\x02R" * 60_000 + b"t"),
        "Expected a tensor's parts. Received: 100001",
    ),
}


@cases(PICKLES)
def test_pickles_that_say_much_in_few_bytes(content, message, tmp_path):
    (tmp_path / "a.bin").write_bytes(torch_zip(content, {"0": bytes(4)}))
    refuses(tmp_path / "a.bin", message)


def test_a_zip_file_of_very_many_entries(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as file:
        for i in range(2**21 // 80):
            file.writestr(zipfile.ZipInfo(f"archive/data/{i:030}"), b"")
    refuses(tmp_path / "a.bin", "A directory of more than 2097152 bytes")


# ---- TensorFlow


def one(*arguments, **options):
    return tf_index([[(b"a", bundle_entry(*arguments, **options))]])


def footer(*handles):
    ends = b"".join(varint(start) + varint(size) for start, size in handles)
    return ends.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


INDEX = sample_tf_index()
# Three bytes a key, each of which repeats a name of a hundred thousand letters.
REPEATED = [(b"x" * 10**5 + bytes([1, i // 200 + 1, i % 200 + 1]), b"") for i in range(401)]


def of_blocks(handles, data=b""):
    """An index whose data blocks, at these handles (name, start, size), lie in `data`."""
    named = block([(name, varint(start) + varint(size)) for name, start, size in handles])
    return data + named + bytes(5) + footer((0, 8), (len(data), len(named)))


def nested_blocks(number, size):
    """Blocks that all end where the last one does: each holds a value of all that follows."""
    tail = bytes(size) + struct.pack("<I", 0)
    data = b""
    for i in reversed(range(number)):
        length = len(data) + size
        data = varint(0) + varint(2) + varint(length) + struct.pack(">H", i) + data
    return data + tail + bytes(5)


NESTED = nested_blocks(1009, 30_011)
HEADER = len(varint(0) + varint(2) + varint(30_011)) + 2
TAILS = [(struct.pack(">H", i), i * HEADER, len(NESTED) - 5 - i * HEADER) for i in range(1009)]
# Seven bytes a block, each of which repeats a name of a million letters.
MANY_BLOCKS = [(name, 0, 8) for name, _ in REPEATED]
INDICES = {
    "nothing": (b"", "not an index"),
    "wrong magic": (INDEX[:-1] + b"\0", "not an index"),
    "only a footer": (INDEX[-48:], "beyond the index"),
    "truncated in front": (INDEX[7:], "damaged|beyond|sorted|compressed"),
    "handle beyond": (footer((0, 8), (2**62, 8)), "beyond the index"),
    "handle overflows": (footer((0, 8), (8, 2**63)), "beyond the index"),
    "handle endless": (b"\xff" * 40 + INDEX[-8:], "number is too long"),
    "restarts": (b"\xff" * 9 + footer((0, 8), (0, 8)), "compressed|damaged block"),
    "compressed": (bytes(8) + b"\1" + footer((0, 8), (0, 8)), "compressed block"),
    "a block twice": (tf_index([[(b"a", b"")]] * 2), "not sorted"),
    "not sorted": (tf_index([[(b"b", b""), (b"a", b"")]]), "not sorted"),
    "names repeated": (tf_index([REPEATED]), "names take more than"),
    "names of blocks repeated": (
        of_blocks(MANY_BLOCKS, block([]) + bytes(5)),
        "names take more than",
    ),
    "blocks overlap": (of_blocks(TAILS, NESTED), "Two blocks overlap"),
    "no entry": (tf_index([[(b"a", b"\xff\xff")]]), "reaches past the end"),
    "entry cut": (tf_index([[(b"a", bundle_entry(1, (5, 7), 0, 140)[:-1])]]), "past the end"),
    "entry with groups": (tf_index([[(b"a", b"\x0b\x0c")]]), "unknown wire type 3"),
    "field of another kind": (tf_index([[(b"a", field(1, 1) + field(4, b"0"))]]), "damaged entry"),
    "shape of another kind": (tf_index([[(b"a", field(1, 1) + field(2, 3))]]), "damaged entry"),
    "name no UTF-8": (tf_index([[(b"\xff", bundle_entry(1, (1,), 0, 4))]]), "utf-8"),
    "size differs": (one(1, (5, 7), 0, 144), "144 bytes. Expected 140"),
    "beyond the end": (one(1, (5, 7), 100, 140), "beyond the end of the data"),
    "offset negative": (one(1, (5, 7), 2**64 - 1, 140), "beyond the end of the data"),
    "shape negative": (one(1, (2**64 - 1,), 0, 140), "addressed"),
    "shape overflows": (one(1, (2**33, 2**33), 0, 0), "addressed"),
    "huge and empty": (one(1, (0, 2**62), 0, 0), "addressed"),
    "many axes": (one(1, (1,) * 101, 0, 4), "at most 32 axes"),
    "part beyond": (one(1, (1,), 0, 4, shard=1), "in part 1 of 1"),
    "no shape": (tf_index([[(b"a", field(1, 1) + field(2, field(3, 1)))]]), "unknown shape"),
    "partitioned": (one(1, (1,), 0, 4, more=field(7, b"")), "partitioned"),
    "overlap": (
        tf_index([[(b"a", bundle_entry(1, (2,), 0, 8)), (b"b", bundle_entry(1, (2,), 4, 8))]]),
        "overlap at byte 4",
    ),
}


@cases(INDICES)
def test_tensorflow_indices(content, message, tmp_path):
    prefix = write_tf(tmp_path, content)
    refuses(prefix, message, size=len(content) + len(TF_DATA))


def test_an_index_beyond_all_measure(tmp_path):
    prefix = write_tf(tmp_path, bytes(2**23) + INDEX)
    refuses(prefix, "larger than 1048576 bytes", size=2**20)


def test_data_that_are_cut_short(tmp_path):
    prefix = write_tf(tmp_path, INDEX, TF_DATA[:-1])
    refuses(prefix, "'integers' reaches beyond", size=len(INDEX))


def test_a_file_that_shrinks_while_it_is_open(tmp_path):
    with read_checkpoint(write_tf(tmp_path, INDEX)) as checkpoint:
        os.truncate(tmp_path / "model.ckpt.data-00000-of-00001", 100)
        with pytest.raises(ValueError, match="ended early"):
            checkpoint["integers"]


@pytest.mark.portable
def test_the_good_ones_are_good(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(sample_safetensors())
    (tmp_path / "a.bin").write_bytes(GOOD)
    (tmp_path / "b.bin").write_bytes(torch_stream(sample_state(b"N")))
    for path in (*tmp_path.iterdir(), write_tf(tmp_path, INDEX)):
        np.testing.assert_array_equal(read_checkpoint(path)["floats"], FLOATS)
