"""What the pipelines share: lines of files, and epochs that a run can take up again."""

import codecs
import os
import re

import tensorflow as tf

from keras_xfmr.common.checks import check_int

BLOCK = 1 << 20  # bytes that are read at a time
WHITE_SPACE = r"[\x09-\x0d\x1c-\x20\x{85}\p{Z}]"  # what `str.isspace` means by it
PACKERS = {  # how files begin that they packed, and what unpacks those
    rb"\x1f\x8b": ("gzip", "gunzip FILE"),
    rb"BZh[1-9]1AY&SY": ("bzip2", "bunzip2 FILE"),
    rb"\xfd7zXZ\x00": ("xz", "unxz FILE"),
    rb"\x28\xb5\x2f\xfd": ("zstd", "unzstd FILE"),
    rb"PK\x03\x04": ("zip", "unzip FILE"),
}
NO_TEXT = "not valid UTF-8, or with a NUL character"  # what is wrong where `is_text` says no


class Epochs:
    """A pipeline of batches, each iteration of which is the epoch after that of the one before.

    A subclass defines `dataset` by `_each_epoch`, and counts its rows in `_rows`.
    """

    def __init__(self):
        self._count = None
        with tf.device("CPU"):
            self._position = tf.Variable([0, 0], dtype=tf.int64, trainable=False)
            self._rows = tf.Variable(0, dtype=tf.int64, trainable=False)

    @property
    def rows(self):
        """Rows that the last iteration gave: pairs, or instances."""
        return int(self._rows.numpy())

    def seek(self, epoch, batch=0):
        """Makes the next iteration start at this batch of this epoch, both counted from 0."""
        check_int("epoch", epoch, 0)
        check_int("batch", batch, 0)
        self._position.assign([epoch, batch])

    @tf.autograph.experimental.do_not_convert
    def _each_epoch(self, make, reset):
        """The data set as `fit` takes it: deterministic, prefetched, of known length if counted.

        Args:
            make: `[epoch, batch]` -> the batches from there on.
            reset: sets a subclass's own counts to 0, an operation inside a graph.
        """
        # The batch at which it begins, if its length is known.
        first = None if self._count is None else int(self._position[1])

        def start(_):
            reset()
            self._rows.assign(0)
            return self._begin_epoch(first)

        data = tf.data.Dataset.range(1).map(start).flat_map(make)
        options = tf.data.Options()
        options.deterministic = True
        # One stream cannot be sharded by file; Keras would warn under a distribution strategy.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        data = untuned(data.prefetch(tf.data.AUTOTUNE).with_options(options))
        if first is None:
            return data
        return data.apply(tf.data.experimental.assert_cardinality(max(self._count - first, 0)))

    def _begin_epoch(self, first):
        """[epoch, batch] of an iteration that begins; the next one is the epoch after it."""
        place = self._position.read_value()
        if first is not None:
            message = tf.strings.format(
                f"This data set was made to begin at batch {first}, and has the length for that. "
                "Call `dataset()` anew after `seek`. Received: batch {} as the next one.",
                place[1],
            )
            check = tf.debugging.Assert(tf.equal(place[1], first), [message])
            with tf.control_dependencies([check]):
                place = tf.identity(place)
        self._position.assign(tf.stack([place[0] + 1, 0]))
        return place

    def count(self):
        """Batches of an epoch, found by one pass over the files; the progress bar then knows.

        Keras on TensorFlow without XLA counts a step too many, for the optimizer and its schedule,
        at the end of each epoch whose length it does not know.
        """
        if self._count is None:
            position = self._position.numpy()
            self.seek(0)
            self._count = sum(1 for _ in self.dataset())
            self._position.assign(position)
        return self._count


def text_files(paths):
    """The names of text files, one or several, as a list of strings.

    Raises:
        FileNotFoundError: one is missing, or no file: a folder, a pipe that is empty once read.
        ValueError: the beginning of one tells that it holds no lines of UTF-8.
    """
    one = isinstance(paths, (str, os.PathLike))
    names = [os.fspath(path) for path in ([paths] if one else paths)]
    for name in names:
        if not tf.io.gfile.exists(name):
            raise FileNotFoundError(f"No text file at {name!r}.")
        if tf.io.gfile.isdir(name):
            raise FileNotFoundError(f"No text file at {name!r}. Received: a folder.")
        if os.path.exists(name) and not os.path.isfile(name):
            raise FileNotFoundError(
                f"No text file at {name!r}, which could be read more than once. Received: a pipe "
                "or a device; write it to a file."
            )
        with tf.io.gfile.GFile(name, "rb") as file:
            beginning = file.read(BLOCK)
        _check_encoding(name, beginning)
        _check_line_ends(name, beginning)
    return names


def _check_encoding(path, beginning):
    """Refuses a file that is packed, or UTF-16, which may well be valid UTF-8 with NULs between.

    A NUL here and there is a matter of its line: see `is_text`.
    """
    for magic, (packer, command) in PACKERS.items():
        if re.match(magic, beginning):
            raise ValueError(
                f"{path} is packed by {packer}; expected plain text. Unpack it first: {command}."
            )
    marked = beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    count = beginning.count(0)
    if marked or count > len(beginning) / 100:  # UTF-16 has one in every blank and line end
        what = "its byte order mark" if marked else f"{count} NULs in {len(beginning)} bytes"
        raise ValueError(
            f"{path} looks like UTF-16; expected UTF-8. Received: {what}. Rewrite it: "
            "iconv -f UTF-16 -t UTF-8 FILE > NEW. If it is UTF-8, take the NULs out: "
            "tr -d '\\000' < FILE > NEW."
        )


def _check_line_ends(path, beginning):
    """Refuses a file whose lines do not end with line feeds.

    `tf.data.TextLineDataset` leaves every carriage return out, and so joins what stood on both
    sides of one that is no part of CRLF.
    """
    found = re.search(rb"\r[^\r\n]", beginning)
    if found:
        raise ValueError(
            f"{path} has a carriage return inside a line, at byte {found.start()}; expected lines "
            "that end with \\n or \\r\\n. If its lines end with \\r alone (classic Mac), rewrite "
            "it: tr '\\r' '\\n' < FILE > NEW. Otherwise put a blank in the place of the stray ones."
        )


def untuned(data):
    """The data set without TensorFlow's tuning of its pace; parallel calls take all cores.

    The tuner is a thread that sleeps up to a minute between two looks. Where the cores are busy,
    letting an iterator go may wait for it to wake, and so may each epoch of `fit`: TensorFlow 2.21.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def rows_where(keep, *tensors):
    """Those rows of each tensor for which `keep [N]` is true."""
    rows = tf.where(keep)[:, 0]
    return tuple(tf.gather(tensor, rows) for tensor in tensors)


def read_lines(path):
    """`tf.data.Dataset` of a file's lines."""
    return tf.data.TextLineDataset(path, buffer_size=BLOCK)


def strip_lines(lines):
    """Takes off carriage returns, and byte order marks, which a file joined from several has at the
    beginning of lines in its middle, too."""
    return tf.strings.regex_replace(lines, "^\ufeff+|\r+$", "")


def is_blank(texts):
    """Which strings are nothing but white space of Unicode."""
    return tf.strings.regex_full_match(texts, f"{WHITE_SPACE}*")


def is_text(texts):
    """Which strings are UTF-8 without NUL characters."""
    known = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore")
    return tf.equal(texts, known) & tf.strings.regex_full_match(texts, r"[^\x00]*")
