"""BERT models as SavedModels that read raw text.

B batch, T length, W words, P positions, C classes, K predictions, D d_model
"""

import tensorflow as tf

from keras_xfmr import models, text
from keras_xfmr.models.arguments import whole_number
from keras_xfmr.serving import heads
from keras_xfmr.serving.publish import check_answers, new_version, write


def export_encoder(
    model,
    packer,
    path,
    *,
    labels=None,
    pairs=False,
    max_answer_length=30,
    top=5,
    version=None,
    check_texts=None,
):
    """Writes `path/version/`, a SavedModel that TensorFlow Serving loads, and returns its path.

    `serving_default` takes `text [B]`, and with `pairs=True` `text_pair [B]`, and answers

    - `BertClassifier`: `label [B]`, `score [B]` its probability, `scores [B, C]`; with one class,
      a regression, `value [B]`; with `multi_label` each of the `scores` is that of a class by
      itself, and `label` the most probable one;
    - `BertTokenClassifier`: of the words between blanks, `words [B, W]`, `tags [B, W]` and
      `scores [B, W]`, padded with empty strings; a word that was cut away has an empty tag;
    - `BertEmbedder`: `vector [B, D]`;
    - `BertSpanPredictor` takes `question [B]` and `context [B]` instead: `answer [B]`, the part of
      the context as it stands there, characters `start [B]` to `end [B]` (behind the last one);
      `score [B]`, the probability of its first token times that of its last in their window;
      `no_answer [B]`, that of both at `[CLS]`, the least of all windows, of a model that
      was trained with such questions: there is none where it is above `score`; and
      `truncated [B]`, whether the end of the question was cut away. The answer is the span of at
      most `max_answer_length` tokens whose logits have the largest sum, in any window of the
      context; it is empty where there is no context;
    - `BertPretrainer` with `pairs=True`: `follows [B]`, the probability that the second text
      follows the first. Without, it has no raw text to read, for `[MASK]` in a text is text:
      `serving_default` is `ids`.

    `ids` takes `token_ids [B, T]` and `lengths [B]` (with `pairs=True` and for spans also
    `segment_ids`) and answers the numbers: `scores`, `value` or `vector`; for spans `first [B]` and
    `last [B]`, token positions in the row, -1 without a context, `score` and `no_answer`. A
    `BertPretrainer` also takes `masked_positions [B, P]` and answers `top_ids` and `top_scores`
    `[B, P, K]`, the most probable first, and with `pairs=True` `follows`. Only the first `lengths`
    ids of a row are read, so whatever a server pads its batches with does no harm. Written, checked
    and renamed as by `export_saved_model`.

    Args:
        model: one of the above.
        packer: the `keras_xfmr.text.SentencePacker` that the model was trained with; of a
            `BertSpanPredictor` the `keras_xfmr.text.QuestionPacker`.
        path: the model's folder.
        labels: names of the classes in their order; by default the model's own, or their numbers.
        pairs: whether the model reads two sentences. A `BertSpanPredictor` always does.
        max_answer_length: tokens of the longest answer of a `BertSpanPredictor`.
        top: K of a `BertPretrainer`.
        version: a positive integer; by default one more than the highest in `path`.
        check_texts: what the written model is asked.

    Raises:
        ValueError: arguments that do not fit the model.
        FileExistsError: the version is there already.
        RuntimeError: the written model does not answer as the model in memory; nothing appears.

    Example::

        export_encoder(classifier, packer, "models/reviews", labels=["bad", "good"])
    """
    endpoints = _endpoints(model, packer, labels, pairs, max_answer_length, top)
    check_texts = ["one two", "three"] if not check_texts else list(check_texts)
    asked = {
        name: _check_inputs(signature, packer, check_texts)
        for name, (_, signature) in endpoints.items()
    }
    with new_version(path, version) as (folder, final):
        write(endpoints, model, {"tokenizer": packer.tokenizer}, folder)
        check_answers(folder, endpoints, asked)
    return str(final)


def _endpoints(model, packer, labels, pairs, max_answer_length, top):
    """name -> (function, input signature), after a look at what fits together."""
    kinds = (
        models.BertClassifier,
        models.BertEmbedder,
        models.BertPretrainer,
        models.BertSpanPredictor,
        models.BertTokenClassifier,
    )
    if not isinstance(model, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"Expected one of {names}. Received: {type(model).__name__}.")
    tokenizer, rows = packer.tokenizer, model.bert.token_embedding.input_dim
    if tokenizer.vocab_size > rows or tokenizer.pad_id != model.bert.pad_token_id:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} ids and pad_id={tokenizer.pad_id}, the "
            f"model's table {rows} rows and pad_token_id={model.bert.pad_token_id}. Is this the "
            "tokenizer that the model was trained with?"
        )
    if isinstance(model, models.BertSpanPredictor) != isinstance(packer, text.QuestionPacker):
        raise ValueError(
            "Expected a QuestionPacker for a BertSpanPredictor and a SentencePacker for the "
            f"others. Received: {type(packer).__name__} for a {type(model).__name__}."
        )
    longest = model.bert.position_embedding.max_length
    if packer.max_length > longest:
        raise ValueError(
            f"The packer makes up to {packer.max_length} tokens, the model has positions for "
            f"{longest}. Give the packer a smaller `max_length`."
        )
    if isinstance(model, models.BertEmbedder):
        return heads.embedder(model, packer, pairs=pairs)
    if isinstance(model, models.BertPretrainer):
        if pairs and model.nsp_dense is None:
            raise ValueError("A BertPretrainer without `next_sentence` reads no `pairs`.")
        return heads.pretrainer(model, packer, pairs=pairs, top=whole_number("top", top))
    if isinstance(model, models.BertSpanPredictor):
        most = whole_number("max_answer_length", max_answer_length)
        return heads.span_predictor(model, packer, max_answer_length=most)
    if labels is None:
        labels = model.labels or [str(i) for i in range(model.num_classes)]
    labels = [labels] if isinstance(labels, str) else [str(label) for label in labels]
    if len(labels) != model.num_classes:
        raise ValueError(
            f"`labels` must name the model's {model.num_classes} classes. Received: {labels}."
        )
    names = tf.constant(labels)
    if isinstance(model, models.BertClassifier):
        return heads.classifier(model, packer, pairs=pairs, names=names)
    if pairs:
        raise ValueError("A BertTokenClassifier tags the words of one text. Leave out `pairs`.")
    return heads.tagger(model, packer, names=names)


def _check_inputs(signature, packer, texts):
    """The texts as inputs of a signature, in their order."""
    if signature[0].dtype == tf.string:
        return {spec.name: texts for spec in signature}
    both = isinstance(packer, text.QuestionPacker) or "segment_ids" in {s.name for s in signature}
    packed = packer(tf.constant(texts), *([tf.constant(texts)] if both else []))
    rows = tf.shape(packed["token_ids"])[0]
    inputs = {
        "token_ids": packed["token_ids"],
        "lengths": tf.reduce_sum(packed["attention_mask"], axis=1),
        "segment_ids": packed["segment_ids"],
        "masked_positions": tf.ones([rows, 1], tf.int32),
    }
    return {spec.name: inputs[spec.name] for spec in signature}
