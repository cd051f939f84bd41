"""The service of a model that finds answers in texts.

B batch, T length, R windows
"""

import tensorflow as tf

from keras_xfmr import models
from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.serving.heads import (
    LENGTHS,
    SEGMENT_IDS,
    TOKEN_IDS,
    characters,
    float32,
    read_ids,
    strings,
)
from keras_xfmr.serving.requests import (
    CHARACTERS_A_PIECE_OF_CONTEXT,
    cut_text,
    in_parts,
    same_rows,
)
from keras_xfmr.text.packers.questions import context_mask
from keras_xfmr.text.packers.sentences import INPUTS


def span_predictor(model, packer, *, max_answer_length=30, max_windows=64, max_characters=None):
    """Answers that are parts of a text."""
    max_answer_length = check_positive_int("max_answer_length", max_answer_length)
    max_windows = check_positive_int("max_windows", max_windows)
    most_asked = characters(None, packer.max_question_length)
    pieces = packer.stride * (max_windows - 1) + packer.max_length
    most = characters(max_characters, pieces, CHARACTERS_A_PIECE_OF_CONTEXT)

    def spans(inputs):
        shown, logits = inputs["attention_mask"], model(inputs)
        start = tf.where(shown > 0, float32(logits["start"]), -1e9)
        end = tf.where(shown > 0, float32(logits["end"]), -1e9)
        context = context_mask(inputs)
        first, last, total = models.best_spans(
            start, end, context, max_answer_length=max_answer_length
        )
        start, end = tf.nn.softmax(start), tf.nn.softmax(end)
        score = tf.gather(start, first, batch_dims=1) * tf.gather(end, last, batch_dims=1)
        there = tf.reduce_any(context, axis=1)
        return {
            "first": tf.where(there, tf.cast(first, tf.int32), -1),
            "last": tf.where(there, tf.cast(last, tf.int32), -1),
            "score": tf.where(there, score, 0.0),
            "no_answer": tf.where(there, start[:, 0] * end[:, 0], 1.0),  # both at [CLS]
            "total": total,
        }

    def of_texts(question, context):
        question, context = same_rows(question, context)
        question, question_cut = cut_text(question, most_asked)
        context, context_cut = cut_text(context, most)
        packed = packer.pack(question, context, max_windows=max_windows)
        found = in_parts(spans, {name: packed[name] for name in INPUTS})
        no_answer = tf.RaggedTensor.from_row_lengths(found["no_answer"], packed["windows"])
        answers = packer.answers(packed, context, found["first"], found["last"], found["total"])
        return {
            "answer": answers["answer"],
            "score": tf.gather(found["score"], answers["window"]),
            "no_answer": tf.reduce_min(no_answer, axis=1),
            "start": answers["start"],
            "end": answers["end"],
            "truncated": tf.logical_or(packed["truncated"], question_cut),
            "context_truncated": tf.logical_or(packed["context_truncated"], context_cut),
        }

    def of_ids(*numbers):
        inputs, valid = read_ids(model, *numbers)
        found = spans(inputs)
        found = {name: found[name] for name in ("first", "last", "score", "no_answer")}
        return {**found, "valid": valid}

    return {
        "serving_default": (of_texts, strings("question", "context")),
        "ids": (of_ids, [TOKEN_IDS, LENGTHS, SEGMENT_IDS]),
    }
