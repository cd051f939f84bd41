"""The encoder and decoder blocks: sublayers, each inside a residual connection.

B batch, T target, S source, D d_model
"""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_xfmr import functional
from keras_xfmr.common.checks import check_positive_int, check_rate
from keras_xfmr.common.types import (
    Activation,
    Config,
    Index,
    Initializer,
    Outputs,
    Self,
    Shape,
    State,
    Tensor,
)
from keras_xfmr.layers.activations import get_activation
from keras_xfmr.layers.add_norm import AddNorm
from keras_xfmr.layers.attention import MultiHeadAttention
from keras_xfmr.layers.base import Layer
from keras_xfmr.layers.composite import features, propagate_frozen
from keras_xfmr.layers.feed_forward import GATES, PositionWiseFFN
from keras_xfmr.layers.initializers import copy_initializer
from keras_xfmr.layers.masks import mask_of_positions
from keras_xfmr.layers.projections import Prepared, handed
from keras_xfmr.layers.recomputation import recomputed


class Block(Layer):
    """Base of both blocks: arguments, default sublayers, the residual connection."""

    feed_forward: keras.layers.Layer | None
    attentions: tuple[str, ...] = ()  # names of the attention sublayers, also constructor arguments

    def __init__(
        self,
        num_heads: int,
        ffn_dim: int,
        *,
        dropout_rate: float,
        attention_dropout_rate: float,
        activation: Activation,
        norm: str,
        norm_first: bool,
        epsilon: float,
        kernel_initializer: Initializer,
        rematerialize: bool,
        self_attention: keras.layers.Layer | None,
        feed_forward: keras.layers.Layer | None,
        **kwargs,
    ) -> None:
        sublayers = {"self_attention": self_attention}
        # Cross-attention of a decoder block; an encoder block must not accept it.
        sublayers.update((name, kwargs.pop(name)) for name in self.attentions[1:])
        sublayers["feed_forward"] = feed_forward
        super().__init__(**kwargs)
        if not isinstance(norm, str):
            raise ValueError(
                "`norm` must be the name of a norm: each residual connection builds its own. "
                f"Received: {norm!r}."
            )
        for name, rate in (
            ("dropout_rate", dropout_rate), ("attention_dropout_rate", attention_dropout_rate)
        ):  # fmt: skip
            check_rate(name, rate, all_too=True)
        if not (isinstance(activation, str) and activation in GATES):
            get_activation(activation, further=GATES)
        self.supports_masking = True
        self._arguments = {
            "num_heads": check_positive_int("num_heads", num_heads),
            "ffn_dim": check_positive_int("ffn_dim", ffn_dim),
            "dropout_rate": dropout_rate,
            "attention_dropout_rate": attention_dropout_rate,
            "activation": activation,
            "norm": norm,
            "norm_first": norm_first,
            "epsilon": epsilon,
            "kernel_initializer": keras.initializers.get(kernel_initializer),
            "rematerialize": bool(rematerialize),
            **sublayers,
        }
        self.rematerialize = bool(rematerialize)
        self.norm_first = norm_first
        for name, layer in sublayers.items():
            setattr(self, name, layer)
        for name in sublayers:
            add_norm = AddNorm(
                norm,
                dropout_rate=dropout_rate,
                epsilon=epsilon,
                dtype=self.dtype_policy,
                name=f"{name}_add_norm",
            )
            setattr(self, f"{name}_add_norm", add_norm)

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        arguments = {name: serialize(value) for name, value in self._arguments.items()}
        return {**super().get_config(), **arguments}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        config = dict(config)
        for name in (*cls.attentions, "feed_forward", "kernel_initializer", "activation"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)

    def build(self, inputs_shape: Shape, memory_shape: Shape | None = None) -> None:
        self.input_spec = features(inputs_shape)
        d_model, arguments = inputs_shape[-1], self._arguments
        for name in self.attentions:
            if getattr(self, name) is None:
                setattr(self, name, self._default_attention(name, d_model))
            layer = getattr(self, name)
            if not layer.built and len(inspect.signature(layer.build).parameters) > 1:
                keys = memory_shape if name == "cross_attention" else inputs_shape
                layer.build(inputs_shape, keys or inputs_shape)
        if self.feed_forward is None:
            self.feed_forward = PositionWiseFFN(
                arguments["ffn_dim"],
                arguments["activation"],
                kernel_initializer=copy_initializer(arguments["kernel_initializer"]),
                dtype=self.dtype_policy,
                name="feed_forward",
            )
        if not self.feed_forward.built:
            self.feed_forward.build(inputs_shape)
        for name in (*self.attentions, "feed_forward"):
            getattr(self, f"{name}_add_norm").build(inputs_shape)
        propagate_frozen(self)

    def compute_output_spec(self, inputs: Tensor, *args, **kwargs) -> Any:
        """The input's shape, without tracing, which takes a tenth of a second for each block.

        Subclasses, other sublayers, and calls that return scores or caches are traced.
        """
        default = type(self) in (EncoderBlock, DecoderBlock) and all(
            _keeps_shape(self._arguments[name], inputs.shape)
            for name in (*self.attentions, "feed_forward")
        )
        extras = kwargs.get("return_attention_scores") or kwargs.get("cache") is not None
        # Positional arguments after the inputs and the memory may be any of these.
        wrong = len(inputs.shape) != 3
        if not default or extras or wrong or len(args) >= len(self.attentions):
            # Traces the call: `Layer` would use `compute_output_shape`, which has no extras.
            return keras.Operation.compute_output_spec(self, inputs, *args, **kwargs)
        memory = args[0] if args else kwargs.get("memory")
        self._check_call(inputs, memory, kwargs)
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def _check_call(self, inputs, memory, asked):
        """What a call that is not traced refuses: masks and biases that do not fit, no memory."""
        _check_cache(asked.get("cache"), asked.get("cache_index"))
        for name in ("mask", "inputs_mask", "document_ids"):
            mask_of_positions(name, asked.get(name), inputs.shape)
        _check_scores(asked, "attention", inputs, inputs, self._heads("self_attention"))
        if "cross_attention" in self.attentions:
            _check_memory(memory, None)
            if not functional.shapes_agree(memory.shape, (inputs.shape[0], None, None)):
                raise ValueError(
                    "`memory` must have the shape [B, S, D], B that of the inputs. Received: "
                    f"memory of shape {tuple(memory.shape)}, inputs of shape {tuple(inputs.shape)}."
                )
            _memory_mask(asked.get("memory_mask"), inputs, memory)
            heads = self._heads("cross_attention")
            _check_scores(asked, "cross_attention", inputs, memory, heads)

    def _heads(self, name):
        return getattr(self._arguments[name], "num_heads", self._arguments["num_heads"])

    def compute_output_shape(self, inputs_shape: Shape, memory_shape: Shape | None = None) -> Shape:
        """The shape of the first output, without scores and caches."""
        return tuple(inputs_shape)

    def _default_attention(self, name, d_model):
        num_heads = self._arguments["num_heads"]
        if d_model % num_heads:
            raise ValueError(
                "The inputs' last axis must be divisible by `num_heads`. "
                f"Received: d_model={d_model}, num_heads={num_heads}."
            )
        return MultiHeadAttention(
            num_heads,
            d_model // num_heads,
            dropout=self._arguments["attention_dropout_rate"],
            kernel_initializer=copy_initializer(self._arguments["kernel_initializer"]),
            dtype=self.dtype_policy,
            name=name,
        )

    def projections(self) -> list[keras.layers.Layer]:
        """The dense layers of the sublayers, for `Prepared`; a custom sublayer may have none."""
        layers = (getattr(self, name) for name in (*self.attentions, "feed_forward"))
        return [
            dense
            for layer in layers
            if isinstance(layer, (MultiHeadAttention, PositionWiseFFN))
            for dense in layer.projections()
        ]

    def _applied(self, **arguments):
        """The result of `_apply`; with `rematerialize`, its intermediate values are not stored."""
        more = arguments["cache"] is not None or arguments["return_attention_scores"]
        symbolic = isinstance(arguments["inputs"], keras.KerasTensor)
        if not (self.rematerialize and arguments["training"]) or more or symbolic:
            return self._apply(**arguments)
        return recomputed(self._apply, **arguments)

    def residual(
        self,
        name: str,
        inputs: Tensor,
        sublayer: Callable[[Tensor], Tensor],
        training: bool | None = None,
    ) -> Tensor:
        """Norm(x + sublayer(x)), or x + sublayer(Norm(x)) in a pre-norm block."""
        add_norm = getattr(self, f"{name}_add_norm")
        if self.norm_first:
            return add_norm.add(inputs, sublayer(add_norm.normalize(inputs)), training=training)
        return add_norm(inputs, sublayer(inputs), training=training)

    def _attend(self, name, query, value, extras, products=None, **asked):
        """An attention's output; its scores and cache, if any, are appended to the list `extras`.

        Passes only the arguments in use, so that any layer called as `layer(query, value)` works.
        """
        asked = {k: v for k, v in asked.items() if not (v is None or v is False)}
        layer = getattr(self, name)
        output = layer(query, value, **asked, **handed(layer.call, products))
        if not isinstance(output, tuple):
            return output
        extras.extend(output[1:])
        return output[0]

    def _feed_forward_residual(self, x, training, products=None):
        layer = self.feed_forward
        given = handed(layer.call, products)
        return self.residual(
            "feed_forward", x, lambda y: layer(y, training=training, **given), training
        )


@keras.saving.register_keras_serializable("keras_xfmr")
class EncoderBlock(Block):
    """Self-attention, then the feed-forward network (Vaswani et al. 2017, figure 1, left).

    y = Norm(x + Attention(x, x, x)); output = Norm(y + FFN(y)).

    Args:
        num_heads: heads of the default attention; must divide D.
        ffn_dim: inner size of the default feed-forward network.
        dropout_rate: dropout on each sublayer's output, by default 0.1.
        attention_dropout_rate: dropout on the attention weights, by default 0.0 as in the paper.
        activation: of the default feed-forward network, see `PositionWiseFFN`; by default
            `"relu"`.
        norm: `"layer_norm"`, the default, or `"rms_norm"`.
        norm_first: pre-norm, x + sublayer(Norm(x)) (Xiong et al. 2020), by default False. A stack
            of pre-norm blocks needs one more norm at its end.
        epsilon: of the norms, by default 1e-6.
        kernel_initializer: of the default sublayers, by default `"glorot_uniform"`.
        rematerialize: whether training stores only the block's inputs, and computes the values up
            to its output again in the backward pass (Chen et al. 2016), by default False. Results
            are the same, including dropout; a step takes about a third more time. Works eagerly, in
            graphs and under XLA, which `fit` uses.
        self_attention: a layer instead of the default `MultiHeadAttention`; Keras' own layer works
            if there is no cache. It is called as `layer(x, x)` with the arguments of Keras' layer
            that are in use: `value_mask`, `attention_mask`, `training`, ...
        feed_forward: a layer instead of the default `PositionWiseFFN`. Each block needs its own
            sublayers: Keras can save a layer that two others share, but cannot load it.

    Call arguments:
        inputs: `[B, T, D]`.
        mask: boolean `[B, T]`, True = a token; Keras fills it in from implicit masks. With `cache`,
            a mask of all positions of the cache.
        attention_mask: boolean `[B, T, T]` or `[B, N, T, T]`, True = may attend.
        attention_bias: added to the scaled scores, broadcastable to `[B, N, T, T]`; with `cache`
            the last axis is that of the cache. For ALiBi build
            `self_attention=MultiHeadAttention(..., alibi=True)`, which knows the positions.
        return_attention_scores: also return the weights `[B, N, T, T]`.
        use_causal_mask, cache, cache_index: see `MultiHeadAttention`; they make this the block of a
            decoder-only model. A call with `cache`, from `init_cache`, also returns the new cache,
            last.
        document_ids: integers `[B, T]` of packed documents, see `MultiHeadAttention`.
        products: a `Prepared` of `projections()`, for a loop of calls.

    Returns:
        `[B, T, D]`; a tuple if scores or a cache are returned, too.

    Raises:
        ValueError: a rate outside [0, 1], an unknown activation, an `epsilon` outside (0, 1);
            `num_heads` does not divide D; a `mask` that is not `[B, T]`; `cache` without
            `cache_index`, or the reverse.

    Example:

    >>> block = EncoderBlock(num_heads=8, ffn_dim=2048)
    >>> block(keras.random.normal((2, 5, 512))).shape
    (2, 5, 512)
    """

    attentions = ("self_attention",)

    def __init__(
        self,
        num_heads: int,
        ffn_dim: int,
        *,
        dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        activation: Activation = "relu",
        norm: str = "layer_norm",
        norm_first: bool = False,
        epsilon: float = 1e-6,
        kernel_initializer: Initializer = "glorot_uniform",
        rematerialize: bool = False,
        self_attention: keras.layers.Layer | None = None,
        feed_forward: keras.layers.Layer | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            num_heads,
            ffn_dim,
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            activation=activation,
            norm=norm,
            norm_first=norm_first,
            epsilon=epsilon,
            kernel_initializer=kernel_initializer,
            rematerialize=rematerialize,
            self_attention=self_attention,
            feed_forward=feed_forward,
            **kwargs,
        )

    def init_cache(self, rows: Index, length: int) -> State:
        """An empty cache for `rows` sequences of `length` tokens, for a decoder-only model.

        Raises:
            ValueError: the block is not built.
        """
        _check_built(self)
        return self.self_attention.init_cache(rows, length)

    def build(self, inputs_shape: Shape) -> None:
        super().build(inputs_shape)

    def compute_output_shape(self, inputs_shape: Shape) -> Shape:
        return super().compute_output_shape(inputs_shape)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
        cache: State | None = None,
        cache_index: Index | None = None,
        products: Prepared | None = None,
        document_ids: Tensor | None = None,
        attention_bias: Tensor | None = None,
    ) -> Outputs:
        return self._applied(
            inputs=inputs,
            mask=mask,
            attention_mask=attention_mask,
            training=training,
            return_attention_scores=return_attention_scores,
            use_causal_mask=use_causal_mask,
            cache=cache,
            cache_index=cache_index,
            products=products,
            document_ids=document_ids,
            attention_bias=attention_bias,
        )

    def _apply(
        self,
        inputs,
        mask,
        attention_mask,
        training,
        return_attention_scores,
        use_causal_mask,
        cache,
        cache_index,
        products,
        document_ids,
        attention_bias,
    ):
        _check_cache(cache, cache_index)
        mask, extras = mask_of_positions("mask", mask, _positions(inputs, cache)), []

        def attend(x):
            return self._attend(
                "self_attention",
                x,
                x,
                extras,
                value_mask=mask,
                attention_mask=attention_mask,
                return_attention_scores=return_attention_scores,
                training=training,
                use_causal_mask=use_causal_mask,
                cache=cache,
                cache_index=cache_index,
                products=products,
                document_ids=document_ids,
                attention_bias=attention_bias,
            )

        x = self.residual("self_attention", inputs, attend, training)
        x = self._feed_forward_residual(x, training, products)
        return (x, *extras) if extras else x


@keras.saving.register_keras_serializable("keras_xfmr")
class DecoderBlock(Block):
    """Causal self-attention, attention to the memory, feed-forward network.

    Vaswani et al. 2017, figure 1, right.

    Args:
        num_heads: heads of the default attention; must divide D.
        ffn_dim: inner size of the default feed-forward network.
        dropout_rate: dropout on each sublayer's output, by default 0.1.
        attention_dropout_rate: dropout on the attention weights, by default 0.0 as in the paper.
        activation: of the default feed-forward network, see `PositionWiseFFN`; by default
            `"relu"`.
        norm: `"layer_norm"`, the default, or `"rms_norm"`.
        norm_first: pre-norm, x + sublayer(Norm(x)) (Xiong et al. 2020), by default False. A stack
            of pre-norm blocks needs one more norm at its end.
        epsilon: of the norms, by default 1e-6.
        kernel_initializer: of the default sublayers, by default `"glorot_uniform"`.
        rematerialize: whether training stores only the block's inputs, and computes the values up
            to its output again in the backward pass (Chen et al. 2016), by default False. Results
            are the same, including dropout; a step takes about a third more time. Works eagerly, in
            graphs and under XLA, which `fit` uses.
        self_attention, cross_attention: layers instead of the default `MultiHeadAttention`; Keras'
            own layers work if there is no cache. They are called as `layer(x, memory)`: see
            `EncoderBlock`.
        feed_forward: a layer instead of the default `PositionWiseFFN`.

    Call arguments:
        inputs: `[B, T, D]`.
        memory: the encoder's output `[B, S, D]`; None if `cache` holds its projection.
        inputs_mask, memory_mask: boolean `[B, T]`, `[B, S]`, True = a token; Keras fills them in
            from implicit masks.
        attention_mask: boolean `[B, T, T]`, of the self-attention, besides the look-ahead mask.
        cross_attention_mask: boolean `[B, T, S]` or `[B, 1, S]`.
        attention_bias, cross_attention_bias: added to the scaled scores of either attention,
            broadcastable to `[B, N, T, T]` and `[B, N, T, S]`; see `EncoderBlock`.
        return_attention_scores: also return the pair of weights (self, cross).
        use_causal_mask: whether to hide later positions.
        cache: a pair of caches (self, cross) from `init_cache`; the call then returns the new one
            last.
        cache_index: position of the first of the T inputs.
        products: a `Prepared` of `projections()`, for a loop of calls.

    Returns:
        `[B, T, D]`; a tuple if scores or caches are returned, too.

    Raises:
        ValueError: a rate outside [0, 1], an unknown activation, an `epsilon` outside (0, 1);
            `num_heads` does not divide D; an `inputs_mask` or `memory_mask` that is not
            `[B, T]` or `[B, S]`; neither memory nor cache; `cache` without `cache_index`, or the
            reverse.

    Example:

    >>> block = DecoderBlock(num_heads=8, ffn_dim=2048)
    >>> block(keras.random.normal((2, 5, 512)), keras.random.normal((2, 7, 512))).shape
    (2, 5, 512)
    """

    attentions = ("self_attention", "cross_attention")

    def __init__(
        self,
        num_heads: int,
        ffn_dim: int,
        *,
        dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        activation: Activation = "relu",
        norm: str = "layer_norm",
        norm_first: bool = False,
        epsilon: float = 1e-6,
        kernel_initializer: Initializer = "glorot_uniform",
        rematerialize: bool = False,
        self_attention: keras.layers.Layer | None = None,
        cross_attention: keras.layers.Layer | None = None,
        feed_forward: keras.layers.Layer | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            num_heads,
            ffn_dim,
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            activation=activation,
            norm=norm,
            norm_first=norm_first,
            epsilon=epsilon,
            kernel_initializer=kernel_initializer,
            rematerialize=rematerialize,
            self_attention=self_attention,
            cross_attention=cross_attention,
            feed_forward=feed_forward,
            **kwargs,
        )

    def init_cache(self, memory: Tensor, rows: Index, length: int) -> State:
        """Caches for decoding `rows` sequences of `length` tokens over `memory [B, S, D]`.

        `rows` is B times a factor; the projected memory is stored once for all of them.

        Raises:
            ValueError: the block is not built; the cross-attention has positions (`rotary`,
                `sliding_window`).
        """
        _check_built(self)
        return self.self_attention.init_cache(rows, length), self.project_memory(memory)

    def project_memory(self, memory: Tensor) -> State:
        """The projected memory: the cross-attention's part of `init_cache`."""
        _check_built(self)
        cross = self.cross_attention
        if any(getattr(cross, name, None) for name in ("rotary", "sliding_window", "alibi")):
            raise ValueError(
                "A cached cross-attention does not know the positions of its queries. `rotary`, "
                "`alibi` and `sliding_window` need them. Build `cross_attention` without them."
            )
        return cross.project_cache(memory)

    def call(
        self,
        inputs: Tensor,
        memory: Tensor,
        inputs_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cross_attention_mask: Tensor | None = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = True,
        cache: State | None = None,
        cache_index: Index | None = None,
        products: Prepared | None = None,
        attention_bias: Tensor | None = None,
        cross_attention_bias: Tensor | None = None,
    ) -> Outputs:
        return self._applied(
            inputs=inputs,
            memory=memory,
            inputs_mask=inputs_mask,
            memory_mask=memory_mask,
            attention_mask=attention_mask,
            cross_attention_mask=cross_attention_mask,
            training=training,
            return_attention_scores=return_attention_scores,
            use_causal_mask=use_causal_mask,
            cache=cache,
            cache_index=cache_index,
            products=products,
            attention_bias=attention_bias,
            cross_attention_bias=cross_attention_bias,
        )

    def _apply(
        self,
        inputs,
        memory,
        inputs_mask,
        memory_mask,
        attention_mask,
        cross_attention_mask,
        training,
        return_attention_scores,
        use_causal_mask,
        cache,
        cache_index,
        products,
        attention_bias,
        cross_attention_bias,
    ):
        _check_memory(memory, cache)
        _check_cache(cache, cache_index)
        inputs_mask = mask_of_positions("inputs_mask", inputs_mask, _positions(inputs, cache))
        memory_mask = _memory_mask(memory_mask, inputs, memory)
        own, cross = [], []  # what each attention gives besides its output
        self_cache, cross_cache = (None, None) if cache is None else cache
        asked = dict(return_attention_scores=return_attention_scores, training=training)
        asked.update(products=products)

        def attend_self(x):
            return self._attend(
                "self_attention",
                x,
                x,
                own,
                value_mask=inputs_mask,
                attention_mask=attention_mask,
                attention_bias=attention_bias,
                use_causal_mask=use_causal_mask,
                cache=self_cache,
                cache_index=cache_index,
                **asked,
            )

        def attend_memory(x):
            return self._attend(
                "cross_attention",
                x,
                memory,
                cross,
                value_mask=memory_mask,
                attention_mask=cross_attention_mask,
                attention_bias=cross_attention_bias,
                cache=cross_cache,
                **asked,
            )

        x = self.residual("self_attention", inputs, attend_self, training)
        x = self.residual("cross_attention", x, attend_memory, training)
        x = self._feed_forward_residual(x, training, products)
        if len(own) != len(cross):
            raise ValueError(
                "Scores and caches need both attentions to return them. Received: "
                f"{len(own)} from `self_attention`, {len(cross)} from `cross_attention`."
            )
        return (x, *zip(own, cross)) if own else x


def _keeps_shape(sublayer, shape):
    """Whether a sublayer is known, without a trace, to keep the shape of its input."""
    if sublayer is None:
        return True
    if type(sublayer) not in (MultiHeadAttention, PositionWiseFFN) or len(shape) != 3:
        return False
    shapes = [shape] if isinstance(sublayer, PositionWiseFFN) else [shape, shape]
    return tuple(sublayer.compute_output_shape(*shapes)) == tuple(shape)


def _check_built(block):
    if not block.built:
        raise ValueError("Build the block before its caches: call it once, or `build` it.")


def _check_memory(memory, cache):
    if memory is None and cache is None:
        raise ValueError("Expected `memory`, or `cache` with its projection. Received neither.")


def _positions(inputs, cache):
    """The shape of what a mask hides, unknown where it may be that of a cache."""
    return inputs.shape if cache is None else (None,) * len(inputs.shape)


def _check_scores(asked, attention, inputs, memory, heads):
    """Refuses a mask or bias of an attention that does not fit its scores."""
    scores = (inputs.shape[0], heads, inputs.shape[1], memory.shape[1])
    for kind in ("mask", "bias"):
        given = functional.as_array(asked.get(f"{attention}_{kind}"))
        shape = () if given is None else tuple(given.shape)
        if kind == "mask" and len(shape) == 3:
            shape = (shape[0], 1, *shape[1:])
        if len(shape) > 4 or (kind == "mask" and len(shape) == 1):
            raise ValueError(
                f"`{attention}_{kind}` must have the shape [B, T, S] or [B, N, T, S], with 1 for "
                f"what broadcasts. Received: shape {shape}."
            )
        functional.check_broadcast(kind, shape, scores)


def _memory_mask(mask, inputs, memory):
    shape = (None,) * len(inputs.shape) if memory is None else memory.shape  # None: in the cache
    return mask_of_positions("memory_mask", mask, shape, "cross_attention_mask")


def _check_cache(cache, cache_index):
    if (cache is None) != (cache_index is None):
        raise ValueError(
            "Pass `cache` and `cache_index`, the position of the first input, together. "
            f"Received: cache={None if cache is None else 'given'}, cache_index={cache_index!r}."
        )
