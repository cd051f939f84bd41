"""Every exported layer through one harness, and a subclass of each.

B batch, T target, S source, N heads, H head_dim, D d_model, F ffn_dim, V vocab_size
"""

import concurrent.futures
import inspect
import json

import keras
import numpy as np
import pytest
from harness import (
    Case,
    Holder,
    Marked,
    Spy,
    as_numpy,
    assert_equal,
    changed,
    constructor_arguments,
    state_of,
    without_build_configs,
)
from keras import ops
from subclasses import (
    BegunLSTM,
    HalvedAdd,
    Halving,
    LastLayer,
    LaterAngles,
    LaterPositions,
    LaterRows,
    LinearAttention,
    MeanPooling,
    NegativeBias,
    OwnNorm,
    OwnProjection,
    OwnQuery,
    ScaledDecoderBlock,
    ScaledEncoderBlock,
    ShiftedHighway,
    ShiftedLayerNorm,
    ShiftedRMSNorm,
    ShiftedTransform,
    SquaredFFN,
    StrictPast,
    Unchecked,
)

from keras_xfmr import layers

pytestmark = pytest.mark.portable

B, T, S, N, H, D, F, V = 2, 5, 7, 3, 4, 6, 11, 13
C, U = 17, 19  # characters of a word, units of an LSTM
MASK = np.array([[True, False, True, True, False], [True, True, False, True, True]])
SOURCE_MASK = np.array([[True, False, True, True, False, True, True], [True] * 3 + [False] * 4])


CASES = [
    Case(
        layers.AddNorm,
        {"norm": "rms_norm", "dropout_rate": 0.1, "epsilon": 1e-3, "seed": 3},
        ((B, T, D), (B, T, D)),
        subclasses=(HalvedAdd, OwnNorm),
    ),
    Case(
        layers.CharacterCNN,
        {
            "projection_dim": D,
            "filters": [[1, 3], [4, 7]],
            "character_dim": 5,
            "num_highway": 1,
            "num_characters": V,
            "activation": ops.tanh,
            "kernel_initializer": "he_normal",
        },
        ((B, T, C),),
        vocab_size=V,
        subclasses=(MeanPooling,),
    ),  # fmt: skip
    Case(
        layers.DecoderBlock,
        {
            "num_heads": N,
            "ffn_dim": F,
            "dropout_rate": 0.2,
            "attention_dropout_rate": 0.1,
            "activation": "swiglu",
            "norm": "rms_norm",
            "norm_first": True,
            "epsilon": 1e-3,
            "kernel_initializer": "he_normal",
            "rematerialize": True,
        },
        ((B, T, D), (B, S, D)),
        optional={"return_attention_scores": True},
        subclasses=(ScaledDecoderBlock,),
    ),  # fmt: skip
    Case(layers.Dropout, {"rate": 0.3, "seed": 3}, ((B, T, D),), subclasses=(Halving,)),
    Case(
        layers.EncoderBlock,
        {
            "num_heads": N,
            "ffn_dim": F,
            "activation": ops.gelu,
            "self_attention": layers.MultiHeadAttention(2, 4, rotary=layers.RotaryEmbedding()),
            "feed_forward": keras.layers.Dense(D, activation="tanh"),
            "rematerialize": True,
        },
        ((B, T, D),),
        optional={"return_attention_scores": True},
        subclasses=(ScaledEncoderBlock,),
    ),  # fmt: skip
    Case(
        layers.Highway,
        {"activation": "tanh", "gate_bias": -1.0, "kernel_initializer": "he_normal"},
        ((B, T, D),),
        subclasses=(ShiftedHighway,),
    ),
    Case(layers.LayerNorm, {"epsilon": 0.01}, ((B, T, D),), subclasses=(ShiftedLayerNorm,)),
    Case(
        layers.MultiHeadAttention,
        {
            "num_heads": N,
            "key_dim": H,
            "value_dim": 5,
            "dropout": 0.1,
            "output_shape": (2, 3),
            "sliding_window": 6,
            "use_gate": True,
            "seed": 3,
            "kernel_regularizer": "l2",
            "bias_initializer": "ones",
            "kernel_constraint": "non_neg",
        },
        ((B, T, D), (B, S, D)),
        optional={"return_attention_scores": True},
        subclasses=(OwnProjection, OwnQuery, LinearAttention),
    ),  # fmt: skip
    Case(
        layers.MultiHeadAttention,
        {
            "num_heads": 4,
            "key_dim": H,
            "num_key_value_heads": 2,
            "attention_axes": 1,
            "rotary": layers.RotaryEmbedding(layout="interleaved"),
            "use_bias": False,
        },
        ((B, T, D), (B, T, D)),
        options={"use_causal_mask": True},
        optional={"return_attention_scores": True},
        subclasses=(StrictPast,),
        name="MultiHeadAttention, grouped and rotary",
    ),  # fmt: skip
    Case(
        layers.MultiHeadAttention,
        {
            "num_heads": 4,
            "key_dim": H,
            "num_key_value_heads": 2,
            "sliding_window": 4,
            "blockwise": True,
        },
        ((B, T, D), (B, S, D)),
        optional={"return_attention_scores": True},
        subclasses=(StrictPast,),
        name="MultiHeadAttention, in blocks",
    ),  # fmt: skip
    Case(
        layers.MaskedLMTransform,
        {"activation": "gelu_new", "epsilon": 1e-3, "kernel_initializer": "normal"},
        ((B, T, D),),
        subclasses=(ShiftedTransform,),
    ),
    Case(
        layers.PositionEmbedding,
        {"max_length": 11, "embeddings_initializer": "normal"},
        ((B, T, D),),
        subclasses=(LaterRows,),
    ),
    Case(
        layers.PositionWiseFFN,
        {"ffn_dim": F, "activation": "geglu", "dropout_rate": 0.1, "output_dim": 5, "seed": 3},
        ((B, T, D),),
        subclasses=(SquaredFFN,),
    ),
    Case(
        layers.PositionWiseFFN,
        {"ffn_dim": F, "activation": ops.tanh, "use_bias": False},
        ((B, T, D),),
        name="PositionWiseFFN, with a function",
    ),
    Case(
        layers.PositionalEncoding,
        {"layout": "tensor2tensor", "max_wavelength": 100.0},
        ((B, T, D),),
        subclasses=(LaterPositions,),
    ),
    Case(
        layers.ProjectedLSTM,
        {
            "units": U,
            "projection_dim": D,
            "go_backwards": True,
            "cell_clip": 3.0,
            "projection_clip": 2.0,
            "forget_bias": 0.5,
            "kernel_initializer": "he_normal",
            "recurrent_initializer": "orthogonal",
            "projection_initializer": "normal",
        },
        ((B, T, D),),
        subclasses=(BegunLSTM,),
    ),
    Case(
        layers.ProjectedLSTM,
        {"units": U, "projection_dim": D, "use_bias": False},
        ((B, T, D),),
        name="ProjectedLSTM, without a bias",
    ),
    Case(layers.RMSNorm, {"epsilon": 0.01}, ((B, T, D),), subclasses=(ShiftedRMSNorm,)),
    Case(
        layers.RotaryEmbedding,
        {"layout": "interleaved", "max_wavelength": 100.0},
        ((B, T, N, H),),
        subclasses=(LaterAngles,),
    ),
    Case(
        layers.ScalarMix,
        {"layer_dropout_rate": 0.1, "l2": 0.01, "layer_norm": True, "seed": 3},
        ((B, T, D), (B, T, D), (B, T, D)),
        subclasses=(LastLayer,),
        listed=True,
    ),
    Case(
        layers.TokenEmbedding,
        {"vocab_size": V, "d_model": D, "scale": 0.5, "mask_zero": True},
        ((B, T),),
        vocab_size=V,
        subclasses=(Unchecked,),
    ),
    Case(
        layers.TokenEmbedding,
        {"vocab_size": V, "d_model": D},
        ((B, T, D),),
        options={"reverse": True},
        name="TokenEmbedding, reversed",
    ),
    Case(layers.VocabularyBias, {}, ((B, T, V),), subclasses=(NegativeBias,)),
]
# A cell takes one step and its states: `keras.layers.RNN` calls it, see layers/test_recurrent.py.
ELSEWHERE = {layers.ProjectedLSTMCell}
# No weights, or Keras' own.
ANY_FEATURES = (
    layers.Dropout, layers.LayerNorm, layers.RMSNorm, layers.PositionalEncoding,
    layers.RotaryEmbedding, layers.ScalarMix,
)  # fmt: skip
with_features = pytest.mark.parametrize(
    "case", [c for c in CASES if not c.vocab_size and c.layer not in ANY_FEATURES], ids=str
)
SUBCLASSES = [(case, subclass) for case in CASES for subclass in case.subclasses]
every_layer = pytest.mark.parametrize("case", CASES, ids=str)


def test_every_exported_layer_is_here_and_has_a_subclass():
    here = {case.layer for case in CASES}
    assert {layer.__name__ for layer in here | ELSEWHERE} == set(layers.__all__)
    assert not here & ELSEWHERE
    assert {case.layer for case, _ in SUBCLASSES} == here


@every_layer
def test_the_config_holds_every_argument_and_makes_an_equal_layer(case):
    layer = case.make()
    config = layer.get_config()
    copy = case.layer.from_config(config)
    assert constructor_arguments(case.layer) | set(case.arguments) <= set(config)
    assert copy.get_config() == config == layer.get_config()
    json.dumps(config)  # it can be written
    case.run(copy, case.draw())
    case.run(layer, case.draw())
    shapes = [[(w.path, w.shape) for w in each.weights] for each in (copy, layer)]
    assert shapes[0] == shapes[1]


@every_layer
def test_a_policy_may_stand_for_its_name(case):
    config = case.make(dtype=keras.DTypePolicy("mixed_bfloat16")).get_config()
    assert case.layer.from_config(config).compute_dtype == "bfloat16"


@every_layer
def test_symbolic_outputs_have_the_shapes_and_dtypes_of_eager_ones(case):
    for options in case.variants():
        eager = case.run(case.built(), case.draw(), **options)
        options = {**case.options, **options}
        known = [keras.KerasTensor(shape, case.dtype) for shape in case.shapes]
        unknown = [keras.KerasTensor((None, None, *s[2:]), case.dtype) for s in case.shapes]
        expected = [(tuple(x.shape), keras.backend.standardize_dtype(x.dtype)) for x in eager]
        found = keras.tree.flatten(case.make()(*case.given(known), **options))
        assert [(x.shape, x.dtype) for x in found] == expected
        found = keras.tree.flatten(case.make()(*case.given(unknown), **options))
        assert [x.dtype for x in found] == [dtype for _, dtype in expected]
        for x, (shape, _) in zip(found, expected, strict=True):
            assert len(x.shape) == len(shape) and x.shape[0] is None
            assert all(a in (None, b) for a, b in zip(x.shape, shape, strict=True))


@every_layer
def test_the_shape_is_known_without_a_call(case):
    expected = case.run(case.make(), case.draw())[0].shape
    compute = case.make().compute_output_shape
    options = case.options.keys() & inspect.signature(compute).parameters.keys()
    found = compute(*case.given(case.shapes), **{name: case.options[name] for name in options})
    assert tuple(found) == tuple(expected)


@every_layer
@pytest.mark.parametrize("policy, close", [("mixed_bfloat16", 2.0**-4), ("mixed_float16", 2.0**-7)])
def test_half_precision_is_finite_and_close_to_float32(case, policy, close):
    for options in case.variants():
        expected = case.run(case.built(), case.draw(), **options)
        layer = case.built(dtype=policy)
        outputs = case.run(layer, case.draw(), **options)
        dtypes = {keras.backend.standardize_dtype(x.dtype) for x in outputs}
        assert dtypes == {policy.removeprefix("mixed_")}
        assert {w.dtype for w in layer.trainable_weights} <= {"float32"}
        assert all(np.isfinite(as_numpy(x)).all() for x in outputs)
        assert_equal(outputs, expected, rtol=close, atol=close)


@every_layer
def test_a_model_with_the_layer_comes_back_from_a_file(case, tmp_path):
    model = case.model(case.built())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    configs = [without_build_configs(each.layers[-1].get_config()) for each in (loaded, model)]
    assert configs[0] == configs[1]
    assert type(loaded.layers[-1]) is case.layer
    assert_equal([loaded(case.draw())], [model(case.draw())], rtol=0, atol=0)


@every_layer
def test_a_user_s_own_model_with_the_layer_comes_back_from_a_file(case, tmp_path):
    model = Holder(case.built(), case.options)
    inputs = [ops.convert_to_tensor(x, dtype=case.dtype) for x in case.draw()]
    inputs = list(case.given(inputs))
    expected = model(inputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights) > 1
    assert_equal([loaded(inputs)], [expected], rtol=0, atol=0)


@pytest.mark.parametrize("case, subclass", SUBCLASSES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_subclass_acts_and_comes_back_from_a_file(case, subclass, tmp_path):
    model = case.model(case.built(subclass))
    plain = case.model(case.built())
    assert np.abs(as_numpy(model(case.draw())) - as_numpy(plain(case.draw()))).max() > 0.01
    model.save(tmp_path / "model.keras")
    objects = {cls.__name__: cls for _, cls in SUBCLASSES}
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects=objects)
    assert type(loaded.layers[-1]) is subclass
    assert_equal([loaded(case.draw())], [model(case.draw())], rtol=0, atol=0)


@every_layer
def test_one_step_of_fit_moves_the_layer_and_what_is_before_it(case):
    first = keras.layers.Dense(case.shapes[0][-1])
    layer = case.make()
    model = case.model(
        layer,
        around=lambda x: keras.layers.Dense(1)(x),
        before=(lambda x: x) if case.vocab_size else first,
    )
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=True)
    model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the step twice
    before = [w.numpy() for w in model.trainable_weights]
    target = np.random.default_rng(3).normal(size=model.output_shape[1:])[None].repeat(B, 0)
    history = model.fit(case.draw(), target, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    moved = {
        weight.path
        for weight, old in zip(model.trainable_weights, before, strict=True)
        if (weight.numpy() != old).any()
    }
    # A key bias adds the same number to every score of a row, which the softmax does not see.
    still = {w.path for w in model.trainable_weights} - moved
    assert all("key/bias" in path for path in still), still
    assert moved


@pytest.mark.requires_tensorflow
@every_layer
def test_eager_graph_and_xla_agree(case):
    import tensorflow as tf

    layer, tensors = case.built(), case.draw()
    for options in case.variants():
        expected = case.run(layer, tensors, **options)
        for jit_compile in (False, True):
            compiled = tf.function(lambda *x, **o: layer(*x, **o), jit_compile=jit_compile)
            assert_equal(case.run(compiled, tensors, **options), expected, rtol=1e-5, atol=1e-5)


@every_layer
def test_an_implicit_mask_is_honoured_and_passed_on(case):
    layer, spy, tensors = case.built(), Spy(), case.draw()
    if case.arguments.get("mask_zero"):  # the mask begins here
        spy(layer(np.where(MASK, 5, 0)))
        np.testing.assert_array_equal(spy.seen, MASK)
        return
    masks = [MASK if x.shape[1] == T else SOURCE_MASK for x in tensors]
    changed = [
        np.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, y)
        for x, y, mask in zip(tensors, case.draw(seed=17), masks, strict=True)
    ]
    outputs = []
    for values in (tensors, changed):
        marked = [Marked(mask)(x) for x, mask in zip(values, masks, strict=True)]
        outputs.append(layer(*case.given(marked), **case.options))
        spy(outputs[-1])
        np.testing.assert_array_equal(spy.seen, MASK)
    before, after = (as_numpy(x) for x in outputs)
    np.testing.assert_array_equal(after[MASK], before[MASK])
    # Attention gives a hidden query nothing, and an LSTM returns zeros for a step that it leaves
    # out; the others leave the row to what follows.
    zeros = (layers.MultiHeadAttention, layers.ProjectedLSTM)
    assert (after[~MASK] != before[~MASK]).any() == (case.layer not in zeros)


@every_layer
def test_a_call_leaves_nothing_on_the_layer(case):
    layer = case.built()
    trains = "training" in inspect.signature(layer.call).parameters
    calls = [
        (other, tensors, {**options, **({"training": True} if trains else {})})
        for other in CASES
        if other.layer is case.layer
        for options in other.variants()
        for tensors in (other.draw(), [x[:, :3] for x in other.draw()])
    ]
    before = state_of(layer)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda call: call[0].run(layer, call[1], **call[2]), calls))
    assert not changed(before, state_of(layer))
    for other, tensors, options in calls:  # one of them is another call than that before
        other.run(layer, tensors, **options)
        assert not changed(before, state_of(layer))


@pytest.mark.requires_tensorflow
@every_layer
def test_a_ragged_input_stays_ragged_or_is_refused(case):
    import tensorflow as tf

    layer, tensors, lengths = case.built(), case.draw(), [2, 1]
    dense = [tf.constant(x, case.dtype) for x in tensors]
    ragged = [tf.RaggedTensor.from_tensor(x, lengths=lengths) for x in dense]
    symbolic = [
        keras.Input((None, *shape[2:]), dtype=case.dtype, ragged=True) for shape in case.shapes
    ]
    if not case.layer.token_wise:
        for given in (ragged, symbolic):
            with pytest.raises(ValueError, match=f"{case.layer.__name__} takes dense input.*Pad"):
                layer(*case.given(given), **case.options)
        return
    expected = case.run(layer, tensors)[0]
    for outputs in (
        layer(*ragged, **case.options),
        keras.Model(symbolic, layer(*symbolic, **case.options))(ragged),
    ):
        assert outputs.row_lengths().numpy().tolist() == lengths
        for row, all_, length in zip(outputs, expected, lengths):
            np.testing.assert_allclose(row, all_[:length], rtol=1e-5, atol=1e-5)
    assert layer(*symbolic, **case.options).ragged


def tensors(*shapes):
    return [keras.KerasTensor(shape) for shape in shapes]


@with_features
def test_another_number_of_features_than_at_first_is_refused_where_it_is_symbolic(case):
    layer = case.make()
    layer(*case.given(tensors(*case.shapes)), **case.options)
    others = [(*shape[:-1], shape[-1] + 1) for shape in case.shapes]
    for wrong in ([others[0], *case.shapes[1:]], others):
        with pytest.raises(ValueError, match="expected axis -1|d_model=6 features"):
            layer(*case.given(tensors(*wrong)), **case.options)


@with_features
def test_features_that_are_not_known_are_refused_where_weights_are_made(case):
    if case.layer in (layers.MultiHeadAttention, layers.TokenEmbedding):
        return  # Keras refuses them in the dense layers of attention; the table has its own number
    given = tensors(*((None, *shape[1:-1], None) for shape in case.shapes))
    with pytest.raises(ValueError, match="features, must be known"):
        case.make()(*case.given(given), **case.options)


LSTM, CNN = layers.ProjectedLSTM(U, D), layers.CharacterCNN(D, [(1, 4)])
ENCODER, DECODER = layers.EncoderBlock(2, F), layers.DecoderBlock(2, F)
X, MEMORY = (B, T, 6), (B, S, 6)


@pytest.mark.parametrize("layer, shapes, options, message", [
    (LSTM, [(B, D)], {}, "expected ndim=3"),
    (LSTM, [(B, 3, T, D)], {}, "expected ndim=3"),
    (LSTM, [(B, T, D)], {"mask": (B, T - 1)}, "`mask` must have one value for each position"),
    (LSTM, [(B, T, D)], {"mask": (B, T, 1)}, "`mask` must have one value for each position"),
    (LSTM, [(B, T, D)], {"initial_state": [(B, D + 1), (B, U)]}, "`initial_state` must be h and c"),
    (CNN, [(B, 50)], {}, "expected ndim=3"),
    (ENCODER, [X], {"mask": (B, T - 1)}, "`mask` must have one value for each position"),
    (ENCODER, [X], {"document_ids": (B, T - 1)}, "`document_ids` must have one value"),
    (ENCODER, [X], {"attention_mask": (B,)}, r"`attention_mask` must have the shape \[B, T, S\]"),
    (ENCODER, [X], {"attention_mask": (B, T, T - 1)}, "The attention mask must broadcast"),
    (ENCODER, [X], {"attention_mask": (B, 3, T, T)}, "The attention mask must broadcast"),
    (ENCODER, [X], {"attention_bias": (3, T, T)}, "The attention bias must broadcast"),
    (DECODER, [X, MEMORY], {"inputs_mask": (B, S)}, "`inputs_mask` must have one value"),
    (DECODER, [X, MEMORY], {"memory_mask": (B, T)}, "`memory_mask` must have one value"),
    (DECODER, [X, MEMORY], {"cross_attention_mask": (B, T, T)}, "mask must broadcast"),
    (DECODER, [X, MEMORY], {"cross_attention_bias": (2, T, T)}, "bias must broadcast"),
    (DECODER, [X, (B + 1, S, 6)], {}, r"`memory` must have the shape \[B, S, D\]"),
    (DECODER, [X, (B, 6)], {}, r"`(memory|value)` must have the shape"),
])  # fmt: skip
def test_shapes_that_do_not_fit_are_refused_where_a_model_is_built(layer, shapes, options, message):
    options = {
        name: tensors(*shape) if isinstance(shape, list) else tensors(shape)[0]
        for name, shape in options.items()
    }
    with pytest.raises(ValueError, match=message):
        layer(*tensors(*shapes), **options)


def test_masks_and_biases_that_fit_are_taken_where_a_model_is_built():
    x, memory = tensors(X, MEMORY)
    for mask in ((T, T), (1, T, T), (B, 1, T), (B, 2, T, T), (B, 1, 1, T)):
        assert ENCODER(x, attention_mask=tensors(mask)[0]).shape == X
    for bias in ((2, T, S), (T, S), (B, 2, T, S), (1, 1, 1, S)):
        assert DECODER(x, memory, cross_attention_bias=tensors(bias)[0]).shape == X
    assert ENCODER(x, mask=tensors((1, T))[0]).shape == X


@pytest.mark.parametrize("make", [
    lambda **o: layers.EncoderBlock(N, F, **o),
    lambda **o: layers.DecoderBlock(N, F, **o),
    lambda **o: layers.PositionWiseFFN(F, **o),
    lambda **o: layers.AddNorm(**o),
    lambda **o: layers.MultiHeadAttention(N, H, dropout=o["dropout_rate"]),
])  # fmt: skip
def test_a_rate_is_refused_by_its_name(make):
    make(dropout_rate=1)
    for wrong in (8, -0.1, "x", float("nan")):
        with pytest.raises(ValueError, match=r"`dropout(_rate)?` must lie in \[0, 1\]. Received"):
            make(dropout_rate=wrong)


@pytest.mark.parametrize("kind", [layers.EncoderBlock, layers.DecoderBlock])
def test_a_block_looks_at_its_arguments_when_it_is_made(kind):
    for name, wrong in (("attention_dropout_rate", 8), ("activation", "x"), ("epsilon", -1)):
        with pytest.raises(ValueError, match=f"`{name}` must"):
            kind(N, F, **{name: wrong})
    with pytest.raises(TypeError, match=rf"{kind.__name__}.__init__\(\) takes 3 positional"):
        kind(N, F, 0.1)


@pytest.mark.parametrize("make, name", [
    (lambda x: layers.AddNorm(epsilon=x), "epsilon"),
    (lambda x: layers.MaskedLMTransform(epsilon=x), "epsilon"),
    (lambda x: layers.ScalarMix(l2=x), "l2"),
    (lambda x: layers.ProjectedLSTM(U, D, cell_clip=x), "cell_clip"),
    (lambda x: layers.PositionalEncoding(max_wavelength=x), "max_wavelength"),
    (lambda x: layers.RotaryEmbedding(max_wavelength=x), "max_wavelength"),
])  # fmt: skip
def test_a_number_is_refused_by_its_name(make, name):
    for wrong in (-1, "x", float("nan")):
        with pytest.raises(ValueError, match=f"`{name}` must .*Received: {wrong!r}"):
            make(wrong)


@pytest.mark.parametrize("make, meant", [
    (lambda: layers.EncoderBlock(N, F, dropout=0.1), "dropout is dropout_rate here"),
    (lambda: layers.MultiHeadAttention(N, H, dropout_rate=0.1), "dropout_rate is dropout here"),
    (lambda: layers.AddNorm(layer_norm_eps=0.1), "layer_norm_eps is epsilon here"),
])  # fmt: skip
def test_an_unknown_argument_names_the_one_that_is_meant(make, meant):
    with pytest.raises(ValueError, match=f"Unrecognized keyword arguments.*{meant}"):
        make()
