"""A decoder of causal blocks that cache their keys and values.

B batch, R rows (B times any factor), P prompt length, T columns, S source, D d_model, V vocab_size
"""

import math

from keras import ops

from keras_xfmr import decoding
from keras_xfmr.layers.projections import handed


class CachedDecoder(decoding.Decoder):
    """The decoder of a Transformer: embeddings, causal blocks with caches, logits.

    The state is `{"caches": [...]}`, and after a prompt with padding also `"padding"`, the number
    of padding columns in front of each row.

    Args:
        embed: function from ids `[R, T]` and the position of the first, a scalar or a tensor `[R]`
            that may be negative in padding, to vectors `[R, T, D]`.
        blocks: `EncoderBlock`s, or with a memory `DecoderBlock`s.
        logits: function from vectors `[R, D]` and products, or None, to scores `[R, V]`.
        memory: what the blocks' cross-attention reads, `[B, S, D]`. It is projected once.
        memory_mask: boolean, broadcastable to `[B, T, S]`, True = may be seen.
        longest: positions of the model.
        products: the products of `step`, see `Prepared`.
    """

    def __init__(
        self,
        embed,
        blocks,
        logits,
        *,
        memory=None,
        memory_mask=None,
        longest=math.inf,
        products,
    ):
        self._embed, self._blocks, self._logits = embed, blocks, logits
        self._memory_mask, self._longest, self._products = memory_mask, longest, products
        self._crosses = [None] * len(blocks)
        if memory is not None:
            self._crosses = [block.project_memory(memory) for block in blocks]

    def init_state(self, rows, length):
        if isinstance(length, int) and length > self._longest:
            raise ValueError(
                f"The model has positions for {self._longest} tokens. Received: "
                f"max_length={length}, the tokens of a prompt before its last one included."
            )
        attentions = [block.self_attention for block in self._blocks]
        return {"caches": [attention.init_cache(rows, length) for attention in attentions]}

    def prefill(self, prompt, lengths, state):
        if lengths is not None:
            state = {**state, "padding": ops.shape(prompt)[1] - ops.cast(lengths, "int32")}
        return self._read(prompt, ops.zeros((), "int32"), state)

    def step(self, token_ids, index, state):
        return self._read(ops.expand_dims(token_ids, 1), index, state, self._products)

    def _read(self, token_ids, index, state, products=None):
        """Reads ids `[R, T]` from column `index`; the logits are those after the last."""
        mask, position = None, index
        if "padding" in state:
            padding = state["padding"]
            position = index - padding
        if "padding" in state and self._blocks:
            columns = ops.arange(ops.shape(state["caches"][0][0])[-1], dtype="int32")
            mask = ops.expand_dims(columns >= ops.expand_dims(padding, 1), 1)  # [R, 1, T]
        x, caches = self._embed(token_ids, position), []
        for block, cache, cross in zip(self._blocks, state["caches"], self._crosses):
            options = dict(attention_mask=mask, training=False, cache_index=index)
            options.update(handed(block.call, products))
            if cross is None:
                x, cache = block(x, use_causal_mask=True, cache=cache, **options)
            else:
                options["cross_attention_mask"] = self._memory_mask
                x, (cache, _) = block(x, None, cache=(cache, cross), **options)
            caches.append(cache)
        return self._logits(x[:, -1], products), {**state, "caches": caches}
