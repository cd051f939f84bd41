"""Pairs of sentences from files to padded batches, streaming.

B batch, S source, T target
"""

import codecs
import collections
import functools
from collections.abc import Iterable, Sequence

import tensorflow as tf

from keras_xfmr.text.checks import check_integer, check_seed
from keras_xfmr.text.streaming import (
    NO_TEXT,
    Epochs,
    is_blank,
    is_text,
    read_lines,
    strip_lines,
    text_files,
    untuned,
)

CHUNK = 512  # rows that are parsed and tokenized by one call
REASONS = ("blank", "fields", "utf8", "empty", "too_long")


class PairDataset(Epochs):
    """A `tf.data` pipeline from files of sentence pairs to batches for a `Transformer`.

    Lines -> shuffle -> parse, check and tokenize -> length buckets -> padded batches of static
    shapes, prefetched. Nothing is held but the shuffle buffer, so memory does not grow with the
    files. The order is a function of `(seed, epoch)` alone.

    An element is `({"source_ids": [B, S], "target_ids": [B, T]}, labels [B, T])`: the source ends
    with the end token; target ids begin with the start token, labels end with the end token. Every
    batch of a bucket has the same shape; the last one is filled up with rows of padding, which
    `MaskedCrossEntropy` leaves out. Keras weighs all batches alike in the `loss` of an epoch, those
    with few real rows too; `training.MaskedPerplexity` is the mean over all tokens, and what early
    stopping and the choice of a checkpoint should look at.

    Args:
        source: a TSV file (or several) with `columns`, or, with `target`, the source sentences.
        source_tokenizer, target_tokenizer: a `keras_xfmr.text.Tokenizer` each, of no more ids than
            the model's tables have rows; `keras_xfmr.text.check_ids` makes sure of a model that was
            not built from their `vocab_size`. A `Transformer` needs two that pad with the same id.
        target: file (or several) with the target sentences, line by line beside `source`.
        batch_size: rows of a batch.
        buckets: shapes of the batches, rising: lengths, or pairs (source length, target length). A
            pair of sentences goes to the first bucket that holds both its id sequences; the last
            one is the longest. Each costs one compilation.
        columns: indices of the source and target column of a TSV.
        skip_header: whether each file begins with a line that is no pair.
        shuffle_buffer: rows to shuffle among; 0 keeps the order of the files.
        seed: of the shuffle, an integer of 64 bits.
        on_bad_row: `"raise"` stops with file, line and reason; `"skip"` leaves the row out and
            counts it in `skipped`. Bad: another number of fields than most of the first rows of its
            file, not UTF-8 or with a NUL character, one side empty or only white space, longer than
            the last bucket. A line that is blank altogether is always skipped and counted; a byte
            order mark and CRLF are taken off. A carriage return inside a line is refused where a
            file's first MiB has one; later ones are dropped by TensorFlow's reader.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: arguments that do not fit, files that have nothing, are in UTF-16, packed by
            gzip or have lines ended by `\\r`.
        tf.errors.InvalidArgumentError: from the iterator, a bad row.

    Example::

        pairs = PairDataset("pairs.tsv", tokenizer, tokenizer, batch_size=64, buckets=(16, 32))
        pairs.count()  # the batches of an epoch, for the progress bar
        model.fit(pairs.dataset(), epochs=10, shuffle=False)
        print(pairs.skipped)
    """

    def __init__(
        self,
        source,
        source_tokenizer,
        target_tokenizer,
        *,
        target=None,
        batch_size=64,
        buckets=(64,),
        columns=(0, 1),
        skip_header=False,
        shuffle_buffer=100_000,
        seed=0,
        on_bad_row="raise",
    ):
        super().__init__()
        self.buckets = _rising_pairs(buckets)
        check_integer("batch_size", batch_size, 1)
        check_integer("shuffle_buffer", shuffle_buffer, 0)
        if not _are_columns(columns):
            raise ValueError(f"`columns` must be two indices from 0. Received: {columns!r}.")
        if on_bad_row not in ("raise", "skip"):
            raise ValueError(f"`on_bad_row` must be 'raise' or 'skip'. Received: {on_bad_row!r}.")
        check_seed(seed)
        self._sources = text_files(source)
        if not self._sources:
            raise ValueError("`source` names no file.")
        self._targets = None if target is None else text_files(target)
        if self._targets is not None and len(self._sources) != len(self._targets):
            raise ValueError(
                "Each source file needs a target file. Received: "
                f"{len(self._sources)} and {len(self._targets)}."
            )
        self._tokenizers = (source_tokenizer, target_tokenizer)
        self._batch_size = batch_size
        self._columns = tuple(columns)
        self._skip_header = skip_header
        self._shuffle_buffer = shuffle_buffer
        self._seed = seed
        self._on_bad_row = on_bad_row
        self._fields = [self._count_fields(path) for path in self._sources]
        with tf.device("CPU"):
            self._skipped = tf.Variable([0] * len(REASONS), dtype=tf.int64, trainable=False)
            self._rows = tf.Variable(0, dtype=tf.int64, trainable=False)

    # ---- what a run knows about its data

    @property
    def skipped(self):
        """Rows left out of the last iteration, by reason."""
        return dict(zip(REASONS, (int(n) for n in self._skipped.numpy())))

    @property
    def rows(self):
        """Pairs that the last iteration gave."""
        return int(self._rows.numpy())

    # ---- the pipeline

    def dataset(self):
        """The `tf.data.Dataset`; each iteration is the next epoch, or the one that `seek` named."""
        first = self._first_batch()
        data = self._iteration(self._batches, lambda: self._begin_epoch(first))
        return self._batches_of_epoch(data, first)

    @functools.cached_property
    def _batches(self):
        """(epoch, batch) -> the batches from there on; one graph, for it takes a second to make."""
        make = tf.function(
            lambda place: self._epoch(place[0]).skip(place[1]),
            input_signature=[tf.TensorSpec([2], tf.int64)],
        )
        return make.get_concrete_function()

    def pairs(self):
        """The good rows as raw strings (source, target), in the order of the files."""
        return self._iteration(
            lambda _: self._rows_of(self._lines()).map(
                lambda source, target, *where: (source, target)
            )
        ).unbatch()

    def sentences(self, side):
        """The raw sentences of a side (0 source, 1 target), to learn a vocabulary from."""
        return self.pairs().map(lambda *pair: pair[side])

    def _iteration(self, make, begin=lambda: (0, 0)):
        """The data set `make(begin())`, made anew and its counts set to 0 at each iteration."""

        def start(_):
            self._skipped.assign(tf.zeros_like(self._skipped))
            self._rows.assign(0)
            return tf.convert_to_tensor(begin(), tf.int64)

        return untuned(tf.data.Dataset.range(1).map(start).flat_map(make))

    def _rows_of(self, lines):
        """Lines to chunks of parsed and checked rows."""
        return lines.batch(CHUNK).map(self._parse, num_parallel_calls=tf.data.AUTOTUNE)

    def _epoch(self, epoch):
        lines = self._lines()
        if self._shuffle_buffer:
            # Local to this data set's graph: otherwise a global seed would enter the order.
            tf.random.set_seed(1)
            seed = tf.cast(self._seed, tf.int64) + epoch
            lines = lines.shuffle(self._shuffle_buffer, seed=seed, reshuffle_each_iteration=False)
        rows = self._rows_of(lines).map(self._tokenize, num_parallel_calls=tf.data.AUTOTUNE)
        batches = rows.unbatch().group_by_window(
            key_func=lambda source, target, bucket: bucket,
            reduce_func=lambda bucket, same: same.batch(self._batch_size),
            window_size=self._batch_size,
        )
        return batches.map(self._shape, num_parallel_calls=tf.data.AUTOTUNE)

    def _lines(self):
        """(file index, line number, line, other line) of every line of every file.

        Lines are numbered and joined a chunk at a time: a function called for each line would cost
        more than all the rest.
        """
        sources, targets = (tf.constant(names) for names in (self._sources, self._targets or [""]))

        def read(index):
            lines = read_lines(sources[index])
            if self._targets is None:
                chunks = lines.batch(CHUNK).map(lambda chunk: (chunk, tf.fill(tf.shape(chunk), "")))
            else:
                end = tf.data.Dataset.from_tensors(END_OF_FILE).repeat()
                both = (lines.concatenate(end), read_lines(targets[index]).concatenate(end))
                chunks = tf.data.Dataset.zip(*both).batch(CHUNK).map(_before_the_end)
                chunks = chunks.take_while(lambda chunk, others: tf.size(chunk) > 0)
            return chunks.enumerate().map(lambda number, pair: number_lines(index, number, *pair))

        def number_lines(index, chunk_number, lines, others):
            numbers = 1 + chunk_number * CHUNK + tf.range(tf.size(lines, tf.int64))
            return tf.fill(tf.shape(numbers), index), numbers, lines, others

        return tf.data.Dataset.range(len(self._sources)).flat_map(
            lambda index: read(index).unbatch().skip(int(self._skip_header))
        )

    def _parse(self, files, numbers, lines, others):
        """A chunk of lines to its good rows: source, target, and where each came from."""
        if self._targets is None:
            lines = strip_lines(lines, numbers)
            cells = tf.strings.split(lines, "\t")
            expected = tf.gather(tf.constant(self._fields, tf.int64), files)
            wrong_fields = cells.row_lengths() != expected
            cells = cells.to_tensor("", shape=[None, max(self._columns) + 1])
            source, target = (cells[:, column] for column in self._columns)
            blank = is_blank(lines)
        else:
            source, target = strip_lines(lines, numbers), strip_lines(others, numbers)
            wrong_fields = tf.equal(lines, END_OF_FILE) | tf.equal(others, END_OF_FILE)
            blank = is_blank(source) & is_blank(target)
        source, target = tf.strings.strip(source), tf.strings.strip(target)
        bad = {
            "blank": blank,
            "fields": wrong_fields,
            "utf8": tf.logical_not(is_text(source) & is_text(target)),
            "empty": is_blank(source) | is_blank(target),
        }
        where = (files, numbers)
        keep = self._reject(bad, where)
        return tuple(tf.boolean_mask(x, keep) for x in (source, target, *where))

    def _tokenize(self, source, target, *where):
        source_ids = self._tokenizers[0].encode(source)
        target_ids = self._tokenizers[1].encode(target, start=True)
        fits = self._fits(source_ids.row_lengths(), target_ids.row_lengths(), self.buckets[-1])
        keep = self._reject({"too_long": tf.logical_not(fits)}, where)
        self._rows.assign_add(tf.reduce_sum(tf.cast(keep, tf.int64)))
        ids = [tf.ragged.boolean_mask(x, keep) for x in (source_ids, target_ids)]
        bucket = self._bucket(*(x.row_lengths() for x in ids))
        # Dense rows, all as long as the last bucket: ragged ones are slow to take apart.
        longest = (self.buckets[-1][0], self.buckets[-1][1] + 1)
        dense = [
            x.to_tensor(tokenizer.pad_id, shape=[None, length])
            for x, tokenizer, length in zip(ids, self._tokenizers, longest)
        ]
        return *dense, bucket

    def _reject(self, bad, where):
        """Which rows stay; the others are counted, or the first of them raises."""
        keep = tf.ones_like(where[1], tf.bool)
        counts, first = [], []
        for reason in REASONS:
            rows = keep & bad[reason] if reason in bad else tf.zeros_like(keep)
            counts.append(tf.reduce_sum(tf.cast(rows, tf.int64)))
            keep = keep & tf.logical_not(rows)
            first.append(rows)
        self._skipped.assign_add(tf.stack(counts))
        if self._on_bad_row == "skip":
            return keep
        offending = tf.stack(first[1:], axis=1)  # a blank line is never an offence
        row = tf.argmax(tf.reduce_any(offending, axis=1))
        message = tf.cond(
            tf.reduce_any(offending),
            lambda: self._complaint(offending[row], where[0][row], where[1][row]),
            lambda: "",
        )
        check = tf.debugging.Assert(tf.logical_not(tf.reduce_any(offending)), [message])
        with tf.control_dependencies([check]):
            return tf.identity(keep)

    def _complaint(self, reasons, file, number):
        """`pairs.tsv:17: expected 2 fields ...` for one row."""
        if self._targets is None:
            fields = tf.strings.format(
                "expected {} tab-separated fields, as in most of the first rows",
                self._fields_of(file),
            )
        else:
            fields = tf.constant("one of the two files ends here, the other goes on")
        words = tf.stack(
            [
                fields,
                NO_TEXT,
                "the source or the target is empty",
                "more ids than the last bucket holds: {} of source, {} of target".format(
                    *self.buckets[-1]
                ),
            ]
        )
        name = tf.gather(tf.constant(self._sources), file)
        reason = tf.gather(words, tf.argmax(tf.cast(reasons, tf.int32)))
        advice = ". Mend the row, or pass on_bad_row='skip' to leave such rows out and count them."
        return tf.strings.join([name, ":", tf.strings.as_string(number), ": ", reason, advice])

    def _fields_of(self, file):
        return tf.gather(tf.constant(self._fields, tf.int64), file)

    @staticmethod
    def _fits(source_length, target_length, bucket):
        """Whether id sequences fit a bucket; the target's is one longer than inputs and labels."""
        source, target = (tf.cast(length, source_length.dtype) for length in bucket)
        return tf.logical_and(source_length <= source, target_length <= target + 1)

    def _bucket(self, source_length, target_length):
        """Index of the first bucket that holds both lengths, 0 .. len(buckets) - 1."""
        fits = tf.stack([self._fits(source_length, target_length, b) for b in self.buckets])
        return tf.argmax(tf.cast(fits, tf.int32), axis=0)

    def _shape(self, source_ids, target_ids, bucket):
        """Cuts the padding down to the bucket's lengths, and fills the batch up to its size."""
        source_length, target_length = tf.unstack(tf.constant(self.buckets)[bucket[0]])
        missing = [[0, self._batch_size - tf.shape(source_ids)[0]], [0, 0]]
        source_ids, target_ids = (
            tf.ensure_shape(
                tf.pad(ids[:, :length], missing, constant_values=tokenizer.pad_id),
                [self._batch_size, None],
            )
            for ids, length, tokenizer in zip(
                (source_ids, target_ids), (source_length, target_length + 1), self._tokenizers
            )
        )
        inputs = {"source_ids": source_ids, "target_ids": target_ids[:, :-1]}
        return inputs, target_ids[:, 1:]

    def _count_fields(self, path):
        """Fields that most of a file's first rows have, blank ones aside, and all others must."""
        counts = collections.Counter()
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                line = line if number else line.removeprefix(codecs.BOM_UTF8)
                if self._skip_header and number == 0:
                    continue
                if line.decode("utf8", errors="replace").strip():
                    if self._targets is not None:
                        return 1
                    counts[line.rstrip(b"\r\n").count(b"\t") + 1] += 1
                if counts.total() == FIRST_ROWS:
                    break
        if not counts:
            raise ValueError(f"{path} has no rows.")
        [(count, _)] = counts.most_common(1)
        if count <= max(self._columns):
            raise ValueError(
                f"{path}: expected at least {max(self._columns) + 1} tab-separated fields for "
                f"columns={self._columns}. Received: {count} in most of the first rows."
            )
        return count


FIRST_ROWS = 100
END_OF_FILE = "\x00end of file\x00"


def _are_columns(columns):
    two = isinstance(columns, Sequence) and len(columns) == 2
    return two and all(isinstance(column, int) and column >= 0 for column in columns)


def _rising_pairs(buckets):
    if not isinstance(buckets, Iterable):
        raise ValueError(f"`buckets` must be a sequence, such as (64,). Received: {buckets!r}.")
    pairs = [tuple(b) if isinstance(b, (tuple, list)) else (b, b) for b in buckets]
    rising = all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in zip(pairs, pairs[1:]))
    whole = all(len(b) == 2 and all(isinstance(n, int) and n > 0 for n in b) for b in pairs)
    if not pairs or not whole or not rising:
        raise ValueError(
            "`buckets` must be rising lengths, or pairs (source length, target length). "
            f"Received: {buckets!r}."
        )
    return tuple(pairs)


def _before_the_end(lines, others):
    """A chunk of two files without the rows after the end of both."""
    inside = tf.not_equal(lines, END_OF_FILE) | tf.not_equal(others, END_OF_FILE)
    return tf.boolean_mask(lines, inside), tf.boolean_mask(others, inside)
