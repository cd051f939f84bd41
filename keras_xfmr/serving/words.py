"""The service of an Elmo: the vectors of words.

B batch, T words of a row, W max_words, D d_model
"""

import copy
import functools

import tensorflow as tf

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.serving.heads import (
    LENGTHS,
    characters,
    float32,
    ids_of,
    read_ids,
    read_words,
    strings,
    words_input,
)
from keras_xfmr.serving.requests import first_of_rows

WORDS = tf.TensorSpec([None, None], tf.string, name="words")


def word_vectors(model, packer, *, max_words=None, max_characters=None):
    """The vectors of each layer, and their mean."""
    max_words = packer.max_length if max_words is None else max_words
    max_words = check_positive_int("max_words", max_words)
    most = characters(max_characters, max_words)
    packer = copy.copy(packer)
    packer.max_length = max_words  # a text is one row
    ids = words_input(model)
    shapes = {ids.name: [None, *ids.shape], "attention_mask": [None, None]}
    signature = [tf.TensorSpec(shape, tf.int32, name=name) for name, shape in shapes.items()]

    # As a `tf.function`, it is traced once for all signatures.
    @functools.partial(tf.function, input_signature=[signature], autograph=False)
    def of_inputs(inputs):
        shown = tf.expand_dims(float32(inputs[1]), 2)
        missing = [[0, 0], [0, max_words - tf.shape(shown)[1]], [0, 0]]
        layers = model(dict(zip(shapes, inputs)))
        layers = [tf.pad(float32(layer) * shown, missing) for layer in layers]
        layers = [tf.ensure_shape(layer, [None, max_words, model.d_model]) for layer in layers]
        named = {f"layer_{i}": layer for i, layer in enumerate(layers)}
        return {**named, "mean": tf.add_n(layers) / len(layers)}

    def of_packed(inputs):
        return of_inputs([inputs[name] for name in shapes])

    def of_ragged(words):
        return of_packed(packer.pack_words(words))

    def of_text(text):
        _, (words, starts, ends), truncated = read_words(packer, text, most, max_words)

        def wide(values, padding):
            return values.to_tensor(padding, shape=[None, max_words])

        return {
            "words": wide(words, ""), "start": wide(starts, -1), "end": wide(ends, -1),
            **of_ragged(words), "truncated": truncated,
        }  # fmt: skip

    def of_words(words, lengths):
        words, shown, valid = first_of_rows(words, lengths, max_words, "", "words")
        counts = tf.reduce_sum(shown, axis=1)
        found = of_ragged(tf.RaggedTensor.from_tensor(words, lengths=counts))
        return {**found, "valid": valid}

    def of_ids(ids, lengths):
        inputs, valid = read_ids(model, ids, lengths, longest=max_words)
        return {**of_packed(inputs), "valid": valid}

    return {
        "serving_default": (of_text, strings("text")),
        "words": (of_words, [WORDS, LENGTHS]),
        "ids": (of_ids, ids_of(model)),
    }
