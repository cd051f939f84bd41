"""The protocol of decoders, and a decoder from a step function.

R rows, P prompt length, V vocab_size
"""

import keras
from keras import ops

from keras_xfmr.common.types import Index, State, Tensor


class Decoder:
    """The protocol of a search: creates a state, reads a prompt at once, then single tokens.

    The decoder of a model is a subclass. A decoder is created for one context, such as an encoder's
    memory, and holds it. The state holds what changes between rows and between tokens.

    Prompts of different lengths are right-aligned: row r has its tokens in the last `lengths[r]`
    columns, after padding. Later steps need the lengths, so `prefill` stores them in the state that
    it returns. `index` counts columns and is one number for all rows.

    Example::

        class Follower(Decoder):
            def init_state(self, rows, length):
                return ()

            def prefill(self, prompt, lengths, state):
                return self.step(prompt[:, -1], prompt.shape[1] - 1, state)

            def step(self, token_ids, index, state):
                return keras.ops.one_hot(token_ids + 1, 10) * 9.0, state

        found = greedy_search(Follower(), np.array([[5, 3]]), end_id=6, max_length=5)
    """

    def init_state(self, rows: Index, length: int) -> State:
        """The state of `rows` sequences before their first token.

        Args:
            rows: R, an integer or scalar tensor.
            length: the maximum number of tokens that are read, an integer.

        Returns:
            A nest of tensors whose first axis is R.
        """
        raise NotImplementedError

    def prefill(self, prompt: Tensor, lengths: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Reads a prompt, from column 0.

        Args:
            prompt: int32 `[R, P]`, right-aligned.
            lengths: int32 `[R]`, tokens of each row, in 0 .. P; None: P in every row.
            state: result of `init_state`.

        Returns:
            `(logits [R, V], state)`: the scores of the next token; undefined for a row of length 0.
        """
        raise NotImplementedError

    def step(self, token_ids: Tensor, index: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads one token of each row.

        Args:
            token_ids: int32 `[R]`, in column `index`.
            index: a scalar int32 tensor.
            state: result of `init_state`, `prefill` or `step`. Its rows may be repeated by a
                factor; the rows of a batch element are then adjacent.

        Returns:
            `(logits [R, V], state)`, with the same state structure.
        """
        raise NotImplementedError

    def __call__(self, token_ids: Tensor, index: Tensor, state: State) -> tuple[Tensor, State]:
        """Calls `step`, so a decoder is also a step function."""
        return self.step(token_ids, index, state)


class StepDecoder(Decoder):
    """A decoder from a step function `step(token_ids, index, state) -> (logits, state)`.

    Args:
        step: the function, see `keras_xfmr.decoding`.
    """

    def __init__(self, step):
        self._step = step

    def init_state(self, rows, length):
        return ()

    def prefill(self, prompt, lengths, state):
        """Reads one token after another, in one loop."""
        if lengths is not None:
            raise ValueError(
                "A step function does not know where a row begins, so all prompts must have one "
                "length. Leave out `lengths`, or search with a `keras_xfmr.decoding.Decoder`."
            )

        def read(index, state):
            token_ids = ops.squeeze(ops.take(prompt, ops.reshape(index, (1,)), axis=1), 1)
            return index + 1, take_step(self, token_ids, index, state)[1]

        last, index = ops.shape(prompt)[1] - 1, ops.zeros((), "int32")
        if prompt.shape[1] != 1:
            index, state = ops.while_loop(lambda index, _: index < last, read, (index, state))
        return take_step(self, prompt[:, -1], index, state)

    def step(self, token_ids, index, state):
        return self._step(token_ids, index, state)


def as_decoder(step):
    """A `Decoder`; wraps a step function."""
    return step if hasattr(step, "prefill") else StepDecoder(step)


def take_step(step, token_ids, index, state):
    """The step function's logits `[R, V]` and its state, with the same structure.

    Raises:
        ValueError: logits of another rank or number of rows, or a state of another structure.
    """
    logits, found = step(token_ids, index, state)
    rows = token_ids.shape[0]
    if len(logits.shape) != 2 or rows is not None and logits.shape[0] not in (rows, None):
        raise ValueError(
            "The step function must return logits [rows, vocabulary], one row for each id of "
            f"`token_ids`: in a beam search, for every beam. Received: {rows} ids and "
            f"logits of shape {tuple(logits.shape)}."
        )
    # Compares paths, because dictionaries of two kinds may have different orders.
    given = [path for path, _ in keras.tree.flatten_with_path(state)]
    found = dict(keras.tree.flatten_with_path(found))
    if set(given) != set(found):
        raise ValueError(
            "The step function must return a state with the structure of its input. Received: "
            f"{len(found)} tensors, at {sorted(found, key=str)}, for {len(given)}, at "
            f"{sorted(given, key=str)}."
        )
    return logits, keras.tree.pack_sequence_as(state, [found[path] for path in given])
