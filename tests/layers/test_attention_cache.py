"""MultiHeadAttention with a cache equals MultiHeadAttention without one.

B batch, T target, S source, N heads, H head_dim, V value_dim, D d_model
"""

import numpy as np
import pytest
from arrays import as_numpy, mask, normal
from keras import ops

from keras_xfmr.layers import MultiHeadAttention, RotaryEmbedding

pytestmark = pytest.mark.portable

B, T, S, N, H, V, D = 2, 5, 7, 3, 4, 11, 13
CLOSE = {"rtol": 0, "atol": 5e-6}  # float32 sums of a few dozen products of numbers near 1


def built(rng, rows=T, **arguments):
    """A layer with drawn biases, and its self-attention input `[B, rows, D]`."""
    layer = MultiHeadAttention(**{"num_heads": N, "key_dim": H, **arguments})
    x = normal(rng, B, rows, D)
    layer.build(x.shape, x.shape)
    layer.set_weights([rng.normal(size=w.shape) / 3 for w in layer.get_weights()])
    return layer, x


@pytest.mark.parametrize("arguments", [
    {}, {"num_heads": 6, "num_key_value_heads": 2, "value_dim": V}, {"use_gate": True},
    {"rotary": RotaryEmbedding()}, {"sliding_window": 3}, {"alibi": True},
], ids=lambda arguments: "-".join(arguments) or "plain")  # fmt: skip
@pytest.mark.parametrize("chunks", [(1,) * 7, (3, 1, 2, 1), (7,)], ids=str)
def test_a_cached_self_attention_equals_the_whole_one(rng, arguments, chunks):
    layer, x = built(rng, rows=7, **arguments)
    expected = layer(x, x, use_causal_mask=True)
    cache, outputs, index = layer.init_cache(B, 7), [], 0
    for size in chunks:
        chunk = x[:, index : index + size]
        position = ops.full((), index, dtype="int32")
        output, cache = layer(chunk, chunk, use_causal_mask=True, cache=cache, cache_index=position)
        outputs.append(as_numpy(output))
        index += size
    np.testing.assert_allclose(np.concatenate(outputs, 1), as_numpy(expected), **CLOSE)


def test_a_cache_longer_than_the_text_changes_nothing(rng):
    layer, x = built(rng)
    cache = layer.init_cache(B, 11)
    output, scores, _ = layer(
        x, x, use_causal_mask=True, cache=cache, cache_index=0, return_attention_scores=True
    )
    np.testing.assert_allclose(
        as_numpy(output), as_numpy(layer(x, x, use_causal_mask=True)), **CLOSE
    )
    assert scores.shape == (B, N, T, 11) and not as_numpy(scores)[..., T:].any()


def test_a_mask_of_the_call_does_not_speak_of_the_cache(rng):
    layer, x = built(rng)
    options = {"use_causal_mask": True, "cache": layer.init_cache(B, 11), "cache_index": 0}
    hidden = ops.zeros((B, T), "bool")
    masked, _ = layer(x, x, value_mask=hidden, key_mask=hidden, **options)
    np.testing.assert_array_equal(as_numpy(masked), as_numpy(layer(x, x, **options)[0]))


@pytest.mark.parametrize("name", ["value_mask", "key_mask"])
@pytest.mark.parametrize("length", [T, 11])
def test_a_mask_as_long_as_the_cache_hides_its_positions(rng, name, length):
    """Padding in front of a prompt, which is read in two pieces."""
    layer, x = built(rng)
    real = np.ones((B, length), "bool")
    real[0, :2] = False
    expected = layer(x, x, use_causal_mask=True, **{name: real[:, :T]})
    cache, outputs = layer.init_cache(B, length), []
    for start, end in ((0, 3), (3, T)):
        piece, options = x[:, start:end], {"use_causal_mask": True, name: real}
        output, cache = layer(piece, piece, cache=cache, cache_index=start, **options)
        outputs.append(as_numpy(output))
    np.testing.assert_allclose(np.concatenate(outputs, 1), as_numpy(expected), **CLOSE)


def test_a_place_without_a_cache_is_an_error(rng):
    layer, x = built(rng)
    with pytest.raises(ValueError, match="`cache_index` needs a `cache`.*cache_index=3"):
        layer(x, x, use_causal_mask=True, cache_index=3)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("rotary", [None, RotaryEmbedding()], ids=["plain", "rotary"])
def test_beams_share_the_cache_of_their_source(rng, factor, rotary):
    layer = MultiHeadAttention(N, H, V, rotary=rotary, bias_initializer="normal")
    query, memory = normal(rng, B * factor, T, D), normal(rng, B, S, D)
    value_mask = mask(rng, B, 1, S)
    repeated = [ops.repeat(x, factor, axis=0) for x in (memory, value_mask)]
    expected = layer(query, repeated[0], attention_mask=repeated[1])
    output, cache = layer(
        query, query, attention_mask=value_mask, cache=layer.project_cache(memory)
    )
    np.testing.assert_allclose(as_numpy(output), as_numpy(expected), **CLOSE)
    assert cache[0].shape == (B, N, H, S) and cache[1].shape == (B, N, S, V)


@pytest.mark.slow
@pytest.mark.parametrize("rotary", [None, RotaryEmbedding()])
@pytest.mark.parametrize("rows, heads", [(6, 1), (6, N), (2, N), (1, 1)])
@pytest.mark.parametrize("length", [1, T])
def test_masks_biases_and_weights_of_beams(rng, rows, heads, length, rotary):
    """Of the query's rows, of the cache's, or of one; the weights are those of each query row."""
    layer = MultiHeadAttention(N, H, V, rotary=rotary, bias_initializer="normal")
    query, memory = normal(rng, 6, T, D), normal(rng, 2, S, D)
    hidden, bias = mask(rng, rows, heads, length, S), normal(rng, rows, heads, length, S)
    factor = 6 // rows if rows > 1 else 1
    whole = [ops.repeat(x, factor, axis=0) for x in (hidden, bias)]
    expected, weights = layer(
        query,
        ops.repeat(memory, 3, axis=0),
        attention_mask=whole[0],
        attention_bias=whole[1],
        return_attention_scores=True,
    )
    options = {"attention_mask": hidden, "attention_bias": bias, "return_attention_scores": True}
    output, found, _ = layer(query, None, cache=layer.project_cache(memory), **options)
    np.testing.assert_allclose(as_numpy(output), as_numpy(expected), **CLOSE)
    np.testing.assert_allclose(as_numpy(found), as_numpy(weights), **CLOSE)


@pytest.mark.parametrize("options", [{"rotary": RotaryEmbedding()}, {"sliding_window": 2}, {}])
def test_one_query_at_a_time_reads_a_cache_from_its_place(rng, options):
    layer = MultiHeadAttention(N, H, V, **options)
    query, memory = normal(rng, B, T, D), normal(rng, B, T, D)
    expected = as_numpy(layer(query, memory, use_causal_mask=True))
    cache = layer.project_cache(memory)
    whole, _ = layer(query, None, cache=cache, use_causal_mask=True)
    np.testing.assert_allclose(as_numpy(whole), expected, **CLOSE)
    for t in range(T):
        one, _ = layer(
            query[:, t : t + 1], None, cache=cache, position=t, use_causal_mask=True
        )
        np.testing.assert_allclose(as_numpy(one)[:, 0], expected[:, t], **CLOSE)
    beams = normal(rng, 3 * B, T, D)
    with pytest.raises(ValueError, match="keys have no order"):
        layer(beams, None, cache=cache, use_causal_mask=True)
    with pytest.raises(ValueError, match="`position` is for a call that reads a `cache`"):
        layer(query, memory, position=1)


def test_shifted_positions_leave_a_rotary_layer_unmoved(rng):
    layer, x = built(rng, rotary=RotaryEmbedding())
    cache = layer.init_cache(B, 11)
    inside = np.zeros((1, T, 11), bool)
    inside[:, :, 3 : 3 + T] = True
    shifted, _ = layer(
        x, x, attention_mask=ops.convert_to_tensor(inside), cache=cache, cache_index=3
    )
    np.testing.assert_allclose(as_numpy(shifted), as_numpy(layer(x, x)), rtol=0, atol=2e-5)
    unrotated, _ = built(rng)
    unrotated.set_weights(layer.get_weights())
    assert np.abs(as_numpy(unrotated(x, x)) - as_numpy(layer(x, x))).max() > 0.1


@pytest.mark.parametrize("factor", [1, 3])
def test_a_query_mask_hides_its_rows_from_a_shared_cache(rng, factor):
    layer = MultiHeadAttention(N, H, V, bias_initializer="normal")
    query, memory = normal(rng, B * factor, T, D), normal(rng, B, S, D)
    query_mask = mask(rng, B * factor, T)
    expected = layer(query, ops.repeat(memory, factor, axis=0), query_mask=query_mask)
    output, _ = layer(query, None, query_mask=query_mask, cache=layer.project_cache(memory))
    np.testing.assert_allclose(as_numpy(output), as_numpy(expected), **CLOSE)


def test_a_write_past_the_end_of_a_cache_is_an_error(rng):
    layer, x = built(rng)
    with pytest.raises(ValueError, match="cache of 7 positions. Received: 5 positions from 3"):
        layer(x, x, cache=layer.init_cache(B, 7), cache_index=3)


def test_rows_that_cannot_share_a_cache_are_an_error(rng):
    layer, x = built(rng, rows=2)
    queries = normal(rng, 3, 2, D)
    with pytest.raises(ValueError, match="Received: 3 rows for a cache of 2"):
        layer(queries, queries, cache=layer.project_cache(x))
