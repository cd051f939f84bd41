"""Reads the pickles of `torch.save` without torch, and only builds descriptions of tensors.

A pickle is a program. This reader knows only the instructions for a dictionary of tensors. It can
call only the functions of `ALLOWED`, which record where a tensor is stored. Anything else is
refused, and named in the error.
"""

import dataclasses
import io
import pickletools

from keras_xfmr.checkpoints.checkpoint import MAX_AXES

# A dictionary of 10,000 tensors takes about 2 MB and 250,000 instructions.
MAX_PICKLE_BYTES = 16 * 2**20
MAX_INSTRUCTIONS = 300_000
MOST_ARGUMENTS = 7  # of an allowed function; a long tuple in the memo would slow every call
# An optimizer numbers its parameters. Python hashes numbers modulo 2**61 - 1, so a file could
# choose keys with equal hashes; of 64-bit numbers at most nine have the same.
MAX_NUMBERS_AS_KEYS = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A run of `size` elements of the type `dtype`, which the file stores under `key`."""

    key: str
    dtype: str
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A tensor: which elements of a storage it shows. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


class _Dtype(str):
    """A class of storages, as the name of its elements' type."""


def _ordered_dict():
    return {}


def _rebuild_tensor(storage, offset, shape, strides, gradient=False, hooks=None, metadata=None):
    """Gradients and hooks are ignored."""
    if metadata:
        raise ValueError(
            "A tensor has metadata, and may be the negative of its storage. Save it by "
            "`tensor.resolve_neg().clone()`."
        )
    if not isinstance(storage, Storage):
        raise ValueError("Expected a tensor over a storage.")
    for sizes in (shape, strides):
        if type(sizes) is not tuple or not all(type(s) is int and s >= 0 for s in sizes):
            raise ValueError("Expected a shape and strides of integers from 0.")
    if len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise ValueError(f"A shape of {len(shape)} axes with {len(strides)} strides.")
    if type(offset) is not int or offset < 0:
        raise ValueError("Expected an offset from 0.")
    return View(storage, offset, shape, strides)


def _rebuild_parameter(tensor, gradient=False, hooks=None):
    if not isinstance(tensor, View):
        raise ValueError("Expected a parameter over a tensor.")
    return tensor


ALLOWED = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.FloatStorage": _Dtype("float32"),
    "torch.DoubleStorage": _Dtype("float64"),
    "torch.HalfStorage": _Dtype("float16"),
    "torch.BFloat16Storage": _Dtype("bfloat16"),
    "torch.LongStorage": _Dtype("int64"),
    "torch.IntStorage": _Dtype("int32"),
    "torch.ShortStorage": _Dtype("int16"),
    "torch.CharStorage": _Dtype("int8"),
    "torch.ByteStorage": _Dtype("uint8"),
    "torch.BoolStorage": _Dtype("bool"),
}

# Instructions that push their argument unchanged; in Python 2 a name was a byte string.
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_METHODS = {
    name: f"_{name.lower()}"
    for name in "MARK TUPLE APPEND APPENDS SETITEM SETITEMS BUILD REDUCE BINPERSID".split()
}


class _Stream(io.BytesIO):
    def readline(self):
        line = super().readline()
        if b"\\" in line:
            # pickletools would warn that an escape is unknown.
            raise ValueError("A name with a backslash.")
        return line


class Unpickler:
    """Reads pickles that follow one another in a buffer.

    Args:
        content: bytes that begin with a pickle. At most `MAX_PICKLE_BYTES` of them are read.

    Attributes:
        storages: key -> `Storage`, those found so far.

    Raises:
        ValueError: from `load`, damage, or something that is not allowed.

    Example:

    >>> import pickle
    >>> Unpickler(pickle.dumps({"epoch": 3}, 2)).load()
    {'epoch': 3}
    """

    def __init__(self, content):
        self.storages = {}
        self._stream = _Stream(content)
        self._left, self._numbers_left = MAX_INSTRUCTIONS, MAX_NUMBERS_AS_KEYS

    @property
    def position(self):
        """The byte after the pickles that were read."""
        return self._stream.tell()

    def load(self):
        """The object of the next pickle, of dicts, lists, tuples, literals and `View`s."""
        self._stack, self._below, self._memo = [], [], {}
        try:
            for instruction, argument, _ in pickletools.genops(self._stream):
                self._left -= 1
                if self._left < 0:
                    raise ValueError(f"A pickle of more than {MAX_INSTRUCTIONS} instructions.")
                self._execute(instruction.name, argument)
            (result,) = self._stack
            return result
        except (IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"A damaged pickle ({type(error).__name__}).") from error

    def _execute(self, name, argument):
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self._stack.append(tuple(self._take(_TUPLES[name])))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name in ("GLOBAL", "INST"):
            self._stack.append(_find(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            self._stack.append(_find(*self._take(2)))
        elif name in _METHODS:
            getattr(self, _METHODS[name])()
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"The pickle instruction {name} is not one of a state dict's.")

    def _take(self, count):
        if count > len(self._stack):
            raise IndexError
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _take_to_mark(self):
        taken, self._stack = self._stack, self._below.pop()
        return taken

    def _mark(self):
        self._below.append(self._stack)
        self._stack = []

    def _tuple(self):
        items = tuple(self._take_to_mark())
        self._stack.append(items)

    def _append(self):
        self._extend(self._take(1))

    def _appends(self):
        self._extend(self._take_to_mark())

    def _extend(self, items):
        if type(self._stack[-1]) is not list:
            raise TypeError
        self._stack[-1].extend(items)

    def _setitem(self):
        self._update(self._take(2))

    def _setitems(self):
        self._update(self._take_to_mark())

    def _update(self, items):
        target, keys = self._stack[-1], items[::2]
        if type(target) is not dict or len(items) % 2:
            raise TypeError
        if not all(type(key) is str or _is_number(key) for key in keys):
            raise ValueError("Expected a dictionary whose keys are names, or numbers of 64 bits.")
        self._numbers_left -= sum(type(key) is int for key in keys)
        if self._numbers_left < 0:
            raise ValueError(f"More than {MAX_NUMBERS_AS_KEYS} numbers as keys of dictionaries.")
        target.update(zip(keys, items[1::2]))

    def _build(self):
        """Leaves out an OrderedDict's attributes, such as a state dict's `_metadata`."""
        self._take(1)
        if type(self._stack[-1]) is not dict:
            raise TypeError

    def _reduce(self):
        function, arguments = self._take(2)
        # A pickle is data: only functions of ALLOWED can be on the stack.
        if not callable(function) or type(arguments) is not tuple:
            raise TypeError
        if len(arguments) > MOST_ARGUMENTS:
            raise ValueError(f"Expected a tensor's parts. Received: {len(arguments)} of them.")
        self._stack.append(function(*arguments))

    def _binpersid(self):
        kind, dtype, key, _location, size, *view = self._take(1)[0]
        if kind != "storage" or not isinstance(dtype, _Dtype) or type(key) is not str:
            raise ValueError("Expected a reference to a storage.")
        if type(size) is not int or size < 0:
            raise ValueError("Expected a storage of 0 elements or more.")
        if view not in ([], [None]):
            raise ValueError("Storages inside others are from torch < 0.4. Save the file again.")
        storage = Storage(key, str(dtype), size)
        known = self.storages.setdefault(key, storage)
        if (known.dtype, known.size) != (storage.dtype, storage.size):
            raise ValueError(f"The storage {key!r} is described in two ways.")
        self._stack.append(known)


def _is_number(key):
    return type(key) is int and -(2**63) <= key < 2**63


def _find(module, name):
    if type(module) is not str or type(name) is not str:
        raise TypeError
    full_name = f"{module}.{name}"
    if full_name not in ALLOWED:
        raise ValueError(
            f"The pickle asks for {full_name!r}, which weights do not need; nothing was run. "
            "Save the weights alone: `torch.save(model.state_dict(), path)`. Allowed are "
            f"{sorted(ALLOWED)}."
        )
    return ALLOWED[full_name]
