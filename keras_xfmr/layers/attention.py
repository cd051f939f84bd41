"""Multi-head attention.

B batch, T target, S source, N heads, K key/value heads, H head_dim, V value_dim, D d_model
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_xfmr import functional, kernels
from keras_xfmr.common.checks import check_positive_int, check_rate
from keras_xfmr.common.types import (
    Config,
    Constraint,
    Index,
    Initializer,
    Outputs,
    Regularizer,
    Seed,
    Self,
    Shape,
    State,
    Tensor,
)
from keras_xfmr.layers import blockwise as blocks
from keras_xfmr.layers.attention_axes import AxisFolding, axes_inside
from keras_xfmr.layers.base import Layer
from keras_xfmr.layers.composite import propagate_frozen
from keras_xfmr.layers.dropout import Dropout
from keras_xfmr.layers.initializers import copy_initializer
from keras_xfmr.layers.masks import mask_of_positions, warn_of_inverted
from keras_xfmr.layers.projections import Prepared, RowDense, handed, project
from keras_xfmr.layers.shared_rows import SharedRows


@keras.saving.register_keras_serializable("keras_xfmr")
class MultiHeadAttention(Layer):
    """Concat(head_1, ..., head_N) W_O, head_i = Attention(Q W_Qi, K W_Ki, V W_Vi).

    Vaswani et al. 2017, section 3.2.2. The constructor and call arguments, the weights and their
    order are those of `keras.layers.MultiHeadAttention`, so `set_weights(other.get_weights())`
    gives the same numbers. Differences: a query that is masked everywhere returns zeros in every
    precision, with and without dropout; and the masks of the inputs are not changed.

    To change how attention is computed, override `project_query` or `project_key_value` (inputs to
    heads), `compute_mask_for_scores` (who sees whom) or `compute_attention` (heads to heads). Calls
    with a cache use these methods, too.

    Args:
        num_heads: N, heads of the query.
        key_dim: H, size of a query or key head.
        value_dim: V, size of a value head; by default `key_dim`.
        dropout: rate of dropout on the attention weights, in [0, 1].
        use_bias: whether the projections have biases.
        output_shape: last axes of the output; by default D of the query.
        attention_axes: axes that attend to each other, not the first or last; by default all of
            them. Negative ones count from the end of the inputs.
        sliding_window: if given, a query sees keys less than this many positions away.
        flash_attention: False or None. True raises an error, because Keras' flash kernels do not
            return zeros for a query that is masked everywhere.
        use_gate: multiplies the heads by a sigmoid of a projected query (Qiu et al. 2025).
        seed: seed of the dropout.
        num_key_value_heads: K, a divisor of N; fewer heads of keys and values (Ainslie et al.
            2023). N / K query heads read each of them; nothing is repeated in memory.
        rotary: a `RotaryEmbedding` (or any layer called as `layer(x, offset=...)`) applied to the
            projected queries and keys.
        alibi: whether -m_n |t - s| is added to the scores of head n, instead of positions in the
            inputs (Press et al. 2022); see `functional.alibi_bias`.
        blockwise: whether to compute the scores in blocks of queries and keys, and to compute them
            again in the backward pass. Memory then grows with T and S, not with T x S (Rabe and
            Staats 2021, Milakov and Gimelshein 2018). The result is exact. None, the default: if
            T x S is known and at least 2^20; True: for all lengths; False: never. All scores are
            computed at once if the call returns scores, or if a subclass overrides
            `compute_attention` or `compute_mask_for_scores`.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            activity_regularizer, kernel_constraint, bias_constraint: of the projections.

    Call arguments:
        query: `[B, T, D]`.
        value: `[B, S, D]`; None if `cache` holds the keys and values.
        key: `[B, S, D]`, by default `value`.
        query_mask, value_mask, key_mask: boolean `[B, T]` or `[B, S]`, one axis less than the
            inputs; Keras fills them in from implicit masks. In a call that writes to a cache, a
            mask as long as the cache hides its positions, such as padding of a prompt; a shorter
            mask, of this call only, is ignored.
        attention_mask: boolean, `[T, S]`, `[B, T, S]` or `[B, N, T, S]` (broadcastable), True =
            attend. A look-ahead mask `[T, T]` in which True hides causes a warning.
        return_attention_scores: also return the weights `[B, N, T, S]`.
        use_causal_mask: a query sees keys up to its own position.
        attention_bias: added to the scaled scores, broadcastable to `[B, N, T, S]`. Keras casts it
            to the layer's precision: in float16 a bias below -65504 becomes -inf, which hides.
        cache: pair of keys `[B, K, H, S]` and values `[B, K, S, V]` from `init_cache` or
            `project_cache`. With `cache_index`, the keys and values of this call are written at
            positions cache_index .. cache_index + T, and the query attends to the whole cache
            (mask it, or use `use_causal_mask`). Without `cache_index`, the cache holds all keys and
            values: see `project_cache`. The batch of the query may then be B times a factor: rows
            b * factor .. read the cache row b (beams share a source). A mask or bias has the rows
            of the query or of the cache.
        cache_index: position of the first query, an integer or scalar tensor. cache_index + T must
            not be larger than the cache; this is checked if both are known.
        position: position of the first query, by default 0, if `cache` holds the keys and values.
            It is used for rotary positions, ALiBi, causal and sliding masks.
        products: a `Prepared` of `projections()`, for a loop of calls.
        document_ids: integers `[B, T]`, for self-attention without a cache: a token sees the tokens
            with its own number; number 0 sees nothing. See `functional.document_mask`.

    Returns:
        `[B, T, D]`; with `return_attention_scores` also the weights; with `cache` also the new
        cache, last. More than one output is a tuple.

    Raises:
        ValueError: sizes that do not match, wrong ranks, or arguments that exclude each other.

    Example:

    >>> layer = MultiHeadAttention(num_heads=8, key_dim=64, num_key_value_heads=2)
    >>> x = keras.random.normal((2, 5, 512))
    >>> layer(x, x, use_causal_mask=True).shape
    (2, 5, 512)
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | Sequence[int] | None = None,
        attention_axes: int | Sequence[int] | None = None,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer | None = None,
        bias_regularizer: Regularizer | None = None,
        activity_regularizer: Regularizer | None = None,
        kernel_constraint: Constraint | None = None,
        bias_constraint: Constraint | None = None,
        use_gate: bool = False,
        seed: Seed | None = None,
        *,
        num_key_value_heads: int | None = None,
        rotary: keras.layers.Layer | None = None,
        alibi: bool = False,
        blockwise: bool | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_heads = check_positive_int("num_heads", num_heads)
        self.key_dim = check_positive_int("key_dim", key_dim)
        value_dim = self.key_dim if value_dim is None else value_dim
        self.value_dim = check_positive_int("value_dim", value_dim)
        self.num_key_value_heads = (
            self.num_heads
            if num_key_value_heads is None
            else check_positive_int("num_key_value_heads", num_key_value_heads)
        )
        if num_heads % self.num_key_value_heads:
            raise ValueError(
                "`num_key_value_heads` must divide `num_heads`. "
                f"Received: num_heads={num_heads}, num_key_value_heads={num_key_value_heads}."
            )
        if flash_attention:
            raise ValueError("`flash_attention=True` is not supported here. Leave it out.")
        if blockwise not in (None, True, False):
            raise ValueError(
                "`blockwise` must be True, False, or None (chosen by the length). "
                f"Received: {blockwise!r}."
            )
        self.blockwise = blockwise
        self.dropout = check_rate("dropout", dropout, all_too=True)
        self.use_bias = use_bias
        self.sliding_window = (
            None if sliding_window is None else check_positive_int("sliding_window", sliding_window)
        )
        self.flash_attention = flash_attention
        self.use_gate = use_gate
        self.seed = seed
        self.rotary = rotary
        self.alibi = bool(alibi)
        self._output_axes = _as_tuple("output_shape", output_shape, positive=True)
        self._attention_axes = _as_tuple("attention_axes", attention_axes)
        # Every projection gets these arguments; this layer has no activity regularizer itself.
        self._projection_arguments = {
            "kernel_initializer": keras.initializers.get(kernel_initializer),
            "bias_initializer": keras.initializers.get(bias_initializer),
            "kernel_regularizer": keras.regularizers.get(kernel_regularizer),
            "bias_regularizer": keras.regularizers.get(bias_regularizer),
            "activity_regularizer": keras.regularizers.get(activity_regularizer),
            "kernel_constraint": keras.constraints.get(kernel_constraint),
            "bias_constraint": keras.constraints.get(bias_constraint),
        }

    def get_config(self) -> Config:
        config = super().get_config()
        for name in ("num_heads", "key_dim", "value_dim", "dropout", "use_bias", "sliding_window"):
            config[name] = getattr(self, name)
        for name in ("flash_attention", "use_gate", "seed", "num_key_value_heads", "alibi"):
            config[name] = getattr(self, name)
        config["blockwise"] = self.blockwise
        config["output_shape"] = self._output_axes
        config["attention_axes"] = self._attention_axes
        for name, value in (*self._projection_arguments.items(), ("rotary", self.rotary)):
            config[name] = keras.saving.serialize_keras_object(value)
        return config

    @classmethod
    def from_config(cls, config: Config) -> Self:
        config = dict(config)
        if isinstance(config.get("rotary"), dict):
            config["rotary"] = keras.saving.deserialize_keras_object(config["rotary"])
        return super().from_config(config)

    # ---- weights

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        key_shape = value_shape if key_shape is None else key_shape
        _check_shapes(query_shape, value_shape, key_shape)
        axes_inside(self._attention_axes, len(query_shape))
        kv_heads = self.num_key_value_heads
        self.query_dense = self._head_projection("query", query_shape, self.num_heads, self.key_dim)
        self.key_dense = self._head_projection("key", key_shape, kv_heads, self.key_dim)
        if self.use_gate:
            # The name in Keras' layer, so that each can read the other's weight files.
            self._gate_dense = self._head_projection(
                "gate", query_shape, self.num_heads, self.value_dim, activation="sigmoid"
            )
        self.value_dense = self._head_projection("value", value_shape, kv_heads, self.value_dim)
        self.dropout_layer = Dropout(self.dropout, seed=self.seed, dtype=self.dtype_policy)
        output_axes = self._output_axes or (query_shape[-1],)
        heads_shape = (*query_shape[:-1], self.num_heads, self.value_dim)
        self.output_dense = self._projection(
            "attention_output", heads_shape, contracted=2, output_axes=output_axes
        )
        propagate_frozen(self)

    @property
    def attention_axes(self) -> tuple[int, ...] | None:
        """The constructor's value; None means all axes but the first and last."""
        return self._attention_axes

    def compute_output_shape(
        self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None
    ) -> Shape:
        """The shape of the first output, without scores and cache."""
        _check_shapes(query_shape, value_shape, value_shape if key_shape is None else key_shape)
        return (*query_shape[:-1], *(self._output_axes or query_shape[-1:]))

    def compute_output_spec(self, *args, **kwargs) -> Any:
        """Traces the call, because `compute_output_shape` has the first output only."""
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def _head_projection(self, name, input_shape, heads, head_dim, activation=None):
        return self._projection(name, input_shape, 1, (heads, head_dim), activation)

    def _projection(self, name, input_shape, contracted, output_axes, activation=None):
        """A dense layer from the last `contracted` axes to `output_axes`."""
        layer = RowDense(
            contracted,
            output_axes,
            use_bias=self.use_bias,
            activation=activation,
            name=name,
            dtype=self.dtype_policy,
            **{name: copy_initializer(x) for name, x in self._projection_arguments.items()},
        )
        layer.supports_masking = True  # positions stay; otherwise Keras warns of a lost mask
        layer.build(tuple(input_shape))
        return layer

    def projections(self) -> list[keras.layers.Layer]:
        """The dense layers, for `Prepared`."""
        gate = [self._gate_dense] if self.use_gate else []
        return [self.query_dense, self.key_dense, self.value_dense, self.output_dense, *gate]

    # ---- the steps of a call; subclasses may override them

    def project_query(
        self, query: Tensor, position: Index = 0, products: Prepared | None = None
    ) -> Tensor:
        """The query heads `[B, T, N, H]` of `query [B, T, D]`, rotated if there is a `rotary`.

        `position` is the position of the first query. An override may leave out `products`, the
        prepared matrices for speed.
        """
        heads = project(self.query_dense, query, products)
        return heads if self.rotary is None else self.rotary(heads, offset=position)

    def project_key_value(
        self,
        value: Tensor,
        key: Tensor | None = None,
        position: Index = 0,
        products: Prepared | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The key heads `[B, S, K, H]` and value heads `[B, S, K, V]`; `key` is by default `value`.

        `position` is the position of the first key. For `products` see `project_query`.
        """
        key_heads = project(self.key_dense, value if key is None else key, products)
        if self.rotary is not None:
            key_heads = self.rotary(key_heads, offset=position)
        return key_heads, project(self.value_dense, value, products)

    def project_cache(self, value: Tensor, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A cross-attention cache: the memory's keys and values, projected once."""
        return _to_cache(*self.project_key_value(value, key))

    def init_cache(self, batch_size: Index, length: int) -> tuple[Tensor, Tensor]:
        """An empty self-attention cache for `length` positions."""
        heads = (batch_size, self.num_key_value_heads)
        return (
            ops.zeros((*heads, self.key_dim, length), dtype=self.compute_dtype),
            ops.zeros((*heads, length, self.value_dim), dtype=self.compute_dtype),
        )

    def compute_mask_for_scores(
        self,
        target_length: Index,
        source_length: Index,
        *,
        masks: Sequence[Tensor | None] = (),
        query_mask: Tensor | None = None,
        source_masks: Sequence[Tensor | None] = (),
        position: Index = 0,
        use_causal_mask: bool = False,
    ) -> Tensor | None:
        """One mask from everything that limits who sees whom.

        Args:
            target_length, source_length: T and S, integers or scalar tensors.
            masks: of rank 3 or 4, or None.
            query_mask: `[B, T]` or None.
            source_masks: masks of keys and values `[B, S]`, or None.
            position: position of the first query.
            use_causal_mask: whether to hide later keys from a query.

        Returns:
            boolean, of rank 3 or 4, broadcastable to `[B, N, T, S]`, or None.
        """
        masks, positions = list(masks), (None, None, None)  # [B, T, D] or [B, S, D]
        query_mask = mask_of_positions("query_mask", query_mask, positions, "masks")
        source_masks = [
            mask_of_positions("source_masks", mask, positions, "masks") for mask in source_masks
        ]
        if query_mask is not None:
            masks.append(ops.expand_dims(query_mask, -1))
        masks.extend(ops.expand_dims(mask, -2) for mask in source_masks if mask is not None)
        if use_causal_mask:
            masks.append(functional.look_ahead_mask(target_length, source_length, position))
        if self.sliding_window is not None:
            # `position` shifts the band; look-back and look-ahead are both limited.
            near = functional.look_ahead_mask(
                target_length, source_length, position + self.sliding_window - 1,
                window=2 * self.sliding_window - 1,
            )  # fmt: skip
            masks.append(near)
        return functional.combine_masks(*masks)

    def compute_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attention from heads to heads.

        Args:
            query, key, value: `[B, T, N, H]`, `[B, S, K, H]`, `[B, S, K, V]`.
            mask: boolean of rank 3 or 4, or None.
            bias: added to the scaled scores, or None.
            training: whether to drop weights.

        Returns:
            The output `[B, T, N, V]` and the weights `[B, N, T, S]`.
        """
        drop = None
        if self.dropout:
            drop = lambda weights: self.dropout_layer(weights, training=training)  # noqa: E731
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            mask=mask,
            bias=bias,
            scale=1.0 / math.sqrt(self.key_dim),
            drop=drop,
            return_weights=True,
        )

    # ---- the call

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
        attention_bias: Tensor | None = None,
        cache: State | None = None,
        cache_index: Index | None = None,
        position: Index | None = None,
        products: Prepared | None = None,
        document_ids: Tensor | None = None,
    ) -> Outputs:
        reads_cache = cache is not None and cache_index is None
        sources = () if reads_cache else (value.shape, (value if key is None else key).shape)
        _check_shapes(query.shape, *sources)
        folded = self._folds(query.shape)
        wants = cache, attention_bias, document_ids, self.alibi or None
        if folded and any(x is not None for x in wants):
            raise ValueError(
                "`cache`, `attention_bias`, `document_ids` and `alibi` need inputs [batch, length, "
                "features]."
            )
        document_ids = _documents(document_ids, query.shape, sources, cache)
        position_masks = query_mask, value_mask, key_mask
        if not folded:  # with other axes, the length depends on the attention axes
            # Masks of a cache that is written may be as long as the cache.
            own = () if cache is not None else sources
            shapes = query.shape, *(own or ((None,) * 3,) * 2)
            position_masks = _position_masks(position_masks, shapes)
        query_mask, value_mask, key_mask = position_masks
        attention_mask = functional.as_array(attention_mask)
        if attention_mask is not None and not folded:
            if len(attention_mask.shape) == 2:  # [T, S], as Keras' layer reads it
                attention_mask = ops.expand_dims(attention_mask, 0)
            warn_of_inverted(attention_mask)
        gate = project(self._gate_dense, query, products) if self.use_gate else None
        position = _position(cache, cache_index, position)
        query = self.project_query(query, position, **handed(self.project_query, products))
        if not reads_cache:
            given = handed(self.project_key_value, products)
            key, value = self.project_key_value(value, key, position, **given)
        if cache_index is not None:
            cache = _write(cache, key, value, position)
            value_mask = _of_whole_cache(value_mask, cache)
            key_mask = _of_whole_cache(key_mask, cache)
        if cache is not None:
            key, value = _from_cache(cache)
        heads = query, key, value
        masks = dict(attention_mask=attention_mask, query_mask=query_mask)
        masks.update(source_masks=(value_mask, key_mask), document_ids=document_ids)
        masks.update(position=position, use_causal_mask=use_causal_mask)
        wanted = dict(training=training, scores=return_attention_scores)
        if folded:
            output, weights = self._folded_attention(heads, masks, **wanted)
        else:
            attend = self._attend_shared if reads_cache else self._attend
            output, weights = attend(heads, attention_bias, masks, **wanted)
        if gate is not None:
            output = output * gate
        results = [project(self.output_dense, output, products)]
        if return_attention_scores:
            results.append(weights)
        if cache is not None:
            results.append(cache)
        return results[0] if len(results) == 1 else tuple(results)

    def _attend(self, heads, bias, masks, training, scores, alibi=None):
        """The output and the weights; the weights may be None if `scores` is False."""
        alibi = self.alibi if alibi is None else alibi  # False: the bias has it already
        if not scores and self._attends_in_blocks(*heads[:2]):
            return self._attend_in_blocks(heads, bias, masks, training, alibi), None
        if alibi:
            bias = self._with_alibi(bias, heads, masks["position"])
        masks = dict(masks)
        limits, documents = [masks.pop("attention_mask")], masks.pop("document_ids")
        if documents is not None:
            limits.append(functional.document_mask(documents))
        mask = self.compute_mask_for_scores(
            ops.shape(heads[0])[1], ops.shape(heads[1])[1], masks=limits, **masks
        )
        return self.compute_attention(*heads, mask, bias, training)

    def _with_alibi(self, bias, heads, position):
        lengths = (ops.shape(x)[1] for x in heads[:2])
        targets, sources = (ops.arange(length, dtype="int32") for length in lengths)
        linear = functional.alibi_bias(self.num_heads, position + targets, sources)
        return linear if bias is None else linear + bias

    def _attends_in_blocks(self, query, key):
        steps = "compute_attention", "compute_mask_for_scores"
        if self.blockwise is False or blocks.is_symbolic(query):
            return False
        if self.dropout == 1 or blocks.overrides(self, MultiHeadAttention, steps):
            return False
        return bool(self.blockwise) or blocks.is_long(query, key)

    def _attend_in_blocks(self, heads, bias, masks, training, alibi):
        query, key, value = heads
        scores = (query.shape[0], self.num_heads, query.shape[1], key.shape[1])
        seen = blocks.who_sees_whom(masks, self.sliding_window, scores)
        if alibi:
            seen = seen._replace(slopes=functional.alibi_slopes(self.num_heads))
        drops, scale = self.dropout and training, 1.0 / math.sqrt(self.key_dim)
        dropout = (self.dropout, self.dropout_layer.seed_generator.next()) if drops else None
        bias = blocks.as_bias(bias, scores)
        return kernels.blockwise_attention(query, key, value, seen, bias, scale, dropout)

    def _attend_shared(self, heads, bias, masks, **wanted):
        """Attention in which several query rows may read one row of the keys and values."""
        query, key, value = heads
        rows = SharedRows(query, ops.shape(key)[0])
        if (masks["use_causal_mask"] or self.sliding_window) and not rows.is_single:
            raise ValueError(
                "`use_causal_mask` and `sliding_window` need as many query rows as the cache has, "
                "known when the call is traced: query rows that share keys have no order. "
                f"Received: {query.shape[0]} rows for a cache of {key.shape[0]}."
            )
        masks = {**masks, "attention_mask": rows.group_mask(masks["attention_mask"])}
        if masks["query_mask"] is not None:
            masks["query_mask"] = rows.group(masks["query_mask"])
        if self.alibi:
            bias = self._with_alibi(bias, heads, masks["position"])
        heads, bias = (rows.group(query), key, value), rows.group_mask(bias)
        output, weights = self._attend(heads, bias, masks, alibi=False, **wanted)
        return rows.ungroup(output), None if weights is None else rows.ungroup_weights(weights)

    # ---- attention over other axes than the second of three

    def _folds(self, query_shape):
        axes = self._attention_axes
        return len(query_shape) != 3 or axes not in (None, (1,), (-2,))

    def _folded_attention(self, heads, masks, **wanted):
        folding = AxisFolding(heads, self._attention_axes)
        if (masks["use_causal_mask"] or self.sliding_window) and len(folding.axes) > 1:
            raise ValueError(
                "A causal or sliding mask needs one attention axis. "
                f"Received: attention_axes={folding.axes}."
            )
        positions = (masks["query_mask"], *masks["source_masks"])
        if any(mask is not None for mask in positions) and not folding.is_last:
            raise ValueError(
                "`query_mask`, `value_mask` and `key_mask` need attention over one axis, the last "
                "before the features. Pass `attention_mask` of shape [batch, ..., "
                f"*target axes, *source axes]. Received: attention_axes={folding.axes}."
            )
        query, key, value = (x.shape[:-1] for x in heads)  # as many axes as the inputs
        positions = _position_masks(positions, (query, value, key))
        query_mask, *source_masks = map(folding.fold_positions, positions)
        attention_mask = folding.fold_mask(masks["attention_mask"])
        masks = {**masks, "attention_mask": attention_mask, "query_mask": query_mask}
        masks["source_masks"] = source_masks
        output, weights = self._attend(folding.heads, None, masks, **wanted)
        weights = None if weights is None else folding.unfold_weights(weights)
        return folding.unfold_output(output), weights


def _position(cache, cache_index, position):
    """Position of the first query: `cache_index` if the call writes, `position` if it reads."""
    reads_cache = cache is not None and cache_index is None
    if position is not None and not reads_cache:
        raise ValueError(
            "`position` is for a call that reads a `cache`. A call that writes to it takes "
            "`cache_index`, and a call without a cache begins at 0. Received: cache="
            f"{_given(cache)}, cache_index={_given(cache_index)}, position={position!r}."
        )
    if cache_index is None:
        return 0 if position is None else position
    if cache is None:
        raise ValueError(
            "`cache_index` needs a `cache`, see `init_cache`. Received: "
            f"cache=None, cache_index={cache_index!r}."
        )
    return cache_index


def _documents(document_ids, query_shape, sources, cache):
    """The document ids, after a check that this is self-attention without a cache."""
    if document_ids is None:
        return None
    lengths = [shape[1] for shape in (query_shape, *sources)]
    if cache is not None or not functional.shapes_agree(lengths[:1], lengths[1:2]):
        raise ValueError(
            "`document_ids` are for self-attention without a cache: queries and keys are the same "
            f"positions. Received: {lengths[0]} queries, cache={_given(cache)}"
            f"{'' if cache is not None else f', {lengths[1]} keys'}. Pass `attention_mask`."
        )
    return mask_of_positions("document_ids", document_ids, query_shape)


# Keys [B, K, H, S] and values [B, K, S, V] are what the two products of a step read. With another
# layout every step would transpose the cache.


def _to_cache(key, value):
    return ops.transpose(key, (0, 2, 3, 1)), ops.transpose(value, (0, 2, 1, 3))


def _write(cache, key, value, position):
    keys, values = _to_cache(key, value)
    return (
        functional.update_cache(cache[0], keys, position, axis=3),
        functional.update_cache(cache[1], values, position, axis=2),
    )


def _from_cache(cache):
    return ops.transpose(cache[0], (0, 3, 1, 2)), ops.transpose(cache[1], (0, 2, 1, 3))


def _of_whole_cache(mask, cache):
    """The mask if it is as long as the cache. A shorter one has no values for other positions."""
    length = cache[0].shape[3]
    known = mask is not None and length is not None
    return mask if known and mask.shape[1] == length else None


def _position_masks(masks, shapes):
    """The masks of query, value and key, after a check of their shapes."""
    names = ("query_mask", "value_mask", "key_mask")
    return [mask_of_positions(*one) for one in zip(names, masks, shapes)]


def _check_shapes(query_shape, value_shape=None, key_shape=None):
    for name, shape in (("query", query_shape), ("value", value_shape), ("key", key_shape)):
        if shape is not None and len(shape) < 3:
            raise ValueError(
                f"`{name}` must have the shape [batch, length, features]. "
                f"Received: shape {tuple(shape)}."
            )
    if value_shape is not None and not functional.shapes_agree(value_shape[1:-1], key_shape[1:-1]):
        raise ValueError(
            "`value` and `key` must have the same length. Received: value of shape "
            f"{tuple(value_shape)}, key of shape {tuple(key_shape)}."
        )


def _given(value):
    """The text of a message: a cache would be too long."""
    return None if value is None else "given"


def _as_tuple(name, value, positive=False):
    """None, or a tuple of an integer or of a sequence of integers."""
    values = value if value is None or isinstance(value, (list, tuple)) else (value,)
    for one in values or ():
        whole = isinstance(one, numbers.Integral) and not isinstance(one, bool)
        if not whole or (positive and one < 1):
            expected = f"{'a positive' if positive else 'an'} integer, integers, or None"
            raise ValueError(f"`{name}` must be {expected}. Received: {value!r}.")
    return None if values is None else tuple(map(int, values))
