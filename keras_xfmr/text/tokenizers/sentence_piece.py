"""SentencePiece models in graph.

B batch, T length, V vocabulary
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from keras_xfmr.common.types import Config, Ids, Path, Self, Texts
from keras_xfmr.text.checks import as_strings
from keras_xfmr.text.tokenizers.base import (
    PUBLISHED,
    SETTINGS,
    Tokenizer,
    check_tokens,
    extended,
    list_tokens,
)
from keras_xfmr.text.tokenizers.graphs import in_graph
from keras_xfmr.text.tokenizers.sentence_piece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN_PIECE,
    USER_DEFINED,
    WORD,
    WORD_BEGIN,
    Piece,
    read_model,
    with_pieces,
)
from keras_xfmr.text.tokenizers.tokenizer_json import as_tokenizer_json, special_tokens

# A class name that Hugging Face's libraries do not have, for models that they cannot read: they
# raise an error, instead of silently making a tokenizer of five tokens.
NOT_THEIRS = "keras_xfmr.SentencePieceTokenizer"


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model (Kudo and Richardson 2018): white space is a symbol, nothing is lost.

    Text never becomes a special token: if the model has `[MASK]` as a symbol, a literal `[MASK]` in
    a text is unknown here. If two segmentations of a word are equally probable, tensorflow-text's
    operation may choose another one than the `sentencepiece` package (for example, for runs of
    dots).

    Args:
        proto: the bytes of a `.model` file.
        vocabulary: tokens in the order of their ids, for models whose ids differ from those of the
            file; None for the ids of the file. A token that is not a piece never occurs, a piece
            that is not a token is unknown.
        pad_id, unknown_id, start_id, end_id: 0 to 3 in models of `learn_sentence_piece`; published
            models have their own.
        mask_id: None, or the id of the mask token.
        added_special_tokens: pieces that are found in a text, as `with_added_tokens` adds them, and
            that `detokenize` leaves out.

    Raises:
        ValueError: not a SentencePiece model, or a special id outside it.

    Example::

        tokenizer = SentencePieceTokenizer(pathlib.Path("spm.model").read_bytes())
        ids = tokenizer.encode(tf.constant(["A text."]))
        tokenizer.detokenize(ids)
    """

    vocabulary_file = "sentencepiece.model"
    unknown_id: int

    def __init__(
        self,
        proto: bytes,
        *,
        vocabulary: Iterable[str] | None = None,
        added_special_tokens: Sequence[str] = (),
        **special_ids,
    ) -> None:
        super().__init__(**special_ids)
        if isinstance(proto, (str, os.PathLike)):
            raise TypeError(
                "Expected the bytes of a model, such as pathlib.Path(path).read_bytes(). Received: "
                f"{proto!r}."
            )
        self._proto = bytes(proto)
        self._config = dict(special_ids)
        model = read_model(self._proto)
        pieces, self._kind = model.pieces, model.kind
        self._numbers = None
        if vocabulary is not None:
            vocabulary = list_tokens(vocabulary)
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
        self._add_special(list(added_special_tokens))

    def _add_special(self, tokens):
        found = {p.text: i for i, p in enumerate(self._pieces) if p.kind == USER_DEFINED}
        for token in tokens:
            if found.get(token, self.unknown_id) in (self.unknown_id, *self.special_ids):
                raise ValueError(
                    "Expected `added_special_tokens` to be pieces that are found in a text. "
                    f"Received: {token!r}."
                )
        self.added_special_ids = tuple(found[token] for token in tokens)
        self._config |= {"added_special_tokens": tokens} if tokens else {}

    def _make_functions(self, size):
        # A loaded SavedModel shares resources by the names of their nodes: without a unique name, a
        # second model would silently use the vocabulary of the first one.
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
        # The op with the model is created inside the functions that read it. Outside of a function
        # it belongs to the cache of eager execution, which `keras.utils.set_random_seed` clears.
        texts, rows = tf.TensorSpec([None], tf.string), tf.RaggedTensorSpec([None, None], tf.int32)
        self._encoder = in_graph(lambda texts: make().tokenize(texts), texts)
        self._encoder_with_offsets = in_graph(
            lambda texts: make().tokenize_with_offsets(texts), texts
        )
        self._decoder = in_graph(lambda ids: make().detokenize(ids), rows)

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def get_vocabulary(self) -> list[str]:
        """The pieces in the order of their ids."""
        return [piece.text for piece in self._pieces]

    def continuations(self) -> np.ndarray:
        begun = [
            piece.kind in (NORMAL, BYTE) and not piece.text.startswith(WORD_BEGIN)
            for piece in self._pieces
        ]
        inside = np.array(begun, bool)
        inside[[self.unknown_id, *self.special_ids]] = False
        return inside

    def get_config(self) -> Config:
        return dict(self._config)

    @tf.autograph.experimental.do_not_convert
    def tokenize(self, texts: Texts) -> tf.RaggedTensor:
        return self._own_ids(self._encoder(as_strings(texts)))

    @tf.autograph.experimental.do_not_convert
    def tokenize_with_offsets(
        self, texts: Texts
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Ids, and the position of each one in the texts.

        Args:
            texts: strings `[B]`.

        Returns:
            The ids of `tokenize`; the starts and the ends of the pieces, in bytes of the text: two
            int64 ragged tensors `[B, (T)]`. The white space before a word belongs to its first
            piece. If a character became several pieces, the last one has all its bytes.

        Example::

            ids, starts, ends = tokenizer.tokenize_with_offsets(tf.constant(["안녕하세요 세계"]))
        """
        ids, starts, ends = self._encoder_with_offsets(as_strings(texts))
        return self._own_ids(ids), starts, ends

    def _with_tokens(self, tokens, config):
        """As in `Tokenizer`; the tokens become pieces, which SentencePiece finds in a text."""
        if self._kind == WORD:
            raise ValueError("A 'word' model finds no added tokens: put blanks around them.")
        kinds = {piece.text: piece.kind for piece in self._pieces}
        for token in tokens:
            if kinds.get(token, USER_DEFINED) != USER_DEFINED:
                raise ValueError(
                    f"Expected tokens that the model does not have as pieces. Received: {token!r}."
                )
            if WORD_BEGIN in token or token.split() != [token]:
                raise ValueError(
                    "Expected tokens without white space, which SentencePiece cannot find. "
                    f"Received: {token!r}."
                )
        config.pop("added_tokens")  # they are pieces
        if "vocabulary" in config:
            config["vocabulary"] = extended(config["vocabulary"], tokens)
        known = {piece.text for piece in read_model(self._proto).pieces}
        proto = with_pieces(self._proto, [token for token in tokens if token not in known])
        return type(self)(proto, **config)

    def _own_ids(self, ids):
        if self._numbers is not None:
            ids = ids.with_flat_values(tf.gather(self._numbers[0], ids.flat_values))
        if self._spelled:
            special = tf.reduce_any(ids.flat_values[:, None] == self._spelled, axis=1)
            ids = ids.with_flat_values(tf.where(special, self.unknown_id, ids.flat_values))
        return ids

    def detokenize_pieces(self, ids: Ids) -> tf.Tensor:
        if self._numbers is not None:
            ids = ids.with_flat_values(tf.gather(self._numbers[1], ids.flat_values))
        return self._decoder(ids)

    def save(self, folder: Path, max_length: int | None = None) -> None:
        """As `Tokenizer.save`; for BERT's special tokens also `tokenizer.json` and its
        configuration, for Hugging Face's `AutoTokenizer`.

        `AutoTokenizer` reads unigram and BPE models. For other models, for a vocabulary that leaves
        pieces out, and for added tokens, around which it would split texts differently, the files
        make it raise an error.

        Args:
            folder: created if missing.
            max_length: the number of positions of the model, the limit of `AutoTokenizer` with
                `truncation=True`; by default the tokenizer's own `max_length`.

        Raises:
            FileExistsError: the special tokens are BERT's, and the folder has a `tokenizer.json`
                that this library did not write.
        """
        max_length = self.max_length if max_length is None else max_length
        names = special_tokens(self)
        if names is None:
            return self._save(folder, {}, max_length)
        content = as_tokenizer_json(read_model(self._proto), self)
        theirs = {"pad_id": "pad", "unknown_id": "unk", "start_id": "cls", "end_id": "sep"}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast" if content else NOT_THEIRS,
            **{f"{theirs.get(role, 'mask')}_token": name for role, name in names.items()},
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            **({} if max_length is None else {"model_max_length": max_length}),
        }
        others = {PUBLISHED: json.dumps(content).encode("utf8")} if content else {}
        others[SETTINGS] = json.dumps(config, indent=2).encode("utf8")
        self._save(folder, others, max_length)

    def vocabulary_bytes(self) -> bytes:
        return self._proto

    @classmethod
    def from_vocabulary_bytes(cls, content: bytes, config: Config) -> Self:
        return cls(content, **config)


def _renumber(pieces, vocabulary, unknown_id):
    """Tables from ids of a model to ids of a vocabulary, and back: two NumPy int32 arrays."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    there = [ids.get(piece.text, unknown_id) for piece in pieces]
    numbers = {piece.text: index for index, piece in enumerate(pieces)}
    kinds = [piece.kind for piece in pieces]
    unknown = kinds.index(UNKNOWN_PIECE) if UNKNOWN_PIECE in kinds else 0
    back = [numbers.get(token, unknown) for token in vocabulary]
    return np.array(there, np.int32), np.array(back, np.int32)
