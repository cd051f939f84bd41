"""Sentences and words to the three inputs of BERT: ids, segments and attention mask.

B batch, T length, W words, P masks, M ids of a row without special tokens
"""

import tensorflow as tf

from keras_xfmr.common.checks import check_choice, check_int
from keras_xfmr.common.types import Ids, Index, Tensor, Texts
from keras_xfmr.text.checks import check_strings
from keras_xfmr.text.packers.widths import check_multiple, rounded_up
from keras_xfmr.text.packers.windows import check_stride, cut_windows, windows_of_words
from keras_xfmr.text.ragged import join, merge, owners, take_first
from keras_xfmr.text.tokenizers.base import Tokenizer
from keras_xfmr.text.tokenizers.bert import BERT_TOKENS
from keras_xfmr.text.words import SPLITS, cut_words

MASK = BERT_TOKENS["mask_id"]
INPUTS = ("token_ids", "segment_ids", "attention_mask")  # the inputs of a model in a packed row


class SentencePacker(tf.Module):
    """Packs one or two sentences into the inputs of BERT (Devlin et al. 2019), in graph.

        token_ids       [CLS] my dog [SEP] he barks [SEP] [PAD]
        segment_ids       0   0  0     0   1   1      1     0
        attention_mask    1   1  1     1   1   1      1     0

    Rows that are too long are cut like in BERT's `truncate_seq_pair`: ids are removed one by one
    from the end of the longer sentence, from the second if both are equally long. With
    M = max_length - 3 the sentences of length a and b keep

        a' = min(a, max(M - b, ceil(M / 2)))    b' = min(b, M - a')

    Args:
        tokenizer: a `Tokenizer`; its start token is `[CLS]`, its end token `[SEP]`.
        max_length: ids of the longest row, special tokens included; at least 3. By default
            `tokenizer.max_length`, from a published folder.
        pad_to_max_length: whether every batch has the length `max_length` (a static shape: one
            compilation). Otherwise its longest row decides.
        pad_to_multiple_of: None, or a divisor of `max_length`: the length of a batch is rounded up
            to a multiple of it. A GPU computes half precision faster in multiples of 8, and a
            compiled step has fewer shapes.
        type_vocab_size: number of segment types of the model; with 1, both sentences have
            segment 0.
        report_truncation: whether to also return `truncated`: which rows were cut.
        split: how `split_words` splits a text into the words that a tagger labels: `"bert"`, the
            default, at white space, with each punctuation character (and each ideograph, if the
            tokenizer does so) as a word; `"whitespace"`; `"characters"`, each character except
            white space. A service of the model splits texts in the same way, so label the same
            words in training.

    Raises:
        ValueError: `max_length` is too small, unknown, or not a multiple of `pad_to_multiple_of`;
            `split` is unknown.

    Example:

    >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "my", "dog", "he", "barks"]
    >>> packer = SentencePacker(keras_xfmr.text.BertTokenizer(words), max_length=128)
    >>> packer(tf.constant(["my dog"]), tf.constant(["he barks"]))["token_ids"].numpy().tolist()
    [[2, 5, 6, 3, 7, 8, 3]]
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int | None = None,
        *,
        pad_to_max_length: bool = False,
        pad_to_multiple_of: int | None = None,
        type_vocab_size: int = 2,
        report_truncation: bool = False,
        split: str = "bert",
    ) -> None:
        super().__init__()
        max_length = tokenizer.max_length if max_length is None else max_length
        if max_length is None:
            raise ValueError(
                "`max_length` must be given: the tokenizer was not read from a folder that says "
                "how long rows may be. Received: None."
            )
        check_int("max_length", max_length, 3)  # [CLS] and two [SEP]
        self.pad_to_multiple_of = check_multiple(pad_to_multiple_of, "max_length", max_length)
        self.type_vocab_size = check_int("type_vocab_size", type_vocab_size, 1)
        check_choice("split", split, SPLITS)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pad_to_max_length = pad_to_max_length
        self.report_truncation = report_truncation
        self.split = split

    @tf.autograph.experimental.do_not_convert
    def __call__(self, first: Texts, second: Texts | None = None) -> dict[str, Tensor]:
        """Packs sentences.

        Args:
            first: strings `[B]`.
            second: None, or strings `[B]`.

        Returns:
            A dictionary of `token_ids`, `segment_ids` and `attention_mask`, int32 `[B, T]`, and
            with `report_truncation` `truncated`, bool `[B]`.
        """
        first = self.tokenizer.tokenize(check_strings(first, "first", rank=1))
        if second is not None:
            second = self.tokenizer.tokenize(check_strings(second, "second", rank=1))
        return self.pack_ids(first, second)

    @tf.autograph.experimental.do_not_convert
    def pack_ids(self, first: Ids, second: Ids | None = None) -> dict[str, tf.Tensor]:
        """Packs the ids of sentences.

        Args:
            first: ragged ids `[B, (T)]`, as from `Tokenizer.tokenize`.
            second: None, or ragged ids with the same number of rows.

        Returns:
            The outputs of `__call__`.
        """
        if second is None:
            return self._pack_one(first)
        tf.debugging.assert_equal(
            first.nrows(), second.nrows(), "`first` and `second` must have the same number of rows."
        )
        room = tf.cast(self.max_length - 3, tf.int64)
        lengths = first.row_lengths(), second.row_lengths()
        keep = tf.minimum(lengths[0], tf.maximum(room - lengths[1], (room + 1) // 2))
        keep_second = tf.minimum(lengths[1], room - keep)
        truncated = tf.logical_or(keep < lengths[0], keep_second < lengths[1])
        rows = [take_first(first, keep), take_first(second, keep_second)]
        return self._inputs(rows, keep + 2, truncated)

    def split_words(self, texts: Texts) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Splits raw texts into words as `split` says, with their positions.

        Args:
            texts: strings `[B]`.

        Returns:
            The words in their original spelling, ragged strings `[B, (W)]`; their starts and ends,
            ragged int32 `[B, (W)]`, in Unicode characters of the text, the end exclusive.

        Example:

        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ann", "runs", "!"]
        >>> packer = SentencePacker(keras_xfmr.text.BertTokenizer(words), max_length=128)
        >>> words, starts, ends = packer.split_words(tf.constant(["Ann runs!"]))
        >>> words.to_list(), starts.to_list(), ends.to_list()
        ([[b'Ann', b'runs', b'!']], [[0, 4, 8]], [[3, 8, 9]])
        """
        texts = check_strings(texts, "texts", rank=1)
        split_cjk = getattr(self.tokenizer, "split_cjk", True)
        return cut_words(texts, self.split, split_cjk=split_cjk)

    @tf.autograph.experimental.do_not_convert
    def pack_words(self, words: Texts) -> dict[str, Tensor]:
        """Packs sentences that are split into words, each of which has a label.

        Args:
            words: strings, ragged `[B, (W)]`, or dense `[B, W]` with empty strings as padding.

        Returns:
            The outputs of `__call__`, and `word_positions`, int32 `[B, W]`: the position of the
            first piece of each word in the row; -1 if the word was cut off or the tokenizer has no
            piece for it; -2 after the last word of a ragged row.

        Example:

        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Ann", "un", "##aff", "runs"]
        >>> packer = SentencePacker(keras_xfmr.text.BertTokenizer(words), max_length=128)
        >>> packed = packer.pack_words(tf.ragged.constant([["unaff", "Ann"], ["runs"]]))
        >>> packed["word_positions"].numpy().tolist()
        [[1, 3], [1, -2]]
        """
        words = check_strings(words, "words", rank=2)
        if not isinstance(words, tf.RaggedTensor):
            words = tf.RaggedTensor.from_tensor(words)
        pieces = self.tokenizer.tokenize(words.values)
        packed = self._pack_one(merge(words, pieces))
        counts = words.with_values(tf.cast(pieces.row_lengths(), tf.int32)).to_tensor(0)
        positions = 1 + tf.cumsum(counts, axis=1, exclusive=True)
        found = tf.logical_and(counts > 0, positions <= self.max_length - 2)
        is_word = tf.sequence_mask(words.row_lengths(), tf.shape(counts)[1])
        packed["word_positions"] = tf.where(found, positions, tf.where(is_word, -1, -2))
        return packed

    @tf.autograph.experimental.do_not_convert
    def pack_word_windows(self, words: Texts, stride: int | None = None) -> dict[str, Tensor]:
        """Packs words of texts of any length, in overlapping windows.

        A word belongs to the window with the most context on both sides of it, to the first window
        if two are equal.

        Args:
            words: ragged strings `[B, (W)]`, as from `split_words`.
            stride: pieces between the beginnings of two windows, at most max_length - 2; by
                default half of that.

        Returns:
            A dictionary of `token_ids`, `segment_ids` and `attention_mask`, int32 `[R, T]`, R >= B,
            the windows of one text after the other; `word_windows` and `word_positions`, ragged
            int32 `[B, (W)]`, the window of each word and the position of its first piece in that
            window; -1 for both if the tokenizer has no piece for the word.

        Raises:
            ValueError: a `stride` that would leave out pieces.

        Example:

        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ann", "runs", "far"]
        >>> packer = SentencePacker(keras_xfmr.text.BertTokenizer(words), max_length=4)
        >>> packed = packer.pack_word_windows(tf.ragged.constant([["ann", "runs", "far"]]))
        >>> packed["token_ids"].numpy().tolist()
        [[2, 5, 6, 3], [2, 6, 7, 3]]
        >>> packed["word_windows"].to_list(), packed["word_positions"].to_list()
        ([[0, 0, 1]], [[1, 2, 2]])
        """
        room = self.max_length - 2
        stride = check_stride(stride, room)
        pieces = self.tokenizer.tokenize(words.values)
        ids = merge(words, pieces)
        windows = cut_windows(ids, room, stride)
        row = owners(words.row_lengths())
        place = pieces.row_starts() - tf.gather(ids.row_starts(), row)  # of first pieces
        window, position = windows_of_words(windows, row, place, room, stride)
        found = pieces.row_lengths() > 0
        packed = self._inputs([windows.ids], windows.ids.row_lengths() + 2, None)
        return {name: packed[name] for name in INPUTS} | {
            name: words.with_values(tf.where(found, tf.cast(values, tf.int32), -1))
            for name, values in (("word_windows", window), ("word_positions", 1 + position))
        }

    @tf.autograph.experimental.do_not_convert
    def pack_masked(self, texts: Texts) -> dict[str, Tensor]:
        """Packs texts in which each `[MASK]` is a piece that a `BertPretrainer` predicts.

        Other methods read a literal `[MASK]` as ordinary text. The text between two masks is
        tokenized separately.

        Args:
            texts: strings `[B]`.

        Returns:
            The outputs of `__call__`, and `masked_positions`, int32 `[B, P]`: the positions of the
            masks in the row, rising, then 0, the position of `[CLS]`. P is at least 1; a mask that
            was cut off has no position.

        Raises:
            ValueError: the tokenizer has no mask token.

        Example:

        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "my", "dog", "barks"]
        >>> packer = SentencePacker(keras_xfmr.text.BertTokenizer(words), max_length=128)
        >>> packed = packer.pack_masked(tf.constant(["my [MASK] barks"]))
        >>> packed["token_ids"].numpy().tolist(), packed["masked_positions"].numpy().tolist()
        ([[2, 5, 4, 7, 3]], [[2]])
        """
        mask_id = self.tokenizer.mask_id
        if mask_id is None:
            raise ValueError(
                "Expected a tokenizer whose vocabulary has a mask token. Received: "
                f"{type(self.tokenizer).__name__} with mask_id=None."
            )
        parts = tf.strings.split(check_strings(texts, "texts", rank=1), MASK)
        pieces = self.tokenizer.tokenize(parts.values)
        pieces = join(pieces, tf.fill([pieces.nrows()], mask_id))
        ids = merge(parts, pieces)
        packed = self._pack_one(take_first(ids, ids.row_lengths() - 1))  # no mask at the end
        masked = tf.equal(packed["token_ids"], mask_id)
        length = tf.shape(masked)[1]
        most = tf.reduce_max(tf.math.count_nonzero(masked, axis=1, dtype=tf.int32))
        places = tf.sort(tf.where(masked, tf.range(length), length))[:, : tf.maximum(most, 1)]
        packed["masked_positions"] = tf.where(places < length, places, 0)
        return packed

    def _pack_one(self, ids):
        keep = tf.minimum(ids.row_lengths(), self.max_length - 2)
        return self._inputs([take_first(ids, keep)], keep + 2, keep < ids.row_lengths())

    def _inputs(self, rows, first_length, truncated):
        """The inputs from the ids of one or two sentences; `first_length` is the length of the
        first segment, `[CLS]` and `[SEP]` included."""
        start, end = (
            tf.fill([rows[0].nrows()], token)
            for token in (self.tokenizer.start_id, self.tokenizer.end_id)
        )
        ids = join(start, *(part for row in rows for part in (row, end)))
        width = self.max_length if self.pad_to_max_length else None
        token_ids = ids.to_tensor(self.tokenizer.pad_id, shape=[None, width])
        # A batch without rows has a width too, so that a model finds a first position in it.
        length = tf.maximum(tf.shape(token_ids)[1], 1 + len(rows))
        length = rounded_up(length, self.pad_to_multiple_of)
        further = [[0, 0], [0, length - tf.shape(token_ids)[1]]]
        token_ids = tf.pad(token_ids, further, constant_values=self.tokenizer.pad_id)
        mask = tf.sequence_mask(ids.row_lengths(), length, tf.int32)
        segments = mask - tf.sequence_mask(first_length, length, tf.int32)
        if self.type_vocab_size == 1:
            segments = tf.zeros_like(mask)
        packed = {"token_ids": token_ids, "segment_ids": segments, "attention_mask": mask}
        packed = {name: tf.ensure_shape(value, [None, width]) for name, value in packed.items()}
        if self.report_truncation:
            packed["truncated"] = truncated
        return packed


@tf.autograph.experimental.do_not_convert
def spread_word_labels(
    labels: Ids, word_positions: Tensor, length: Index, *, ignore_id: int
) -> tf.Tensor:
    """Labels of words to labels of pieces: the first piece of a word gets its label.

    Args:
        labels: integers, ragged `[B, (W)]` or dense `[B, W]`, one for each word.
        word_positions: int32 `[B, W]` from `SentencePacker.pack_words`.
        length: T of the packed rows.
        ignore_id: label of all other positions, which the loss leaves out.

    Returns:
        int32 `[B, T]`.

    Raises:
        tf.errors.InvalidArgumentError: the numbers of labels and words differ.

    Example:

    >>> spread_word_labels([[5, 7]], [[1, 3]], 6, ignore_id=-1).numpy().tolist()
    [[-1, 5, -1, 7, -1, -1]]
    """
    word_positions = tf.convert_to_tensor(word_positions)
    counts = None
    if isinstance(labels, tf.RaggedTensor):
        counts, labels = labels.row_lengths(), labels.to_tensor(ignore_id)
    labels = tf.cast(labels, tf.int32)
    message = "Expected a label for each word."
    tf.debugging.assert_equal(tf.shape(labels), tf.shape(word_positions), message)
    if counts is not None:
        labelled = tf.sequence_mask(counts, tf.shape(labels)[1])
        right = tf.where(labelled, word_positions > -2, word_positions < 0)
        tf.debugging.Assert(tf.reduce_all(right), [message])
    kept = tf.where(word_positions >= 0)  # [kept words, 2]: row and word
    rows = tf.cast(kept[:, 0], tf.int32)
    places = tf.stack([rows, tf.gather_nd(word_positions, kept)], axis=1)
    empty = tf.fill([tf.shape(labels)[0], length], ignore_id)
    return tf.tensor_scatter_nd_update(empty, places, tf.gather_nd(labels, kept))
