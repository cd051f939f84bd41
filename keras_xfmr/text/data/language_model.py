"""Text files to batches for language modelling, streaming.

B batch, T block length
"""

import tensorflow as tf

from keras_xfmr.common.types import Files
from keras_xfmr.text.data.block_dataset import BlockDataset
from keras_xfmr.text.data.blocks import NOTHING
from keras_xfmr.text.tokenizers.base import Tokenizer

PARTS = 8  # parts after which a new document begins, if rows continue in the next batch


class LanguageModelDataset(BlockDataset):
    """A `tf.data` pipeline from text files to batches for predicting the next token.

    Documents -> tokens -> one stream, start, document, end, start, document, end, ... -> blocks of
    T tokens -> shuffle -> batches of static shapes, prefetched. If the start and the end token are
    one, as in GPT-2, it occurs once between two documents. Everything is a function of
    `(seed, epoch)` alone. Memory does not grow with the files.

    An element is `(inputs, labels)`, int32:

    - inputs: `token_ids` `[B, T]`; with `document_ids=True` also `document_ids` `[B, T]`, 1, 2, ...
      inside a row and 0 for padding. A document begins with its start token;
    - labels `[B, T]`: the next token, for the last token of a block the first of the next block; -1
      for padding, and for the start token after an end token.

    In an epoch each token of the documents, and each end token, is a label once. The last block is
    filled with `pad_id`, and the last batch with rows of `pad_id`.

    With `contiguous=True`, for models that keep a state, row r of a batch continues in row r of the
    next. Each document goes to the row with the fewest waiting tokens, in the order of the files.
    Rows that end before others are filled with padding. A document of more than 256 KiB is split
    into several.

    The text of a document is its lines, without white space at their ends, joined by `separator`;
    blank lines and headings are left out.

    Args:
        files: text files, as `Documents` reads them.
        tokenizer: a `keras_xfmr.text.Tokenizer`.
        block_length: T.
        batch_size: B, the rows of all workers together.
        document_ids: whether inputs have `document_ids`.
        contiguous: whether rows continue in the next batch.
        separator: text between the lines of a document. Use `" "` for a vocabulary of characters,
            which rarely has a line feed.
        shuffle_buffer: number of blocks in the shuffle buffer, at most 10^8; 0 keeps the order of
            the files. None means 10,000, and 0 if `contiguous`.
        seed: an integer in 0 .. 2^31 - 1.
        **reading: `heading`, `line_documents`, `on_bad_line`, as in `Documents`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: invalid arguments, files that `Documents` refuses.
        tf.errors.InvalidArgumentError: from the iterator, a line that is bad.

    Example::

        data = LanguageModelDataset("corpus.txt", tokenizer, block_length=256, batch_size=32)
        data.count()  # every epoch has this number of batches
        model.fit(data.dataset(), epochs=10, shuffle=False)
    """

    def __init__(
        self,
        files: Files,
        tokenizer: Tokenizer,
        *,
        block_length: int,
        batch_size: int,
        document_ids: bool = False,
        contiguous: bool = False,
        separator: str = "\n",
        shuffle_buffer: int | None = None,
        seed: int = 0,
        **reading,
    ) -> None:
        if not isinstance(separator, str):
            raise ValueError(f"`separator` must be a string. Received: {separator!r}.")
        if "sentence_split" in reading:
            raise ValueError(
                "Expected no `sentence_split`: texts are not cut into sentences. Received: "
                f"{reading['sentence_split']!r}."
            )
        super().__init__(
            files,
            tokenizer.start_id,
            tokenizer.end_id,
            block_length=block_length,
            batch_size=batch_size,
            contiguous=contiguous,
            shuffle_buffer=shuffle_buffer,
            seed=seed,
            separator=separator,
            parts=PARTS if contiguous else None,
            **reading,
        )
        self._tokenizer, self._document_ids = tokenizer, document_ids

    def _tokens(self, texts):
        return self._tokenizer.tokenize(texts)

    def _fill(self, windows, shard):
        windows = self._full(windows, shard)
        ids, labels = windows[:, :-1], windows[:, 1:]
        inside = labels >= 0
        start, end = self._tokenizer.start_id, self._tokenizer.end_id
        if start != end:
            labels = tf.where(tf.equal(ids, end) & tf.equal(labels, start), NOTHING, labels)
        inputs = {"token_ids": tf.where(inside, ids, self._tokenizer.pad_id)}
        if self._document_ids:
            begins = tf.cast(tf.equal(ids, start), tf.int32)
            numbers = tf.cumsum(begins, axis=1) + 1 - begins[:, :1]
            inputs["document_ids"] = tf.where(inside, numbers, 0)
        return inputs, labels
