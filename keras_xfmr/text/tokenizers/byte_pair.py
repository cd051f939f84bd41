"""GPT-2's tokenizer: byte-pair encoding of the bytes of words.

B batch, T length, V vocabulary
"""

import json
import pathlib
from collections.abc import Iterable, Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from keras_xfmr.common.files import read_json
from keras_xfmr.common.types import Config, Ids, Path, Self, Texts
from keras_xfmr.text.ragged import merge, owners, stretches
from keras_xfmr.text.tokenizers.base import list_tokens
from keras_xfmr.text.tokenizers.byte_pair_base import PairTokenizer
from keras_xfmr.text.tokenizers.byte_pair_files import (
    ALPHABET,
    BYTES,
    as_tokenizer_json,
    byte_pairs_of,
    found_in,
    json_of,
    read_vocabulary_and_merges,
)

END_OF_TEXT = "<|endoftext|>"
BLANK = ALPHABET[ord(" ")]

# RE2's \s has only ASCII white space.
SPACE = (
    r"\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
)
# GPT-2's expression ends with `\s+(?!\S)|\s+`: the last character of a run of white space belongs
# to the next word. RE2 has no look-ahead, so the text is split twice: first into parts without
# white space, each with the one character before it, and into the white space between them.
STRETCH = f"[{SPACE}]?[^{SPACE}]+"
WORD = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+"
    rf"| ?[^{SPACE}\p{{L}}\p{{N}}]+|[{SPACE}]+"
)
ALL = "(?s:.+)"


class BytePairTokenizer(PairTokenizer):
    """The byte-level byte-pair encoding of GPT-2 (Radford et al. 2019), in graph.

    Text is split into words by GPT-2's expression, `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|
    ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`. The bytes of a word are merged, the pair of lowest rank
    first. Every byte is in the vocabulary, so no text is unknown and nothing is lost. Files write a
    byte as a printable character: a blank is `Ġ`.

    Memory is proportional to the bytes of a batch; there is no cache of words. Words of any length
    have the same ids as with `tokenizers`. The loop takes a step for each different merge of a
    word: a word of 100,000 random letters takes thousands of steps, half a minute.

    Difference to others: a literal special token in a text, such as "<|endoftext|>", is ordinary
    text here, because users may write it. Hugging Face's tokenizers return the special id, unless
    `encode_special_tokens` is set. A merge that would turn text into a special token is left out.
    Bytes that are not UTF-8 are separate words. Letters newer than Unicode 15.0 count as symbols
    (TensorFlow 2.21).

    `start_id`, `end_id` and `pad_id` may be one id, as in GPT-2; `unknown_id` is None. `detokenize`
    leaves out ids that no text can have, special or not.

    Args:
        vocabulary: tokens in the order of their ids, spelled as in files.
        merges: pairs of tokens in the order of their ranks.
        end_token: its id is `end_id`.
        start_token, pad_token: None for the end token.
        mask_token: None, or the name of the mask token.
        added_tokens: tokens of the vocabulary that are found in a text before it is split, the
            leftmost first, and at one place the longest, as `with_added_tokens` sets them. They
            are spelled as in texts.
        added_special_tokens: a part of them that `detokenize` leaves out.

    Raises:
        ValueError: one of the 256 bytes is missing; tokens are empty or occur twice; a merge
            occurs twice, or has or makes a token that is not in the vocabulary; a special token
            is missing, or is a byte.

    Example:

    >>> from keras_xfmr.text.tokenizers.byte_pair_files import ALPHABET
    >>> vocabulary = [*ALPHABET, "lo", "Ġlo", "<|endoftext|>"]
    >>> tokenizer = BytePairTokenizer(vocabulary, [("l", "o"), ("Ġ", "lo")])
    >>> tokenizer.encode(tf.constant(["lo lo"])).to_list()
    [[256, 257, 258]]
    """

    unit, word_begin = "byte", BLANK

    def __init__(
        self,
        vocabulary: Iterable[str],
        merges: Sequence[Sequence[str]],
        *,
        end_token: str = END_OF_TEXT,
        start_token: str | None = None,
        pad_token: str | None = None,
        mask_token: str | None = None,
        added_tokens: Sequence[str] = (),
        added_special_tokens: Sequence[str] = (),
    ) -> None:
        vocabulary, merges = list_tokens(vocabulary), list(merges)
        _check_bytes(vocabulary)
        super().__init__(
            vocabulary,
            merges,
            set(ALPHABET),
            end_token=end_token,
            start_token=start_token,
            pad_token=pad_token,
            mask_token=mask_token,
            added_tokens=added_tokens,
            added_special_tokens=added_special_tokens,
        )
        for rank, pair in enumerate(self._merges):
            if not set("".join(pair)) <= set(BYTES):
                raise ValueError(f"Expected merges of bytes. Received: {pair!r} as number {rank}.")
        spelled = [self._bytes_of(token) for token in vocabulary]
        ids = {token: index for index, token in enumerate(vocabulary)}
        with tf.device("CPU"):
            self._byte_ids = tf.constant([ids[byte] for byte in ALPHABET], tf.int32)
            self._spelled = tf.constant(spelled)
            self._sizes = tf.constant([len(content) for content in spelled], tf.int64)

    def _bytes_of(self, token):
        """The bytes that `detokenize` returns for a token."""
        content = bytes(map(BYTES.get, token)) if token in self._ordinary else b""
        if token not in self._found.tokens:
            return content
        if content not in (b"", token.encode("utf8")):
            raise ValueError(
                "Expected `added_tokens` that are no piece with other bytes. Received: "
                f"{token!r}, the piece of the bytes {content!r}."
            )
        return token.encode("utf8")

    @classmethod
    def from_file(cls, path: Path, merges: Path | None = None, **special_tokens) -> Self:
        """Loads a `vocab.json` and a `merges.txt`, or a `tokenizer.json`.

        A `tokenizer.json` has these parts: `model`, which must be `BPE` over bytes without
        `dropout`, `continuing_subword_prefix`, `end_of_word_suffix`, `byte_fallback` and
        `ignore_merges`; `pre_tokenizer`, which must be `ByteLevel` without `add_prefix_space` and
        with `use_regex`; `normalizer`, which must be missing; `added_tokens`: those that are not
        special are found in a text. `decoder`, `post_processor`, `truncation` and `padding` are
        ignored: the arguments of `encode` add special tokens.

        Args:
            path: `vocab.json`, or a `tokenizer.json` where `merges` is None.
            merges: None, or `merges.txt`.
            **special_tokens: the constructor's other arguments.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file is damaged or too large, or needs a step that GPT-2's tokenizer does
                not have.

        Example::

            tokenizer = BytePairTokenizer.from_file("vocab.json", "merges.txt")
        """
        path = pathlib.Path(path)
        try:
            if merges is not None:
                content = read_vocabulary_and_merges(path, pathlib.Path(merges))
                return cls(*content, **special_tokens)
            fast = read_json(path)
            content, found = byte_pairs_of(fast), found_in(fast, special_tokens.values())
            return cls(*content, **{"added_tokens": found, **special_tokens})
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: {error}") from error

    @tf.autograph.experimental.do_not_convert
    def tokenize_with_offsets(
        self, texts: Texts
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Ids, and the position of each one in the texts.

        Args:
            texts: strings `[B]`.

        Returns:
            The ids of `tokenize`; the starts and the ends of the pieces, in bytes of the text: two
            int64 ragged tensors `[B, (T)]`. A piece has all its bytes, also the blank before a word
            or a part of a character; there are no gaps between the pieces of a text.

        Example::

            ids, starts, ends = tokenizer.tokenize_with_offsets(tf.constant(["안녕하세요 세계"]))
        """
        ids = self.tokenize(texts)
        bounds = tf.concat([[0], tf.cumsum(tf.gather(self._sizes, ids.values))], axis=0)
        owner = owners(ids.row_lengths())
        before = tf.gather(tf.gather(bounds, ids.row_starts()), owner)  # bytes of other texts
        return ids, ids.with_values(bounds[:-1] - before), ids.with_values(bounds[1:] - before)

    def _encode(self, texts):
        with tf.device("CPU"):
            return self._found.tokenize(texts, self._encode_between)

    def _encode_between(self, texts):
        with tf.device("CPU"):
            # The operation that splits ends a text at NUL. So NUL becomes two characters; both are
            # symbols in GPT-2's expression, as NUL is.
            texts = tf.strings.regex_replace(texts, r"\x01", "\x01\x03")
            texts = tf.strings.regex_replace(texts, r"\x00", "\x01\x02")
            stretched = tf_text.regex_split(texts, STRETCH, ALL)
            distinct, index = tf.unique(stretched.values)
            ids, splits = self._pieces(distinct)
            begins = tf.gather(splits, index)
            parts = stretches(ids, begins, tf.gather(splits, index + 1) - begins)
            return merge(stretched, parts)

    def _pieces(self, texts):
        """The ids of strings `[n]`, one after the other, and int64 splits `[n + 1]` of them."""
        words = tf_text.regex_split(texts, WORD, ALL).values
        sizes = tf.strings.length(words)
        codes = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8), tf.int32)
        first = tf.equal(codes, 1)  # of two that replace one
        second = tf.concat([tf.zeros_like(first[:1]), first[:-1]], axis=0)
        codes = tf.where(first, tf.concat([codes[1:], codes[:1]], axis=0) - 2, codes)
        place = tf.where(~second)[:, 0]
        owner = owners(sizes)
        ids, begins = self._merge(
            tf.gather(self._byte_ids, tf.gather(codes, place)),
            tf.cast(place, tf.int32),
            tf.gather(owner, place),
        )
        ends = tf.concat([[0], tf.cumsum(tf.strings.length(texts))], axis=0)
        return ids, tf.cast(tf.searchsorted(begins, ends), tf.int64)

    def detokenize_pieces(self, ids: Ids) -> tf.Tensor:
        pieces = ids.with_flat_values(tf.gather(self._spelled, ids.flat_values))
        joined = tf.strings.reduce_join(pieces, axis=1)
        return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")

    # ---- files

    def vocabulary_bytes(self) -> bytes:
        special = {self._vocabulary[i] for i in self.special_ids}
        found = self._found.tokens
        content = as_tokenizer_json(self._vocabulary, self._merges, special, found=found)
        return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf8")

    @classmethod
    def from_vocabulary_bytes(cls, content: bytes, config: Config) -> Self:
        return cls(*byte_pairs_of(json_of(content)), **config)


def _check_bytes(vocabulary):
    known = set(vocabulary)
    missing = [byte for byte in ALPHABET if byte not in known]
    if missing:
        raise ValueError(
            "Expected the 256 bytes in the vocabulary, as GPT-2 spells them (a blank is 'Ġ'). "
            f"Missing: {len(missing)}, such as {missing[0]!r}. `CharacterBytePairTokenizer` is for "
            "encodings over characters, where a blank is '▁'. Those with '</w>' are not read."
        )
