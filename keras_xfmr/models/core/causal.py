"""`generate`, `stream` and `score` of models that continue text.

B batch, P prompt length, T length
"""

from collections.abc import Iterator

import numpy as np
from keras import ops

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.common.types import ArrayLike, Ids, ModelInputs, Search, Tensor
from keras_xfmr.decoding import Decoder
from keras_xfmr.models.core.generative import Generative
from keras_xfmr.models.core.prompts import align_right, as_rows


class Causal(Generative):
    """A mixin for models from the tokens of a text to the logits of the next ones.

    A model has the ids `pad_id`, which may be None, `start_id` and `end_id`, `max_length`, its
    positions, the layer `token_embedding`, and `decoder`; its call takes `token_ids` and
    `attention_mask`.
    """

    @property
    def hides_padding(self) -> bool:
        """Whether `pad_id` is an id of its own, so that it masks padding."""
        return self.pad_id not in (None, self.start_id, self.end_id)

    def start_search(
        self, inputs: ModelInputs, beams: int = 1
    ) -> tuple[Decoder, Tensor, Tensor | None]:
        rows = ops.shape(inputs["prompt"])[0]
        known = isinstance(rows, int)
        decoder = self.decoder(rows=rows * beams if known else None)
        return decoder, inputs["prompt"], inputs["lengths"]

    def generate(
        self,
        prompt: Ids,
        *,
        lengths: ArrayLike | None = None,
        max_length: int = 64,
        search: Search = "greedy",
        truncate: bool = False,
        jit_compile: bool = True,
        **options,
    ) -> dict[str, np.ndarray]:
        """Continues prompts, by a compiled search with cached keys and values.

        A prompt is read in one parallel pass. Prompts of different lengths give the same text
        together as one by one.

        Args:
            prompt: a list of lists of ids, a ragged tensor, or integers `[B, P]`.
            lengths: tokens of each row of `[B, P]`, `[B]`; by default those that are not `pad_id`,
                or P if the model has no `pad_id` of its own.
            max_length: the most tokens to generate, the end token included, by default 64.
            search: `"greedy"`, `"sample"`, `"beam"`, or a function like those of
                `keras_xfmr.decoding`.
            truncate: whether to read only the last tokens of a prompt that leaves no room for
                `max_length` tokens in the model's context; by default it is refused.
            jit_compile: whether to compile with XLA, once per shape of the prompts, which are
                padded to one of the lengths 16, 24, 32, 48, 64, 96, ...
            **options: of the search; see `Transformer.generate`.

        Returns:
            A dictionary of NumPy arrays, `token_ids`, `scores` and `lengths` of what was generated
            (see `SearchResult`), and `truncated [B]`, whether a prompt lost its beginning.

        Raises:
            ValueError: no ids, ids outside the table, an empty prompt, one that is too long.

        Example:

        >>> model = Gpt.from_preset("tiny", vocab_size=100)
        >>> model.generate([[5, 7], [9, 3, 8]], max_length=4)["token_ids"].shape
        (2, 4)
        """
        inputs, truncated = self._prompts(prompt, lengths, max_length, truncate)
        found = super().generate(
            inputs, max_length=max_length, search=search, jit_compile=jit_compile, **options
        )
        return {**found, "truncated": truncated}

    def stream(
        self,
        prompt: Ids,
        *,
        lengths: ArrayLike | None = None,
        max_length: int = 64,
        search: Search = "greedy",
        truncate: bool = False,
        jit_compile: bool = True,
        **options,
    ) -> Iterator[np.ndarray]:
        """Continues prompts, and yields each token as soon as it is generated.

        The tokens are those of `generate` with the same arguments and the same seed. One program
        reads the prompts and another one generates a token; each is compiled once per shape.

        Args:
            prompt, lengths, max_length, truncate, jit_compile: see `generate`.
            search: `"greedy"` or `"sample"`.
            **options: see `decoding.TokenStream`.

        Yields:
            int32 `[B]`, the next token of each row; for a row that has ended, `pad_id`, or `end_id`
            if the model has no padding.

        Raises:
            ValueError: as `generate`, at the call and not at the first token.

        Example:

        >>> model = Gpt.from_preset("tiny", vocab_size=100)
        >>> len([ids for ids in model.stream([[5, 7]], max_length=4, search="sample", seed=1)])
        4
        """
        inputs, _ = self._prompts(prompt, lengths, max_length, truncate)
        return self._stream(
            inputs, max_length=max_length, search=search, jit_compile=jit_compile, **options
        )

    def _prompts(self, prompt, lengths, max_length, truncate):
        """The inputs of `start_search`, and which prompts lost their beginnings."""
        check_positive_int("max_length", max_length)
        rows = self._rows(prompt, lengths)
        room = self.max_length - max_length + 1  # the last token that is generated is not read
        if room < 1:
            raise ValueError(
                f"The context has {self.max_length} positions. Received: max_length={max_length} "
                "to generate, which leaves none for a prompt."
            )
        truncated = np.array([len(row) > room for row in rows])
        if truncated.any() and not truncate:
            raise ValueError(
                f"Expected prompts of at most {room} tokens, which leave room for max_length="
                f"{max_length} in the context of {self.max_length}. Received: "
                f"{max(map(len, rows))}. Shorten them, or pass truncate=True to read the last ones."
            )
        rows = [row[-room:] for row in rows]
        aligned, lengths = align_right(rows, self.end_id, room)
        return {"prompt": aligned, "lengths": lengths}, truncated

    def _rows(self, given, lengths):
        """Validated ids of any form as a list of arrays, one for each row."""
        rows = as_rows(given, lengths, self.pad_id if self.hides_padding else None)
        if not rows or not all(row.size for row in rows):
            raise ValueError(
                "Expected prompts of at least one token: a list of lists of ids. For a text "
                f"without a prompt pass start_id={self.start_id}. Received: {given!r}."
            )
        for row in rows:
            self.token_embedding.check_ids(row)
        return rows

    def score(self, token_ids: Ids, lengths: ArrayLike | None = None) -> dict[str, np.ndarray]:
        """Log-probabilities of texts: of each token, given those before it.

        Args:
            token_ids, lengths: as `prompt` and `lengths` of `generate`.

        Returns:
            A dictionary of NumPy arrays: `scores [B]`, the sums, and `token_scores [B, T]`, 0 for a
            row's first token and after its last.

        Example:

        >>> model = Gpt.from_preset("tiny", vocab_size=100)
        >>> model.score([[5, 7, 3]])["token_scores"].shape
        (1, 3)
        """
        rows = self._rows(token_ids, lengths)
        width = max(map(len, rows))
        ids, mask = np.zeros((2, len(rows), width), "int32")
        for row, line, shown in zip(rows, ids, mask):
            line[: len(row)], shown[: len(row)] = row, 1
        logits = ops.cast(self({"token_ids": ids, "attention_mask": mask}), "float32")[:, :-1]
        chosen = ops.take_along_axis(logits, ops.expand_dims(ids[:, 1:], -1), axis=-1)
        scores = ops.squeeze(chosen, -1) - ops.logsumexp(logits, axis=-1)
        scores = np.where(mask[:, 1:], ops.convert_to_numpy(scores), np.float32(0))
        scores = np.pad(scores, [(0, 0), (1, 0)])
        return {"scores": scores.sum(1), "token_scores": scores}
