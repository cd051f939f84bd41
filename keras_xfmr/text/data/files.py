"""Text files, plain or gzip: finds them, checks them, and reads their lines."""

import codecs
import collections
import concurrent.futures
import functools
import itertools
import os
import re
import zlib

import tensorflow as tf

BLOCK = 1 << 20  # bytes that are read at a time
PIECE = 1 << 16  # bytes of a gzip file, or of its content, while many files take turns
GZIP, GZIP_FORMAT = b"\x1f\x8b", zlib.MAX_WBITS | 16
PACKERS = {  # first bytes of a file -> its format, and the command that unpacks it
    rb"\x1f\x8b": ("gzip twice", "gunzip < FILE > NEW.gz"),
    rb"BZh[1-9]1AY&SY": ("bzip2", "bunzip2 FILE"),
    rb"\xfd7zXZ\x00": ("xz", "unxz FILE"),
    rb"\x28\xb5\x2f\xfd": ("zstd", "unzstd FILE"),
    rb"PK\x03\x04": ("zip", "unzip FILE"),
    rb"(?s).{257}ustar": ("tar", "tar -xf FILE"),
}
PATTERN = re.compile(r"[*?\[]")


class TextFiles:
    """Text files in UTF-8, plain or gzip.

    A gzip file is unpacked while it is read. Here it is first unpacked once, all files in parallel,
    to check that it is complete, because TensorFlow's reader silently accepts a truncated file.
    (5 s for a GB of text on one core, once in a process.)

    Args:
        paths: a file or several, or patterns such as `"corpus/*.txt"`, whose files are read in the
            order of their names. Each file is read once, even if several names or patterns match.

    Raises:
        FileNotFoundError: a path is missing, or is a folder or a pipe; no file matches a pattern.
        ValueError: the beginning of a file is not lines of UTF-8; a gzip file is damaged.
    """

    def __init__(self, paths):
        one = isinstance(paths, (str, os.PathLike))
        named = [os.fspath(path) for path in ([paths] if one else paths)]
        self.names = list(dict.fromkeys(name for path in named for name in _matching(path)))
        self._packed = [_check(name) for name in self.names]
        packed = [name for name, is_packed in zip(self.names, self._packed) if is_packed]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(_check_whole, packed))

    def __len__(self):
        return len(self.names)

    def dataset(self, index):
        """`tf.data.Dataset` of the lines of one file, by its index, a tensor."""
        kinds = ["GZIP" if packed else "" for packed in self._packed]
        name, kind = (tf.gather(tf.constant(values), index) for values in (self.names, kinds))
        return tf.data.TextLineDataset(name, compression_type=kind, buffer_size=BLOCK)

    def readers(self):
        """A `LineReader` for each file."""
        return [LineReader(*file) for file in zip(self.names, self._packed)]


class LineReader:
    """The lines of a file, as bytes with their line ends, some at a time.

    The file is closed between the reads, because there may be thousands of files.

    Args:
        name: name of the file.
        packed: whether it is a gzip file.
    """

    def __init__(self, name, packed):
        self.name = name
        self._offset = 0
        self._unpacked = _Unpacked(name) if packed else None
        self._waiting, self._begun = collections.deque(), []  # lines; pieces of the next line

    def __iter__(self):
        while lines := self.take(256):
            yield from lines

    def take(self, count):
        """The next `count` lines, fewer at the end of the file, then none."""
        with tf.io.gfile.GFile(self.name, "rb") as file:
            file.seek(self._offset)
            if self._unpacked is None:
                lines = list(itertools.islice(file, count))
            else:
                while len(self._waiting) < count and (piece := self._unpacked.read(file, PIECE)):
                    self._add(piece)
                if len(self._waiting) < count:
                    self._add(b"")
                size = min(count, len(self._waiting))
                lines = [self._waiting.popleft() for _ in range(size)]
            self._offset = file.tell()
        return lines

    def _add(self, piece):
        *ends, rest = piece.split(b"\n")
        for end in ends:
            self._waiting.append(b"".join([*self._begun, end, b"\n"]))
            self._begun = []
        if rest:
            self._begun.append(rest)
        elif not piece and self._begun:  # the last line has no line feed
            self._waiting.append(b"".join(self._begun))
            self._begun = []


class _Unpacked:
    """The content of a gzip file, which may have several members."""

    def __init__(self, name):
        self._name, self._packed = name, b""
        self._unpack = zlib.decompressobj(GZIP_FORMAT)
        self._empty, self._hidden = True, False  # this member is empty; TensorFlow skips the rest

    def read(self, file, size):
        """The next bytes, from 1 to `size`; none at the end.

        Args:
            file: the open file, at the position after the call before.
            size: maximum number of bytes.
        """
        while True:
            packed = self._packed or file.read(PIECE)
            if self._unpack.eof:
                if not packed:
                    return b""
                self._unpack = zlib.decompressobj(GZIP_FORMAT)
                self._empty, self._hidden = True, self._hidden or self._empty
            try:
                found = self._unpack.decompress(packed, size)
            except zlib.error as error:
                raise self._damaged(error) from error
            ended = self._unpack.eof
            self._packed = self._unpack.unused_data if ended else self._unpack.unconsumed_tail
            if found and self._hidden:
                raise ValueError(
                    f"{self._name} is packed by gzip, with an empty member in its middle, where "
                    "TensorFlow's reader would end. Pack it again: gzip -dc < FILE | gzip > NEW.gz."
                )
            if found:
                self._empty = False
                return found
            if not packed and not ended:
                raise self._damaged("its end is missing")

    def _damaged(self, what):
        return ValueError(
            f"{self._name} is packed by gzip, and damaged. Fetch or pack it again; `gzip -t FILE` "
            f"tests it. Received: {what}."
        )


def _matching(path):
    """The files of a name or a pattern."""
    if not PATTERN.search(path) or tf.io.gfile.exists(path):
        return [path]
    names = sorted(tf.io.gfile.glob(path))
    if not names:
        raise FileNotFoundError(f"No text file matches the pattern {path!r}.")
    return names


def _check(name):
    """Refuses everything except a UTF-8 file; returns whether it is a gzip file."""
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
        packed = beginning.startswith(GZIP)
        if packed:
            file.seek(0)
            unpacked, beginning = _Unpacked(name), b""
            while len(beginning) < BLOCK and (more := unpacked.read(file, BLOCK - len(beginning))):
                beginning += more
    _check_encoding(name, beginning)
    _check_line_ends(name, beginning)
    return packed


def _check_whole(name):
    """Refuses a file that gzip cannot unpack to its end."""
    state = tf.io.gfile.stat(name)
    _unpack_once(name, state.length, state.mtime_nsec)


@functools.lru_cache(maxsize=4096)
def _unpack_once(name, length, changed):
    unpacked = _Unpacked(name)
    with tf.io.gfile.GFile(name, "rb") as file:
        while unpacked.read(file, BLOCK):
            pass


def _check_encoding(path, beginning):
    """Refuses a packed file, or UTF-16, which may also be valid UTF-8 with NULs.

    A few NULs make only their lines bad: see `is_text`.
    """
    for magic, (packer, command) in PACKERS.items():
        if re.match(magic, beginning):
            raise ValueError(
                f"{path} is packed by {packer}; expected plain text. Unpack it first: {command}."
            )
    marked = beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    count = beginning.count(0)
    if marked or count > len(beginning) / 100:  # UTF-16 has a NUL in every blank and line end
        what = "its byte order mark" if marked else f"{count} NULs in {len(beginning)} bytes"
        raise ValueError(
            f"{path} looks like UTF-16; expected UTF-8. Received: {what}. Rewrite it: "
            "iconv -f UTF-16 -t UTF-8 FILE > NEW. If it is UTF-8, take the NULs out: "
            "tr -d '\\000' < FILE > NEW."
        )


def _check_line_ends(path, beginning):
    """Refuses a file whose lines do not end with line feeds.

    `tf.data.TextLineDataset` removes every carriage return, and so joins the texts on both sides of
    one that is not part of CRLF.
    """
    found = re.search(rb"\r[^\r\n]", beginning)
    if found:
        raise ValueError(
            f"{path} has a carriage return inside a line, at byte {found.start()}; expected lines "
            "that end with \\n or \\r\\n. If its lines end with \\r alone (classic Mac), rewrite "
            "it: tr '\\r' '\\n' < FILE > NEW. Otherwise replace it by a blank."
        )
