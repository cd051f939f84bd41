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
    headers = [include / "tensorflow/c/c_api.h"]
    for path in headers + [lib / name for name in LIBRARIES]:
        if not path.exists():
            pytest.skip(f"this TensorFlow comes without {path.name}")
    # As system headers, TensorFlow's own raise no warnings.
    flags = [f for f in tf.sysconfig.get_compile_flags() if not f.startswith("-I")]
    directory = Path(directory)
    loader, code = directory / "loader", directory / "loader.o"
    _run([compiler, *flags, "-Wall", "-isystem", include, "-c", SOURCE, "-o", code])
    stubs = _stubs(compiler, code, directory / "stubs")
    _run([compiler, code, *stubs, "-o", loader, f"-Wl,-rpath,{lib}"])
    return loader


def _stubs(compiler, code, directory):
    """Libraries of TensorFlow's names with the functions that `code` calls, and nothing else.

    The linker takes ten seconds to read TensorFlow's own, which the program loads when it runs.
    """
    directory.mkdir()
    listed = _run(["nm", "--undefined-only", code])
    names = [name for name in listed.split() if name.startswith("TF_") or "tensorflow" in name]
    source = directory / "stubs.c"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in names))
    stubs = [directory / name for name in LIBRARIES]
    options = ["-x", "c", "-shared", "-fPIC", "-Wno-builtin-declaration-mismatch"]
    for stub, content in zip(stubs, (source, os.devnull)):
        _run([compiler, *options, content, f"-Wl,-soname,{stub.name}", "-o", stub])
    return stubs


def _run(command):
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{SOURCE.name} did not compile:\n{done.stderr}")
    return done.stdout


def ask(loader, saved_model_dir, signature, inputs, xla_off=True):
    """Returns `{output: {"dtype", "shape", "values"}}`, values flat, for one request.

    `inputs` maps names to a string, a list of strings, a list of ints or a list of rows of ints.
    `xla_off` turns XLA compilation off, as the model server does unless told otherwise. A request
    that fails raises `RuntimeError` with the loader's message.
    """
    command = [loader, saved_model_dir, *_tensors(saved_model_dir, signature, inputs)]
    command += ["--xla_off"] if xla_off else []
    command += [f"--op_library={path}" for path in _op_libraries()]
    # The answer should not depend on a GPU.
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    answer = subprocess.run(command, check=False, capture_output=True, env=env)
    if answer.returncode:
        # Leaves out TensorFlow's log, unless that is all there is, as after a crash.
        message = answer.stderr.decode(errors="replace").split("\nerror: ")[-1].strip()
        raise RuntimeError(f"the loader exited with {answer.returncode}: {message}")
    # Strings are bytes to TensorFlow: any that are not UTF-8 must not fail the rest.
    return json.loads(answer.stdout.decode(errors="surrogateescape"))


def _tensors(saved_model_dir, signature, inputs):
    """Which tensors a signature feeds and fetches, as arguments of the loader."""
    from tensorflow.core.framework import types_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    content = Path(saved_model_dir, "saved_model.pb").read_bytes()
    (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    known = dict(graph.signature_def)
    if signature not in known or not set(inputs) <= set(known[signature].inputs):
        raise RuntimeError(f"no signature {signature!r} with the inputs {sorted(inputs)}")
    found = known[signature]
    arguments = [f"--output={name}={info.name}" for name, info in found.outputs.items()]
    for name, value in inputs.items():
        info = found.inputs[name]
        dtype = types_pb2.DataType.Name(info.dtype).removeprefix("DT_").lower()
        rank = len(info.tensor_shape.dim)
        arguments.append(f"--input={dtype},{rank},{info.name}={_text(value)}")
    return arguments


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
