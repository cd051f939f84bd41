"""`generate` of models that read a source and write a target.

B batch, S source, P prompt length, L max_length
"""

import math

import numpy as np
from keras import ops

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.common.types import Ids, ModelInputs, Search, State, Tensor
from keras_xfmr.decoding import Decoder
from keras_xfmr.models.core.alignments import align
from keras_xfmr.models.core.generative import Generative
from keras_xfmr.models.core.inputs import IDS, refuse_texts
from keras_xfmr.models.core.prompts import align_right, as_rows, round_up


class SequenceToSequence(Generative):
    """A mixin for encoder-decoder models.

    A model has `context(source_ids)` and `decoder(context)`, the layers `source_embedding`,
    `source_positions`, `target_embedding` and `target_positions`, the ids `pad_id`, `start_id` and
    `end_id`, and for alignments `attention_weights(source_ids, target_ids)`.
    """

    def start_search(
        self, inputs: ModelInputs, beams: int = 1
    ) -> tuple[Decoder, Tensor, Tensor | None]:
        given = inputs if isinstance(inputs, dict) else {"source_ids": inputs}
        source_ids = given["source_ids"]
        rows = ops.shape(source_ids)[0]  # an integer where it is known
        known = isinstance(rows, int)
        decoder = self.decoder(self.context(source_ids), rows=rows * beams if known else None)
        if "prompt" in given:
            return decoder, given["prompt"], given.get("lengths")
        return decoder, ops.full((rows,), self.start_id, dtype="int32"), None

    def step_function(
        self, source_ids: Ids, max_length: int, beams: int = 1
    ) -> tuple[Decoder, Tensor, State]:
        """The inputs of a search, `(decoder, prompt, state)`; the prompt is the start token.

        Args:
            source_ids: integers `[B, S]`.
            max_length: positions of the caches: the tokens to generate and, for a prompt of your
                own of P tokens, P - 1 more. A step beyond them is lost.
            beams: rows of the search for each sentence; they affect only the speed.

        Raises:
            ValueError: `max_length` is beyond the learned positions.
        """
        decoder, prompt, _ = self.start_search(source_ids, beams)
        return decoder, prompt, decoder.init_state(ops.shape(prompt)[0], max_length)

    def _longest_target(self):
        return getattr(self.target_positions, "max_length", math.inf)

    def _longest_source(self):
        return getattr(self.source_positions, "max_length", math.inf)

    def _check_source(self, source_ids):
        if source_ids.ndim != 2:
            raise ValueError(
                "`source_ids` must have the shape [batch, length], padded with pad_id="
                f"{self.pad_id}. Received: shape {source_ids.shape}."
            )
        longest = self._longest_source()
        if source_ids.shape[1] > longest:
            raise ValueError(
                f"The model has learned positions for {longest} source tokens. Received: "
                f"{source_ids.shape[1]}."
            )
        self.source_embedding.check_ids(source_ids)

    def generate(
        self,
        source_ids: Ids,
        *,
        prompt: Ids | None = None,
        max_length: int | None = None,
        search: Search = "greedy",
        alignments: bool = False,
        jit_compile: bool = True,
        **options,
    ) -> dict[str, np.ndarray]:
        """Target ids for source ids, by a compiled search with cached keys and values.

        Each row is searched once, by one replica, also in the scope of a `tf.distribute` strategy.

        Args:
            source_ids: integers `[B, S]`, padded with `pad_id`, or ragged.
            prompt: the first tokens of the targets, after the start token: integers `[B, P]`, or
                rows of different lengths, ragged or lists. In `[B, P]`, `pad_id` is padding. What
                follows them is generated.
            max_length: the most tokens to generate, the end token included; by default S + 50, but
                not more than the learned positions.
            search: `"greedy"`, `"sample"`, `"beam"`, or a function like those of
                `keras_xfmr.decoding`.
            alignments: whether to return, for each token, the source token with the largest
                cross-attention in the last block, averaged over its heads. It takes one more pass
                over the sequences.
            jit_compile: whether to compile with XLA, once per shape of `source_ids`, which are
                padded to one of the lengths 16, 24, 32, 48, 64, 96, ...
            **options: of the search: `beam_size`, `alpha`, `num_return`, `temperature`, `seed`,
                `min_length`, `repetition_penalty`, `no_repeat_ngram_size`, `token_scores`, ...
                Each combination compiles a program, except other seeds; the last 8 are kept.

        Returns:
            A dictionary of NumPy arrays, `token_ids`, `scores`, `lengths`: see `SearchResult`; on
            request `token_scores`, and `alignments`, int32 of the shape of `token_ids`, columns of
            `source_ids`, -1 after the end.

        Raises:
            ValueError: an unknown search, ids that are not a matrix of vocabulary entries,
                a source or `max_length` beyond the learned positions.

        Example:

        >>> model = Transformer(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
        >>> found = model.generate(np.array([[5, 7, 3]]), max_length=8, search="beam", beam_size=2)
        >>> found["token_ids"].shape
        (1, 1, 8)
        """
        refuse_texts({"source_ids": source_ids}, IDS)
        if hasattr(source_ids, "to_tensor"):  # ragged
            source_ids = source_ids.to_tensor(self.pad_id)
        try:
            source_ids = ops.convert_to_numpy(source_ids)
        except ValueError as error:  # of lists
            raise ValueError(
                "`source_ids` must be rows of equal length: pad them with pad_id="
                f"{self.pad_id}, or pass a ragged tensor."
            ) from error
        self._check_source(source_ids)
        width = source_ids.shape[1]
        widest = round_up(width, self._longest_source())
        inputs: ModelInputs = np.pad(
            source_ids.astype("int32"), [(0, 0), (0, widest - width)], constant_values=self.pad_id
        )
        starts, longest = self._starts(prompt, len(inputs)), self._longest_target()
        read, limit = max(map(len, starts), default=1) - 1, None
        if read >= longest:
            raise ValueError(
                f"The model has {longest} positions for a target, which leave none to generate. "
                f"Received: a prompt of {read} tokens."
            )
        if max_length is None:
            limit, max_length = (min(size + 50, longest - read) for size in (width, widest))
        check_positive_int("max_length", max_length)
        most = 1 if prompt is None else longest - max_length + 1
        starts, lengths = align_right(starts, self.pad_id, most)
        if prompt is not None:
            inputs = {"source_ids": inputs, "prompt": starts, "lengths": lengths}
        found = super().generate(
            inputs,
            max_length=max_length,
            up_to=limit,
            search=search,
            jit_compile=jit_compile,
            **options,
        )
        if not alignments:
            return found
        return {**found, "alignments": align(self, source_ids, starts, lengths, found)}

    def _starts(self, prompt, rows):
        """The start token and a prompt for each row."""
        if prompt is None:
            return [[self.start_id]] * rows
        hides = self.pad_id not in (self.start_id, self.end_id)
        prompt = as_rows(prompt, pad_id=self.pad_id if hides else None)
        if len(prompt) != rows:
            raise ValueError(
                f"`prompt` must have a row for each of the {rows} sources. Received: {len(prompt)}."
            )
        for ids in prompt:
            if ids.size:
                self.target_embedding.check_ids(ids)
        return [[self.start_id, *ids] for ids in prompt]
