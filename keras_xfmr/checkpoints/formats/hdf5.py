"""HDF5: a tree of groups, whose leaves are arrays; the format of bilm-tf's and Keras' weights.

HDF5's C library (through h5py) reads only the tree. It is then closed, and the bytes of arrays are
read here. Of 100,000 randomly damaged files (tests/checkpoints/test_hdf5_damage.py) none made the
library (1.14.6) crash, hang or take much memory. A crafted file may: a group whose B-tree contains
itself overflows the stack. This case is checked first. Crafted structures of HDF5 1.8 and later,
with valid checksums, are not checked. Open files from unknown sources in a separate process.
"""

import contextlib
import mmap
import pathlib
import struct
from collections.abc import Mapping

import h5py
import numpy as np

from keras_xfmr.checkpoints.checkpoint import (
    Checkpoint,
    check_disjoint,
    count_elements,
    read_bytes,
    read_elements,
    size_of,
    stored_dtype,
)
from keras_xfmr.common.files import written_aside
from keras_xfmr.common.types import ArrayLike, Path

# Limits of a tree; ELMo has some 60 objects and 5 levels. Groups may share the bytes of their
# names, so a limit on the sum of all paths is needed to bound memory.
MOST_OBJECTS, MOST_LEVELS, MOST_NAMES_BYTES = 2**12, 32, 2**20
MAGIC, TREE = b"\x89HDF\r\n\x1a\n", b"TREE"
MOST_BRANCHES = 2**16
LINKS = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
LAYOUTS = {h5py.h5d.COMPACT: "compact", h5py.h5d.CHUNKED: "chunked", h5py.h5d.VIRTUAL: "virtual"}
TYPES = (
    (h5py.h5t.IEEE_F16LE, "float16", "<"),
    (h5py.h5t.IEEE_F32LE, "float32", "<"),
    (h5py.h5t.IEEE_F64LE, "float64", "<"),
    (h5py.h5t.IEEE_F16BE, "float16", ">"),
    (h5py.h5t.IEEE_F32BE, "float32", ">"),
    (h5py.h5t.IEEE_F64BE, "float64", ">"),
)


class HDF5Checkpoint(Checkpoint):
    """An HDF5 file of floating-point arrays, each contiguous in the file; attributes are ignored.

    Everything else is refused before an array is read: links that are not hard links, two names of
    one object (as in a cycle of groups), virtual and chunked arrays, filters such as compression,
    arrays in other files or without bytes, other types, more than `MOST_OBJECTS` objects or
    `MOST_LEVELS` levels.
    """

    format = "hdf5"

    def __init__(self, path):
        super().__init__(path)
        self._file, self._places = self._open(path), {}
        _check_trees(self._file)
        with _as_value_error(), h5py.File(path, "r", locking=False) as file:
            for name, dataset in _datasets(file.id):
                try:
                    self._add(name, dataset)
                except ValueError as error:
                    raise ValueError(f"{name!r}: {error}") from error
        check_disjoint(
            (start, start + count_elements(self.shapes[name], 1) * itemsize)
            for name, (start, itemsize, _) in self._places.items()
        )

    def _add(self, name, dataset):
        start = _start(dataset)
        kind, dtype = dataset.get_type(), None
        dtype, byteorder = next((t[1:] for t in TYPES if kind.equal(t[0])), (None, None))
        if dtype is None:
            raise ValueError("Expected float16, float32 or float64. Received: another type.")
        space = dataset.get_space()
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            raise ValueError("Expected an array. Received: a dataset without a shape.")
        shape = tuple(map(int, space.get_simple_extent_dims()))
        itemsize = stored_dtype(dtype).itemsize
        needed, stored = count_elements(shape, itemsize) * itemsize, dataset.get_storage_size()
        if stored != needed:
            raise ValueError(f"Expected {needed} bytes of its shape. Received: {stored}.")
        if needed and not 0 <= start <= size_of(self._file) - needed:
            raise ValueError("It reaches beyond the end of the file.")
        self.shapes[name], self.dtypes[name] = shape, dtype
        self._places[name] = start, itemsize, byteorder

    def _read(self, name):
        (start, _, byteorder), shape = self._places[name], self.shapes[name]
        start = start if 0 not in shape else 0
        count = count_elements(shape, 1)
        return read_elements(self._file, start, count, self.dtypes[name], byteorder).reshape(shape)


def _check_trees(file):
    """Refuses a B-tree in which a node has a child of its own level or a higher one.

    Every place that could be a node is checked. Numbers that look like a node do no harm, because
    the place that they point to must look like one, too.
    """
    begin = read_bytes(file, 0, 16)
    sizes = begin[13:15] if begin[8:9] in (b"\0", b"\1") else begin[9:11]
    if begin[:8] != MAGIC or sizes != b"\x08\x08":
        raise ValueError(
            "not an HDF5 file with addresses of 8 bytes and nothing in front. It begins with "
            f"{begin!r}."
        )
    branches = 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(TREE)
        while 0 <= place < len(content) - 32:
            level, used = struct.unpack_from("<BH", content, place + 5)
            # `used` times a key of 8 bytes and an address of 8.
            addresses = content[place + 24 : place + 24 + 16 * used] if level else b""
            branches += len(addresses) // 16
            if branches > MOST_BRANCHES:
                raise ValueError(f"Its groups have more than {MOST_BRANCHES} branches.")
            for _, child in struct.iter_unpack("<QQ", addresses[: len(addresses) // 16 * 16]):
                head = content[child : child + 6]
                if len(head) == 6 and head[:4] == TREE and head[5] >= level:
                    raise ValueError(f"A group's B-tree has itself below it, at byte {place}.")
            place = content.find(TREE, place + 1)


def _start(dataset):
    """The first byte of an array that is stored contiguously and unchanged."""
    how = dataset.get_create_plist()  # before the shape: a virtual array's would open other files
    layout = how.get_layout()
    if layout != h5py.h5d.CONTIGUOUS:
        raise ValueError(
            f"Expected a contiguous array. Received: {LAYOUTS.get(layout, 'another')}."
        )
    if how.get_nfilters():
        raise ValueError("Expected an array without filters such as compression.")
    if how.get_external_count():
        raise ValueError("Expected the array in this file. Received: one in other files.")
    start = dataset.get_offset()
    return -1 if start is None else start


def _datasets(root):
    """Pairs of a path and an array's `DatasetID`, over the whole tree.

    Raises:
        ValueError: an object that is neither a group nor an array, two paths to one, or too many.
    """
    waiting, seen, names_bytes, count = [("", root)], set(), 0, 0
    while waiting:
        path, group = waiting.pop()
        for link, kind, address in _links(group, MOST_OBJECTS - count):
            name = f"{path}/{link.decode('utf8')}" if path else link.decode("utf8")
            count, names_bytes = count + 1, names_bytes + len(name)
            if b"/" in link or link == b".":  # h5py would follow it as a path
                raise ValueError(f"{link!r} is no name of a group or array.")
            if kind != h5py.h5l.TYPE_HARD:
                what = LINKS.get(kind, "a link of another kind")
                raise ValueError(f"{name!r} is {what}, which is not followed.")
            if address in seen:
                raise ValueError(f"{name!r} is a second name of a group or array.")
            seen.add(address)
            if names_bytes > MOST_NAMES_BYTES:
                raise ValueError(f"The names take more than {MOST_NAMES_BYTES} bytes.")
            found = h5py.h5o.open(group, link)
            if isinstance(found, h5py.h5d.DatasetID):
                yield name, found
            elif not isinstance(found, h5py.h5g.GroupID):
                raise ValueError(f"{name!r} is neither a group nor an array.")
            elif name.count("/") + 1 >= MOST_LEVELS:
                raise ValueError(f"Groups lie in groups, more than {MOST_LEVELS} deep.")
            else:
                waiting.append((name, found))


def _links(group, most):
    """Triples of a group's links: name, kind, address of the object."""
    links = []

    def take(name, link):
        links.append((name, link.type, link.u))
        return True if len(links) > most else None  # True ends it

    group.links.iterate(take, info=True)
    if len(links) > most:
        raise ValueError(f"Expected at most {MOST_OBJECTS} groups and arrays.")
    return links


@contextlib.contextmanager
def _as_value_error():
    """h5py raises several kinds of Python errors for errors of the C library."""
    try:
        yield
    except (OSError, LookupError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"not a whole HDF5 file, or one that this program has open. {error}"
        ) from error


def write_hdf5(path: Path, tensors: Mapping[str, ArrayLike]) -> None:
    """Writes float32 arrays as an HDF5 file, whole or not at all.

    The file is written beside `path`, flushed to disk and renamed. Each array is contiguous, as in
    the files of bilm-tf.

    Args:
        path: name of the file. Its folder exists.
        tensors: name -> array, or a value that NumPy converts. `/` in a name divides groups.

    Raises:
        TypeError: names that are not strings.
        ValueError: a type other than float32, or a name that HDF5 does not allow.

    Example::

        write_hdf5("lm_weights.hdf5", {"CNN_proj/b_proj": np.zeros(3, "float32")})
    """
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"Expected names of strings. Received: {name!r}.")
        parts = name.split("/")
        parents = ("/".join(parts[:i]) for i in range(1, len(parts)))
        if "\0" in name or any(p in ("", ".") for p in parts) or any(p in arrays for p in parents):
            raise ValueError(f"Expected the path of an array, such as 'CNN/b'. Received: {name!r}.")
        if array.dtype != np.float32:
            raise ValueError(f"Expected float32. Received: {name!r} of {array.dtype}.")
    with (
        written_aside(pathlib.Path(path)) as aside,
        h5py.File(aside, "w", libver="earliest") as file,
    ):
        for name, array in arrays.items():
            file.create_dataset(name, data=np.ascontiguousarray(array).reshape(array.shape))
