"""Services of models that read one text or two as one row: vectors, classes, values.

Each function returns name -> (function, input signature) for one kind of model.

B batch, T length, W max_words, C classes
"""

import copy

import tensorflow as tf

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.models.core.arguments import class_names
from keras_xfmr.serving.requests import (
    CHARACTERS_A_PIECE,
    cut_text,
    read_up_to,
    rows_inside,
    same_rows,
    where_rows,
)
from keras_xfmr.text.ragged import take_first

TOKEN_IDS = tf.TensorSpec([None, None], tf.int32, name="token_ids")
LENGTHS = tf.TensorSpec([None], tf.int32, name="lengths")
SEGMENT_IDS = tf.TensorSpec([None, None], tf.int32, name="segment_ids")


def embedder(model, packer, *, pairs=False, max_characters=None):
    """Vectors."""
    read = TextReader(model, packer, max_characters)
    return _endpoints(model, read, pairs, lambda inputs: {"vector": model(inputs)})


def classifier(model, packer, *, pairs=False, labels=None, max_characters=None):
    """Classes; the value of a regression."""
    names, read = label_names(model, labels), TextReader(model, packer, max_characters)

    def logits_of(inputs):
        outputs = model(inputs)
        name = model.classes_output
        return float32(outputs if name is None else outputs[name])

    if model.num_classes == 1 and not model.multi_label:
        return _endpoints(model, read, pairs, lambda inputs: {"value": logits_of(inputs)[:, 0]})

    probabilities = tf.sigmoid if model.multi_label else tf.nn.softmax

    def of_inputs(inputs):
        return {"scores": probabilities(logits_of(inputs))}

    def of_texts(*texts):
        inputs, cut = read(*texts)
        scores = of_inputs(inputs)["scores"]
        label = tf.gather(names, tf.argmax(scores, axis=-1))
        return {"label": label, "score": tf.reduce_max(scores, -1), "scores": scores, **cut}

    return _endpoints(model, read, pairs, of_inputs, of_texts)


def _endpoints(model, read, pairs, of_inputs, of_texts=None):
    """Raw text, and ids."""

    def numbers_of_texts(*texts):
        inputs, cut = read(*texts)
        return {**of_inputs(inputs), **cut}

    def of_ids(*numbers):
        inputs, valid = read_ids(model, *numbers, longest=read.longest)
        return {**of_inputs(inputs), "valid": valid}

    segments = pairs and any(one.name == "segment_ids" for one in model.declared_inputs)
    return {
        "serving_default": (
            of_texts or numbers_of_texts,
            strings("text", *(["text_pair"] if pairs else [])),
        ),
        "ids": (of_ids, [*ids_of(model), *([SEGMENT_IDS] if segments else [])]),
    }


# ---- what the other heads share


def label_names(model, labels):
    """The names of a model's classes, as a tensor."""
    if labels is None:
        labels = model.labels or [str(i) for i in range(model.num_classes)]
    labels = [labels] if isinstance(labels, str) else labels
    return tf.constant(class_names(labels, model.num_classes))


def strings(*names):
    """The signature of an input of strings for each name."""
    return [tf.TensorSpec([None], tf.string, name=name) for name in names]


def characters(given, pieces, a_piece=CHARACTERS_A_PIECE):
    """How many characters of a text a service reads, if its model reads `pieces` pieces."""
    default = a_piece * pieces
    return check_positive_int("max_characters", default if given is None else given)


class TextReader:
    """From texts to a model's inputs, and `truncated`, whether a text was too long.

    Args:
        model: the model.
        packer: the model's packer.
        max_characters: of a text that are read; by default `CHARACTERS_A_PIECE` for each piece.

    Attributes:
        longest: the most positions of a row that the packer makes.
    """

    def __init__(self, model, packer, max_characters):
        self._model = model
        self.longest = packer.max_length
        self._most = characters(max_characters, self.longest)
        self._packer = copy.copy(packer)
        self._packer.report_truncation = True  # a client cannot see what was cut

    def __call__(self, *texts):
        return self._read(self._packer, texts)

    def masked(self, text):
        """As the call, for a text with `[MASK]`: the inputs also have `masked_positions`."""
        return self._read(self._packer.pack_masked, [text])

    def _read(self, pack, texts):
        texts, beyond = zip(*(cut_text(text, self._most) for text in same_rows(*texts)))
        packed = pack(*texts)
        reported = [packed["truncated"]] if "truncated" in packed else []  # not by every packer
        truncated = tf.reduce_any(tf.stack([*reported, *beyond]), axis=0)
        return inputs_of(self._model, packed), {"truncated": truncated}


def inputs_of(model, packed):
    """The inputs that a model reads from packed rows; some models have no segments."""
    return {one.name: packed[one.name] for one in model.declared_inputs if one.name in packed}


def words_input(model):
    """The declared input of a model that has a row's tokens or words."""
    name = encoder_of(model).words_input
    return next(one for one in model.declared_inputs if one.name == name)


def encoder_of(model):
    """The encoder of a head, or the model itself."""
    return getattr(model, "encoder", model)


def ids_of(model):
    """The signature of a model's ids: tokens or words `[B, T]`, or characters `[B, T, C]`."""
    # `read_ids` checks C: a server does not check shapes.
    words = words_input(model)
    shape = [None] * (1 + len(words.shape))
    return [tf.TensorSpec(shape, tf.int32, name=words.name), LENGTHS]


def read_ids(model, ids, lengths, segment_ids=None, *, longest=None):
    """A model's inputs from the first `lengths` ids of each row, and which rows are valid.

    Args:
        model: the model.
        ids, lengths, segment_ids: the request. A row without a segment for each of its ids is not
            valid.
        longest: the most ids of a row, for a model that can read any number.
    """
    declared, words = {one.name: one for one in model.declared_inputs}, words_input(model)
    ids = tf.ensure_shape(ids, [None, *words.shape])  # fails the request
    longest = longest if words.longest is None else words.longest
    ids, mask, valid = read_up_to(
        ids, lengths, longest, vocab_size=words.size, pad_id=0, name=words.name
    )
    inputs = {words.name: ids, "attention_mask": mask}
    if segment_ids is not None:
        _, segment_ids = same_rows(ids, segment_ids)
        width, sent = tf.shape(mask)[1], tf.shape(segment_ids)[1]
        segment_ids = tf.pad(segment_ids, [[0, 0], [0, tf.maximum(width - sent, 0)]])
        segment_ids = segment_ids[:, :width] * mask
        known = rows_inside(segment_ids, declared["segment_ids"].size)
        whole = tf.reduce_sum(mask, axis=1) <= sent
        valid = valid & known & whole
        inputs["segment_ids"] = where_rows(known, segment_ids, 0)
    # The model reads at least one position; ids of width 0 are an empty text.
    missing = tf.maximum(1 - tf.shape(mask)[1], 0)
    inputs = {
        name: tf.pad(values, [[0, 0], [0, missing], [0, 0]][: values.shape.rank])
        for name, values in inputs.items()
    }
    return inputs, valid


def read_words(packer, text, most, max_words):
    """The words of texts, up to the bounds of a service.

    Args:
        packer: it divides the texts.
        text: strings `[B]`.
        most: characters of a text that are read.
        max_words: W.

    Returns:
        The texts that are read; their words, starts and ends, ragged `[B, (W)]`; and bool `[B]`,
        whether something was cut off.
    """
    text, truncated = cut_text(text, most)
    found = packer.split_words(text)
    counts = found[0].row_lengths()
    kept = tf.minimum(counts, max_words)
    truncated = tf.logical_or(truncated, kept < counts)
    return text, [take_first(values, kept) for values in found], truncated


def float32(values):
    """Numbers as float32, the type of answers."""
    return tf.cast(values, tf.float32)
