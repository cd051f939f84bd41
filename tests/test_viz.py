"""Every picture is drawn, holds what it was given, and is written where asked."""

import importlib
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import image
from matplotlib.text import Text

from keras_xfmr import functional, training, viz
from keras_xfmr.viz import figures

SOURCE, TARGET = ["<en>", "the", "fox", "[END]", "."], ["a", "red", "é"]


def written(path):
    """The picture as numbers, after a look at whether there is something in it."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert path.stat().st_size > 3_000
    picture = image.imread(path)
    assert min(picture.shape[:2]) > 100 and len(np.unique(picture)) > 20
    return picture


@pytest.fixture
def weights(rng):
    weights = rng.uniform(size=(7, 3, 5))
    return weights / weights.sum(-1, keepdims=True)


def shown(axis):
    (drawn,) = axis.images
    return np.asarray(drawn.get_array())


def test_an_attention_map_has_a_panel_for_each_head(weights, tmp_path):
    path = tmp_path / "map.png"
    figure = viz.attention_map(weights, SOURCE, TARGET, path, title="cross")
    written(path)
    *panels, bar = (axis for axis in figure.axes if axis.get_visible())
    assert len(panels) == 7 and len(figure.axes) == 9  # two rows of four, and the bar
    assert bar.get_ylabel() == "attention weight"
    for head, axis in enumerate(panels):
        np.testing.assert_allclose(shown(axis), weights[head], rtol=1e-6)
        assert [label.get_text() for label in axis.get_xticklabels()] == SOURCE
        assert [label.get_text() for label in axis.get_yticklabels()] == TARGET
        assert axis.get_title() == f"head {head}"
        assert {label.get_rotation() for label in axis.get_xticklabels()} == {90}
        assert axis.images[0].get_clim() == (0, np.float32(weights.max()))
    assert [text.get_text() for text in figure.texts] == ["cross"]


def test_one_matrix_is_one_panel(weights, tmp_path):
    figure = viz.attention_map(weights[0], SOURCE, TARGET, str(tmp_path / "map.png"))
    written(tmp_path / "map.png")
    axis, _ = figure.axes
    assert axis.get_title() == ""
    np.testing.assert_allclose(shown(axis), weights[0], rtol=1e-6)


def test_small_weights_can_be_seen_beside_large_ones():
    sharp_and_even = np.stack([np.eye(40), np.full((40, 40), 1 / 40)])
    figure = viz.attention_map(sharp_and_even, range(40), range(40))
    image = figure.axes[1].images[0]
    assert image.norm(1 / 40) > 0.15 and image.norm(1.0) == 1.0


def test_a_font_that_was_installed_later_is_found(monkeypatch):
    if not figures.fonts()[:-1]:
        pytest.skip("no font with Hangul is installed")
    manager = figures.font_manager.fontManager
    known = [font for font in manager.ttflist if font.name not in figures.WIDE_FONTS]
    monkeypatch.setattr(manager, "ttflist", known)  # as a list of an earlier day
    figures._newly_installed.cache_clear()
    assert figures.fonts()[0] in figures.WIDE_FONTS


def test_dollars_are_dollars(tmp_path):
    labels = ["$^$", "$5", "$6$"]  # the first is no formula, and ends in an error
    figure = viz.attention_map(
        np.eye(3), labels, labels, tmp_path / "map.png", title="$5, not $6"
    )
    axis, _ = figure.axes
    texts = [*figure.texts, *axis.get_xticklabels(), *axis.get_yticklabels()]
    assert len(texts) == 7 and not any(text.get_parse_math() for text in texts)


def test_characters_that_no_font_has_are_one_warning(tmp_path):
    labels = ["\U0010fff0", "\U0010fff1", "\U0010fff2"]
    with pytest.warns(UserWarning) as warned:
        viz.attention_map(np.eye(3), labels, labels, tmp_path / "map.png")
    (message,) = (str(one.message) for one in warned)
    assert "has 3 of the characters" in message and "map.png" in message


def test_labels_that_do_not_fit_are_refused(weights, tmp_path):
    path = tmp_path / "map.png"
    for given, source, target in (
        (weights, TARGET, SOURCE),
        (weights, SOURCE[1:], TARGET),
        (weights[0], SOURCE, TARGET + ["x"]),
        (weights[0, 0], SOURCE, TARGET),
        (weights[None], SOURCE, TARGET),
    ):
        shape = rf"\[heads, target, source\].*{len(target)} target and {len(source)} source"
        with pytest.raises(ValueError, match=shape):
            viz.attention_map(given, source, target, path)
    others = (weights[:0], "shape"), (-weights, "0 or more"), (weights * np.nan, "NaN")
    for bad, message in others:
        with pytest.raises(ValueError, match=message):
            viz.attention_map(bad, SOURCE, TARGET, path)
    assert not path.exists()


def test_a_learning_curve_has_validation_beside_training(tmp_path):
    history = {"loss": [3.0, 2.0, 1.5], "accuracy": [0.1, 0.5, 0.7], "val_loss": [3.5, 2.5, 2.0]}
    figure = viz.learning_curve(history, tmp_path / "curve.png", title="run")
    written(tmp_path / "curve.png")
    assert [axis.get_title() for axis in figure.axes] == ["loss", "accuracy"]
    loss, accuracy = ([list(line.get_ydata()) for line in axis.lines] for axis in figure.axes)
    assert loss == [history["loss"], history["val_loss"]]
    assert accuracy == [history["accuracy"]]
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 2, 3]


def test_what_only_validation_measures_is_drawn_too():
    figure = viz.learning_curve({"loss": [3.0, 2.0], "val_loss": [3.5, 2.5], "val_f1": [0.1, 0.2]})
    assert [axis.get_title() for axis in figure.axes] == ["loss", "f1"]
    (line,) = figure.axes[1].lines
    assert list(line.get_ydata()) == [0.1, 0.2] and line.get_label() == "validation"


def test_several_runs_have_a_colour_each_and_validation_is_dashed(tmp_path):
    runs = {
        "small": {"loss": [3.0, 2.0, 1.5], "val_loss": [3.5, 2.5, 2.0]},
        "$large$": {"loss": [2.5, 1.5], "val_f1": [0.1, 0.2]},
    }
    figure = viz.training_curve(runs, tmp_path / "runs.png", title="runs")
    written(tmp_path / "runs.png")
    loss, f1 = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["loss", "f1"]
    drawn = {line.get_label(): line for line in [*loss.lines, *f1.lines]}
    assert list(drawn) == ["small", "small, validation", "$large$", "$large$, validation"]
    assert list(drawn["$large$"].get_ydata()) == [2.5, 1.5]
    assert [line.get_linestyle() for line in drawn.values()] == ["-", "--", "-", "--"]
    colours = [line.get_color() for line in drawn.values()]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    with pytest.raises(ValueError, match="from the name of a run"):
        viz.training_curve({"loss": [3.0]})


def test_vectors_of_a_plane_keep_their_distances(rng, tmp_path):
    plane = rng.normal(size=(2, 5))
    vectors = rng.normal(size=(7, 2)) @ plane + 3.0
    groups, labels = ["river"] * 3 + ["money"] * 4, [*"abcdef", "x" * 50]
    figure = viz.embedding_map(vectors, labels, tmp_path / "map.png", groups=groups, title="$bank")
    written(tmp_path / "map.png")
    (axis,) = figure.axes
    points = np.concatenate([points.get_offsets() for points in axis.collections])
    for found, given in zip(points, vectors):
        distances = np.linalg.norm(vectors - given, axis=1)
        np.testing.assert_allclose(np.linalg.norm(points - found, axis=1), distances, atol=1e-9)
    assert [points.get_label() for points in axis.collections] == ["river", "money"]
    assert [text.get_text() for text in axis.texts] == [*"abcdef", f"{'x' * 39}…"]
    # All of the variance is on both axes.
    shares = [label.split("(")[1].split("%")[0] for label in (axis.get_xlabel(), axis.get_ylabel())]
    assert abs(sum(map(int, shares)) - 100) <= 1


def test_labels_of_points_that_lie_together_do_not_hide_each_other():
    vectors = np.array([[0, 0], [0.001, 0], [0, 0.001], [1, 1], [1, -1]])
    figure = viz.embedding_map(vectors, ["first", "second", "third", "fourth", "fifth"])
    figure.draw_without_rendering()
    # Of the texts alone, without the lines to their points.
    boxes = [Text.get_window_extent(one) for one in figure.axes[0].texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_characters_that_no_font_has_are_one_warning_in_a_map_of_vectors(tmp_path):
    names = ["\U0010fff0", "\U0010fff1", "\U0010fff2"]
    with pytest.warns(UserWarning) as warned:
        viz.embedding_map(np.eye(3), names, tmp_path / "map.png", groups=names, title=names[0])
    assert len(warned) == 1 and "has 3 of the characters" in str(warned[0].message)


@pytest.mark.parametrize(
    "vectors, names, message",
    [
        (np.eye(3), ["a"], r"shape \(3, 3\), and \[1\]"),
        (np.eye(3)[0], None, r"shape \(3,\)"),
        (np.full((2, 2), np.nan), None, "NaN"),
    ],
)
def test_vectors_that_cannot_be_drawn_are_refused(vectors, names, message):
    with pytest.raises(ValueError, match=message):
        viz.embedding_map(vectors, names)
    with pytest.raises(ValueError, match=message):
        viz.embedding_map(vectors, groups=names)


def test_one_vector_is_a_point_in_the_middle():
    (points,) = viz.embedding_map(np.ones((1, 5))).axes[0].collections
    np.testing.assert_array_equal(points.get_offsets(), [[0, 0]])


def test_a_mix_has_a_bar_for_each_layer(tmp_path):
    shares = [0.2, 0.5, 0.3]
    figure = viz.scalar_mix(shares, tmp_path / "mix.png", gamma=1.5, names=["words", "one", "two"])
    written(tmp_path / "mix.png")
    (axis,) = figure.axes
    assert [bar.get_height() for bar in axis.patches] == shares
    ticks = [tick.get_text() for tick in axis.get_xticklabels()]
    assert ticks[1] == "layer 1\none\n0.500" and axis.get_title() == "scalar mix, gamma 1.500"
    np.testing.assert_allclose(axis.lines[0].get_ydata(), 1 / 3)  # the plain mean
    (axis,) = viz.scalar_mix(shares[:1]).axes
    assert not axis.lines and axis.get_xticklabels()[0].get_text() == "layer 0\n0.200"
    with pytest.raises(ValueError, match="and 2 names"):
        viz.scalar_mix(shares, names=["a", "b"])


def test_position_codes_are_drawn_a_row_a_position(tmp_path):
    codes = functional.sinusoidal_encoding(23, 14)
    figure = viz.position_codes(codes, tmp_path / "codes.png", title="codes")
    written(tmp_path / "codes.png")
    np.testing.assert_array_equal(shown(figure.axes[0]), np.asarray(codes))
    assert figure.axes[0].get_ylabel() == "position"


@pytest.mark.parametrize("steps", [11, 2003])
def test_a_schedule_is_drawn_from_its_first_step(steps, tmp_path):
    rate = training.InverseSqrtSchedule(23, 7)
    figure = viz.schedule(rate, steps, tmp_path / "schedule.png", title="rate")
    written(tmp_path / "schedule.png")
    (line,) = figure.axes[0].lines
    at, drawn = line.get_xdata(), line.get_ydata()
    assert (at[0], at[-1]) == (1, steps) and len(at) == min(steps, 500)
    np.testing.assert_allclose(drawn, [float(rate(step - 1)) for step in at], rtol=1e-6)


def test_similarities_have_a_panel_for_each_word_and_layer(tmp_path):
    near = np.random.default_rng(2).random((3, 3))
    rows = {
        "bank": (["money", "money", "river"], [near, near]),
        "bat": (["animal"] * 2, [near[:2, :2]] * 2),
    }
    figure = viz.similarity_maps(rows, tmp_path / "near.png", title="cosines")
    axes = figure.get_axes()
    assert len(axes) == 4 and [axis.get_title() for axis in axes[:2]] == ["layer 0", "layer 1"]
    assert axes[0].get_ylabel() == "bank\nmoney | river" and len(axes[0].lines) == 2
    assert not axes[2].lines and (tmp_path / "near.png").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"wrong shapes: \[\(3, 3\)\]"):
        viz.similarity_maps({"bank": (["money"], [near])})


def test_without_a_path_nothing_is_written(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    viz.attention_map(weights, SOURCE, TARGET)
    viz.learning_curve({"loss": [1.0]})
    viz.position_codes(np.eye(3))
    viz.schedule(lambda step: 0.5, 3)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"extra `viz` .* pip install -e '\.\[viz\]'"):
        importlib.reload(viz.figures)
