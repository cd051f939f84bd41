"""`fit` as a whole: compilations, resuming after a kill, learning by heart, TensorBoard."""

import importlib.util
import os
import pathlib
import signal

import fit_script
import forked
import keras
import numpy as np
import pytest

from keras_xfmr import training

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).parent
PATHS = os.pathsep.join([str(FOLDER.parent.parent), str(FOLDER)])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    fit_script.write_pairs(path)
    return path


# ---- compilation


COUNT = """
import fit_script, sys
model, pairs = fit_script.make(sys.argv[1], jit_compile=True, buckets=(7, 11))
traces, step = [], model.train_step
def train_step(data):
    traces.append(str(data[1].shape))
    return step(data)
model.train_step = train_step
fit_script.fit(model, pairs, sys.argv[2], "epoch")
print(len(traces), *set(traces))
"""


@pytest.mark.slow
def test_each_bucket_is_compiled_once(path, tmp_path):
    dump = tmp_path / "dump"
    flags = f"--xla_dump_to={dump} --xla_dump_hlo_module_re=.*one_step.*"
    backup = tmp_path / "backup"
    run = forked.run("-c", COUNT, path, backup, PYTHONPATH=PATHS, XLA_FLAGS=flags)
    assert run.returncode == 0, run.stderr
    modules = [name for name in os.listdir(dump) if name.endswith("before_optimizations.txt")]
    assert len(modules) == 2, modules
    assert run.stdout.strip() == "1 (5, None)"  # one graph for all buckets, traced once


# ---- resuming


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(compiled, path, tmp_path):
    """Killed in the middle of an epoch; `test_callbacks.py` breaks off at all other places."""
    model, pairs = fit_script.make(path, jit_compile=compiled)
    fit_script.fit(model, pairs, tmp_path / "unbroken", "epoch")
    unbroken = model.get_weights()
    folder, save_freq, place = tmp_path / "backup", 3, (0, 7)
    arguments = path, folder, save_freq, *place, compiled
    run = forked.run(FOLDER / "fit_script.py", *arguments, PYTHONPATH=PATHS)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert len(list(folder.iterdir())) == 1
    (folder / "writing-backup-1").mkdir()  # as if it had been killed while it wrote
    (folder / "writing-backup-1" / "latest.weights.h5").write_bytes(b"half")
    model, pairs = fit_script.make(path, jit_compile=compiled)
    begun = []
    begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    fit_script.fit(model, pairs, folder, save_freq, begin)
    assert begun == [1]
    assert int(model.optimizer.iterations) == 10 * fit_script.EPOCHS
    for weight, found, value in zip(model.weights, model.get_weights(), unbroken, strict=True):
        np.testing.assert_array_equal(found, value, err_msg=weight.path)
    assert not folder.exists()


# ---- learning


@pytest.fixture(scope="module")
def learned(path, tmp_path_factory):
    """The history of a fit to one batch, and where TensorBoard wrote."""
    model, pairs = fit_script.make(path, dropout_rate=0.0, batch_size=47)
    model.compile(
        training.AdamW(0.02, weight_decay=0.0, clipnorm=1.0),
        training.MaskedCrossEntropy(),
        metrics=[training.MaskedAccuracy(), training.MaskedPerplexity()],
        jit_compile=False,
    )
    folder = tmp_path_factory.mktemp("board")
    callbacks = []
    if importlib.util.find_spec("tensorboard"):
        callbacks.append(keras.callbacks.TensorBoard(str(folder), write_graph=False))
    # Every batch has the same targets: a mean over batches is one over tokens.
    data = pairs.dataset().cache().repeat(15)
    fitted = model.fit(data, epochs=11, shuffle=False, verbose=0, callbacks=callbacks)
    return fitted.history, folder


def test_a_tiny_task_is_learned_by_heart(learned):
    history, _ = learned
    assert history["loss"][-1] < 0.03 < 1 < history["loss"][0]
    assert history["accuracy"][-1] == 1.0
    np.testing.assert_allclose(history["perplexity"], np.exp(history["loss"]), rtol=1e-4)


def test_tensorboard_has_something_to_read(learned):
    pytest.importorskip("tensorboard")
    events = list(learned[1].rglob("events.out.tfevents.*"))
    assert len(events) == 1
    content = events[0].read_bytes()
    for name in (b"epoch_loss", b"epoch_accuracy", b"epoch_perplexity"):
        assert content.count(name) >= 1
