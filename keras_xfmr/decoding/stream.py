"""Greedy search and sampling, one token for each call.

B batch, P prompt length, L max_length
"""

from collections.abc import Sequence
from typing import Any

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.common.types import ArrayLike, Ids, Seed, Step
from keras_xfmr.decoding.loop import LoopState, TokenLoop, most_probable
from keras_xfmr.decoding.penalties import Penalties, check_end_ids
from keras_xfmr.decoding.reading import Reading
from keras_xfmr.decoding.sampling import check_sample_seed, draw_numbers, sampler


class TokenStream:
    """The steps of `greedy_search` or `sample`, each of which can be compiled separately.

    The tokens equal those of the search with the same options and seed.

    Args:
        search: `"greedy"` or `"sample"`.
        end_id, max_length, pad_id: see `sample`.
        **options: `min_length`, `repetition_penalty`, `no_repeat_ngram_size`; for `"sample"` also
            `seed`, `temperature`, `top_k`, `top_p`.

    Raises:
        ValueError: another search, or an option that a stream does not have.

    Example:

    >>> step = lambda ids, index, state: (keras.ops.one_hot(ids + 1, 10) * 9.0, state)
    >>> stream = TokenStream("greedy", end_id=6, max_length=5)
    >>> found = stream.begin(step, np.array([[3]]))
    >>> found = stream.advance(step, 1, found)
    >>> found["loop"].last.numpy().tolist(), found["loop"].sequences[0].numpy().tolist()
    ([5], [[4, 5, 0, 0, 0]])
    """

    def __init__(
        self,
        search: str,
        *,
        end_id: int | Sequence[int],
        max_length: int,
        pad_id: int = 0,
        **options,
    ) -> None:
        if search not in ("greedy", "sample"):
            raise ValueError(f"A stream is \"greedy\" or \"sample\". Received: search={search!r}.")
        of_sample = ("seed", "temperature", "top_k", "top_p") if search == "sample" else ()
        known = ("min_length", "repetition_penalty", "no_repeat_ngram_size", *of_sample)
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"A {search} stream has the options {known}. Received: {unknown}.")
        chosen_by = {name: options.pop(name) for name in of_sample if name in options}
        self._draws = search == "sample"
        self._seed = chosen_by.pop("seed", None)
        check_sample_seed(self._seed)
        self._chosen_by = chosen_by
        self.check_rows(None)
        self._max_length, self._pad_id = check_positive_int("max_length", max_length), pad_id
        self._options = {"end_id": end_id, "max_length": max_length, **options}
        Penalties(check_end_ids(end_id), max_length, **options)  # checks the options

    def check_rows(self, rows: int | None) -> None:
        """Raises ValueError if an option has one number per prompt for another number of rows."""
        if self._draws:
            sampler(**self._chosen_by, rows=(rows,))

    def begin(
        self, step: Step, prompt: Ids, lengths: ArrayLike | None = None, seed: Seed | None = None
    ) -> dict[str, Any]:
        """Reads the prompts and chooses the first token of each row.

        Args:
            step, prompt, lengths: see `greedy_search`.
            seed: replaces the constructor's seed.

        Returns:
            A dictionary: `loop`, a `LoopState` with the tokens `last [B]` and the ended rows
            `finished [B]`; `draws`, the random numbers of all steps.
        """
        reading = Reading.of_prompts(step, prompt, (), lengths=lengths, **self._options)
        draws = ()
        if self._draws:
            seed = self._seed if seed is None else seed
            draws = draw_numbers(seed, self._max_length, prompt)
        loop = self._loop(reading, draws)
        return {"loop": loop.advance(*loop.start()), "draws": draws}

    def advance(self, step: Step, width: int, found: dict[str, Any]) -> dict[str, Any]:
        """Chooses the next token of each row that has not ended.

        Args:
            step: the `step` of `begin`.
            width: P.
            found: result of `begin` or `advance`.
        """
        loop = self._loop(Reading(step, width, **self._options), found["draws"])
        return {"loop": loop.advance(*LoopState(*found["loop"])), "draws": found["draws"]}

    def _loop(self, reading, draws):
        if not self._draws:
            return TokenLoop(reading, most_probable, pad_id=self._pad_id)
        choose = sampler(**self._chosen_by, rows=draws.shape[1:2])
        return TokenLoop(reading, choose, draws, pad_id=self._pad_id)
