"""Random choice of the next token.

B batch, L max_length, V vocab_size
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_xfmr import functional, kernels
from keras_xfmr.common.checks import check_positive_int, check_seed
from keras_xfmr.common.types import ArrayLike, Ids, Index, Seed, State, Step, Tensor
from keras_xfmr.decoding.loop import ScoredSearchResult, SearchResult, TokenLoop
from keras_xfmr.decoding.reading import Reading, as_prompt

# Smaller numbers are not normal in float32, so they cannot be divisors.
LOWEST_TEMPERATURE = 1.2e-38
ROUNDING = 1e-6  # of sums of probabilities


def sample(
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
    temperature: float | Tensor = 1.0,
    top_k: int | None = None,
    top_p: float | Tensor | None = None,
    seed: Seed | None = None,
    num_return: int | None = None,
) -> SearchResult | ScoredSearchResult:
    """Draws each token from softmax(logits / temperature), limited to the most probable tokens.

    The token is where the cumulative probability passes a uniform random number, so a sequence
    needs L random numbers for each row, drawn before the loop.

    Args:
        step, prompt, state, end_id, max_length, pad_id, lengths, limit, min_length,
            repetition_penalty, no_repeat_ngram_size, token_scores: see `greedy_search`. The
            penalties come before the temperature.
        temperature: positive; below 1 sharpens the distribution, near 0 it is greedy search.
            A number, or floats `[B]`, one for each prompt.
        top_k: keep the k most probable tokens (Fan et al. 2018).
        top_p: in (0, 1]; keep the smallest set of most probable tokens with a probability of at
            least p (Holtzman et al. 2020), applied after `top_k`. A number, or floats `[B]`.
        seed: an integer, a `keras.random.SeedGenerator` (new numbers for every call), None, or
            integers `[B]`, one for each prompt: the result for a prompt then depends only on its
            seed, not on the other prompts of the batch.
        num_return: n, sequences for each prompt, which is read once. None: one, without an axis for
            it.

    Returns:
        A `SearchResult` with `token_ids [B, L]` or `[B, n, L]`, or a `ScoredSearchResult`. The
        scores are log-probabilities of the full distribution at temperature 1.

    Raises:
        ValueError: a parameter outside its range.

    Example:

    >>> step = lambda ids, index, state: (keras.ops.one_hot(ids + 1, 10) * 99.0, state)
    >>> sample(step, np.array([3]), end_id=6, max_length=5, seed=1).token_ids.numpy().tolist()
    [[4, 5, 6, 0, 0]]
    """
    check_sample_seed(seed)
    count = 1 if num_return is None else check_positive_int("num_return", num_return)
    prompt = as_prompt(prompt)
    choose = sampler(temperature, top_k, top_p, prompt.shape[:1], count)
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
    reading.repeat(count)
    draws = draw_numbers(seed, max_length, prompt, count)
    found = TokenLoop(reading, choose, draws, pad_id=pad_id, token_scores=token_scores).run()
    if num_return is None:
        return found
    return type(found)(*(ops.reshape(x, (-1, count, *x.shape[1:])) for x in found))


def check_sample_seed(seed):
    """Raises ValueError if a seed is not an integer; accepts a generator, None and arrays."""
    if seed is not None and not isinstance(seed, keras.random.SeedGenerator):
        if not _is_array(seed):
            check_seed(seed)


def sampler(temperature=1.0, top_k=None, top_p=None, rows=(None,), count=1):
    """The function from scores `[B * n, V]` and draws `[B * n, 1]` to tokens; see `sample`.

    Args:
        temperature, top_k, top_p: see `sample`.
        rows: the shape of an option with a number for each prompt.
        count: n.
    """
    if top_k is not None:
        check_positive_int("top_k", top_k)
    temperature = _each_row("temperature", temperature, rows, count)
    top_p = top_p if top_p is None else _each_row("top_p", top_p, rows, count)

    def choose(scores, draw):
        # Shifts the largest to 0, or the division could overflow; softmax gives the same result.
        scores = scores - ops.max(scores, axis=-1, keepdims=True)
        divisor = ops.maximum(temperature, LOWEST_TEMPERATURE)
        lowest = kernels.MASKED_SCORE / 2 * ops.minimum(divisor, 1.0)  # the quotient is finite
        scores = ops.maximum(scores, lowest) / divisor
        return choose_token(scores, draw, top_k=top_k, top_p=top_p)

    return choose


def draw_numbers(seed, length, prompt, count=1):
    """Uniform numbers `[L, B * n, 1]`, for the tokens of all rows; see `sample`."""
    if not _is_array(seed):
        return kernels.uniform((length, ops.shape(prompt)[0] * count, 1), seed)
    seed = ops.convert_to_tensor(seed)
    if keras.backend.standardize_dtype(seed.dtype) in ("int8", "uint8", "int16", "uint16"):
        seed = ops.cast(seed, "int32")
    dtype = keras.backend.standardize_dtype(seed.dtype)
    if "int" not in dtype or not functional.shapes_agree(seed.shape, prompt.shape[:1]):
        raise ValueError(
            "`seed` must be an integer, or integers [batch], one for each prompt. Received: "
            f"{dtype} of shape {tuple(seed.shape)} for {prompt.shape[0]} prompts."
        )
    return ops.expand_dims(kernels.uniform_of_rows(seed, length, count), -1)


RANGES = {
    "temperature": ("be positive and finite", lambda x: (0 < x) & (x < math.inf)),
    "top_p": ("lie in (0, 1]", lambda x: (0 < x) & (x <= 1)),
}


def _each_row(name, value, rows, count):
    """A number, or float32 `[B * n, 1]`: a number for each row."""
    expected, fits = RANGES[name]
    known = value
    if _is_array(value):
        value = ops.cast(value, "float32")
        if not functional.shapes_agree(value.shape, rows):
            raise ValueError(
                f"`{name}` must be a number, or numbers [batch], one for each prompt. Received: "
                f"shape {tuple(value.shape)} for {rows[0]} prompts."
            )
        known = functional.concrete_value(value)
        value = ops.expand_dims(ops.repeat(value, count), -1)
    if known is not None and not np.all(fits(known)):
        raise ValueError(f"`{name}` must {expected}. Received: {known}.")
    return value


def _is_array(value):
    return isinstance(value, (list, tuple)) or len(getattr(value, "shape", ())) > 0


def choose_token(logits, draw, *, top_k=None, top_p=None):
    """The token where the cumulative probability passes `draw`.

    Args:
        logits: float32 `[B, V]`.
        draw: uniform numbers in [0, 1), `[B, 1]`.
        top_k: an integer, or None.
        top_p: a number, float32 `[B, 1]`, or None.

    Returns:
        int32 `[B]`.
    """
    token_ids = None
    if top_k is not None or top_p is not None:
        kept = logits.shape[-1] if top_k is None else min(top_k, logits.shape[-1])
        logits, token_ids = kernels.top_k(logits, kept)  # descending
    probs = kernels.softmax(logits)
    cumulative = ops.cumsum(probs, axis=-1)
    total = cumulative[:, -1:]
    if top_p is not None:
        # A token is kept if the mass before it is below p; the first always is. Rounding errors
        # may separate p from a sum that equals it.
        before = (cumulative - probs) / total
        inside = ops.logical_or(before < top_p - ROUNDING, ops.equal(top_p, 1.0))
        inside = ops.cast(inside, "float32")
        total = ops.max(cumulative * inside, axis=-1, keepdims=True)
    # Tokens whose cumulative mass is below the drawn mass come before the chosen token.
    position = ops.sum(ops.cast(cumulative <= draw * total, "int32"), axis=-1)
    position = ops.minimum(position, logits.shape[-1] - 1)
    if token_ids is None:
        return position
    chosen = ops.take_along_axis(token_ids, ops.expand_dims(position, -1), axis=-1)
    return ops.cast(ops.squeeze(chosen, -1), "int32")
