"""Reads and writes protocol buffers without the definitions of their messages.

SentencePiece's models and TensorFlow's checkpoints are such messages, and neither TensorFlow nor
tensorflow-text includes their definitions. A field cannot be larger than the bytes of its message.
"""

import struct

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def varint(content, position):
    """An integer of seven bits a byte, the lowest first, and the position after it.

    Raises:
        ValueError: it does not end, or has more than ten bytes.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise ValueError("a number reaches past the end")
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number is too long")


def fields(message):
    """The fields of a message, one after the other: pairs of a number and a value.

    Values are integers, bytes (texts and nested messages), or floats (four bytes and eight bytes).

    Raises:
        ValueError: the bytes are not a message.

    Example:

    >>> list(fields(b"\\x08\\x07\\x12\\x01a"))
    [(1, 7), (2, b'a')]
    """
    position = 0
    while position < len(message):
        key, position = varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, position = varint(message, position)
        elif wire == BYTES:
            size, position = varint(message, position)
            value, position = _part(message, position, size), position + size
        elif wire in (FIXED32, FIXED64):
            size, form = (4, "<f") if wire == FIXED32 else (8, "<d")
            (value,) = struct.unpack(form, _part(message, position, size))
            position += size
        else:
            raise ValueError(f"unknown wire type {wire}")
        yield number, value


def field(number, value):
    """The bytes of a field: an integer from 0, bytes, or a float of four bytes.

    Example:

    >>> field(1, 7) + field(2, b"a")
    b'\\x08\\x07\\x12\\x01a'
    """
    if isinstance(value, bytes):
        return _digits(number << 3 | BYTES) + _digits(len(value)) + value
    if isinstance(value, float):
        return _digits(number << 3 | FIXED32) + struct.pack("<f", value)
    return _digits(number << 3 | VARINT) + _digits(value)


def _digits(value):
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _part(message, position, size):
    if size > len(message) - position:
        raise ValueError("a field reaches past the end")
    return message[position : position + size]
