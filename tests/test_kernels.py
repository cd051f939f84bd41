"""Phrasings against the plain operation that they stand for."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import kernels
from keras_xfmr.kernels.portable import TOP_K_BLOCK

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
