"""What the models on top of BERT are asked as a service, and what they answer.

Each function gives name -> (function, input signature) of one kind of model.

B batch, T length, W words, P positions, C classes, K predictions
"""

import copy

import tensorflow as tf

from keras_xfmr import models
from keras_xfmr.layers.composite import whole_number
from keras_xfmr.models.arguments import class_names
from keras_xfmr.models.bert import INPUTS
from keras_xfmr.serving.requests import inside, read_up_to, same_rows, same_shape
from keras_xfmr.text.questions import BLANKS, context_mask

TOKEN_IDS = tf.TensorSpec([None, None], tf.int32, name="token_ids")
LENGTHS = tf.TensorSpec([None], tf.int32, name="lengths")
SEGMENT_IDS = tf.TensorSpec([None, None], tf.int32, name="segment_ids")
POSITIONS = tf.TensorSpec([None, None], tf.int32, name="masked_positions")


def embedder(model, packer, *, pairs=False):
    """Vectors."""
    return _endpoints(model, packer, pairs, lambda inputs: {"vector": model(inputs)})


def classifier(model, packer, *, pairs=False, labels=None):
    """Classes; the value of a regression."""
    names = _class_names(model, labels)
    if model.num_classes == 1 and not model.multi_label:
        value = lambda inputs: {"value": _float32(model(inputs)[:, 0])}  # noqa: E731
        return _endpoints(model, packer, pairs, value)

    probabilities = tf.sigmoid if model.multi_label else tf.nn.softmax

    def of_inputs(inputs):
        return {"scores": probabilities(_float32(model(inputs)))}

    def of_texts(*texts):
        inputs, cut = _packed(packer, *texts)
        scores = of_inputs(inputs)["scores"]
        label = tf.gather(names, tf.argmax(scores, axis=-1))
        return {"label": label, "score": tf.reduce_max(scores, -1), "scores": scores, **cut}

    return _endpoints(model, packer, pairs, of_inputs, of_texts)


def tagger(model, packer, *, labels=None):
    """Tags of words."""
    names = _class_names(model, labels)

    def of_inputs(inputs):
        return {"scores": tf.nn.softmax(_float32(model(inputs)))}

    def of_text(text):
        words = tf.strings.split(tf.strings.regex_replace(text, BLANKS, " "))
        packed = _reporting(packer).pack_words(words)
        positions = packed["word_positions"]
        scores = of_inputs({name: packed[name] for name in INPUTS})["scores"]
        known = positions >= 0
        scores = tf.gather(scores, tf.maximum(positions, 0), batch_dims=1)  # [B, W, C]
        return {
            "words": words.to_tensor(""),
            "tags": tf.where(known, tf.gather(names, tf.argmax(scores, axis=-1)), ""),
            "scores": tf.where(known, tf.reduce_max(scores, -1), 0.0),
            **_cut(packed),
        }

    return _endpoints(model, packer, False, of_inputs, of_text)


def span_predictor(model, packer, *, max_answer_length=30):
    """Answers that stand in a text."""
    max_answer_length = whole_number("max_answer_length", max_answer_length)

    def spans(inputs):
        shown, logits = inputs["attention_mask"], model(inputs)
        start = tf.where(shown > 0, _float32(logits["start"]), -1e9)
        end = tf.where(shown > 0, _float32(logits["end"]), -1e9)
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
        }, total

    def of_texts(question, context):
        packed = packer.pack(*same_rows(question, context))
        found, total = spans({name: packed[name] for name in INPUTS})
        no_answer = tf.RaggedTensor.from_row_lengths(found["no_answer"], packed["windows"])
        answers = packer.answers(packed, context, found["first"], found["last"], total)
        return {
            "answer": answers["answer"],
            "score": tf.gather(found["score"], answers["window"]),
            "no_answer": tf.reduce_min(no_answer, axis=1),
            "start": answers["start"],
            "end": answers["end"],
            "truncated": packed["truncated"],
        }

    ids = [TOKEN_IDS, LENGTHS, SEGMENT_IDS]
    return {
        "serving_default": (of_texts, _strings("question", "context")),
        "ids": (lambda *numbers: spans(_shown(model, *numbers))[0], ids),
    }


def pretrainer(model, packer, *, pairs=False, top=5):
    """Words in the places of masks; whether one text follows another."""
    top = whole_number("top", top)
    if pairs and model.nsp_dense is None:
        raise ValueError(
            "`pairs` needs a BertPretrainer that tells whether sentences follow each other. "
            "Received: one with next_sentence=False. Leave `pairs` out."
        )

    def follows(logits):
        return {"follows": tf.nn.softmax(_float32(logits["nsp"]))[:, 0]}

    def of_ids(token_ids, lengths, masked_positions, *segment_ids):
        inputs = _shown(model, token_ids, lengths, *segment_ids)
        message = "Expected each of `masked_positions` inside the row of ids."
        positions = inside(masked_positions, tf.shape(inputs["token_ids"])[1], message)
        logits = model({**inputs, "masked_positions": positions})
        scores = tf.nn.softmax(_float32(logits["mlm"]))  # [B, P, V]
        best = tf.math.top_k(scores, min(top, scores.shape[-1]))
        answer = {"top_ids": best.indices, "top_scores": best.values}
        return {**answer, **follows(logits)} if pairs else answer

    def of_masked(text):
        pieces = packer.tokenizer.get_vocabulary()
        packed = _reporting(packer).pack_masked(text)
        positions = packed["masked_positions"]
        logits = model({name: packed[name] for name in (*INPUTS, "masked_positions")})
        # The table may have more rows than there are pieces.
        scores = tf.nn.softmax(_float32(logits["mlm"]))[..., : len(pieces)]
        best = tf.math.top_k(scores, min(top, len(pieces)))
        masked = positions[:, :, None] > 0
        return {
            "top_pieces": tf.where(masked, tf.gather(pieces, best.indices), ""),
            "top_scores": tf.where(masked, best.values, 0.0),
            **_cut(packed),
        }

    def of_pair(text, text_pair):
        inputs, cut = _packed(packer, text, text_pair)
        nowhere = tf.zeros([tf.shape(text)[0], 1], tf.int32)
        return {**follows(model({**inputs, "masked_positions": nowhere})), **cut}

    ids = [TOKEN_IDS, LENGTHS, POSITIONS, *([SEGMENT_IDS] if pairs else [])]
    endpoints = {
        "serving_default": (of_pair, _strings("text", "text_pair")) if pairs else (of_ids, ids),
        "ids": (of_ids, ids),
    }
    if packer.tokenizer.mask_id is not None:
        endpoints["fill_mask"] = (of_masked, _strings("text"))
    return endpoints


def _class_names(model, labels):
    if labels is None:
        labels = model.labels or [str(i) for i in range(model.num_classes)]
    labels = [labels] if isinstance(labels, str) else labels
    return tf.constant(class_names(labels, model.num_classes))


def _endpoints(model, packer, pairs, of_inputs, of_texts=None):
    """Raw text, and ids."""

    def numbers_of_texts(*texts):
        inputs, cut = _packed(packer, *texts)
        return {**of_inputs(inputs), **cut}

    ids = [TOKEN_IDS, LENGTHS, *([SEGMENT_IDS] if pairs else [])]
    return {
        "serving_default": (
            of_texts or numbers_of_texts,
            _strings("text", *(["text_pair"] if pairs else [])),
        ),
        "ids": (lambda *numbers: of_inputs(_shown(model, *numbers)), ids),
    }


def _strings(*names):
    return [tf.TensorSpec([None], tf.string, name=name) for name in names]


def _packed(packer, *texts):
    """A model's inputs, and what is said of texts that were too long."""
    packed = _reporting(packer)(*same_rows(*texts))
    return {name: packed[name] for name in INPUTS}, _cut(packed)


def _reporting(packer):
    """The packer, which says what it cut: a client cannot see it."""
    packer = copy.copy(packer)
    packer.report_truncation = True
    return packer


def _cut(packed):
    """A user's own packer may say nothing."""
    return {name: packed[name] for name in ("truncated",) if name in packed}


def _shown(model, token_ids, lengths, segment_ids=None):
    """A model's inputs, of which only the first `lengths` count."""
    bert = model.bert
    token_ids, mask = read_up_to(
        token_ids,
        lengths,
        bert.position_embedding.max_length,
        vocab_size=bert.token_embedding.input_dim,
        pad_id=0,
    )
    inputs = {"token_ids": token_ids, "attention_mask": mask}
    if segment_ids is not None:
        segment_ids = segment_ids[:, : tf.shape(mask)[1]]
        segment_ids = same_shape(segment_ids, mask, "Expected a segment for each id.") * mask
        size = bert.segment_embedding.input_dim
        message = f"Expected segments from 0 on, below the {size} rows of the model's table."
        inputs["segment_ids"] = inside(segment_ids, size, message)
    # The model reads one position at least; ids of no width are an empty text.
    missing = tf.maximum(1 - tf.shape(token_ids)[1], 0)
    return {name: tf.pad(values, [[0, 0], [0, missing]]) for name, values in inputs.items()}


def _float32(values):
    return tf.cast(values, tf.float32)
