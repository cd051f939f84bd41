"""The mean of checkpoints."""

import keras
import numpy as np
import pytest

from keras_xfmr import training
from keras_xfmr.models import Transformer

pytestmark = pytest.mark.portable

SIZES = dict(d_model=6, num_heads=3, ffn_dim=11, num_layers=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three files of each kind, and the weights in them."""
    folder, model = tmp_path_factory.mktemp("checkpoints"), Transformer(13, **SIZES)
    rng, weights = np.random.default_rng(3), []
    for i in range(3):
        model.set_weights([
            rng.normal(size=w.shape) if w.dtype == np.float32 else w + i + 1
            for w in model.get_weights()
        ])  # fmt: skip
        model.save(folder / f"{i}.keras")
        model.save_weights(folder / f"{i}.weights.h5")
        weights.append(model.get_weights())
    return folder, weights


@pytest.mark.parametrize("suffix", ["keras", "weights.h5"])
def test_the_mean_of_three_files(written, suffix):
    folder, weights = written
    paths = [folder / f"{i}.{suffix}" for i in range(3)]
    given = None if suffix == "keras" else Transformer(13, **SIZES)
    model = training.average_weights(paths, given)
    assert given is None or model is given
    for value, *three in zip(model.get_weights(), *weights, strict=True):
        if value.dtype == np.float32:
            np.testing.assert_allclose(value, np.mean(three, axis=0), rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(value, three[-1])  # the state of a seed


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # of Keras, before its error
def test_files_of_another_model_leave_the_weights_as_they_are(written, tmp_path):
    folder, _ = written
    Transformer(17, **SIZES).save_weights(tmp_path / "larger.weights.h5")
    Transformer(13, **{**SIZES, "num_layers": 0}).save_weights(tmp_path / "flat.weights.h5")
    model = Transformer(13, **SIZES)
    before = model.get_weights()
    for other in ("larger", "flat"):
        with pytest.raises(ValueError):
            training.average_weights(
                [folder / "0.weights.h5", tmp_path / f"{other}.weights.h5"], model
            )
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    with pytest.raises(ValueError, match="Expected paths of checkpoints. Received: none"):
        training.average_weights([])


def test_half_precision_weights_keep_their_type(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    for i, value in enumerate((1.0, 2.0)):
        model.set_weights([np.full(w.shape, value) for w in model.get_weights()])
        model.save_weights(tmp_path / f"{i}.weights.h5")
    training.average_weights(sorted(tmp_path.iterdir()), model)
    assert all((w == 1.5).all() for w in map(keras.ops.convert_to_numpy, model.weights))
