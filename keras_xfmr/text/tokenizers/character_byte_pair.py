"""Byte-pair encoding of the characters of words, such as KoGPT2's.

B batch, P pieces of texts between added tokens, C characters, T length, V vocabulary
"""

import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from keras_xfmr.common.checks import check_choice
from keras_xfmr.common.files import read_json
from keras_xfmr.common.types import Config, Ids, Path, Self, Texts
from keras_xfmr.text.checks import as_strings
from keras_xfmr.text.ragged import join, owners
from keras_xfmr.text.tokenizers.base import list_tokens
from keras_xfmr.text.tokenizers.byte_pair_base import PairTokenizer
from keras_xfmr.text.tokenizers.byte_pair_files import json_of
from keras_xfmr.text.tokenizers.character_byte_pair_files import (
    as_character_json,
    character_pairs_of,
)
from keras_xfmr.text.tokenizers.graphs import in_graph
from keras_xfmr.text.tokenizers.metaspace import (
    FORMS,
    SCHEMES,
    WORD_BEGIN,
    byte_lengths,
    normalized,
    places,
    prefixes,
)
from keras_xfmr.text.words import as_utf8

NEVER = np.iinfo(np.int32).max  # not a character


class CharacterBytePairTokenizer(PairTokenizer):
    """SentencePiece-style byte-pair encoding over characters, in graph: KoGPT2's tokenizer.

    It returns the ids of a `BPE` model with a `Metaspace` pre-tokenizer of the `tokenizers`
    package. First, added tokens such as emoticons are found in the text. The text between them is
    normalized, blanks become `▁`, and one `▁` is put before it; each `▁` begins a word. The
    characters of a word are merged, the pair of lowest rank first (Sennrich et al. 2016). A
    character outside the vocabulary is unknown, or left out without an `unknown_token`.

    Memory is proportional to the bytes of a batch; there is no cache of words.

    Difference to others: a literal special token in a text, such as "</s>", is ordinary text here,
    because users may write it. Hugging Face's tokenizers return the special id, unless
    `encode_special_tokens` is set. A merge that would turn text into a special token is left out.
    `NFKC` changes 170 characters newer than Unicode 11 that `tokenizers` 0.23 does not change.

    Where a `▁` is put before text, a text that begins with a blank has the same ids, and
    `detokenize` returns it without the blank.

    Args:
        vocabulary: tokens in the order of their ids, spelled as in files.
        merges: pairs of tokens in the order of their ranks.
        end_token: its id is `end_id`.
        start_token, pad_token: None for the end token.
        mask_token: None, or the name of the mask token.
        unknown_token: None, or the token for characters outside the vocabulary.
        fuse_unknown: whether neighbouring unknown characters in a word are one token.
        normalization: None, `"NFC"` or `"NFKC"`.
        prepend_scheme: where to insert a `▁` that the text does not have: `"always"`, before each
            text and after each added token; `"first"`, before the text only; or `"never"`.
        split: whether each `▁` begins a word; False merges over words.
        added_tokens: tokens of the vocabulary that are found in a text before it is normalized,
            the leftmost first, and at one place the longest.
        added_special_tokens: a part of them that `detokenize` leaves out.

    Raises:
        ValueError: tokens are empty or occur twice; a merge occurs twice, or has or makes a token
            that is not in the vocabulary; a special or added token is missing; a special token is
            a character, or an added token.

    Example:

    >>> vocabulary = ["</s>", "<unk>", "▁", "l", "o", ":)", "lo", "▁lo"]
    >>> tokenizer = CharacterBytePairTokenizer(
    ...     vocabulary, [("l", "o"), ("▁", "lo")], unknown_token="<unk>", added_tokens=[":)"]
    ... )
    >>> tokenizer.tokenize(tf.constant(["lo:) hello"])).to_list()
    [[7, 5, 2, 1, 1, 3, 6]]
    """

    unit, word_begin = "character", WORD_BEGIN

    def __init__(
        self,
        vocabulary: Iterable[str],
        merges: Sequence[Sequence[str]],
        *,
        end_token: str = "</s>",
        start_token: str | None = None,
        pad_token: str | None = None,
        mask_token: str | None = None,
        unknown_token: str | None = None,
        fuse_unknown: bool = False,
        normalization: str | None = "NFKC",
        prepend_scheme: str = "always",
        split: bool = True,
        added_tokens: Sequence[str] = (),
        added_special_tokens: Sequence[str] = (),
    ) -> None:
        vocabulary = list_tokens(vocabulary)
        characters = [token for token in vocabulary if len(token) == 1]
        check_choice("normalization", normalization, FORMS)
        check_choice("prepend_scheme", prepend_scheme, SCHEMES)
        for name, flag in (("fuse_unknown", fuse_unknown), ("split", split)):
            check_choice(name, flag, (True, False))
        super().__init__(
            vocabulary,
            merges,
            characters,
            unknown_token=unknown_token,
            end_token=end_token,
            start_token=start_token,
            pad_token=pad_token,
            mask_token=mask_token,
            added_tokens=added_tokens,
            added_special_tokens=added_special_tokens,
        )
        ids = {token: index for index, token in enumerate(vocabulary)}
        self._config = {
            **self._config,
            "unknown_token": unknown_token,
            "fuse_unknown": fuse_unknown,
            "normalization": normalization,
            "prepend_scheme": prepend_scheme,
            "split": split,
        }
        self._make_tables(ids, sorted(characters))
        self._encoder_with_offsets = in_graph(
            self._encode_with_offsets, tf.TensorSpec([None], tf.string)
        )

    def _make_tables(self, ids, characters):
        ordinary = self._ordinary.union(self._found.tokens)
        spelled = [t.replace(WORD_BEGIN, " ") if t in ordinary else "" for t in self._vocabulary]
        first = spelled
        if self._config["prepend_scheme"] != "never":
            first = [t.replace(WORD_BEGIN, "") if t in ordinary else "" for t in self._vocabulary]
        for table in (spelled, first):
            if self.unknown_id is not None:
                table[self.unknown_id] = "\N{REPLACEMENT CHARACTER}"
        with tf.device("CPU"):  # strings are on the CPU
            self._spelled, self._spelled_first = tf.constant(spelled), tf.constant(first)
            # The last entry is for characters that are not in the vocabulary.
            self._characters = tf.constant([*map(ord, characters), NEVER], tf.int32)
            self._character_ids = tf.constant([*map(ids.get, characters), -1], tf.int32)

    @classmethod
    def from_file(cls, path: Path, **arguments) -> Self:
        """Loads a `tokenizer.json`.

        The file has these parts: `model`, which must be `BPE` without `dropout`,
        `continuing_subword_prefix`, `end_of_word_suffix`, `byte_fallback` and `ignore_merges`;
        `pre_tokenizer`, which must be `Metaspace` with `▁`; `normalizer`, which must be missing,
        `NFC` or `NFKC`; and `added_tokens`. Of these, names between brackets, such as `<usr>`,
        `<|sep|>` and `[MASK]`, and tokens to which `arguments` give a role, are never found in a
        text; others, such as `:)`, become our `added_tokens`, special in the file or not.
        `decoder`, `post_processor`, `truncation` and `padding` are ignored: the arguments of
        `encode` add special tokens.

        Args:
            path: a `tokenizer.json`.
            **arguments: arguments of the constructor, which override the file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged or too large, or needs a step that this class does not have.

        Example::

            tokenizer = CharacterBytePairTokenizer.from_file("tokenizer.json", pad_token="<pad>")
        """
        path = pathlib.Path(path)
        try:
            return cls.from_json(read_json(path), **arguments)
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: {error}") from error

    @classmethod
    def from_json(cls, fast: Config, **arguments) -> Self:
        """As `from_file`, from the content of a file."""
        vocabulary, merges, settings = character_pairs_of(fast)
        roles = {token for name, token in arguments.items() if name.endswith("_token")}
        settings["added_tokens"] = [t for t in settings["added_tokens"] if t not in roles]
        return cls(vocabulary, merges, **{**settings, **arguments})

    def get_config(self) -> Config:
        return {"added_tokens": [], **super().get_config()}

    @tf.autograph.experimental.do_not_convert
    def tokenize_with_offsets(
        self, texts: Texts
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Ids, and the position of each one in the texts.

        Args:
            texts: strings `[B]`.

        Returns:
            The ids of `tokenize`; the starts and the ends of the pieces, in bytes of the text: two
            int64 ragged tensors `[B, (T)]`. The blank before a word belongs to its first piece; an
            inserted `▁` has no bytes. If normalization turns one character into several, or several
            into one, each piece with any of them has all their source bytes. A byte that is not
            UTF-8 counts as the three bytes of U+FFFD.

        Example::

            ids, starts, ends = tokenizer.tokenize_with_offsets(tf.constant(["안녕하세요 세계"]))
        """
        return self._encoder_with_offsets(as_strings(texts))

    def _encode(self, texts):
        return self._encoded(texts, with_offsets=False)

    def _encode_with_offsets(self, texts):
        return self._encoded(texts, with_offsets=True)

    def _encoded(self, texts, *, with_offsets):
        with tf.device("CPU"):
            texts = as_utf8(texts)
            if with_offsets:
                # `find_source_offsets` ends the process on a batch without text (2.21).
                texts = tf.concat([texts, [""]], axis=0)
            pieces, added_ids = self._found.cut(texts)
            added = added_ids >= 0
            content = tf.where(added, WORD_BEGIN, pieces.values)
            content, source = normalized(content, self._config["normalization"], with_offsets)
            codes, offsets = tf.strings.unicode_decode_with_offsets(content, "UTF-8")
            blank = tf.equal(codes.values, ord(" "))
            codes = codes.with_values(tf.where(blank, ord(WORD_BEGIN), codes.values))
            prefix = prefixes(pieces, codes, self._config["prepend_scheme"])
            codes = join(prefix, codes)
            ids, first, last = self._merged(codes, added_ids)
            splits = tf.searchsorted(first, tf.gather(codes.row_splits, pieces.row_splits))
            splits = tf.cast(splits[:-1] if with_offsets else splits, tf.int64)
            rows = tf.RaggedTensor.from_row_splits(ids, splits, validate=False)
            if not with_offsets:
                return rows
            bounds = join(offsets, byte_lengths(content))
            if source is not None:
                bounds = tf_text.find_source_offsets(source, bounds)
            starts, ends = places(pieces.values, added, bounds, prefix)
            text = tf.cumsum(byte_lengths(texts), exclusive=True)
            text = tf.gather(text, owners(rows.row_lengths()))
            starts, ends = tf.gather(starts, first) - text, tf.gather(ends, last) - text
            return rows, rows.with_values(starts), rows.with_values(ends)

    def _merged(self, codes, added_ids):
        """The ids of the pieces, and the indices of their first and last characters, `[n]`.

        Args:
            codes: the characters of the pieces, ragged `[P, (c)]`.
            added_ids: int32 `[P]`, -1 for pieces that are text.
        """
        place = tf.searchsorted(self._characters, codes.values)
        known = tf.equal(tf.gather(self._characters, place), codes.values)
        ids = tf.where(known, tf.gather(self._character_ids, place), -1)
        own = tf.gather(added_ids, owners(codes.row_lengths()))
        ids = tf.where(own >= 0, own, ids)
        begins_word = tf.equal(tf.ragged.range(codes.row_lengths()).values, 0)
        if self._config["split"]:
            begins_word |= tf.equal(codes.values, ord(WORD_BEGIN))
        unknown = ids < 0
        if self.unknown_id is None:
            kept = last = tf.where(~unknown)[:, 0]
        else:
            ids = tf.where(unknown, self.unknown_id, ids)
            before = tf.concat([tf.zeros_like(unknown[:1]), unknown[:-1]], axis=0)
            fused = unknown & before & ~begins_word & self._config["fuse_unknown"]
            kept = tf.where(~fused)[:, 0]
            last = tf.concat([kept, [tf.size(ids, tf.int64)]], axis=0)[1:] - 1
        words = tf.gather(tf.cumsum(tf.cast(begins_word, tf.int32)) - 1, kept)
        count = tf.size(kept)
        ids, begins = self._merge(tf.gather(ids, kept), tf.range(count), words)
        behind = tf.concat([begins, [count]], axis=0)[1:]
        return ids, tf.gather(kept, begins), tf.gather(last, behind - 1)

    def detokenize_pieces(self, ids: Ids) -> tf.Tensor:
        first = tf.equal(tf.ragged.range(ids.row_lengths()).values, 0)
        pieces = tf.where(
            first,
            tf.gather(self._spelled_first, ids.flat_values),
            tf.gather(self._spelled, ids.flat_values),
        )
        return tf.strings.reduce_join(ids.with_flat_values(pieces), axis=1)

    # ---- files

    def vocabulary_bytes(self) -> bytes:
        ids = (*self.special_ids, self.unknown_id)
        special = {self._vocabulary[i] for i in ids if i is not None}
        content = as_character_json(self._vocabulary, self._merges, special, self.get_config())
        return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf8")

    @classmethod
    def from_vocabulary_bytes(cls, content: bytes, config: Config) -> Self:
        vocabulary, merges, _ = character_pairs_of(json_of(content))
        return cls(vocabulary, merges, **config)
