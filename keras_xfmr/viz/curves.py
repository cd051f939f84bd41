"""Curves: metrics over epochs, learning rates over steps."""

from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from keras_xfmr.viz.figures import Path, saved, texts


def learning_curve(
    history: Any, path: Path | None = None, *, title: str | None = None
) -> Figure:
    """Draws every metric of a `History.history` together with its validation metric.

    Args:
        history: name -> values, one for each epoch.
        path: where to write the image, or None.
        title: title of the picture.

    Returns:
        The `matplotlib.figure.Figure`.

    Example::

        learning_curve(model.fit(data).history, "curve.png")
    """
    with texts():
        figure, panels = _panels([history])
        for name, axis in panels.items():
            for key, label in ((name, "training"), (f"val_{name}", "validation")):
                if key in history:
                    _curve(axis, history[key], label=label)
            axis.legend()
        if title:
            figure.suptitle(title)
        return saved(figure, path)


def training_curve(
    runs: dict[str, Any], path: Path | None = None, *, title: str | None = None
) -> Figure:
    """Compares several trainings: a panel for each metric, a colour for each run.

    Validation metrics are dashed.

    Args:
        runs: name of a run -> its `History.history`. Runs may have different metrics and numbers of
            epochs.
        path: where to write the image, or None.
        title: title of the picture.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: no run, or one that is not such a dictionary.

    Example::

        training_curve({"post-norm": first.history, "pre-norm": second.history}, "runs.png")
    """
    if not runs or not all(hasattr(history, "items") for history in runs.values()):
        raise ValueError(
            "`runs` must be a dictionary from the name of a run to its `History.history`, such as "
            f"{{'small': {{'loss': [3.1, 2.4]}}}}. Received: {runs!r}."
        )
    with texts():
        figure, panels = _panels(runs.values())
        for name, axis in panels.items():
            for place, (run, history) in enumerate(runs.items()):
                for key, label, style in (
                    (name, run, "-"),
                    (f"val_{name}", f"{run}, validation", "--"),
                ):
                    if key in history:
                        colour = f"C{place}"
                        _curve(axis, history[key], label=label, color=colour, linestyle=style)
            axis.legend(fontsize=8)
        if title:
            figure.suptitle(title)
        return saved(figure, path)


def _panels(histories):
    """A figure, and its axes by the names of metrics, without validation metrics."""
    names = [name.removeprefix("val_") for history in histories for name in history]
    names = list(dict.fromkeys(names))
    figure = Figure(figsize=(4.5 * max(len(names), 1), 3.5), layout="constrained")
    axes = list(figure.subplots(1, max(len(names), 1), squeeze=False).flat)
    for name, axis in zip(names, axes):
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axis.set_title(name.replace("_", " "))
        axis.grid(alpha=0.3)
    return figure, dict(zip(names, axes))


def _curve(axis, values, **style):
    axis.plot(range(1, len(values) + 1), values, marker="o", markersize=3, **style)


def schedule(
    learning_rate: Any, steps: int, path: Path | None = None, *, title: str | None = None
) -> Figure:
    """Draws a learning-rate schedule.

    Args:
        learning_rate: a function of the step, such as a `LearningRateSchedule`.
        steps: how many steps to draw.
        path: where to write the image, or None.
        title: title of the picture.

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
