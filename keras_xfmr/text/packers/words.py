"""Words to the inputs of ELMo: characters or ids, and attention mask.

B batch, T words of a row, W words, C characters of a word, R windows
"""

import tensorflow as tf

from keras_xfmr.common.checks import check_choice, check_int
from keras_xfmr.common.types import Tensor, Texts
from keras_xfmr.text.characters import LEAST, words_to_characters
from keras_xfmr.text.checks import check_strings
from keras_xfmr.text.packers.widths import check_multiple, rounded_up
from keras_xfmr.text.packers.windows import check_stride, cut_windows, windows_of_words
from keras_xfmr.text.ragged import owners, sizes_of_words, take_first
from keras_xfmr.text.tokenizers.words import WordTokenizer
from keras_xfmr.text.words import SPLITS, cut_words


class WordPacker(tf.Module):
    """Packs texts or words into the inputs of `models.Elmo` (Peters et al. 2018), in graph.

        words            my   dog  barks  (padding)
        character_ids  [C]   [C]    [C]    zeros       from `words_to_characters`
        attention_mask   1    1      1     0

    Rows have no sentence markers: the model adds them. A row is cut after `max_words` words. A row
    without words has only padding; T is at least 1.

    Args:
        max_words: words of the longest row, at least 1; also the attribute `max_length`.
        max_characters: C, at least 3, the same as in the model.
        tokenizer: None for characters, or a `WordTokenizer` for a model with a vocabulary; rows
            then have `token_ids` instead of `character_ids`.
        split: how texts are split into words: `"bert"`, at white space, with each punctuation
            character and CJK ideograph as a word; `"whitespace"`; `"characters"`, each character
            except white space. By default the tokenizer's, or `"bert"`. If the corpus of the
            vocabulary was already split at punctuation, `"bert"` does the same to raw texts.
        report_truncation: whether to also return `truncated`: which rows were cut.
        pad_to_max_length: whether every batch has the length `max_words` (a static shape: one
            compilation). Otherwise its longest row decides.
        pad_to_multiple_of: None, or a divisor of `max_words`: the length of a batch is rounded up
            to a multiple of it. A GPU computes half precision faster in multiples of 8, and a
            compiled step has fewer shapes.

    Raises:
        ValueError: sizes that are too small or not multiples, a tokenizer of another class, or an
            unknown `split`.

    Example:

    >>> packer = WordPacker(max_words=64, max_characters=5)
    >>> packed = packer(tf.constant(["my dog"]))
    >>> packed["character_ids"].numpy().tolist()
    [[[259, 110, 122, 260, 261], [259, 101, 112, 104, 260]]]
    """

    def __init__(
        self,
        max_words: int,
        *,
        max_characters: int = 50,
        tokenizer: WordTokenizer | None = None,
        split: str | None = None,
        report_truncation: bool = False,
        pad_to_max_length: bool = False,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        super().__init__()
        check_int("max_words", max_words, 1)
        self.pad_to_multiple_of = check_multiple(pad_to_multiple_of, "max_words", max_words)
        check_int("max_characters", max_characters, LEAST)
        if tokenizer is not None and not hasattr(tokenizer, "words_to_ids"):
            raise ValueError(
                "Expected a `WordTokenizer`, which has one id for each word, or None for "
                f"characters. Received: {type(tokenizer).__name__}."
            )
        self.max_length = max_words
        self.max_characters = max_characters
        self.tokenizer = tokenizer
        known = None if tokenizer is None else tokenizer.split
        self.split = check_choice("split", split or known or "bert", SPLITS)
        self.report_truncation = report_truncation
        self.pad_to_max_length = pad_to_max_length

    @tf.autograph.experimental.do_not_convert
    def __call__(self, texts: Texts) -> dict[str, Tensor]:
        """Packs texts.

        Args:
            texts: strings `[B]`.

        Returns:
            A dictionary of int32: `character_ids` `[B, T, C]`, or `token_ids` `[B, T]` with a
            tokenizer; `attention_mask` `[B, T]`, 1 = a word, 0 = padding; with `report_truncation`
            `truncated`, bool `[B]`.
        """
        words, _, _ = self.split_words(texts)
        return self._pack(words)

    def split_words(self, texts: Texts) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Splits raw texts into words as `split` says, with their positions.

        Args:
            texts: strings `[B]`.

        Returns:
            The words in their original spelling, ragged strings `[B, (W)]`; their starts and ends,
            ragged int32 `[B, (W)]`, in Unicode characters of the text, the end exclusive.

        Example:

        >>> words, starts, ends = WordPacker(max_words=64).split_words(tf.constant(["Ann runs!"]))
        >>> words.to_list(), starts.to_list(), ends.to_list()
        ([[b'Ann', b'runs', b'!']], [[0, 4, 8]], [[3, 8, 9]])
        """
        return cut_words(check_strings(texts, "texts", rank=1), self.split)

    @tf.autograph.experimental.do_not_convert
    def pack_words(self, words: Texts) -> dict[str, Tensor]:
        """Packs sentences that are split into words, each of which has a label.

        Args:
            words: strings, ragged `[B, (W)]`, or dense `[B, W]` with empty strings as padding at
                the ends of rows.

        Returns:
            The outputs of `__call__`, and `word_positions`, int32 `[B, W]`, for
            `spread_word_labels`: w for word w; -1 if it was cut off; -2 after the last word.

        Example:

        >>> packed = WordPacker(max_words=2).pack_words(tf.ragged.constant([["Ann", "runs", "!"]]))
        >>> packed["word_positions"].numpy().tolist()
        [[0, 1, -1]]
        """
        words = check_strings(words, "words", rank=2)
        if isinstance(words, tf.RaggedTensor):
            columns = tf.cast(words.bounding_shape(axis=1), tf.int32)
            counts = words.row_lengths()
        else:
            columns, counts = tf.shape(words)[1], sizes_of_words(words)
            words = tf.RaggedTensor.from_tensor(words, lengths=counts)
        packed = self._pack(words)
        place = tf.range(columns)
        positions = tf.where(place < self.max_length, place, -1)
        packed["word_positions"] = tf.where(tf.sequence_mask(counts, columns), positions, -2)
        return packed

    @tf.autograph.experimental.do_not_convert
    def pack_word_windows(self, words: Texts, stride: int | None = None) -> dict[str, Tensor]:
        """Packs words of texts of any length, in overlapping windows of `max_words` words.

        A word belongs to the window with the most context on both sides of it, to the first window
        if two are equal.

        Args:
            words: ragged strings `[B, (W)]`, as from `split_words`.
            stride: words between the beginnings of two windows, at most `max_words`; by default
                half of that.

        Returns:
            A dictionary of `character_ids` `[R, T, C]`, or `token_ids` `[R, T]`, and
            `attention_mask` `[R, T]`, R >= B, the windows of one text after the other;
            `word_windows` and `word_positions`, ragged int32 `[B, (W)]`, the window of each word
            and its position in that window.

        Raises:
            ValueError: a `stride` that would leave out words.

        Example:

        >>> packer = WordPacker(max_words=2)
        >>> packed = packer.pack_word_windows(tf.ragged.constant([["Ann", "runs", "far"]]))
        >>> packed["attention_mask"].numpy().tolist()
        [[1, 1], [1, 1]]
        >>> packed["word_windows"].to_list(), packed["word_positions"].to_list()
        ([[0, 0, 1]], [[0, 1, 1]])
        """
        stride = check_stride(stride, self.max_length)
        windows = cut_windows(words, self.max_length, stride)
        row = owners(words.row_lengths())
        place = tf.range(tf.size(row, tf.int64)) - tf.gather(words.row_starts(), row)
        window, position = windows_of_words(windows, row, place, self.max_length, stride)
        packed = self._pack(windows.ids)
        packed.pop("truncated", None)
        return packed | {
            name: words.with_values(tf.cast(values, tf.int32))
            for name, values in (("word_windows", window), ("word_positions", position))
        }

    def _pack(self, words):
        """The inputs of ragged words `[B, (W)]`."""
        counts = words.row_lengths()
        kept = tf.minimum(counts, self.max_length)
        words = take_first(words, kept)
        width = self.max_length
        if not self.pad_to_max_length:
            # A batch without words has a width too, so that a model finds a first position in it.
            width = tf.maximum(tf.reduce_max(tf.cast(kept, tf.int32)), 1)
            width = rounded_up(width, self.pad_to_multiple_of)
        mask = tf.sequence_mask(kept, width, tf.int32)
        if self.tokenizer is None:
            ids = words_to_characters(words, max_characters=self.max_characters)
            name, padding, inner = "character_ids", 0, [self.max_characters]
        else:
            name, padding, inner = "token_ids", self.tokenizer.pad_id, []
            ids = self.tokenizer.words_to_ids(words).to_tensor(padding)
        paddings = [[0, 0], [0, width - tf.shape(ids)[1]], *([0, 0] for _ in inner)]
        ids = tf.pad(ids, paddings, constant_values=padding)
        static = self.max_length if self.pad_to_max_length else None
        packed = {
            name: tf.ensure_shape(ids, [None, static, *inner]),
            "attention_mask": tf.ensure_shape(mask, [None, static]),
        }
        if self.report_truncation:
            packed["truncated"] = kept < counts
        return packed
