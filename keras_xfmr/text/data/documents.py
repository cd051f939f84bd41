"""Documents from text files, streaming."""

import tensorflow as tf

from keras_xfmr.common.types import Files
from keras_xfmr.text.data.files import TextFiles
from keras_xfmr.text.data.streaming import (
    NO_TEXT,
    is_blank,
    is_text,
    rows_where,
    strip_lines,
    untuned,
)
from keras_xfmr.text.ragged import owners

LINES = 2048  # lines that one call reads
FILES = 64  # files that take turns; each has a buffer of `streaming.BLOCK`
PART = 32 * 1024  # bytes of text after which a new part of a document begins
WORDS = 256  # words of a segment, if a line is longer than a part
REASONS = ("blank", "heading", "utf8")

# A sentence ends after this sign, but not after a single capital: "J. Smith". The text after it
# begins like a sentence; Chinese and Japanese stops need no space.
ENDS = r"""(\P{Lu}[.!?…]+["'”’»)\]]*)[ \t\f\r]+(["'“‘«(\[]*[\p{Lu}\p{Lo}\p{N}])"""
WIDE_ENDS = r"([。！？]+[”’」』）]*)"


class Documents:
    """Text files as a stream of documents, each a sequence of segments (sentences or lines).

    A document ends at the end of its file. Within a file blank lines separate documents or, with
    `heading="wikitext"`, lines of the form ` = Title = `; lines like ` = = Section = = ` are then
    left out, and blank lines have no meaning.

    A document of more than 32 KiB is returned in parts of about that size, and a longer line in
    segments of at most 256 words, so that memory is bounded by the longest line. Each part has the
    number of its document.

    Args:
        files: a text file or several, UTF-8, plain or gzip, or patterns such as `"corpus/*.txt"`,
            whose files are read in the order of their names. A gzip file is first unpacked once to
            check that it is complete: 5 s for a GB of text. A byte order mark and CRLF are removed.
            A carriage return inside a line is refused in the first MiB of a file; TensorFlow's
            reader removes later ones.
        heading: None or `"wikitext"`.
        sentence_split: whether a line is split into sentences: after `.`, `!`, `?` and closing
            quotes or brackets, if a blank and a capital, a digit or a letter of a script without
            capitals follow; after `。`, `！` and `？` always. Abbreviations ("Mr. Smith") end a
            sentence too. A line with one sentence does not change. With False each line is a
            segment.
        line_documents: whether each line is a document (reviews, tweets).
        halve: whether a line that is a document of a single sentence is split after its middle
            word, so that it has a next sentence.
        on_bad_line: `"raise"` stops with file and line if a line is not UTF-8 or has a NUL
            character; `"skip"` leaves it out and counts it in `skipped`, under `utf8`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: invalid arguments, a file without text, in UTF-16, compressed in another format
            than gzip, damaged, or with `\\r` as line ends.
        tf.errors.InvalidArgumentError: from the iterator, a bad line.

    Example::

        vocabulary = keras_xfmr.text.learn_word_piece(Documents("corpus.txt").sentences(), 8000)
    """

    def __init__(
        self,
        files: Files,
        *,
        heading: str | None = None,
        sentence_split: bool = True,
        line_documents: bool = False,
        halve: bool = True,
        on_bad_line: str = "raise",
    ) -> None:
        if heading not in (None, "wikitext"):
            raise ValueError(f"`heading` must be None or 'wikitext'. Received: {heading!r}.")
        if on_bad_line not in ("raise", "skip"):
            raise ValueError(f"`on_bad_line` must be 'raise' or 'skip'. Received: {on_bad_line!r}.")
        self._files = _existing(files)
        self._heading = heading
        self._sentence_split, self._line_documents = sentence_split, line_documents
        self._halve = halve and line_documents
        self._on_bad_line = on_bad_line
        with tf.device("CPU"):
            self._skipped = tf.Variable([0] * len(REASONS), dtype=tf.int64, trainable=False)

    @property
    def skipped(self) -> dict[str, int]:
        """Lines left out since `reset`, by reason."""
        return dict(zip(REASONS, (int(n) for n in self._skipped.numpy())))

    def reset(self) -> None:
        """Sets the counts to 0; an operation inside a graph."""
        self._skipped.assign(tf.zeros_like(self._skipped))

    def parts(self) -> tf.data.Dataset:
        """`tf.data.Dataset` of (segments, strings `[n]`; number of the document, int64)."""
        lines = tf.data.Dataset.range(len(self._files)).flat_map(self._read)
        chunks = lines.map(self._segments, num_parallel_calls=tf.data.AUTOTUNE)
        nothing = (tf.constant([], tf.string), tf.constant([], tf.int64), tf.constant(0, tf.int64))
        chunks = chunks.map(lambda *chunk: (*chunk, False))
        chunks = chunks.concatenate(tf.data.Dataset.from_tensors((*nothing, True)))
        state = (nothing[0], tf.constant(0, tf.int64), tf.constant(0, tf.int64))
        return chunks.scan(state, _group).unbatch()

    @tf.autograph.experimental.do_not_convert
    def sentences(self) -> tf.data.Dataset:
        """`tf.data.Dataset` of the segments, to learn a vocabulary from.

        Files take turns, 64 at a time, so that a sample has lines of all files, also after a long
        one.
        """

        def segments(_):
            self.reset()
            files = tf.data.Dataset.range(len(self._files))
            chunks = files.interleave(self._read, cycle_length=FILES)
            return chunks.map(self._segments, num_parallel_calls=tf.data.AUTOTUNE)

        chunks = tf.data.Dataset.range(1).flat_map(segments)
        return untuned(chunks.map(lambda segments, *_: segments).unbatch())

    def _read(self, index):
        """Chunks of a file's lines: (file index, numbers of the lines, lines)."""
        chunks = self._files.dataset(index).batch(LINES)

        def number(chunk, lines):
            return index, 1 + chunk * LINES + tf.range(tf.size(lines, tf.int64)), lines

        return chunks.enumerate().map(number)

    def _segments(self, file, numbers, lines):
        """A chunk's segments, for each the number of documents that began in the chunk up to it,
        and the number that began in all."""
        lines = tf.strings.strip(strip_lines(lines))
        blank = is_blank(lines)
        heading = tf.zeros_like(blank)
        divides = blank
        if self._heading is not None:
            heading = tf.strings.regex_full_match(lines, "=( .*)? =")
            divides = heading & ~tf.strings.regex_full_match(lines, "= = .*")
        if self._line_documents:
            divides = tf.ones_like(blank)
        bad = ~is_text(lines)
        counts = [tf.reduce_sum(tf.cast(rows, tf.int64)) for rows in (blank, heading, bad)]
        self._skipped.assign_add(tf.stack(counts))
        keep = ~(blank | heading | bad)
        if self._on_bad_line == "raise":
            keep = self._refuse(bad, file, numbers, keep)
        document = tf.cumsum(tf.cast(divides | tf.equal(numbers, 1), tf.int64))
        begun = document[-1]
        lines, document = rows_where(keep, lines, document)
        marked = _mark_ends(lines) if self._sentence_split else lines
        marked = _mark_words(marked)
        if self._halve:
            alone = ~tf.strings.regex_full_match(marked, "(?s).*\n.*")
            marked = tf.where(alone, _mark_middle(marked), marked)
        sentences = tf.strings.split(marked, "\n")
        document = tf.gather(document, owners(sentences.row_lengths()))
        return sentences.flat_values, document, begun

    def _refuse(self, bad, file, numbers, keep):
        """`keep`, unless a line is bad: `corpus.txt:17: not valid UTF-8, or ...`."""
        number = tf.strings.as_string(numbers[tf.argmax(bad)])
        advice = "Mend the line, or pass on_bad_line='skip' to leave such lines out and count them."
        name = tf.constant(self._files.names)[file]
        message = tf.strings.join([name, ":", number, f": {NO_TEXT}. ", advice])
        with tf.control_dependencies([tf.debugging.Assert(~tf.reduce_any(bad), [message])]):
            return tf.identity(keep)


def _mark_ends(lines):
    """Strings `[B]` with a line feed between their sentences."""
    cut = lines
    # A match includes the first letter of the next sentence, which may be the whole sentence. So
    # the search runs twice: the second one finds the ends that the first one passed.
    for _ in range(2):
        cut = tf.strings.regex_replace(cut, ENDS, "\\1\n\\2")
    cut = tf.strings.regex_replace(cut, WIDE_ENDS, "\\1\n")
    cut = tf.strings.regex_replace(cut, r"\s*\n\s*", "\n")
    return tf.strings.regex_replace(cut, r"\n+$", "")


def _mark_words(lines):
    """Strings `[B]`; those of more than `PART` bytes get a line feed after each `WORDS` words."""
    long = tf.strings.length(lines) > PART
    words = tf.strings.regex_replace(
        tf.where(long, lines, ""), rf"((?:[^\s]+[ \t\f\r]+){{{WORDS}}})", "\\1\n"
    )
    return tf.where(long, tf.strings.regex_replace(words, r"\s*\n\s*", "\n"), lines)


def _mark_middle(lines):
    """Strings `[B]` with a line feed after their middle word, if they have two or more words."""
    words = tf.strings.split(lines)
    count = words.row_lengths()
    place = tf.ragged.range(count).flat_values
    after = tf.where(tf.equal(place, tf.gather((count - 1) // 2, owners(count))), "\n", " ")
    words = words.with_flat_values(words.flat_values + after)
    return tf.strings.strip(tf.strings.reduce_join(words, axis=-1))


def _group(state, chunk):
    """Joins a chunk's segments to parts; the last part waits for the next chunk."""
    (held, held_document, count), (segments, document, begun, end) = state, chunk
    document = tf.concat([tf.fill(tf.shape(held), held_document), count + document], axis=0)
    segments = tf.concat([held, segments], axis=0)
    before = tf.cumsum(tf.cast(tf.strings.length(segments), tf.int64), exclusive=True)
    piece = (before - tf.gather(before, _first_of_runs(document))) // PART
    first = _first_of_runs(document, piece)
    last = tf.concat([[0], first], axis=0)[-1]  # where the last part begins
    ready = tf.where(end, tf.size(segments, tf.int64), last)
    starts, _ = tf.unique(first[:ready])
    parts = tf.RaggedTensor.from_row_starts(segments[:ready], starts, validate=False)
    held_document = tf.concat([document[ready:], [held_document]], axis=0)[0]
    return (segments[ready:], held_document, count + begun), (parts, tf.gather(document, starts))


def _first_of_runs(*values):
    """For each entry of `[n]` the first index of its run of equal values."""
    changes = tf.reduce_any([tf.not_equal(v[1:], v[:-1]) for v in values], axis=0)
    changes = tf.concat([tf.ones_like(values[0][:1], tf.bool), changes], axis=0)
    return tf.gather(tf.where(changes)[:, 0], tf.cumsum(tf.cast(changes, tf.int64)) - 1)


def _existing(files):
    files = TextFiles(files)
    if not len(files):
        raise ValueError("`files` names no file.")
    for reader in files.readers():
        if not any(line.strip() for line in reader):
            raise ValueError(f"{reader.name} has no text.")
    return files
