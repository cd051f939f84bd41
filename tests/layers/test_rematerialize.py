"""Blocks that compute their activations again in the backward pass: the same numbers, less memory.

B batch, T target, S source, D d_model
"""

import gc
import weakref

import keras
import numpy as np
import pytest
from forked import run
from keras import ops

from keras_xfmr import kernels, layers, models

B, T, S, D = 4, 5, 7, 6
on_tensorflow, prove_all = pytest.mark.requires_tensorflow, pytest.mark.prove_all


@keras.saving.register_keras_serializable("tests")
class Watching(layers.PositionWiseFFN):
    """A user's sublayer with state, dropout of Keras' and a loss of its own."""

    def build(self, inputs_shape):
        super().build(inputs_shape)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.noise = keras.layers.Dropout(0.3, seed=5)

    def call(self, inputs, training=None):
        self.calls.assign_add(1.0)
        output = super().call(self.noise(inputs, training=training), training=training)
        self.add_loss(0.1 * ops.mean(ops.square(ops.cast(output, "float32"))))
        return output


def encoder(policy, rematerialize):
    return layers.EncoderBlock(
        2, 11, dropout_rate=0.2, attention_dropout_rate=0.3, dtype=policy, name="encoder",
        rematerialize=rematerialize, feed_forward=Watching(11, dtype=policy),
        self_attention=layers.MultiHeadAttention(2, 3, dropout=0.3, blockwise=True, dtype=policy),
    )  # fmt: skip


def model(policy, rematerialize):
    """An encoder, frozen in part, and a decoder, with masks and low-rank updates."""
    keras.utils.set_random_seed(3)
    keras.utils.clear_session()  # equal names
    source, target = keras.Input((S, D), name="source"), keras.Input((T, D), name="target")
    mask = keras.Input((S,), dtype="bool", name="mask")
    first = encoder(policy, rematerialize)
    memory = first(source, mask=mask)
    decoder = layers.DecoderBlock(
        3, 13, dropout_rate=0.2, norm_first=True, dtype=policy, rematerialize=rematerialize
    )
    x = decoder(target, memory, memory_mask=mask)
    first.self_attention.trainable = False
    decoder.feed_forward.inner_dense.enable_lora(2)
    return keras.Model([source, target, mask], keras.layers.Dense(1, dtype="float32")(x))


def trained(policy, rematerialize, **options):
    """The losses of three steps of `fit`, and all variables then."""
    rng, made = np.random.default_rng(11), model(policy, rematerialize)
    drawn = [rng.normal(size=(2 * B, n, D)).astype("float32") for n in (S, T)]
    drawn.append(rng.random((2 * B, S)) < 0.7)
    made.compile(keras.optimizers.SGD(0.01), "mse", **options)
    labels = rng.normal(size=(2 * B, T, 1)).astype("float32")
    history = made.fit(drawn, labels, batch_size=B, epochs=2, shuffle=False, verbose=0)
    return history.history["loss"], {v.path: ops.convert_to_numpy(v) for v in made.variables}


@pytest.mark.portable
@pytest.mark.parametrize("policy, options", [
    pytest.param("float32", {"jit_compile": False}, marks=[on_tensorflow, prove_all]),
    pytest.param("mixed_bfloat16", {"jit_compile": False}, marks=on_tensorflow),
    ("float32", {"jit_compile": True}),
    pytest.param("mixed_bfloat16", {"jit_compile": True}, marks=prove_all),
    pytest.param("float32", {"run_eagerly": True}, marks=[on_tensorflow, prove_all]),
], ids=str)  # fmt: skip
@pytest.mark.slow
def test_fit_gives_the_same_losses_weights_and_state(policy, options):
    (losses, state), (expected, expected_state) = (
        trained(policy, way, **options) for way in (True, False)
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert state.keys() == expected_state.keys()
    for path, value in state.items():
        np.testing.assert_allclose(value, expected_state[path], rtol=0, atol=1e-6, err_msg=path)
    (calls,) = (value for path, value in state.items() if path.endswith("calls"))
    assert calls == 4  # steps: the second computation changes no state


@on_tensorflow
def test_xla_does_not_join_the_second_computation_with_the_first():
    import tensorflow as tf

    weights, x = 0.1 * tf.ones((D, D)), tf.ones((B, D))

    def products(change):
        inner = lambda state, inputs: [tf.tanh(tf.matmul(inputs[0], state[0]))]  # noqa: E731

        @tf.function(jit_compile=True)
        def step(weights, x):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = tf.reduce_sum(change(inner)([weights], [x])[0] ** 3)
            return tape.gradient(loss, weights)

        text = step.experimental_get_compiler_ir(weights, x)(stage="optimized_hlo")
        return text.count(" dot("), step(weights, x)

    (again, found), (once, expected) = products(kernels.recompute), products(lambda f: f)
    assert (again, once) == (3, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@on_tensorflow
@pytest.mark.parametrize("known", [True, False])
def test_a_batch_without_rows_has_gradients_of_zeros(known):
    """As the one of a replica may be that gets none of the last rows."""
    import tensorflow as tf

    def step(weights, x):
        inner = lambda state, inputs: [tf.tanh(tf.matmul(inputs[0], state[0]))]  # noqa: E731
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(kernels.recompute(inner)([weights], [x])[0])
        return tape.gradient(loss, weights)

    specs = tf.TensorSpec((D, D)), tf.TensorSpec((0 if known else None, D))
    found = tf.function(step, input_signature=specs)(tf.ones((D, D)), tf.ones((0, D)))
    np.testing.assert_array_equal(found, np.zeros((D, D)))


@on_tensorflow
def test_a_block_that_is_gone_leaves_no_weights_behind():
    import tensorflow as tf

    def kernel_of_a_trained_block():
        block = layers.EncoderBlock(2, 11, dropout_rate=0.2, rematerialize=True)
        x = tf.ones((B, T, D))
        block(x)

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(block(x, training=True) ** 2)
            return tape.gradient(loss, block.trainable_variables)

        step(x)
        return weakref.ref(block.feed_forward.inner_dense.kernel.value.handle)

    kernel = kernel_of_a_trained_block()
    gc.collect()
    assert kernel() is None


@pytest.mark.portable
@pytest.mark.parametrize("make", [
    lambda **o: models.Bert.from_preset("tiny", vocab_size=11, **o),
    lambda **o: models.Gpt.from_preset("tiny", vocab_size=11, **o),
    lambda **o: models.Transformer(11, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, **o),
], ids=["Bert", "Gpt", "Transformer"])  # fmt: skip
def test_models_hand_it_to_their_blocks_and_keep_it(make):
    made = make(rematerialize=True)
    blocks = {*made.encoder_blocks, *getattr(made, "decoder_blocks", ())}
    assert all(block.rematerialize for block in blocks)
    config = made.get_config()
    assert config.pop("rematerialize") is True
    before = type(made).from_config(config)  # a configuration from before
    assert not any(block.rematerialize for block in before.encoder_blocks)


MEMORY = """
import glob, re, sys
import numpy as np
import keras
from keras_xfmr import models

bert = models.Bert(97, d_model=128, num_heads=2, ffn_dim=512, num_layers=6, dropout_rate=0.1,
                   max_length=128, pooler=False, rematerialize=sys.argv[1] == "True")
model = keras.Model(bert.inputs, keras.layers.Dense(1)(bert.outputs[0]))
model.compile("sgd", "mse", jit_compile=True)
ids = {name: np.ones((8, 128), "int32") for name in ("token_ids", "segment_ids", "attention_mask")}
model.train_on_batch(ids, np.zeros((8, 128, 1)))
reports = glob.glob(sys.argv[2] + "/*one_step*after_optimizations-memory-usage-report.txt")
print(max(float(re.search("size ([0-9.]+)MiB, preallocated-temp", open(r).read())[1])
          for r in reports))
"""


@on_tensorflow
@pytest.mark.slow
def test_xla_needs_at_most_half_the_memory(tmp_path):
    sizes = []
    for way in (True, False):
        folder = tmp_path / str(way)
        flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        found = run("-c", MEMORY, way, folder, XLA_FLAGS=flags)
        assert found.returncode == 0, found.stderr
        sizes.append(float(found.stdout.split()[-1]))  # MiB of everything but weights
    assert sizes[0] <= sizes[1] / 2
