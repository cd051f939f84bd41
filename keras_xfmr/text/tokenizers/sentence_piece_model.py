"""Reads SentencePiece's model files without the definitions of their messages."""

import struct
from typing import NamedTuple

import numpy as np

from keras_xfmr.common.protobuf import fields

WORD_BEGIN = "\u2581"  # SentencePiece's white space
NORMAL, UNKNOWN_PIECE, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
MOST_PIECES = 2**19  # the largest published vocabularies have half as many
UNIGRAM, BPE, WORD = 1, 2, 3  # kinds of models


class Piece(NamedTuple):
    """A piece of a SentencePiece model: its text, its type (`NORMAL` to `BYTE`), and its score."""

    text: str
    kind: int
    score: float = 0.0


class Model(NamedTuple):
    """The parts of a model file that are read."""

    pieces: list
    kind: int  # `UNIGRAM`, `BPE`, or others
    characters: bytes  # the table that normalizes characters
    begins_words: bool  # whether a blank is put before a text
    trims: bool  # whether blanks at the ends and repeated blanks are removed


def read_model(proto):
    """A SentencePiece model.

    Reads the needed fields from the protocol buffer, because neither TensorFlow nor tensorflow-text
    has the definitions of the messages.

    Args:
        proto: the bytes of a `.model` file.

    Raises:
        ValueError: the bytes are not such a message, it has more than `MOST_PIECES`, or its table
            of characters would make TensorFlow's reader, which checks nothing, read beyond the end.
    """
    # A message may come in several parts, which are merged.
    pieces, trainer, normalizer = [], {}, {}
    try:
        for field, value in fields(proto):
            if field == 1 and isinstance(value, bytes):
                if len(pieces) == MOST_PIECES:
                    raise ValueError(f"more than {MOST_PIECES} pieces")
                parts = dict(fields(value))
                text = parts.get(1, b"").decode("utf8")
                pieces.append(Piece(text, parts.get(3, NORMAL), parts.get(2, 0.0)))
            elif field == 2:
                trainer.update(fields(value))
            elif field in (3, 5):  # normalizers for encoding and for decoding
                rules = list(fields(value))
                for table in (part for number, part in rules if number == 2):
                    _check_characters(table)
                normalizer.update(rules if field == 3 else {})
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


def with_pieces(proto, tokens):
    """A model with more pieces after its own, which are found in a text exactly.

    Args:
        proto: the bytes of a `.model` file.
        tokens: texts.
    """
    for token in tokens:
        text = token.encode("utf8")
        piece = b"\x0a" + _varint(len(text)) + text + b"\x15" + struct.pack("<f", 0.0)
        piece += b"\x18" + _varint(USER_DEFINED)
        proto += b"\x0a" + _varint(len(piece)) + piece
    return proto


def _varint(value):
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])


def _check_characters(table):
    """Raises ValueError if a search in a table of characters would read outside it.

    The table is the size of a trie in bytes, the trie, and the replacement texts, each with a zero
    at its end. The trie is a double array (Aoe 1989) in the form of Darts-clone: from a unit at p,
    the byte b leads to the unit at p ^ offset ^ b, if that has the label b; and a unit with a leaf
    has its value, the position of a text, at p ^ offset.
    """
    if not table:
        return
    (size,) = struct.unpack_from("<I", table)
    texts = table[4 + size :]
    if not size or size % 4 or not texts or texts[-1]:
        raise ValueError("its table of characters is damaged")
    units = np.frombuffer(table, "<u4", size // 4, offset=4)
    offset = (units >> 10) << ((units & 0x200) >> 6)
    targets = np.arange(len(units), dtype=np.uint32) ^ offset
    followed = units < 2**31  # others are values, and no label is equal to them,
    followed[0] = True  # except the root, which has no label
    outside = followed & (targets | 0xFF >= len(units))
    leaves = targets[followed & (units & 0x100 > 0) & ~outside]
    if outside.any() or (units[leaves] & 0x7FFFFFFF >= len(texts)).any():
        raise ValueError("its table of characters points outside of itself")
