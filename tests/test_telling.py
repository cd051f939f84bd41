"""What examples say while they run."""

import pathlib

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def telling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import telling

    return telling


def test_the_time_of_a_training_is_told_once(telling, capsys):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    x, y = np.ones((30, 3)), np.ones((30, 1))
    callbacks = [telling.TimeLeft(first=2, last=4)]
    model.fit(x, y, batch_size=10, epochs=3, callbacks=callbacks, verbose=0)
    printed = capsys.readouterr().out
    assert printed.count("steps are left: about") == 1
    assert printed.startswith("The first step takes longer")
    assert "\n5 steps are left" in printed  # of 9, 4 are done


@pytest.mark.parametrize("seconds, expected", [
    (3.2, "3 seconds"), (89, "89 seconds"), (100, "2 minutes"), (7200, "2.0 hours"),
])  # fmt: skip
def test_times_are_in_words(telling, seconds, expected):
    assert telling.spell(seconds) == expected


def test_weights_that_are_not_trained_are_told(telling):
    model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)])
    model.build((None, 4))
    assert telling.trained(model) == "23 weights"
    model.layers[0].trainable = False
    assert telling.trained(model) == "8 of 23 weights"
