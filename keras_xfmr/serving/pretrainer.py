"""The service of a pretrained model: words in the places of masks, and next sentences.

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
)
from keras_xfmr.serving.requests import inside, same_rows

POSITIONS = tf.TensorSpec([None, None], tf.int32, name="masked_positions")


def pretrainer(model, packer, *, pairs=False, top=5, max_masks=16, max_characters=None):
    """Words in the places of masks; whether one text follows another."""
    top, max_masks = check_positive_int("top", top), check_positive_int("max_masks", max_masks)
    read = TextReader(model, packer, max_characters)
    if pairs and model.nsp_dense is None:
        raise ValueError(
            "`pairs` needs a BertPretrainer that tells whether sentences follow each other. "
            "Received: one with next_sentence=False. Leave `pairs` out."
        )

    def follows(logits):
        return {"follows": tf.nn.softmax(float32(logits["nsp"]))[:, 0]}

    def of_ids(token_ids, lengths, masked_positions, *segment_ids):
        inputs = read_ids(model, token_ids, lengths, *segment_ids)
        token_ids, positions = same_rows(inputs["token_ids"], masked_positions)
        message = f"Expected at most max_masks={max_masks} `masked_positions` a row."
        width = inside(tf.shape(positions)[1:], max_masks + 1, message)
        positions = tf.reshape(positions, [-1, width[0]])
        message = "Expected each of `masked_positions` inside the row of ids."
        positions = inside(positions, tf.shape(token_ids)[1], message)
        logits = model({**inputs, "masked_positions": positions})
        scores = tf.nn.softmax(float32(logits["mlm"]))  # [B, P, V]
        best = tf.math.top_k(scores, min(top, scores.shape[-1]))
        answer = {"top_ids": best.indices, "top_scores": best.values}
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
