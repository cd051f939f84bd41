"""The mean of a model's weights over several files."""

import json
import os
import tempfile
import zipfile
from collections.abc import Sequence

import h5py
import keras
import numpy as np

from keras_xfmr.common.types import Path

# Of a configuration: what differs between files of one model.
OF_TRAINING = (
    "build_config", "build_input_shape", "compile_config", "shared_object_id", "trainable",
)  # fmt: skip
WEIGHTS = "model.weights.h5"  # the file in a `.keras` file


def average_weights(paths: Sequence[Path], model: keras.Model | None = None) -> keras.Model:
    """The mean of each weight over several checkpoints of one training.

    Vaswani et al. 2017, section 6.1; Izmailov et al. 2018.

    The files are read one after the other, so memory is that of two models. With a `model`, or
    files of weights alone, a copy of the weights is written to a temporary folder and removed.

    Args:
        paths: files of one model, `.keras` or `.weights.h5`, such as the last five that
            `keras.callbacks.ModelCheckpoint("{epoch}.keras")` wrote.
        model: the model of the weights. None: the model in the first file, which must be a
            `.keras` file.

    Returns:
        The model with the mean of its weights. Weights that are not floating-point numbers, such as
        states of random seeds, come from the last file.

    Raises:
        ValueError: no path, or files of another model: `.keras` files with another class or
            configuration than the first one's (names of layers aside), or files with other weights
            than the model has. The model then has its own weights.

    Example::

        model = training.average_weights(sorted(glob.glob("runs/translate/epoch_*.keras"))[-5:])
    """
    paths = [paths] if isinstance(paths, (str, bytes)) or hasattr(paths, "__fspath__") else paths
    paths = [str(path) for path in paths]
    if not paths:
        raise ValueError("Expected paths of checkpoints. Received: none.")
    _refuse_other_models(paths, model)
    if model is None:
        model = keras.saving.load_model(paths[0], compile=False)
    before = model.get_weights()
    floating = [np.issubdtype(x.dtype, np.floating) or x.dtype.name == "bfloat16" for x in before]
    totals = [np.zeros(x.shape, "float64") if f else None for x, f in zip(before, floating)]
    try:
        for path in paths:
            model.load_weights(path)
            for total, value in zip(totals, model.get_weights()):
                if total is not None:
                    total += value.astype("float64")
    except Exception:
        model.set_weights(before)
        raise
    last = model.get_weights()
    model.set_weights([
        value if total is None else (total / len(paths)).astype(value.dtype)
        for total, value in zip(totals, last)
    ])  # fmt: skip
    return model


def _refuse_other_models(paths, model):
    """Raises ValueError where files do not hold the same model, or not the given one.

    Keras loads a file that has more than a model. Files that cannot be read are left to its errors.
    """
    archives = [path for path in paths if zipfile.is_zipfile(path)]
    for path in archives[1:]:
        if _description(path) != _description(archives[0]):
            raise ValueError(
                f"Expected files of one model. Received: {path!r}, which has another class or "
                f"configuration than {archives[0]!r}."
            )
    files = [path for path in paths if path.endswith(".weights.h5") and h5py.is_hdf5(path)]
    if model is None and not files:
        return
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for path in archives[:1]:
            with zipfile.ZipFile(path) as archive:
                names[path] = _names_of_weights(archive.extract(WEIGHTS, folder))
        names |= {path: _names_of_weights(path) for path in files}
        if model is not None:
            own = os.path.join(folder, "own.weights.h5")
            model.save_weights(own)
            names = {"the model": _names_of_weights(own), **names}
    (first, expected), *others = names.items()
    for path, found in others:
        if found != expected:
            further = sorted(found ^ expected)
            raise ValueError(
                f"Expected files of one model. Received: {path!r}, which has other weights than "
                f"{first}: {len(further)} are in one of both alone, such as {further[0]!r}."
            )


def _description(path):
    """The class and the configuration in a `.keras` file, with numbers in the place of names.

    Keras counts the layers of a process in their names.
    """
    with zipfile.ZipFile(path) as archive:
        described = json.loads(archive.read("config.json"))
    numbers = {}

    def plain(value):
        if isinstance(value, dict):
            if isinstance(value.get("name"), str):
                numbers.setdefault(value["name"], len(numbers))
            return {key: plain(one) for key, one in value.items() if key not in OF_TRAINING}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return numbers.get(value, value) if isinstance(value, str) else value

    return plain(described)


def _names_of_weights(path):
    """The names of the arrays in a file, without those of optimizers."""
    names = set()

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and "optimizer" not in name:
            names.add(name)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return names
