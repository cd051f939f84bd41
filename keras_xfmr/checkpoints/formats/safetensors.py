"""safetensors: a JSON header of names, types, shapes and offsets, then the bytes."""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy

from keras_xfmr.checkpoints.checkpoint import Checkpoint, count_elements, from_stored, stored_dtype
from keras_xfmr.common.files import refuse_pointer, written_aside
from keras_xfmr.common.types import ArrayLike, Path

# The format's types that NumPy has, and bfloat16.
TYPES = {"BOOL": "bool", "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
TYPES |= {"U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "C64": "complex64"}
TYPES |= {"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"}
MAX_HEADER_BYTES = 4 * 2**20  # some 30,000 tensors; checking it takes most of a second


class SafetensorsCheckpoint(Checkpoint):
    """A safetensors file, mapped into memory: its pages are read when an array is accessed.

    The package checks the header against the file (length, overlaps, gaps, overflow). This class
    raises ValueError, bounds empty shapes, which the package allows, and finds the bytes, which the
    package's NumPy interface would copy twice.
    """

    format = "safetensors"

    def __init__(self, path):
        super().__init__(path)
        refuse_pointer(path)
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if MAX_HEADER_BYTES < header_bytes < os.path.getsize(path):
            raise ValueError(
                f"Expected a header of at most {MAX_HEADER_BYTES} bytes. Received: {header_bytes}."
            )
        with _as_value_error(), safetensors.safe_open(os.fspath(path), framework="np") as checked:
            for name in checked.keys():
                self.shapes[name] = tuple(checked.get_slice(name).get_shape())
                count_elements(self.shapes[name], 8)
        self._bytes = np.memmap(path, mode="r")
        self._first = 8 + header_bytes
        self._entries = json.loads(self._bytes[8 : self._first].tobytes())
        for name in self.shapes:
            kind = self._entries[name]["dtype"]
            self.dtypes[name] = TYPES.get(kind, kind)
        self.file_bytes = self._bytes.size
        self._resources.callback(self._entries.clear)

    def view(self, name):
        kind = TYPES.get(self._entry(name)["dtype"])
        dtype = kind and stored_dtype(kind)
        # These types are used as stored; the others are converted.
        plain = dtype and dtype.name == kind and kind != "float16" and dtype.isnative
        return self._stored(name) if plain else self[name]

    def _read(self, name):
        stored = np.array(self._stored(name))
        return from_stored(stored, TYPES[self._entry(name)["dtype"]])

    def _entry(self, name):
        if name not in self._entries:
            raise ValueError(f"{name!r} was read after the file had been closed.")
        return self._entries[name]

    def _stored(self, name):
        """A read-only array that is the file's own bytes."""
        entry = self._entry(name)
        if entry["dtype"] not in TYPES:
            raise ValueError(
                f"{name!r} has the type {entry['dtype']}, which NumPy does not have. "
                f"Expected one of {sorted(TYPES)}."
            )
        begin, end = (self._first + offset for offset in entry["data_offsets"])
        flat = np.asarray(self._bytes)[begin:end].view(stored_dtype(TYPES[entry["dtype"]]))
        return flat.reshape(self.shapes[name])


@contextlib.contextmanager
def _as_value_error():
    try:
        yield
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a whole safetensors file. {error}") from error


def write_safetensors(
    path: Path, tensors: Mapping[str, ArrayLike], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays as a safetensors file, whole or not at all.

    The file is written beside `path`, flushed to disk and renamed, so no reader sees half of it and
    an interrupted call keeps the old file.

    Args:
        path: name of the file. Its folder exists.
        tensors: name -> array, or a value that NumPy converts. Types are kept.
        metadata: str -> str for the header. `transformers` wants `{"format": "pt"}`.

    Raises:
        TypeError: names or metadata that are not strings.
        ValueError: a type that the format does not have, or the name `"__metadata__"`.

    Example::

        write_safetensors("model.safetensors", {"bias": np.zeros(3, "float32")})
    """
    strings = {**dict.fromkeys(tensors, ""), **(metadata or {})}
    if not all(isinstance(text, str) for item in strings.items() for text in item):
        raise TypeError("Expected names and metadata of strings. Received something else.")
    if "__metadata__" in tensors:
        raise ValueError("The name '__metadata__' is the format's own. Rename the array.")
    # The package would write a transposed array in its memory order.
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
            raise ValueError(f"{name!r} has a type that the format lacks: {array.dtype}.")
    header = None if metadata is None else dict(metadata)
    with written_aside(pathlib.Path(path)) as aside, _as_value_error():
        safetensors.numpy.save_file(arrays, aside, metadata=header)
