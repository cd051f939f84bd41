"""Exports a language model and its tokenizer as one SavedModel that continues texts.

B batch, P max_prompt_length, L max_length, n hypotheses
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_xfmr import models
from keras_xfmr.common.checks import check_int, check_positive_int
from keras_xfmr.common.types import Path, Search
from keras_xfmr.serving.heads import LENGTHS, TOKEN_IDS, characters, strings
from keras_xfmr.serving.publish import check_answers, new_version, refuse_no_texts, write
from keras_xfmr.serving.requests import cut_beginning, read_up_to, same_rows, where_rows
from keras_xfmr.serving.searches import (
    as_numbers,
    check_vocabulary,
    first_text,
    traced,
    with_twins,
    wrong_model,
)
from keras_xfmr.serving.sizes import first_that_holds, sizes_up_to
from keras_xfmr.text.ragged import take_last
from keras_xfmr.text.tokenizers.base import Tokenizer

PENALTIES = ("min_length", "repetition_penalty", "no_repeat_ngram_size")
DRAWS = [  # further inputs of each row of `sample`
    tf.TensorSpec([None], tf.int64, name="seed"),
    tf.TensorSpec([None], tf.float32, name="temperature"),
    tf.TensorSpec([None], tf.float32, name="top_p"),
]


def export_language_model(
    model: models.Gpt,
    tokenizer: Tokenizer,
    path: Path,
    *,
    max_length: int,
    max_prompt_length: int | None = None,
    max_characters: int | None = None,
    search: Search = "greedy",
    version: int | None = None,
    keep: int | None = None,
    xla: bool = False,
    check_texts: Sequence[str] | None = None,
    **options,
) -> str:
    """Writes `path/version/`, a SavedModel that TensorFlow Serving loads, and returns its path.

    Signatures (every input and output has the batch as its first axis; with `num_return` above 1,
    outputs of `serving_default` and `ids` have n as their second):

    - `serving_default`: `text [B]` string -> `output_text [B]` string, only the continuation, with
      the blank before it if there is one; `score [B]` float32, the sum of the tokens'
      log-probabilities, of a beam search over its length penalty; `token_count [B]` int32, tokens
      that were generated, the end token included; `truncated [B]` bool, whether the beginning of
      the text was cut off by `max_prompt_length` or `max_characters`; `valid [B]` bool, true for
      every text;
    - `sample`: `text [B]`, `seed [B]` int64, `temperature [B]` and `top_p [B]` float32 -> the same,
      drawn as by `decoding.sample`. A row depends only on its own inputs, not on other rows, their
      number or earlier requests (except that rounding may change the last bit of a probability).
      Any `seed` is valid. A row is not valid with a `temperature` that is not positive and finite
      or a `top_p` outside (0, 1];
    - `ids`: `token_ids [B, S]` int32, `lengths [B]` int32 -> `output_ids [B, L]`, `output_lengths
      [B]`, `score [B]`, `valid [B]`. Only the first `lengths` ids of a row are read, and nothing is
      added: begin a text with the start token. A row of length 0 gets no tokens and the score 0. A
      row is not valid with a length below 0, beyond S or `max_prompt_length`, or with an id outside
      the model's table;
    - with `xla=True` also `serving_default_xla`, `sample_xla` and `ids_xla`, compiled copies. A
      program is compiled for each size of a batch, so rows are padded to a power of 2, and prompts
      to 16, 24, 32, 48 and so on, P at most. The model server has XLA switched off by default, and
      a compiled signature then fails at request time.

    A row that is not valid returns empty strings and zeros. The answers of other rows, which may be
    another client's, do not change.

    A text is cut to its last `max_characters`, the start token is put in front of it, and the last
    `max_prompt_length` tokens are read. An empty text is continued from the start token. A search
    ends when each row of the batch has ended.

    The vocabulary is in the graph, and as files in `assets.extra/tokenizer`. The model is written,
    checked and renamed as by `export_saved_model`.

    Args:
        model: a `Gpt`.
        tokenizer: the `keras_xfmr.text` tokenizer that it was trained with.
        path: the model's folder.
        max_length: the most tokens to generate, the end token included.
        max_prompt_length: the most tokens of a prompt that are read, the start token included; by
            default as many as `max_length` leaves room for in the model's context.
        max_characters: Unicode characters of a text that are read, its last ones, by default 16
            for each of `max_prompt_length`; a longer text is cut before it is tokenized.
        search: `"greedy"` or `"beam"`, of `serving_default` and `ids`.
        version: a positive integer; by default one more than the highest in `path`.
        keep: how many versions stay, this one and the newest below it; older ones are removed, if
            this library wrote them: it leaves a file `.written_by_keras_xfmr` in a version. By
            default all stay.
        xla: whether to add the compiled copies.
        check_texts: what the written model is tested with; by default a text made of the first
            entries of the vocabulary, and an empty one.
        **options: of the search, such as `beam_size`, `alpha`, `num_return`. `min_length`,
            `repetition_penalty` and `no_repeat_ngram_size` also apply to `sample`; `top_k` only to
            `sample`.

    Raises:
        ValueError: arguments that do not fit the model, or a `path` that TensorFlow could not read.
        FileExistsError: the version is there already.
        RuntimeError: the written model does not answer as the model in memory; nothing appears.

    Example::

        export_language_model(model, tokenizer, "models/gpt", max_length=64)
    """
    if not isinstance(model, models.Gpt):
        raise wrong_model(model, "a Gpt")
    if search not in ("greedy", "beam"):
        raise ValueError(
            '`search` must be "greedy" or "beam"; the signature `sample` is always there. '
            f"Received: {search!r}."
        )
    refuse_no_texts(check_texts)
    padding = [] if model.pad_id is None else ["pad_id"]
    check_vocabulary(tokenizer, model.token_embedding, model, ["start_id", "end_id", *padding])
    longest = _longest_prompt(model, max_length, max_prompt_length)
    read = PromptReader(tokenizer, longest, characters(max_characters, longest))
    drawn = {name: options[name] for name in PENALTIES if name in options}
    drawn |= {"top_k": options.pop("top_k")} if "top_k" in options else {}
    options |= {"beam_size": 4, **options} if search == "beam" else {}
    with new_version(path, version, keep) as place:
        best = model.make_generator(max_length=max_length, search=search, **options)

        def draw(prompt, lengths, seed, temperature, top_p):
            each = dict(seed=seed, temperature=temperature, top_p=top_p)
            generator = model.make_generator(
                max_length=max_length, search="sample", **each, **drawn
            )
            return generator({"prompt": prompt, "lengths": lengths})

        endpoints = _endpoints(
            model, read, lambda *inputs: best(dict(zip(("prompt", "lengths"), inputs))), draw, xla
        )
        write(endpoints, {"tokenizer": tokenizer}, place.folder)
        asked = ["", first_text(tokenizer)] if check_texts is None else check_texts
        check_answers(place.folder, endpoints, _check_inputs(read, asked))
    return str(place.final)


def _longest_prompt(model, max_length, max_prompt_length):
    room = model.max_length - check_positive_int("max_length", max_length) + 1
    if room < 1:
        raise ValueError(
            f"The model's context has {model.max_length} positions. Received: max_length="
            f"{max_length} to generate, which leaves none for a prompt."
        )
    if max_prompt_length is None:
        return room
    return check_int("max_prompt_length", max_prompt_length, least=1, most=room)


class PromptReader:
    """Converts texts to prompts within the bounds.

    Args:
        tokenizer: of the model.
        longest: the most tokens of a prompt.
        most: the most characters of a text.
    """

    def __init__(self, tokenizer, longest, most):
        self.tokenizer, self.longest, self._most = tokenizer, longest, most

    def __call__(self, texts):
        """Ids `[B, S]`, int32 lengths `[B]`, and which texts lost their beginning."""
        texts, beyond = cut_beginning(texts, self._most)
        ids = self.tokenizer.encode(texts, start=True, end=False)
        kept = tf.minimum(ids.row_lengths(), self.longest)
        truncated = tf.logical_or(beyond, kept < ids.row_lengths())
        ids = tf.cast(take_last(ids, kept).to_tensor(0), tf.int32)
        return ids, tf.cast(kept, tf.int32), truncated

    def continuation(self, last, token_ids):
        """The text of generated ids, as the continuation of a prompt's last token.

        A piece may begin with a blank, or continue a word; its text alone does not show this.

        Args:
            last: `[B]`.
            token_ids: `[B, L]` or `[B, n, L]`.
        """
        last = tf.reshape(last, [-1, *[1] * (token_ids.shape.rank - 1)])
        last = tf.broadcast_to(last, [*tf.unstack(tf.shape(token_ids)[:-1]), 1])
        before = self.tokenizer.detokenize(last)
        whole = self.tokenizer.detokenize(tf.concat([last, token_ids], axis=-1))
        size = tf.strings.length(before)
        begins = tf.equal(tf.strings.substr(whole, tf.zeros_like(size), size), before)
        text = tf.strings.substr(whole, tf.where(begins, size, 0), tf.strings.length(whole))
        return tf.where(begins, text, self.tokenizer.detokenize(token_ids))


def _endpoints(model, read, best, draw, xla):
    """name -> (function, input signature)."""
    rows, fill = model.token_embedding.input_dim, model.end_id

    def make(jit_compile):
        prompts = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]
        widths = sizes_up_to(max(read.longest, 2)) if jit_compile else None
        find = traced(best, prompts, jit_compile)
        find_drawn = traced(draw, [*prompts, *DRAWS], jit_compile)

        def answer(find, text, valid=None, *others):
            ids, lengths, truncated = read(text)
            if valid is not None:
                lengths = tf.where(valid, lengths, 0)  # a row of length 0 gets no tokens
            prompt = right_aligned(ids, lengths, fill, widths)
            found = find(prompt, lengths, *others)
            return {
                "output_text": read.continuation(prompt[:, -1], found["token_ids"]),
                "score": found["scores"],
                "token_count": found["lengths"],
                "truncated": truncated,
                **({} if valid is None else {"valid": valid}),
            }

        def from_text(text):
            return answer(find, text)

        def sample(text, seed, temperature, top_p):
            text, *others = same_rows(text, seed, temperature, top_p)
            return answer(find_drawn, text, *_read_draws(*others))

        def from_ids(token_ids, lengths):
            ids, mask, valid = read_up_to(
                token_ids, lengths, read.longest, vocab_size=rows, pad_id=fill
            )
            lengths = tf.reduce_sum(mask, axis=1)
            found = find(right_aligned(ids, lengths, fill, widths), lengths)
            score = where_rows(lengths > 0, found["scores"], 0.0)  # a beam search has placeholders
            return {**as_numbers({**found, "scores": score}), "valid": valid}

        return {
            "serving_default": (from_text, strings("text")),
            "sample": (sample, [*strings("text"), *DRAWS]),
            "ids": (from_ids, [TOKEN_IDS, LENGTHS]),
        }

    return with_twins(make, xla)


def _read_draws(seed, temperature, top_p):
    """Bool `[B]`, which rows `decoding.sample` accepts; and inputs, replaced in other rows."""
    valid = (temperature > 0) & (temperature < np.inf) & (top_p > 0) & (top_p <= 1)  # no NaN
    return valid, seed, tf.where(valid, temperature, 1.0), tf.where(valid, top_p, 1.0)


def right_aligned(token_ids, lengths, fill, widths=None):
    """Right-aligned prompts, as a search reads them.

    Args:
        token_ids: `[B, S]`.
        lengths: `[B]`, int32; how many ids of each row count.
        fill: the id in front of shorter rows.
        widths: the result has the first of these widths that fits the longest row; by default the
            length of that row, at least 2.
    """
    width = tf.maximum(tf.reduce_max(lengths), 2)
    if widths is not None:
        width = first_that_holds(width, widths)
    token_ids = tf.pad(token_ids, [[0, 0], [0, 1]])  # so that there is at least one column
    columns = tf.range(width) - width + lengths[:, None]
    rows = tf.gather(token_ids, tf.maximum(columns, 0), batch_dims=1)
    return tf.where(columns >= 0, rows, fill)


def _check_inputs(read, texts):
    """The texts as inputs of each signature."""
    texts = tf.convert_to_tensor(texts)
    ids, lengths, _ = read(texts)
    drawn = {"seed": np.arange(len(texts)), "temperature": np.ones(len(texts), "float32")}
    return {
        "serving_default": {"text": texts},
        "sample": {"text": texts, **drawn, "top_p": np.full(len(texts), 0.9, "float32")},
        "ids": {"token_ids": ids, "lengths": lengths},
    }
