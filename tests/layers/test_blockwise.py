"""Attention in blocks against attention with all scores at once, and against the oracle.

B batch, T target, S source, N heads, K key/value heads, H head_dim, V value_dim, D d_model
"""

import keras
import numpy as np
import oracles
import pytest
from arrays import as_numpy, normal, randomize
from forked import run
from keras import ops

from keras_xfmr import functional, kernels, layers, models
from keras_xfmr.kernels import Seen, portable
from keras_xfmr.layers import blockwise

pytestmark = pytest.mark.portable

B, T, S, N, K, H, V, D = 2, 23, 37, 6, 3, 5, 7, 11
BLOCK = 8  # no divisor of a length
on_tensorflow = pytest.mark.requires_tensorflow


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(portable, "BLOCK", BLOCK)


def draw(rng, *shape, rate=0.8):
    return ops.convert_to_tensor(rng.random(shape) < rate)


def documents(rng, length):
    return ops.convert_to_tensor(np.sort(rng.integers(0, 4, (B, length)), axis=1).astype("int32"))


def everything(rng):
    """A mask of each kind, and a bias."""
    seen = Seen(
        mask=draw(rng, B, 1, T, S),
        query_mask=draw(rng, B, T),
        source_mask=draw(rng, B, S),
        query_documents=documents(rng, T),
        source_documents=documents(rng, S),
        position=3,
        behind=9,
        ahead=5,
        slopes=functional.alibi_slopes(N),
    )
    return seen, normal(rng, 1, N, T, S)


CASES = {
    "nothing": lambda rng: (Seen(), None),
    "everything": everything,
    "causal": lambda rng: (Seen(ahead=0, position=ops.convert_to_tensor(2, "int32")), None),
    "bias of keys": lambda rng: (Seen(source_mask=draw(rng, B, S)), normal(rng, 1, N, 1, S)),
    "mask of heads": lambda rng: (Seen(mask=draw(rng, 1, N, 1, S)), None),
    "hidden by a bias": lambda rng: (Seen(), ops.where(draw(rng, B, 1, 1, S), 0.0, -np.inf)),
}


def whole_mask(seen):
    """What a query may see, `[B, N, T, S]` or with axes of 1, in NumPy."""
    mask = np.ones((1, 1, T, S), bool)
    ahead = np.arange(S) - np.arange(T)[:, None] - np.array(as_numpy(seen.position))
    mask &= ahead <= (S + T if seen.ahead is None else seen.ahead)
    mask &= ahead >= -(S + T if seen.behind is None else seen.behind)
    if seen.mask is not None:
        mask = mask & as_numpy(seen.mask)
    if seen.query_mask is not None:
        mask = mask & as_numpy(seen.query_mask)[:, None, :, None]
    if seen.source_mask is not None:
        mask = mask & as_numpy(seen.source_mask)[:, None, None]
    if seen.query_documents is not None:
        queries, keys = (as_numpy(x) for x in (seen.query_documents, seen.source_documents))
        mask = mask & ((queries[:, :, None] == keys[:, None]) & (keys[:, None] != 0))[:, None]
    return mask


def gradients(function, tensors, upstream):
    """The output, and what a change of each tensor adds to sum(output * upstream)."""
    if keras.config.backend() == "jax":
        import jax

        found = jax.grad(lambda xs: ops.sum(function(*xs) * upstream))(tensors)
        return [function(*tensors), *found]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        output = function(*tensors)
    return [output, *tape.gradient(output, tensors, upstream)]


def assert_close(found, expected, bound=1e-6):
    """The largest difference, relative to the largest value."""
    assert len(found) == len(expected)
    for x, y in zip(map(as_numpy, found), map(as_numpy, expected), strict=True):
        assert np.abs(x - y).max() <= bound * np.abs(y).max()


def drawn_heads(rng):
    return [normal(rng, B, T, N, H), normal(rng, B, S, K, H), normal(rng, B, S, K, V)]


def in_blocks(seen, fixed=None, dropout=None):
    def attend(query, key, value, bias=fixed):
        return kernels.blockwise_attention(query, key, value, seen, bias, 0.3, dropout)

    return attend


def at_once(seen, fixed=None, drop=None):
    def attend(query, key, value, bias=fixed):
        if seen.slopes is not None:
            bias = bias + functional.alibi_bias(N, np.arange(T) + seen.position, np.arange(S))
        mask = ops.convert_to_tensor(whole_mask(seen))
        return kernels.attention(query, key, value, mask, bias, 0.3, drop)[0]

    return attend


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_all_scores_at_once(rng, case):
    seen, bias = CASES[case](rng)
    fixed = bias if case == "hidden by a bias" else None  # -inf has no gradient
    tensors = drawn_heads(rng) + ([bias] if bias is not None and fixed is None else [])
    upstream = normal(rng, B, T, N, V)
    found = gradients(in_blocks(seen, fixed), tensors, upstream)
    assert_close(found, gradients(at_once(seen, fixed), tensors, upstream))


def test_the_oracle_gives_the_same_and_a_row_that_sees_nothing_zeros(rng):
    seen = everything(rng)[0]._replace(slopes=None)
    query, key, value = drawn_heads(rng)
    output = as_numpy(in_blocks(seen)(query, key, value))
    mask = whole_mask(seen)
    heads = (as_numpy(x) for x in (query, key, value))
    assert_close([output], [oracles.attention(*heads, mask=mask, scale=0.3)[0]])
    hidden = ~np.moveaxis(np.broadcast_to(mask, (B, N, T, S)).any(-1), 1, 2)
    assert hidden.any() and not hidden.all()
    np.testing.assert_array_equal(output[hidden], 0.0)


@on_tensorflow
def test_the_same_weights_are_dropped(rng):
    seed, seen = ops.convert_to_tensor([3, 4]), Seen(ahead=3)
    tensors, upstream = drawn_heads(rng), normal(rng, B, T, N, V)
    drop = lambda weights: kernels.dropout(weights, 0.3, seed)  # noqa: E731
    found = gradients(in_blocks(seen, dropout=(0.3, seed)), tensors, upstream)
    assert_close(found, gradients(at_once(seen, drop=drop), tensors, upstream))


@on_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_graphs_and_lengths_that_are_not_known(rng, jit_compile):
    import tensorflow as tf

    (seen, bias), tensors = everything(rng), drawn_heads(rng)
    expected = in_blocks(seen)(*tensors, bias)
    unknown = [tf.TensorSpec((None, None, *x.shape[2:])) for x in tensors]
    unknown.append(tf.TensorSpec((None, N, None, None)))
    compiled = tf.function(in_blocks(seen), input_signature=unknown, jit_compile=jit_compile)
    assert_close([compiled(*tensors, bias)], [expected])


@on_tensorflow
@pytest.mark.parametrize("heads", [1, N])
def test_heads_of_masks_and_biases_that_are_not_known(rng, heads):
    import tensorflow as tf

    tensors = drawn_heads(rng)
    mask, bias = draw(rng, B, heads, T, S), normal(rng, B, heads, 1, S)
    whole, unknown = tf.TensorSpec([None] * 4, tf.bool), tf.TensorSpec([None] * 4)

    @tf.function(input_signature=[whole, unknown])
    def found(mask, bias):
        return gradients(in_blocks(Seen(mask=mask)), [*tensors, bias], tf.ones((B, T, N, V)))

    expected = gradients(at_once(Seen(mask=mask)), [*tensors, bias], tf.ones((B, T, N, V)))
    assert_close(found(mask, bias), expected)


# ---- the layer

ARGUMENTS = {
    "plain": {},
    "grouped and rotary": {"num_key_value_heads": K, "rotary": True, "value_dim": V},
    "window": {"sliding_window": 4, "use_gate": True},
    "axes": {"attention_axes": (1,)},
    "alibi": {"alibi": True},
}


def pair(rng, shape, **arguments):
    """A layer with all scores at once, and one in blocks with its weights."""
    if arguments.pop("rotary", False):
        arguments["rotary"] = layers.RotaryEmbedding()
    whole, blocks = (
        layers.MultiHeadAttention(N, 4, blockwise=way, **arguments) for way in (False, True)
    )
    for layer in (whole, blocks):
        layer.build(shape, shape)
    blocks.set_weights(randomize(rng, whole).get_weights())
    return whole, blocks


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_layer_gives_the_same_in_blocks(rng, arguments, causal):
    shape = (B, 3, T, D) if "attention_axes" in arguments else (B, T, D)
    x = normal(rng, *shape)
    call = {"use_causal_mask": causal}
    if len(shape) == 3:
        call.update(
            attention_mask=draw(rng, T, T),
            query_mask=draw(rng, B, T),
            value_mask=draw(rng, B, T),
            key_mask=draw(rng, 1, T),
            attention_bias=normal(rng, N, T, T),
            document_ids=documents(rng, T),
        )
    whole, blocks = pair(rng, shape, **arguments)
    assert_close([blocks(x, x, **call)], [whole(x, x, **call)])


@on_tensorflow
def test_a_layer_drops_the_same_in_blocks(rng):
    x = normal(rng, B, T, D)
    whole, blocks = pair(rng, (B, T, D), dropout=0.4, seed=5)
    for _ in range(2):  # the second with the next seed
        expected = whole(x, x, training=True)
        assert_close([blocks(x, x, training=True)], [expected])
    assert np.abs(as_numpy(expected) - as_numpy(whole(x, x))).max() > 0.1
    assert_close([blocks(x, x)], [whole(x, x)])


def test_caches_in_blocks(rng):
    x, memory = normal(rng, 2 * B, T, D), normal(rng, B, S, D)
    whole, blocks = pair(rng, (B, T, D), sliding_window=5)
    for layer in (whole, blocks):
        layer.cache = layer.init_cache(2 * B, S)
    call = {"use_causal_mask": True, "cache_index": 7}
    (found, _), (expected, _) = (y(x, x, cache=y.cache, **call) for y in (blocks, whole))
    assert_close([found], [expected])
    whole, blocks = pair(rng, (B, T, D))
    call = {"attention_mask": draw(rng, 2 * B, 1, S), "query_mask": draw(rng, 2 * B, T)}
    (found, _), (expected, _) = (
        y(x, None, cache=y.project_cache(memory), **call) for y in (blocks, whole)
    )
    assert_close([found], [expected])


class OwnScores(layers.MultiHeadAttention):
    def compute_attention(self, *args, **kwargs):
        return super().compute_attention(*args, **kwargs)


class OwnMask(layers.MultiHeadAttention):
    def compute_mask_for_scores(self, *args, **kwargs):
        return super().compute_mask_for_scores(*args, **kwargs)


def test_blocks_are_chosen_by_length_and_left_where_scores_are_wanted(rng, monkeypatch):
    calls = []

    def spy(*args, **kwargs):
        calls.append(1)
        return plain(*args, **kwargs)

    plain = kernels.blockwise_attention
    monkeypatch.setattr(kernels, "blockwise_attention", spy)
    monkeypatch.setattr(blockwise, "LONG", 17 * 19)

    def blocks(target, source, kind=layers.MultiHeadAttention, call=None, **arguments):
        calls.clear()
        layer = kind(2, 3, **arguments)
        layer(normal(rng, 1, target, D), normal(rng, 1, source, D), **(call or {}))
        return bool(calls)

    assert [blocks(17, 19), blocks(17, 18), blocks(2, 3, blockwise=True)] == [True, False, True]
    assert not blocks(17, 19, blockwise=False)
    assert not blocks(17, 19, call={"return_attention_scores": True})
    assert not blocks(17, 19, OwnScores) and not blocks(17, 19, OwnMask, blockwise=True)
    assert not blocks(17, 19, dropout=1.0, call={"training": True})
    replaced = layers.MultiHeadAttention(2, 3, blockwise=True)
    replaced.compute_attention = lambda *a, **k: layers.MultiHeadAttention.compute_attention(
        replaced, *a, **k
    )
    calls.clear()
    replaced(normal(rng, 1, 5, D), normal(rng, 1, 5, D))
    assert not calls


def test_a_configuration_from_before_decides_by_length():
    config = layers.MultiHeadAttention(2, 3, blockwise=True).get_config()
    assert config.pop("blockwise") is True
    assert layers.MultiHeadAttention.from_config(config).blockwise is None
    with pytest.raises(ValueError, match="`blockwise` must be True, False"):
        layers.MultiHeadAttention(2, 3, blockwise="long")


def test_documents_are_those_of_a_self_attention(rng):
    layer, x = layers.MultiHeadAttention(2, 3), normal(rng, B, T, D)
    ids = documents(rng, T)
    expected = layer(x, x, attention_mask=functional.document_mask(ids))
    np.testing.assert_array_equal(layer(x, x, document_ids=ids), expected)
    with pytest.raises(ValueError, match="the same positions"):
        layer(x, normal(rng, B, S, D), document_ids=ids)
    with pytest.raises(ValueError, match="one value for each position"):
        layer(x, x, document_ids=functional.document_mask(ids))


def test_gpt_reads_packed_documents_in_blocks(rng, monkeypatch):
    model = models.Gpt.from_preset("tiny", vocab_size=13, num_layers=1, initializer_range=0.5)
    inputs = {"token_ids": rng.integers(13, size=(B, T)), "document_ids": as_numpy(
        documents(rng, T)
    )}  # fmt: skip
    expected = model(inputs)
    monkeypatch.setattr(blockwise, "LONG", T * T)
    monkeypatch.setattr(functional, "document_mask", None)  # [B, T, T] is not made
    assert_close([model(inputs)], [expected])


LONG_ROW = """
import resource, sys
import keras, tensorflow as tf
from keras_xfmr import layers

length = int(sys.argv[1])
layer = layers.MultiHeadAttention(8, 64)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
x = tf.random.normal((1, length, 512))

@tf.function
def step(x):
    mask = tf.range(x.shape[1])[None] < x.shape[1] - 100
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x, x, value_mask=mask, use_causal_mask=True) ** 2)
    return tape.gradient(loss, [x, *layer.trainable_variables])

step(x[:, :1100])
before = peak()
found = step(x)
assert all(bool(tf.reduce_all(tf.math.is_finite(g))) for g in found)
print(peak() - before)
"""


@on_tensorflow
@pytest.mark.slow
def test_a_row_of_16384_tokens_needs_less_than_a_gigabyte():
    length, heads = 16384, 8
    assert 4 * heads * length**2 > 8e9  # bytes of one matrix of scores, of which there are several
    found = run("-c", LONG_ROW, length)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout.split()[-1]) < 1000  # MB
