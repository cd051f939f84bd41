"""Reads, parses, checks and counts the rows of files of sentence pairs.

N rows of a chunk
"""

import codecs
import collections
import dataclasses
from collections.abc import Sequence
from numbers import Integral

import tensorflow as tf

from keras_xfmr.text.data.files import TextFiles
from keras_xfmr.text.data.streaming import NO_TEXT, is_blank, is_text, rows_where, strip_lines

CHUNK = 512  # rows that one call parses and tokenizes
REASONS = ("blank", "fields", "utf8", "empty", "too_long")
FIRST_ROWS = 100
END_OF_FILE = "\x00end of file\x00"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A kind of bad rows.

    Args:
        reason: the name under which they are counted.
        rows: bool `[N]`, the rows with the fault.
        complaint: the message, or a function from the index of a file to it; None if the rows are
            only counted.
        in_target: whether the fault is in the target, which may be in another file.
    """

    reason: str
    rows: tf.Tensor
    complaint: object = None
    in_target: bool = False


class PairReader:
    """The reader of `PairDataset`: lines of a TSV, or of two parallel files, and their faults.

    Args:
        source, target, columns, skip_header, on_bad_row: as in `PairDataset`.
    """

    def __init__(self, source, target, columns, skip_header, on_bad_row):
        if not _are_columns(columns):
            raise ValueError(f"`columns` must be two indices from 0. Received: {columns!r}.")
        if on_bad_row not in ("raise", "skip"):
            raise ValueError(f"`on_bad_row` must be 'raise' or 'skip'. Received: {on_bad_row!r}.")
        self._sources = TextFiles(source)
        if not len(self._sources):
            raise ValueError("`source` names no file.")
        self._targets = None if target is None else TextFiles(target)
        if self._targets is not None and len(self._sources) != len(self._targets):
            raise ValueError(
                "Each source file needs a target file. Received: "
                f"{len(self._sources)} and {len(self._targets)}."
            )
        self._columns = tuple(columns)
        self._skip_header = skip_header
        self._on_bad_row = on_bad_row
        self._fields = [self._count_fields(reader) for reader in self._sources.readers()]
        with tf.device("CPU"):
            self._skipped = tf.Variable([0] * len(REASONS), dtype=tf.int64, trainable=False)

    # ---- counts

    def start_counting(self):
        self._skipped.assign(tf.zeros_like(self._skipped))

    @property
    def skipped(self):
        """Rows left out since counting started, by reason."""
        return dict(zip(REASONS, (int(n) for n in self._skipped.numpy())))

    # ---- rows

    def lines(self):
        """(file index, line number, line, other line) of every line of every file.

        Lines are numbered and joined in chunks: a call for each line would take longer than all
        other steps.
        """

        def read(index):
            lines = self._sources.dataset(index)
            if self._targets is None:
                chunks = lines.batch(CHUNK).map(lambda chunk: (chunk, tf.fill(tf.shape(chunk), "")))
            else:
                end = tf.data.Dataset.from_tensors(END_OF_FILE).repeat()
                both = (lines.concatenate(end), self._targets.dataset(index).concatenate(end))
                chunks = tf.data.Dataset.zip(*both).batch(CHUNK).map(_before_the_end)
                chunks = chunks.take_while(lambda chunk, others: tf.size(chunk) > 0)
            return chunks.enumerate().map(lambda number, pair: number_lines(index, number, *pair))

        def number_lines(index, chunk_number, lines, others):
            numbers = 1 + chunk_number * CHUNK + tf.range(tf.size(lines, tf.int64))
            return tf.fill(tf.shape(numbers), index), numbers, lines, others

        return tf.data.Dataset.range(len(self._sources)).flat_map(
            lambda index: read(index).unbatch().skip(int(self._skip_header))
        )

    def parsed(self, lines):
        """Chunks of good rows: source `[N]`, target `[N]`, and their files and line numbers."""
        return lines.batch(CHUNK).map(self._parse, num_parallel_calls=tf.data.AUTOTUNE)

    def _parse(self, files, numbers, lines, others):
        if self._targets is None:
            lines = strip_lines(lines)
            cells = tf.strings.split(lines, "\t")
            expected = tf.gather(tf.constant(self._fields, tf.int64), files)
            wrong_fields = [Fault("fields", cells.row_lengths() != expected, self._wrong_count)]
            cells = cells.to_tensor("", shape=[None, max(self._columns) + 1])
            source, target = (cells[:, column] for column in self._columns)
            blank = is_blank(lines)
        else:
            source, target = strip_lines(lines), strip_lines(others)
            ends = "this file ends before this line, the other of the pair goes on"
            wrong_fields = [
                Fault("fields", tf.equal(lines, END_OF_FILE), ends),
                Fault("fields", tf.equal(others, END_OF_FILE), ends, in_target=True),
            ]
            blank = is_blank(source) & is_blank(target)
        source, target = tf.strings.strip(source), tf.strings.strip(target)
        faults = [
            Fault("blank", blank),
            *wrong_fields,
            Fault("utf8", tf.logical_not(is_text(source)), NO_TEXT),
            Fault("utf8", tf.logical_not(is_text(target)), NO_TEXT, in_target=True),
            Fault("empty", is_blank(source), "the source is empty"),
            Fault("empty", is_blank(target), "the target is empty", in_target=True),
        ]
        where = (files, numbers)
        return rows_where(self.reject(faults, where), source, target, *where)

    def _wrong_count(self, file):
        expected = tf.gather(tf.constant(self._fields, tf.int64), file)
        return tf.strings.format(
            "expected {} tab-separated fields, as in most of the first rows", expected
        )

    # ---- bad rows

    def reject(self, faults, where):
        """Bool `[N]`: the good rows. Counts the others, or raises an error for the first of them.

        Args:
            faults: `Fault`s; a row is counted under its first fault.
            where: the file index and the line number of each row.
        """
        keep = tf.ones_like(where[1], tf.bool)
        counts = dict.fromkeys(REASONS, tf.constant(0, tf.int64))
        offending, offences = [], []
        for fault in faults:
            rows = keep & fault.rows
            keep = keep & tf.logical_not(rows)
            counts[fault.reason] += tf.reduce_sum(tf.cast(rows, tf.int64))
            if fault.complaint is not None:
                offending.append(rows)
                offences.append(fault)
        self._skipped.assign_add(tf.stack(list(counts.values())))
        if self._on_bad_row == "skip":
            return keep
        offending = tf.stack(offending, axis=1)
        row = tf.argmax(tf.reduce_any(offending, axis=1))
        message = tf.cond(
            tf.reduce_any(offending),
            lambda: self._complaint(offending[row], offences, *(x[row] for x in where)),
            lambda: "",
        )
        check = tf.debugging.Assert(tf.logical_not(tf.reduce_any(offending)), [message])
        with tf.control_dependencies([check]):
            return tf.identity(keep)

    def _complaint(self, had, offences, file, number):
        """`pairs.tsv:17: expected 2 fields ...` for one row."""
        targets = self._targets or self._sources
        names = [(targets if o.in_target else self._sources).names for o in offences]
        words = [o.complaint(file) if callable(o.complaint) else o.complaint for o in offences]
        first = tf.argmax(tf.cast(had, tf.int32))
        name = tf.gather_nd(tf.constant(names), [first, tf.cast(file, first.dtype)])
        words = tf.gather(tf.stack(words), first)
        advice = ". Mend the row, or pass on_bad_row='skip' to leave such rows out and count them."
        return tf.strings.join([name, ":", tf.strings.as_string(number), ": ", words, advice])

    def _count_fields(self, reader):
        """The number of fields of most of the first rows of a file, without blank ones; all rows
        must have it."""
        counts = collections.Counter()
        for number, line in enumerate(reader):
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
            raise ValueError(f"{reader.name} has no rows.")
        [(count, _)] = counts.most_common(1)
        if count <= max(self._columns):
            raise ValueError(
                f"{reader.name}: expected at least {max(self._columns) + 1} tab-separated fields "
                f"for columns={self._columns}. Received: {count} in most of the first rows."
            )
        return count


def _are_columns(columns):
    two = isinstance(columns, Sequence) and len(columns) == 2
    return two and all(isinstance(column, Integral) and column >= 0 for column in columns)


def _before_the_end(lines, others):
    """A chunk of two files, without the rows after the end of both."""
    inside = tf.not_equal(lines, END_OF_FILE) | tf.not_equal(others, END_OF_FILE)
    return tf.boolean_mask(lines, inside), tf.boolean_mask(others, inside)
