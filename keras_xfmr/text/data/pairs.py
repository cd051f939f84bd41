"""Pairs of sentences from files to padded batches, streaming.

B batch, S source, T target
"""

from collections.abc import Iterable, Sequence
from numbers import Integral

import tensorflow as tf

from keras_xfmr.common.checks import check_seed
from keras_xfmr.common.types import Files
from keras_xfmr.text.checks import check_shuffle_buffer
from keras_xfmr.text.data.epochs import Epochs
from keras_xfmr.text.data.pair_reader import Fault, PairReader
from keras_xfmr.text.data.streaming import rows_where, untuned
from keras_xfmr.text.tokenizers.base import Tokenizer


class PairDataset(Epochs):
    """A `tf.data` pipeline from files of sentence pairs to batches for a `Transformer`.

    Lines -> shuffle -> parse, check and tokenize -> length buckets -> padded batches of static
    shapes, prefetched. Only the shuffle buffer is in memory, so memory does not grow with the
    files. The order is a function of `(seed, epoch)` alone.

    An element is `({"source_ids": [B, S], "target_ids": [B, T]}, labels [B, T])`: the source ends
    with the end token; target ids begin with the start token, labels end with the end token. Every
    batch of a bucket has the same shape; the last one is filled with rows of padding, which
    `MaskedCrossEntropy` leaves out. In the `loss` of an epoch Keras gives all batches the same
    weight, also those with few real rows. `training.MaskedPerplexity` is the mean over all tokens:
    use it for early stopping and to choose a checkpoint.

    Args:
        source: a TSV file (or several) with `columns`, or, with `target`, the source sentences.
            gzip files and patterns work, as in `Documents`.
        source_tokenizer, target_tokenizer: a `keras_xfmr.text.Tokenizer` each, with at most as many
            ids as the model's tables have rows; `keras_xfmr.text.check_ids` checks this for a model
            that was not built with their `vocab_size`. A `Transformer` needs the same `pad_id` in
            both.
        target: file (or several) with the target sentences, line by line beside `source`. The
            files of patterns are paired in the order of their names.
        batch_size: rows of a batch, of all workers together.
        buckets: shapes of the batches, rising: lengths, or pairs (source length, target length). A
            pair of sentences goes to the first bucket that has room for both id sequences; the last
            one is the longest. Each bucket is one compilation.
        columns: indices of the source and target column of a TSV.
        skip_header: whether the first line of each file is a header.
        shuffle_buffer: number of rows in the shuffle buffer, at most 10^8; 0 keeps the order of the
            files. Each place takes 25 bytes, even if there are fewer rows.
        seed: seed of the shuffle, an integer in 0 .. 2^31 - 1.
        on_bad_row: `"raise"` stops with file, line and reason; `"skip"` leaves the row out and
            counts it in `skipped`. A row is bad if it has another number of fields than most of the
            first rows of its file, is not UTF-8, has a NUL character, has an empty or blank side,
            or is longer than the last bucket. A blank line is always skipped and counted; a byte
            order mark and CRLF are removed. A carriage return inside a line is refused in the first
            MiB of a file; TensorFlow's reader removes later ones.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: invalid arguments, files that are empty, in UTF-16, compressed in another format
            than gzip, damaged, or with `\\r` as line ends.
        tf.errors.InvalidArgumentError: from the iterator, a bad row.

    Example::

        pairs = PairDataset("pairs.tsv", tokenizer, tokenizer, batch_size=64, buckets=(16, 32))
        pairs.count()  # the batches of an epoch, for the progress bar
        model.fit(pairs.dataset(), epochs=10, shuffle=False)
        print(pairs.skipped)
    """

    def __init__(
        self,
        source: Files,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        *,
        target: Files | None = None,
        batch_size: int = 64,
        buckets: Sequence[int | tuple[int, int]] = (64,),
        columns: tuple[int, int] = (0, 1),
        skip_header: bool = False,
        shuffle_buffer: int = 100_000,
        seed: int = 0,
        on_bad_row: str = "raise",
    ) -> None:
        super().__init__(batch_size)
        self.buckets = _rising_pairs(buckets)
        check_shuffle_buffer(shuffle_buffer)
        check_seed(seed)
        self._reader = PairReader(source, target, columns, skip_header, on_bad_row)
        self._tokenizers = (source_tokenizer, target_tokenizer)
        self._shuffle_buffer = shuffle_buffer
        self._seed = seed

    # ---- counts

    @property
    def skipped(self) -> dict[str, int]:
        """Number of rows left out of the last iteration, by reason."""
        return self._reader.skipped

    # ---- the pipeline

    def _reset(self):
        self._reader.start_counting()

    @tf.autograph.experimental.do_not_convert
    def pairs(self) -> tf.data.Dataset:
        """The good rows as raw strings (source, target), in the order of the files."""

        def good_rows(_):
            self._reader.start_counting()
            chunks = self._reader.parsed(self._reader.lines())
            return chunks.map(lambda source, target, *where: (source, target))

        return untuned(tf.data.Dataset.range(1).flat_map(good_rows)).unbatch()

    def sentences(self, side: int) -> tf.data.Dataset:
        """The raw sentences of a side (0 source, 1 target), for learning a vocabulary."""
        return self.pairs().map(lambda *pair: pair[side])

    def _make_batches(self, epoch):
        lines = self._reader.lines()
        if self._shuffle_buffer:
            # Local to this data set's graph: otherwise a global seed would change the order.
            tf.random.set_seed(1)
            seed = tf.constant(_far_apart(self._seed), tf.int64) + epoch
            lines = lines.shuffle(self._shuffle_buffer, seed=seed, reshuffle_each_iteration=False)
        rows = self._reader.parsed(lines).map(self._tokenize, num_parallel_calls=tf.data.AUTOTUNE)
        return rows.unbatch().group_by_window(
            key_func=lambda source, target, bucket: bucket,
            reduce_func=lambda bucket, same: same.batch(self._batch_size),
            window_size=self._batch_size,
        )

    def _tokenize(self, source, target, *where):
        source_ids = self._tokenizers[0].encode(source)
        target_ids = self._tokenizers[1].encode(target, start=True)
        longest = self.buckets[-1]
        fits = self._fits(source_ids.row_lengths(), target_ids.row_lengths(), longest)
        complaint = (
            "more ids than the last bucket holds: {} of source, {} of target".format(*longest)
        )
        keep = self._reader.reject([Fault("too_long", tf.logical_not(fits), complaint)], where)
        bucket = self._bucket(source_ids.row_lengths(), target_ids.row_lengths())
        # Dense rows, all as long as the last bucket: ragged rows are slow to split.
        source_ids, target_ids = (
            ids.to_tensor(tokenizer.pad_id, shape=[None, length])
            for ids, tokenizer, length in zip(
                (source_ids, target_ids), self._tokenizers, (longest[0], longest[1] + 1)
            )
        )
        return rows_where(keep, source_ids, target_ids, bucket)

    @staticmethod
    def _fits(source_length, target_length, bucket):
        """Whether id sequences fit a bucket; the target has one id more than inputs and labels."""
        source, target = (tf.cast(length, source_length.dtype) for length in bucket)
        return tf.logical_and(source_length <= source, target_length <= target + 1)

    def _bucket(self, source_length, target_length):
        """Index of the first bucket with room for both lengths, 0 .. len(buckets) - 1."""
        fits = tf.stack([self._fits(source_length, target_length, b) for b in self.buckets])
        return tf.argmax(tf.cast(fits, tf.int32), axis=0)

    def _fill(self, batch, shard):
        """Shortens the padding to the lengths of the bucket."""
        source_ids, target_ids, bucket = batch
        self._rows.assign_add(shard.count(source_ids))
        source_length, target_length = tf.unstack(tf.constant(self.buckets)[bucket[0]])
        source_ids, target_ids = (
            shard.take(ids[:, :length], tokenizer.pad_id)
            for ids, length, tokenizer in zip(
                (source_ids, target_ids), (source_length, target_length + 1), self._tokenizers
            )
        )
        inputs = {"source_ids": source_ids, "target_ids": target_ids[:, :-1]}
        return inputs, target_ids[:, 1:]


def _far_apart(seed):
    """The seed of the first epoch. Each epoch has the next one; it must differ from other runs."""
    spread = (seed * 0x9E3779B97F4A7C15) % 2**64  # odd, so that all seeds differ
    return spread - 2**64 if spread >= 2**63 else spread


def _rising_pairs(buckets):
    if not isinstance(buckets, Iterable):
        raise ValueError(f"`buckets` must be a sequence, such as (64,). Received: {buckets!r}.")
    pairs = [tuple(b) if isinstance(b, (tuple, list)) else (b, b) for b in buckets]
    rising = all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in zip(pairs, pairs[1:]))
    whole = all(len(b) == 2 and all(isinstance(n, Integral) and n > 0 for n in b) for b in pairs)
    if not pairs or not whole or not rising:
        raise ValueError(
            "`buckets` must be rising lengths, or pairs (source length, target length). "
            f"Received: {buckets!r}."
        )
    return tuple((int(source), int(target)) for source, target in pairs)
