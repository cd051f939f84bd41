"""One sequence a row: the loop, and the greedy choice.

B batch, P prompt length, L max_length, V vocab_size
"""

import typing

import keras
from keras import ops

from keras_xfmr import kernels
from keras_xfmr.common.checks import check_int, check_positive_int


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


def greedy_search(step, prompt, state=(), *, end_id, max_length, pad_id=0):
    """Takes the most probable token at each step.

    Args:
        step: step function, see `keras_xfmr.decoding`.
        prompt: int `[B]`, the start token, or `[B, P]`, tokens that are read before the first
            choice.
        state: what `step` takes and returns, with B rows.
        end_id: the token that ends a sequence.
        max_length: L, the most tokens that are generated, the end token included.
        pad_id: fills the rest of a sequence that has ended.

    Returns:
        A `SearchResult`.

    Raises:
        ValueError: `max_length` is not positive, `end_id` is no integer, or the prompt has
            another rank.

    Example:

    >>> step = lambda ids, index, state: (keras.ops.one_hot(ids + 1, 10) * 9.0, state)
    >>> greedy_search(step, np.array([3]), end_id=6, max_length=5).token_ids.numpy().tolist()
    [[4, 5, 6, 0, 0]]
    """
    return decode_loop(
        step,
        prompt,
        state,
        lambda logits, index: ops.squeeze(kernels.top_k(logits, 1)[1], -1),  # the first of equals
        end_id=end_id,
        max_length=max_length,
        pad_id=pad_id,
    )


def as_prompt(prompt, max_length):
    """`[B]` or `[B, P]` to int32 `[B, P]`, with the arguments checked."""
    check_positive_int("max_length", max_length)
    prompt = ops.cast(prompt, "int32")
    if len(prompt.shape) == 1:
        prompt = ops.expand_dims(prompt, 1)
    if len(prompt.shape) != 2 or not prompt.shape[1]:
        raise ValueError(
            "`prompt` must have the shape [batch] or [batch, length] with a known length of at "
            f"least 1. Received: shape {tuple(prompt.shape)}."
        )
    return prompt


def read_prompt(step, prompt, state):
    """Runs the step function over all of the prompt but its last token."""
    for index in range(prompt.shape[1] - 1):
        _, state = take_step(step, prompt[:, index], ops.full((), index, dtype="int32"), state)
    return state


def take_step(step, token_ids, index, state):
    """The step function's logits `[R, V]` and its state, in the form that it was given.

    Raises:
        ValueError: logits of another rank or other rows, or a state of other parts.
    """
    logits, found = step(token_ids, index, state)
    rows = token_ids.shape[0]
    if len(logits.shape) != 2 or rows is not None and logits.shape[0] not in (rows, None):
        raise ValueError(
            "The step function must return logits [rows, vocabulary], one row for each of the ids "
            f"that it is given: of a beam search, those of every beam. Received: {rows} ids and "
            f"logits of shape {tuple(logits.shape)}."
        )
    # By their places and keys, for dictionaries of two kinds need not have one order.
    given = [path for path, _ in keras.tree.flatten_with_path(state)]
    found = dict(keras.tree.flatten_with_path(found))
    if set(given) != set(found):
        raise ValueError(
            "The step function must return a state of the form that it was given. Received: "
            f"{len(found)} tensors, at {sorted(found, key=str)}, for {len(given)}, at "
            f"{sorted(given, key=str)}."
        )
    return logits, keras.tree.pack_sequence_as(state, [found[path] for path in given])


def decode_loop(step, prompt, state, choose, *, end_id, max_length, pad_id):
    """The loop of greedy search and sampling; `choose(logits, index)` gives the next tokens."""
    prompt = as_prompt(prompt, max_length)
    check_int("end_id", end_id)
    first = prompt.shape[1] - 1
    rows = ops.shape(prompt)[0]
    state = read_prompt(step, prompt, () if state is None else state)

    def unfinished(index, last, token_ids, scores, lengths, finished, state):
        return ops.logical_not(ops.all(finished))

    def advance(index, last, token_ids, scores, lengths, finished, state):
        logits, state = take_step(step, last, index + first, state)
        logits = ops.cast(logits, "float32")
        chosen = choose(logits, index)
        log_prob = take_one(logits, chosen) - ops.logsumexp(logits, axis=-1)
        chosen = ops.where(finished, pad_id, chosen)
        scores = scores + ops.where(finished, 0.0, log_prob)
        lengths = lengths + ops.cast(ops.logical_not(finished), "int32")
        token_ids = kernels.write(token_ids, ops.expand_dims(chosen, 1), index, axis=1)
        finished = ops.logical_or(finished, ops.equal(chosen, end_id))
        return index + 1, chosen, token_ids, scores, lengths, finished, state

    loop_vars = (
        ops.zeros((), "int32"),
        prompt[:, -1],
        ops.full((rows, max_length), pad_id, dtype="int32"),
        ops.zeros((rows,), "float32"),
        ops.zeros((rows,), "int32"),
        ops.zeros((rows,), "bool"),
        state,
    )
    result = ops.while_loop(unfinished, advance, loop_vars, maximum_iterations=max_length)
    return SearchResult(*result[2:5])


def take_one(logits, token_ids):
    """`logits [R, V]` at `token_ids [R]`."""
    indices = ops.expand_dims(token_ids, -1)
    return ops.squeeze(ops.take_along_axis(logits, indices, axis=-1), -1)
