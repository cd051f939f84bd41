"""Reads for a search: the whole prompt, then one token at a time, with penalties.

B batch, R rows (B times any factor), P prompt length, L max_length
"""

import keras
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.decoding.decoder import as_decoder, take_step
from keras_xfmr.decoding.penalties import Penalties, check_end_ids, is_end


class Reading:
    """Reads with a decoder: all tokens of the prompts except the last, then the others.

    Args:
        step, end_id, max_length, limit: see `greedy_search`.
        width: P, columns of the prompts.
        **penalties: of `Penalties`.

    Attributes, after `start`:
        last: int32 `[B]`, the last token of each prompt.
        state: of the decoder and of the penalties, B rows.
        absent: bool `[B]`, True for rows that are padding of the batch, or None.
    """

    def __init__(self, step, width, *, end_id, max_length, limit=None, **penalties):
        self.max_length = check_positive_int("max_length", max_length)
        self.limit = max_length if limit is None else ops.minimum(limit, max_length)
        self._end_ids = check_end_ids(end_id)
        self._penalties = Penalties(self._end_ids, max_length, **penalties)
        self._decoder = as_decoder(step)
        self._first = width - 1  # column of the token that the first step reads

    @classmethod
    def of_prompts(cls, step, prompt, state, *, lengths, **options):
        """A started reading."""
        prompt = as_prompt(prompt)
        reading = cls(step, ops.shape(prompt)[1], **options)
        reading.start(prompt, state, lengths)
        return reading

    def start(self, prompt, state, lengths):
        """Reads the prompts except their last tokens, which the first step reads.

        Args:
            prompt: int32 `[B, P]`.
            state, lengths: see `greedy_search`.
        """
        lengths = _as_lengths(lengths, prompt)
        self.last = prompt[:, -1]
        length = self._first + self.max_length
        if state is None or isinstance(state, tuple) and not state:
            state = self._decoder.init_state(ops.shape(prompt)[0], length)
        self.absent = None if lengths is None else ops.equal(lengths, 0)
        read = None if lengths is None else ops.maximum(lengths - 1, 0)
        if prompt.shape[1] != 1:
            _, state = self._decoder.prefill(prompt[:, :-1], read, state)
        self.state = state, self._penalties.start(prompt, read, length)

    def repeat(self, factor):
        """Repeats each batch element to `factor` adjacent rows."""
        if factor != 1:
            self.last, self.state = keras.tree.map_structure(
                lambda x: ops.repeat(x, factor, axis=0), (self.last, self.state)
            )
            self.absent = None if self.absent is None else ops.repeat(self.absent, factor, axis=0)

    def step(self, token_ids, index, state):
        """Reads the token before number `index`: logits `[R, V]` and the state."""
        state, memory = state
        column = index + self._first
        logits, state = take_step(self._decoder, token_ids, column, state)
        return logits, (state, self._penalties.read(memory, token_ids, column))

    @property
    def has_penalties(self):
        return self._penalties.any

    def penalize(self, scores, index, state):
        """The scores `[R, V]` that choose token number `index`."""
        if not self.has_penalties:
            return scores
        return self._penalties.apply(scores, state[1], index + self._first, index)

    def is_end(self, token_ids):
        """Which of the tokens end a sequence."""
        return is_end(token_ids, self._end_ids)


def as_prompt(prompt):
    """`[B]` or `[B, P]` to int32 `[B, P]`."""
    prompt = ops.cast(prompt, "int32")
    if len(prompt.shape) == 1:
        prompt = ops.expand_dims(prompt, 1)
    if len(prompt.shape) != 2 or prompt.shape[1] == 0:
        raise ValueError(
            "`prompt` must have the shape [batch] or [batch, length] with a length of at least 1. "
            f"Received: shape {tuple(prompt.shape)}."
        )
    return prompt


def _as_lengths(lengths, prompt):
    """int32 `[B]`, or None."""
    if lengths is None:
        return None
    lengths = ops.cast(lengths, "int32")
    if len(lengths.shape) != 1 or not functional.shapes_agree(lengths.shape, prompt.shape[:1]):
        raise ValueError(
            "`lengths` must have the shape [batch], a number for each prompt. Received: shape "
            f"{tuple(lengths.shape)} for prompts of shape {tuple(prompt.shape)}."
        )
    values, longest = functional.concrete_value(lengths), prompt.shape[1]
    known = values is not None and longest is not None
    if known and values.size and not 0 <= values.min() <= values.max() <= longest:
        raise ValueError(
            f"`lengths` must lie in 0 .. {longest}, the length of the prompts. "
            f"Received: {values.tolist()}."
        )
    return lengths
