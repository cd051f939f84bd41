"""Text files to batches of blocks, streaming.

B batch, T block length, `...` the axes of a token
"""

from typing import Any

import tensorflow as tf

from keras_xfmr.common.checks import check_int, check_seed
from keras_xfmr.common.types import Files
from keras_xfmr.text.checks import check_shuffle_buffer
from keras_xfmr.text.data.blocks import NOTHING, Blocks
from keras_xfmr.text.data.documents import Documents
from keras_xfmr.text.data.epochs import Epochs
from keras_xfmr.text.data.streaming import rows_where

CHUNK = 128  # parts of documents that are tokenized by one call
SHUFFLED = 10_000  # blocks


class BlockDataset(Epochs):
    """Text files -> documents -> tokens -> `Blocks` -> shuffle -> batches of static shapes.

    A subclass defines `_tokens`, from texts to tokens, and `_fill`, from windows `[b, T + 1, ...]`,
    b at most B, to an element.

    Args:
        files: text files, as in `Documents`.
        start, end: the tokens around a document, as in `Blocks`.
        nothing: the token after the end of a row, as in `Blocks`.
        block_length, batch_size, contiguous, shuffle_buffer, seed: as in `LanguageModelDataset`.
        separator: text between the segments of a document.
        parts: number of parts after which a new document begins; None for no limit.
        **reading: arguments of `Documents`.
    """

    def __init__(
        self,
        files: Files,
        start: Any,
        end: Any,
        *,
        block_length: int,
        batch_size: int,
        contiguous: bool,
        shuffle_buffer: int | None,
        seed: int,
        separator: str,
        nothing: Any = NOTHING,
        parts: int | None = None,
        **reading,
    ) -> None:
        super().__init__(batch_size)
        check_int("block_length", block_length, 1)
        if shuffle_buffer is None:
            shuffle_buffer = 0 if contiguous else SHUFFLED
        check_shuffle_buffer(shuffle_buffer)
        check_seed(seed)
        if contiguous and shuffle_buffer:
            raise ValueError(
                "`contiguous` rows cannot be shuffled, because they continue in the next batch. "
                f"Received: shuffle_buffer={shuffle_buffer}. Shuffle the documents of the files."
            )
        self._documents = Documents(files, sentence_split=False, halve=False, **reading)
        self._separator, self._parts = separator, parts
        self._length = block_length
        self._contiguous, self._shuffle_buffer, self._seed = contiguous, shuffle_buffer, seed
        rows = batch_size if contiguous else 1
        self._nothing = nothing
        self._blocks = Blocks(rows, block_length, start=start, end=end, nothing=nothing)
        with tf.device("CPU"):
            self._empty = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._bytes = tf.Variable(0, dtype=tf.int64, trainable=False)

    def _tokens(self, texts):
        """Strings `[N]` to ragged tokens `[N, (T), ...]`, without start and end."""
        raise NotImplementedError

    # ---- counts

    @property
    def skipped(self) -> dict[str, int]:
        """Counts of what the last iteration left out: blank, heading and bad lines, parts of
        documents without a token."""
        return {**self._documents.skipped, "empty": int(self._empty.numpy())}

    @property
    def bytes(self) -> int:
        """Bytes of the texts that the last iteration read, for a loss per byte."""
        return int(self._bytes.numpy())

    # ---- the pipeline

    def _reset(self):
        self._documents.reset()
        self._empty.assign(0)
        self._bytes.assign(0)

    def _make_batches(self, epoch):
        """The windows of an epoch, `[B, T + 1, ...]`; the last batch may be smaller."""
        chunks = self._documents.parts().ragged_batch(CHUNK)
        state = (tf.constant(-1, tf.int64), tf.constant(0, tf.int64))
        chunks = chunks.scan(state, self._mark)
        chunks = chunks.map(self._tokenize, num_parallel_calls=tf.data.AUTOTUNE)
        windows = self._blocks.windows(chunks)
        if self._contiguous:
            return windows
        windows = windows.map(lambda window: window[0])
        if self._shuffle_buffer:
            # Local to this data set's graph: otherwise a global seed would change the order.
            tf.random.set_seed(1)
            seed = tf.random.fold_in(tf.constant([self._seed, 0], tf.int64), epoch)
            seed = tf.random.split(seed, 1)[0, 0]  # not its first half, the same in each epoch
            windows = windows.shuffle(self._shuffle_buffer, seed, reshuffle_each_iteration=False)
        return windows.batch(self._batch_size)

    def _mark(self, state, chunk):
        """Adds which parts begin a document; the state is the document of the last part, and the
        number of that part in it."""
        (last, number), (segments, document) = state, chunk
        place = tf.range(tf.size(document, tf.int64))
        before = tf.concat([[last], document[:-1]], axis=0)
        first = tf.not_equal(document, before)
        run = tf.cumsum(tf.cast(first, tf.int32))
        # The begin of the run of each part; the first run may have begun before this chunk.
        begins = tf.concat([[-number - 1], tf.where(first)[:, 0]], axis=0)
        numbers = place - tf.gather(begins, run)
        state = [
            tf.concat([[old], new], axis=0)[-1]
            for old, new in ((last, document), (number, numbers))
        ]
        if self._parts is not None:  # a long document becomes several
            document = document * 2**31 + numbers // self._parts
        return tuple(state), (segments, document, first)

    def _tokenize(self, segments, document, first):
        """The texts of parts of documents to tokens, for `Blocks.windows`."""
        texts = tf.strings.reduce_join(segments, axis=1, separator=self._separator)
        texts = tf.where(first, "", self._separator) + texts
        self._bytes.assign_add(tf.reduce_sum(tf.cast(tf.strings.length(texts), tf.int64)))
        tokens = self._tokens(texts)
        counts = tf.cast(tokens.row_lengths(), tf.int64)
        self._empty.assign_add(tf.reduce_sum(tf.cast(tf.equal(counts, 0), tf.int64)))
        return tokens.values, *rows_where(counts > 0, counts, document)

    def _full(self, windows, shard):
        """The shard of windows `[b, T + 1, ...]`, filled up; counts those that are not padding."""
        windows = shard.take(windows, self._nothing)
        windows = tf.ensure_shape(windows, [shard.size, self._length + 1, *windows.shape[2:]])
        # The first token of a row's last block is the last one of the block before.
        begun = tf.reshape(tf.not_equal(windows[:, 1], self._nothing), [shard.size, -1])
        self._rows.assign_add(tf.reduce_sum(tf.cast(begun[:, 0], tf.int64)))
        return windows
