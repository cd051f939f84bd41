"""What every test starts from: a quiet TensorFlow, fixed seeds, one backend."""

import gc
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # before TensorFlow is first imported

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402


def pytest_collection_modifyitems(items):
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
    """Keras makes data sets of arrays and batches, whose end may wait half a minute for a tuner."""
    if keras.config.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    begin, options = tf.data.Dataset.__iter__, tf.data.Options()
    options.autotune.enabled = False

    def untuned_iterator(data):
        undecided = data.options().autotune.enabled is None
        return begin(data.with_options(options) if undecided else data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.data.Dataset, "__iter__", untuned_iterator)
        yield


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(7)


@pytest.fixture
def rng():
    return np.random.default_rng(11)
