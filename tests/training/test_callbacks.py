"""`BackupAndRestore` on a model that is quick to fit, with data that can start at any batch."""

import contextlib
import functools
import json
import pathlib

import keras
import numpy as np
import pytest

from keras_xfmr import kernels, training

pytestmark = pytest.mark.portable

BATCHES, ROWS, EPOCHS = 7, 5, 3


class Data(keras.utils.PyDataset):
    """Batches in an order that the epoch decides."""

    def __init__(self):
        super().__init__()
        draw = np.random.default_rng(3)
        self.x = draw.normal(size=(BATCHES, ROWS, 11)).astype("float32")
        self.y = draw.normal(size=(BATCHES, ROWS, 2)).astype("float32")
        self.seek(0)

    def seek(self, epoch, batch=0):
        self.order = np.random.default_rng(epoch).permutation(BATCHES)[batch:]

    def dataset(self):
        return self

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        i = self.order[index]
        return self.x[i], self.y[i]


class Watch(keras.callbacks.Callback):
    """Notes the epochs that begin, and breaks off after a batch."""

    def __init__(self, epoch=None, batch=None):
        super().__init__()
        self.place, self.begun = (epoch, batch), []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if (self.begun[-1], batch) == self.place:
            raise KeyboardInterrupt


def make(steps_per_execution=1, **options):
    keras.utils.set_random_seed(5)
    dense, dropout = keras.layers.Dense, keras.layers.Dropout
    model = keras.Sequential([keras.Input((11,)), dense(13), dropout(0.3), dense(2)])
    optimizer = training.AdamW(training.InverseSqrtSchedule(13, 7), **options)
    model.compile(optimizer, "mse", jit_compile=False, steps_per_execution=steps_per_execution)
    optimizer.build(model.trainable_variables)  # or TensorFlow traces the step twice
    return model


def fit(model, backup, watch=None, data=None, epochs=EPOCHS):
    watch = watch or Watch()
    data = backup._data if data is None else data
    fitted = model.fit(data, epochs=epochs, verbose=0, shuffle=False, callbacks=[backup, watch])
    assert fitted.epoch == list(range(epochs))  # those before the kill, too
    assert len(fitted.history["loss"]) == epochs
    return watch.begun


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The weights of a run that nothing disturbs."""
    model = make()
    folder = tmp_path_factory.mktemp("unbroken") / "backup"
    fit(model, training.BackupAndRestore(folder, data=Data()))
    return model.get_weights()


def same_weights(model, expected):
    for weight, found, value in zip(model.weights, model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, value, err_msg=weight.path)


def test_a_late_worker_takes_up_what_the_chief_found_and_all_wait_before_it_writes(
    tmp_path, monkeypatch
):
    with pytest.raises(KeyboardInterrupt):
        fit(make(), training.BackupAndRestore(tmp_path, data=Data(), save_freq=3), Watch(0, 3))
    (tmp_path / "backup-000001-000000000").mkdir()  # the chief has written it meanwhile
    (tmp_path / "backup-000001-000000000" / "training_metadata.json").write_text("{}")
    of_chief, model, events = [1, 0, 3], make(), []

    def noting(name, function):
        def run(*args, **kwargs):
            events.append(pathlib.Path(args[0]).parent.name if name == "load" else name)
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(kernels, "of_chief", lambda m, x: of_chief.pop(0) if of_chief else x)
    monkeypatch.setattr(kernels, "sum_over_workers", noting("wait", lambda *_: None))
    for name in ("load", "save"):
        function = getattr(model, f"{name}_weights")
        monkeypatch.setattr(model, f"{name}_weights", noting(name, lambda p, f=function: f(p)))
    fit(model, training.BackupAndRestore(tmp_path, data=Data(), save_freq=3))
    assert events[1:4] == ["backup-000000-000000003", "wait", "save"]


@pytest.mark.parametrize(
    "epoch, batch, save_freq",
    [
        (0, 0, 2),
        (1, 3, 7),
        (2, 6, "epoch"),
        *(
            pytest.param(*kill, often, marks=pytest.mark.slow)
            for kill in [(0, 0), (0, 6), (1, 3), (2, 6)]
            for often in [2, 7, "epoch"]
        ),
    ],
)
def test_a_broken_run_goes_on_to_the_same_weights(epoch, batch, save_freq, unbroken, tmp_path):
    root = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        backup = training.BackupAndRestore(root, data=Data(), save_freq=save_freq)
        fit(make(), backup, Watch(epoch, batch))
    model = make()
    begun = fit(model, training.BackupAndRestore(root, data=Data(), save_freq=save_freq))
    inside = save_freq != "epoch" and batch + 1 >= save_freq
    assert begun == list(range(epoch + inside, EPOCHS))
    assert int(model.optimizer.iterations) == EPOCHS * BATCHES
    same_weights(model, unbroken)
    assert not root.exists()


@pytest.mark.slow
def test_a_run_that_is_broken_again_and_again_goes_on(unbroken, tmp_path):
    root = tmp_path / "backup"
    for place in ((0, 4), (1, 1), (1, 3), (2, 5)):
        backup = training.BackupAndRestore(root, data=Data(), save_freq=3)
        with pytest.raises(KeyboardInterrupt):
            fit(make(), backup, Watch(*place))
    model = make()
    fit(model, training.BackupAndRestore(root, data=Data(), save_freq=3))
    same_weights(model, unbroken)


@pytest.mark.slow
def test_an_average_of_the_weights_is_taken_up_again(tmp_path):
    weights = []
    for places in ((), ((1, 3),)):
        root = tmp_path / "backup"
        for place in places:
            backup = training.BackupAndRestore(root, data=Data(), save_freq=3)
            with pytest.raises(KeyboardInterrupt):
                fit(make(use_ema=True, ema_momentum=0.7), backup, Watch(*place))
        model = make(use_ema=True, ema_momentum=0.7)
        fit(model, training.BackupAndRestore(root, data=Data(), save_freq=3))
        weights.append(model.get_weights())
    same_weights(model, weights[0])


def test_only_the_newest_backup_is_kept_and_where_asked_to_the_end(tmp_path):
    root = tmp_path / "new" / "backup"
    backup = training.BackupAndRestore(root, data=Data(), save_freq=3, delete_checkpoint=False)
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append([f.name for f in root.glob("*")])
    )
    model = make()
    model.fit(Data(), epochs=1, verbose=0, shuffle=False, callbacks=[backup, look])
    third, sixth = ["backup-000000-000000003"], ["backup-000000-000000006"]
    assert seen == [[]] * 2 + [third] * 3 + [sixth] * 2
    last = ["backup-000001-000000000"]
    assert [folder.name for folder in root.iterdir()] == last
    again = make()
    backup = training.BackupAndRestore(root, data=Data(), delete_checkpoint=False)
    assert fit(again, backup, epochs=1) == []  # nothing was left to do
    same_weights(again, model.get_weights())
    backup.on_epoch_end(0)  # once more at the same place
    assert [folder.name for folder in root.iterdir()] == last


@pytest.mark.slow
def test_several_steps_an_execution_are_backed_up_when_enough_have_passed(unbroken, tmp_path):
    root = tmp_path / "backup"
    backup = training.BackupAndRestore(root, data=Data(), save_freq=3)
    with pytest.raises(KeyboardInterrupt):
        fit(make(steps_per_execution=2), backup, Watch(1, 3))
    position = json.loads(next(root.glob("*/training_metadata.json")).read_text())
    assert (position["epoch"], position["batch"]) == (1, 4)
    model = make(steps_per_execution=2)
    assert fit(model, training.BackupAndRestore(root, data=Data(), save_freq=3)) == [2]
    for found, expected in zip(model.get_weights(), unbroken, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_was_half_written_is_passed_over(unbroken, tmp_path):
    for name in ("writing-backup-1", "other"):
        (tmp_path / "backup" / name).mkdir(parents=True)
        (tmp_path / "backup" / name / "latest.weights.h5").write_bytes(b"half")
    model = make()
    fit(model, training.BackupAndRestore(tmp_path / "backup", data=Data(), save_freq=5))
    same_weights(model, unbroken)


def test_a_backup_that_is_broken_off_leaves_the_one_before(tmp_path, monkeypatch):
    root, model, paths = tmp_path / "backup", make(), []
    save = model.save_weights

    def break_off_the_second(path):
        paths.append(path)
        if len(paths) == 2:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        save(path)

    monkeypatch.setattr(model, "save_weights", break_off_the_second)
    with pytest.raises(KeyboardInterrupt):
        fit(model, training.BackupAndRestore(root, data=Data()))
    assert [folder.name for folder in root.glob("backup-*")] == ["backup-000001-000000000"]


@pytest.mark.slow
def test_one_callback_serves_two_fits(tmp_path):
    backup = training.BackupAndRestore(tmp_path / "backup", data=Data(), save_freq=3)
    first, second = make(), make()
    assert fit(first, backup) == fit(second, backup) == [0, 1, 2]
    same_weights(second, first.get_weights())


@pytest.mark.slow
@pytest.mark.parametrize("epoch, batch", [(1, 3), (2, 6)])
def test_the_history_has_the_epochs_before_the_kill(epoch, batch, tmp_path):
    def run(watch):
        backup = training.BackupAndRestore(root, data=Data(), save_freq=2, delete_checkpoint=False)
        return make().fit(
            backup._data, validation_data=Data(), epochs=EPOCHS, verbose=0, shuffle=False,
            callbacks=[backup, watch],
        ).history  # fmt: skip

    root = tmp_path / "unbroken"
    expected = run(Watch())
    assert run(Watch()) == expected  # nothing was left to do
    root = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run(Watch(epoch, batch))
    found = run(Watch())
    assert found.keys() == expected.keys() == {"loss", "val_loss"}
    assert np.isfinite(found["loss"]).all() and np.isnan(found["val_loss"][epoch])
    for name, values in found.items():
        values[epoch] = expected[name][epoch]  # of the broken epoch there is but the rest
        assert values == expected[name]


@pytest.mark.parametrize(
    "name, length",
    [
        ("latest.weights.h5", 99),
        pytest.param("latest.weights.h5", None, marks=pytest.mark.slow),
        pytest.param("training_metadata.json", 99, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_backup_is_named(name, length, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(make(), training.BackupAndRestore(tmp_path, data=Data(), save_freq=2), Watch(1, 3))
    (file,) = tmp_path.glob(f"*/{name}")
    content = file.read_bytes()
    file.unlink()
    if length:
        file.write_bytes(content[:length])
    with pytest.raises(ValueError, match="is damaged, or of another model. Remove .* Rec"):
        fit(make(), training.BackupAndRestore(tmp_path, data=Data(), save_freq=2))


@pytest.mark.slow
def test_what_a_later_callback_logs_stays_in_its_epoch(tmp_path):
    data = Data()
    backup = training.BackupAndRestore(tmp_path, data=data, save_freq=2, delete_checkpoint=False)
    rate = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(of_epoch=float(epoch))
    )
    for watch in (Watch(1, 3), Watch()):
        broken = pytest.raises(KeyboardInterrupt) if watch.place[0] else contextlib.nullcontext()
        with broken:
            history = make().fit(
                data, epochs=3, verbose=0, shuffle=False, callbacks=[backup, rate, watch]
            ).history
    assert len(history["loss"]) == 3
    np.testing.assert_array_equal(history["of_epoch"], [np.nan, np.nan, 2.0])


@pytest.mark.slow
def test_after_a_run_resumed_in_its_last_epoch_the_data_begin_the_next(tmp_path):
    root = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        backup = training.BackupAndRestore(root, data=Data(), save_freq=2)
        fit(make(), backup, Watch(EPOCHS - 1, 4))
    data = Data()
    assert fit(make(), training.BackupAndRestore(root, data=data, save_freq=2)) == []
    after = Data()
    after.seek(EPOCHS)
    np.testing.assert_array_equal(data.order, after.order)


def test_epochs_that_are_no_epochs_of_the_data_are_refused(tmp_path):
    data = Data()
    backup = training.BackupAndRestore(tmp_path / "backup", data=data)
    with pytest.raises(ValueError, match="Leave out `steps_per_epoch`.*of 4 batches in `fit` and"):
        make().fit(data, steps_per_epoch=4, epochs=2, verbose=0, callbacks=[backup])
    data.seek(0, 3)  # the rest of an epoch is none, either
    with pytest.raises(ValueError, match="of 4 batches in `fit` and of 7 batches in `data`"):
        make().fit(data, epochs=2, verbose=0, shuffle=False, callbacks=[backup])


def test_a_backup_of_data_of_another_length_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        backup = training.BackupAndRestore(tmp_path, data=Data(), save_freq=2)
        fit(make(), backup, Watch(1, 3))

    class Shorter(Data):
        def seek(self, epoch, batch=0):
            super().seek(epoch, batch)
            self.order = self.order[:4]

    with pytest.raises(ValueError, match="belongs to other data.* epochs of 4 batches, for 7"):
        fit(make(), training.BackupAndRestore(tmp_path, data=Shorter(), save_freq=2))


@pytest.mark.requires_tensorflow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras says so of such an epoch
def test_data_of_unknown_length_are_refused_where_keras_counts_a_step_too_many(tmp_path):
    import tensorflow as tf

    class Uncounted(Data):
        def dataset(self):
            batches = (tf.data.Dataset.from_tensors(self[i]) for i in range(len(self)))
            whole = functools.reduce(lambda a, b: a.concatenate(b), batches)
            return whole.filter(lambda x, y: True)  # of a length that TensorFlow does not know

    data, model = Uncounted(), make()
    model.fit(data.dataset(), verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == BATCHES + 1  # no longer so: let them be taken
    with pytest.raises(ValueError, match=r"Call `count\(\)` of the data before .* unknown length"):
        backup = training.BackupAndRestore(tmp_path / "backup", data=data)
        make().fit(data.dataset(), verbose=0, shuffle=False, callbacks=[backup])


@pytest.mark.slow
def test_a_fit_after_a_resumed_one_begins_by_itself(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(make(), training.BackupAndRestore(tmp_path, data=Data(), save_freq=2), Watch(1, 3))
    model = make()
    fit(model, training.BackupAndRestore(tmp_path, data=Data(), save_freq=2))
    assert model.fit(Data(), epochs=2, verbose=0).epoch == [0, 1]


def test_without_data_a_broken_epoch_is_repeated(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(make(), training.BackupAndRestore(tmp_path / "backup"), Watch(1, 3), data=Data())
    model = make()
    assert fit(model, training.BackupAndRestore(tmp_path / "backup"), data=Data()) == [1, 2]
    assert int(model.optimizer.iterations) == EPOCHS * BATCHES


def test_a_number_of_batches_needs_data(tmp_path):
    with pytest.raises(ValueError, match="Pass `data=` .*Received: data=None, save_freq=3"):
        training.BackupAndRestore(tmp_path / "backup", save_freq=3)


@pytest.mark.parametrize("save_freq", ["batch", 0, -1, True, False, 2.5, None])
def test_how_often_must_be_an_epoch_or_a_number_of_batches(save_freq, tmp_path):
    with pytest.raises(ValueError, match=f"`save_freq` must be .*Received: {save_freq!r}"):
        training.BackupAndRestore(tmp_path / "backup", data=Data(), save_freq=save_freq)


def test_folders_of_others_are_let_be(tmp_path):
    names = ["backup-good", "backup-000001-000000002.keep", "backup-1-2"]
    for name in names:
        (tmp_path / name).mkdir()
    fit(make(), training.BackupAndRestore(tmp_path, data=Data(), delete_checkpoint=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*names, f"backup-{EPOCHS:06d}-000000000"]
    )


@pytest.mark.parametrize("backup_dir", ["", None])
def test_no_folder_at_all_is_refused(backup_dir):
    with pytest.raises(ValueError, match=f"must name a folder.* Received: {backup_dir!r}"):
        training.BackupAndRestore(backup_dir, data=Data())


def test_only_the_backups_are_removed(tmp_path, monkeypatch):
    backup = "backup-000001-000000000"
    names = {
        "thesis.txt", "latest.weights.h5", "writing-23/thesis.txt", "writing-23/latest.weights.h5",
        "writing-backup-7/thesis.txt", f"{backup}/thesis.txt",
        f"backup-{EPOCHS:06d}-000000000/thesis.txt",
    }  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("years of work")
    (tmp_path / "writing-backup-7" / "latest.weights.h5").write_bytes(b"half")
    (tmp_path / backup / "latest.weights.h5").write_bytes(b"without metadata no backup")
    monkeypatch.chdir(tmp_path)
    assert fit(make(), training.BackupAndRestore(".", data=Data())) == [0, 1, 2]
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert {name for name in left if (tmp_path / name).is_file()} == names
    assert {(tmp_path / name).read_text() for name in names} == {"years of work"}


def test_backups_are_removed_by_hand_too(tmp_path):
    backup = training.BackupAndRestore(tmp_path / "a", data=Data(), delete_checkpoint=False)
    assert backup.newest_backup() is None
    fit(make(), backup)
    assert backup.newest_backup() == tmp_path / "a" / f"backup-{EPOCHS:06d}-000000000"
    backup.remove_backups()
    assert not (tmp_path / "a").exists()


def test_what_is_no_local_folder_and_no_data_is_refused():
    with pytest.raises(ValueError, match="`backup_dir` must be a local folder.*'gs://a/b'"):
        training.BackupAndRestore("gs://a/b")
    with pytest.raises(ValueError, match="`data` must have the methods .* Received: a str"):
        training.BackupAndRestore("backup", "epoch", data="epoch")
