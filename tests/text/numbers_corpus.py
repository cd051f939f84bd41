"""A tokenizer whose tokens are written as their ids, corpora in which no token comes twice, and
what a `PretrainingDataset` makes of them."""

import numpy as np
import tensorflow as tf

from keras_xfmr import text
from keras_xfmr.text.data.pretraining import PretrainingDataset

PAD, START, END, MASK = 1, 2, 3, 4
FIRST = 5  # the smallest id that is not special
VOCABULARY = 100_003
T, B, P = 31, 13, 5  # max_length, batch_size, max_predictions by default


class NumberTokenizer(text.Tokenizer):
    """`"17 5"` has the ids 17 and 5; an id that is 2 or 3 modulo 5 goes on with a word."""

    mask_id = MASK
    special_ids = (PAD, START, END, MASK)
    vocab_size = VOCABULARY

    def __init__(self):
        super().__init__(pad_id=PAD, unknown_id=0, start_id=START, end_id=END)
        self.mask_id = MASK

    def tokenize(self, texts):
        words = tf.strings.split(tf.strings.regex_replace(texts, "[^0-9 ]", ""))
        return words.with_flat_values(tf.strings.to_number(words.flat_values, tf.int32))

    def continuations(self):
        return np.isin(np.arange(VOCABULARY) % 5, (2, 3))

    def detokenize_pieces(self, ids):
        return tf.strings.reduce_join(tf.strings.as_string(ids), axis=1, separator=" ")


def documents_of(lengths):
    """Lengths of the segments of each document to documents of segments of ids, counted up."""
    after, documents = FIRST, []
    for document in lengths:
        documents.append([])
        for length in document:
            documents[-1].append(list(range(after, after + length)))
            after += length
    return documents


def write(path, documents):
    """One segment a line, a blank line after each document."""
    lines = ("\n".join(" ".join(map(str, s)) for s in document) for document in documents)
    path.write_text("\n\n".join(lines) + "\n", "utf8")
    return path


def random_lengths(rng, documents, segments, tokens):
    return [rng.integers(1, tokens, rng.integers(1, segments)).tolist() for _ in range(documents)]


def data_of(path, **options):
    options = {"max_length": T, "batch_size": B, **options}
    return PretrainingDataset(path, NumberTokenizer(), **options)


def read(data, dataset=None):
    """All batches of an iteration, each a flat dict of arrays."""
    batches = []
    for inputs, labels, weights in (dataset or data.dataset()).as_numpy_iterator():
        labels = {f"{name}_label": value for name, value in labels.items()}
        weights = {f"{name}_weight": value for name, value in weights.items()}
        batches.append({**inputs, **labels, **weights})
    return batches


def rows_of(batches):
    """Instances as dicts, rows of padding left out, with the hidden ids put back as `original`."""
    rows = [dict(zip(batch, row)) for batch in batches for row in zip(*batch.values())]
    rows = [row for row in rows if row["attention_mask"].any()]
    for row in rows:
        chosen = row["mlm_label"] != PAD
        row["positions"] = row["masked_positions"][chosen]
        row["original"] = row["token_ids"].copy()
        row["original"][row["positions"]] = row["mlm_label"][chosen]
    return rows


def pair(row):
    """The ids of A and B."""
    ends = np.flatnonzero(row["original"] == END)
    a, b = row["original"][1 : ends[0]], row["original"][ends[0] + 1 : ends[-1]]
    return a.tolist(), b.tolist()


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
