"""The lines that a vocabulary is learned from."""

import codecs
import collections
import math
import random

import tensorflow as tf

from keras_xfmr.common.checks import check_int, check_seed
from keras_xfmr.text.data.files import TextFiles
from keras_xfmr.text.data.streaming import NO_TEXT, untuned

# Enough for a vocabulary; the rest of a large corpus would only take memory.
SAMPLE_LINES = 1_000_000
LINES = 4096  # lines that are read and checked together


class Sample:
    """Each call returns the lines to learn from, in lists of bytes.

    Args:
        texts: names of files, or patterns of them, or a data set of strings.
        size: number of lines to draw at random from the whole text; they are kept in memory. None
            for the first `SAMPLE_LINES`, an equal share of each file, read at each call.
        seed: seed of the drawing.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: there is no text, or something other than text.
    """

    def __init__(self, texts, size=None, seed=0):
        check_seed(seed)
        if size is not None:
            check_int("sample", size, 1)
        self._what, self._drawn = "the data set", None
        if not isinstance(texts, tf.data.Dataset):
            self._what, texts = repr(texts), TextFiles(texts)
        elif texts.element_spec != tf.TensorSpec([], tf.string):
            raise ValueError(
                "Expected a data set of single strings; use its `unbatch` or `map`. Received: "
                f"elements {texts.element_spec}."
            )
        self._texts = texts
        if size is not None:
            self._drawn = _draw(_numbered(texts), size, random.Random(seed))
        # The whole text is checked first: a trainer would replace the error by its own.
        if not any([any(line.strip() for line in lines) for lines in self()]):
            raise self.nothing()

    def __call__(self):
        if self._drawn is None:
            return _first(self._texts)
        starts = range(0, len(self._drawn), LINES)
        return (self._drawn[start : start + LINES] for start in starts)

    def nothing(self):
        """The error that there is no text."""
        return ValueError(
            f"Expected text to learn a vocabulary from. Received: none, in {self._what}."
        )


def _first(texts):
    """The first `SAMPLE_LINES` lines, in lists, checked."""
    left = SAMPLE_LINES
    if isinstance(texts, tf.data.Dataset):
        texts = texts.take(left)
    for place, number, lines in _numbered(texts):
        lines = lines[:left]
        if not _is_text(b"\n".join(lines)):
            number += [_is_text(line) for line in lines].index(False)
            raise _bad_line(place, number)
        yield lines
        left -= len(lines)
        if not left:
            break


def _draw(stretches, size, draw):
    """`size` lines, or all if there are fewer (Li 1994, algorithm L).

    Lines that are not drawn are not checked.
    """
    kept, before = [], 0
    weight = (1 - draw.random()) ** (1 / size)
    chosen = size + _skipped(weight, draw)  # the next line that takes a place, from 0
    for place, number, lines in stretches:
        missing = size - len(kept)
        taken = list(range(min(missing, len(lines))))
        slots = [len(kept) + index for index in taken]
        while chosen < before + len(lines):
            taken.append(chosen - before)
            slots.append(draw.randrange(size))
            weight *= (1 - draw.random()) ** (1 / size)
            chosen += 1 + _skipped(weight, draw)
        kept += [None] * min(max(missing, 0), len(lines))
        for index, slot in zip(taken, slots):
            if not _is_text(lines[index]):
                raise _bad_line(place, number + index)
            kept[slot] = lines[index]
        before += len(lines)
    return kept


def _skipped(weight, draw):
    """How many lines pass before the next one that is drawn."""
    return math.floor(math.log(1 - draw.random()) / math.log1p(-weight)) if weight < 1 else 0


def _bad_line(place, number):
    return ValueError(
        f"{place}:{number}: {NO_TEXT}. Mend the line, or learn from "
        "`keras_xfmr.text.Documents(files, on_bad_line='skip').sentences()`, which leaves "
        "such lines out and counts them."
    )


def _is_text(content):
    """Whether bytes are UTF-8 without NUL characters; `streaming.is_text` in Python."""
    try:
        content.decode("utf8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _numbered(texts):
    """(source, number of the first line, lines) of every part of a text."""
    if isinstance(texts, tf.data.Dataset):
        for index, lines in enumerate(untuned(texts.batch(LINES)).as_numpy_iterator()):
            yield "the data set", 1 + index * LINES, lines.tolist()
        return
    # The files take turns, so that a long one does not keep others out of a sample.
    size = max(min(LINES, SAMPLE_LINES // (len(texts) or 1)), 1)
    waiting = collections.deque((reader, 1) for reader in texts.readers())
    while waiting:
        reader, number = waiting.popleft()
        if lines := reader.take(size):
            # A file joined from several has byte order marks in its middle too.
            unmarked = [line.removeprefix(codecs.BOM_UTF8) for line in lines]
            yield reader.name, number, [line.rstrip(b"\r\n") for line in unmarked]
            waiting.append((reader, number + len(lines)))
