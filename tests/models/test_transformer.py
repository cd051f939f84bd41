"""The Transformer against a float64 forward pass, and against what must not change it.

B batch, S source, T target, N heads, D d_model, F ffn_dim, V vocab_size
"""

import concurrent.futures
import functools
import pathlib

import keras
import numpy as np
import oracles
import pytest
from keras import ops

from keras_xfmr import decoding, training
from keras_xfmr.models import Transformer

pytestmark = pytest.mark.portable

B, S, T, N, D, F = 2, 7, 5, 3, 6, 11
SOURCE_VOCAB, V = 13, 17
SIZES = {"d_model": D, "num_heads": N, "ffn_dim": F, "num_layers": 1}
SOURCE = np.array([[5, 7, 3, 11, 4, 12, 6], [8, 9, 10, 5, 0, 0, 0]])
TARGET = np.array([[2, 7, 12, 4, 9], [2, 5, 5, 0, 0]])


def tiny(*vocab_sizes, **arguments):
    """A small model whose every weight is drawn: zeros and ones would hide biases and scales."""
    model = Transformer(*(vocab_sizes or (SOURCE_VOCAB, V)), **{**SIZES, **arguments})
    rng = np.random.default_rng(13)
    for variable in model.trainable_weights:
        variable.assign(rng.normal(size=variable.shape) / 2)
    return model


def logits_of(model, source=SOURCE, target=TARGET):
    logits = model({"source_ids": source, "target_ids": target})
    return ops.convert_to_numpy(ops.cast(logits, "float32"))


def kernels_and_biases(**dense):
    weights = {f"w{name}": layer.kernel.numpy() for name, layer in dense.items()}
    return {**weights, **{f"b{name}": layer.bias.numpy() for name, layer in dense.items()}}


def normalize(norm, x):
    weights = [w.numpy() for w in norm.weights]
    oracle = oracles.layer_norm if len(weights) == 2 else oracles.rms_norm
    return oracle(x, *weights, norm.epsilon)


def attend(layer, query, memory, **options):
    weights = kernels_and_biases(
        q=layer.query_dense, k=layer.key_dense, v=layer.value_dense, o=layer.output_dense
    )
    return oracles.multi_head_attention(query, memory, weights=weights, **options)


def feed_forward(layer, x):
    dense = {"1": layer.inner_dense, "2": layer.output_dense}
    if layer.activation == "swiglu":
        dense["g"] = layer.gate_dense
    return oracles.feed_forward(x, layer.activation, kernels_and_biases(**dense))


def embed(table, ids):
    return table[ids] * D**0.5 + oracles.sinusoid(ids.shape[1], D)


def forward(model, source, target):
    """Figure 1 of the paper in float64, from the model's weights and the oracles alone."""

    norm_first = model.get_config()["norm_first"]

    def residual(block, name, x, sublayer):
        norm = getattr(block, f"{name}_add_norm").norm
        if norm_first:
            return x + sublayer(normalize(norm, x))
        return normalize(norm, x + sublayer(x))

    mask = (source != 0)[:, None, None, :]
    x = embed(model.source_embedding.embeddings.numpy(), source)
    for b in model.encoder_blocks:
        x = residual(
            b, "self_attention", x, lambda y, b=b: attend(b.self_attention, y, y, mask=mask)
        )
        x = residual(b, "feed_forward", x, lambda y, b=b: feed_forward(b.feed_forward, y))
    memory = normalize(model.encoder_norm, x) if model.encoder_norm else x
    table = model.target_embedding.embeddings.numpy()
    x = embed(table, target)
    for b in model.decoder_blocks:
        x = residual(
            b, "self_attention", x, lambda y, b=b: attend(b.self_attention, y, y, causal=True)
        )
        x = residual(
            b, "cross_attention", x,
            lambda y, b=b: attend(b.cross_attention, y, memory, mask=mask),
        )  # fmt: skip
        x = residual(b, "feed_forward", x, lambda y, b=b: feed_forward(b.feed_forward, y))
    x = normalize(model.decoder_norm, x) if model.decoder_norm else x
    return x @ table.T.astype("float64")


@pytest.mark.parametrize("vocab_sizes", [(SOURCE_VOCAB, V), (V,)], ids=["separate", "shared"])
def test_a_post_norm_model_equals_the_forward_pass_in_float64(vocab_sizes):
    model = tiny(*vocab_sizes)
    expected = forward(model, SOURCE, TARGET)
    # float32 through five normalized sublayers: logits near 1 with errors of a few 1e-6.
    np.testing.assert_allclose(logits_of(model), expected, rtol=2e-5, atol=2e-5)
    assert expected.std() > 0.3


def test_a_pre_norm_model_of_two_and_one_blocks_equals_the_forward_pass_in_float64():
    model = tiny(norm_first=True, norm="rms_norm", activation="swiglu", num_layers=(2, 1))
    assert (len(model.encoder_blocks), len(model.decoder_blocks)) == (2, 1)
    expected = forward(model, SOURCE, TARGET)
    np.testing.assert_allclose(logits_of(model), expected, rtol=2e-5, atol=2e-5)


def test_final_norms_epsilon_and_an_output_of_its_own_equal_the_forward_pass_in_float64():
    model = tiny(final_norm=True, epsilon=0.1, tie_output=False, output_bias=True)
    table, expected = model.target_embedding.embeddings.numpy(), forward(model, SOURCE, TARGET)
    hidden = expected @ np.linalg.pinv(table.T.astype("float64"))
    kernel, bias = (w.numpy().astype("float64") for w in model.output_dense.weights)
    np.testing.assert_allclose(logits_of(model), hidden @ kernel + bias, rtol=2e-5, atol=2e-5)
    biased = tiny(output_bias=True, norm_first=True, final_norm=False)
    assert biased.encoder_norm is None and biased.decoder_norm is None
    before = logits_of(biased)
    biased.output_bias.bias.assign_add(np.arange(V))
    added = np.tile(np.arange(V), (B, T, 1))
    np.testing.assert_allclose(logits_of(biased) - before, added, atol=1e-4)


@pytest.mark.parametrize("arguments", [
    {"tie_output": False, "output_bias": True, "final_norm": True, "epsilon": 1e-3},
    {"output_bias": True},
], ids=str)  # fmt: skip
def test_every_output_is_decoded_with_caches_and_comes_back_from_its_configuration(arguments):
    model = tiny(**arguments)
    again = Transformer.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    found = model.generate(SOURCE, max_length=3, jit_compile=False)["token_ids"]
    target = np.concatenate([np.full((B, 1), model.start_id), found[:, :-1]], axis=1)
    expected = logits_of(model, target=target).argmax(-1)
    before_end = np.cumsum(found == model.end_id, axis=1) - (found == model.end_id) == 0
    np.testing.assert_array_equal(found[before_end], expected[before_end])


@pytest.mark.parametrize("argument, value", [
    ("epsilon", -1.0), ("epsilon", float("nan")), ("epsilon", "x"), ("epsilon", None),
    ("tie_output", None), ("output_bias", "no"), ("final_norm", "yes"), ("norm_first", 2),
])  # fmt: skip
def test_numbers_and_flags_of_an_argument_are_checked(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must .*Received: {value!r}"):
        tiny(**{argument: value})


def test_another_layer_in_a_built_model_is_refused():
    model = tiny(norm_first=True)
    for name in ("encoder_norm", "decoder_blocks", "target_embedding"):
        with pytest.raises(AttributeError, match=f"built with its `{name}`"):
            setattr(model, name, None)
        with pytest.raises(AttributeError, match=f"built with its `{name}`"):
            delattr(model, name)
    with pytest.raises(AttributeError, match="built with its `pad_id`"):
        model.pad_id = model.pad_id + 1
    assert isinstance(model.encoder_blocks, tuple) and isinstance(model.decoder_blocks, tuple)
    model.encoder_norm, model.pad_id = model.encoder_norm, model.pad_id
    model.note = keras.layers.Dense(3)  # of a user


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [False, True])
def test_weights_of_torch_go_in_as_the_page_shows(norm_first):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    page = pathlib.Path(__file__).parents[2] / "docs" / "from_torch.md"
    names = {}
    exec(page.read_text().split("```python\n")[1].split("```")[0], names)
    torch.manual_seed(3)
    transformer = torch.nn.Transformer(
        D, N, 2, 1, F, batch_first=True, norm_first=norm_first, activation="gelu"
    ).eval()
    embedding, output = torch.nn.Embedding(V, D), torch.nn.Linear(D, V)
    for parameter in transformer.parameters():  # biases of 0 and norms of 1 would hide faults
        torch.nn.init.normal_(parameter, std=0.5)
    model = names["from_torch"](
        embedding, transformer, output, norm_first=norm_first, activation="gelu"
    )

    def embed(ids):
        positions = torch.tensor(oracles.sinusoid(ids.shape[1], D), dtype=torch.float32)
        return embedding(ids) * D**0.5 + positions

    source, target = torch.tensor(SOURCE), torch.tensor(TARGET)
    with torch.no_grad():
        vectors = transformer(
            embed(source), embed(target), src_key_padding_mask=source == 0,
            memory_key_padding_mask=source == 0,
            tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(T),
        )  # fmt: skip
        expected = output(vectors).numpy()
    np.testing.assert_allclose(logits_of(model), expected, rtol=1e-4, atol=2e-5)


def test_learned_positions_are_rows_of_their_tables():
    model = tiny(positions="learned", max_length=11)
    sinusoids = tiny()
    embeddings = [model.source_positions, model.target_positions]
    assert [layer.embeddings.shape for layer in embeddings] == [(11, D)] * 2
    for layer in embeddings:
        layer.embeddings.assign(oracles.sinusoid(11, D))
    paths = {w.path: w for w in model.weights}
    for weight in sinusoids.weights:
        weight.assign(paths[weight.path])
    np.testing.assert_allclose(logits_of(model), logits_of(sinusoids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_later_targets_do_not_move_earlier_logits(norm_first):
    model = tiny(norm_first=norm_first)
    changed = TARGET.copy()
    changed[:, 3:] = [[8, 3], [11, 16]]
    before, after = logits_of(model), logits_of(model, target=changed)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert np.abs(after[:, 3:] - before[:, 3:]).max(-1).min() > 1e-3


def test_one_vocabulary_shares_one_table():
    shared, separate = tiny(V), tiny(V, V)
    assert shared.source_embedding is shared.target_embedding
    assert len(separate.weights) == len(shared.weights) + 1
    assert separate.count_params() == shared.count_params() + V * D


@pytest.mark.parametrize("preset, d_model, ffn_dim", [("base", 512, 2048), ("big", 1024, 4096)])
def test_a_preset_has_the_sizes_of_table_three(preset, d_model, ffn_dim):
    model = Transformer.from_preset(preset, V, num_layers=1)
    attention = 4 * (d_model + 1) * d_model
    feed_forward = 2 * d_model * ffn_dim + ffn_dim + d_model
    norm = 2 * d_model
    blocks = 3 * attention + 2 * feed_forward + 5 * norm
    assert model.count_params() == V * d_model + blocks
    config = model.get_config()
    assert config["num_heads"] * 64 == d_model
    assert config["dropout_rate"] == {"base": 0.1, "big": 0.3}[preset]


def test_a_preset_takes_overrides_and_its_name_must_be_known():
    model = Transformer.from_preset("base", SOURCE_VOCAB, V, **{**SIZES, "dropout_rate": 0.0})
    assert model.get_config()["ffn_dim"] == F and model.get_config()["dropout_rate"] == 0.0
    with pytest.raises(ValueError, match="`preset` must be one of .'base', 'big'.*'huge'"):
        Transformer.from_preset("huge", V)


@pytest.mark.parametrize("pad_id", [0, 1])
def test_attention_weights_are_distributions_over_what_may_be_seen(pad_id):
    model = tiny(num_layers=2, pad_id=pad_id)
    weights = model.attention_weights(np.where(SOURCE == 0, pad_id, SOURCE), TARGET)
    shapes = {"encoder": (B, N, S, S), "decoder": (B, N, T, T), "cross": (B, N, T, S)}
    assert {name: [w.shape for w in each] for name, each in weights.items()} == {
        name: [shape] * 2 for name, shape in shapes.items()
    }
    for name, each in weights.items():
        for layer in (ops.convert_to_numpy(w) for w in each):
            np.testing.assert_allclose(layer.sum(-1), 1.0, rtol=1e-6)
            hidden = np.triu(layer, 1) if name == "decoder" else layer[1, :, :, 4:]
            assert not hidden.any()


def test_two_models_stand_in_one(tmp_path):
    """Without a name of its own the second would be refused, as two layers of one name are."""
    source, target = (keras.Input((None,), dtype="int32") for _ in ("source_ids", "target_ids"))
    both = [tiny(), tiny()]
    outer = keras.Model([source, target], [model([source, target]) for model in both])
    assert both[0].name != both[1].name
    outer.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for model, logits in zip(both, loaded([SOURCE, TARGET])):
        np.testing.assert_array_equal(ops.convert_to_numpy(logits), logits_of(model))


def test_attention_weights_are_those_of_lists_too():
    model = tiny()
    found = model.attention_weights(SOURCE.tolist(), TARGET.tolist())["cross"][0]
    expected = model.attention_weights(SOURCE, TARGET)["cross"][0]
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (found, expected)))


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_an_error(keep, tmp_path):
    tiny().save(tmp_path / "model.keras")
    content = (tmp_path / "model.keras").read_bytes()
    size = keep if isinstance(keep, int) else int(keep * len(content))
    (tmp_path / "model.keras").write_bytes(content[:size])
    with pytest.raises(ValueError, match="not a.* zip|File not found"):
        keras.saving.load_model(tmp_path / "model.keras")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="File not found: filepath=.*missing.keras"):
        keras.saving.load_model(tmp_path / "missing.keras")


def test_a_source_of_padding_alone_gives_finite_logits():
    logits = logits_of(tiny(), np.zeros_like(SOURCE))
    assert np.isfinite(logits).all() and logits.shape == (B, T, V)


def test_an_empty_batch_gives_an_empty_batch():
    assert logits_of(tiny(), SOURCE[:0], TARGET[:0]).shape == (0, T, V)


def test_dropout_acts_in_training_alone():
    model = tiny(dropout_rate=0.5)
    inputs = {"source_ids": SOURCE, "target_ids": TARGET}
    np.testing.assert_array_equal(logits_of(model), logits_of(model))
    trained = ops.convert_to_numpy(model(inputs, training=True))
    assert np.abs(trained - logits_of(model)).max() > 0.1


def test_embedded_tokens_are_dropped_on_both_sides():
    model = tiny(num_layers=0, dropout_rate=0.5)
    memory = model.encode(SOURCE)
    for call in (
        lambda training: model.encode(SOURCE, training=training),
        lambda training: model.decode(TARGET, memory, SOURCE, training=training),
    ):
        plain, trained = (ops.convert_to_numpy(call(training)) for training in (False, True))
        assert np.abs(trained - plain).max() > 0.1


@pytest.mark.parametrize("arguments, message", [
    ({"num_heads": 4}, "`num_heads` must divide `d_model`. Received: d_model=6, num_heads=4"),
    ({"positions": "learned"}, "Learned positions need `max_length`"),
    ({"positions": "zigzag"}, "`positions` must be one of .*'zigzag'"),
    ({"activation": "no_such"}, "`activation` must be one of"),
    ({"norm": "batch_norm"}, "`norm` must be .*Received: 'batch_norm'"),
], ids=lambda x: "" if isinstance(x, str) else str(x))  # fmt: skip
def test_a_bad_argument_is_an_error_that_says_what_was_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transformer(V, **{**SIZES, **arguments})


# ---- what a saved model keeps, and what is refused


def test_float16_by_argument_scales_the_loss():
    model = tiny(dtype="mixed_float16")
    model.compile("sgd", "mse")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert Transformer.from_config(model.get_config()).dtype_policy.name == "mixed_float16"


def test_what_is_frozen_stays_so_in_a_file(tmp_path):
    model = tiny()
    model.source_embedding.trainable = False
    model.encoder_blocks[0].trainable = False
    trained = [weight.path for weight in model.trainable_weights]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True, jit_compile=False)
    model.train_on_batch({"source_ids": SOURCE, "target_ids": TARGET}, TARGET)
    model.save(tmp_path / "frozen.keras")
    loaded = keras.saving.load_model(tmp_path / "frozen.keras")
    assert [weight.path for weight in loaded.trainable_weights] == trained
    assert 0 < len(trained) < len(model.weights)
    assert int(loaded.optimizer.iterations) == 1


@pytest.mark.parametrize("arguments, message", [
    ({"end_id": V}, "`end_id` must be an integer in 0 .. "),
    ({"pad_id": -1}, "`pad_id` must be an integer in 0 .. 12. Received: -1"),
    ({"pad_id": SOURCE_VOCAB}, "`pad_id` must be an integer in 0 .. 12. Received: 13"),
    ({"num_heads": 0}, "`num_heads` must be a positive integer"),
    ({"num_layers": 1.0}, "`num_layers` must be an integer, at least 0. Received: 1.0"),
    ({"num_layers": (1, 1, 1)}, "a pair"),
    ({"positions": "learned", "max_length": 0}, "`max_length` must be a positive integer"),
    ({"positions": "learned"}, "need `max_length`.*Received: positions='learned', max_length=None"),
    ({"positions": "rotary"}, "`positions` must be one of .*'learned'.*Received: 'rotary'"),
    ({"dropout_rate": 2}, "`dropout_rate` must lie in"),
])  # fmt: skip
def test_sizes_and_ids_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="Received: hidden_size. hidden_size is d_model here"):
        tiny(hidden_size=3)
    assert tiny(num_layers=np.int64(1)).get_config()["num_layers"] == 1


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_several_threads_generate_at_once():
    model = tiny()
    lengths = (3, 4, 5, 6)

    def generate(length):
        return model.generate(SOURCE, max_length=length, jit_compile=False)["token_ids"]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(generate, lengths))
    for length, ids in zip(lengths, found):
        np.testing.assert_array_equal(ids, generate(length))


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("search", ["sample", decoding.sample])
def test_threads_that_sample_draw_what_their_seed_says(search):
    model, seeds = tiny(), list(range(4)) * 10
    options = {"search": search, "max_length": 7, "jit_compile": False, "temperature": 3.0}

    def draw(seed):
        return model.generate(SOURCE, seed=seed, **options)["token_ids"].tolist()

    expected = [draw(seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, seeds)) == expected * 10
    assert expected[0] != expected[1]


def test_an_input_more_is_refused():
    """Keras would take the values of a dictionary in the order of their names."""
    model, inputs = tiny(), {"source_ids": SOURCE, "target_ids": TARGET}
    for name in ("labels", "weights"):
        with pytest.raises(ValueError, match=f"`source_ids` and `target_ids`.*'{name}'"):
            model({**inputs, name: SOURCE})
    with pytest.raises(ValueError, match="Expected `source_ids` and `target_ids`"):
        model({"source_ids": SOURCE})
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model([SOURCE, TARGET])), logits_of(model)
    )


def test_embeddings_may_go_unscaled():
    model = tiny(scale_embeddings=False)
    again = Transformer.from_config(model.get_config())
    for layer in (again.source_embedding, again.target_embedding):
        assert layer.scale is False
    vectors = ops.convert_to_numpy(again.source_embedding(SOURCE))
    table = ops.convert_to_numpy(again.source_embedding.embeddings)
    np.testing.assert_allclose(vectors, table[SOURCE], rtol=1e-6)


BAD_LABELS = (TARGET + 8, np.where(TARGET, TARGET, -100))


@pytest.mark.parametrize("wrong", [SOURCE + 0.9, SOURCE.astype("float16"), SOURCE.astype("bool")])
def test_ids_that_would_be_cut_off_are_refused_by_a_call(wrong):
    model = tiny()
    for inputs in ({"source_ids": wrong, "target_ids": TARGET}, [wrong, TARGET]):
        with pytest.raises(ValueError, match="`source_ids` must be integers"):
            model(inputs)
    with pytest.raises(ValueError, match="`target_ids` must be integers"):
        model([SOURCE, (TARGET + 0.5).tolist()])
    whole = model({"source_ids": SOURCE.astype("float32"), "target_ids": TARGET})
    np.testing.assert_array_equal(whole, model([SOURCE, TARGET]))


def eager():
    """A model whose steps are not traced."""
    model = tiny()
    model.compile("sgd", training.MaskedCrossEntropy(), run_eagerly=True, jit_compile=False)
    return model


@pytest.mark.parametrize("labels", BAD_LABELS)
def test_labels_in_arrays_are_looked_at(labels):
    model, inputs = eager(), {"source_ids": SOURCE, "target_ids": TARGET}
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match="Labels must lie in 0 .. 16"):
            call(inputs, labels)


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("labels", BAD_LABELS)
def test_labels_in_data_sets_are_looked_at(labels):
    import tensorflow as tf

    model, inputs = eager(), {"source_ids": SOURCE, "target_ids": TARGET}
    data = tf.data.Dataset.from_tensors((inputs, labels))
    for call in (functools.partial(model.fit, shuffle=False), model.evaluate):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must lie in 0 .. 16"):
            call(data, verbose=0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.data")
def test_a_loss_that_leaves_out_another_token_than_padding_is_refused():
    model = tiny(pad_id=1)
    labels = np.where(TARGET == 0, 1, TARGET)
    for left_out in (0, 1, -100):  # the last one is no token, and padding of one's own
        loss = training.MaskedCrossEntropy(pad_id=left_out)
        model.compile("sgd", loss, run_eagerly=True, jit_compile=False)
        fit = functools.partial(model.fit, [SOURCE, TARGET], labels, verbose=0)
        if left_out:
            fit()
        else:
            with pytest.raises(ValueError, match="Received: .* label 0, a token. Pass pad_id=1"):
                fit()


def test_ragged_sources_are_padded_with_the_padding_of_the_model():
    tf = pytest.importorskip("tensorflow")

    model = Transformer(SOURCE_VOCAB, **SIZES, pad_id=1, start_id=2, end_id=3)
    rows = [[5, 7, 4, 11], [8, 9]]
    padded = np.array([[5, 7, 4, 11], [8, 9, 1, 1]])
    options = {"max_length": np.int64(4), "jit_compile": False}
    expected = model.generate(padded, **options)
    found = model.generate(tf.ragged.constant(rows), **options)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_a_search_sees_low_rank_updates_and_other_special_ids():
    model, options = tiny(), {"max_length": 5, "jit_compile": False}
    first = model.generate(SOURCE, **options)
    for block in model.decoder_blocks:
        block.feed_forward.output_dense.enable_lora(2)
        block.feed_forward.output_dense.lora_kernel_b.assign(np.eye(2, D))
    second = model.generate(SOURCE, **options)
    assert np.abs(second["scores"] - first["scores"]).max() > 1e-3
    model.end_id = int(second["token_ids"][0, 0])
    assert model.generate(SOURCE, **options)["lengths"][0] == 1


@pytest.mark.requires_tensorflow
def test_a_frozen_model_is_loaded_inside_a_layer(tmp_path):
    model = tiny()
    model.encoder_blocks[0].trainable = False
    model.save(tmp_path / "model.keras")

    class Outer(keras.layers.Layer):
        def build(self, input_shape):
            self.inner = keras.saving.load_model(tmp_path / "model.keras")

        def call(self, ids):
            return self.inner({"source_ids": ids, "target_ids": ids})

    outer = Outer()
    outer(SOURCE)
    count = len(model.encoder_blocks[0].weights)
    assert len(outer.inner.non_trainable_weights) == count
    again = Transformer.from_config(outer.inner.get_config())
    assert len(again.non_trainable_weights) == count
