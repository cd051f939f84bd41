"""Files that version 0.1.0 wrote still load: models, weights, optimizers, backups."""

import pathlib
import zipfile

import keras
import numpy as np
import pytest
from written_before import write

from keras_xfmr import training

pytestmark = pytest.mark.requires_tensorflow
NAMES = (
    "transformer", "transformer_of_two_tables", "classifier", "classifier_with_lora", "tagger",
    "spans", "embedder", "pretrainer",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written_before")
    zipfile.ZipFile(pathlib.Path(write.__file__).with_name("files.zip")).extractall(folder)
    return folder, np.load(folder / "answers.npz")


@pytest.fixture(scope="module")
def cases():
    """name -> (inputs, labels)."""
    return {name: (inputs, labels) for name, _, inputs, _, labels in write.cases()}


def check(model, inputs, answers, prefix):
    found = model(inputs)
    for key, value in (found if isinstance(found, dict) else {"": found}).items():
        value, expected = np.asarray(value), answers[f"{prefix}/{key}"]
        if prefix.startswith("spans"):
            # The loss is a softmax over positions: the gradient of the bias is rounding noise,
            # which Adam turns into a step of any size up to the learning rate.
            value, expected = (x - x.mean(axis=-1, keepdims=True) for x in (value, expected))
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def train(model, inputs, labels, **options):
    model.run_eagerly, model.jit_compile = True, False  # nothing to compile for one step
    model.fit(inputs, labels, batch_size=2, shuffle=False, verbose=0, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_model_answers_and_trains_on(name, files, cases):
    folder, answers = files
    inputs, labels = cases[name]
    model = keras.models.load_model(folder / f"{name}.keras")
    check(model, inputs, answers, name)
    if name in ("tagger", "spans"):  # whose files have a pooler that they do not read
        assert model.bert.pooler is None
    train(model, inputs, labels)
    check(model, inputs, answers, f"{name}/later")


@pytest.mark.parametrize("name", ["transformer", "classifier"])
def test_weights_and_backups_are_taken_up(name, files, cases):
    folder, answers = files
    inputs, labels = cases[name]
    model = keras.models.load_model(folder / f"{name}.keras")
    model.load_weights(folder / f"{name}.weights.h5")
    check(model, inputs, answers, f"{name}/later")
    backup = training.BackupAndRestore(folder / f"{name}_backup")
    train(model, inputs, labels, callbacks=[backup])
    check(model, inputs, answers, f"{name}/backup")
