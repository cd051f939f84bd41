"""What the readers of all formats share: a lazy mapping, and reads of bounded memory."""

import abc
import collections.abc
import contextlib
import math
import os
import weakref
from collections.abc import Iterator

import numpy as np

from keras_xfmr.common.files import refuse_pointer
from keras_xfmr.common.types import Path, Self

# More than any weight has; NumPy 1 takes 32.
MAX_AXES = 32


class Checkpoint(collections.abc.Mapping):
    """Weights of a file by their names; an array is read from the file at each access.

    Nothing is cached: two accesses read twice. An array is as large as its part of the file, or
    twice that for float16 and bfloat16, which become float32. Other types stay as stored, in the
    byte order of this machine.

    Attributes:
        path: the file, or the index of files.
        format: `"safetensors"`, `"torch"`, `"tf1"`, `"hdf5"` or `"keras_hub"`.
        shapes: name -> shape, known without reading an array.
        dtypes: name -> type as stored, such as `"bfloat16"`.
        file_bytes: the size of all files together.

    Raises:
        KeyError: the name is not in the file.
        ValueError: the file is damaged, or closed.

    Example::

        with read_checkpoint("bert/model.safetensors") as checkpoint:
            pooler = checkpoint["pooler.dense.weight"]
    """

    format: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.file_bytes = 0
        self._resources = contextlib.ExitStack()
        # An open checkpoint closes its files when it is collected, without a warning.
        self._finalizer = weakref.finalize(self, self._resources.close)

    @abc.abstractmethod
    def _read(self, name):
        """The array of a name in `shapes`; raises ValueError."""

    def view(self, name: str) -> np.ndarray:
        """An array for use at once; it may be the file's own bytes, not a copy."""
        return self[name]

    def _open(self, path):
        refuse_pointer(path)
        file = self._resources.enter_context(open(path, "rb"))
        self.file_bytes += size_of(file)
        return file

    def close(self) -> None:
        """Closes the file. Arrays that were read stay."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise KeyError(name)
        with naming(self.path):
            return self._read(name)

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __repr__(self) -> str:
        return f"<{self.format} checkpoint {str(self.path)!r} of {len(self)} arrays>"


@contextlib.contextmanager
def naming(path):
    """Adds the name of the file to a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


LONGEST_NAME = 255  # bytes that a file's name has at most


def is_name(name):
    """Whether a string of a file can be the name of another beside it, on any system."""
    strange = name in ("", ".", "..") or any(letter in name for letter in "/\\\0:")
    return not strange and len(name.encode("utf8", "replace")) <= LONGEST_NAME


def count_elements(shape, itemsize):
    """The number of elements of a shape in a file.

    Raises:
        ValueError: axes that are not sizes, too many axes, or more bytes than can be addressed.
    """
    if len(shape) > MAX_AXES:
        raise ValueError(f"Expected at most {MAX_AXES} axes. Received: {len(shape)}.")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("Expected a shape of integers from 0.")
    # NumPy measures an empty array by its other axes.
    if math.prod(max(size, 1) for size in shape) * itemsize >= 2**63:
        raise ValueError("A shape is larger than can be addressed.")
    return math.prod(shape)


def stored_dtype(name, byteorder="<"):
    """The NumPy type of elements in a file; NumPy itself has no bfloat16."""
    return np.dtype({"bfloat16": "uint16", "bool": "uint8"}.get(name, name)).newbyteorder(byteorder)


def size_of(file):
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def read_bytes(file, start, count):
    """At most `count` bytes from byte `start` on.

    `file.read(count)` allocates `count` bytes, even if the file is shorter.
    """
    file.seek(start)
    return file.read(max(0, min(count, size_of(file) - start)))


def read_elements(file, start, count, name, byteorder="<"):
    """A new flat array of `count` elements of the type `name`, from byte `start` on.

    The caller has checked that they lie inside the file.

    Raises:
        ValueError: the file ended early.
    """
    array = np.empty(count, stored_dtype(name, byteorder))
    file.seek(start)
    if file.readinto(array.view(np.uint8)) != array.nbytes:
        raise ValueError("The file ended early.")
    return from_stored(array, name)


def from_stored(array, name):
    """Converts elements of the type `name` from a file.

    float32 for both half-precision types, others as they are, in the byte order of this machine.
    """
    if name == "bfloat16":
        # The upper half of a float32.
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if name == "bool":
        return array != 0  # a byte of the file may be neither 0 nor 1
    if name == "float16":
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_disjoint(ranges, parts="arrays"):
    """Refuses parts of a file that share bytes: n of them would take n times the file's size.

    Args:
        ranges: pairs (first byte, byte after the last).
        parts: what they are, for the message.

    Raises:
        ValueError: two of them overlap.
    """
    end_before = 0
    for start, end in sorted(part for part in ranges if part[0] < part[1]):
        if start < end_before:
            raise ValueError(f"Two {parts} overlap at byte {start}.")
        end_before = end
