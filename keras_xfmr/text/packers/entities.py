"""Joins the tags of words to entities.

B batch, W words, E entities, C classes
"""

import re

import numpy as np
import tensorflow as tf

# BIO, BILOU, BIOES and BMEWO: which letters begin an entity, and which end one.
BEGINS, ENDS = "BSUW", "ELSUW"


class EntityFinder:
    """Joins the tags of words to entities.

    A tag is `O`, or a letter and a type: `B-PER`. A word begins an entity if its letter does (B; S,
    U and W, an entity of one word), or if the word before has another type, has the tag `O` or ends
    an entity (E, L, S, U, W). So IOB1, IOB2, BILOU and BIOES all work, and an I- without its B-
    begins an entity, as in conlleval. A tag without a letter is read as I-, and `PER-B` as `B-PER`.
    A word without a tag (without any token) is skipped: an entity may continue after it.

    Args:
        labels: names of the C classes, in their order.

    Example:

    >>> finder = EntityFinder(["O", "B-PER", "I-PER"])
    >>> kind, first, last = finder(tf.constant([[1, 2, 0, 1]]), max_entities=3)
    >>> kind.numpy().tolist(), first.numpy().tolist(), last.numpy().tolist()
    ([[0, 0, -1]], [[0, 3, -1]], [[1, 3, -1]])
    """

    def __init__(self, labels):
        self.labels = list(labels)
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
            tags: int32 `[B, W]`, classes, or -1 for a word without a tag and after the last word.
            max_entities: E.

        Returns:
            int32 `[B, E]` each: the index of the type in `types`, and the first and the last word;
            -1 after the last entity of a row.
        """
        words = _places(tags >= 0, tf.shape(tags)[1])  # the words with a tag
        tags = _at(tags, words)
        kind = tf.where(tags >= 0, tf.gather(self._kinds, tf.maximum(tags, 0)), -1)
        inside = kind >= 0
        begins = inside & tf.gather(self._begins, tf.maximum(tags, 0))
        ends = inside & tf.gather(self._ends, tf.maximum(tags, 0))
        before = tf.pad(kind[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
        ended = tf.pad(ends[:, :-1], [[0, 0], [1, 0]], constant_values=False)
        first = inside & (begins | ended | (kind != before))
        goes_on = tf.pad((inside & ~first)[:, 1:], [[0, 0], [0, 1]], constant_values=False)
        first, last = _places(first, max_entities), _places(inside & ~goes_on, max_entities)
        return _at(kind, first), _at(words, first), _at(words, last)


def _letter_and_type(label):
    if label == "O":
        return "O", None
    if found := re.fullmatch(r"([BIELMSUW])[-_](.+)", label, re.DOTALL):
        return found.groups()
    found = re.fullmatch(r"(.+)[-_]([BIELMSUW])", label, re.DOTALL)
    return (found[2], found[1]) if found else ("I", label)


def _at(values, places):
    """`values[b, places[b, e]]`, -1 if a place is -1: int32 `[B, E]`."""
    values = tf.pad(values, [[0, 0], [0, 1]])  # so that a row without words has a first place
    found = tf.gather(values, tf.maximum(places, 0), batch_dims=1)
    return tf.where(places >= 0, found, -1)


def _places(marked, most):
    """The first `most` places where a row is true, then -1: int32 `[B, most]`."""
    width = tf.shape(marked)[1]
    places = tf.sort(tf.where(marked, tf.range(width), width))
    places = tf.pad(places, [[0, 0], [0, most]], constant_values=0)[:, :most]
    count = tf.math.count_nonzero(marked, axis=1, dtype=tf.int32)
    return tf.where(tf.sequence_mask(count, most), places, -1)
