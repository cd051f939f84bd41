"""Phrasings against the plain operation that they stand for."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import kernels
from keras_xfmr.kernels.portable import TOP_K_BLOCK, threefry

pytestmark = pytest.mark.portable


@pytest.mark.parametrize("size", [11, 4 * 3 * TOP_K_BLOCK, 13 * TOP_K_BLOCK + 17])
@pytest.mark.parametrize("ties", [False, True])
def test_the_largest_of_a_row_and_where_they_stand(size, ties):
    rows, k = 7, 3
    scores = np.random.default_rng(size).normal(size=(rows, size)).astype("float32")
    if ties:
        scores = np.round(scores) + 0.0  # a handful of values, each hundreds of times; no -0
    scores[1, -k:] = 9.0  # in the part that fills no block
    values, ids = kernels.top_k(ops.convert_to_tensor(scores), k)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))
    assert keras.backend.standardize_dtype(ids.dtype) == "int32"


@pytest.mark.parametrize("shape", [(1,), (13,), (11, 17), (64, 32), (1, 19), (3, 0)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_copied_array_keeps_its_values_whatever_becomes_of_the_array(shape, turned):
    array = np.random.default_rng(3).normal(size=shape).astype("float32")
    array = array.T if turned else array
    expected = array.copy()
    tensor = kernels.tensor_from_array(array)
    variable = keras.Variable(tensor)
    array[...] = 5.0
    np.testing.assert_array_equal(tensor, expected)
    variable.assign(variable + 1)  # does not write through to the tensor
    np.testing.assert_array_equal(tensor, expected)
    np.testing.assert_array_equal(variable, expected + 1)


@pytest.mark.requires_tensorflow
def test_uniform_numbers_are_the_same_with_and_without_xla_and_uniform():
    import tensorflow as tf

    def draw(jit_compile):
        seed = keras.random.SeedGenerator(5)
        function = tf.function(lambda: kernels.uniform((101, 103), seed), jit_compile=jit_compile)
        return function().numpy(), function().numpy()

    (plain, second), (compiled, _) = draw(False), draw(True)
    np.testing.assert_array_equal(plain, compiled)
    assert plain.min() >= 0 and plain.max() < 1
    # Of 10,403 numbers a share of 1/8 has a standard deviation of 0.0032: five of them.
    shares = np.histogram(plain, bins=8, range=(0, 1))[0] / plain.size
    np.testing.assert_allclose(shares, 1 / 8, atol=0.017)
    correlation = np.corrcoef(plain.reshape(-1)[:-1], plain.reshape(-1)[1:])[0, 1]
    assert abs(correlation) < 0.05
    for other in (second, kernels.uniform((101, 103), 6).numpy()):
        assert abs(np.corrcoef(plain.reshape(-1), other.reshape(-1))[0, 1]) < 0.05


@pytest.mark.parametrize("words", [
    # Key, counter, result: the known answers of the authors' library, Random123.
    ([0, 0], [0, 0], [0x6B200159, 0x99BA4EFE]),
    ([2**32 - 1] * 2, [2**32 - 1] * 2, [0x1CB996FC, 0xBB002BE7]),
    ([0x13198A2E, 0x03707344], [0x243F6A88, 0x85A308D3], [0xC4923A9C, 0x483DF7A0]),
])  # fmt: skip
def test_threefry_has_its_published_answers(words):
    key, counter, expected = ([np.array([word], "uint32") for word in pair] for pair in words)
    tensors = [[ops.convert_to_tensor(word) for word in pair] for pair in (key, counter)]
    for found, word in zip(threefry(*tensors), expected, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(found), word)


def test_numbers_of_a_row_are_those_of_its_seed():
    seeds = ops.convert_to_tensor(np.array([0, 1, -1, -(2**31), 2**31 - 1], "int32"))
    found = ops.convert_to_numpy(kernels.uniform_of_rows(seeds, 1009))
    assert found.shape == (1009, 5) and 0 <= found.min() < found.max() < 1
    alone = kernels.uniform_of_rows(seeds[2:3], 1009)
    np.testing.assert_array_equal(ops.convert_to_numpy(alone)[:, 0], found[:, 2])
    shorter = kernels.uniform_of_rows(seeds, 7, copies=3)
    np.testing.assert_array_equal(ops.convert_to_numpy(shorter)[:, ::3], found[:7])
    copies = ops.convert_to_numpy(kernels.uniform_of_rows(seeds, 1009, copies=3))
    # Of 1,009 pairs a correlation has a standard deviation of 0.03.
    between = np.corrcoef(copies.T) - np.eye(15)
    assert np.abs(between).max() < 0.16
    assert abs(np.corrcoef(copies[1:].ravel(), copies[:-1].ravel())[0, 1]) < 0.05


@pytest.mark.requires_tensorflow
def test_numbers_of_a_row_are_the_same_for_long_seeds_and_with_xla():
    import tensorflow as tf

    seeds = tf.constant([0, 1, -1, -(2**31), 2**31 - 1])
    plain = kernels.uniform_of_rows(seeds, 7).numpy()
    compiled = tf.function(lambda seeds: kernels.uniform_of_rows(seeds, 7), jit_compile=True)
    for same in (seeds, tf.cast(seeds, tf.int64)):
        np.testing.assert_array_equal(kernels.uniform_of_rows(same, 7), plain)
        np.testing.assert_array_equal(compiled(same), plain)
    longer = tf.constant([2**32, 2**32 + 1, -(2**63), 2**63 - 1], tf.int64)
    both = np.concatenate([plain, kernels.uniform_of_rows(longer, 7)], axis=1)
    assert len(np.unique(both)) == both.size
