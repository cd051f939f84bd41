"""safetensors: a JSON header of names, types, shapes and offsets, then the bytes."""

import contextlib
import os
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from keras_xfmr.checkpoints.checkpoint import Checkpoint, as_loaded, count_elements

# The types of which NumPy, or ml_dtypes for BF16, has the like.
ITEMSIZES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
ITEMSIZES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8}


class SafetensorsCheckpoint(Checkpoint):
    """A safetensors file.

    The package checks the header against the file (length, overlaps, gaps, overflow); what is left
    to do is to raise ValueError, and to bound shapes of no elements, which it lets pass. Its NumPy
    interface gives bfloat16 as the type of ml_dtypes.
    """

    format = "safetensors"

    def __init__(self, path):
        super().__init__(path)
        with _as_value_error():
            opened = safetensors.safe_open(os.fspath(path), framework="np")
            self._file = self._resources.enter_context(opened)
            self._kinds = {}
            for name in self._file.keys():
                entry = self._file.get_slice(name)
                self.shapes[name], self._kinds[name] = tuple(entry.get_shape()), entry.get_dtype()
                count_elements(self.shapes[name], 8)

    def _read(self, name):
        if self._kinds[name] not in ITEMSIZES:
            raise ValueError(
                f"{name!r} has the type {self._kinds[name]}, which NumPy does not have. "
                f"Expected one of {sorted(ITEMSIZES)}."
            )
        with _as_value_error():
            array = self._file.get_tensor(name)
        if array.dtype == bool:
            return array.view(np.uint8) != 0  # a byte of the file may be neither 0 nor 1
        return as_loaded(array)


@contextlib.contextmanager
def _as_value_error():
    try:
        yield
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a whole safetensors file. {error}") from error


def write_safetensors(path, tensors, metadata=None):
    """Writes arrays as a safetensors file, whole or not at all.

    The file is written beside `path`, flushed to disk and renamed, so that nobody sees half of it
    and an interrupted call leaves the old file as it was.

    Args:
        path: name of the file. Its folder exists.
        tensors: name -> array, or what NumPy makes one of. Written with the type they have.
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
    # The package writes the memory of a transposed array in its own order under the new shape.
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
            raise ValueError(f"{name!r} is of a type that the format lacks: {array.dtype}.")
    path = pathlib.Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(b"")
        mode = aside.stat().st_mode
        with _as_value_error():
            safetensors.numpy.save_file(arrays, aside, metadata=metadata)
        aside.chmod(mode)  # the package lets nobody else read its files
        _flush(aside)
        os.replace(aside, path)
        _flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
