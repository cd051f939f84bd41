"""The service of a model that tags words: words with tags, and the entities that they form.

B batch, T length, W max_words, E max_entities, C classes, R windows
"""

import tensorflow as tf

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.serving.heads import (
    characters,
    float32,
    ids_of,
    inputs_of,
    label_names,
    read_ids,
    read_words,
    strings,
)
from keras_xfmr.serving.requests import in_parts
from keras_xfmr.text.packers.entities import EntityFinder


def tagger(
    model, packer, *, labels=None, max_words=256, max_entities=64, stride=None, max_characters=None
):
    """Tags of words; entities."""
    max_words = check_positive_int("max_words", max_words)
    max_entities = check_positive_int("max_entities", max_entities)
    if stride is not None:
        stride = check_positive_int("stride", stride)
    names, most = label_names(model, labels), characters(max_characters, max_words)
    finder = EntityFinder([name.decode("utf8") for name in names.numpy()])

    def of_inputs(inputs):
        return {"scores": tf.nn.softmax(float32(model(inputs)))}

    def words_of(text):
        """Words, tags `[B, W]` (-1 for none), scores, places of words, and what was cut."""
        text, (words, starts, ends), truncated = read_words(packer, text, most, max_words)
        packed = packer.pack_word_windows(words, stride)
        scores = in_parts(of_inputs, inputs_of(model, packed))["scores"]
        window, position = packed["word_windows"].values, packed["word_positions"].values
        places = tf.stack([tf.maximum(window, 0), tf.maximum(position, 0)], axis=1)
        scores = tf.gather_nd(scores, places)  # [words of all texts, C]
        known = position >= 0
        tags = tf.where(known, tf.argmax(scores, axis=-1, output_type=tf.int32), -1)
        scores = tf.where(known, tf.reduce_max(scores, -1), 0.0)

        def wide(values, padding):
            return words.with_values(values).to_tensor(padding, shape=[None, max_words])

        where = wide(starts.values, -1), wide(ends.values, -1)
        return text, wide(words.values, ""), wide(tags, -1), wide(scores, 0.0), where, truncated

    def of_text(text):
        _, words, tags, scores, (start, end), truncated = words_of(text)
        named = tf.where(tags >= 0, tf.gather(names, tf.maximum(tags, 0)), "")
        return {
            "words": words, "tags": named, "scores": scores, "start": start, "end": end,
            "truncated": truncated,
        }  # fmt: skip

    def entities_of(text):
        return _entities(finder, max_entities, *words_of(text))

    def of_ids(ids, lengths):
        inputs, valid = read_ids(model, ids, lengths, longest=packer.max_length)
        # As wide as the request, and zeros after a row, so other rows do not change an answer.
        shown = tf.expand_dims(float32(inputs["attention_mask"]), 2)  # LiteRT has no [:, :, None]
        scores = of_inputs(inputs)["scores"] * shown
        width = tf.shape(ids)[1]
        scores = scores[:, :width]
        scores = tf.pad(scores, [[0, 0], [0, width - tf.shape(scores)[1]], [0, 0]])
        return {"scores": scores, "valid": valid}

    endpoints = {
        "serving_default": (of_text, strings("text")),
        "ids": (of_ids, ids_of(model)),
    }
    if "O" in finder.labels:  # otherwise every word would be part of one
        endpoints["entities"] = (entities_of, strings("text"))
    return endpoints


def _entities(finder, most, text, _, tags, scores, where, truncated):
    """The entities of tagged words, the outputs of `entities`."""
    # One more entity shows whether some are left out.
    kind, first, last = finder(tags, most + 1)
    truncated = tf.logical_or(truncated, kind[:, -1] >= 0)
    kind, first, last = (values[:, :-1] for values in (kind, first, last))
    there = kind >= 0
    first, last = tf.maximum(first, 0), tf.maximum(last, 0)
    start, end = (tf.gather(x, place, batch_dims=1) for x, place in zip(where, (first, last)))
    start, end = tf.where(there, start, 0), tf.where(there, end, 0)
    # Of the words that have a tag; those without have the score 0.
    total = _between(tf.cast(scores, tf.float64), first, last)
    count = _between(tf.cast(tags >= 0, tf.float64), first, last)
    score = float32(total / tf.maximum(count, 1.0))
    names = tf.constant([*finder.types, ""])
    whole = tf.repeat(text[:, None], most, axis=1)
    return {
        "entity": tf.gather(names, tf.where(there, kind, len(finder.types))),
        "text": tf.strings.substr(whole, start, end - start, unit="UTF8_CHAR"),
        "start": tf.where(there, start, -1),
        "end": tf.where(there, end, -1),
        "score": tf.where(there, score, 0.0),
        "truncated": truncated,
    }


def _between(values, first, last):
    """The sums of `values [B, W]` from `first` to `last [B, E]`."""
    total = tf.cumsum(tf.pad(values, [[0, 0], [1, 0]]), axis=1)
    return tf.gather(total, last + 1, batch_dims=1) - tf.gather(total, first, batch_dims=1)
