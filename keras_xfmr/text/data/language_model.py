"""From text files to batches for language modelling, streaming.

B batch, T block length
"""

import functools

import tensorflow as tf

from keras_xfmr.common.checks import check_int, check_seed
from keras_xfmr.text.checks import check_shuffle_buffer
from keras_xfmr.text.data.blocks import NOTHING, Blocks
from keras_xfmr.text.data.documents import Documents
from keras_xfmr.text.data.streaming import Epochs, rows_where

CHUNK = 128  # parts of documents that are tokenized by one call
PARTS = 8  # of a document, after which it is another one where rows go on
SHUFFLED = 10_000  # blocks


class LanguageModelDataset(Epochs):
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
        batch_size: B.
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
        files,
        tokenizer,
        *,
        block_length,
        batch_size,
        document_ids=False,
        contiguous=False,
        separator="\n",
        shuffle_buffer=None,
        seed=0,
        **reading,
    ):
        super().__init__()
        check_int("block_length", block_length, 1)
        check_int("batch_size", batch_size, 1)
        if shuffle_buffer is None:
            shuffle_buffer = 0 if contiguous else SHUFFLED
        check_shuffle_buffer(shuffle_buffer)
        check_seed(seed)
        if contiguous and shuffle_buffer:
            raise ValueError(
                "`contiguous` rows cannot be shuffled, because they go on in the next batch. "
                f"Received: shuffle_buffer={shuffle_buffer}. Shuffle the documents of the files."
            )
        if not isinstance(separator, str):
            raise ValueError(f"`separator` must be a string. Received: {separator!r}.")
        if "sentence_split" in reading:
            raise ValueError(
                "Expected no `sentence_split`: texts are not cut into sentences. Received: "
                f"{reading['sentence_split']!r}."
            )
        self._documents = Documents(files, sentence_split=False, halve=False, **reading)
        self._tokenizer, self._separator = tokenizer, separator
        self._length, self._batch_size = block_length, batch_size
        self._document_ids, self._contiguous = document_ids, contiguous
        self._shuffle_buffer, self._seed = shuffle_buffer, seed
        ids = {"start_id": tokenizer.start_id, "end_id": tokenizer.end_id}
        self._blocks = Blocks(batch_size if contiguous else 1, block_length, **ids)
        with tf.device("CPU"):
            self._empty = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._bytes = tf.Variable(0, dtype=tf.int64, trainable=False)

    # ---- what a run knows about its data

    @property
    def skipped(self):
        """What the last iteration left out: blank, heading and bad lines, parts of documents
        without a token."""
        return {**self._documents.skipped, "empty": int(self._empty.numpy())}

    @property
    def bytes(self):
        """Bytes of the texts that the last iteration read, for a loss per byte of them."""
        return int(self._bytes.numpy())

    # ---- the pipeline

    def dataset(self):
        """The `tf.data.Dataset`; each iteration is the next epoch, or the one that `seek` named."""
        return self._each_epoch(self._epoch, self._reset)

    def _reset(self):
        self._documents.reset()
        self._empty.assign(0)
        self._bytes.assign(0)

    def _epoch(self, place):
        # `skip` of an output of `tf.unstack` ends the process in TensorFlow 2.21.
        batches = self._batches(place[0]).skip(place[1])
        return batches.map(self._fill, num_parallel_calls=tf.data.AUTOTUNE)

    @functools.cached_property
    def _batches(self):
        """An epoch -> its batches; one graph, for it takes long to make."""
        signature = [tf.TensorSpec([], tf.int64)]
        make = tf.function(self._make_batches, input_signature=signature, autograph=False)
        return make.get_concrete_function()

    def _make_batches(self, epoch):
        """The windows of an epoch, `[B, T + 1]`; the last batch may be smaller."""
        chunks = self._documents.parts().ragged_batch(CHUNK)
        state = (tf.constant(-1, tf.int64), tf.constant(0, tf.int64))
        chunks = chunks.scan(state, self._mark)
        chunks = chunks.map(self._tokenize, num_parallel_calls=tf.data.AUTOTUNE)
        windows = self._blocks.windows(chunks)
        if self._contiguous:
            return windows
        windows = windows.map(lambda window: window[0])
        if self._shuffle_buffer:
            # Local to this data set's graph: otherwise a global seed would enter the order.
            tf.random.set_seed(1)
            seed = tf.random.fold_in(tf.constant([self._seed, 0], tf.int64), epoch)
            seed = tf.random.split(seed, 1)[0, 0]  # not its first half, the same in each epoch
            windows = windows.shuffle(self._shuffle_buffer, seed, reshuffle_each_iteration=False)
        return windows.batch(self._batch_size)

    def _mark(self, state, chunk):
        """Adds which parts begin a document; the state is the last part's document, and its number
        in it."""
        (last, number), (segments, document) = state, chunk
        place = tf.range(tf.size(document, tf.int64))
        before = tf.concat([[last], document[:-1]], axis=0)
        first = tf.not_equal(document, before)
        run = tf.cumsum(tf.cast(first, tf.int32))
        # Where the run that a part is in begins: before this chunk for the first, if it goes on.
        begins = tf.concat([[-number - 1], tf.where(first)[:, 0]], axis=0)
        numbers = place - tf.gather(begins, run)
        state = [
            tf.concat([[old], new], axis=0)[-1]
            for old, new in ((last, document), (number, numbers))
        ]
        if self._contiguous:  # as if they were several
            document = document * 2**31 + numbers // PARTS
        return tuple(state), (segments, document, first)

    def _tokenize(self, segments, document, first):
        """The texts of parts of documents to tokens, as `Blocks.windows` takes them."""
        texts = tf.strings.reduce_join(segments, axis=1, separator=self._separator)
        texts = tf.where(first, "", self._separator) + texts
        self._bytes.assign_add(tf.reduce_sum(tf.cast(tf.strings.length(texts), tf.int64)))
        tokens = self._tokenizer.tokenize(texts)
        counts = tf.cast(tokens.row_lengths(), tf.int64)
        self._empty.assign_add(tf.reduce_sum(tf.cast(tf.equal(counts, 0), tf.int64)))
        return tokens.values, *rows_where(counts > 0, counts, document)

    def _fill(self, windows):
        """Windows `[b, T + 1]` to a batch of its full size, as Keras takes it."""
        missing = self._batch_size - tf.shape(windows)[0]
        windows = tf.pad(windows, [[0, missing], [0, 0]], constant_values=NOTHING)
        windows = tf.ensure_shape(windows, [self._batch_size, self._length + 1])
        ids, labels = windows[:, :-1], windows[:, 1:]
        inside = labels >= 0
        self._rows.assign_add(tf.reduce_sum(tf.cast(tf.reduce_any(inside, axis=1), tf.int64)))
        start, end = self._tokenizer.start_id, self._tokenizer.end_id
        if start != end:
            labels = tf.where(tf.equal(ids, end) & tf.equal(labels, start), NOTHING, labels)
        inputs = {"token_ids": tf.where(inside, ids, self._tokenizer.pad_id)}
        if self._document_ids:
            begins = tf.cast(tf.equal(ids, start), tf.int32)
            numbers = tf.cumsum(begins, axis=1) + 1 - begins[:, :1]
            inputs["document_ids"] = tf.where(inside, numbers, 0)
        return inputs, labels
