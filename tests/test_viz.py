"""Every picture is drawn, holds what it was given, and is written where asked."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import image

from keras_xfmr import functional, training, viz

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
