"""Beam search that stores finished hypotheses separately.

B batch, K beams, L max_length, V vocab_size
"""

import math
import typing
from collections.abc import Sequence

import keras
from keras import ops

from keras_xfmr import kernels
from keras_xfmr.common.checks import check_int, check_positive_int
from keras_xfmr.common.types import ArrayLike, Ids, Index, State, Step, Tensor
from keras_xfmr.decoding.loop import ScoredSearchResult, SearchResult, as_result
from keras_xfmr.decoding.reading import Reading

HIGHEST_PENALTY = 1e30  # of a hypothesis's length: log-probability / penalty does not underflow
IMPOSSIBLE = -1e9  # lower than every possible score; finite, so that JSON can hold it


class BeamState(typing.NamedTuple):
    """The variables of the loop: live beams, and the best finished hypotheses."""

    index: typing.Any  # scalar: tokens generated so far
    live: typing.Any  # ids [B, K, L], and the token scores if wanted
    live_scores: typing.Any  # [B, K] sums of log-probabilities
    last: typing.Any  # [B * K] the token to read next
    done: typing.Any  # as `live`
    done_scores: typing.Any  # [B, K] with the length penalty; IMPOSSIBLE where empty
    done_lengths: typing.Any  # [B, K]
    rows: typing.Any  # [B * K] the row of `state` that each beam continues
    state: typing.Any  # of the decoder and of the penalties, B * K rows


def length_penalty(length: ArrayLike, alpha: float) -> Tensor:
    """((5 + length) / 6)^alpha (Wu et al. 2016, equation 14).

    Args:
        length: tokens of a hypothesis, including the end token; a number or a tensor.
        alpha: 0 for none.

    Returns:
        float32, of the shape of `length`.

    Example:

    >>> float(length_penalty(7, 1.0))
    2.0
    """
    return ops.power((5.0 + ops.cast(length, "float32")) / 6.0, alpha)


def beam_search(
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
    beam_size: int = 4,
    alpha: float = 0.6,
    num_return: int = 1,
) -> SearchResult | ScoredSearchResult:
    """Keeps the `beam_size` most probable prefixes; returns the best finished sequences.

    Each step considers the 2K most probable extensions. Those that end move to the finished set
    with the score log P / length_penalty(length, alpha); the best K others stay live. A single beam
    considers one extension, so it is greedy search for every alpha. The search of a batch element
    stops when no live beam can beat its worst finished hypothesis: log P only falls, so the best
    possible score of a beam is its log P over the penalty of L.

    Args:
        step, prompt, end_id, max_length, pad_id, lengths, limit, min_length,
            no_repeat_ngram_size, token_scores: see `greedy_search`.
        state: with B rows; the search repeats it for the beams.
        repetition_penalty: see `greedy_search`. Here it changes log-probabilities, and the scores
            sum the changed ones, as in transformers' beam search.
        beam_size: K.
        alpha: of the length penalty, not negative; 0 compares plain log-probabilities.
        num_return: n, how many hypotheses to return, at most K.

    Returns:
        A `SearchResult` with `token_ids [B, n, L]`, `scores [B, n]` and `lengths [B, n]`, best
        first, or a `ScoredSearchResult`. Beams still live at L count as finished at that length.
        If there are fewer than n hypotheses, as with a tiny vocabulary, the last rows are empty:
        score -1e9, length 0, only padding.

    Raises:
        ValueError: a parameter outside its range.

    Example:

    >>> step = lambda ids, index, state: (keras.ops.one_hot(ids + 1, 10) * 9.0, state)
    >>> beam_search(step, np.array([3]), end_id=6, max_length=5).token_ids.numpy().tolist()
    [[[4, 5, 6, 0, 0]]]
    """
    check_positive_int("beam_size", beam_size)
    check_int("num_return", num_return, least=1, most=beam_size)
    if not alpha >= 0:  # also refuses NaN
        raise ValueError(f"`alpha` must not be negative. Received: {alpha}.")
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
    if not alpha * math.log((5 + max_length) / 6) < math.log(HIGHEST_PENALTY):
        raise ValueError(
            f"`alpha` is so large that all scores would be 0. Received: alpha={alpha}, "
            f"max_length={max_length}."
        )
    beams = _first_beams(reading, beam_size, pad_id, token_scores)
    longest = length_penalty(reading.limit, alpha)

    def attainable(live_scores):
        return ops.where(_possible(live_scores), live_scores / longest, IMPOSSIBLE)

    def unfinished(*loop_vars):
        beams = BeamState(*loop_vars)
        # Both sets are sorted, best first.
        better = ops.any(beams.done_scores[:, -1] < attainable(beams.live_scores[:, 0]))
        return ops.logical_and(beams.index < reading.limit, better)

    def advance(*loop_vars):
        beams = BeamState(*loop_vars)
        # Here a compiler merges it with the write of the step. At the end of the last step it
        # would be another pass over the caches.
        state = keras.tree.map_structure(lambda x: ops.take(x, beams.rows, axis=0), beams.state)
        logits, state = reading.step(beams.last, beams.index, state)
        extensions = _extensions(beams, reading, logits, state, beam_size)
        return tuple(_split(beams, extensions, state, beam_size, alpha))

    beams = BeamState(
        *ops.while_loop(unfinished, advance, tuple(beams), maximum_iterations=max_length)
    )
    # Live beams of a finished element cannot enter: they score less than its worst hypothesis.
    live_lengths = ops.full_like(beams.done_lengths, reading.limit)
    scores, lengths, *sequences = _best(
        num_return,
        ops.concatenate([beams.done_scores, attainable(beams.live_scores)], axis=1),
        ops.concatenate([beams.done_lengths, live_lengths], axis=1),
        *(ops.concatenate(both, axis=1) for both in zip(beams.done, beams.live)),
    )
    found = _possible(scores)
    sequences = [
        ops.where(ops.expand_dims(found, -1), x, fill) for x, fill in zip(sequences, (pad_id, 0.0))
    ]
    return as_result(sequences, scores, ops.where(found, lengths, 0))


def _possible(scores):
    """Which scores belong to a hypothesis: each extension makes a placeholder's score lower."""
    return scores > IMPOSSIBLE / 2


def _first_beams(reading, beam_size, pad_id, token_scores):
    batch, max_length = ops.shape(reading.last)[0], reading.max_length
    sequences = (ops.full((batch, beam_size, max_length), pad_id, dtype="int32"),)
    if token_scores:
        sequences += (ops.zeros((batch, beam_size, max_length), "float32"),)
    # All beams are equal at first; only one may count, or the top K would be K copies.
    head_start = ops.concatenate(
        [ops.zeros((1, 1)), ops.full((1, beam_size - 1), IMPOSSIBLE)], axis=1
    )
    live_scores = ops.zeros((batch, 1), "float32") + ops.cast(head_start, "float32")
    if reading.absent is not None:
        live_scores = ops.where(ops.expand_dims(reading.absent, 1), IMPOSSIBLE, live_scores)
    reading.repeat(beam_size)
    return BeamState(
        index=ops.zeros((), "int32"),
        live=sequences,
        live_scores=live_scores,
        last=reading.last,
        done=sequences,
        done_scores=ops.full((batch, beam_size), IMPOSSIBLE, dtype="float32"),
        done_lengths=ops.zeros((batch, beam_size), "int32"),
        rows=ops.arange(batch * beam_size, dtype="int32"),
        state=reading.state,
    )


class Extensions(typing.NamedTuple):
    """The most probable extensions of the beams, `[B, 2K]` each; for a single beam `[B, 1]`."""

    ids: typing.Any
    scores: typing.Any  # sums of log-probabilities
    own_scores: typing.Any  # of single tokens, if wanted
    parents: typing.Any
    ends: typing.Any


def _extensions(beams, reading, logits, state, beam_size):
    vocab_size = logits.shape[-1]
    # K of 2K may end. With two extensions a single beam could end with the second best one.
    count = 1 if beam_size == 1 else 2 * beam_size
    logits = ops.cast(logits, "float32")
    normalizer = ops.logsumexp(logits, axis=-1, keepdims=True)
    if reading.has_penalties:
        logits = reading.penalize(logits - normalizer, beams.index, state)
        normalizer = 0.0
    # The best of all are among the best of each beam, so each beam is searched alone.
    width = min(count, vocab_size)
    top_logits, top_ids = kernels.top_k(logits, width)  # [B * K, width]
    log_probs = ops.reshape(top_logits - normalizer, (-1, beam_size, width))
    scores = ops.expand_dims(beams.live_scores, -1) + log_probs
    scores, where = ops.top_k(
        ops.reshape(scores, (-1, beam_size * width)), min(count, beam_size * width)
    )
    where = ops.cast(where, "int32")
    ids, *own_scores = (
        ops.take_along_axis(ops.reshape(x, (-1, beam_size * width)), where, axis=1)
        for x in (top_ids, log_probs)[: len(beams.live)]
    )
    return Extensions(ids, scores, own_scores, where // width, reading.is_end(ids))


def _split(beams, extensions, state, beam_size, alpha):
    """Ended extensions compete for the finished set, the others live on."""
    ids, scores, own_scores, parents, ends = extensions
    length = beams.index + 1
    sequences = tuple(  # [B, 2K, L], for a single beam [B, 1, L]
        kernels.write(
            ops.take_along_axis(prefixes, ops.expand_dims(parents, -1), axis=1),
            ops.expand_dims(new, -1),
            beams.index,
            axis=2,
        )
        for prefixes, new in zip(beams.live, (ids, *own_scores))
    )
    ended = ops.logical_and(ends, _possible(scores))
    end_scores = ops.where(ended, scores / length_penalty(length, alpha), IMPOSSIBLE)
    done_scores, done_lengths, *done = _best(
        beam_size,
        ops.concatenate([beams.done_scores, end_scores], axis=1),
        ops.concatenate([beams.done_lengths, ops.zeros_like(ids) + length], axis=1),
        *(ops.concatenate(both, axis=1) for both in zip(beams.done, sequences)),
    )
    live_scores, live_parents, last, *live = _best(
        beam_size, ops.where(ends, IMPOSSIBLE, scores), parents, ids, *sequences
    )
    rows = ops.expand_dims(ops.arange(ops.shape(live_parents)[0], dtype="int32"), 1) * beam_size
    return BeamState(
        index=length,
        live=tuple(live),
        live_scores=live_scores,
        last=ops.reshape(last, (-1,)),
        done=tuple(done),
        done_scores=done_scores,
        done_lengths=done_lengths,
        rows=ops.reshape(rows + live_parents, (-1,)),
        state=state,
    )


def _best(count, scores, *others):
    """The `count` best along axis 1, and the matching entries of the others."""
    scores, where = ops.top_k(scores, count)
    where = ops.cast(where, "int32")
    picked = [
        ops.take_along_axis(
            x, ops.reshape(where, ops.shape(where) + (1,) * (len(x.shape) - 2)), axis=1
        )
        for x in others
    ]
    return (scores, *picked)
