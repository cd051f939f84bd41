"""`memory_estimate`: what is counted, exactly; activations, by properties; slow: real processes."""

import json
import subprocess
import sys

import keras
import pytest

from keras_xfmr import models, training

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="the graph is TensorFlow's"
)


@pytest.fixture(scope="module")
def bert():
    return models.Bert(101, d_model=22, num_heads=2, ffn_dim=41, num_layers=2, max_length=37)


@pytest.fixture(scope="module")
def plain(bert):
    return training.memory_estimate(bert, 6, 31)


def test_weights_gradients_and_slots_are_counted(bert, plain):
    assert plain.weights == plain.gradients == 4 * bert.count_params()
    assert plain.optimizer == 2 * plain.gradients
    momentum = training.memory_estimate(bert, 6, 31, optimizer=keras.optimizers.SGD(0.1, 0.9))
    assert momentum.optimizer == plain.gradients
    more = training.AdamW(1e-3, gradient_accumulation_steps=3)
    assert training.memory_estimate(bert, 6, 31, optimizer=more).optimizer == 3 * plain.gradients
    largest = max(plain.activations, plain.gradients)
    assert plain.total == plain.weights + plain.optimizer + largest + plain.program


def test_frozen_weights_have_no_gradients(bert, plain):
    for block in bert.encoder_blocks:
        block.trainable = False
    try:
        found = training.memory_estimate(bert, 6, 31)
        trained = sum(4 * weight.numpy().size for weight in bert.trainable_variables)
        assert found.gradients == trained < plain.gradients and found.weights == plain.weights
    finally:
        for block in bert.encoder_blocks:
            block.trainable = True


def test_activations_grow_with_the_rows_and_shrink_where_blocks_are_computed_again(bert, plain):
    double = training.memory_estimate(bert, 12, 31)
    assert 1.8 * plain.activations < double.activations < 2.05 * plain.activations
    assert double.weights == plain.weights and double.program == plain.program
    again = training.memory_estimate(bert, 6, 31, rematerialize=True)
    assert again.activations < 0.6 * plain.activations and again.weights == plain.weights
    assert not bert.get_config()["rematerialize"]


@pytest.mark.slow
def test_half_precision_keeps_weights_and_halves_most_activations(bert, plain):
    half = training.memory_estimate(bert, 6, 31, dtype_policy="mixed_bfloat16")
    assert half.weights == plain.weights
    assert 0.4 * plain.activations < half.activations < 0.9 * plain.activations


def test_replicas_share_the_rows_and_send_the_gradients(bert, plain):
    found = training.memory_estimate(bert, 24, 31, replicas=4)
    assert found.activations == plain.activations and found.weights == plain.weights
    assert found.traffic == 2 * plain.gradients * 3 // 4 and plain.traffic == 0


def test_a_loop_counts_what_it_keeps_for_its_gradient():
    elmo = models.Elmo(97, units=17, projection_dim=13, num_layers=1)
    short, long = (training.memory_estimate(elmo, 7, length) for length in (11, 110))
    assert 7 * short.activations < long.activations


def test_a_model_without_values_is_estimated_alike(bert, plain):
    with keras.StatelessScope(initialize_variables=False):
        empty = models.Bert.from_config(bert.get_config())
    assert training.memory_estimate(empty, 6, 31) == plain


def test_what_cannot_be_estimated_is_refused(bert):
    with pytest.raises(ValueError, match="`batch`"):
        training.memory_estimate(bert, 0, 31)
    dense = keras.Sequential([keras.Input((5, 3)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="argument rematerialize.*Sequential"):
        training.memory_estimate(dense, 2, 5, rematerialize=True)
    unknown = keras.Input((None, None, None))
    wide = keras.Model(unknown, keras.layers.Activation("relu")(unknown))
    with pytest.raises(ValueError, match="known further axes"):
        training.memory_estimate(wide, 2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [
    "gpt_4", pytest.param("bert_2", marks=pytest.mark.prove_all),
    pytest.param("transformer_4", marks=pytest.mark.prove_all),
])  # fmt: skip
def test_the_total_is_what_a_process_takes(size):
    from absl import flags

    from benchmarks import memory

    child = [sys.executable, "-m", "benchmarks.memory", f"--child={size}"]
    done = subprocess.run(child, check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    found = training.memory_estimate(memory.made(size), *memory.SIZES[size])
    assert 0.8 * measured < found.total < 1.2 * measured  # 15 % where it was written
