"""`pytorch_model.bin` in both formats: files made by hand, and torch's own answers."""

import collections
import gc
import pickle
import warnings

import numpy as np
import pytest
from weight_files import (
    FLOATS,
    ORDERED_DICT,
    SAMPLE_ARRAYS,
    sample_state,
    state_dict,
    storage,
    tensor,
    text,
    torch_stream,
    torch_zip,
)

from keras_xfmr.checkpoints import read_checkpoint
from keras_xfmr.checkpoints.formats.torch_pickle import Unpickler

FILES = {"zip": torch_zip(sample_state()), "stream": torch_stream(sample_state(b"N"))}
STATES = {
    kind: state_dict(a=tensor(storage("FloatStorage", "0", 35, more), 0, (5, 7), (7, 1)))
    for kind, more in (("zip", b""), ("stream", b"N"))
}
both_formats = pytest.mark.parametrize("kind", FILES)


def same_arrays(checkpoint, expected):
    assert list(checkpoint) == list(expected)
    assert checkpoint.shapes == {name: array.shape for name, array in expected.items()}
    for name, array in expected.items():
        np.testing.assert_array_equal(checkpoint[name], array, strict=True, err_msg=name)
        assert checkpoint[name].flags.c_contiguous and checkpoint[name].flags.writeable


@pytest.mark.portable
@both_formats
def test_a_file_made_by_hand(kind, tmp_path):
    (tmp_path / "a.bin").write_bytes(FILES[kind])
    with read_checkpoint(tmp_path / "a.bin") as checkpoint:
        assert checkpoint.format == "torch"
        same_arrays(checkpoint, SAMPLE_ARRAYS)
    with pytest.raises(ValueError, match="a.bin cannot be read: .*closed file"):
        checkpoint["floats"]


BIG_ENDIAN = {
    "zip": torch_zip(STATES["zip"], {"0": FLOATS.astype(">f4").tobytes()}, byteorder=b"big"),
    # The older format says "little_endian": False there, and is little-endian all the same.
    "stream": torch_stream(STATES["stream"], {"0": (35, FLOATS.tobytes())}).replace(
        b"\x88", b"\x89", 1
    ),
}


@pytest.mark.portable
@both_formats
def test_files_of_big_endian_machines(kind, tmp_path):
    (tmp_path / "a.bin").write_bytes(BIG_ENDIAN[kind])
    same_arrays(read_checkpoint(tmp_path / "a.bin"), {"a": FLOATS})


@pytest.mark.portable
@both_formats
def test_the_dictionary_may_be_wrapped_and_hold_other_things(kind, tmp_path):
    inner = sample_state(b"N" if kind == "stream" else b"").removeprefix(b"\x80\x02")[:-1]
    state = b"\x80\x02}(" + text("epoch") + b"K\x03" + text("state_dict") + inner + b"u."
    (tmp_path / "a.bin").write_bytes({"zip": torch_zip, "stream": torch_stream}[kind](state))
    same_arrays(read_checkpoint(tmp_path / "a.bin"), SAMPLE_ARRAYS)


@pytest.mark.portable
def test_any_byte_but_zero_is_true_and_one_element_has_any_stride(tmp_path):
    row = tensor(storage("BoolStorage", "0", 3), 0, (1, 3), (2**64, 1))
    (tmp_path / "a.bin").write_bytes(torch_zip(state_dict(row=row), {"0": b"\0\1\xff"}))
    array = read_checkpoint(tmp_path / "a.bin")["row"]
    assert array.dtype == bool and array.view("uint8").tolist() == [[0, 1, 1]]


@pytest.mark.portable
def test_a_checkpoint_that_nobody_closed_goes_quietly(tmp_path):
    (tmp_path / "a.bin").write_bytes(FILES["zip"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_checkpoint(tmp_path / "a.bin")["floats"].shape == (5, 7)
        gc.collect()
    assert not caught


@pytest.mark.portable
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_machine_reads_what_pickle_writes(protocol):
    value = {"a": [1, -2, 2**40, 3.5, None, True], "b": ((), (1,), (1, 2), (1, 2, 3), (1,) * 5)}
    value |= {"c": collections.OrderedDict(x="ü", y=[]), 7: [[1], [1]], "again": "a", "é" * 301: {}}
    machine = Unpickler(pickle.dumps(value, protocol) + pickle.dumps(["next"], protocol))
    assert machine.load() == value and machine.load() == ["next"]
    assert Unpickler(b"\x80\x02" + ORDERED_DICT + b".").load() == {}


# ---- beside torch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is the peer of these tests")


def arrays_of(state):
    """What is expected of a state dict: float32 for half precision, everything else as it is."""
    expected = {}
    for name, value in state.items():
        value = value.detach()
        half = str(value.dtype) in ("torch.float16", "torch.bfloat16")
        expected[name] = (value.float() if half else value).numpy()
    return expected


def saved(torch, state, path, kind):
    torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    return read_checkpoint(path)


@both_formats
def test_torch_reads_the_files_made_by_hand(kind, torch, tmp_path):
    (tmp_path / "a.bin").write_bytes(FILES[kind])
    peer = torch.load(tmp_path / "a.bin", weights_only=True)
    assert list(peer) == list(SAMPLE_ARRAYS)
    for name, array in SAMPLE_ARRAYS.items():
        np.testing.assert_array_equal(peer[name].numpy(), array)
    (tmp_path / "a.bin").write_bytes(BIG_ENDIAN[kind])
    np.testing.assert_array_equal(torch.load(tmp_path / "a.bin")["a"].numpy(), FLOATS)


DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()


@both_formats
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(kind, dtype, torch, tmp_path):
    whole = (torch.randn(5, 7, generator=torch.Generator().manual_seed(3)) * 3).abs()
    whole = whole.to(getattr(torch, dtype))
    state = {"whole": whole, "scalar": whole[1, 2].clone(), "nothing": whole[:0]}
    same_arrays(saved(torch, state, tmp_path / "a.bin", kind), arrays_of(state))


@both_formats
def test_views_of_one_storage(kind, torch, tmp_path):
    base = torch.arange(2 * 3 * 5 * 7.0).reshape(2, 3, 5, 7)
    state = {
        "base": base,
        "tied": base,
        "transposed": base.permute(3, 0, 2, 1),
        "part": base[1, :, 1:4, 2:5],
        "every_other": base[:, ::2, ::2, 1::3],
        "column": base[:, :, :, 3:4],
        "one_axis": base[0, 0, 0].expand(1, 1, 7),
        "strided": base.as_strided((3, 2), (11, 17), 13),
        "last": base[-1, -1, -1, -1],
        "channels_last": base.clone().to(memory_format=torch.channels_last),
    }
    same_arrays(saved(torch, state, tmp_path / "a.bin", kind), arrays_of(state))


@both_formats
def test_a_tensor_that_is_the_negative_of_its_storage_is_refused(kind, torch, tmp_path):
    state = {"w": torch.tensor([1.0, 2.0])._neg_view()}
    with pytest.raises(ValueError, match="has metadata, and may be the negative.*resolve_neg"):
        saved(torch, state, tmp_path / "a.bin", kind)


@both_formats
def test_a_module_with_buffers_parameters_and_metadata(kind, torch, tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    state = module.state_dict()
    assert state._metadata
    same_arrays(saved(torch, state, tmp_path / "a.bin", kind), arrays_of(state))
    state = dict(module.named_parameters())
    assert type(state["0.weight"]) is torch.nn.Parameter
    same_arrays(saved(torch, state, tmp_path / "a.bin", kind), arrays_of(state))
    for key in ("state_dict", "model_state_dict", "model", "module"):
        wrapped = {key: state, "epoch": 3, "lr": [0.1, 0.2], "optimizer": {"m": torch.zeros(3)}}
        same_arrays(saved(torch, wrapped, tmp_path / "a.bin", kind), arrays_of(state))
    wrapped = {"model": {"state_dict": state}}
    same_arrays(saved(torch, wrapped, tmp_path / "a.bin", kind), arrays_of(state))


@both_formats
def test_what_is_no_dictionary_of_tensors_is_refused(kind, torch, tmp_path):
    for value, message in (
        ([torch.zeros(3)], "Expected a dictionary of tensors. Received: list"),
        (torch.zeros(3), "Expected a dictionary of tensors. Received: View"),
        ({"epoch": 3}, "Received no tensor in 1"),
        ({"net": {"a": torch.zeros(3)}, "lr": 1}, r"state_dict or .*There are some in \['net'\]"),
        (torch.nn.Linear(3, 5), "asks for 'torch.nn.modules.linear.Linear'"),
        ({"a": torch.zeros(1).expand(10**9)}, "1000000000 elements expands a storage of 1"),
    ):
        torch.save(value, tmp_path / "a.bin", _use_new_zipfile_serialization=kind == "zip")
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path / "a.bin")
    assert len(saved(torch, {}, tmp_path / "a.bin", kind)) == 0
