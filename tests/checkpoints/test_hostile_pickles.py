"""Pickles that would do something, or that lie: each is a ValueError, and no code is run.

No backend has a part in it, so that of these tests one is portable.
"""

import os
import pickle

import pytest
from refusal import cases, refuses
from weight_files import (
    SAMPLE_STORAGES,
    sample_state,
    state_dict,
    storage,
    tensor,
    text,
    torch_stream,
    torch_zip,
    tuple_of,
)

from keras_xfmr.checkpoints import read_checkpoint

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


@pytest.mark.portable
def test_code_in_the_other_pickles_of_the_stream_is_not_run(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "a.bin"
    payload = Payload(os.system, f"touch {marker}")
    for more in ({"magic": payload}, {"version": payload}, {"keys": payload}):
        path.write_bytes(torch_stream(sample_state(), **more))
        refuses(path, f"asks for '{os.name}.system'")
        assert not marker.exists()


def call(module, name, *arguments):
    return f"c{module}\n{name}\n".encode() + tuple_of(*arguments) + b"R"


def numbered(keys):
    """A dictionary with these numbers as keys."""
    items = b"".join(b"\x8a\x10" + key.to_bytes(16, "little") + b"N" for key in keys)
    return b"\x80\x02}(" + items + b"u."


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
        "inside others",
    ),
    "no such reference": (state_dict(a=tuple_of(text("module"), b"N" * 4) + b"Q"), "to a storage"),
    "a deep reference": (
        state_dict(a=b"(" + b")" + b"\x85" * 99_991 + b"N" * 4 + b"tQ"),
        "storage",
    ),
    "a deep tuple": (b"\x80\x02)" + b"\x85" * 99_991 + b".", "Received: tuple"),
    "a deep list": (b"\x80\x02" + b"]" * 99_991 + b"a" * 99_990 + b".", "Received: list"),
    "a deep key": (b"\x80\x02})" + b"\x85" * 99_991 + b"Ns.", "keys are names"),
    "keys that collide": (numbered(i * (2**61 - 1) for i in range(20_011)), "keys are names"),
    "numbers for names": (numbered(range(5_003)), "More than 4096 numbers as keys"),
    "a number of 65 bits": (numbered([2**64]), "keys are names"),
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
