"""Greedy search and sampling, one token a call.

B batch, P prompt length, L max_length
"""

from keras_xfmr.decoding.loop import LoopState, TokenLoop, most_probable
from keras_xfmr.decoding.reading import Reading
from keras_xfmr.decoding.sampling import check_sample_seed, draw_numbers, sampler


class TokenStream:
    """The steps of `greedy_search` or `sample`: each may be compiled as a program of its own.

    The tokens are those of the search with the same options and the same seed.

    Args:
        search: `"greedy"` or `"sample"`.
        end_id, max_length, pad_id: see `sample`.
        **options: `min_length`, `repetition_penalty`, `no_repeat_ngram_size`; of `"sample"` also
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

    def __init__(self, search, *, end_id, max_length, pad_id=0, **options):
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
        self._choose = sampler(**chosen_by) if self._draws else most_probable
        self._max_length, self._pad_id = max_length, pad_id
        self._options = {"end_id": end_id, "max_length": max_length, **options}

    def begin(self, step, prompt, lengths=None):
        """Reads the prompts and chooses the first token of each row.

        Args:
            step, prompt, lengths: see `greedy_search`.

        Returns:
            A dictionary: `loop`, a `LoopState`, whose `last [B]` are the tokens and `finished [B]`
            says which rows have ended; `draws`, the random numbers of all steps.
        """
        reading = Reading.of_prompts(step, prompt, (), lengths=lengths, **self._options)
        draws = ()
        if self._draws:
            draws = draw_numbers(self._seed, self._max_length, prompt)
        loop = self._loop(reading, draws)
        return {"loop": loop.advance(*loop.start()), "draws": draws}

    def advance(self, step, width, found):
        """Chooses the next token of each row that has not ended.

        Args:
            step: as `begin` had it.
            width: P.
            found: what `begin` or `advance` returned.
        """
        loop = self._loop(Reading(step, width, **self._options), found["draws"])
        return {"loop": loop.advance(*LoopState(*found["loop"])), "draws": found["draws"]}

    def _loop(self, reading, draws):
        return TokenLoop(
            reading, self._choose, draws if self._draws else None, pad_id=self._pad_id
        )
