"""BERT models as SavedModels that read raw text.

B batch, T length, W words, C classes, D d_model
"""

import tensorflow as tf

from keras_xfmr import models
from keras_xfmr.serving.publish import check_answers, new_version, write

INPUTS = ("token_ids", "segment_ids", "attention_mask")


def export_encoder(
    model, packer, path, *, labels=None, pairs=False, version=None, check_texts=None
):
    """Writes `path/version/`, a SavedModel that TensorFlow Serving loads, and returns its path.

    `serving_default` takes `text [B]`, and with `pairs=True` `text_pair [B]`, and answers

    - `BertClassifier`: `label [B]`, `score [B]` its probability, `scores [B, C]`; with one class,
      a regression, `value [B]`;
    - `BertTokenClassifier`: of the words between blanks, `words [B, W]`, `tags [B, W]` and
      `scores [B, W]`, padded with empty strings; a word that was cut away has an empty tag;
    - `BertEmbedder`: `vector [B, D]`.

    `ids` takes `token_ids [B, T]` and `lengths [B]` (with `pairs=True` also `segment_ids`) and
    answers the numbers: `scores`, `value` or `vector`. Only the first `lengths` ids of a row are
    read, so whatever a server pads its batches with does no harm. Written, checked and renamed as
    by `export_saved_model`.

    Args:
        model: a `BertClassifier`, `BertTokenClassifier` or `BertEmbedder`.
        packer: the `keras_xfmr.text.SentencePacker` that the model was trained with.
        path: the model's folder.
        labels: names of the classes in their order; their numbers by default.
        pairs: whether the model reads two sentences.
        version: a positive integer; by default one more than the highest in `path`.
        check_texts: what the written model is asked.

    Raises:
        ValueError: arguments that do not fit the model.
        FileExistsError: the version is there already.
        RuntimeError: the written model does not answer as the model in memory; nothing appears.

    Example::

        export_encoder(classifier, packer, "models/reviews", labels=["bad", "good"])
    """
    tokenizer, rows = packer.tokenizer, model.bert.token_embedding.input_dim
    if tokenizer.vocab_size > rows or tokenizer.pad_id != model.bert.pad_token_id:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} ids and pad_id={tokenizer.pad_id}, the "
            f"model's table {rows} rows and pad_token_id={model.bert.pad_token_id}. Is this the "
            "tokenizer that the model was trained with?"
        )
    answer_text, answer_ids = _answers(model, packer, labels)
    if pairs and isinstance(model, models.BertTokenClassifier):
        raise ValueError("A BertTokenClassifier tags the words of one text. Leave out `pairs`.")

    def from_ids(token_ids, lengths, segment_ids=None):
        mask = tf.sequence_mask(lengths, tf.shape(token_ids)[1], tf.int32)
        inputs = {"token_ids": token_ids * mask, "attention_mask": mask}
        if segment_ids is not None:
            inputs["segment_ids"] = segment_ids * mask
        return answer_ids(inputs)

    text = tf.TensorSpec([None], tf.string, name="text")
    ids = tf.TensorSpec([None, None], tf.int32, name="token_ids")
    lengths = tf.TensorSpec([None], tf.int32, name="lengths")
    second = [tf.TensorSpec([None], tf.string, name="text_pair")] if pairs else []
    segments = [tf.TensorSpec([None, None], tf.int32, name="segment_ids")] if pairs else []
    endpoints = {
        "serving_default": (answer_text, [text, *second]),
        "ids": (from_ids, [ids, lengths, *segments]),
    }
    check_texts = ["one two", "three"] if check_texts is None else list(check_texts)
    check = {"text": check_texts, **({"text_pair": check_texts} if pairs else {})}
    with new_version(path, version) as (folder, final):
        write(endpoints, model, {"tokenizer": tokenizer}, folder)
        check_answers(folder, answer_text, **check)
    return str(final)


def _answers(model, packer, labels):
    """The functions from texts and from model inputs to answers."""

    def pack(*texts):
        packed = packer(*texts)
        return {name: packed[name] for name in INPUTS}

    if isinstance(model, models.BertEmbedder):
        answer = lambda inputs: {"vector": model(inputs)}  # noqa: E731
        return lambda *texts: answer(pack(*texts)), answer
    if isinstance(model, models.BertClassifier) and model.num_classes == 1:
        answer = lambda inputs: {"value": tf.cast(model(inputs)[:, 0], tf.float32)}  # noqa: E731
        return lambda *texts: answer(pack(*texts)), answer
    if not isinstance(model, (models.BertClassifier, models.BertTokenClassifier)):
        raise ValueError(
            "Expected a BertClassifier, BertTokenClassifier or BertEmbedder. Received: "
            f"{type(model).__name__}."
        )
    labels = [str(i) for i in range(model.num_classes)] if labels is None else list(labels)
    if len(labels) != model.num_classes:
        raise ValueError(
            f"`labels` must name the model's {model.num_classes} classes. Received: {labels}."
        )
    names = tf.constant(labels)

    def scores_of(inputs):
        return {"scores": tf.nn.softmax(tf.cast(model(inputs), tf.float32))}

    def classify(*texts):
        scores = scores_of(pack(*texts))["scores"]
        best = tf.argmax(scores, axis=-1)
        return {"label": tf.gather(names, best), "score": tf.reduce_max(scores, -1),
                "scores": scores}  # fmt: skip

    def tag(text):
        words = tf.strings.split(text)
        packed = packer.pack_words(words)
        positions = packed["word_positions"]
        scores = scores_of({name: packed[name] for name in INPUTS})["scores"]
        known = positions >= 0
        scores = tf.gather(scores, tf.maximum(positions, 0), batch_dims=1)  # [B, W, C]
        tags = tf.where(known, tf.gather(names, tf.argmax(scores, axis=-1)), "")
        return {
            "words": words.to_tensor(""),
            "tags": tags,
            "scores": tf.where(known, tf.reduce_max(scores, -1), 0.0),
        }

    return (tag if isinstance(model, models.BertTokenClassifier) else classify), scores_of
