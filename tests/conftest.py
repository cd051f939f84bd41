"""What every test starts from: a quiet TensorFlow, fixed seeds, one backend.

Keras is imported where it is used: pytest-xdist's controller reads this file and needs none.
"""

import gc
import os

import pytest

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # before TensorFlow is first imported


def pytest_collection_modifyitems(items):
    import keras

    if not os.environ.get("PROVE_ALL"):
        further = pytest.mark.skip(reason="a further case of a slow proof: PROVE_ALL=1 runs it")
        for item in items:
            if item.get_closest_marker("prove_all"):
                item.add_marker(further)
    if keras.config.backend() == "tensorflow":
        return
    skip = pytest.mark.skip(reason=f"needs TensorFlow, runs on {keras.config.backend()}")
    for item in items:
        if item.get_closest_marker("requires_tensorflow"):
            item.add_marker(skip)


def pytest_collection_finish():
    """What is imported by now stays: the collector need not walk all of TensorFlow again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True, scope="session")
def untuned():
    """Keras makes data sets of arrays and batches, whose end may wait half a minute for a tuner.

    Graphs of data sets are not optimized either: that takes longer than a test's few batches.
    """
    import keras

    if keras.config.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    begin = tf.data.Dataset.__iter__

    def untuned_iterator(data):
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        if data.options().autotune.enabled is None:
            options.autotune.enabled = False
        return begin(data.with_options(options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.data.Dataset, "__iter__", untuned_iterator)
        yield


@pytest.fixture(autouse=True)
def fixed_seed():
    import keras

    keras.utils.set_random_seed(7)


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(11)
