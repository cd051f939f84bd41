"""SentencePiece's model files, read without the messages that they are written by."""

import struct
from typing import NamedTuple

WORD_BEGIN = "\u2581"  # SentencePiece's white space
NORMAL, UNKNOWN_PIECE, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2  # kinds of models


class Piece(NamedTuple):
    """A line of a SentencePiece model: its text, its type, `NORMAL` to `BYTE`, and its score."""

    text: str
    kind: int
    score: float = 0.0


class Model(NamedTuple):
    """What is read of a model file."""

    pieces: list
    kind: int  # `UNIGRAM`, `BPE`, or others
    characters: bytes  # the table by which characters are normalized
    begins_words: bool  # whether a blank is put before a text
    trims: bool  # whether blanks at the ends go, and of several in a row all but one


def read_model(proto):
    """A SentencePiece model.

    Reads the fields it needs from the protocol buffer, since neither TensorFlow nor tensorflow-text
    brings the messages along.

    Args:
        proto: the bytes of a `.model` file.

    Raises:
        ValueError: the bytes are no such message.
    """
    pieces, trainer, normalizer = [], {}, {}
    try:
        for field, value in _fields(proto):
            if field == 1 and isinstance(value, bytes):
                parts = dict(_fields(value))
                text = parts.get(1, b"").decode("utf8")
                pieces.append(Piece(text, parts.get(3, NORMAL), parts.get(2, 0.0)))
            elif field == 2:
                trainer = dict(_fields(value))
            elif field == 3:
                normalizer = dict(_fields(value))
    except (ValueError, IndexError, AttributeError, TypeError, struct.error) as error:
        raise ValueError(f"Not a SentencePiece model ({len(proto)} bytes): {error}.") from error
    if not pieces:
        raise ValueError(f"Not a SentencePiece model ({len(proto)} bytes): it has no pieces.")
    return Model(
        pieces,
        kind=trainer.get(3, UNIGRAM),
        characters=normalizer.get(2, b""),
        begins_words=bool(normalizer.get(3, 1)),
        trims=bool(normalizer.get(4, 1)),
    )


def _fields(message):
    """Numbers and values of the fields of a message in the protocol-buffer wire format."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
        elif wire in (1, 5):
            (value,) = struct.unpack_from("<d" if wire == 1 else "<f", message, position)
            position += 8 if wire == 1 else 4
        elif wire == 2:
            size, position = _varint(message, position)
            if size > len(message) - position:
                raise ValueError("a field reaches past the end")
            value = message[position : position + size]
            position += size
        else:
            raise ValueError(f"unknown wire type {wire}")
        yield field, value


def _varint(message, position):
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")
