"""Weights split among the devices of a mesh, on the JAX backend in a process of its own."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

from keras_xfmr import layers, training

SCRIPT = pathlib.Path(__file__).with_name("layout_script.py")
ROOT = SCRIPT.parent.parent.parent

needs_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs jax")


def run(*arguments):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KERAS_BACKEND": "jax",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


# All models and meshes: PROVE_ALL=1 python -m pytest -m slow tests/training
PROVE_ALL = bool(os.environ.get("PROVE_ALL"))
MESHES = ("4", "8", "2x2", "1x4", "2x4", "1x8") if PROVE_ALL else ("8", "2x2", "1x4")


def test_numbers_of_heads_are_named_that_a_model_can_have(monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    mesh = keras.distribution.DeviceMesh((1, 4), ["batch", "model"], [f"cpu:{i}" for i in range(4)])
    for heads, kv_heads in ((6, 2), (20, 5), (6, 6)):
        layer = layers.MultiHeadAttention(heads, 4, num_key_value_heads=kv_heads)
        layer.build((None, None, 7), (None, None, 7))
        training.layout_map(layer, mesh)
    segments = layers.TokenEmbedding(2, 4)  # nobody would enlarge this table
    segments.build((None, None))
    training.layout_map(segments, mesh)
    found = [re.search(r"(.*) cannot be split .* whole\. (.*) can be", each) for each in said]
    assert [match.groups() for match in found] == [
        ("6 heads", "8"), ("2 key/value heads", "4 of 8 heads"),
        ("5 key/value heads", "20 of 20 heads"), ("6 heads", "8"),
    ]  # fmt: skip


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "gpt", pytest.param("transformer", marks=pytest.mark.prove_all),
    pytest.param("pretrainer", marks=pytest.mark.prove_all),
])  # fmt: skip
def test_meshes_train_as_one_device_with_less_of_the_weights_on_each(name):
    found, warnings = run(name, "--", *MESHES)
    one = found[name]["1"]
    for mesh, values in found[name].items():
        assert values["loss"] == pytest.approx(one["loss"], rel=1e-5), mesh
        assert values["evaluate"] == pytest.approx(one["evaluate"], rel=1e-5), mesh
        parts = int(mesh.split("x")[1]) if "x" in mesh else 1
        if mesh[0] in "248":  # devices of the axis of rows
            assert f"multiple of the {mesh[0]} devices of the axis `batch`" in values["uneven"]
            assert "Received: a batch of 3 rows." in values["uneven"]
        assert values["slots"] == 2 * values["weights"]  # of Adam
        if parts == 1:
            assert values["weights"] == one["weights"] and not values["split weights"]
        else:
            assert values["split slots"] == 2 * values["split weights"] > 0
    weights = {mesh: values["weights"] for mesh, values in found[name].items()}
    assert weights["1"] > weights["2x2"] > weights["1x4"]
    assert weights.get("2x4", weights["1x4"]) == weights["1x4"] > weights.get("1x8", 0)
    if name != "gpt":  # all sizes are multiples of 8; what is split is 1/2, 1/4, 1/8
        split = 2 * (weights["1"] - weights["2x2"])
        assert weights["1x4"] == weights["1"] - split * 3 // 4
        assert weights["1x8"] == weights["1"] - split * 7 // 8
        assert "cannot be split" not in warnings
    else:
        message = "2 key/value heads cannot be split among 4 devices; each has them whole. 4 of 8 "
        assert message + "heads can be." in warnings
