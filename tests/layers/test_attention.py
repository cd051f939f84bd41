"""MultiHeadAttention against keras.layers.MultiHeadAttention, the oracle, and itself with a cache.

B batch, T target, S source, N heads, K key/value heads, H head_dim, V value_dim, D d_model
"""

import inspect
import re

import keras
import numpy as np
import oracles
import pytest
from arrays import as_numpy, mask, normal, randomize
from keras import ops

from keras_xfmr import functional, layers
from keras_xfmr.layers import MultiHeadAttention, RotaryEmbedding

pytestmark = pytest.mark.portable

B, T, S, N, H, V, D = 2, 5, 7, 3, 4, 11, 13
CLOSE = {"rtol": 0, "atol": 5e-6}  # float32 sums of a few dozen products of numbers near 1


def both(arguments, inputs, **call):
    """The answers of Keras' layer and of ours with its weights (biases drawn, not zero)."""
    unknown = set(arguments) - set(parameters(keras.layers.MultiHeadAttention.__init__))
    if unknown:
        pytest.skip(f"The layer of Keras {keras.__version__} has no {sorted(unknown)}.")
    arguments = {"num_heads": N, "key_dim": H, "bias_initializer": "normal", **arguments}
    theirs = keras.layers.MultiHeadAttention(**arguments)
    ours = MultiHeadAttention(**arguments)
    for layer in (theirs, ours):
        layer.build(*(x.shape for x in inputs))
    ours.set_weights(theirs.get_weights())
    assert [w.path.split("/", 1)[1] for w in ours.weights] == [
        w.path.split("/", 1)[1] for w in theirs.weights
    ]
    output = ours(*inputs, **call)  # first: theirs clears the implicit masks of its inputs
    return theirs(*inputs, **call), output


def built(rng, rows=T, **arguments):
    """A layer with drawn biases, and its self-attention input `[B, rows, D]`."""
    layer = MultiHeadAttention(**{"num_heads": N, "key_dim": H, **arguments})
    x = normal(rng, B, rows, D)
    layer.build(x.shape, x.shape)
    return randomize(rng, layer), x


def weights_of(layer):
    """The layer's weights under the oracle's names."""
    names = {"q": "query", "k": "key", "v": "value", "o": "output"}
    dense = {letter: getattr(layer, f"{name}_dense") for letter, name in names.items()}
    kernels = {f"w{letter}": layer.kernel.numpy() for letter, layer in dense.items()}
    return {**kernels, **{f"b{letter}": layer.bias.numpy() for letter, layer in dense.items()}}


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "kwargs"]


def test_constructor_and_call_start_with_all_of_keras_parameters():
    for name in ("__init__", "call", "build"):
        theirs = getattr(keras.layers.MultiHeadAttention, name)
        ours = getattr(MultiHeadAttention, name)
        added = {"sliding_window", "use_gate"} - set(parameters(theirs))  # by a newer Keras
        same = [n for n in parameters(ours) if n not in added]
        assert same[: len(parameters(theirs))] == parameters(theirs)
        theirs, ours = (inspect.signature(f).parameters for f in (theirs, ours))
        assert all(ours[n].default == p.default for n, p in theirs.items() if n != "kwargs")


# On JAX Keras' layer can have values of another size only on its slow path, that of a dropout.
@pytest.mark.parametrize("arguments", [
    {}, {"value_dim": V, "dropout": 0.1}, {"output_shape": 17}, {"output_shape": (2, 3)},
    {"use_bias": False}, {"use_gate": True}, {"dropout": 0.3}, {"sliding_window": 2},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("inputs", ["self", "cross", "with key"])
def test_keras_layer_gives_the_same_numbers(rng, arguments, inputs):
    query, value, key = normal(rng, B, T, D), normal(rng, B, S, 19), normal(rng, B, S, 23)
    inputs = {"self": [query, query], "cross": [query, value], "with key": [query, value, key]}[
        inputs
    ]
    expected, output = both(arguments, inputs)
    assert output.shape == expected.shape
    np.testing.assert_allclose(as_numpy(output), as_numpy(expected), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("call", [
    {"use_causal_mask": True}, {"attention_mask": (B, T, S)}, {"attention_mask": (1, T, S)},
    {"attention_mask": (T, S)}, {"attention_mask": (1, S)}, {"attention_mask": (T, 1)},
    {"attention_mask": (T, S), "value_mask": (B, S), "use_causal_mask": True},
    {"attention_mask": (B, N, T, S)}, {"value_mask": (B, S)}, {"key_mask": (B, S)},
    {"attention_mask": (B, T, S), "value_mask": (B, S), "use_causal_mask": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("arguments", [{}, {"dropout": 0.3}, {"sliding_window": 4}], ids=str)
def test_keras_layer_gives_the_same_numbers_under_masks(rng, arguments, call):
    call = {k: mask(rng, *v) if isinstance(v, tuple) else v for k, v in call.items()}
    inputs = [normal(rng, B, T, D), normal(rng, B, S, D)]
    (expected, scores), (output, weights) = both(
        arguments, inputs, return_attention_scores=True, **call
    )
    np.testing.assert_allclose(as_numpy(output), as_numpy(expected), **CLOSE)
    np.testing.assert_allclose(as_numpy(weights), as_numpy(scores), **CLOSE)


@pytest.mark.parametrize("masked", ["query", "value", "both"])
def test_implicit_masks_act_as_in_keras_layer(masked):
    ids = np.array([[5, 2, 3, 0, 0], [1, 4, 2, 6, 0]])
    inputs = [
        keras.layers.Embedding(7, D, mask_zero=masked in (name, "both"))(ids)
        for name in ("query", "value")
    ]
    expected, output = both({"dropout": 0.3}, inputs)  # with dropout Keras zeroes empty rows
    np.testing.assert_allclose(as_numpy(output), as_numpy(expected), **CLOSE)


@pytest.mark.parametrize("arguments", [{}, {"use_gate": True, "value_dim": V}], ids=str)
def test_files_of_weights_are_read_by_keras_layer_and_the_other_way_round(arguments, tmp_path):
    kinds = (keras.layers.MultiHeadAttention, MultiHeadAttention)
    if not set(arguments) <= set(parameters(kinds[0].__init__)):
        pytest.skip("this Keras has no gate")
    x = keras.Input((T, D))
    models = [keras.Model(x, kind(N, H, **arguments)(x, x)) for kind in kinds]
    for writer, reader in (models, models[::-1]):
        randomize(np.random.default_rng(T), writer)
        writer.save_weights(tmp_path / "a.weights.h5")
        reader.load_weights(tmp_path / "a.weights.h5")
        for weight, expected in zip(reader.get_weights(), writer.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("axes", [None, 1, (2,), (1, 2), (-2,), (-3,)])
@pytest.mark.parametrize("arguments", [{}, {"value_dim": V, "use_gate": True}], ids=str)
def test_keras_layer_gives_the_same_numbers_over_other_axes(rng, axes, arguments):
    x = normal(rng, B, T, S, D)
    arguments = {**arguments, "attention_axes": axes}
    (expected, scores), (output, weights) = both(arguments, [x, x], return_attention_scores=True)
    np.testing.assert_allclose(as_numpy(output), as_numpy(expected), **CLOSE)
    np.testing.assert_allclose(as_numpy(weights), as_numpy(scores), **CLOSE)


def test_attention_over_one_of_three_axes_is_attention_in_each_place_of_the_others(rng):
    layer, _ = built(rng)
    x = rng.normal(size=(B, T, 3, S, D)).astype("float32")
    folded = MultiHeadAttention(N, H, attention_axes=1)
    folded.build(x.shape, x.shape)
    folded.set_weights(layer.get_weights())
    rows = np.moveaxis(x, 1, 3).reshape(-1, T, D)
    expected = np.moveaxis(as_numpy(layer(rows, rows)).reshape(B, 3, S, T, D), 3, 1)
    np.testing.assert_allclose(as_numpy(folded(x, x)), expected, **CLOSE)


@pytest.mark.parametrize("axes", [None, 1, 2])
def test_attention_over_other_axes_needs_no_known_lengths(rng, axes):
    layer = MultiHeadAttention(N, H, attention_axes=axes)
    x = normal(rng, B, T, S, D)
    expected = layer(x, x)
    inputs = keras.Input((None, None, D))
    model = keras.Model(inputs, layer(inputs, inputs))
    assert model.output_shape == (None, None, None, D)
    np.testing.assert_allclose(as_numpy(model(x)), as_numpy(expected), **CLOSE)
    np.testing.assert_allclose(model.predict_on_batch(x), as_numpy(expected), **CLOSE)


@pytest.mark.parametrize("axes, shape", [
    (2, (B, T, S, S)), (1, (B, S, T, T)), (2, (S, S)), (1, (T, T)), ((1, 2), None),
])  # fmt: skip
def test_a_mask_over_other_axes_acts_as_in_keras_layer(rng, axes, shape):
    x = normal(rng, B, T, S, D)
    attention_mask = mask(rng, *(shape or (B, T, S, T, S)))
    expected, output = both({"attention_axes": axes}, [x, x], attention_mask=attention_mask)
    np.testing.assert_allclose(as_numpy(output), as_numpy(expected), **CLOSE)


@pytest.mark.parametrize("name", ["query_mask", "value_mask", "key_mask"])
@pytest.mark.parametrize("axes, shape", [(2, (B, 3, T)), (-2, (B, 3, T))])
def test_a_mask_of_positions_acts_as_in_keras_layer_where_the_last_axis_attends(
    rng, axes, shape, name
):
    x, positions = normal(rng, *shape, D), mask(rng, *shape)
    (expected, scores), (output, weights) = both(
        {"attention_axes": axes}, [x, x], return_attention_scores=True, **{name: positions}
    )
    # A row that may attend nowhere gives zeros here.
    seen = as_numpy(positions) if name == "query_mask" else np.ones(shape, bool)
    np.testing.assert_allclose(as_numpy(output)[seen], as_numpy(expected)[seen], **CLOSE)
    weights, scores = (np.moveaxis(as_numpy(x), 2, 3)[seen] for x in (weights, scores))
    np.testing.assert_allclose(weights, scores, **CLOSE)


def test_padding_of_embedded_sentences_is_seen_by_no_one():
    embedding = keras.layers.Embedding(11, D, mask_zero=True)
    ids = np.array([[[5, 7, 0, 0], [3, 0, 0, 0]]])
    layer = MultiHeadAttention(N, H, attention_axes=2)
    expected = layer(embedding(ids[:, :, :2]), embedding(ids[:, :, :2]))
    x = embedding(ids)
    assert layer.attention_axes == (2,)
    np.testing.assert_allclose(
        as_numpy(layer(x, x))[:, :, :1], as_numpy(expected)[:, :, :1], **CLOSE
    )


def test_a_query_mask_passed_in_hides_its_rows(rng):
    layer, x = built(rng)
    query_mask = mask(rng, B, T)
    output = as_numpy(layer(x, x, query_mask=query_mask))
    real, bias = as_numpy(query_mask), layer.output_dense.bias.numpy()
    assert (output[~real] == bias).all() and not (output[real] == bias).any()


def test_regularizers_add_the_losses_of_keras_layer(rng):
    layers, inputs = [], [normal(rng, B, T, D), normal(rng, B, S, D)]
    names = ("kernel_regularizer", "bias_regularizer", "activity_regularizer")
    for cls in (keras.layers.MultiHeadAttention, MultiHeadAttention):
        layers.append(cls(N, H, bias_initializer="normal", **dict.fromkeys(names, "l2")))
        layers[-1].build(*(x.shape for x in inputs))
    layers[1].set_weights(layers[0].get_weights())
    losses = [[float(loss) for loss in (layer(*inputs), layer.losses)[1]] for layer in layers]
    np.testing.assert_allclose(sorted(losses[1]), sorted(losses[0]), rtol=1e-5)
    assert len(losses[1]) == 12  # a kernel, a bias and an output for each of four projections


def test_the_projections_do_not_start_out_equal():
    layer = MultiHeadAttention(N, H, kernel_initializer=keras.initializers.GlorotUniform())
    layer.build((B, T, D), (B, T, D))
    assert (layer.query_dense.kernel.numpy() != layer.key_dense.kernel.numpy()).any()


@pytest.mark.parametrize("kv_heads", [6, 3, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_the_oracle_agrees_with_fewer_heads_of_keys_and_values(rng, kv_heads, causal):
    arguments = {"num_heads": 6, "num_key_value_heads": kv_heads, "value_dim": V}
    layer, x = built(rng, **arguments)
    attention_mask, bias = mask(rng, B, T, T), normal(rng, 6, T, T)
    output = layer(x, x, attention_mask=attention_mask, attention_bias=bias, use_causal_mask=causal)
    expected = oracles.multi_head_attention(
        as_numpy(x), as_numpy(x), weights=weights_of(layer),
        mask=as_numpy(attention_mask)[:, None], bias=as_numpy(bias), causal=causal,
    )  # fmt: skip
    np.testing.assert_allclose(as_numpy(output), expected, rtol=1e-5, atol=3e-5)
    assert layer.key_dense.kernel.shape == (D, kv_heads, H)


def test_the_oracle_agrees_with_another_source_and_key(rng):
    query, value, key = normal(rng, B, T, D), normal(rng, B, S, 19), normal(rng, B, S, 23)
    layer = MultiHeadAttention(N, H, V, bias_initializer="normal")
    output = layer(query, value, key)
    expected = oracles.multi_head_attention(
        as_numpy(query), as_numpy(value), as_numpy(key), weights_of(layer)
    )
    np.testing.assert_allclose(as_numpy(output), expected, **CLOSE)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_query_that_may_attend_nowhere_gives_the_output_bias(rng, dropout):
    layer, x = built(rng, dropout=dropout)
    nowhere = np.ones((B, T, T), bool)
    nowhere[1, 2] = False
    output, weights = layer(
        x, x, attention_mask=ops.convert_to_tensor(nowhere), return_attention_scores=True
    )
    np.testing.assert_array_equal(as_numpy(output)[1, 2], layer.output_dense.bias.numpy())
    assert not as_numpy(weights)[1, :, 2].any()


def test_the_look_ahead_mask_passed_in_equals_use_causal_mask(rng):
    layer, x = built(rng)
    explicit = layer(x, x, attention_mask=functional.look_ahead_mask(T))
    np.testing.assert_array_equal(as_numpy(explicit), as_numpy(layer(x, x, use_causal_mask=True)))


@pytest.mark.parametrize("arguments", [{}, {"rotary": RotaryEmbedding()}], ids=["plain", "rotary"])
def test_the_future_does_not_move_the_past(rng, arguments):
    layer, x = built(rng, **arguments)
    changed = ops.concatenate([x[:, :3], normal(rng, B, T - 3, D)], axis=1)
    before, after = (as_numpy(layer(y, y, use_causal_mask=True)) for y in (x, changed))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.abs(before[:, 3:] - after[:, 3:]).min(axis=-1).max() > 0


def test_a_linear_bias_is_added_by_the_layer(rng):
    plain, x = built(rng)
    layer = MultiHeadAttention.from_config({**plain.get_config(), "alibi": True})
    layer.build(x.shape, x.shape)
    layer.set_weights(plain.get_weights())
    bias = functional.alibi_bias(plain.num_heads, np.arange(T), np.arange(T))
    expected = plain(x, x, use_causal_mask=True, attention_bias=bias)
    np.testing.assert_array_equal(
        as_numpy(layer(x, x, use_causal_mask=True)), as_numpy(expected)
    )
    more = normal(rng, T, T)
    expected = plain(x, x, attention_bias=bias + more)
    np.testing.assert_allclose(
        as_numpy(layer(x, x, attention_bias=more)), as_numpy(expected), **CLOSE
    )


def test_more_padding_changes_nothing(rng):
    layer, x = built(rng)
    padded = ops.concatenate([x, normal(rng, B, 3, D)], axis=1)
    real = ops.convert_to_tensor(np.arange(T + 3)[None] < [[T]] * B)
    np.testing.assert_allclose(
        as_numpy(layer(x, padded, value_mask=real)), as_numpy(layer(x, x)), **CLOSE
    )


def test_dropout_acts_in_training_alone_and_keeps_the_returned_weights_whole(rng):
    layer, x = built(rng, dropout=0.5, seed=3)
    plain, _ = built(rng)
    plain.set_weights(layer.get_weights()[: len(plain.get_weights())])
    trained, weights = layer(x, x, training=True, return_attention_scores=True)
    np.testing.assert_allclose(as_numpy(layer(x, x)), as_numpy(plain(x, x)), **CLOSE)
    np.testing.assert_allclose(as_numpy(weights).sum(-1), 1.0, rtol=1e-6)
    assert np.abs(as_numpy(trained) - as_numpy(layer(x, x))).max() > 0.1


@pytest.mark.parametrize("arguments, message", [
    ({"num_heads": 0}, "`num_heads` must be a positive integer. Received: 0"),
    ({"key_dim": 4.0}, "`key_dim` must be a positive integer. Received: 4.0"),
    ({"value_dim": 0}, "`value_dim` must be a positive integer"),
    ({"sliding_window": -1}, "`sliding_window` must be a positive integer"),
    ({"num_key_value_heads": 2}, "must divide `num_heads`. Received: num_heads=3, num_key_va"),
    ({"dropout": 1.5}, r"`dropout` must lie in \[0, 1\]. Received: 1.5"),
    ({"flash_attention": True}, "`flash_attention=True` is not supported"),
], ids=str)  # fmt: skip
def test_a_bad_argument_is_an_error_that_says_what_was_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**{"num_heads": N, "key_dim": H, **arguments})


@pytest.mark.parametrize("shapes, message", [
    ([(B, D), (B, S, D)], "`query` must have the shape .batch, length, features"),
    ([(B, T, D), (D,)], "`value` must have the shape"),
    ([(B, T, D), (B, S, D), (B, D)], "`key` must have the shape"),
    ([(B, T, D), (B, S, D), (B, T, D)], "`value` and `key` must have the same length"),
], ids=str)  # fmt: skip
def test_inputs_that_do_not_fit_are_an_error(rng, shapes, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(N, H)(*(normal(rng, *shape) for shape in shapes))


@pytest.mark.parametrize("axes, call, message", [
    (None, {"use_causal_mask": True}, "needs one attention axis"),
    (1, {"value_mask": (B, T)}, "need attention over one axis"),
    (2, {"attention_mask": (B + 1, T, S)}, r"must broadcast to .*\[2, 5, .heads., 7, 7\]. Rec"),
    (1, {"attention_bias": (1, 1, 1, 1)}, "`attention_bias`, .* need inputs"),
], ids=str)  # fmt: skip
def test_what_other_axes_cannot_have_is_an_error(rng, axes, call, message):
    x = normal(rng, B, T, S, D)
    call = {k: mask(rng, *v) if isinstance(v, tuple) else v for k, v in call.items()}
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(N, H, attention_axes=axes)(x, x, **call)


@pytest.mark.parametrize("output_shape", [None, 17, (2, 3)])
def test_the_output_shape_is_that_of_keras_layer(output_shape):
    arguments = {"num_heads": N, "key_dim": H, "output_shape": output_shape}
    shapes = (None, T, D), (None, S, 19), (None, S, 23)
    layers = [cls(**arguments) for cls in (keras.layers.MultiHeadAttention, MultiHeadAttention)]
    for given in (shapes[:2], shapes):
        expected, found = (layer.compute_output_shape(*given) for layer in layers)
        assert found == expected
    with pytest.raises(ValueError, match="`value` and `key` must have the same length"):
        layers[1].compute_output_shape((B, T, D), (B, S, D), (B, T, D))


def test_a_mask_may_be_a_list(rng):
    x = normal(rng, 1, 2, D)
    for given in ([[[True, False], [True, True]]], [[True, False], [True, True]]):
        expected, output = both({}, [x, x], attention_mask=given)
        np.testing.assert_allclose(as_numpy(output), as_numpy(expected), **CLOSE)


def test_a_mask_of_another_length_is_an_error(rng):
    layer, x = built(rng)
    with pytest.raises(ValueError, match=r"mask must broadcast to \[..., 5, 5\]"):
        layer(x, x, attention_mask=ops.ones((B, T, S), "bool"))


@pytest.mark.parametrize("shape", [(4, 5, 5), (4, 1, 5, 5), (2, 2, 5, 5)])
def test_a_mask_of_another_batch_or_number_of_heads_is_an_error(rng, shape):
    layer = MultiHeadAttention(3, 4)
    for rows in (1, 2):
        x = normal(rng, rows, 5, 13)
        with pytest.raises(ValueError, match="The attention mask must broadcast to"):
            layer(x, x, attention_mask=np.ones(shape, bool))


@pytest.mark.parametrize("name, shape", [
    ("query_mask", (B, N, N)), ("value_mask", (B, N, N)), ("key_mask", (B, 1, N)),
    ("query_mask", (N,)), ("value_mask", (B, 1, N, N)),
], ids=str)  # fmt: skip
def test_a_mask_of_positions_has_one_value_for_each(rng, name, shape):
    layer, x = MultiHeadAttention(N, H), normal(rng, B, N, D)  # as many positions as heads
    message = rf"`{name}` must have .* here the shape \[2, 3\]. Received: .*`attention_mask=`"
    with pytest.raises(ValueError, match=message):
        layer(x, x, **{name: np.ones(shape, bool)})
    with pytest.raises(ValueError, match="must have one value for each position"):
        rank = "query_mask" if name == "query_mask" else "source_masks"
        value = np.ones(shape, bool)
        layer.compute_mask_for_scores(N, N, **{rank: value if rank == name else [value]})


def test_a_mask_of_positions_of_folded_axes_has_their_rank(rng):
    layer, x = MultiHeadAttention(N, H, attention_axes=2), normal(rng, B, S, T, D)
    assert layer(x, x, value_mask=np.ones((B, S, T), bool)).shape == x.shape
    for shape in ((B, T), (B, S, T, T)):
        with pytest.raises(ValueError, match=r"`value_mask` must .* the shape \[2, 7, 5\]. Rec"):
            layer(x, x, value_mask=np.ones(shape, bool))


@pytest.mark.parametrize("name", ["query_mask", "value_mask"])
def test_a_mask_of_positions_beside_a_cache_has_their_rank(rng, name):
    layer, x = built(rng)
    written, read = layer.init_cache(len(x), S), layer.project_cache(x)
    mask = np.ones((len(x), 1, S), bool)
    for value, cache in ((x, dict(cache=written, cache_index=0)), (None, dict(cache=read))):
        with pytest.raises(ValueError, match=f"`{name}` must have one value for each position"):
            layer(x, value, **{name: mask}, **cache)


def test_a_look_ahead_mask_in_which_true_hides_gives_a_warning(rng):
    layer, x = MultiHeadAttention(N, H), normal(rng, B, T, D)
    hides = np.triu(np.ones((T, T), bool), 1)  # as PyTorch writes it
    with pytest.warns(UserWarning, match="only the later ones.* `~attention_mask`") as found:
        layer(x, x, attention_mask=hides)
    assert len(found) == 1
    layer(x, x, attention_mask=~hides)
    layer(x, x, attention_mask=hides | np.eye(T, dtype=bool))  # from behind
    layer(x[:, :1], x[:, :1], attention_mask=hides[:1, :1])


def test_a_bias_is_no_mask(rng):
    layer, x = MultiHeadAttention(3, 4), normal(rng, 2, 5, 13)
    additive = np.where(np.tri(5, dtype=bool), 0.0, -1e9).astype("float32")
    with pytest.raises(ValueError, match="boolean, or numbers where 0 hides.*attention_bias"):
        layer(x, x, attention_mask=additive)
    expected = layer(x, x, use_causal_mask=True)
    for given in (np.tri(5), np.tri(5, dtype="int32")):
        np.testing.assert_array_equal(as_numpy(layer(x, x, attention_mask=given)), expected)
    found = layer(x, x, attention_bias=additive[None, None])
    np.testing.assert_allclose(as_numpy(found), expected, atol=1e-6)


def test_numpy_s_integers_are_sizes(rng):
    layer, x = MultiHeadAttention(np.int64(3), np.int32(4)), normal(rng, 2, 5, 13)
    layer(x, x)
    assert MultiHeadAttention.from_config(layer.get_config()).key_dim == 4
    assert type(layer.get_config()["num_heads"]) is int


@pytest.mark.parametrize("shapes, message", [
    (((T, D), (S, D)), r"`query` must have the shape \[batch, length, features\]"),
    (((B, T, D), (S, D)), r"`value` must have the shape \[batch, length, features\]"),
    (((B, T, D), (B, S, D), (S, D)), r"`key` must have the shape \[batch, length, features\]"),
    (((B, T, D), (B, S, D), (B, T, D)), "`value` and `key` must have the same length"),
    (((B, T, D), (B, S, D + 1)), f"expected axis -1 of input shape to have value {D}"),
    (((B, T, D + 1), (B, S, D)), f"expected axis -1 of input shape to have value {D}"),
])  # fmt: skip
def test_shapes_are_looked_at_in_every_call(shapes, message, rng):
    layer, _ = built(rng)
    with pytest.raises(ValueError, match=message):
        layer(*(normal(rng, *shape) for shape in shapes))


@pytest.mark.parametrize("name, expected", [
    ("output_shape", "a positive integer"), ("attention_axes", "an integer")
])  # fmt: skip
def test_axes_are_integers(name, expected):
    for wrong in (1.0, True, (2, False), *([0, (3, -1)] if name == "output_shape" else [])):
        message = rf"`{name}` must be {expected}, integers, or None.*{re.escape(repr(wrong))}"
        with pytest.raises(ValueError, match=message):
            layers.MultiHeadAttention(2, 3, **{name: wrong})


@pytest.mark.parametrize("axes", [(0,), (-1,), (3,), (-4,), (1, 1), (1, -3)])
def test_attention_axes_are_different_ones_inside(axes):
    x = keras.KerasTensor((B, T, S, D))
    with pytest.raises(ValueError, match="`attention_axes` must be different axes .* 1 .. 2. Rec"):
        MultiHeadAttention(N, H, attention_axes=axes)(x, x)


def test_attention_axes_are_looked_at_in_every_call(rng):
    layer = MultiHeadAttention(N, H, attention_axes=2)
    x = normal(rng, B, T, S, D)
    layer(x, x)
    with pytest.raises(ValueError, match="`attention_axes` must be different axes .* 1 .. 1. Rec"):
        layer(x[:, 0], x[:, 0])
