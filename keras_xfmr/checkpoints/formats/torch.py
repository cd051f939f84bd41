"""`pytorch_model.bin`: what `torch.save` writes, as a zip file (torch >= 1.6) or in the old format.

Both have a pickle that describes tensors over storages, and the storages' bytes. torch is not used.
"""

import struct
import zipfile

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
from keras_xfmr.checkpoints.formats.torch_pickle import MAX_PICKLE_BYTES, Unpickler, View

# The first object of the older format, and its only version.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
# Keys under which training scripts store the weights beside an optimizer's state.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
MOST_DIRECTORY_BYTES = 2 * 2**20  # an entry for each storage takes some 80


class TorchCheckpoint(Checkpoint):
    """A dictionary of tensors written by `torch.save`, or the one under a key of `WRAPPERS`.

    Parameters and tensors that share memory become separate arrays. Entries that are not tensors
    are left out. A view that repeats elements is refused if it is larger than its storage:
    otherwise a few bytes could need gigabytes.
    """

    format = "torch"

    def __init__(self, path):
        super().__init__(path)
        self._file = self._open(path)
        begin = read_bytes(self._file, 0, 4)
        if begin == ZIP_MAGIC:
            state, self._starts, self._byteorder = _read_zip(self._file)
        elif begin[:1] == PICKLE_MAGIC:
            state, self._starts, self._byteorder = _read_stream(self._file)
        else:
            raise ValueError(
                f"not a file of torch.save. It begins with {begin!r}. If it is not a file of "
                "weights, pass its folder."
            )
        self._views = _tensors(state)
        for name, view in self._views.items():
            _check_inside(view)
            self.shapes[name], self.dtypes[name] = view.shape, view.storage.dtype

    def _read(self, name):
        view = self._views[name]
        storage, shape = view.storage, view.shape
        if 0 in shape:
            return read_elements(self._file, 0, 0, storage.dtype).reshape(shape)
        start = self._starts[storage.key] + view.offset * stored_dtype(storage.dtype).itemsize
        span = _last_element(view) - view.offset + 1
        flat = read_elements(self._file, start, span, storage.dtype, self._byteorder)
        # The stride of an axis of one element may be any number.
        strides = [flat.itemsize * (s if size > 1 else 0) for size, s in zip(shape, view.strides)]
        strided = np.lib.stride_tricks.as_strided(flat, shape, strides)
        return strided if strided.flags.c_contiguous else strided.copy()


def _tensors(state):
    """name -> View of a loaded object."""
    for _ in WRAPPERS:  # one may lie in another, and a dictionary may hold itself
        inner = state if type(state) is dict else {}
        inner = [inner[key] for key in WRAPPERS if type(inner.get(key)) is dict]
        state = inner[0] if inner else state
    if type(state) is not dict:
        raise ValueError(f"Expected a dictionary of tensors. Received: {type(state).__name__}.")
    views = _views(state)
    if state and not views:
        named = {key: v for key, v in state.items() if type(key) is str and type(v) is dict}
        keys = [key[:50] for key, value in named.items() if _views(value)][:5]
        raise ValueError(
            f"Expected a dictionary of tensors, or one that has it as {' or '.join(WRAPPERS)}. "
            f"Received no tensor in {len(state)}."
            + (f" There are some in {keys}: save that one separately." if keys else "")
        )
    return views


def _views(state):
    return {name: v for name, v in state.items() if type(name) is str and isinstance(v, View)}


def _last_element(view):
    steps = ((size - 1) * stride for size, stride in zip(view.shape, view.strides))
    return view.offset + sum(steps)


def _check_inside(view):
    size = view.storage.size
    count = count_elements(view.shape, stored_dtype(view.storage.dtype).itemsize)
    if count > size:
        raise ValueError(f"A tensor of {count} elements expands a storage of {size}.")
    if count and _last_element(view) >= size:
        raise ValueError(f"A tensor reaches beyond its storage of {size} elements.")


# ---- the zip format


def _read_zip(file):
    """The state, the first byte of each storage, and the byte order."""
    records = _zip_records(file)
    roots = [name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError(f"Expected one data.pkl in the zip file. Received: {len(roots)}.")
    (root,) = roots

    def content(name, limit):
        start, size = records[f"{root}/{name}"]
        if size > limit:
            raise ValueError(f"{name} has {size} bytes, more than the {limit} that are read.")
        return read_bytes(file, start, size)

    byteorder = "<"
    if f"{root}/byteorder" in records and content("byteorder", 16) == b"big":
        byteorder = ">"
    unpickler = Unpickler(content("data.pkl", MAX_PICKLE_BYTES))
    state = unpickler.load()
    starts = {}
    for key, storage in unpickler.storages.items():
        start, size = records.get(f"{root}/data/{key}", (0, -1))
        if storage.size * stored_dtype(storage.dtype).itemsize > size:
            raise ValueError(f"The storage {key!r} is missing, or shorter than its tensors.")
        starts[key] = start
    return state, starts, byteorder


def _zip_records(file):
    """name -> (first byte, size) of the entries, which torch does not compress."""
    try:
        entries = zipfile.ZipFile(_Sparing(file)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OSError, OverflowError) as error:
        raise ValueError(f"a damaged zip file. {error}") from error
    file_size = size_of(file)
    records, ranges = {}, []
    for entry in entries:
        name = entry.filename
        if name in records:
            raise ValueError(f"The zip file has two entries {name!r}.")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"The zip file has an entry outside its folder: {name!r}.")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"The entry {name!r} is compressed, which torch never does.")
        if entry.flag_bits & 1:
            raise ValueError(f"The entry {name!r} is encrypted.")
        start = _data_start(file, entry.header_offset, file_size)
        if start + entry.file_size > file_size:
            raise ValueError(f"The entry {name!r} reaches beyond the end of the file.")
        records[name] = start, entry.file_size
        ranges.append((entry.header_offset, start + entry.file_size))
    check_disjoint(ranges)
    return records


class _Sparing:
    """A file of which `zipfile` cannot read a long directory at once."""

    def __init__(self, file):
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size=-1):
        rest = size_of(self._file) - self._file.tell()
        size = rest if size < 0 else min(size, rest)
        if size > MOST_DIRECTORY_BYTES:
            raise ValueError(f"A directory of more than {MOST_DIRECTORY_BYTES} bytes.")
        return self._file.read(size)


def _data_start(file, header_offset, file_size):
    """The byte after an entry's own header, which contains its length."""
    if 0 <= header_offset <= file_size - 30:
        header = read_bytes(file, header_offset, 30)
        if header[:4] == ZIP_MAGIC:
            return header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    raise ValueError(f"The zip file has no entry at byte {header_offset}.")


# ---- the older format


def _read_stream(file):
    """The state, the first byte of each storage, and the byte order.

    Five pickles: magic number, version, the writer's machine, the object, the storages' keys; then
    of each storage the number of its elements (int64) and the elements, little-endian whatever
    the machine was.
    """
    unpickler = Unpickler(read_bytes(file, 0, MAX_PICKLE_BYTES))
    if (unpickler.load(), unpickler.load()) != (MAGIC, PROTOCOL):
        raise ValueError("a pickle, but not one of torch.save.")
    _, state, keys = unpickler.load(), unpickler.load(), unpickler.load()
    if type(keys) is not list:
        raise ValueError("The parts of torch.save's stream are out of order.")
    known = all(type(key) is str and key in unpickler.storages for key in keys)
    if not known or len(set(keys)) != len(keys) or len(keys) != len(unpickler.storages):
        raise ValueError("The list of storages is not that of the tensors.")
    position, starts = unpickler.position, {}
    for key in keys:
        storage = unpickler.storages[key]
        announced = int.from_bytes(read_bytes(file, position, 8), "little")
        starts[key] = position + 8
        position += 8 + storage.size * stored_dtype(storage.dtype).itemsize
        if announced != storage.size or position > size_of(file):
            raise ValueError(f"The storage {key!r} is not whole.")
    return state, starts, "<"
