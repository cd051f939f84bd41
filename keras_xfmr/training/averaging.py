"""The mean of a model's weights over several files."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_xfmr.common.types import Path


def average_weights(paths: Sequence[Path], model: keras.Model | None = None) -> keras.Model:
    """The mean of each weight over several checkpoints of one training.

    Vaswani et al. 2017, section 6.1; Izmailov et al. 2018.

    The files are read one after the other, so memory is that of two models.

    Args:
        paths: files of one model, `.keras` or `.weights.h5`, such as the last five that
            `keras.callbacks.ModelCheckpoint("{epoch}.keras")` wrote.
        model: the model of the weights. None: the model in the first file, which must be a
            `.keras` file.

    Returns:
        The model with the mean of its weights. Weights that are not floating-point numbers, such as
        states of random seeds, come from the last file.

    Raises:
        ValueError: no path, or files of another model; the model then has its own weights.

    Example::

        model = training.average_weights(sorted(glob.glob("runs/translate/epoch_*.keras"))[-5:])
    """
    paths = [paths] if isinstance(paths, (str, bytes)) or hasattr(paths, "__fspath__") else paths
    paths = [str(path) for path in paths]
    if not paths:
        raise ValueError("Expected paths of checkpoints. Received: none.")
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
