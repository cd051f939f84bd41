"""Vectors as points of a plane, and the layer weights of a mix.

N vectors, D size of a vector
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_xfmr.viz.figures import Path, saved, shown, texts

MARKERS = "osD^vP*X"
LONGEST = 40  # characters of a label
# Possible places of a label, in points from its own point: side of the text, up or down.
PLACES = [(side, 11.0 * row) for row in (0, 1, -1, 2, -2, 3, -3) for side in ("left", "right")]


def embedding_map(
    vectors: Any,
    labels: Sequence[str] | None = None,
    path: Path | None = None,
    *,
    groups: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws vectors as points of the plane with the largest variance.

    The plane is that of the first two principal components (Pearson 1901): with X the vectors
    minus their mean, and X = U S V^T, the points are the first two columns of U S. The axes say
    share of the variance they have. A plane shows only a part of the vectors; for their cosines
    see `similarity_maps`.

    Args:
        vectors: `[N, D]`, such as those of one word in N sentences, or of N sentences.
        labels: N strings next to the points, or None; long ones are cut.
        path: where to write the image, or None.
        groups: N names, such as meanings of a word. Each group has a colour and a marker.
        title: title of the picture.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: vectors that are not finite, or another number of labels or groups.

    Example::

        embedding_map(vectors, ["river bank", "bank loan"], "bank.png", groups=["river", "money"])
    """
    vectors = np.asarray(vectors, "float64")
    counts = {len(names) for names in (labels, groups) if names is not None}
    if vectors.ndim != 2 or not vectors.size or counts - {len(vectors)}:
        raise ValueError(
            "Expected vectors [N, D], with N labels and N groups, if any. Received: "
            f"shape {vectors.shape}, and {sorted(counts)} labels or groups."
        )
    if not np.isfinite(vectors).all():
        raise ValueError("Expected vectors of finite numbers. Received: NaN or infinity.")
    points, shares = _principal(vectors)
    groups = [""] * len(points) if groups is None else list(groups)
    with texts():
        figure = Figure(figsize=(7, 5.5), layout="constrained")
        axis = figure.subplots()
        for place, group in enumerate(dict.fromkeys(groups)):
            own = points[[one == group for one in groups]]
            marker = MARKERS[place % len(MARKERS)]
            colour, name = f"C{place}", group or None
            axis.scatter(own[:, 0], own[:, 1], s=36, marker=marker, color=colour, label=name)
        axis.margins(0.15)
        axis.set_xlabel(f"first component ({shares[0]:.0%} of the variance)")
        axis.set_ylabel(f"second component ({shares[1]:.0%})")
        axis.grid(alpha=0.3)
        if labels is not None:
            # Sets the axes before there is a text that a font may not have.
            figure.draw_without_rendering()
            _label(axis, points, [shown(str(label)) for label in labels])
        if any(groups):
            axis.legend(fontsize=9)
        if title:
            axis.set_title(title)
        return saved(figure, path)


def _principal(vectors):
    """The points `[N, 2]`, and each axis's share of the variance."""
    centred = vectors - vectors.mean(axis=0)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    # A component may have either sign: its entry with the largest absolute value becomes positive.
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    points, shares = left * singular * signs, singular**2 / max((singular**2).sum(), 1e-12)
    missing = max(2 - len(singular), 0)
    return np.pad(points, ((0, 0), (0, missing)))[:, :2], np.pad(shares, (0, missing))


def _label(axis, points, labels):
    """Writes each label where it hides the fewest other labels and points."""
    scale = axis.figure.dpi / 72  # pixels in a point
    spots = axis.transData.transform(points)
    frame = axis.get_window_extent()
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    for (x, y), point, label in zip(spots, points, labels):
        label = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
        width = 5 * scale * sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in label)
        boxes = []
        for side, up in PLACES:
            begin = x + 6 * scale if side == "left" else x - 6 * scale - width
            bottom = y + up * scale - 5 * scale
            boxes.append((begin, bottom, begin + width, bottom + 10 * scale))
        costs = [
            sum(_overlap(box, other) for other in taken) + _outside(box, frame) for box in boxes
        ]
        best = int(np.argmin(costs))
        side, up = PLACES[best]
        # A line connects a label with its point if they are apart.
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.4", "shrinkA": 0} if up else None
        axis.annotate(
            label, point, (6 if side == "left" else -6, up), textcoords="offset points",
            fontsize=8, ha=side, va="center", arrowprops=line,
        )  # fmt: skip
        taken.append(boxes[best])


def _overlap(a, b):
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def _outside(box, frame):
    width, height = box[2] - box[0], box[3] - box[1]
    return 2 * (width * height - _overlap(box, (frame.x0, frame.y0, frame.x1, frame.y1)))


def scalar_mix(
    shares: Any,
    path: Path | None = None,
    *,
    gamma: float | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws the layer weights of a `ScalarMix`, next to the plain mean that it starts from.

    Args:
        shares: one number for each layer, from `ScalarMix.layer_weights()`.
        path: where to write the image, or None.
        gamma: the factor of the sum, which the title shows.
        names: names of the layers, below their numbers.
        title: title of the picture, by default "scalar mix".

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: no layer, or another number of names.

    Example::

        mix = model.scalar_mix
        scalar_mix(mix.layer_weights(), "mix.png", names=["words", "LSTM 1", "LSTM 2"])
    """
    shares = np.asarray(shares, "float64")
    names = [""] * shares.size if names is None else list(names)
    if shares.ndim != 1 or not shares.size or len(names) != len(shares):
        raise ValueError(
            "Expected one share for each layer, and as many names. Received: shape "
            f"{shares.shape} and {len(names)} names."
        )
    lines = [
        "\n".join(filter(None, (f"layer {i}", name, f"{share:.3f}")))
        for i, (name, share) in enumerate(zip(names, shares))
    ]
    with texts():
        figure = Figure(figsize=(1.6 + 1.1 * len(shares), 3.2), layout="constrained")
        axis = figure.subplots()
        axis.bar(range(len(shares)), shares, width=0.6)
        axis.set_xticks(range(len(shares)), lines)
        if len(shares) > 1:
            mean = 1 / len(shares)
            axis.axhline(mean, color="black", linestyle="--", linewidth=1, label="plain mean")
            axis.legend(fontsize=8, loc="upper right")
        axis.set_xlim(-0.6, len(shares) - 0.4)
        axis.set_ylim(0, 1.3 * max(shares))
        axis.set_ylabel("weight")
        title = title or "scalar mix"
        axis.set_title(title if gamma is None else f"{title}, gamma {gamma:.3f}", fontsize=10)
        return saved(figure, path)
