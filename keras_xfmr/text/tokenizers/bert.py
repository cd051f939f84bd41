"""BERT's tokenizer: WordPiece with the normalization and special tokens of published models."""

import json
import pathlib
from collections.abc import Iterable

import tensorflow as tf

from keras_xfmr.common.files import read_lines
from keras_xfmr.common.types import Path, Self, Texts
from keras_xfmr.text.checks import as_strings
from keras_xfmr.text.ragged import merge, owners
from keras_xfmr.text.tokenizers.added_tokens import added_token
from keras_xfmr.text.tokenizers.base import (
    SETTINGS,
    WORD_LIMIT,
    WordPieceTokenizer,
    without_long_words,
)
from keras_xfmr.text.words import split_words, split_words_with_offsets

BERT_TOKENS = {
    "pad_id": "[PAD]",
    "unknown_id": "[UNK]",
    "start_id": "[CLS]",
    "end_id": "[SEP]",
    "mask_id": "[MASK]",
}
# Our argument -> the name in a published tokenizer_config.json.
PUBLISHED_SETTINGS = {
    "lowercase": "do_lower_case",
    "strip_accents": "strip_accents",
    "split_cjk": "tokenize_chinese_chars",
}


def bert_special_ids(vocabulary):
    """The ids of BERT's special tokens in a vocabulary, found by their names.

    Args:
        vocabulary: tokens in the order of their ids.

    Returns:
        Arguments of a `Tokenizer`: `pad_id`, `unknown_id`, `start_id`, `end_id`, and `mask_id`,
        which is None without `[MASK]`.

    Raises:
        ValueError: one of the first four is missing.

    Example:

    >>> bert_special_ids(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "a"])["pad_id"]
    1
    """
    ids = {token: index for index, token in enumerate(vocabulary)}
    found = {name: ids.get(token) for name, token in BERT_TOKENS.items()}
    missing = [BERT_TOKENS[name] for name in found if found[name] is None and name != "mask_id"]
    if missing:
        raise ValueError(
            f"A vocabulary for BERT must hold {', '.join(BERT_TOKENS.values())} ([MASK] only for "
            f"pretraining). Missing: {', '.join(missing)} among {len(vocabulary)} tokens."
        )
    return found


class BertTokenizer(WordPieceTokenizer):
    """The tokenizer of BERT (Devlin et al. 2019), in graph, for vocabularies of published models.

    `split_words` normalizes the text and splits it into words, WordPiece splits the words into
    pieces. A word of more than 100 characters is `[UNK]`. The special tokens are found in the
    vocabulary by their names, at any id: `[CLS]` is `start_id`, `[SEP]` is `end_id`.

    Difference to others: a literal special token in a text, such as "[MASK]", is ordinary text
    here, because users may write it. Hugging Face's tokenizers return the special id, unless
    `encode_special_tokens` is set.

    Args:
        vocabulary: tokens in the order of their ids.
        lowercase: whether the model is uncased.
        strip_accents: whether to remove accents; None means the value of `lowercase`. It splits
            Hangul syllables into letters, so a vocabulary with syllables needs False.
            `load_pretrained_tokenizer` decides by the vocabulary.
        split_cjk: whether each CJK ideograph is a word (`tokenize_chinese_chars`).
        **added: `added_tokens`, tokens of the vocabulary that are found in a text before it is
            split, and `added_special_tokens`, a part of them that `detokenize` leaves out, as
            `with_added_tokens` sets them.

    Raises:
        ValueError: a special token other than `[MASK]` is missing; tokens are empty, occur twice
            or are longer than 256 bytes.

    Example:

    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing"]
    >>> BertTokenizer(vocabulary).encode(tf.constant(["Playing"]), start=True).to_list()
    [[2, 5, 6, 3]]
    """

    vocabulary_file = "vocab.txt"

    def __init__(
        self,
        vocabulary: Iterable[str],
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_cjk: bool = True,
        **added,
    ) -> None:
        super().__init__(vocabulary, lowercase=lowercase, **added)
        self.strip_accents = strip_accents
        self.split_cjk = split_cjk

    @classmethod
    def _special_ids_of(cls, vocabulary):
        return bert_special_ids(vocabulary)

    @classmethod
    def from_file(cls, path: Path, **config) -> Self:
        """Loads a `vocab.txt`, one token a line in the order of the ids.

        Args:
            path: the file.
            **config: the constructor's other arguments.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is not UTF-8, has empty lines or a token twice, or is too large.

        Example::

            tokenizer = BertTokenizer.from_file("vocab.txt", lowercase=True)
        """
        path = pathlib.Path(path)
        try:
            return cls(read_lines(path), **config)
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: {error}") from error

    def _split_config(self):
        return {
            "lowercase": self.lowercase,
            "strip_accents": self.strip_accents,
            "split_cjk": self.split_cjk,
        }

    def save(self, folder: Path, max_length: int | None = None) -> None:
        """As `Tokenizer.save`; also `tokenizer_config.json`, for Hugging Face's `AutoTokenizer`.

        Args:
            folder: created if missing.
            max_length: the number of positions of the model, the limit of `AutoTokenizer` with
                `truncation=True`; by default the tokenizer's own `max_length`.

        Raises:
            FileExistsError: the folder has a `tokenizer.json` that this library did not write.
                `AutoTokenizer` would read that file instead.
        """
        max_length = self.max_length if max_length is None else max_length
        config = {
            "tokenizer_class": "BertTokenizer",
            **{theirs: getattr(self, ours) for ours, theirs in PUBLISHED_SETTINGS.items()},
            **({} if max_length is None else {"model_max_length": max_length}),
        }
        ids = {token: index for index, token in enumerate(self._vocabulary)}
        added = {
            str(ids[token]): added_token(token, special=ids[token] in self.added_special_ids)
            for token in self._found.tokens
        }
        config |= {"added_tokens_decoder": added} if added else {}
        self._save(folder, {SETTINGS: json.dumps(config, indent=2).encode("utf8")}, max_length)

    @staticmethod
    def split(texts: Texts, **config) -> tf.RaggedTensor:
        return split_words(texts, **config)

    @tf.autograph.experimental.do_not_convert
    def tokenize_with_offsets(
        self, texts: Texts
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Ids, and the position of each one in the texts.

        Args:
            texts: strings `[B]`.

        Returns:
            The ids of `tokenize`; the starts and the ends of the pieces, in bytes of the text: two
            int64 ragged tensors `[B, (T)]`. They count the text before normalization: `café` is 5
            bytes of UTF-8, also if its pieces have no accent.

        Example:

        >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "caf", "##e"]
        >>> ids, starts, ends = BertTokenizer(vocabulary).tokenize_with_offsets(["Café"])
        >>> starts.to_list(), ends.to_list()
        ([[0, 3]], [[3, 5]])
        """
        return self._found.tokenize_with_offsets(as_strings(texts), self._between_with_offsets)

    def _between_with_offsets(self, texts):
        words, starts, ends = split_words_with_offsets(texts, **self._split_config())
        ids, first, behind = self._pieces.tokenize_with_offsets(without_long_words(words))
        word = owners(ids.values.row_lengths())
        size = tf.gather(starts.values.row_lengths(), word)
        begin = tf.gather(starts.values.row_starts(), word)
        # A string longer than any piece replaces a word that was too long.
        last = tf.where(behind.flat_values > 4 * WORD_LIMIT, size, behind.flat_values) - 1
        ids = merge(ids, ids.values)
        return (
            ids,
            ids.with_values(tf.gather(starts.flat_values, begin + first.flat_values)),
            ids.with_values(tf.gather(ends.flat_values, begin + last)),
        )
