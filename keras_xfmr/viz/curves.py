"""Curves: quantities over epochs, learning rates over steps."""

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from keras_xfmr.viz.figures import saved


def learning_curve(history, path=None, *, title=None):
    """Draws every quantity of a `History.history`, its validation twin beside it.

    Args:
        history: name -> values, one an epoch.
        path: where to write the image, or None.
        title: over the picture.

    Returns:
        The `matplotlib.figure.Figure`.

    Example::

        learning_curve(model.fit(data).history, "curve.png")
    """
    names = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")
    for name, axis in zip(names, figure.subplots(1, len(names), squeeze=False).flat):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in history:
                epochs = range(1, len(history[key]) + 1)
                axis.plot(epochs, history[key], marker="o", markersize=3, label=label)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axis.set_title(name.replace("_", " "))
        axis.grid(alpha=0.3)
        axis.legend()
    if title:
        figure.suptitle(title)
    return saved(figure, path)


def schedule(learning_rate, steps, path=None, *, title=None):
    """Draws a learning-rate schedule.

    Args:
        learning_rate: a function of the step, such as a `LearningRateSchedule`.
        steps: how many of its first steps.
        path: where to write the image, or None.
        title: over the picture.

    Returns:
        The `matplotlib.figure.Figure`.

    Example::

        schedule(keras_xfmr.training.InverseSqrtSchedule(512), 20_000, "schedule.png")
    """
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    at = np.unique(np.linspace(0, steps - 1, 500).astype("int64"))
    axis.plot(at + 1, [float(learning_rate(step)) for step in at])
    axis.set_xlabel("step")
    axis.set_title(title or "learning rate")
    axis.grid(alpha=0.3)
    return saved(figure, path)
