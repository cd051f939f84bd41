"""The loop that generates one sequence for each row, and the greedy choice.

B batch, P prompt length, L max_length, V vocab_size
"""

import typing
from collections.abc import Sequence

from keras import ops

from keras_xfmr import kernels
from keras_xfmr.common.types import ArrayLike, Ids, Index, State, Step
from keras_xfmr.decoding.reading import Reading


class SearchResult(typing.NamedTuple):
    """Sequences found by a search.

    Attributes:
        token_ids: int32 `[B, L]` (beam search: `[B, n, L]`), generated tokens without the prompt,
            with the end token if it was reached, then padding.
        scores: float32 `[B]` (`[B, n]`). Sum of the log-probabilities of the generated tokens;
            beam search divides it by its length penalty.
        lengths: int32 `[B]` (`[B, n]`), number of generated tokens, including the end token.
    """

    token_ids: typing.Any
    scores: typing.Any
    lengths: typing.Any


class ScoredSearchResult(typing.NamedTuple):
    """A `SearchResult` of a search with `token_scores=True`.

    Attributes:
        token_ids, scores, lengths: see `SearchResult`.
        token_scores: float32, same shape as `token_ids`: the log-probability of each token, 0 for
            padding. Their sum is the score before a length penalty.
    """

    token_ids: typing.Any
    scores: typing.Any
    lengths: typing.Any
    token_scores: typing.Any


def greedy_search(
    step: Step,
    prompt: Ids,
    state: State = (),
    *,
    end_id: int | Sequence[int],
    max_length: int,
    pad_id: int = 0,
    lengths: ArrayLike | None = None,
    limit: Index | None = None,
    min_length: int = 0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int | None = None,
    token_scores: bool = False,
) -> SearchResult | ScoredSearchResult:
    """Takes the most probable token at each step.

    Args:
        step: a `Decoder`, or a step function, see `keras_xfmr.decoding`.
        prompt: int `[B]`, the start token, or `[B, P]`, tokens to read before the first choice. If
            P is unknown, as in a TensorFlow graph, it must be 2 or more.
        state: the state of `step`, with B rows; for a `Decoder` by default its `init_state`.
        end_id: the token that ends a sequence, or several of them.
        max_length: L, the maximum number of generated tokens, including the end token.
        pad_id: fills the rest of a sequence that has ended. It may also be an end token.
        lengths: int `[B]`, tokens of each prompt, for a `Decoder` only. The prompts must be
            right-aligned, with padding in front. A row of length 0 is padding of the batch and
            gets no tokens. None: all prompts have length P.
        limit: the maximum number of tokens of this call, at most L (the default). It may be a
            tensor, int `[]`: one compiled program then works for several limits.
        min_length: number of tokens before an end token is allowed.
        repetition_penalty: divides the score of a token in the row or its prompt, or multiplies a
            negative score (Keskar et al. 2019); 1 for none.
        no_repeat_ngram_size: n; no n-gram occurs twice in a sequence and its prompt. None: no
            such rule.
        token_scores: whether to return the score of each token.

    Returns:
        A `SearchResult`, or a `ScoredSearchResult` with `token_scores`. The scores are the
        decoder's own: `repetition_penalty` and the other rules change only the choice.

    Raises:
        ValueError: a parameter outside its range, an `end_id` that is not an integer, or a prompt
            of another rank.

    Example:

    >>> step = lambda ids, index, state: (keras.ops.one_hot(ids + 1, 10) * 9.0, state)
    >>> greedy_search(step, np.array([3]), end_id=6, max_length=5).token_ids.numpy().tolist()
    [[4, 5, 6, 0, 0]]
    """
    reading = Reading.of_prompts(
        step,
        prompt,
        state,
        lengths=lengths,
        end_id=end_id,
        max_length=max_length,
        limit=limit,
        min_length=min_length,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
    )
    return TokenLoop(reading, most_probable, pad_id=pad_id, token_scores=token_scores).run()


def most_probable(scores, draw=None):
    """The token with the highest score of each row `[B, V]`; the first of equal ones."""
    return ops.squeeze(kernels.top_k(scores, 1)[1], -1)


class LoopState(typing.NamedTuple):
    """The variables of the loop over one sequence for each row."""

    index: typing.Any  # scalar: tokens generated so far
    last: typing.Any  # [B] the token to read next
    sequences: typing.Any  # ids [B, L], and the token scores if wanted
    scores: typing.Any  # [B] sums of log-probabilities
    lengths: typing.Any  # [B]
    finished: typing.Any  # bool [B]
    state: typing.Any  # of the decoder and of the penalties


class TokenLoop:
    """Greedy search and sampling: generates one token of each row at a time.

    Args:
        reading: a `Reading`.
        choose: function from scores `[B, V]` and the random number to tokens `[B]`.
        draws: `[L, B, 1]`, the random numbers of all tokens, or None.
        pad_id, token_scores: see `greedy_search`.
    """

    def __init__(self, reading, choose, draws=None, *, pad_id, token_scores=False):
        self._reading, self._choose, self._draws = reading, choose, draws
        self._pad_id, self._token_scores = pad_id, token_scores

    def run(self):
        """The `SearchResult` of a started reading."""
        found = ops.while_loop(
            self.unfinished,
            self.advance,
            tuple(self.start()),
            maximum_iterations=self._reading.max_length,
        )
        found = LoopState(*found)
        return as_result(found.sequences, found.scores, found.lengths)

    def start(self):
        """The `LoopState` before the first token."""
        reading = self._reading
        rows, length = ops.shape(reading.last)[0], reading.max_length
        sequences = (ops.full((rows, length), self._pad_id, dtype="int32"),)
        if self._token_scores:
            sequences += (ops.zeros((rows, length), "float32"),)
        return LoopState(
            index=ops.zeros((), "int32"),
            last=reading.last,
            sequences=sequences,
            scores=ops.zeros((rows,), "float32"),
            lengths=ops.zeros((rows,), "int32"),
            finished=ops.zeros((rows,), "bool") if reading.absent is None else reading.absent,
            state=reading.state,
        )

    def unfinished(self, *loop_vars):
        """Whether a row has not ended."""
        loop = LoopState(*loop_vars)
        return ops.logical_and(
            loop.index < self._reading.limit, ops.logical_not(ops.all(loop.finished))
        )

    def advance(self, *loop_vars):
        """The state after one more token of each row that has not ended."""
        index, last, sequences, scores, lengths, finished, state = loop_vars
        reading = self._reading
        logits, state = reading.step(last, index, state)
        logits = ops.cast(logits, "float32")
        draw = None if self._draws is None else self._draws[index]
        chosen = self._choose(reading.penalize(logits, index, state), draw)
        log_prob = take_one(logits, chosen) - ops.logsumexp(logits, axis=-1)
        chosen = ops.where(finished, self._pad_id, chosen)
        log_prob = ops.where(finished, 0.0, log_prob)
        sequences = tuple(
            kernels.write(all_, ops.expand_dims(new, 1), index, axis=1)
            for all_, new in zip(sequences, (chosen, log_prob))
        )
        return LoopState(
            index=index + 1,
            last=chosen,
            sequences=sequences,
            scores=scores + log_prob,
            lengths=lengths + ops.cast(ops.logical_not(finished), "int32"),
            finished=ops.logical_or(finished, reading.is_end(chosen)),
            state=state,
        )


def as_result(sequences, scores, lengths):
    """The result of ids, perhaps token scores, scores and lengths."""
    kind = ScoredSearchResult if len(sequences) == 2 else SearchResult
    return kind(sequences[0], scores, lengths, *sequences[1:])


def take_one(logits, token_ids):
    """`logits [R, V]` at `token_ids [R]`."""
    indices = ops.expand_dims(token_ids, -1)
    return ops.squeeze(ops.take_along_axis(logits, indices, axis=-1), -1)
