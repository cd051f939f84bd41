"""The examples in docstrings give what they say."""

import doctest
import functools
import importlib
import inspect
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_xfmr

ROOT = pathlib.Path(keras_xfmr.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text("utf8")
)
NAMES = {"keras": keras, "np": np, "tf": tf, "keras_xfmr": keras_xfmr}
NAMES |= {name: getattr(keras_xfmr.models, name) for name in keras_xfmr.models.__all__}


class Checker(doctest.OutputChecker):
    """A shape of TensorFlow is written as the tuple that it equals."""

    def check_output(self, want, got, optionflags):
        got = re.sub(r"TensorShape\(\[(.*?)\]\)", r"(\1)", got)
        return super().check_output(want, got, optionflags)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.NORMALIZE_WHITESPACE)
    tests = doctest.DocTestFinder().find(module, extraglobs=NAMES)
    searches = ("generate", keras_xfmr.models.Transformer), ("generate", keras_xfmr.models.Gpt)
    for method, kind in (*searches, ("stream", keras_xfmr.models.Gpt)):
        # XLA compiles searches in other tests.
        uncompiled = functools.partialmethod(getattr(kind, method), jit_compile=False)
        monkeypatch.setattr(kind, method, uncompiled)
    for test in tests:
        runner.run(test)
    failed, tried = runner.summarize(verbose=False)
    assert tried and not failed, "see the output above"


def public(room):
    """What a room offers: its `__all__`, or all that its file defines."""
    module = importlib.import_module(f"keras_xfmr.{room}")
    own = [k for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]
    return [(room, name) for name in names]


ROOMS = ("checkpoints", "decoding", "functional", "layers", "models", "serving", "text")
ROOMS += ("training", "viz")


@pytest.mark.parametrize("room, name", [pair for room in ROOMS for pair in public(room)])
def test_every_public_name_has_an_example(room, name):
    thing = getattr(importlib.import_module(f"keras_xfmr.{room}"), name)
    if not callable(thing) or (inspect.isclass(thing) and issubclass(thing, tuple)):
        pytest.skip("neither a function nor a class that users make")
    assert ">>> " in thing.__doc__ or "Example::" in thing.__doc__
