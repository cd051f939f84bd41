"""Exports encoders and models over them as SavedModels that read raw text.

B batch, T length, W max_words, E max_entities, P max_masks, C classes, K predictions, D d_model,
L layers of LSTMs
"""

import inspect
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_xfmr import models, text
from keras_xfmr.common.types import Path
from keras_xfmr.serving.heads import classifier, embedder, encoder_of, words_input
from keras_xfmr.serving.pretrainer import pretrainer
from keras_xfmr.serving.publish import check_answers, new_version, refuse_no_texts, write
from keras_xfmr.serving.requests import answer_by_rows
from keras_xfmr.serving.searches import wrong_model
from keras_xfmr.serving.spans import span_predictor
from keras_xfmr.serving.tagger import tagger
from keras_xfmr.serving.words import word_vectors


def export_encoder(
    model: keras.Model,
    packer: text.SentencePacker | text.WordPacker | text.QuestionPacker,
    path: Path,
    *,
    labels: Sequence[str] | None = None,
    pairs: bool | None = None,
    max_answer_length: int | None = None,
    top: int | None = None,
    max_characters: int | None = None,
    max_words: int | None = None,
    max_entities: int | None = None,
    max_masks: int | None = None,
    max_windows: int | None = None,
    stride: int | None = None,
    version: int | None = None,
    keep: int | None = None,
    check_texts: Sequence[str] | None = None,
) -> str:
    """Writes `path/version/`, a SavedModel that TensorFlow Serving loads, and returns its path.

    `serving_default` takes `text [B]`, and with `pairs=True` `text_pair [B]`. It returns
    `truncated [B]` bool, whether a part of a text was not read because it was too long,
    `valid [B]`, which every signature returns and which is true for every text, and

    - `Classifier` (`BertClassifier`, `GptClassifier`, or over an `Elmo`): `label [B]`, `score [B]`
      its probability, `scores [B, C]`; with one class, a regression, `value [B]`; with
      `multi_label` each of the `scores` is the probability of its class alone, and `label` the most
      probable class;
    - `Tagger` (`BertTokenClassifier`, or over an `Elmo`): `words [B, W]` as `packer.split_words`
      divides the text, their `tags`, `scores` (probabilities), `start` and `end [B, W]`; after the
      last word empty strings, 0 and -1. A word in which the tokenizer finds nothing has an empty
      tag. A long text is read in overlapping windows, `stride` pieces apart (of an `Elmo` words). A
      second signature, `entities`, takes `text [B]` and returns `entity` (its type), `text`,
      `start`, `end` and `score [B, E]`, the mean probability of the entity's tags; it exists if a
      class is named `O`, and tags may be IOB1, IOB2, BILOU or BIOES. Of an entity that `max_words`
      divides, the first part is returned, and `truncated` is true. `start` and `end` count Unicode
      characters of the text as it was received, the end exclusive (a byte that is not UTF-8 is one
      character, U+FFFD);
    - `Embedder`: `vector [B, D]`;
    - `Elmo`: the vectors of each word. `words`, `start` and `end [B, W]` as of a `Tagger`;
      `layer_0` to `layer_L` `[B, W, D]`, the outputs of the model, and `mean [B, W, D]`, the mean
      of these layers with equal weights; after the last word zeros. A text is one row of at most W
      words; later words are left out, and `truncated` is true. A second signature, `words`, takes
      words that are already divided, `words [B, T]`, and `lengths [B]`, and returns the layers and
      the mean, `[B, W, D]`;
    - `BertSpanPredictor` takes `question [B]` and `context [B]` instead: `answer [B]`, a part of
      the context, unchanged, from characters `start [B]` to `end [B]` (exclusive); `score [B]`, the
      probability of its first token times that of its last in their window; `no_answer [B]`, the
      same with both at `[CLS]`, the minimum of all windows, for a model that was trained with
      unanswerable questions: there is no answer if it is above `score`. `truncated` is for the
      question; `context_truncated [B]` tells whether the end of the context was not read. The
      answer is the span of at most `max_answer_length` tokens whose logits have the largest sum, in
      any window of the context; it is empty if there is no context;
    - `BertPretrainer` with `pairs=True`: `follows [B]`, the probability that the second text
      follows the first. Without, `serving_default` is `ids`. Its `fill_mask` takes `text [B]`,
      predicts each `[MASK]` in it (`SentencePacker.pack_masked`), and returns `top_pieces` and
      `top_scores` `[B, P, K]`, the most probable first, as in the vocabulary; after the last mask
      of a text empty strings. Masks after the first P are left out, and `truncated` is true.

    `ids` takes `token_ids [B, T]` and `lengths [B]` (with `pairs=True` and for spans also
    `segment_ids`) and returns the numbers: `scores` (of a tagger `[B, T, C]`, zeros after `lengths`
    and as wide as the request), `value` or `vector`; of an `Elmo` the layers and the mean
    `[B, W, D]`; for spans `first [B]` and `last [B]`, token positions in the row, -1 without a
    context, `score` and `no_answer`. A `BertPretrainer` also takes `masked_positions [B, M]` and
    returns `top_ids` and `top_scores` `[B, M, K]`, the most probable first, and with `pairs=True`
    `follows`; positions after the first P, and those after the row's `lengths`, return zeros. An
    `Elmo` of characters and its heads take `character_ids [B, T, C]` instead of `token_ids`, C the
    model's `max_characters`, without markers of sentences. Only the first `lengths` ids (or words)
    of a row are read, so a server may pad its batches with any values.

    The model cannot read some rows of numbers: with ids, segments or positions below 0 or beyond
    the model's tables; with fewer segments than ids; with a length below 0, beyond T or the model's
    positions (of an `Elmo` beyond W, of its heads beyond the packer's `max_words`). Such a row is
    not `valid`, and returns zeros. The answers of other rows, which may be another client's, do not
    change.

    The arguments below bound the memory for a row of any request: a text is cut before it is
    tokenized, and windows go through the model 16 at a time. No width of an output depends on the
    other rows of a batch, so a server may split and join batches. Written, checked and renamed as
    by `export_saved_model`.

    Args:
        model: one of the above.
        packer: the `keras_xfmr.text.SentencePacker` that the model was trained with; of a
            `BertSpanPredictor` the `keras_xfmr.text.QuestionPacker`, of an `Elmo` and its heads
            the `keras_xfmr.text.WordPacker`.
        path: the model's folder.
        labels: names of the classes in their order, of a `Classifier` or a `Tagger`; by default
            the model's own, or their numbers.
        pairs: whether the model reads two sentences, False by default; of a `Classifier`, an
            `Embedder` or a `BertPretrainer`, and not over an `Elmo`. A `BertSpanPredictor` always
            does.
        max_answer_length: tokens of the longest answer of a `BertSpanPredictor`, by default 30.
        top: K of a `BertPretrainer`, by default 5.
        max_characters: Unicode characters of a text that are read; by default 16 for each piece
            or word that the model may read of it (of a `Tagger` for each of `max_words`), and 8 for
            each piece of a context in the `max_windows` of a `BertSpanPredictor`.
        max_words: W of a `Tagger`, by default 256, or of an `Elmo`, by default the packer's
            `max_words`; later words are left out. Other heads of an `Elmo` read the packer's
            `max_words`.
        max_entities: E of a `Tagger`, by default 64; later ones are left out.
        max_masks: P of a `BertPretrainer`, by default 16.
        max_windows: of a context, for a `BertSpanPredictor`, by default 64.
        stride: of a `Tagger`, pieces between the beginnings of two windows; by default half of a
            window.
        version: a positive integer; by default one more than the highest in `path`.
        keep: how many versions stay, this one and the newest below it; older ones are removed, if
            this library wrote them: it leaves a file `.written_by_keras_xfmr` in a version. By
            default all stay.
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
        name: _check_inputs(signature, packer, check_texts, max_words)
        for name, (_, signature) in endpoints.items()
    }
    with new_version(path, version, keep) as place:
        tokenizer = packer.tokenizer  # None for characters
        write(endpoints, {} if tokenizer is None else {"tokenizer": tokenizer}, place.folder)
        check_answers(place.folder, endpoints, asked)
    return str(place.final)


HEADS = {
    models.Classifier: classifier,
    models.Elmo: word_vectors,
    models.Embedder: embedder,
    models.MaskedLanguageModel: pretrainer,
    models.SpanPredictor: span_predictor,
    models.Tagger: tagger,
}


def _endpoints(model, packer, options):
    """name -> (function, input signature), after checks of the arguments."""
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
    _check_segments(model, packer, options.get("pairs"))
    if options.get("pairs") and isinstance(packer, text.WordPacker):
        raise ValueError(
            "A WordPacker packs one text into a row, not two. Received: pairs=True. Leave it out."
        )
    return answer_by_rows(found[0](model, packer, **options))


def _check_packer(model, packer):
    """Raises ValueError if a packer does not make what the model reads."""
    spans, encoder = isinstance(model, models.SpanPredictor), encoder_of(model)
    over = "" if encoder is model else f" over a {type(encoder).__name__}"
    if spans and not any(one.name == "segment_ids" for one in model.declared_inputs):
        raise ValueError(
            "The service of a SpanPredictor reads a question and a context as two segments. "
            f"Received: one{over}, which has no `segment_ids`. Use an encoder such as a Bert."
        )
    of_words = isinstance(encoder, models.Elmo)
    fit = (spans, of_words) == tuple(
        isinstance(packer, kind) for kind in (text.QuestionPacker, text.WordPacker)
    )
    if not fit or isinstance(packer, text.Tokenizer):
        raise ValueError(
            "Expected a WordPacker for an Elmo and its heads, a QuestionPacker for a "
            "BertSpanPredictor and a SentencePacker for the others. Received: "
            f"{type(packer).__name__} for a {type(model).__name__}{over}."
        )
    ids = words_input(model)
    if of_words:
        _check_words(packer, ids)
    tokenizer, rows, padding = packer.tokenizer, ids.size, encoder.pad_token_id
    # A model without padding reads the attention mask.
    if tokenizer is not None and (
        tokenizer.vocab_size > rows or padding not in (None, tokenizer.pad_id)
    ):
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} ids and pad_id={tokenizer.pad_id}, the "
            f"model's table {rows} rows and pad_token_id={padding}. Is this the "
            "tokenizer that the model was trained with?"
        )
    longest = ids.longest
    if longest is not None and packer.max_length > longest:
        raise ValueError(
            f"The packer makes up to {packer.max_length} tokens, the model has positions for "
            f"{longest}. Give the packer a smaller `max_length`."
        )


def _check_segments(model, packer, pairs):
    """Raises ValueError where a packer of two texts makes segments beyond the model's table."""
    declared = {one.name: one.size for one in model.declared_inputs}
    known = declared.get("segment_ids")  # None where the model reads none, or any
    two = pairs or isinstance(model, models.SpanPredictor)
    made = getattr(packer, "type_vocab_size", 1)  # not of a WordPacker
    if two and known is not None and made > known:
        raise ValueError(
            f"The model's table of segments has {known} rows. Received: a packer with "
            f"type_vocab_size={made}. Give the packer type_vocab_size={known}."
        )


def _check_words(packer, ids):
    """Raises ValueError if a `WordPacker` does not make the ids that an Elmo reads."""
    if (packer.tokenizer is None) != (ids.width is not None):
        reads, way_out = (
            ("characters", "Leave the packer's `tokenizer` out.")
            if ids.width is not None
            else ("a table of words", "Give the packer the `tokenizer` of the model's training.")
        )
        made = "characters" if packer.tokenizer is None else "ids of a vocabulary"
        raise ValueError(
            f"The Elmo reads {reads}. Received: a WordPacker that makes {made}. {way_out}"
        )
    if ids.width is not None and packer.max_characters != ids.width:
        raise ValueError(
            f"The Elmo reads words of max_characters={ids.width}. Received: a WordPacker with "
            f"max_characters={packer.max_characters}. Give both the same."
        )


def _check_inputs(signature, packer, texts, max_words):
    """The texts as inputs of a signature, in their order."""
    names = [spec.name for spec in signature]
    if "lengths" not in names:
        return {name: texts for name in names}
    both = isinstance(packer, text.QuestionPacker) or "segment_ids" in names
    packed = packer(texts, *([texts] if both else []))
    lengths = tf.reduce_sum(packed["attention_mask"], axis=1)
    inputs = {**packed, "lengths": lengths, "masked_positions": tf.ones([len(texts), 1], tf.int32)}
    if isinstance(packer, text.WordPacker):
        inputs["words"] = packer.split_words(texts)[0].to_tensor("")
        inputs["lengths"] = tf.minimum(lengths, max_words or packer.max_length)
    return {name: inputs[name] for name in names}
