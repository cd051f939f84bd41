"""SentencePiece models: in graph, and their pieces read from the file.

B batch, T length, V vocabulary
"""

import functools
import hashlib
import struct
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from keras_xfmr.text.checks import as_strings
from keras_xfmr.text.tokenizers import Tokenizer, check_tokens

WORD_BEGIN = "\u2581"  # SentencePiece's white space
NORMAL, UNKNOWN_PIECE, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


class Piece(NamedTuple):
    """A line of a SentencePiece model: its text and its type, `NORMAL` to `BYTE`."""

    text: str
    kind: int


def read_pieces(proto):
    """The pieces of a SentencePiece model in the order of their ids.

    Reads the three fields it needs from the protocol buffer (`ModelProto.pieces`, of each `piece`
    and `type`), since neither TensorFlow nor tensorflow-text brings the messages along.

    Args:
        proto: the bytes of a `.model` file.

    Raises:
        ValueError: the bytes are no such message.
    """
    pieces = []
    try:
        for field, value in _fields(proto):
            if field == 1 and isinstance(value, bytes):
                parts = dict(_fields(value))
                pieces.append(Piece(parts.get(1, b"").decode("utf8"), parts.get(3, NORMAL)))
    except (ValueError, IndexError, AttributeError, struct.error) as error:
        raise ValueError(f"Not a SentencePiece model ({len(proto)} bytes): {error}.") from error
    if not pieces:
        raise ValueError(f"Not a SentencePiece model ({len(proto)} bytes): it has no pieces.")
    return pieces


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


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model (Kudo and Richardson 2018): white space is a symbol, nothing is lost.

    Text never becomes a special token: where a model would read `[MASK]` in a text as its own
    symbol, it is unknown here.

    Args:
        proto: the bytes of a `.model` file.
        vocabulary: tokens in the order of their ids, for models that number the pieces otherwise
            than the file does; None for the file's own numbers. A token that is no piece is never
            the answer, a piece that is no token is unknown.
        pad_id, unknown_id, start_id, end_id: 0 to 3 in models that `learn_sentence_piece` makes;
            published models have their own.
        mask_id: None, or the id of the mask token.

    Raises:
        ValueError: no SentencePiece model, or a special id outside it.

    Example::

        tokenizer = SentencePieceTokenizer(pathlib.Path("spm.model").read_bytes())
        ids = tokenizer.encode(tf.constant(["A text."]))
        tokenizer.detokenize(ids)
    """

    vocabulary_file = "sentencepiece.model"

    def __init__(self, proto, *, vocabulary=None, **special_ids):
        super().__init__(**special_ids)
        self._proto = bytes(proto)
        self._config = dict(special_ids)
        pieces = read_pieces(self._proto)
        self._numbers = None
        if vocabulary is not None:
            vocabulary = [str(token) for token in vocabulary]
            check_tokens(vocabulary)
            self._config["vocabulary"] = vocabulary
            self._numbers = _renumber(pieces, vocabulary, self.unknown_id)
        kinds = {piece.text: piece.kind for piece in pieces}
        texts = vocabulary or [piece.text for piece in pieces]
        self._pieces = [Piece(text, kinds.get(text, CONTROL)) for text in texts]
        for name in ("pad_id", "unknown_id", "start_id", "end_id", "mask_id"):
            index = getattr(self, name)
            if index is not None and not 0 <= index < len(self._pieces):
                raise ValueError(
                    f"Expected `{name}` in 0 .. {len(self._pieces) - 1}. Received: {index}."
                )
        self._spelled = [i for i in self.special_ids if self._pieces[i].kind != CONTROL]
        self._make_functions(len(pieces))

    def _make_functions(self, size):
        # A loaded SavedModel shares resources by their node's name: without a name of its own, a
        # second model would silently answer with the first one's vocabulary.
        name = f"sentencepiece_{hashlib.sha256(self._proto).hexdigest()[:16]}"
        make = functools.partial(
            tf_text.SentencepieceTokenizer, self._proto, out_type=tf.int32, name=name
        )
        try:
            found = int(make().vocab_size())
            if found != size:
                raise ValueError(f"{found} of {size} pieces could be read.")
        except (tf.errors.OpError, ValueError) as error:
            raise ValueError(f"Not a SentencePiece model ({len(self._proto)} bytes).") from error
        # The op that holds the model is made inside the functions that read it. Outside of any it
        # belongs to the cache of eager execution, which `keras.utils.set_random_seed` empties.
        self._encoder = tf.function(
            lambda texts: make().tokenize(texts),
            input_signature=[tf.TensorSpec([None], tf.string)],
        )
        self._encoder_with_offsets = tf.function(
            lambda texts: make().tokenize_with_offsets(texts),
            input_signature=[tf.TensorSpec([None], tf.string)],
        )
        self._decoder = tf.function(
            lambda ids: make().detokenize(ids),
            input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)],
        )

    @property
    def vocab_size(self):
        return len(self._pieces)

    def get_vocabulary(self):
        """The pieces in the order of their ids."""
        return [piece.text for piece in self._pieces]

    def continuations(self):
        inside = [
            piece.kind in (NORMAL, BYTE) and not piece.text.startswith(WORD_BEGIN)
            for piece in self._pieces
        ]
        inside = np.array(inside, bool)
        inside[[self.unknown_id, *self.special_ids]] = False
        return inside

    def get_config(self):
        return dict(self._config)

    def tokenize(self, texts):
        return self._own_ids(self._encoder(as_strings(texts)))

    def tokenize_with_offsets(self, texts):
        """Ids, and where in the texts each one stands.

        Args:
            texts: strings `[B]`.

        Returns:
            What `tokenize` returns; where the pieces start, and where they end, in bytes of the
            text: two int64 ragged tensors `[B, (T)]`. The white space before a word belongs to its
            first piece. Of a character that became several pieces, the last one has it all.

        Example::

            ids, starts, ends = tokenizer.tokenize_with_offsets(tf.constant(["안녕하세요 세계"]))
        """
        ids, starts, ends = self._encoder_with_offsets(texts)
        return self._own_ids(ids), starts, ends

    def _own_ids(self, ids):
        if self._numbers is not None:
            ids = ids.with_flat_values(tf.gather(self._numbers[0], ids.flat_values))
        if self._spelled:
            special = tf.reduce_any(ids.flat_values[:, None] == self._spelled, axis=1)
            ids = ids.with_flat_values(tf.where(special, self.unknown_id, ids.flat_values))
        return ids

    def detokenize_pieces(self, ids):
        if self._numbers is not None:
            ids = ids.with_flat_values(tf.gather(self._numbers[1], ids.flat_values))
        return self._decoder(ids)

    def vocabulary_bytes(self):
        return self._proto

    @classmethod
    def from_vocabulary_bytes(cls, content, config):
        return cls(content, **config)


def _renumber(pieces, vocabulary, unknown_id):
    """Ids of a vocabulary from those of a model, and back: NumPy int32, one of each."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    there = [ids.get(piece.text, unknown_id) for piece in pieces]
    numbers = {piece.text: index for index, piece in enumerate(pieces)}
    kinds = [piece.kind for piece in pieces]
    unknown = kinds.index(UNKNOWN_PIECE) if UNKNOWN_PIECE in kinds else 0
    back = [numbers.get(token, unknown) for token in vocabulary]
    return np.array(there, np.int32), np.array(back, np.int32)
