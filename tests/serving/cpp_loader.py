"""Asks a SavedModel through TensorFlow's C++ loader, the one TensorFlow Serving loads with.

The loader runs no Python, so what it answers holds for a server as well.
"""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("loader.cc")
LIBRARIES = ["libtensorflow_cc.so.2", "libtensorflow_framework.so.2"]


def build_loader(directory):
    """Compiles `loader.cc` into `directory` and returns the program's path."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the C++ loader needs g++")
    tf = pytest.importorskip("tensorflow")
    include, lib = Path(tf.sysconfig.get_include()), Path(tf.sysconfig.get_lib())
    headers = [include / "tensorflow/cc/saved_model/loader.h"]
    for path in headers + [lib / name for name in LIBRARIES]:
        if not path.exists():
            pytest.skip(f"this TensorFlow comes without {path.name}")
    # As system headers, TensorFlow's own raise no warnings.
    flags = [f for f in tf.sysconfig.get_compile_flags() if not f.startswith("-I")]
    loader = Path(directory) / "loader"
    command = [compiler, *flags, "-Wall", "-isystem", include, SOURCE, "-o", loader]
    command += [f"-L{lib}", *(f"-l:{name}" for name in LIBRARIES), f"-Wl,-rpath,{lib}"]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    if built.returncode:
        raise RuntimeError(f"{SOURCE.name} did not compile:\n{built.stderr}")
    return loader


def ask(loader, saved_model_dir, signature, inputs, xla_off=True):
    """Returns `{output: {"dtype", "shape", "values"}}`, values flat, for one request.

    `inputs` maps names to a string, a list of strings, a list of ints or a list of rows of ints.
    `xla_off` turns XLA compilation off, as the model server does unless told otherwise. A request
    that fails raises `RuntimeError` with the loader's message.
    """
    command = [loader, saved_model_dir, signature]
    command += ["--xla_off"] if xla_off else []
    command += [f"--op_library={path}" for path in _op_libraries()]
    command += [f"{name}={_text(value)}" for name, value in inputs.items()]
    # The answer should not depend on a GPU.
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    answer = subprocess.run(command, check=False, capture_output=True, env=env)
    if answer.returncode:
        # Leaves out TensorFlow's log, unless that is all there is, as after a crash.
        message = answer.stderr.decode(errors="replace").split("\nerror: ")[-1].strip()
        raise RuntimeError(f"the loader exited with {answer.returncode}: {message}")
    # Strings are bytes to TensorFlow: any that are not UTF-8 must not fail the rest.
    return json.loads(answer.stdout.decode(errors="surrogateescape"))


def _op_libraries():
    # A server has TensorFlow Text's ops built in. Found without importing the package.
    spec = importlib.util.find_spec("tensorflow_text")
    return sorted(Path(spec.origin).parent.glob("python/ops/_*.so")) if spec else []


def _text(value):
    if isinstance(value, str):
        if "|" in value:
            raise ValueError(f"'|' separates the strings of a batch: {value!r}")
        return value
    if len(value) == 0:
        raise ValueError("an empty batch cannot be written")
    if isinstance(value[0], str):
        return "|".join(map(_text, value))
    if hasattr(value[0], "__len__"):
        return ";".join(map(_text, value))
    return ",".join(str(int(number)) for number in value)
