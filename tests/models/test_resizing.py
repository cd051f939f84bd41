"""Models with another number of tokens.

V 11 tokens before, W 13 after
"""

import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import models

pytestmark = pytest.mark.portable

V, W = 11, 13
SIZES = dict(d_model=6, num_heads=2, ffn_dim=7, num_layers=1)
IDS = np.array([[5, 7, 3], [2, 9, 10]])


def gpt(**arguments):
    return models.Gpt(V, **SIZES, max_length=5, initializer_range=0.5, **arguments)


def bert():
    return models.Bert(V, **SIZES, max_length=5, initializer_range=0.5)


def transformer(*sizes, **arguments):
    return models.Transformer(*sizes, **SIZES, **arguments)


BOTH = {"source_ids": IDS % V, "target_ids": IDS}
CASES = {
    "gpt": (gpt, W, IDS),
    "gpt, an output of its own": (lambda: gpt(tie_output=False), W, IDS),
    "transformer": (lambda: transformer(V, output_bias=True), W, BOTH),
    "transformer, two tables": (
        lambda: transformer(19, V, tie_output=False, output_bias=True), (23, W), BOTH,
    ),
    "masked words": (lambda: models.MaskedLanguageModel(bert()), W, IDS),
}  # fmt: skip


def outputs(model, ids):
    if isinstance(model, models.MaskedLanguageModel):
        ids = {"token_ids": ids, "masked_positions": np.array([[1], [2]])}
    found = keras.tree.flatten(model(ids))[0]
    return ops.convert_to_numpy(found)


@pytest.mark.parametrize("name", CASES)
def test_logits_of_old_tokens_stay_and_new_ones_have_their_mean(name):
    make, size, ids = CASES[name]
    keras.utils.set_random_seed(3)
    model = make()
    for weight in model.trainable_weights:  # biases of 0 would hide faults
        weight.assign(np.random.default_rng(len(weight.path)).normal(size=weight.shape) / 2)
    before, weights = outputs(model, ids), model.get_weights()
    longer = models.resize_token_embeddings(model, size)
    found = outputs(longer, ids)
    assert type(longer) is type(model) and found.shape[-1] == W
    np.testing.assert_allclose(found[..., :V], before, rtol=1e-5, atol=1e-5)
    mean = np.broadcast_to(before.mean(-1, keepdims=True), (*before.shape[:-1], W - V))
    np.testing.assert_allclose(found[..., V:], mean, rtol=1e-4, atol=1e-5)
    for value, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(value, expected)
    back = models.resize_token_embeddings(longer, (19, V) if isinstance(size, tuple) else V)
    np.testing.assert_array_equal(outputs(back, ids), before)


def test_special_ids_stay_and_new_ids_are_read():
    model = gpt()
    assert model.end_id == V - 1
    longer = models.resize_token_embeddings(model, W)
    assert (longer.start_id, longer.end_id) == (V - 1, V - 1)
    table = longer.token_embedding.embeddings
    np.testing.assert_allclose(table[W - 1], ops.mean(table[:V], axis=0), rtol=1e-5, atol=1e-6)
    assert outputs(longer, np.array([[W - 1]])).shape == (1, 1, W)
    with pytest.raises(ValueError, match="`start_id` must be an integer in 0 .. 8"):
        models.resize_token_embeddings(model, 9)


def test_a_head_is_resized_with_its_encoder():
    model = models.Classifier(bert(), num_classes=3)
    model.encoder.freeze(1)
    longer = models.resize_token_embeddings(model, W)
    np.testing.assert_allclose(outputs(longer, IDS), outputs(model, IDS), rtol=1e-5, atol=1e-6)
    assert [w.trainable for w in longer.weights] == [w.trainable for w in model.weights]


def test_what_cannot_be_resized_is_refused():
    with pytest.raises(ValueError, match="Expected a pair .source, target., of source_vocab_size"):
        models.resize_token_embeddings(transformer(19, V), W)
    with pytest.raises(ValueError, match="Expected one size, of vocab_size. Received: .12, 13."):
        models.resize_token_embeddings(gpt(), (12, 13))
    with pytest.raises(ValueError, match="`size` must be a positive integer"):
        models.resize_token_embeddings(gpt(), 0)
    with pytest.raises(ValueError, match="This Elmo has no table of tokens"):
        models.resize_token_embeddings(models.Elmo.from_preset("tiny"), W)
    with pytest.raises(ValueError, match="Expected a model of keras_xfmr. Received: Sequential"):
        models.resize_token_embeddings(keras.Sequential(), W)
