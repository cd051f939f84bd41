"""Tags of words to entities: which words belong together.

B batch, W words, E entities, C classes
"""

import re

import numpy as np
import tensorflow as tf

# BIO, BILOU, BIOES and BMEWO: which letters begin an entity, and which end one.
BEGINS, ENDS = "BSUW", "ELSUW"


class EntityFinder:
    """Joins the tags of words to entities.

    A tag is `O`, or a letter and a type: `B-PER`. A word begins an entity where its letter does (B;
    S, U and W, an entity of one word), or where the word before has another type, has the tag `O`
    or ends an entity (E, L, S, U, W). So IOB1, IOB2, BILOU and BIOES are all read, and an I-
    without its B- begins an entity, as conlleval counts. A tag without a letter is read as I-.

    Args:
        labels: names of the C classes, in their order.

    Example:

    >>> finder = EntityFinder(["O", "B-PER", "I-PER"])
    >>> kind, first, last = finder(tf.constant([[1, 2, 0, 1]]), max_entities=3)
    >>> kind.numpy().tolist(), first.numpy().tolist(), last.numpy().tolist()
    ([[0, 0, -1]], [[0, 3, -1]], [[1, 3, -1]])
    """

    def __init__(self, labels):
        parts = [_letter_and_type(label) for label in labels]
        self.types = sorted({kind for _, kind in parts if kind is not None})
        place = {None: -1, **{kind: i for i, kind in enumerate(self.types)}}
        self._kinds = np.array([place[kind] for _, kind in parts], "int32")
        self._begins = np.array([letter in BEGINS for letter, _ in parts])
        self._ends = np.array([letter in ENDS for letter, _ in parts])

    @tf.autograph.experimental.do_not_convert
    def __call__(self, tags, max_entities):
        """The first `max_entities` entities of each row.

        Args:
            tags: int32 `[B, W]`, classes, or -1 for a word without a tag and behind the last word.
            max_entities: E.

        Returns:
            int32 `[B, E]` each: the place of the type in `types`, and the first and the last word;
            -1 behind the last entity of a row.
        """
        tagged, tags = tags >= 0, tf.maximum(tags, 0)
        kind = tf.where(tagged, tf.gather(self._kinds, tags), -1)
        begins = tf.logical_and(tagged, tf.gather(self._begins, tags))
        ends = tf.logical_and(tagged, tf.gather(self._ends, tags))
        inside = kind >= 0
        before = tf.pad(kind[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
        ended = tf.pad(ends[:, :-1], [[0, 0], [1, 0]], constant_values=False)
        first = inside & (begins | ended | (kind != before))
        goes_on = tf.pad((inside & ~first)[:, 1:], [[0, 0], [0, 1]], constant_values=False)
        first, last = _places(first, max_entities), _places(inside & ~goes_on, max_entities)
        kind = tf.pad(kind, [[0, 0], [0, 1]])  # a row without words has a first place, too
        kind = tf.gather(kind, tf.maximum(first, 0), batch_dims=1)
        return tf.where(first >= 0, kind, -1), first, last


def _letter_and_type(label):
    if label == "O":
        return "O", None
    found = re.fullmatch(r"([BIELMSUW])[-_](.+)", label, re.DOTALL)
    return found.groups() if found else ("I", label)


def _places(marked, most):
    """Where a row is true, the first `most` places, then -1: int32 `[B, most]`."""
    width = tf.shape(marked)[1]
    places = tf.sort(tf.where(marked, tf.range(width), width))
    places = tf.pad(places, [[0, 0], [0, most]], constant_values=0)[:, :most]
    count = tf.math.count_nonzero(marked, axis=1, dtype=tf.int32)
    return tf.where(tf.sequence_mask(count, most), places, -1)
