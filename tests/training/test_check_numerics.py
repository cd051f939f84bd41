"""`tf.debugging.enable_check_numerics` finds no NaN of ours where a model trains well."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import decoding, functional, layers, models, training
from keras_xfmr.kernels import tensorflow, tensorflow_attention, tensorflow_lstm

SHARED = (  # functions of all layers, which keep the operations that check
    tensorflow._normalizer, tensorflow_lstm._trained, tensorflow_attention._function,
)  # fmt: skip


@pytest.fixture
def checked():
    _forget()
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()
    _forget()  # XLA could not compile them in a later test


def _forget():
    for functions in SHARED:
        functions.cache_clear()


def test_a_model_trains_with_the_loss_and_the_perplexity(rng, checked):
    model = models.Gpt(11, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, max_length=5)
    metrics = [training.MaskedPerplexity(pad_id=-1), training.MaskedAccuracy(pad_id=-1)]
    loss = training.MaskedCrossEntropy(pad_id=-1)
    model.compile(training.AdamW(1e-3), loss, metrics=metrics, jit_compile=False)
    ids = rng.integers(1, 11, (3, 5))
    history = model.fit(ids, np.where(ids == 4, -1, ids), verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("options", [
    {"min_length": 3, "no_repeat_ngram_size": 2},
    {"search": "sample", "seed": 3, "temperature": 0.01, "min_length": 3},
    {"search": "beam", "beam_size": 2, "min_length": 3, "no_repeat_ngram_size": 2},
])  # fmt: skip
def test_tokens_that_may_not_come_have_finite_scores(checked, options):
    def step(ids, index, state):
        return keras.ops.one_hot(ids, 5), state

    search = {"sample": decoding.sample, "beam": decoding.beam_search}
    search = search.get(options.get("search"), decoding.greedy_search)
    options = {name: value for name, value in options.items() if name != "search"}
    prompt = np.array([[1], [3]])

    @tf.function
    def run():
        return search(step, prompt, {}, end_id=2, max_length=4, **options).token_ids

    ids = run().numpy()
    assert not (ids[..., :2] == 2).any()


def test_a_vector_of_zeros_has_a_direction_of_zeros(checked):
    x = tf.Variable([[0.0, 0.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        found = functional.l2_normalize(x)
    np.testing.assert_allclose(found, [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert np.isfinite(tape.gradient(found, x)).all()


@pytest.mark.parametrize("blockwise", [False, True])
def test_attention_with_a_bias_and_a_mask_trains(rng, checked, blockwise):
    x, bias = keras.Input((5, 6)), keras.Input((2, 5, 5))
    attention = layers.MultiHeadAttention(2, 3, blockwise=blockwise)
    model = keras.Model([x, bias], attention(x, x, attention_bias=bias, use_causal_mask=True))
    model.compile("sgd", "mse", jit_compile=False)
    values = [rng.normal(size=(3, *one.shape[1:])).astype("float32") for one in (x, bias)]
    history = model.fit(values, np.zeros((3, 5, 6)), verbose=0).history
    assert np.isfinite(history["loss"]).all()
