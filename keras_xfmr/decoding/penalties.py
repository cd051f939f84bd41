"""Rules that change the scores of tokens according to the tokens of the row.

R rows, T columns, V vocab_size
"""

import math
import numbers

from keras import ops

from keras_xfmr import kernels
from keras_xfmr.common.checks import check_int


def check_end_ids(end_id):
    """`end_id` as a tuple of integers; ValueError for anything else."""
    several = isinstance(end_id, (list, tuple)) and all(
        isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in end_id
    )
    if several and end_id:
        return tuple(int(x) for x in end_id)
    if isinstance(end_id, (list, tuple)):
        raise ValueError(
            f"`end_id` must be an integer, or a list of integers. Received: {end_id!r}."
        )
    return (check_int("end_id", end_id),)


def is_end(token_ids, end_ids):
    """Which of the ids end a sequence."""
    ends = ops.equal(token_ids, end_ids[0])
    for end_id in end_ids[1:]:
        ends = ops.logical_or(ends, ops.equal(token_ids, end_id))
    return ends


class Penalties:
    """Repetition penalty, a ban on repeated n-grams, and a minimum length.

    They correspond to `RepetitionPenaltyLogitsProcessor` (Keskar et al. 2019),
    `NoRepeatNGramLogitsProcessor` and `MinNewTokensLengthLogitsProcessor` of Hugging Face's
    transformers. The prompt counts, its padding does not.

    Args:
        end_ids: the tokens that end a sequence.
        max_length: the maximum number of generated tokens.
        min_length: number of generated tokens before an end token is allowed.
        repetition_penalty: divides the score of a token that was read, or multiplies a negative
            score; 1 for none.
        no_repeat_ngram_size: n; forbids a token that would repeat n tokens of its row. None for
            none.

    Raises:
        ValueError: a parameter outside its range.
    """

    def __init__(
        self, end_ids, max_length, min_length=0, repetition_penalty=1.0, no_repeat_ngram_size=None
    ):
        check_int("min_length", min_length, least=0, most=max_length)
        if not 0 < repetition_penalty < math.inf:
            raise ValueError(
                "`repetition_penalty` must be positive and finite. "
                f"Received: {repetition_penalty}."
            )
        if no_repeat_ngram_size is not None:
            check_int("no_repeat_ngram_size", no_repeat_ngram_size, least=1)
        self._end_ids, self._min_length = end_ids, min_length
        self._penalty, self._ngram = repetition_penalty, no_repeat_ngram_size

    @property
    def any(self):
        """Whether any rule is active."""
        return bool(self._min_length) or self._reads

    @property
    def _reads(self):
        return self._penalty != 1.0 or self._ngram is not None

    def start(self, prompt, lengths, length):
        """The memory of the rules for each row before the last token of its prompt.

        Args:
            prompt: int32 `[R, P]`, right-aligned.
            lengths: int32 `[R]`, tokens of the prompts without the last, or None if all are P - 1.
            length: T, the maximum number of tokens that a row reads.

        Returns:
            A nest of tensors.
        """
        if not self._reads:
            return ()
        rows, width = ops.shape(prompt)[0], ops.shape(prompt)[1] - 1
        empty = ops.zeros((rows, length - width), "int32")
        padding = ops.zeros((rows,), "int32") if lengths is None else width - lengths
        return {"token_ids": ops.concatenate([prompt[:, :-1], empty], axis=1), "padding": padding}

    def read(self, memory, token_ids, column):
        """The memory after one more token of each row."""
        if not self._reads:
            return memory
        new = ops.expand_dims(token_ids, 1)
        return {**memory, "token_ids": kernels.write(memory["token_ids"], new, column, axis=1)}

    def apply(self, scores, memory, column, index):
        """The scores `[R, V]` of the token after `column`, number `index` (from 0)."""
        if self._reads:
            token_ids, padding = memory["token_ids"], ops.expand_dims(memory["padding"], 1)
            columns = ops.expand_dims(ops.arange(ops.shape(token_ids)[1], dtype="int32"), 0)
            seen = ops.logical_and(columns >= padding, columns <= column)  # [R, T]
        if self._penalty != 1.0:
            penalized = ops.where(scores < 0, scores * self._penalty, scores / self._penalty)
            scores = ops.where(_marked(token_ids, seen, scores), penalized, scores)
        if self._ngram is not None:
            followed, repeats = self._repeats(token_ids, seen, column)
            scores = ops.where(_marked(followed, repeats, scores), kernels.MASKED_SCORE, scores)
        if self._min_length:
            ends = is_end(ops.arange(scores.shape[-1], dtype="int32"), self._end_ids)
            early = ops.logical_and(ops.expand_dims(ends, 0), index < self._min_length)
            scores = ops.where(early, kernels.MASKED_SCORE, scores)
        return scores

    def _repeats(self, token_ids, seen, column):
        """The last tokens of all n-grams `[R, T - n + 1]`, and which n-grams would be repeated."""
        others = self._ngram - 1

        def number(i, x):
            """Token i of each n-gram; nothing if a row is shorter than n."""
            return x[:, i : i - others or None]

        repeats = ops.logical_and(number(0, seen), number(others, seen))
        for i in range(others):
            place = ops.maximum(column - others + 1 + i, 0)
            last = ops.take(token_ids, ops.reshape(ops.cast(place, "int32"), (1,)), axis=1)
            repeats = ops.logical_and(repeats, ops.equal(number(i, token_ids), last))
        return number(others, token_ids), repeats


def _marked(token_ids, which, scores):
    """`[R, V]`, True at the tokens of each row that `which [R, T]` marks."""
    rows, vocab_size = ops.shape(scores)[0], scores.shape[-1]
    places = token_ids + ops.expand_dims(ops.arange(rows, dtype="int32") * vocab_size, 1)
    counts = ops.scatter(
        ops.reshape(places, (-1, 1)),
        ops.reshape(ops.cast(which, "int32"), (-1,)),
        (rows * vocab_size,),
    )
    return ops.reshape(counts, (rows, vocab_size)) > 0
