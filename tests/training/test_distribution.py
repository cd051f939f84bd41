"""Training on several replicas is training on one: losses, metrics, weights and answers."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_xfmr import training

SCRIPT = pathlib.Path(__file__).with_name("strategy_script.py")
KILLED = SCRIPT.with_name("killed_worker_script.py")
REPLICAS = SCRIPT.with_name("replica_script.py")
ROOT = SCRIPT.parent.parent.parent
# All models in clusters of two and three, which takes half an hour on two cores:
# PROVE_ALL=1 python -m pytest -m slow tests/training
PROVE_ALL = bool(os.environ.get("PROVE_ALL"))
NAMES = ["transformer", "gpt", "classifier", "pretrainer"]


def start(*arguments, script=SCRIPT, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_workers(count, *arguments, script=SCRIPT):
    addresses = [f"localhost:{port}" for port in free_ports(count)]
    return [
        start(
            *arguments,
            script=script,
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in range(count)
    ]


def finish(*processes):
    outputs = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(outputs)[-5000:]
    return outputs


def read(folder, name, kind, replicas, index=0):
    file = folder / f"{name}-{kind}-{replicas}-{index}"
    weights = np.load(f"{file}.npz")
    return json.loads(file.with_name(file.name + ".json").read_text()), [
        weights[key] for key in weights.files
    ]


def assert_alike(wanted, found, tolerance=1e-5):
    reported, weights = wanted
    for name, values in reported["history"].items():
        np.testing.assert_allclose(found[0]["history"][name], values, rtol=tolerance, err_msg=name)
    for name, value in reported["evaluate"].items():
        np.testing.assert_allclose(found[0]["evaluate"][name], value, rtol=tolerance, err_msg=name)
    for one, other in zip(weights, found[1], strict=True):
        np.testing.assert_allclose(other, one, atol=tolerance)
    np.testing.assert_allclose(found[0]["predict"], reported["predict"], atol=10 * tolerance)
    assert found[0].get("generate") == reported.get("generate")


@pytest.mark.slow
def test_two_devices_train_as_one(tmp_path):
    finish(start("both", tmp_path, 1, "float32", "gpt"))
    assert_alike(read(tmp_path, "gpt", "one", 1), read(tmp_path, "gpt", "mirrored", 2))


@pytest.mark.slow
def test_devices_and_workers_train_as_one_for_fifty_steps(tmp_path):
    names = NAMES if PROVE_ALL else NAMES[3:]
    finish(start("both", tmp_path, 7, "float32", *names))  # 7 epochs of 8 steps
    counts = (2, 3) if PROVE_ALL else (3,)
    for count in counts:
        finish(*start_workers(count, "workers", tmp_path, 7, "float32", *names))
    for name in names:
        wanted = read(tmp_path, name, "one", 1)
        assert_alike(wanted, read(tmp_path, name, "mirrored", 2))
        for count in counts:
            for index in range(count):
                assert_alike(wanted, read(tmp_path, name, "workers", count, index))


@pytest.mark.slow
@pytest.mark.prove_all
def test_workers_train_in_half_precision_alike(tmp_path):
    finish(start("one", tmp_path, 2, "mixed_bfloat16", "transformer"))
    finish(*start_workers(2, "workers", tmp_path, 2, "mixed_bfloat16", "transformer"))
    wanted = read(tmp_path, "transformer", "one", 1)
    for index in range(2):
        found = read(tmp_path, "transformer", "workers", 2, index)
        np.testing.assert_allclose(
            found[0]["history"]["loss"], wanted[0]["history"]["loss"], rtol=0.02
        )


@pytest.mark.slow
def test_workers_take_a_first_batch_whose_rows_do_not_divide():
    for output in finish(*start_workers(2, "uneven", script=REPLICAS)):
        found = json.loads(output.splitlines()[-1])["uneven"]
        assert found.keys() == {"5 rows", "1 rows"} and max(found.values()) < 1e-5


def test_a_timeout_is_positive():
    with pytest.raises(ValueError, match="`timeout` must be more than 0 seconds. Received: 0"):
        training.MultiWorkerStrategy(timeout=0)


def test_a_wrapped_loss_comes_back_and_takes_objects_and_means_alone():
    loss = training.GlobalMean(keras.losses.BinaryCrossentropy(from_logits=True, name="x"))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    labels, logits = np.array([[1.0], [0.0]]), np.array([[2.0], [3.0]])
    assert float(again(labels, logits)) == float(loss(labels, logits)) and again.name == "x"
    weights = np.array([1.0, 0.0])
    np.testing.assert_allclose(loss(labels, logits, weights), np.log1p(np.exp(-2)), rtol=1e-6)
    with pytest.raises(TypeError, match="`loss` must be an object such as"):
        training.GlobalMean("binary_crossentropy")
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        training.GlobalMean(loss.wrapped, reduction="mean")
    for whole in (loss, training.MaskedCrossEntropy()):
        with pytest.raises(ValueError, match="must not define `__call__`.* Received: a (Gl|Mask)"):
            training.GlobalMean(whole)


def last_weights(folder, index):
    with np.load(folder / f"weights-{index}.npz") as file:
        return [file[key] for key in file.files]


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [
    pytest.param("1, 1, 3", id="a worker", marks=pytest.mark.prove_all),
    pytest.param("0, 1, 3", id="the chief"),
])  # fmt: skip
def test_a_job_whose_worker_was_killed_ends_with_the_weights_of_an_unbroken_one(kill_at, tmp_path):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    finish(*start_workers(2, tmp_path / "whole", tmp_path / "a", "", script=KILLED))
    first = start_workers(2, tmp_path / "broken", tmp_path / "b", kill_at, script=KILLED)
    outputs = [process.communicate()[0] for process in first]
    killed = int(kill_at[0])
    assert first[killed].returncode == -9
    assert first[1 - killed].returncode and "Error" in outputs[1 - killed]
    # The chief may have written once more before it sees that the other one is lost.
    (newest,) = (path.name for path in (tmp_path / "b").iterdir() if "writing" not in path.name)
    assert newest in ("backup-000001-000000002", "backup-000001-000000004")
    outputs = finish(*start_workers(2, tmp_path / "broken", tmp_path / "b", "", script=KILLED))
    assert [output.split("done ")[1].strip() for output in outputs] == ["True", "False"]
    assert not (tmp_path / "b").exists()
    for index in range(2):
        wanted = last_weights(tmp_path / "whole", 0)
        for one, other in zip(last_weights(tmp_path / "broken", index), wanted, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_folders_of_their_own_are_refused_on_all_workers(tmp_path):
    workers = start_workers(2, tmp_path, tmp_path / "INDEX", "", script=KILLED)
    for worker in workers:
        output = worker.communicate()[0]
        assert worker.returncode == 1
        assert "1 of 2 replicas do not see the file of the first worker" in output
    assert {path.name for path in tmp_path.iterdir()} == {"text-0.txt", "text-1.txt"}


@pytest.mark.slow
def test_keras_still_needs_the_strategy(tmp_path):
    """When this fails, TensorFlow's own strategy has become enough: `reduce` can go."""
    workers = start_workers(2, tmp_path, tmp_path / "b", "", "plain", script=KILLED)
    outputs = [worker.communicate()[0] for worker in workers]
    assert all(worker.returncode for worker in workers), outputs[0][-3000:]
    assert any("PerReplica" in output for output in outputs), outputs[0][-3000:]


@pytest.mark.slow
def test_a_worker_that_hangs_ends_the_others_with_an_error_that_names_it(tmp_path):
    first, second = start_workers(2, tmp_path, tmp_path / "b", "1, 0, 2", "15", script=KILLED)
    output = first.communicate()[0]
    second.kill()
    second.communicate()
    assert first.returncode and "task:1" in output, output[-3000:]
