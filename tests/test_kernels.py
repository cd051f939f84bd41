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
