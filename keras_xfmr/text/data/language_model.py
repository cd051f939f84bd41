"""From text files to batches for language modelling, streaming.

B batch, T block length
"""

import tensorflow as tf

from keras_xfmr.common.types import Files
from keras_xfmr.text.data.block_dataset import BlockDataset
from keras_xfmr.text.data.blocks import NOTHING
from keras_xfmr.text.tokenizers.base import Tokenizer

PARTS = 8  # of a document, after which it is another one where rows go on


class LanguageModelDataset(BlockDataset):
    """A `tf.data` pipeline from text files to batches for predicting the next token.

    Documents -> tokens -> one stream, start, document, end, start, document, end, ... -> blocks of
    T tokens -> shuffle -> batches of static shapes, prefetched. Where the start and the end token
    are one, as in GPT-2, that stands once between two documents. Everything is a function of
    `(seed, epoch)` alone. Memory does not grow with the files.

    An element is `(inputs, labels)`, int32:

    - inputs: `token_ids` `[B, T]`; with `document_ids=True` also `document_ids` `[B, T]`, 1, 2, ...
      inside a row and 0 for padding. A document begins with its start token;
    - labels `[B, T]`: the token after each one, for the last the first of the next block, and -1
      where there is nothing to predict: padding, and the start token after an end token.

    In an epoch each token of the documents, and each end token, is a label once. The last block is
    filled with `pad_id`, and the last batch with rows of it.

    With `contiguous=True`, for models that keep a state, row r of a batch goes on in row r of the
    next. Each document goes to the row that has the fewest tokens waiting, and the order is that of
    the files. Rows that end before others are filled. A document of more than 256 KiB is divided
    into several.

    A document's text is its lines, without white space at their ends, joined by `separator`; blank
    lines and headings are left out.

    Args:
        files: text files, as `Documents` reads them.
        tokenizer: a `keras_xfmr.text.Tokenizer`.
        block_length: T.
        batch_size: B, the rows of all workers together.
        document_ids: whether there are `document_ids`.
        contiguous: whether rows go on in the next batch.
        separator: what stands between the lines of a document. A vocabulary of characters has
            seldom a line feed; there, `" "`.
        shuffle_buffer: blocks to shuffle among, at most 10^8; 0 keeps the order of the files. None
            for 10,000, and 0 where `contiguous`.
        seed: an integer in 0 .. 2^31 - 1.
        **reading: `heading`, `line_documents`, `on_bad_line`, as `Documents` takes them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: arguments that do not fit, files that `Documents` refuses.
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
