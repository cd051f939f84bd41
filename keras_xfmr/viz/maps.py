"""Matrices as colours: attention, position encodings, similarities.

T target, S source, N heads
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from keras_xfmr.viz.figures import Path, saved, shown, texts


def attention_map(
    weights: Any,
    source: Sequence[str],
    target: Sequence[str],
    path: Path | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draws attention weights, one panel for each head, and saves them as an image.

    All panels have one scale, from 0 to the largest weight, which the bar beside them shows. The
    color follows the square root of the weight, so that small weights can be seen beside large
    ones.

    Args:
        weights: `[N, T, S]`, or `[T, S]` for one panel.
        source: S labels of the columns.
        target: T labels of the rows.
        path: where to write the image; the file extension sets the format. None: draw only.
        title: title of the picture.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: the labels do not fit the weights, there is no head, or a weight is negative or
            no number.

    Example::

        attention_map(weights["cross"][-1][0], source_tokens, target_tokens, "cross.png")
    """
    weights = np.asarray(weights, "float32")
    weights = weights[None] if weights.ndim == 2 else weights
    source, target = ([shown(str(label)) for label in side] for side in (source, target))
    if weights.ndim != 3 or not len(weights) or weights.shape[1:] != (len(target), len(source)):
        raise ValueError(
            "`weights` must have the shape [heads, target, source] with labels for both. Received: "
            f"shape {weights.shape}, {len(target)} target and {len(source)} source labels."
        )
    if not np.all(weights >= 0):
        raise ValueError("Attention weights are 0 or more. Received: a negative weight or NaN.")
    columns = min(len(weights), 4)
    rows = -(-len(weights) // columns)
    # Vertical labels: a column needs only the height of a letter.
    longest = [max((len(label) for label in labels), default=0) for labels in (target, source)]
    panel = [
        0.5 + 0.09 * length + 0.17 * max(count, 5)
        for length, count in zip(longest, (len(source), len(target)))
    ]
    largest = max(float(weights.max(initial=0.0)), 1e-6)
    scale = PowerNorm(0.5, vmin=0.0, vmax=largest)
    with texts():
        size = (columns * panel[0] + 0.8, rows * panel[1] + (0.4 if title else 0.0))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for head, axis in enumerate(axes.flat):
            if head >= len(weights):
                axis.set_visible(False)
                continue
            image = axis.imshow(weights[head], cmap="viridis", norm=scale, aspect="auto")
            axis.set_xticks(range(len(source)), source, fontsize=8, rotation=90)
            axis.set_yticks(range(len(target)), target, fontsize=8)
            if len(weights) > 1:
                axis.set_title(f"head {head}", fontsize=9)
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label("attention weight", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        if title:
            figure.suptitle(title)
        return saved(figure, path)


def position_codes(
    codes: Any, path: Path | None = None, *, title: str | None = None
) -> Figure:
    """Draws position encodings, one row for each position.

    Args:
        codes: `[length, depth]`.
        path: where to write the image, or None.
        title: title of the picture.

    Returns:
        The `matplotlib.figure.Figure`.

    Example::

        position_codes(keras_xfmr.functional.sinusoidal_encoding(100, 512), "codes.png")
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(np.asarray(codes), cmap="RdBu", aspect="auto")
    axis.set_xlabel("depth")
    axis.set_ylabel("position")
    figure.colorbar(image)
    if title:
        figure.suptitle(title)
    return saved(figure, path)


def similarity_maps(
    similarities: dict[str, Any], path: Path | None = None, *, title: str | None = None
) -> Figure:
    """Draws matrices of similarities: a row for each word, a column for each layer.

    Each panel has its own colours, from the smallest to the largest number off its diagonal.

    Args:
        similarities: label of a row -> (groups, matrices): the N group names of a matrix's rows,
            where the rows of a group are adjacent, and a list of matrices `[N, N]`. White lines
            separate the groups.
        path: where to write the image, or None.
        title: title of the picture.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: there is no row, rows have different numbers of matrices, or the size of a
            matrix differs from the number of its groups.

    Example::

        similarity_maps({"bank": (["money", "money", "river"], [cosines])}, "bank.png")
    """
    counts = {len(matrices) for _, matrices in similarities.values()}
    wrong = [
        np.shape(matrix)
        for groups, matrices in similarities.values()
        for matrix in matrices
        if np.shape(matrix) != (len(groups), len(groups))
    ]
    if len(counts) != 1 or wrong:
        raise ValueError(
            "Expected rows with the same number of matrices, [N, N] for N groups. Received: "
            f"{len(similarities)} rows with {sorted(counts)} matrices; wrong shapes: {wrong}."
        )
    count = counts.pop()
    with texts():
        size = (2.2 * count + 1, 2.0 * len(similarities))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(similarities), count, squeeze=False)
        for n, (row, (label, (groups, matrices))) in enumerate(zip(axes, similarities.items())):
            changes = [i - 0.5 for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
            for i, (axis, matrix) in enumerate(zip(row, matrices)):
                matrix = np.asarray(matrix)
                off = matrix[~np.eye(len(matrix), dtype=bool)]
                axis.imshow(matrix, vmin=off.min() - 1e-6, vmax=off.max() + 1e-6, cmap="viridis")
                for place in changes:
                    axis.axhline(place, color="white")
                    axis.axvline(place, color="white")
                axis.set_xticks([])
                axis.set_yticks([])
                if n == 0:
                    axis.set_title(f"layer {i}", fontsize=9)
            row[0].set_ylabel(f"{label}\n{' | '.join(dict.fromkeys(groups))}", fontsize=8)
        if title:
            figure.suptitle(title)
        return saved(figure, path)
