"""`tf.debugging.enable_check_numerics` finds no NaN of ours where a model trains well."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import layers, models, training


@pytest.fixture
def checked():
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()


def test_a_model_trains_with_the_loss_and_the_perplexity(rng, checked):
    model = models.Gpt(11, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, max_length=5)
    metrics = [training.MaskedPerplexity(pad_id=-1), training.MaskedAccuracy(pad_id=-1)]
    loss = training.MaskedCrossEntropy(pad_id=-1)
    model.compile(training.AdamW(1e-3), loss, metrics=metrics, jit_compile=False)
    ids = rng.integers(1, 11, (3, 5))
    history = model.fit(ids, np.where(ids == 4, -1, ids), verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("blockwise", [False, True])
def test_attention_with_a_bias_and_a_mask_trains(rng, checked, blockwise):
    x, bias = keras.Input((5, 6)), keras.Input((2, 5, 5))
    attention = layers.MultiHeadAttention(2, 3, blockwise=blockwise)
    model = keras.Model([x, bias], attention(x, x, attention_bias=bias, use_causal_mask=True))
    model.compile("sgd", "mse", jit_compile=False)
    values = [rng.normal(size=(3, *one.shape[1:])).astype("float32") for one in (x, bias)]
    history = model.fit(values, np.zeros((3, 5, 6)), verbose=0).history
    assert np.isfinite(history["loss"]).all()
