"""The blocks against their compositions, written out by hand.

B batch, T target, S source, N heads, D d_model, F ffn_dim
"""

import inspect

import keras
import numpy as np
import oracles
import pytest
from arrays import as_numpy, normal, randomize
from keras import ops

from keras_xfmr import functional
from keras_xfmr.layers import (
    AddNorm,
    DecoderBlock,
    EncoderBlock,
    MaskedLMTransform,
    MultiHeadAttention,
    PositionWiseFFN,
    RotaryEmbedding,
    TokenEmbedding,
)

pytestmark = pytest.mark.portable

B, T, S, N, D, F = 2, 5, 7, 3, 6, 11
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32 through three normalized sublayers


def mask(rng, *shape):
    return ops.convert_to_tensor(rng.random(shape) < 0.7)


def built(rng, kind, **arguments):
    """A block whose every weight is drawn."""
    block = kind(N, F, **arguments)
    block.build((B, T, D)) if kind is EncoderBlock else block.build((B, T, D), (B, S, D))
    return randomize(rng, block)


def attention(layer, query, value, **options):
    dense = {"q": layer.query_dense, "k": layer.key_dense, "v": layer.value_dense}
    dense["o"] = layer.output_dense
    weights = {f"w{name}": d.kernel.numpy() for name, d in dense.items()}
    weights.update({f"b{name}": d.bias.numpy() for name, d in dense.items()})
    return oracles.multi_head_attention(query, value, weights=weights, **options)


def feed_forward(layer, x, kind):
    dense = {"1": layer.inner_dense, "2": layer.output_dense}
    if kind == "swiglu":
        dense["g"] = layer.gate_dense
    weights = {f"w{name}": d.kernel.numpy() for name, d in dense.items()}
    weights.update({f"b{name}": d.bias.numpy() for name, d in dense.items()})
    return oracles.feed_forward(x, kind, weights)


def residual(block, name, x, sublayer):
    config = block.get_config()
    oracle = {"layer_norm": oracles.layer_norm, "rms_norm": oracles.rms_norm}[config["norm"]]
    weights = [w.numpy() for w in getattr(block, f"{name}_add_norm").weights]
    if config["norm_first"]:
        return x + sublayer(oracle(x, *weights, config["epsilon"]))
    return oracle(x + sublayer(x), *weights, config["epsilon"])


VARIANTS = pytest.mark.parametrize("arguments", [
    {}, {"norm_first": True}, {"norm": "rms_norm", "epsilon": 0.01, "activation": "swiglu"},
], ids=lambda arguments: "-".join(arguments) or "default")  # fmt: skip


@VARIANTS
@pytest.mark.parametrize("causal", [False, True])
def test_an_encoder_block_is_attention_then_feed_forward(rng, arguments, causal):
    block, x = built(rng, EncoderBlock, **arguments), normal(rng, B, T, D)
    mask = rng.random((B, T, T)) < 0.7
    output = block(x, attention_mask=ops.convert_to_tensor(mask), use_causal_mask=causal)

    def attend(y):
        return attention(block.self_attention, y, y, mask=mask[:, None], causal=causal)

    kind = arguments.get("activation", "relu")
    y = residual(block, "self_attention", as_numpy(x), attend)
    y = residual(block, "feed_forward", y, lambda z: feed_forward(block.feed_forward, z, kind))
    np.testing.assert_allclose(as_numpy(output), y, **CLOSE)


@VARIANTS
@pytest.mark.parametrize("causal", [True, False])
def test_a_decoder_block_attends_to_the_past_then_to_the_memory(rng, arguments, causal):
    block, x = built(rng, DecoderBlock, **arguments), normal(rng, B, T, D)
    memory, mask = normal(rng, B, S, D), rng.random((B, 1, S)) < 0.7
    options = {} if causal else {"use_causal_mask": False}
    output = block(x, memory, cross_attention_mask=ops.convert_to_tensor(mask), **options)

    def attend_self(y):
        return attention(block.self_attention, y, y, causal=causal)

    def attend_memory(y):
        return attention(block.cross_attention, y, as_numpy(memory), mask=mask[:, None])

    kind = arguments.get("activation", "relu")
    y = residual(block, "self_attention", as_numpy(x), attend_self)
    y = residual(block, "cross_attention", y, attend_memory)
    y = residual(block, "feed_forward", y, lambda z: feed_forward(block.feed_forward, z, kind))
    np.testing.assert_allclose(as_numpy(output), y, **CLOSE)


@pytest.mark.parametrize("kind, name, instead", [
    (EncoderBlock, "mask", "attention_mask"), (DecoderBlock, "inputs_mask", "attention_mask"),
    (DecoderBlock, "memory_mask", "cross_attention_mask"),
])  # fmt: skip
def test_a_mask_of_queries_and_keys_is_no_mask_of_tokens(rng, kind, name, instead):
    """As many tokens as heads: it would be one mask for each head."""
    block = built(rng, kind)
    inputs = [normal(rng, B, N, D)] * len(inspect.signature(block.build).parameters)
    symbolic = [keras.KerasTensor(x.shape, x.dtype) for x in inputs]
    message = rf"`{name}` must have .*the shape \[2, 3\]. Received: .*(2, 3, 3).*`{instead}=`"
    for given in (inputs, symbolic):
        with pytest.raises(ValueError, match=message):
            block(*given, **{name: np.ones((B, N, N), bool)})
    if name != "memory_mask":  # the argument after the inputs
        with pytest.raises(ValueError, match=message):
            block(*inputs, np.ones((B, N, N), bool))


def test_masks_of_tokens_hide_the_same_as_attention_masks(rng):
    tokens = np.array([[True] * T, [True] * 2 + [False] * (T - 2)])
    sources = np.array([[True] * S, [True] * 3 + [False] * (S - 3)])
    x, memory = normal(rng, B, T, D), normal(rng, B, S, D)
    encoder, decoder = built(rng, EncoderBlock), built(rng, DecoderBlock)
    tokens, sources = ops.convert_to_tensor(tokens), ops.convert_to_tensor(sources)
    np.testing.assert_array_equal(
        as_numpy(encoder(x, mask=tokens)),
        as_numpy(encoder(x, attention_mask=tokens[:, None])),
    )
    np.testing.assert_array_equal(
        as_numpy(decoder(x, memory, inputs_mask=tokens, memory_mask=sources)),
        as_numpy(
            decoder(
                x,
                memory,
                attention_mask=tokens[:, None],
                cross_attention_mask=sources[:, None],
            )
        ),
    )


@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
def test_a_bias_reaches_the_attention_that_it_is_for(rng, kind):
    block = built(rng, kind, rematerialize=True, dropout_rate=0.0)
    inputs = [normal(rng, B, T, D), normal(rng, B, S, D)][: 1 if kind is EncoderBlock else 2]
    masks = {"attention_mask": rng.random((B, N, T, T)) < 0.7}
    if kind is DecoderBlock:
        masks["cross_attention_mask"] = rng.random((B, N, T, S)) < 0.7
    for mask in masks.values():
        mask[..., 0] = True
    masks = {name: ops.convert_to_tensor(mask) for name, mask in masks.items()}
    biases = {
        name.replace("mask", "bias"): ops.where(mask, 0.0, -1e9) for name, mask in masks.items()
    }
    for training in (False, True):
        found = block(*inputs, **biases, training=training)
        expected = block(*inputs, **masks, training=training)
        np.testing.assert_allclose(as_numpy(found), as_numpy(expected), **CLOSE)
    assert np.abs(as_numpy(found) - as_numpy(block(*inputs))).max() > 1e-2


def test_the_scores_of_a_block_are_those_of_its_attentions(rng):
    encoder, decoder = built(rng, EncoderBlock), built(rng, DecoderBlock)
    x, memory = normal(rng, B, T, D), normal(rng, B, S, D)
    output, scores = encoder(x, return_attention_scores=True)
    _, expected = encoder.self_attention(x, x, return_attention_scores=True)
    np.testing.assert_array_equal(as_numpy(scores), as_numpy(expected))
    np.testing.assert_array_equal(as_numpy(output), as_numpy(encoder(x)))
    output, (past, cross) = decoder(x, memory, return_attention_scores=True)
    assert past.shape == (B, N, T, T) and cross.shape == (B, N, T, S)
    assert not np.triu(as_numpy(past), 1).any()
    np.testing.assert_allclose(as_numpy(cross).sum(-1), 1.0, rtol=1e-6)


def test_sublayers_passed_in_take_the_place_of_the_default_ones(rng):
    x = normal(rng, B, T, D)
    own = {
        "self_attention": MultiHeadAttention(1, 13, rotary=None, num_key_value_heads=1),
        "feed_forward": PositionWiseFFN(17, "geglu"),
    }
    block = built(rng, EncoderBlock, **own)
    assert block.self_attention is own["self_attention"]
    assert block.feed_forward is own["feed_forward"]

    def attend(y):
        return as_numpy(own["self_attention"](y, y))

    y = residual(block, "self_attention", as_numpy(x), attend)
    y = residual(block, "feed_forward", y, lambda z: as_numpy(own["feed_forward"](z)))
    np.testing.assert_allclose(as_numpy(block(x)), y, **CLOSE)
    cross = MultiHeadAttention(2, 5)
    assert built(rng, DecoderBlock, cross_attention=cross).cross_attention is cross


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_keras_attention_serves_in_a_block(rng, causal):
    x, memory, tokens = normal(rng, B, T, D), normal(rng, B, S, D), np.ones((B, S), bool)
    tokens[0, 2:] = False
    options = {"use_causal_mask": causal, "return_attention_scores": True}
    for kind, inputs in ((EncoderBlock, [x]), (DecoderBlock, [x, memory])):
        outputs = []
        for attention in (keras.layers.MultiHeadAttention, MultiHeadAttention):
            layers = {name: attention(2, 4, dropout=0.1) for name in kind.attentions}
            block = kind(N, F, **layers)
            block.build(*(y.shape for y in inputs))
            drawn = np.random.default_rng(5)
            for variable in (v for v in block.weights if v.dtype == "float32"):
                variable.assign(drawn.normal(size=variable.shape) / 2)
            masks = {"memory_mask": tokens} if kind is DecoderBlock else {"mask": tokens[:, :T]}
            outputs.append(keras.tree.flatten(block(*inputs, **masks, **options)))
        for theirs, ours in zip(*outputs, strict=True):
            np.testing.assert_allclose(as_numpy(theirs), as_numpy(ours), **CLOSE)


def test_a_function_may_be_the_initializer():
    def halves(shape, dtype=None):
        return ops.full(shape, 0.5, dtype=dtype)

    layer = PositionWiseFFN(F, "swiglu", kernel_initializer=halves, bias_initializer=halves)
    block, transform = EncoderBlock(N, F, kernel_initializer=halves), MaskedLMTransform(
        kernel_initializer=halves
    )
    for each in (layer, block, transform):
        each.build((B, T, D))
    kernels = [w for each in (layer, block, transform) for w in each.weights if "kernel" in w.path]
    assert len(kernels) == 3 + 6 + 1
    assert all((w.numpy() == 0.5).all() for w in (*kernels, layer.output_dense.bias))


def test_any_layer_may_be_the_feed_forward_network(rng):
    x = normal(rng, B, T, D)
    block = EncoderBlock(N, F, feed_forward=keras.layers.Dense(D))
    assert block(x).shape == (B, T, D)
    assert block.feed_forward.kernel.shape == (D, D)


@VARIANTS
@pytest.mark.parametrize(
    "chunks", [pytest.param((1,) * T, marks=pytest.mark.slow), (2, 1, 2)], ids=str
)
def test_a_cached_encoder_block_equals_the_whole_one(rng, arguments, chunks):
    own = MultiHeadAttention(2, 4, num_key_value_heads=1, rotary=RotaryEmbedding())
    block, x = built(rng, EncoderBlock, self_attention=own, **arguments), normal(rng, B, T, D)
    expected = as_numpy(block(x, use_causal_mask=True))
    cache, outputs, index = block.init_cache(B, T), [], 0
    for size in chunks:
        chunk = x[:, index : index + size]
        output, cache = block(chunk, use_causal_mask=True, cache=cache, cache_index=index)
        outputs.append(as_numpy(output))
        index += size
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, **CLOSE)


@VARIANTS
@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_cached_decoder_block_equals_the_whole_one(rng, arguments, beams):
    block = built(rng, DecoderBlock, **arguments)
    x, memory = normal(rng, B * beams, T, D), normal(rng, B, S, D)
    mask = functional.padding_mask(np.array([[1] * S, [1] * 3 + [0] * (S - 3)]))
    expected = block(
        x,
        ops.repeat(memory, beams, axis=0),
        cross_attention_mask=ops.repeat(mask, beams, axis=0),
    )
    cache, outputs = block.init_cache(memory, B * beams, T), []
    for index in range(T):
        output, scores, cache = block(
            x[:, index : index + 1],
            None,
            cross_attention_mask=mask,
            cache=cache,
            cache_index=index,
            return_attention_scores=True,
        )
        outputs.append(as_numpy(output))
    np.testing.assert_allclose(np.concatenate(outputs, 1), as_numpy(expected), **CLOSE)
    assert scores[0].shape == (B * beams, N, 1, T)


class HalvedKeys(MultiHeadAttention):
    def project_key_value(self, value, key=None, position=0):
        key, value = super().project_key_value(value, key, position)
        return 0.5 * key, value


class TurnedQueries(MultiHeadAttention):
    def project_query(self, query, position=0):
        return ops.flip(super().project_query(query, position), axis=2)


class Doubled(MultiHeadAttention):
    def compute_attention(self, *args, **kwargs):
        output, weights = super().compute_attention(*args, **kwargs)
        return 2.0 * output, weights


@pytest.mark.slow
@pytest.mark.parametrize("kind", [HalvedKeys, TurnedQueries, Doubled])
def test_a_changed_attention_is_the_same_with_a_cache(rng, kind):
    block, plain = (
        built(rng, DecoderBlock, self_attention=layer(N, 2), cross_attention=layer(N, 2))
        for layer in (kind, MultiHeadAttention)
    )
    plain.set_weights(block.get_weights())
    x, memory = normal(rng, B, T, D), normal(rng, B, S, D)
    expected, cache, outputs = as_numpy(block(x, memory)), block.init_cache(memory, B, T), []
    assert np.abs(expected - as_numpy(plain(x, memory))).max() > 0.01
    for index in range(T):
        output, cache = block(x[:, index : index + 1], None, cache=cache, cache_index=index)
        outputs.append(as_numpy(output))
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, **CLOSE)


class WithoutScores(keras.layers.Layer):
    def call(self, query, value, return_attention_scores=False, use_causal_mask=False):
        return query


def test_scores_of_one_attention_alone_are_an_error(rng):
    block = DecoderBlock(N, F, self_attention=WithoutScores())
    x, memory = normal(rng, B, T, D), normal(rng, B, S, D)
    assert block(x, memory).shape == (B, T, D)
    with pytest.raises(ValueError, match="0 from `self_attention`, 1 from `cross_attention`"):
        block(x, memory, return_attention_scores=True)


@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
def test_the_arguments_of_a_block_are_those_of_its_signature(kind):
    config = kind(N, F).get_config()
    # Of the method: of a class that inherits it Python 3.10 would show that of Keras' `__new__`.
    names = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}
    assert names == set(config) - {"name", "trainable", "dtype"}


@pytest.mark.parametrize(
    "beams, length",
    [
        (1, T),
        *(pytest.param(*two, marks=pytest.mark.slow) for two in [(1, 1), (1, S), (3, 1)]),
        (3, T),
    ],
)
def test_the_implicit_mask_of_the_targets_does_not_hide_the_cached_memory(rng, beams, length):
    block, memory = built(rng, DecoderBlock), normal(rng, B, S, D)
    embedding = TokenEmbedding(13, D, mask_zero=True)
    ids = rng.integers(1, 13, size=(B * beams, length))
    ids[1, -1] = ids[0, 2:] = 0
    x, sources = embedding(ids), mask(rng, B, S)
    repeated = [ops.repeat(y, beams, axis=0) for y in (memory, sources)]
    for masks, expected in (
        ({}, block(x, repeated[0])),
        ({"memory_mask": sources}, block(x, repeated[0], memory_mask=repeated[1])),
    ):
        cache = block.init_cache(memory, B * beams, length)
        output, _ = block(x, None, cache=cache, cache_index=0, **masks)
        real = ids != 0  # the cache has no mask of padding in the past, which a causal mask hides
        np.testing.assert_allclose(as_numpy(output)[real], as_numpy(expected)[real], **CLOSE)


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5)], ids=str)
def test_a_block_drops_in_training_alone(rng, rates):
    x = normal(rng, B, T, D)
    block = built(rng, EncoderBlock, dropout_rate=rates[0], attention_dropout_rate=rates[1])
    np.testing.assert_array_equal(as_numpy(block(x)), as_numpy(block(x, training=False)))
    assert np.abs(as_numpy(block(x, training=True)) - as_numpy(block(x))).max() > 0.01


def test_every_sublayer_computes_in_the_precision_of_its_block(rng):
    block = built(rng, DecoderBlock, dtype="mixed_bfloat16")
    names = ("self_attention", "cross_attention", "feed_forward")
    layers = [getattr(block, name + end) for name in names for end in ("", "_add_norm")]
    layers += [block.self_attention.query_dense, block.feed_forward.inner_dense]
    layers += [block.feed_forward_add_norm.norm, block.self_attention.dropout_layer]
    assert {layer.dtype_policy.name for layer in layers} == {"mixed_bfloat16"}


def test_what_a_block_cannot_take_is_an_error(rng):
    with pytest.raises(ValueError, match="divisible by `num_heads`.*d_model=6, num_heads=4"):
        EncoderBlock(4, F)(normal(rng, B, T, D))
    with pytest.raises(ValueError, match="`norm` must be the name of a norm"):
        DecoderBlock(N, F, norm=keras.layers.LayerNormalization())


@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
def test_a_cache_and_its_index_go_together(rng, kind):
    block, x = built(rng, kind), normal(rng, B, T, D)
    inputs = (x,) if kind is EncoderBlock else (x, normal(rng, B, S, D))
    cache = block.init_cache(*inputs[1:], B, T)
    for half in ({"cache": cache}, {"cache_index": 0}):
        with pytest.raises(ValueError, match="`cache` and `cache_index`.* together"):
            block(*inputs, **half)


@pytest.mark.parametrize("options", [
    {"rotary": RotaryEmbedding()}, {"sliding_window": 3}, {"alibi": True},
])  # fmt: skip
def test_a_cross_attention_with_positions_has_no_cache(rng, options):
    block = DecoderBlock(N, F, cross_attention=MultiHeadAttention(N, 2, **options))
    memory = normal(rng, B, S, D)
    block(normal(rng, B, T, D), memory)
    with pytest.raises(ValueError, match="the positions of its queries"):
        block.init_cache(memory, B, T)


class TwoOutputs(EncoderBlock):
    def call(self, inputs, **kwargs):
        x = super().call(inputs, **kwargs)
        return x, x[:, 0]


def test_symbolic_outputs_of_a_subclass_are_those_of_its_call():
    vectors, first = TwoOutputs(2, 8)(keras.Input((5, 4)))
    assert (vectors.shape, first.shape) == ((None, 5, 4), (None, 4))


def test_the_output_shape_is_known_before_the_weights(rng):
    assert EncoderBlock(N, F).compute_output_shape((None, T, D)) == (None, T, D)
    assert DecoderBlock(N, F).compute_output_shape((B, None, D), (B, S, 3)) == (B, None, D)
    assert DecoderBlock(N, F).compute_output_shape((B, T, D)) == (B, T, D)
    block = EncoderBlock(N, F)
    frames = keras.layers.TimeDistributed(block)
    assert frames(keras.Input((3, T, D))).shape == (None, 3, T, D)
    x = normal(rng, B, 3, T, D)
    expected = [as_numpy(block(x[:, i])) for i in range(3)]
    np.testing.assert_allclose(as_numpy(frames(x)), np.stack(expected, 1), **CLOSE)


def test_symbolic_outputs_of_a_replaced_sublayer_are_those_of_its_call():
    class Failing(PositionWiseFFN):
        def call(self, inputs, **kwargs):
            raise RuntimeError("called")

    block = EncoderBlock(2, 8, feed_forward=Failing(8))
    with pytest.raises(RuntimeError, match="called"):
        block(keras.Input((5, 4)))


class Mean(keras.layers.Layer):
    """An attention that needs no more than its inputs, and builds itself when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(D)

    def call(self, query, value):
        return query + self.dense(ops.mean(value, axis=1, keepdims=True))


def test_an_attention_of_another_kind_needs_the_inputs_alone(rng):
    x, memory = normal(rng, B, T, D), normal(rng, B, S, D)
    encoder, decoder = EncoderBlock(N, F, self_attention=Mean()), DecoderBlock(
        N, F, self_attention=Mean(), cross_attention=Mean()
    )
    assert encoder(x).shape == decoder(x, memory, use_causal_mask=False).shape == (B, T, D)
    assert len(encoder.self_attention.weights) == 2


def test_what_a_decoder_block_needs_is_said():
    with pytest.raises(ValueError, match="Expected `memory`, or `cache`"):
        DecoderBlock(N, F)(ops.ones((B, T, D)), None)
    with pytest.raises(ValueError, match="Build the block before its caches"):
        DecoderBlock(N, F).init_cache(ops.ones((B, S, D)), B, T)


@pytest.mark.parametrize("make", [
    lambda **options: EncoderBlock(N, F, **options),
    lambda **options: MultiHeadAttention(N, 2, **options),
    lambda **options: PositionWiseFFN(F, **options),
    lambda **options: MaskedLMTransform(**options),
    lambda **options: AddNorm(**options),
])  # fmt: skip
def test_what_is_frozen_before_it_is_built_stays_so(make):
    late = make()
    late.trainable = False
    for layer in (make(trainable=False), late):
        shapes = [(B, T, D)] * (1 + isinstance(layer, (MultiHeadAttention, AddNorm)))
        again = type(layer).from_config(layer.get_config())
        for frozen in (layer, again):
            frozen.build(*shapes)
            assert frozen.weights and not frozen.trainable_weights


@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
@pytest.mark.parametrize("norm_first", [False, True])
def test_inputs_without_a_batch_are_refused_by_a_built_block(kind, norm_first, rng):
    block = built(rng, kind, norm_first=norm_first)
    inputs = normal(rng, T, D), normal(rng, S, D)
    symbolic = [keras.KerasTensor(x.shape) for x in inputs]
    for given in (inputs, symbolic):
        with pytest.raises(ValueError, match=r"`query` must have the shape \[batch, length"):
            block(*given[: 1 if kind is EncoderBlock else 2])
