"""Compiled twins are compiled for a few sizes of requests."""

import keras
import numpy as np
import tensorflow as tf
from served import in_memory

from keras_xfmr import serving, text
from keras_xfmr.serving.sizes import first_that_holds, sizes_up_to


class Widths(keras.Model):
    """Its search answers the number of rows and the width that a program was compiled for."""

    def __init__(self):
        super().__init__()
        self.source_embedding = self.target_embedding = keras.layers.Embedding(11, 2)
        self.pad_id, self.start_id, self.end_id = 0, 2, 3

    def make_generator(self, **options):
        def search(ids):
            rows, width = tf.unstack(tf.shape(ids))
            size = tf.fill([rows], tf.cast(1000 * rows + width, tf.float32))
            return {"token_ids": ids[:, :1], "lengths": ids[:, 0], "scores": size}

        return search


def test_requests_of_many_sizes_share_a_few_programs():
    letters = text.CharacterTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", "a"])
    service = in_memory(
        serving.export_saved_model, Widths(), (letters, letters), max_length=5, search="greedy",
        max_source_length=37, xla=True,
    )  # fmt: skip
    sizes = {"ids_xla": set(), "serving_default_xla": set()}
    for rows, width in [(1, 2), (2, 5), (3, 16), (3, 17), (4, 24), (4, 29), (4, 33), (0, 5)]:
        # Ids as a server pads them, beyond what is read.
        ids, lengths = np.full((rows, width + 5), 4, "int32"), np.full(rows, width, "int32")
        inputs = {
            "ids_xla": {"token_ids": tf.constant(ids), "lengths": tf.constant(lengths)},
            "serving_default_xla": {"text": tf.constant(["a" * (width - 1)] * rows, tf.string)},
        }
        for name, found in sizes.items():
            score = service[name](**inputs[name])["score"]
            assert score.shape == (rows,)
            found |= set(score.numpy().tolist())
    few = {1016, 2016, 4016, 4024, 4032, 4037}
    assert sizes == {"ids_xla": few, "serving_default_xla": few}


def test_sizes():
    assert sizes_up_to(37) == [16, 24, 32, 37] and sizes_up_to(32) == [16, 24, 32]
    assert sizes_up_to(7) == [7]
    found = [int(first_that_holds(tf.constant(size), [3, 8, 9])) for size in (-1, 3, 4, 9, 10)]
    assert found == [3, 3, 8, 9, 9]
