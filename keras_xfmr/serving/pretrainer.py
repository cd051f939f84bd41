"""The service of a pretrained model: words behind masks, and next sentences.

B batch, T length, P masks, K predictions
"""

import tensorflow as tf

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.serving.heads import (
    LENGTHS,
    SEGMENT_IDS,
    TOKEN_IDS,
    TextReader,
    float32,
    read_ids,
    strings,
    words_input,
)
from keras_xfmr.serving.requests import rows_inside, same_rows

POSITIONS = tf.TensorSpec([None, None], tf.int32, name="masked_positions")


def pretrainer(model, packer, *, pairs=False, top=5, max_masks=16, max_characters=None):
    """Predicts the words behind masks, and whether one text follows another."""
    top, max_masks = check_positive_int("top", top), check_positive_int("max_masks", max_masks)
    read = TextReader(model, packer, max_characters)
    if pairs and model.nsp_dense is None:
        raise ValueError(
            "`pairs` needs a BertPretrainer that tells whether sentences follow each other. "
            "Received: one with next_sentence=False. Leave `pairs` out."
        )

    longest = words_input(model).longest or read.longest

    def follows(logits):
        return {"follows": tf.nn.softmax(float32(logits["nsp"]))[:, 0]}

    def of_ids(token_ids, lengths, masked_positions, *segment_ids):
        inputs, valid = read_ids(model, token_ids, lengths, *segment_ids, longest=longest)
        lengths, sent = same_rows(tf.reduce_sum(inputs["attention_mask"], 1), masked_positions)
        valid = valid & rows_inside(sent, longest)
        # A server may pad with any position; positions outside a row return zeros.
        asked = sent[:, :max_masks]
        there = tf.logical_and(asked >= 0, asked < lengths[:, None])
        logits = model({**inputs, "masked_positions": tf.where(there, asked, 0)})
        scores = tf.nn.softmax(float32(logits["mlm"]))  # [B, P, V]
        best = tf.math.top_k(scores, min(top, scores.shape[-1]))
        missing = [[0, 0], [0, tf.shape(sent)[1] - tf.shape(asked)[1]], [0, 0]]
        there = tf.expand_dims(there, 2)
        answer = {
            "top_ids": tf.pad(tf.where(there, best.indices, 0), missing),
            "top_scores": tf.pad(tf.where(there, best.values, 0.0), missing),
            "valid": valid,
        }
        return {**answer, **follows(logits)} if pairs else answer

    def of_masked(text):
        pieces = packer.tokenizer.get_vocabulary()
        inputs, cut = read.masked(text)
        positions = inputs["masked_positions"]
        beyond = tf.reduce_any(positions[:, max_masks:] > 0, axis=1)
        positions = positions[:, :max_masks]
        logits = model({**inputs, "masked_positions": positions})
        # The table may have more rows than there are pieces.
        scores = tf.nn.softmax(float32(logits["mlm"]))[..., : len(pieces)]
        best = tf.math.top_k(scores, min(top, len(pieces)))
        masked = positions[:, :, None] > 0
        missing = [[0, 0], [0, max_masks - tf.shape(positions)[1]], [0, 0]]
        return {
            "top_pieces": tf.pad(tf.where(masked, tf.gather(pieces, best.indices), ""), missing),
            "top_scores": tf.pad(tf.where(masked, best.values, 0.0), missing),
            "truncated": tf.logical_or(cut["truncated"], beyond),
        }

    def of_pair(text, text_pair):
        inputs, cut = read(text, text_pair)
        nowhere = tf.zeros([tf.shape(text)[0], 1], tf.int32)
        return {**follows(model({**inputs, "masked_positions": nowhere})), **cut}

    ids = [TOKEN_IDS, LENGTHS, POSITIONS, *([SEGMENT_IDS] if pairs else [])]
    endpoints = {
        "serving_default": (of_pair, strings("text", "text_pair")) if pairs else (of_ids, ids),
        "ids": (of_ids, ids),
    }
    if packer.tokenizer.mask_id is not None:
        endpoints["fill_mask"] = (of_masked, strings("text"))
    return endpoints
