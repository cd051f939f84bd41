"""Runs examples and benchmarks, in the tests' process or as a user starts them."""

import contextlib
import functools
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import warnings

import pytest
from absl import flags

from keras_xfmr.models import Gpt, Transformer
from keras_xfmr.models.bert import PRESETS

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ROOT / "examples", ROOT / "benchmarks"


@contextlib.contextmanager
def imported(name):
    """A script as a module, such as `translate` or `benchmarks.decoding`. What it brought goes with
    it, for the flags of others have the same names."""
    known_flags, known = set(flags.FLAGS), set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.syspath_prepend(ROOT / "examples")
        try:
            yield importlib.import_module(name)
        finally:
            for module in set(sys.modules) - known:
                file = getattr(sys.modules[module], "__file__", None)
                if file and pathlib.Path(file).parent in FOLDERS:
                    del sys.modules[module]
            for flag in set(flags.FLAGS) - known_flags:
                delattr(flags.FLAGS, flag)


def run(name, *given):
    """What a script prints. It runs in this process, which has imported what takes long, and asks
    the SavedModel here, too; `run_as_command` has it asked in a fresh process. The smallest BERT
    has one block, and with `--nojit_compile` XLA compiles no search either."""
    printed = io.StringIO()
    with (
        imported(name) as script,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "No installed font")  # a machine may have no Korean one
        patch.setattr(sys, "argv", [name])
        patch.setattr("fresh_process.ask", _ask_here)
        patch.setitem(PRESETS["tiny"], "num_layers", 1)
        if "--nojit_compile" in given:
            for kind in (Transformer, Gpt):
                eager = functools.partialmethod(kind.generate, jit_compile=False)
                patch.setattr(kind, "generate", eager)
        flags.FLAGS([name, *given])
        script.main([name])
    return printed.getvalue()


def _ask_here(folder, signature="serving_default", **texts):
    import tensorflow as tf

    texts = {name: tf.constant(rows) for name, rows in texts.items()}
    answer = tf.saved_model.load(folder).signatures[signature](**texts)
    rows = {name: value.numpy().tolist() for name, value in answer.items()}
    return json.loads(json.dumps(rows, default=bytes.decode))


def run_as_command(*command):
    """What `python command` prints, in a process of its own."""
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf8",
    }
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT,
        capture_output=True, text=True, encoding="utf8", env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
