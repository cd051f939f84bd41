"""Runs examples and benchmarks, in the tests' process or as a user starts them."""

import contextlib
import importlib
import io
import os
import pathlib
import subprocess
import sys
import warnings

import pytest
from absl import flags

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
    """What a script prints. It runs in this process, which has imported what takes long."""
    printed = io.StringIO()
    with (
        imported(name) as script,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "No installed font")  # a machine may have no Korean one
        patch.setattr(sys, "argv", [name])
        flags.FLAGS([name, *given])
        script.main([name])
    return printed.getvalue()


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
