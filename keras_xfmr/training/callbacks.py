"""Callbacks for `fit`."""

import contextlib
import json
import os
import pathlib
import re
import tempfile
from typing import Any

import keras
import numpy as np

from keras_xfmr import kernels
from keras_xfmr.common.types import Logs, Path
from keras_xfmr.training import shared_folder

WEIGHTS, METADATA = "latest.weights.h5", "training_metadata.json"
BACKUP = re.compile(r"backup-(\d{6,})-(\d{9,})")  # of an epoch and a batch
ASIDE = re.compile(r"writing-backup-\d+")  # of a process


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """`keras.callbacks.BackupAndRestore` that loses nothing when the process is killed.

    Keras' own overwrites its files in place (a kill during writing leaves half a backup, or new
    weights with an old epoch number), and repeats an interrupted epoch from its first batch. Here
    every backup is a folder of two files. They are written elsewhere and moved into it, the
    metadata last; a folder without metadata is no backup. With `data` training resumes at the exact
    batch, and the final weights equal those of a run without interruption.

    The rest of an interrupted epoch runs first, in its own `fit`, without validation. Then the
    outer `fit` continues with whole epochs. The history of `fit` includes the epochs before the
    kill. For an interrupted epoch it has the averages of its rest, and NaN for quantities that were
    not measured. Other callbacks do not see that rest. So put changes at every batch, such as a
    schedule of the learning rate, into the optimizer, and weights into the data, not into
    `class_weight`. Other callbacks start again in a resumed run: Keras' `EarlyStopping` and
    `ModelCheckpoint` forget the best value so far.

    Put this callback before those that change the model's weights at the end of an epoch, such as
    `keras.callbacks.SwapEMAWeights(swap_on_epoch=True)`. After them it would back up the averages,
    and a resumed run would continue from the averages.

    With several workers (`MultiWorkerStrategy`) the first one, the chief, writes the backups, and
    all workers restore them, from one folder that all of them see. If a worker is lost, the others
    end with an error; start all of them again.

    It removes only its own files: the two files of a backup, and a folder if nothing else is in it.
    Other files and folders stay.

    Args:
        backup_dir: folder for the backups. They are removed when training ends, and the folder too
            if it is then empty, unless `delete_checkpoint=False`.
        save_freq: `"epoch"`, or a number of batches, at least 1 (needs `data`).
        data: the training data, with the methods `seek(epoch, batch)` and `dataset()` (the batches
            from there to the end of the epoch), such as `keras_xfmr.text.PairDataset`. Without it
            an interrupted epoch is repeated from its first batch. An epoch of `fit` must be an
            epoch of `data`: a smaller `steps_per_epoch` is refused.
        delete_checkpoint: whether to remove the backups at the end of training.

    Raises:
        ValueError: another `save_freq`; a number of batches without `data`; `data` without these
            methods; no folder (`""`, None), or one that is not local; from `fit`: epochs with
            another length than those of `data`; data of unknown length without XLA on TensorFlow; a
            folder that another worker does not see; a backup that is damaged, of another model, or
            of data with another length.

    Example::

        pairs = keras_xfmr.text.PairDataset("pairs.tsv", tokenizer, tokenizer, batch_size=64)
        backup = BackupAndRestore("backup", data=pairs, save_freq=100)
        model.fit(pairs.dataset(), epochs=10, shuffle=False, callbacks=[backup])
    """

    def __init__(
        self,
        backup_dir: Path,
        save_freq: str | int = "epoch",
        *,
        data: Any = None,
        delete_checkpoint: bool = True,
    ) -> None:
        if backup_dir is None or not str(backup_dir):
            raise ValueError(
                "`backup_dir` must name a folder, such as 'backup'. Is an environment variable "
                f"missing? Received: {backup_dir!r}."
            )
        if "://" in str(backup_dir):
            raise ValueError(f"`backup_dir` must be a local folder. Received: {str(backup_dir)!r}.")
        self._root = pathlib.Path(backup_dir)
        number = isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0
        if save_freq != "epoch" and not number:
            raise ValueError(
                "`save_freq` must be 'epoch' or a number of batches, at least 1. "
                f"Received: {save_freq!r}."
            )
        super().__init__(str(self._root), save_freq=save_freq)
        if data is None and save_freq != "epoch":
            raise ValueError(
                "A backup inside an epoch needs data that can resume there. Pass `data=` with the "
                "methods `seek` and `dataset`, or save_freq='epoch'. "
                f"Received: data=None, save_freq={save_freq!r}."
            )
        if data is not None and not (hasattr(data, "seek") and hasattr(data, "dataset")):
            raise ValueError(
                "`data` must have the methods `seek` and `dataset`. Received: a "
                f"{type(data).__name__}."
            )
        self._data = data
        self._delete = delete_checkpoint

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._epochs = []  # of this run: {"epoch": 0, "logs": {"loss": 0.5}, "broken": False}
        self._batches = None  # batches of an epoch of `data`
        shared_folder.check(self.model, self._root)
        self._writes = kernels.is_chief(getattr(self.model, "distribute_strategy", None))
        if self._data is not None:
            self._check_length()
        position = self._restore_newest()
        if position is not None:
            self._epochs = position.get("epochs", [])
            self._check_backup(position)
            if position["batch"]:
                self._finish_epoch(position["epoch"], position["batch"])
                self._restore_newest()
        self._earlier = len(self._epochs)

    def _check_length(self):
        """With `steps_per_epoch` Keras reads several epochs of the data with one iterator, and
        ignores `seek`."""
        steps = self.params.get("steps")
        self._data.seek(0, 0)
        whole = self._batches = _length(self._data.dataset())
        on_tensorflow = keras.config.backend() == "tensorflow"
        if whole is None and on_tensorflow and not (self.model.jit_compile or steps):
            raise ValueError(
                "Keras on TensorFlow without XLA counts one step too many in an epoch of unknown "
                "length, and a resumed run would not. Call `count()` of the data before "
                "`dataset()`, or compile with jit_compile=True. Received: data of unknown length."
            )
        if steps is not None and steps != whole:
            found = "of unknown length (see `count`)" if whole is None else f"of {whole} batches"
            raise ValueError(
                "An epoch of `fit` must be an epoch of `data`; otherwise an interrupted run could "
                "not resume at its batch. Leave out `steps_per_epoch`, fit `data.dataset()` as it "
                "is, or pass data with shorter epochs. Received: epochs of "
                f"{steps} batches in `fit` and {found} in `data`."
            )

    def _check_backup(self, position):
        length = position.get("length", self._batches)
        known = length is not None and self._batches is not None
        if known and length != self._batches:
            raise ValueError(
                f"The backup in {str(self._root)!r} belongs to other data. Pass the same data and "
                "batch size as before, or remove it to start again. Received: epochs of "
                f"{self._batches} batches, for {length}."
            )

    def _restore_newest(self):
        """Restores the chief's newest backup on all workers, before the chief can write another.

        Returns:
            The metadata of `_save`, or None if there is no backup.
        """
        newest = self.newest_backup()
        place = (0, 0) if newest is None else map(int, BACKUP.fullmatch(newest.name).groups())
        own = newest is not None, *place
        # A late worker would find what the chief has written meanwhile.
        found, *place = (kernels.of_chief(self.model, int(number)) for number in own)
        if not found:
            return None
        position = self._restore(self._folder(*place))
        kernels.sum_over_workers(self.model, 0)  # waits until all have read it
        return position

    def _folder(self, epoch, batch):
        return self._root / f"backup-{epoch:06d}-{batch:09d}"

    def _restore(self, folder):
        """Keras' own callback loads one backup and tells `fit` where to continue.

        Returns:
            The metadata of `_save`.
        """
        try:
            position = json.loads((folder / METADATA).read_text("utf8"))
            if not (folder / WEIGHTS).is_file():  # Keras would continue without them
                raise FileNotFoundError(f"{WEIGHTS} is missing.")
            keras_callback = keras.callbacks.BackupAndRestore(str(folder))
            keras_callback.set_model(self.model)
            keras_callback.on_train_begin()
            for state, value in zip(self._seed_states(), position["seeds"], strict=True):
                state.assign(value)
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(
                f"The backup in {str(folder)!r} is damaged, or of another model. Remove "
                f"{str(self._root)!r} to start again. Received: {error}"
            ) from error
        return position

    def _seed_states(self):
        """States of the random generators, which a weights file does not contain."""
        weights = {id(weight) for weight in self.model.weights}
        return [v for v in self.model.variables if id(v) not in weights]

    def _finish_epoch(self, epoch, first):
        """Runs the rest in its own `fit`: `train_on_batch` would compile the step for other shapes,
        which rounds differently. Later steps undo what this `fit` sets at its end."""
        self._epoch, self._done = epoch, first
        self._data.seek(epoch, first)
        rest = self._data.dataset()
        if next(iter(rest), None) is None:
            return self._end_broken(epoch, {})
        # The test for a rest was also an iteration; under a strategy Keras reads one batch more.
        self._data.seek(epoch, first)
        history = self.model.history
        backup = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self._data.seek(epoch, first),
            on_train_batch_end=lambda batch, logs: self._after_batch(first + batch + 1),
            on_epoch_end=self._end_broken,
        )
        self.model.fit(
            rest,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
            callbacks=[backup],
        )
        self.model.history = history

    def _end_broken(self, epoch, logs):
        self._end_epoch(epoch, logs, broken=True)
        self._data.seek(epoch + 1, 0)  # `fit` may have no further epoch that would do this

    def newest_backup(self) -> pathlib.Path | None:
        """The folder of the most advanced backup, or None if there is none."""
        names = (BACKUP.fullmatch(file.parent.name) for file in self._root.glob(f"*/{METADATA}"))
        newest = max(filter(None, names), key=lambda m: (int(m[1]), int(m[2])), default=None)
        return newest and self._root / newest[0]

    def remove_backups(self) -> None:
        """Removes the backups in `backup_dir`, and the folder if it is then empty.

        Other files stay. If the call is interrupted, no half backup remains that could be taken for
        a whole one.

        Example::

            training.BackupAndRestore("backup").remove_backups()
        """
        self._remove_all_but(None)
        with contextlib.suppress(OSError):
            self._root.rmdir()

    def _remove_all_but(self, kept):
        for folder in sorted(self._root.glob("*")):  # earlier positions first
            ours = BACKUP.fullmatch(folder.name) or ASIDE.fullmatch(folder.name)
            if ours and folder != kept:
                _remove(folder)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch, self._done = epoch, 0
        if self._data is not None:
            self._data.seek(epoch, 0)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._after_batch(batch + 1)

    def _after_batch(self, done):
        before, self._done = self._done, done  # several batches with steps_per_execution
        if self.save_freq != "epoch" and self._done // self.save_freq > before // self.save_freq:
            self._save(self._epoch, self._done)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._end_epoch(epoch, logs or {}, broken=False)

    def _end_epoch(self, epoch, logs, *, broken):
        logs = {name: np.asarray(value).tolist() for name, value in logs.items()}
        self._epochs.append({"epoch": epoch, "logs": logs, "broken": broken})
        self._save(epoch + 1, 0)

    def on_train_end(self, logs: Logs | None = None) -> None:
        earlier = self._epochs[: self._earlier]
        if earlier:
            _put_before(earlier, self.model.history)
        self.model._initial_epoch = None  # where Keras continues; a later `fit` starts at its own
        if self._delete and self._writes:
            self.remove_backups()

    def _save(self, epoch, batch):
        if not self._writes:  # Keras' way of saving may need all workers
            with tempfile.TemporaryDirectory() as aside:
                self._write(pathlib.Path(aside), epoch, batch)
            return
        final = self._folder(epoch, batch)
        aside = self._root / f"writing-backup-{os.getpid()}"
        aside.mkdir(parents=True, exist_ok=True)
        self._write(aside, epoch, batch)
        final.mkdir(exist_ok=True)
        (final / METADATA).unlink(missing_ok=True)  # of a backup at the same place
        for name in (WEIGHTS, METADATA):
            os.replace(aside / name, final / name)
        self._remove_all_but(final)

    def _write(self, folder, epoch, batch):
        self.model.save_weights(folder / WEIGHTS)
        seeds = [keras.ops.convert_to_numpy(state).tolist() for state in self._seed_states()]
        metadata = {"epoch": epoch, "batch": batch, "seeds": seeds, "epochs": self._epochs}
        metadata["length"] = self._batches
        (folder / METADATA).write_text(json.dumps(metadata), "utf8")


def _remove(folder):
    """Removes the files of `_save` from a folder, and the folder if nothing else is in it."""
    with contextlib.suppress(OSError):
        for name in (METADATA, WEIGHTS):  # without metadata it is no backup
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _length(data):
    """Batches of a data set of Keras, or None if unknown."""
    if hasattr(data, "cardinality"):  # of tf.data, negative where it is unknown or infinite
        length = int(data.cardinality())
        return length if length >= 0 else None
    return len(data) if hasattr(data, "__len__") else getattr(data, "num_batches", None)


def _put_before(epochs, history):
    """Completes a `History` with the epochs before its own."""
    names = dict.fromkeys([*(name for e in epochs for name in e["logs"]), *history.history])
    for name in names:
        own = history.history.get(name, [])
        # Logs of callbacks after this one are in no backup. A quantity that is not measured in
        # every epoch, such as the validation loss, has no value for the others.
        logged_later = len(own) == len(history.epoch) and not any(name in e["logs"] for e in epochs)
        values = [
            e["logs"].get(name, np.nan)
            for e in epochs
            if e["broken"] or logged_later or name in e["logs"]
        ]
        history.history[name] = values + own
    history.epoch = [e["epoch"] for e in epochs] + history.epoch
