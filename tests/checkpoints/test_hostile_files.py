"""Files that lie: each is a ValueError, at once, with no code run and no memory taken."""

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from weight_files import (
    FLOATS,
    SAMPLE_STORAGES,
    TF_DATA,
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
    text,
    tf_index,
    torch_stream,
    torch_zip,
    tuple_of,
    varint,
    write_tf,
)

from keras_xfmr.checkpoints import read_checkpoint

pytestmark = pytest.mark.portable

# Python's own objects; an empty list takes 80 bytes and one byte of a pickle.
MEMORY, MEMORY_PER_BYTE = 2**20, 100


def refuses(path, match, size=None):
    """Reading all of a checkpoint ends in a ValueError that says what, soon and cheaply."""
    size = os.path.getsize(path) if size is None else size
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(ValueError, match=match):
            with read_checkpoint(path) as checkpoint:
                for name in checkpoint:
                    checkpoint[name]
        took, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY + MEMORY_PER_BYTE * size
    assert took < 5  # a second without the tracing, on a machine with nothing else to do


def cases(table):
    return pytest.mark.parametrize("content, message", list(table.values()), ids=list(table))


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


# ---- pickles


class Payload:
    """What a pickle can do that is simply loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def torch_files(state):
    return {"zip": torch_zip(state), "stream": torch_stream(state)}


both_formats = pytest.mark.parametrize("kind", ["zip", "stream"])


@both_formats
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_refused_by_name_and_not_run(kind, protocol, tmp_path):
    marker = tmp_path / "marker"
    state = pickle.dumps({"a": Payload(os.system, f"touch {marker}")}, protocol)
    pickle.loads(state)
    assert marker.exists()  # so the payload works
    marker.unlink()
    path = tmp_path / "a.bin"
    path.write_bytes(torch_files(state)[kind])
    expected = "instruction DICT is not one" if protocol == 0 else f"asks for '{os.name}.system'"
    refuses(path, expected)
    assert not marker.exists()


def test_code_in_the_other_pickles_of_the_stream_is_not_run(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "a.bin"
    payload = Payload(os.system, f"touch {marker}")
    for more in ({"magic": payload}, {"version": payload}, {"keys": payload}):
        path.write_bytes(torch_stream(sample_state(), **more))
        refuses(path, f"asks for '{os.name}.system'")
        assert not marker.exists()


def call(module, name, *arguments):
    return f"c{module}\n{name}\n".encode() + tuple_of(*arguments) + b"R"


FLOAT = storage("FloatStorage", "0", 35)
PICKLES = {
    "eval": (state_dict(a=call("builtins", "eval", text("1"))), "asks for 'builtins.eval'"),
    "getattr": (state_dict(a=call("builtins", "getattr")), "asks for 'builtins.getattr'"),
    "torch.load": (state_dict(a=call("torch", "load")), "asks for 'torch.load'"),
    "dotted": (state_dict(a=b"\x8c\x0ccollections \x8c\x02os\x93"), "asks for 'collections .os'"),
    "numpy": (
        state_dict(a=call("numpy.core.multiarray", "_reconstruct")),
        "asks for 'numpy.core.multiarray._reconstruct'",
    ),
    "an instance": (state_dict(a=b"(ios\nsystem\n"), "asks for 'os.system'"),
    "an object": (state_dict(a=b"(ccollections\nOrderedDict\no"), "instruction OBJ"),
    "a new object": (state_dict(a=b"ccollections\nOrderedDict\n)\x81"), "instruction NEWOBJ"),
    "an extension": (state_dict(a=b"\x82\x01"), "instruction EXT1"),
    "a name with escapes": (state_dict(a=call("os", "sys\\tem")), "backslash"),
    "no function": (state_dict(a=text("b") + b")R"), "damaged pickle"),
    "a type called": (state_dict(a=b"ctorch\nFloatStorage\n)R"), "damaged pickle"),
    "arguments amiss": (state_dict(a=call("torch._utils", "_rebuild_tensor_v2")), "damaged pickle"),
    "no storage": (state_dict(a=tensor(text("0"), 0, (1,), (1,))), "tensor over a storage"),
    "no tensor": (
        state_dict(a=call("torch._utils", "_rebuild_parameter", text("b"), b"\x88", b"N")),
        "parameter over a tensor",
    ),
    "dictionary with content": (
        state_dict(a=call("collections", "OrderedDict", b"]")),
        "damaged pickle",
    ),
    "offset negative": (state_dict(a=tensor(FLOAT, -1, (3,), (1,))), "an offset from 0"),
    "stride negative": (state_dict(a=tensor(FLOAT, 9, (3,), (-1,))), "strides of integers from 0"),
    "size negative": (state_dict(a=tensor(FLOAT, 9, (-3,), (1,))), "strides of integers from 0"),
    "offset beyond": (state_dict(a=tensor(FLOAT, 33, (3,), (1,))), "beyond its storage of 35"),
    "offset overflows": (state_dict(a=tensor(FLOAT, 2**64 - 1, (3,), (1,))), "beyond its storage"),
    "stride beyond": (state_dict(a=tensor(FLOAT, 0, (3,), (18,))), "beyond its storage of 35"),
    "stride overflows": (state_dict(a=tensor(FLOAT, 0, (3,), (2**63,))), "beyond its storage"),
    "stride 0": (state_dict(a=tensor(FLOAT, 0, (2**31 - 1,), (0,))), "expands a storage of 35"),
    "strides overlap": (state_dict(a=tensor(FLOAT, 0, (17, 17), (1, 1))), "expands a storage"),
    "shape overflows": (state_dict(a=tensor(FLOAT, 0, (2**33, 2**33), (0, 0))), "addressed"),
    "huge and empty": (state_dict(a=tensor(FLOAT, 0, (0, 2**62), (1, 1))), "addressed"),
    "ragged": (state_dict(a=tensor(FLOAT, 0, (3, 1), (1,))), "2 axes with 1 strides"),
    "many axes": (state_dict(a=tensor(FLOAT, 0, (1,) * 101, (1,) * 101)), "101 axes"),
    "storage missing": (
        state_dict(a=tensor(storage("FloatStorage", "7", 3), 0, (3,), (1,))),
        "'7'",
    ),
    "storage outside": (
        state_dict(a=tensor(storage("FloatStorage", "../data.pkl", 3), 0, (3,), (1,))),
        "'../data.pkl' is missing",
    ),
    "storage too large": (
        state_dict(a=tensor(storage("FloatStorage", "0", 2**62), 0, (3,), (1,))),
        "'0' is missing, or shorter",
    ),
    "storage negative": (state_dict(a=storage("FloatStorage", "0", -1)), "0 elements or more"),
    "two types": (
        state_dict(a=tensor(FLOAT, 0, (3,), (1,)), b=storage("LongStorage", "0", 3)),
        "described in two ways",
    ),
    "view of a storage": (
        state_dict(a=storage("FloatStorage", "0", 3, tuple_of(text("1"), b"K\0K\3"))),
        "parts of others",
    ),
    "no such reference": (state_dict(a=tuple_of(text("module"), b"N" * 4) + b"Q"), "to a storage"),
    "a deep reference": (
        state_dict(a=b"(" + b")" + b"\x85" * 99_991 + b"N" * 4 + b"tQ"),
        "storage",
    ),
    "a deep tuple": (b"\x80\x02)" + b"\x85" * 99_991 + b".", "Received: tuple"),
    "a deep list": (b"\x80\x02" + b"]" * 99_991 + b"a" * 99_990 + b".", "Received: list"),
    "a deep key": (b"\x80\x02})" + b"\x85" * 99_991 + b"Ns.", "keys are names"),
    "a deep name": (b"\x80\x04)" + b"\x85" * 99_991 + text("b") + b"\x93.", "damaged pickle"),
    "exponential": (b"\x80\x02(]q\0" + b"]h\0ah\0aq\0" * 9_001 + b"t.", "Received: tuple"),
    "never ending": (b"\x80\x02" + b"N" * 10**6 + b".", "300000 instructions"),
    "memo of 2**32": (b"\x80\x02}r\xff\xff\xff\xff.", None),
    "text of 2**32": (b"\x80\x02X\xff\xff\xff\xffabc", "expected 4294967295 bytes"),
    "text of 2**63": (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc", "bytes in a unicodestring8"),
    "number of 2**31": (b"\x80\x02\x8b\xff\xff\xff\x7fabc", "to read long4"),
    "frame of 2**63": (b"\x80\x04\x95" + b"\xff" * 8 + b"]q\0.", "Received: list"),
    "bytes of 2**63": (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7fabc", "bytes in a bytearray8"),
    "digits": (b"L" + b"9" * 10**6 + b"L\n.", "(?i)digits"),
    "without end": (state_dict(a=FLOAT)[:-1], "exhausted"),
    "nothing": (b"", "exhausted"),
    "empty stack": (b"\x80\x02R.", "damaged pickle"),
    "no mark": (b"\x80\x02t.", "damaged pickle"),
    "mark left over": (b"\x80\x02(.", "not enough values"),
    "unknown memo": (b"\x80\x02h\x07.", "damaged pickle"),
    "odd items": (b"\x80\x02}(" + text("a") + b"u.", "damaged pickle"),
    "items of a list": (b"\x80\x02](" + text("a") + b"Nu.", "damaged pickle"),
    "items of a tuple": (b"\x80\x02)Na.", "damaged pickle"),
    "attributes of a list": (b"\x80\x02]Nb.", "damaged pickle"),
}


@cases(PICKLES)
def test_pickles(content, message, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(torch_zip(content))
    if message is None:
        assert len(read_checkpoint(path)) == 0
    else:
        refuses(path, message)


def test_a_pickle_beyond_all_measure(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(torch_zip(b"\x80\x02}(" + bytes(16 * 2**20)))
    refuses(path, "data.pkl has 16777220 bytes, more than", size=0)


# ---- zip


def zip_of(name, **options):
    return torch_zip(sample_state(), records=[(name, b"x")], **options)


def patched(content, old, new, index=-1):
    """One of the places where `old` stands is `new`: by default in the central directory."""
    places = [i for i in range(len(content)) if content.startswith(old, i)]
    place = places[index]
    return content[:place] + new + content[place + len(old) :]


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


# ---- the older stream

STREAM_STATE = sample_state(b"N")
STORED = {"0": (35, SAMPLE_STORAGES["0"]), "1": (3, SAMPLE_STORAGES["1"])}
DOUBLED = []
for _ in range(101):
    DOUBLED = [DOUBLED, DOUBLED]
STREAMS = {
    "truncated": (torch_stream(STREAM_STATE)[:-1], "'1' is not whole"),
    "half": (torch_stream(STREAM_STATE)[:-100], "'0' is not whole"),
    "no storages": (torch_stream(STREAM_STATE, {}), "list of storages"),
    "pickle cut": (torch_stream(STREAM_STATE)[:300], "not enough data"),
    "only the magic": (b"\x80", "not enough|exhausted"),
    "another pickle": (pickle.dumps({"a": 1}, 2) * 2, "not one of torch.save"),
    "another version": (torch_stream(STREAM_STATE, version=1002), "not one of torch.save"),
    "keys no list": (torch_stream(STREAM_STATE, keys="01"), "out of order"),
    "keys missing": (torch_stream(STREAM_STATE, keys=["0"]), "list of storages"),
    "keys twice": (torch_stream(STREAM_STATE, keys=["0", "0"]), "list of storages"),
    "keys foreign": (torch_stream(STREAM_STATE, keys=["0", "2"]), "list of storages"),
    "keys exponential": (torch_stream(STREAM_STATE, keys=["0", DOUBLED]), "list of storages"),
    "keys no names": (torch_stream(STREAM_STATE, keys=["0", [[[]]]]), "list of storages"),
    "count differs": (
        torch_stream(STREAM_STATE, {**STORED, "0": (34, SAMPLE_STORAGES["0"])}),
        "'0' is not",
    ),
    "count negative": (
        torch_stream(STREAM_STATE, {**STORED, "0": (-1, SAMPLE_STORAGES["0"])}),
        "'0' is not",
    ),
    "count and storage": (
        torch_stream(
            state_dict(a=tensor(storage("FloatStorage", "0", 2**62, b"N"), 0, (2**61,), (1,))),
            {"0": (2**62, bytes(8))},
        ),
        "'0' is not whole",
    ),
}


@cases(STREAMS)
def test_streams(content, message, tmp_path):
    (tmp_path / "a.bin").write_bytes(content)
    refuses(tmp_path / "a.bin", message)


# ---- TensorFlow


def one(*arguments, **options):
    return tf_index([[(b"a", bundle_entry(*arguments, **options))]])


def footer(*handles):
    ends = b"".join(varint(start) + varint(size) for start, size in handles)
    return ends.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


INDEX = sample_tf_index()
# Three bytes a key, each of which repeats a name of a million letters.
REPEATED = [(b"x" * 10**6 + bytes([1, i // 200 + 1, i % 200 + 1]), b"") for i in range(201)]
INDICES = {
    "nothing": (b"", "not an index"),
    "wrong magic": (INDEX[:-1] + b"\0", "not an index"),
    "only a footer": (INDEX[-48:], "beyond the index"),
    "truncated in front": (INDEX[7:], "damaged|beyond|sorted|compressed"),
    "handle beyond": (footer((0, 8), (2**62, 8)), "beyond the index"),
    "handle overflows": (footer((0, 8), (8, 2**63)), "beyond the index"),
    "handle endless": (b"\xff" * 40 + INDEX[-8:], "damaged number"),
    "restarts": (b"\xff" * 9 + footer((0, 8), (0, 8)), "compressed|damaged block"),
    "compressed": (bytes(8) + b"\1" + footer((0, 8), (0, 8)), "compressed block"),
    "a block twice": (tf_index([[(b"a", b"")]] * 2), "not sorted"),
    "not sorted": (tf_index([[(b"b", b""), (b"a", b"")]]), "not sorted"),
    "names repeated": (tf_index([REPEATED]), "names take more than"),
    "no entry": (tf_index([[(b"a", b"\xff\xff")]]), "damaged number"),
    "entry cut": (tf_index([[(b"a", bundle_entry(1, (5, 7), 0, 140)[:-1])]]), "damaged number"),
    "entry with groups": (tf_index([[(b"a", b"\x0b\x0c")]]), "damaged entry"),
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
    refuses(prefix, "larger than 4194304 bytes", size=2**22)


def test_data_that_are_cut_short(tmp_path):
    prefix = write_tf(tmp_path, INDEX, TF_DATA[:-1])
    refuses(prefix, "'integers' reaches beyond", size=len(INDEX))


def test_a_file_that_shrinks_while_it_is_open(tmp_path):
    with read_checkpoint(write_tf(tmp_path, INDEX)) as checkpoint:
        os.truncate(tmp_path / "model.ckpt.data-00000-of-00001", 100)
        with pytest.raises(ValueError, match="ended early"):
            checkpoint["integers"]


def test_the_good_ones_are_good(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(sample_safetensors())
    (tmp_path / "a.bin").write_bytes(GOOD)
    (tmp_path / "b.bin").write_bytes(torch_stream(STREAM_STATE))
    for path in (*tmp_path.iterdir(), write_tf(tmp_path, INDEX)):
        np.testing.assert_array_equal(read_checkpoint(path)["floats"], FLOATS)
    assert number(2**40) == b"\x8a\x10" + (2**40).to_bytes(16, "little")
