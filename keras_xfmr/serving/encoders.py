"""BERT models as SavedModels that read raw text.

B batch, T length, W max_words, E max_entities, P max_masks, C classes, K predictions, D d_model
"""

import inspect

import tensorflow as tf

from keras_xfmr import models, text
from keras_xfmr.serving.heads import classifier, embedder
from keras_xfmr.serving.pretrainer import pretrainer
from keras_xfmr.serving.publish import check_answers, new_version, refuse_no_texts, write
from keras_xfmr.serving.searches import wrong_model
from keras_xfmr.serving.spans import span_predictor
from keras_xfmr.serving.tagger import tagger


def export_encoder(
    model,
    packer,
    path,
    *,
    labels=None,
    pairs=None,
    max_answer_length=None,
    top=None,
    max_characters=None,
    max_words=None,
    max_entities=None,
    max_masks=None,
    max_windows=None,
    stride=None,
    version=None,
    check_texts=None,
):
    """Writes `path/version/`, a SavedModel that TensorFlow Serving loads, and returns its path.

    `serving_default` takes `text [B]`, and with `pairs=True` `text_pair [B]`. It returns
    `truncated [B]` bool, whether a part of a text was too long and was not read, and

    - `BertClassifier`, `GptClassifier`: `label [B]`, `score [B]` its probability, `scores [B, C]`;
      with one class, a regression, `value [B]`; with `multi_label` each of the `scores` is that of
      a class by itself, and `label` the most probable one;
    - `BertTokenClassifier`: `words [B, W]` as `packer.split_words` divides the text, their `tags`,
      `scores` (probabilities), `start` and `end [B, W]`; behind the last word empty strings, 0 and
      -1. A word in which the tokenizer finds nothing has an empty tag. A long text is read in
      overlapping windows, `stride` pieces apart. A second signature, `entities`, takes `text [B]`
      and returns `entity` (its type), `text`, `start`, `end` and `score [B, E]`, the mean
      probability of the entity's tags; it is there where a class is named `O`, and tags may be
      IOB1, IOB2, BILOU or BIOES. Of an entity that `max_words` divides, the first part is given,
      and `truncated` is true. `start` and `end` count Unicode characters of the text as it was
      received, the end exclusive (a byte that is no UTF-8 is one character, U+FFFD);
    - `BertEmbedder`: `vector [B, D]`;
    - `BertSpanPredictor` takes `question [B]` and `context [B]` instead: `answer [B]`, the part of
      the context as it is spelled there, characters `start [B]` to `end [B]` (exclusive);
      `score [B]`, the probability of its first token times that of its last in their window;
      `no_answer [B]`, that of both at `[CLS]`, the least of all windows, of a model that
      was trained with such questions: there is none where it is above `score`. `truncated` is
      about the question; `context_truncated [B]` tells whether the context has an end that was
      not read. The answer is the span of at most `max_answer_length` tokens whose logits have the
      largest sum, in any window of the context; it is empty where there is no context;
    - `BertPretrainer` with `pairs=True`: `follows [B]`, the probability that the second text
      follows the first. Without, `serving_default` is `ids`. Its `fill_mask` takes `text [B]`, in
      which each `[MASK]` is to be guessed (`SentencePacker.pack_masked`), and returns
      `top_pieces` and `top_scores` `[B, P, K]`, the most probable first, as the vocabulary spells
      them; behind the last mask of a text empty strings. Masks behind the first P are left out,
      and `truncated` is true.

    `ids` takes `token_ids [B, T]` and `lengths [B]` (with `pairs=True` and for spans also
    `segment_ids`) and returns the numbers: `scores` (of a tagger `[B, T, C]`, zeros behind
    `lengths` and as wide as the request), `value` or `vector`; for spans `first [B]` and `last
    [B]`, token positions in the row, -1 without a context, `score` and `no_answer`. A
    `BertPretrainer` also takes `masked_positions [B, M]`, M at most P, and returns `top_ids` and
    `top_scores` `[B, M, K]`, the most probable first, and with `pairs=True` `follows`. Only the
    first `lengths` ids of a row are read, so whatever a server pads its batches with does no harm;
    ids below 0 or beyond the vocabulary, and lengths beyond the model's positions, are errors of
    the request.

    The memory for a row of a request is bounded by the arguments below, whatever a client sends:
    a text is cut before it is tokenized, and windows go through the model 16 at a time. No width
    of an output depends on the other rows of a batch, so a server may split and join batches.
    Written, checked and renamed as by `export_saved_model`.

    Args:
        model: one of the above.
        packer: the `keras_xfmr.text.SentencePacker` that the model was trained with; of a
            `BertSpanPredictor` the `keras_xfmr.text.QuestionPacker`.
        path: the model's folder.
        labels: names of the classes in their order, of a `BertClassifier` or a
            `BertTokenClassifier`; by default the model's own, or their numbers.
        pairs: whether the model reads two sentences, False by default; of a `BertClassifier`, a
            `BertEmbedder` or a `BertPretrainer`. A `BertSpanPredictor` always does.
        max_answer_length: tokens of the longest answer of a `BertSpanPredictor`, by default 30.
        top: K of a `BertPretrainer`, by default 5.
        max_characters: Unicode characters of a text that are read; by default 16 for each piece
            that the model may read of it (of a `BertTokenClassifier` for each of `max_words`), and
            8 for each piece of a context in the `max_windows` of a `BertSpanPredictor`.
        max_words: W of a `BertTokenClassifier`, by default 256; later words are left out.
        max_entities: E of a `BertTokenClassifier`, by default 64; later ones are left out.
        max_masks: P of a `BertPretrainer`, by default 16.
        max_windows: of a context, for a `BertSpanPredictor`, by default 64.
        stride: of a `BertTokenClassifier`, pieces between the beginnings of two windows; by
            default half of a window.
        version: a positive integer; by default one more than the highest in `path`.
        check_texts: what the written model is tested with; by default two short English texts.

    Raises:
        ValueError: arguments that do not fit the model, or a `path` that TensorFlow could not read.
        FileExistsError: the version is there already.
        RuntimeError: the written model does not answer as the model in memory; nothing appears.

    Example::

        export_encoder(classifier, packer, "models/reviews", labels=["bad", "good"])
    """
    options = dict(
        labels=labels,
        pairs=pairs,
        max_answer_length=max_answer_length,
        top=top,
        max_characters=max_characters,
        max_words=max_words,
        max_entities=max_entities,
        max_masks=max_masks,
        max_windows=max_windows,
        stride=stride,
    )
    given = {name: value for name, value in options.items() if value is not None}
    endpoints = _endpoints(model, packer, given)
    refuse_no_texts(check_texts)
    check_texts = tf.convert_to_tensor(["one two", "three"] if check_texts is None else check_texts)
    asked = {
        name: _check_inputs(signature, packer, check_texts)
        for name, (_, signature) in endpoints.items()
    }
    with new_version(path, version) as place:
        write(endpoints, {"tokenizer": packer.tokenizer}, place.folder)
        check_answers(place.folder, endpoints, asked)
    return str(place.final)


HEADS = {
    models.Classifier: classifier,
    models.Embedder: embedder,
    models.MaskedLanguageModel: pretrainer,
    models.SpanPredictor: span_predictor,
    models.Tagger: tagger,
}


def _endpoints(model, packer, options):
    """name -> (function, input signature), after a look at what fits together."""
    found = [head for kind, head in HEADS.items() if isinstance(model, kind)]
    if not found:
        names = ", ".join(kind.__name__ for kind in HEADS)
        raise wrong_model(model, f"one of {names}")
    known = inspect.getfullargspec(found[0]).kwonlyargs
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"The export of a {type(model).__name__} takes {', '.join(known) or 'no options'}. "
            f"Received: {', '.join(unknown)}."
        )
    _check_packer(model, packer)
    return found[0](model, packer, **options)


def _check_packer(model, packer):
    """Raises ValueError where a packer makes what the model does not read."""
    fit = isinstance(model, models.SpanPredictor) == isinstance(packer, text.QuestionPacker)
    if not fit or isinstance(packer, text.Tokenizer):
        raise ValueError(
            "Expected a QuestionPacker for a BertSpanPredictor and a SentencePacker for the "
            f"others. Received: {type(packer).__name__} for a {type(model).__name__}."
        )
    (ids,) = (one for one in model.declared_inputs if one.name == "token_ids")
    tokenizer, rows, padding = packer.tokenizer, ids.size, model.encoder.pad_token_id
    # A model may have no padding of its own: it reads the attention mask.
    if tokenizer.vocab_size > rows or padding not in (None, tokenizer.pad_id):
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} ids and pad_id={tokenizer.pad_id}, the "
            f"model's table {rows} rows and pad_token_id={padding}. Is this the "
            "tokenizer that the model was trained with?"
        )
    longest = ids.longest
    if packer.max_length > longest:
        raise ValueError(
            f"The packer makes up to {packer.max_length} tokens, the model has positions for "
            f"{longest}. Give the packer a smaller `max_length`."
        )


def _check_inputs(signature, packer, texts):
    """The texts as inputs of a signature, in their order."""
    if signature[0].dtype == tf.string:
        return {spec.name: texts for spec in signature}
    both = isinstance(packer, text.QuestionPacker) or "segment_ids" in {s.name for s in signature}
    packed = packer(texts, *([texts] if both else []))
    rows = tf.shape(packed["token_ids"])[0]
    inputs = {
        "token_ids": packed["token_ids"],
        "lengths": tf.reduce_sum(packed["attention_mask"], axis=1),
        "segment_ids": packed["segment_ids"],
        "masked_positions": tf.ones([rows, 1], tf.int32),
    }
    return {spec.name: inputs[spec.name] for spec in signature}
