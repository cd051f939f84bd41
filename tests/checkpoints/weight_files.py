"""Files of weights put together by hand, from the descriptions of their formats."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np

FLOATS = np.arange(35, dtype=np.float32).reshape(5, 7) / 8
INTEGERS = np.arange(3, dtype=np.int64) - 1

# ---- safetensors


def safetensors_file(header, data=b"", length=None):
    """A header (an object, or bytes as they are) and data; `length` is a lie about the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(kind, shape, start, end):
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def sample_safetensors():
    header = {"floats": entry("F32", [5, 7], 0, 140), "integers": entry("I64", [3], 140, 164)}
    return safetensors_file(header, FLOATS.tobytes() + INTEGERS.tobytes())


# ---- pickles, instruction by instruction

ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    if 0 <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def storage(kind, key, size, more=b""):
    parts = text("storage"), b"ctorch\n" + kind.encode() + b"\n", text(key), text("cpu")
    return tuple_of(*parts, number(size), more) + b"Q"


def tensor(stored, offset, shape, strides):
    sizes = [tuple_of(*map(number, sizes)) for sizes in (shape, strides)]
    rest = (b"\x89", ORDERED_DICT)
    arguments = tuple_of(stored, number(offset), *sizes, *rest)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def state_dict(**values):
    items = b"".join(text(name) + value for name, value in values.items())
    return b"\x80\x02" + ORDERED_DICT + b"(" + items + b"u."


def sample_state(more=b""):
    floats, integers = storage("FloatStorage", "0", 35, more), storage("LongStorage", "1", 3, more)
    return state_dict(
        floats=tensor(floats, 0, (5, 7), (7, 1)),
        integers=tensor(integers, 0, (3,), (1,)),
        corner=tensor(floats, 8, (3, 2), (1, 7)),
    )


SAMPLE_STORAGES = {"0": FLOATS.tobytes(), "1": INTEGERS.tobytes()}
SAMPLE_ARRAYS = {"floats": FLOATS, "integers": INTEGERS, "corner": FLOATS[1:3, 1:4].T}

# ---- torch


def torch_zip(state, storages=None, *, records=(), compression=0, byteorder=b"little"):
    """The zip format; `records` are further pairs (name, content)."""
    storages = SAMPLE_STORAGES if storages is None else storages
    parts = [("data.pkl", state), ("byteorder", byteorder), ("version", b"3\n")]
    parts += [(f"data/{key}", content) for key, content in storages.items()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in [*((f"archive/{name}", c) for name, c in parts), *records]:
            file.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()


def torch_stream(state, storages=None, *, magic=0x1950A86A20F9469CFC6C, version=1001, keys=None):
    """The older format. `storages` is key -> (number of elements, bytes)."""
    if storages is None:
        storages = {"0": (35, FLOATS.tobytes()), "1": (3, INTEGERS.tobytes())}
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    keys = list(storages) if keys is None else keys
    content = b"".join(pickle.dumps(part, 2) for part in (magic, version, machine)) + state
    content += pickle.dumps(keys, 2)
    return content + b"".join(struct.pack("<q", n) + data for n, data in storages.values())


# ---- TensorFlow


def varint(value):
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def field(number, value):
    """A field of a protocol buffer: an integer, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def bundle_entry(dtype, shape, start, size, shard=0, more=b""):
    dimensions = b"".join(field(2, field(1, axis)) for axis in shape)
    return (
        field(1, dtype)
        + field(2, dimensions)
        + field(3, shard)
        + field(4, start)
        + field(5, size)
        + more
    )


def block(pairs):
    """Keys with shared prefixes, and one restart point."""
    content, previous = b"", b""
    for key, value in pairs:
        shared = next((i for i, (a, b) in enumerate(zip(key, previous)) if a != b), None)
        shared = min(len(key), len(previous)) if shared is None else shared
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += key[shared:] + value
        previous = key
    return content + struct.pack("<II", 0, 1)


def tf_index(blocks, shards=1):
    """The index of pairs (name, entry), given block by block; the header is added."""
    blocks = [[(b"", field(1, shards)), *blocks[0]], *blocks[1:]]
    content, handles = b"", []
    for pairs in blocks:
        data = block(pairs)
        handles.append((pairs[-1][0], varint(len(content)) + varint(len(data))))
        content += data + bytes(5)
    ends = []
    for data in (block([]), block(handles)):
        ends.append(varint(len(content)) + varint(len(data)))
        content += data + bytes(5)
    footer = b"".join(ends).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    return content + footer


TF_DATA = FLOATS.tobytes() + INTEGERS.tobytes()


def sample_tf_index():
    first = [(b"floats", bundle_entry(1, (5, 7), 0, 140))]
    second = [(b"integers", bundle_entry(9, (3,), 140, 24))]
    return tf_index([first, second])


def write_tf(folder, index, data=TF_DATA, name="model.ckpt"):
    (folder / f"{name}.index").write_bytes(index)
    (folder / f"{name}.data-00000-of-00001").write_bytes(data)
    return folder / name


# ---- BERT

BERT_SIZES = dict(
    vocab_size=31, hidden_size=12, num_attention_heads=4, intermediate_size=13,
    num_hidden_layers=2, max_position_embeddings=11, type_vocab_size=2,
)  # fmt: skip


def bert_shapes(**sizes):
    """Hugging Face's names and shapes of an encoder's weights, matrices as (out, in)."""
    v, d, _, f, layers, t, s = {**BERT_SIZES, **sizes}.values()
    shapes = {
        "embeddings.word_embeddings.weight": (v, d),
        "embeddings.position_embeddings.weight": (t, d),
        "embeddings.token_type_embeddings.weight": (s, d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
    }
    for i in range(layers):
        matrices = {f"attention.self.{part}": (d, d) for part in ("query", "key", "value")}
        matrices |= {"attention.output.dense": (d, d), "intermediate.dense": (f, d)}
        matrices |= {"output.dense": (d, f)}
        for name, shape in matrices.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = shape
            shapes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{i}.{name}.weight"] = (d,)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (d,)
    return shapes


def bert_arrays(**sizes):
    """An encoder's weights of ones."""
    return {name: np.ones(shape, np.float32) for name, shape in bert_shapes(**sizes).items()}
