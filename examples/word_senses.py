"""Tests whether vectors distinguish the meanings of a word.

N sentences with one word, D size of the vectors
"""

import collections
import csv
import io

import command_line
import numpy as np
from absl import app


def read(path):
    """word -> pairs of a sense and a sentence, of a TSV `word sense sentence` with a header."""
    rows = csv.DictReader(io.StringIO(command_line.read_text(path)), delimiter="\t")
    words = collections.defaultdict(list)
    for row in rows:
        if None in row or None in row.values():
            raise app.UsageError(f"{path}, line {rows.line_num}: expected word, sense, sentence.")
        if row["word"] not in row["sentence"].split():
            raise app.UsageError(
                f"{path}, line {rows.line_num}: {row['word']!r} is no word of the sentence."
            )
        words[row["word"]].append((row["sense"], row["sentence"]))
    return dict(words)


def cosines(vectors):
    """`[N, D]` to `[N, N]`."""
    vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors @ vectors.T


def measure(vectors, senses):
    """Cosines of the vectors of one word within a sense and between senses.

    Returns:
        The mean cosine within; the mean between; the share of sentences whose nearest other
        sentence has the same sense (if several are equally near, their share counts).
    """
    same = np.equal.outer(senses, senses)
    others = ~np.eye(len(senses), dtype=bool)
    near = cosines(vectors)
    best = np.where(others, near, -np.inf).max(axis=1, keepdims=True)
    nearest = others & (near >= best - 1e-6)
    right = (nearest & same).sum(axis=1) / nearest.sum(axis=1)
    return near[same & others].mean(), near[~same].mean(), right.mean()


def report(words, layers_of):
    """Prints a line for each layer, means over the words.

    Args:
        words: the result of `read`.
        layers_of: from sentences and a word to the vectors of that word, a list of `[N, D]`.

    Returns:
        The input of `keras_xfmr.viz.similarity_maps`.
    """
    found, matrices = collections.defaultdict(list), {}
    for word, rows in words.items():
        senses, sentences = map(list, zip(*rows))
        layers = layers_of(sentences, word)
        matrices[word] = (senses, [cosines(layer) for layer in layers])
        for i, layer in enumerate(layers):
            found[i].append(measure(layer, np.array(senses)))
    for i, values in found.items():
        within, between, right = np.mean(values, axis=0)
        each = ", ".join(f"{word} {one[2]:.0%}" for word, one in zip(words, values))
        print(
            f"layer {i}: cosine within a sense {within:.3f}, between {between:.3f}, difference "
            f"{within - between:+.3f}; nearest has the sense: {right:.1%} ({each})"
        )
    return matrices
