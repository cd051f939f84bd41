"""`fit` as a whole: compilations, resuming after a kill, overfitting, TensorBoard."""

import os
import pathlib
import signal
import subprocess
import sys

import fit_script
import keras
import numpy as np
import pytest

from keras_xfmr import training

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent.parent


def python(*arguments, **environment):
    paths = os.pathsep.join([str(ROOT), str(FOLDER)])
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    fit_script.write_pairs(path)
    return path


@pytest.fixture(scope="module")
def unbroken(path):
    """The weights of a run that nothing disturbs."""
    model, pairs = fit_script.make(path)
    fit_script.fit(model, pairs)
    return model.get_weights()


@pytest.fixture(scope="module")
def killed(path, tmp_path_factory):
    """save_freq -> backup folder of a run that was killed in the middle of its second epoch."""
    root = tmp_path_factory.mktemp("killed")
    runs = {
        frequency: python(FOLDER / "fit_script.py", path, root / frequency, frequency, 1, 7)
        for frequency in ("3", "epoch")
    }
    for frequency, run in runs.items():
        _, errors = run.communicate()
        assert run.returncode == -signal.SIGKILL, errors
        assert (root / frequency).is_dir()
    return {"3": root / "3", "epoch": root / "epoch"}


def same_weights(model, expected):
    for weight, found, value in zip(model.weights, model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, value, err_msg=weight.path)


# ---- compilation


COUNT = """
import fit_script, sys
model, pairs = fit_script.make(sys.argv[1], jit_compile=True)
traces, step = [], model.train_step
def train_step(data):
    traces.append(data[1].shape)
    return step(data)
model.train_step = train_step
fit_script.fit(model, pairs, epochs=2)
print("traces", len(traces), sorted({tuple(shape) for shape in traces}))
"""


def test_each_bucket_is_compiled_once(path, tmp_path):
    flags = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"
    run = python("-c", COUNT, path, XLA_FLAGS=flags)
    output, errors = run.communicate()
    assert run.returncode == 0, errors
    steps = {
        name.split(".")[0]
        for name in os.listdir(tmp_path)
        if "one_step_on_data" in name and name.endswith("before_optimizations.txt")
    }
    assert len(steps) == 2, sorted(os.listdir(tmp_path))
    print(output)
    assert output.count("traces") == 1


# ---- resuming


@pytest.mark.parametrize("save_freq", [3, "epoch"])
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(
    save_freq, path, killed, unbroken
):
    folder = killed[str(save_freq)]
    model, pairs = fit_script.make(path)
    backup = training.BackupAndRestore(folder, data=pairs, save_freq=save_freq)
    seen = []
    begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(epoch))
    fit_script.fit(model, pairs, backup, begin)
    same_weights(model, unbroken)
    assert seen == ([2] if save_freq == 3 else [1, 2])
    assert not folder.exists()


@pytest.mark.parametrize("epoch, batch", [(0, 0), (0, 9), (2, 9), (1, 4)])
def test_a_run_broken_at_any_batch_goes_on(epoch, batch, path, unbroken, tmp_path):
    def stop():
        raise KeyboardInterrupt

    model, pairs = fit_script.make(path)
    backup = training.BackupAndRestore(tmp_path / "backup", data=pairs, save_freq=5)
    with pytest.raises(KeyboardInterrupt):
        fit_script.fit(model, pairs, backup, fit_script.Stop(epoch, batch, stop))
    model, pairs = fit_script.make(path)
    backup = training.BackupAndRestore(tmp_path / "backup", data=pairs, save_freq=5)
    fit_script.fit(model, pairs, backup)
    same_weights(model, unbroken)
    assert not (tmp_path / "backup").exists()


def test_backups_are_kept_where_asked_and_only_the_newest(path, tmp_path):
    model, pairs = fit_script.make(path)
    root = tmp_path / "a" / "backup"
    backup = training.BackupAndRestore(root, data=pairs, save_freq=4, delete_checkpoint=False)
    found = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: found.append([f.name for f in root.glob("*")])
    )
    fit_script.fit(model, pairs, backup, look, epochs=1)
    expected = [[]] * 3 + [["backup-000000-000000004"]] * 4 + [["backup-000000-000000008"]] * 3
    assert found == expected
    assert [folder.name for folder in root.iterdir()] == ["backup-000001-000000000"]
    weights = model.get_weights()
    model, pairs = fit_script.make(path)
    fit_script.fit(model, pairs, training.BackupAndRestore(root, data=pairs), epochs=1)
    same_weights(model, weights)  # nothing was left to do


def test_what_a_kill_left_half_written_is_passed_over(path, unbroken, tmp_path):
    root = tmp_path / "backup"
    (root / "writing-1").mkdir(parents=True)
    (root / "writing-1" / "latest.weights.h5").write_bytes(b"half")
    model, pairs = fit_script.make(path)
    fit_script.fit(model, pairs, training.BackupAndRestore(root, data=pairs, save_freq=7))
    same_weights(model, unbroken)
    assert not root.exists()


def test_without_data_a_broken_epoch_is_repeated_and_batches_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="Pass `data=` .*Received: data=None, save_freq=3"):
        training.BackupAndRestore(tmp_path / "backup", save_freq=3)
    for seen in ([0, 1], [1]):
        model, pairs = fit_script.make(path)
        backup = training.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        begun = []
        begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: begun.append(e))  # noqa: B023
        fit_script.fit(model, pairs, backup, begin, epochs=len(seen))
        assert begun == seen[: len(begun)]


# ---- learning


def test_a_tiny_task_is_learned_by_heart(path):
    model, pairs = fit_script.make(path, dropout_rate=0.0, batch_size=47, buckets=(11,))
    model.compile(
        training.AdamW(0.02, weight_decay=0.0, clipnorm=1.0),
        training.MaskedCrossEntropy(),
        metrics=[training.MaskedAccuracy(), training.masked_perplexity()],
        jit_compile=False,
    )
    history = fit_script.fit(model, pairs, epochs=150).history
    print(history["loss"][::10])
    assert history["loss"][-1] < 0.03
    assert history["accuracy"][-1] == 1.0
    np.testing.assert_allclose(history["perplexity"], np.exp(history["loss"]), rtol=1e-4)


def test_tensorboard_has_something_to_read(path, tmp_path):
    pytest.importorskip("tensorboard")
    model, pairs = fit_script.make(path)
    board = keras.callbacks.TensorBoard(str(tmp_path), histogram_freq=1, write_graph=False)
    fit_script.fit(model, pairs, board, epochs=1)
    events = [file for file in tmp_path.rglob("events.out.tfevents.*")]
    assert [file.stat().st_size > 1_000 for file in events] == [True]
    assert b"epoch_loss" in events[0].read_bytes()
