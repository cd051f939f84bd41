"""The mean of checkpoints."""

import itertools

import keras
import numpy as np
import pytest

from keras_xfmr import training
from keras_xfmr.models import Bert, Gpt, Transformer

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


def gpt(**others):
    return Gpt(13, **{**SIZES, "max_length": 5, **others})


@pytest.mark.parametrize("make", [
    lambda: gpt(positions="rotary"),
    lambda: gpt(activation="relu"),
    lambda: Bert(13, **SIZES, max_length=5),
])  # fmt: skip
def test_models_that_share_weights_are_not_averaged(make, tmp_path):
    gpt().save(tmp_path / "a.keras")
    make().save(tmp_path / "b.keras")
    for paths in itertools.permutations(tmp_path.iterdir()):
        with pytest.raises(ValueError, match="Expected files of one model.*configuration than"):
            training.average_weights(paths)


def test_a_file_that_has_more_than_the_model_is_refused(tmp_path):
    model, deeper = gpt(), gpt(num_layers=2)
    before = model.get_weights()
    for suffix in ("keras", "weights.h5"):
        small, large = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
        for one, path in ((model, small), (deeper, large)):
            one.save(path) if suffix == "keras" else one.save_weights(path)
        for paths in ([small, large], [large]):
            with pytest.raises(ValueError, match=f"Expected files of one model.*b.{suffix}"):
                training.average_weights(paths, model)
    with pytest.raises(ValueError, match="has other weights than .*a.keras"):
        training.average_weights([tmp_path / "a.keras", tmp_path / "b.weights.h5"])
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_files_of_one_model_may_differ_in_names_and_training(tmp_path):
    for i in range(2):
        inputs = keras.Input((3,))
        outputs = keras.layers.Dense(2)(keras.layers.Dropout(0.1)(inputs))
        model = keras.Model(inputs, outputs)  # with other names of layers
        model.trainable = i == 0
        model.set_weights([np.full(w.shape, float(i)) for w in model.get_weights()])
        model.compile("adam" if i else "sgd", "mse")
        model.save(tmp_path / f"{i}.keras")
        model.save_weights(tmp_path / f"{i}.weights.h5")
    for suffix, given in (("keras", None), ("keras", model), ("weights.h5", model)):
        mean = training.average_weights(sorted(tmp_path.glob(f"*.{suffix}")), given)
        assert all((w == 0.5).all() for w in mean.get_weights())


def test_half_precision_weights_keep_their_type(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    for i, value in enumerate((1.0, 2.0)):
        model.set_weights([np.full(w.shape, value) for w in model.get_weights()])
        model.save_weights(tmp_path / f"{i}.weights.h5")
    training.average_weights(sorted(tmp_path.iterdir()), model)
    assert all((w == 1.5).all() for w in map(keras.ops.convert_to_numpy, model.weights))
