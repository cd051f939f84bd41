"""One sequence a row: the loop, and the greedy choice.

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
        token_ids: int32 `[B, L]` (beam search: `[B, n, L]`), what was generated after the prompt,
            with the end token where it was reached, then padding.
        scores: float32 `[B]` (`[B, n]`). Sum of the log-probabilities of the generated tokens;
            beam search divides it by its length penalty.
        lengths: int32 `[B]` (`[B, n]`), generated tokens, the end token included.
    """

    token_ids: typing.Any
    scores: typing.Any
    lengths: typing.Any


class ScoredSearchResult(typing.NamedTuple):
    """A `SearchResult` of a search with `token_scores=True`.

    Attributes:
        token_ids, scores, lengths: see `SearchResult`.
        token_scores: float32, of the shape of `token_ids`: the log-probability of each token, whose
            sum is the score before a length penalty; 0 for padding.
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
        prompt: int `[B]`, the start token, or `[B, P]`, tokens that are read before the first
            choice. Where P is not known yet, as in a graph of TensorFlow, it must be 2 or more.
        state: what `step` takes and returns, with B rows; of a `Decoder` by default its
            `init_state`.
        end_id: the token that ends a sequence, or several of them.
        max_length: L, the most tokens that are generated, the end token included.
        pad_id: fills the rest of a sequence that has ended. It may be an end token, too.
        lengths: int `[B]`, tokens of each prompt, which then stand in its last columns, with
            padding in front: for a `Decoder` alone. A row of length 0 is padding of the batch and
            gets no tokens. None: all prompts are P long.
        limit: the most tokens of this call, at most L, which it is by default. It may be a tensor,
            int `[]`: a program that is compiled once then serves several of them.
        min_length: as many tokens come before an end token may.
        repetition_penalty: divides the score of a token that the row has read, its prompt included,
            or multiplies it where it is negative (Keskar et al. 2019); 1 for none.
        no_repeat_ngram_size: n; no n tokens come twice in a row, its prompt included. None: they
            may.
        token_scores: whether to return the score of each token.

    Returns:
        A `SearchResult`, or a `ScoredSearchResult` with `token_scores`. The scores are the
        decoder's own: `repetition_penalty` and the rest change the choice alone.

    Raises:
        ValueError: a parameter outside its range, an `end_id` that is no integer, or a prompt of
            another rank.

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
    """The token of the highest score of each row `[B, V]`, the first of equals."""
    return ops.squeeze(kernels.top_k(scores, 1)[1], -1)


class LoopState(typing.NamedTuple):
    """What the loop of one sequence a row carries."""

    index: typing.Any  # scalar: tokens generated so far
    last: typing.Any  # [B] the token to read next
    sequences: typing.Any  # ids [B, L], and perhaps the score of each
    scores: typing.Any  # [B] sums of log-probabilities
    lengths: typing.Any  # [B]
    finished: typing.Any  # bool [B]
    state: typing.Any  # of the decoder and of the penalties


class TokenLoop:
    """Greedy search and sampling: one token of each row after another.

    Args:
        reading: a `Reading`.
        choose: function from scores `[B, V]` and the draw of the token to tokens `[B]`.
        draws: `[L, B, 1]`, what is drawn for each token, or None.
        pad_id, token_scores: see `greedy_search`.
    """

    def __init__(self, reading, choose, draws=None, *, pad_id, token_scores=False):
        self._reading, self._choose, self._draws = reading, choose, draws
        self._pad_id, self._token_scores = pad_id, token_scores

    def run(self):
        """The `SearchResult` of a reading that has started."""
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
    """Ids, and perhaps the scores of tokens, with the rest."""
    kind = ScoredSearchResult if len(sequences) == 2 else SearchResult
    return kind(sequences[0], scores, lengths, *sequences[1:])


def take_one(logits, token_ids):
    """`logits [R, V]` at `token_ids [R]`."""
    indices = ops.expand_dims(token_ids, -1)
    return ops.squeeze(ops.take_along_axis(logits, indices, axis=-1), -1)
