"""A sequence-to-sequence model and its tokenizers as one SavedModel.

B batch, S source, L max_length, n hypotheses
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.common.types import Path, Search
from keras_xfmr.serving.heads import LENGTHS, TOKEN_IDS, characters, strings
from keras_xfmr.serving.publish import check_answers, new_version, refuse_no_texts, write
from keras_xfmr.serving.requests import cut_text, read_up_to
from keras_xfmr.serving.searches import (
    as_numbers,
    check_vocabulary,
    first_text,
    traced,
    with_twins,
    wrong_model,
)
from keras_xfmr.serving.sizes import first_that_holds, of_width, sizes_up_to
from keras_xfmr.text.ragged import join, take_first
from keras_xfmr.text.tokenizers.base import Tokenizer

MAX_SOURCE_LENGTH = 512  # tokens, if a model has positions for any number


def export_saved_model(
    model: keras.Model,
    tokenizers: tuple[Tokenizer, Tokenizer],
    path: Path,
    *,
    max_length: int,
    max_source_length: int | None = None,
    max_characters: int | None = None,
    search: Search = "beam",
    version: int | None = None,
    keep: int | None = None,
    xla: bool = False,
    check_texts: Sequence[str] | None = None,
    **options,
) -> str:
    """Writes `path/version/`, a SavedModel that TensorFlow Serving loads, and returns its path.

    Signatures (every input and output has the batch as its first axis; with `num_return` above 1,
    outputs have n as their second):

    - `serving_default`: `text [B]` string -> `output_text [B]` string, `score [B]` float32,
      `truncated [B]` bool, whether the end of the text was cut off by `max_source_length` or
      `max_characters`, and `valid [B]` bool, true for every text;
    - `ids`: `token_ids [B, S]` int32, `lengths [B]` int32 -> `output_ids [B, L]`,
      `output_lengths [B]`, `score [B]`, `valid [B]`. A row ends with the end token, as
      `Tokenizer.encode` makes it. Only the first `lengths` ids of a row are read, so a server may
      pad its batches with any values. A row is not valid with a length below 0, beyond S or
      `max_source_length`, or with an id outside the model's table. Its answers are zeros; the
      answers of other rows, which may be another client's, do not change;
    - with `xla=True` also `serving_default_xla` and `ids_xla`, compiled copies. A program is
      compiled for each size of a batch, so rows are padded to a power of 2, and ids to 16, 24, 32,
      48 and so on, `max_source_length` at most. The model server has XLA switched off by default,
      and a compiled signature then fails at request time; the plain ones work everywhere.

    The vocabularies are in the graph, and as files in `assets.extra/source` and
    `assets.extra/target`. The model is written to a temporary folder, loaded, compared with the
    model in memory on `check_texts`, flushed to disk, and only then renamed. A server that watches
    `path` never sees half a model. The next export removes what a killed export left in `path`.

    Args:
        model: a `Transformer`, or another model with its `make_generator`, `source_embedding`,
            `target_embedding`, `pad_id`, `start_id` and `end_id`.
        tokenizers: the pair (source, target) of `keras_xfmr.text` tokenizers.
        path: the model's folder.
        max_length: the most tokens to generate, the end token included.
        max_source_length: the most tokens of a text that are read, the end token included; by
            default as many as the model has learned positions, or else 512. The memory of a request
            grows with the square of it.
        max_characters: Unicode characters of a text that are read, by default 16 for each of
            `max_source_length`; a longer text is cut before it is tokenized.
        search: `"greedy"`, `"sample"` or `"beam"`.
        version: a positive integer; by default one more than the highest in `path`.
        keep: how many versions stay, this one and the newest below it; older ones are removed, if
            this library wrote them: it leaves a file `.written_by_keras_xfmr` in a version. By
            default all stay.
        xla: whether to add the compiled copies.
        check_texts: what the written model is tested with; by default a text made of the first
            entries of the source vocabulary.
        **options: of the search, such as `beam_size`, `alpha`, `num_return`. Sampling begins with
            the same draws each time the file is loaded.

    Raises:
        ValueError: arguments that do not fit the model, or a `path` that TensorFlow could not read.
        FileExistsError: the version is there already.
        RuntimeError: the written model does not answer as the model in memory; nothing appears.

    Example::

        export_saved_model(model, (english, korean), "models/en_ko", max_length=64, beam_size=4)
    """
    if not hasattr(model, "make_generator") or not hasattr(model, "source_embedding"):
        raise wrong_model(model, "a Transformer")
    if not isinstance(tokenizers, (tuple, list)) or len(tokenizers) != 2:
        raise ValueError(
            "`tokenizers` must be the pair (source, target); pass a shared one twice. "
            f"Received: {tokenizers!r}."
        )
    refuse_no_texts(check_texts)
    source_tokenizer, target_tokenizer = tokenizers
    check_vocabulary(source_tokenizer, model.source_embedding, model, ["pad_id"], "source")
    special = ["pad_id", "start_id", "end_id"]
    check_vocabulary(target_tokenizer, model.target_embedding, model, special, "target")
    longest = _longest_source(model, max_source_length)
    most = characters(max_characters, longest)
    if search == "beam":
        options = {"beam_size": 4, **options}
    with new_version(path, version, keep) as place:
        generator = model.make_generator(max_length=max_length, search=search, **options)
        endpoints = _endpoints(generator, tokenizers, model, (longest, most), xla)
        saved = {"source": source_tokenizer, "target": target_tokenizer}
        write(endpoints, saved, place.folder)
        if check_texts is None:
            check_texts = [first_text(source_tokenizer)]
        ids, _ = _encode(source_tokenizer, tf.constant(check_texts), (longest, most))
        asked = {
            "serving_default": {"text": check_texts},
            "ids": {
                "token_ids": tf.cast(ids.to_tensor(model.pad_id), tf.int32),
                "lengths": tf.cast(ids.row_lengths(), tf.int32),
            },
        }
        check_answers(place.folder, endpoints, asked)
    return str(place.final)


def _longest_source(model, max_source_length):
    learned = getattr(getattr(model, "source_positions", None), "max_length", None)
    if max_source_length is None:
        return MAX_SOURCE_LENGTH if learned is None else learned
    longest = check_positive_int("max_source_length", max_source_length)
    if learned is not None and longest > learned:
        raise ValueError(
            f"The model has learned positions for {learned} source tokens. Received: "
            f"max_source_length={max_source_length}."
        )
    return longest


def _endpoints(generator, tokenizers, model, bounds, xla):
    """name -> (function, input signature); `bounds` are the most tokens and characters."""
    source_tokenizer, target_tokenizer = tokenizers
    rows, pad_id = model.source_embedding.input_dim, model.pad_id

    def make(jit_compile):
        # Both signatures have the same search.
        search = traced(generator, [tf.TensorSpec([None, None], tf.int32)], jit_compile)
        widths = sizes_up_to(bounds[0])

        def find(ids, lengths):
            if jit_compile:
                width = first_that_holds(tf.reduce_max(lengths), widths)
                ids = of_width(ids, width, pad_id)
            return search(ids)

        def from_text(text):
            ids, truncated = _encode(source_tokenizer, text, bounds)
            found = find(tf.cast(ids.to_tensor(pad_id), tf.int32), ids.row_lengths())
            texts = target_tokenizer.detokenize(found["token_ids"])
            return {"output_text": texts, "score": found["scores"], "truncated": truncated}

        def from_ids(token_ids, lengths):
            ids, mask, valid = read_up_to(
                token_ids, lengths, bounds[0], vocab_size=rows, pad_id=pad_id
            )
            return {**as_numbers(find(ids, tf.reduce_sum(mask, axis=1))), "valid": valid}

        return {
            "serving_default": (from_text, strings("text")),
            "ids": (from_ids, [TOKEN_IDS, LENGTHS]),
        }

    return with_twins(make, xla)


def _encode(tokenizer, texts, bounds):
    """Ids with the end token, no more than the bounds say, and which texts lost their end."""
    longest, most = bounds
    texts, beyond = cut_text(texts, most)
    ids = tokenizer.encode(texts, end=False)
    lengths = ids.row_lengths()
    kept = tf.minimum(lengths, longest - 1)
    end = tf.fill([ids.nrows()], tf.cast(tokenizer.end_id, ids.dtype))
    return join(take_first(ids, kept), end), tf.logical_or(beyond, kept < lengths)

