"""Sampling against the distributions it should draw from.

R rows, L max_length, V vocab_size
"""

import math

import keras
import numpy as np
import oracles
import pytest
from keras import ops

from keras_xfmr import decoding

pytestmark = pytest.mark.portable

R, V, END = 20011, 7, 6


@pytest.fixture
def table(rng):
    """Logits by the previous token."""
    return rng.normal(size=(V, V)).astype("float32") * 1.5


def draw(table, rows=R, max_length=1, **options):
    def step(token_ids, index, state):
        return ops.take(ops.convert_to_tensor(table), token_ids, axis=0), state

    options = {"end_id": END, "max_length": max_length, "seed": 3, **options}
    found = decoding.sample(step, np.zeros(rows, "int32"), **options)
    return decoding.SearchResult(*(ops.convert_to_numpy(x) for x in found))


def softmax(logits):
    exponentials = np.exp(logits.astype("float64") - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def assert_frequencies(tokens, expected):
    """Within five standard deviations: one false alarm in a million runs of a new seed."""
    frequencies = np.bincount(tokens, minlength=V) / len(tokens)
    deviations = np.sqrt(expected * (1 - expected) / len(tokens))
    assert (np.abs(frequencies - expected) <= 5 * deviations).all(), (frequencies, expected)
    assert (frequencies[expected == 0] == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_tokens_come_as_often_as_the_softmax_says(table, temperature):
    found = draw(table, temperature=temperature)
    assert_frequencies(found.token_ids[:, 0], softmax(table[0] / np.float32(temperature)))


@pytest.mark.parametrize("top_k", [1, 3, V, V + 4])
def test_top_k_keeps_the_k_most_probable(table, top_k):
    expected = oracles.top_k_filter(softmax(table[0]), top_k)
    assert_frequencies(draw(table, top_k=top_k).token_ids[:, 0], expected)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.8, 1.0])
def test_top_p_keeps_the_smallest_set_of_that_mass(table, top_p):
    expected = oracles.top_p_filter(softmax(table[0]), top_p)
    assert_frequencies(draw(table, top_p=top_p).token_ids[:, 0], expected)


def test_top_p_that_equals_a_sum_takes_no_token_more():
    probs = np.array([0.5, 0.3, 0.1, 0.1, 1e-30, 1e-30, 1e-30], "float32")
    found = draw(np.tile(np.log(probs), (V, 1)), rows=2003, top_p=0.8)
    assert set(found.token_ids[:, 0]) == {0, 1}


def test_temperature_comes_first_then_top_k_then_top_p(table):
    probs = oracles.top_k_filter(softmax(table[0] / 2.0), 5)
    expected = oracles.top_p_filter(probs, 0.7)
    found = draw(table, temperature=2.0, top_k=5, top_p=0.7)
    assert_frequencies(found.token_ids[:, 0], expected)
    assert 1 < (expected > 0).sum() < 5


def test_the_second_token_is_drawn_afresh_given_the_first(table):
    table[:, END] = -30.0
    found = draw(table, max_length=2)
    first, second = found.token_ids.T
    assert_frequencies(second, softmax(table[0]) @ softmax(table))
    for token in range(V - 1):
        assert_frequencies(second[first == token], softmax(table[token]))


def test_scores_are_log_probabilities_of_the_whole_distribution(table):
    log_probs = np.log(softmax(table))
    found = draw(table, rows=101, max_length=5, temperature=0.7, top_k=3)
    for ids, score, length in zip(*(found.token_ids, found.scores, found.lengths), strict=True):
        path = [0, *ids[:length]]
        expected = sum(log_probs[a, b] for a, b in zip(path[:-1], path[1:], strict=True))
        assert score == pytest.approx(expected, rel=1e-5)


def test_top_one_is_greedy(rng, table):
    def step(token_ids, index, state):
        return ops.take(ops.convert_to_tensor(table), token_ids, axis=0), state

    start = np.arange(V - 1)
    found = decoding.sample(step, start, end_id=END, max_length=5, top_k=1, temperature=9.0)
    greedy = decoding.greedy_search(step, start, end_id=END, max_length=5)
    for ours, theirs in zip(found, greedy, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def compiled(function):
    """With XLA, which reorders arithmetic; elsewhere a search is compiled anyway."""
    if keras.config.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


@pytest.mark.slow
@pytest.mark.parametrize("temperature, options", [
    *((temperature, {}) for temperature in (1e-9, 1e-20, 1e-38, 1e-45, 5e-324)),
    (1e-45, {"top_k": 3}), (1e-45, {"top_p": 0.9}),
], ids=str)  # fmt: skip
def test_the_limit_of_the_temperature_is_greedy_search(table, temperature, options):
    table = table * 100.0
    table[2, 3] = -np.inf  # a token that is ruled out

    def step(token_ids, index, state):
        return ops.take(ops.convert_to_tensor(table), token_ids, axis=0), state

    start, options = np.arange(V - 1), {**options, "end_id": END, "max_length": 5}

    def search():
        return decoding.sample(step, start, temperature=temperature, **options)

    greedy = decoding.greedy_search(step, start, end_id=END, max_length=5)
    for run in (search, compiled(search)):
        found = run()
        for ours, theirs in zip(found, greedy, strict=True):
            ours, theirs = ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert len(set(ops.convert_to_numpy(found.token_ids)[:, 0])) > 2


def test_one_seed_draws_the_same_and_another_draws_anew(table):
    first, again, other = (draw(table, 101, 5, seed=seed).token_ids for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("seed", [None, "generator"])
def test_without_an_integer_seed_each_call_draws_anew(table, seed):
    seed = keras.random.SeedGenerator(5) if seed else None
    first, second = (draw(table, 101, 5, seed=seed).token_ids for _ in range(2))
    assert (first != second).any()


def test_a_seed_generator_makes_a_sequence_of_calls_repeatable(table):
    runs = []
    for _ in range(2):
        seed = keras.random.SeedGenerator(5)
        runs.append([draw(table, 101, 5, seed=seed).token_ids for _ in range(2)])
    np.testing.assert_array_equal(runs[0], runs[1])


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_without_a_seed_a_compiled_search_draws_anew(jit_compile):
    import tensorflow as tf

    @tf.function(jit_compile=jit_compile)
    def compiled(prompt):
        step = lambda ids, index, state: (tf.zeros((5, V)), state)  # noqa: E731
        return decoding.sample(step, prompt, end_id=V, max_length=11).token_ids

    first, second = (compiled(tf.zeros(5, tf.int32)).numpy().tolist() for _ in range(2))
    assert first != second


# ---- a seed, a temperature and a top_p for each row


def test_each_row_is_drawn_from_its_own_distribution(table):
    kinds = [(0.5, 0.8), (2.0, 1.0), (1.0, 0.3)]
    temperature, top_p = np.resize(kinds, (R, 2)).astype("float32").T
    found = draw(table, temperature=temperature, top_p=top_p, seed=np.arange(R) - 5)
    for i, (heat, mass) in enumerate(kinds):
        expected = oracles.top_p_filter(softmax(table[0] / np.float32(heat)), mass)
        assert_frequencies(found.token_ids[i::3, 0], expected)


def test_the_second_token_of_a_row_with_a_seed_is_drawn_afresh(table):
    table[:, END] = -30.0
    first, second = draw(table, max_length=2, seed=np.arange(R)).token_ids.T
    for token in range(V - 1):
        assert_frequencies(second[first == token], softmax(table[token]))


def test_a_row_with_a_seed_does_not_depend_on_the_others(table):
    """Nor on their number and order, nor on whether they have ended."""
    table[:, END] = -30.0
    seeds = np.array([3, -(2**31), 2**31 - 1, 4, 3], "int32")
    rows = dict(
        seed=seeds, temperature=np.array([1.0, 0.7, 1.3, 1.0, 1.0]), top_p=[1.0, 0.9, 0.8, 1.0, 0.1]
    )
    rows = {name: np.asarray(values) for name, values in rows.items()}
    together = draw(table, 5, 11, **rows).token_ids
    order = [4, 1, 0, 2, 3]
    turned = draw(table, 5, 11, **{name: values[order] for name, values in rows.items()}).token_ids
    np.testing.assert_array_equal(turned, together[order])
    for i in range(5):
        one = {name: values[i : i + 1] for name, values in rows.items()}
        np.testing.assert_array_equal(draw(table, 1, 11, **one).token_ids[0], together[i])
    assert (together[0] != together[3]).any()  # the seed alone is another
    assert (together[0] != together[4]).any()  # top_p alone is another


def test_several_sequences_of_a_row_with_a_seed_differ(table):
    table[:, END] = -30.0
    one = draw(table, 3, 11, seed=np.array([5, 6, 5])).token_ids
    several = draw(table, 3, 11, seed=np.array([5, 6, 5]), num_return=4).token_ids
    np.testing.assert_array_equal(several[:, 0], one)
    np.testing.assert_array_equal(several[0], several[2])
    assert len(np.unique(several[:2].reshape(-1, 11), axis=0)) == 8


@pytest.mark.parametrize("options, message", [
    ({"temperature": [1.0, 0.0, 1.0]}, "`temperature` must be positive and finite.*0"),
    ({"temperature": [1.0, math.nan, 1.0]}, "`temperature` must be positive and finite.*nan"),
    ({"temperature": [1.0, 1.0]}, r"`temperature`.*shape \(2,\) for 3 prompts"),
    ({"top_p": [1.0, 1.5, 1.0]}, r"`top_p` must lie in \(0, 1\].*1.5"),
    ({"top_p": [[1.0], [0.5], [1.0]]}, r"`top_p`.*shape \(3, 1\) for 3 prompts"),
    ({"seed": [1.0, 2.0, 3.0]}, "`seed` must be an integer, or integers .*float32"),
    ({"seed": [1, 2]}, r"`seed`.*shape \(2,\) for 3 prompts"),
], ids=str)  # fmt: skip
def test_what_is_no_parameter_of_a_row_is_refused(table, options, message):
    with pytest.raises(ValueError, match=message):
        draw(table, 3, **options)
