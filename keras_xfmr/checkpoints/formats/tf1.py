"""TensorFlow's checkpoints: `NAME.index`, a sorted table, and `NAME.data-00000-of-00001`, bytes.

The table is not read by `tf.train.load_checkpoint`, which ends the process at an invalid entry, for
example in a damaged download. It is LevelDB's table format (blocks of keys with shared prefixes)
with a message `BundleEntryProto` as each value; see `tensorflow/core/util/tensor_bundle` and
`lib/io/table_format.txt` in TensorFlow's sources.
"""

import pathlib
import struct

from keras_xfmr.checkpoints.checkpoint import (
    Checkpoint,
    check_disjoint,
    count_elements,
    read_bytes,
    read_elements,
    size_of,
    stored_dtype,
)
from keras_xfmr.common.files import refuse_pointer
from keras_xfmr.common.protobuf import fields, varint

TABLE_MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
# BERT-large with Adam's moments takes 0.1 MB. Names share prefixes at no cost, so a limit on their
# sum is needed to bound memory.
MAX_INDEX_BYTES, MAX_NAMES_BYTES = 2**20, 4 * 2**20

# Numbers of the enumeration DataType.
DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64"}
DTYPES |= {8: "complex64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128"}
DTYPES |= {19: "float16", 22: "uint32", 23: "uint64"}


class TF1Checkpoint(Checkpoint):
    """A checkpoint of TensorFlow's `Saver`, such as Google's BERT.

    It has all numeric variables, also those of an optimizer; variables of strings are left out. The
    checksums are not checked.

    Args:
        prefix: the path without `.index`.
    """

    format = "tf1"

    def __init__(self, prefix):
        super().__init__(prefix)
        self._prefix, self._files, self._places = str(prefix), {}, {}
        entries = _table(pathlib.Path(f"{prefix}.index"))
        header = _message(entries.pop(b"", b""))
        self._shards = _number(header, 1)
        self._byteorder = ">" if _number(header, 2) else "<"
        ranges = {}
        for key, content in entries.items():
            if key.startswith(b"\0"):
                continue  # a part of a partitioned variable, which is refused below
            name, entry = key.decode("utf8"), _message(content)
            if 7 in entry:
                raise ValueError(f"{name!r} is partitioned. Save it as one variable.")
            dtype, shard, start, size = (_number(entry, field) for field in (1, 3, 4, 5))
            if dtype not in DTYPES:
                continue
            self.shapes[name] = _shape(entry)
            self.dtypes[name] = DTYPES[dtype]
            self._places[name] = shard, start
            self._check(name, size)
            ranges.setdefault(shard, []).append((start, start + size))
        for parts in ranges.values():
            check_disjoint(parts)

    def _check(self, name, size):
        shard, start = self._places[name]
        itemsize = stored_dtype(self.dtypes[name]).itemsize
        expected = count_elements(self.shapes[name], itemsize) * itemsize
        if size != expected:
            raise ValueError(f"{name!r} has {size} bytes. Expected {expected} of its shape.")
        if shard not in self._files:
            if shard >= self._shards:
                raise ValueError(f"{name!r} is in part {shard} of {self._shards}.")
            self._files[shard] = self._open(
                f"{self._prefix}.data-{shard:05d}-of-{self._shards:05d}"
            )
        if start + size > size_of(self._files[shard]):
            raise ValueError(f"{name!r} reaches beyond the end of the data file.")

    def _read(self, name):
        shard, start = self._places[name]
        shape, dtype = self.shapes[name], self.dtypes[name]
        count = count_elements(shape, 1)
        file = self._files[shard]
        return read_elements(file, start, count, dtype, self._byteorder).reshape(shape)


# ---- the table


def _table(path):
    """Key -> value of all entries; checks bound the work by the size of the file."""
    refuse_pointer(path)
    with open(path, "rb") as file:
        content = read_bytes(file, 0, MAX_INDEX_BYTES + 1)
    if len(content) > MAX_INDEX_BYTES:
        raise ValueError(f"The index is larger than {MAX_INDEX_BYTES} bytes.")
    footer = content[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != TABLE_MAGIC:
        raise ValueError("not an index of a TensorFlow checkpoint.")
    _, position = _handle(footer, 0)
    top, _ = _handle(footer, position)
    blocks = [_handle(handle, 0)[0] for _, handle in _pairs(content, [top])]
    # Otherwise a byte of the file could be in the values of many blocks.
    check_disjoint([(start, start + size) for start, size in blocks], "blocks")
    entries, previous = {}, None
    for key, value in _pairs(content, blocks):
        if previous is not None and key <= previous:
            raise ValueError("The index is not sorted.")
        entries[key] = value
        previous = key
    return entries


def _pairs(content, blocks):
    """Pairs (key, value) of blocks (start, size), one after another."""
    names_bytes = 0
    for start, size in blocks:
        for key, value in _block(content, start, size):
            names_bytes += len(key)
            if names_bytes > MAX_NAMES_BYTES:
                raise ValueError(f"The names take more than {MAX_NAMES_BYTES} bytes.")
            yield key, value


def _block(content, start, size):
    """Pairs (key, value). A key stores the length of its prefix shared with the previous key."""
    end = start + size
    if end + 1 > len(content) or size < 4:
        raise ValueError("A block reaches beyond the index.")
    if content[end] != 0:
        raise ValueError("A compressed block, which TensorFlow does not write.")
    (restarts,) = struct.unpack("<I", content[end - 4 : end])
    if 4 + 4 * restarts > size:
        raise ValueError("A damaged block in the index.")
    block, position, key = content[start : end - 4 - 4 * restarts], 0, b""
    while position < len(block):
        shared, position = varint(block, position)
        fresh, position = varint(block, position)
        length, position = varint(block, position)
        if shared > len(key) or position + fresh + length > len(block):
            raise ValueError("A damaged block in the index.")
        key = key[:shared] + block[position : position + fresh]
        position += fresh + length
        yield key, block[position - length : position]


def _handle(content, position):
    start, position = varint(content, position)
    size, position = varint(content, position)
    return (start, size), position


# ---- messages


def _message(content):
    """Field number -> its values of a protocol buffer; nested messages are left as bytes."""
    found = {}
    for number, value in fields(content):
        found.setdefault(number, []).append(value)
    return found


def _number(message, field):
    """An integer field, 0 if it is left out."""
    value = message.get(field, [0])[-1]
    if type(value) is not int:
        raise ValueError("A damaged entry in the index.")
    return value


def _messages(message, field):
    """A field's nested messages."""
    values = message.get(field, [])
    if not all(type(value) is bytes for value in values):
        raise ValueError("A damaged entry in the index.")
    return [_message(value) for value in values]


def _shape(entry):
    """The sizes in an entry's TensorShapeProto; a scalar's may be left out."""
    (shape,) = _messages(entry, 2)[-1:] or [{}]
    if 3 in shape:
        raise ValueError("A variable of unknown shape.")
    return tuple(_number(dimension, 1) for dimension in _messages(shape, 2))
