"""Callbacks for `fit`."""

import json
import os
import pathlib
import shutil

import keras

WEIGHTS, METADATA = "latest.weights.h5", "training_metadata.json"


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """`keras.callbacks.BackupAndRestore` that loses nothing when the process is killed.

    Keras' own overwrites its files in place (a kill while it writes leaves half a backup, or new
    weights beside an old epoch number) and starts a broken epoch again from its first batch. Here
    every backup is a folder that is written aside and renamed when it is complete, and a `data`
    object goes on at the very batch: the weights at the end are those of a run that was never
    broken.

    An epoch that was broken is ended first, by a `fit` of its own, without validation; then the
    outer `fit` goes on with whole epochs.

    Args:
        backup_dir: folder for the backups; removed when training ends, unless
            `delete_checkpoint=False`.
        data: the data set that is fitted, with the methods `seek(epoch, batch)` and `dataset()`,
            the batches from there to the epoch's end, such as `keras_xfmr.text.PairDataset`.
            Without it a broken epoch is repeated from its first batch.
        save_freq: `"epoch"`, or a number of batches (needs `data`).
        delete_checkpoint: whether to remove the backups at the end of training.

    Raises:
        ValueError: a number of batches without `data`.

    Example::

        pairs = keras_xfmr.text.PairDataset("pairs.tsv", tokenizer, tokenizer, batch_size=64)
        backup = BackupAndRestore("backup", data=pairs, save_freq=100)
        model.fit(pairs.dataset(), epochs=10, callbacks=[backup])
    """

    def __init__(self, backup_dir, data=None, save_freq="epoch", *, delete_checkpoint=True):
        self._root = pathlib.Path(backup_dir)
        super().__init__(str(self._root), save_freq=save_freq)
        if data is None and save_freq != "epoch":
            raise ValueError(
                "A backup inside an epoch can only be taken up again by data that can start "
                "there. Pass `data=` with the methods `seek` and `dataset`, or save_freq='epoch'. "
                f"Received: data=None, save_freq={save_freq!r}."
            )
        self._data = data
        self._delete = delete_checkpoint

    def on_train_begin(self, logs=None):
        newest = self._newest()
        if newest is None:
            return
        position = json.loads((newest / METADATA).read_text("utf8"))
        self._restore(newest)
        if position["batch"]:
            self._finish_epoch(position["epoch"], position["batch"])
            self._restore(self._newest())

    def _restore(self, folder):
        """Lets Keras' own callback load one backup and tell `fit` where to go on."""
        keras_callback = keras.callbacks.BackupAndRestore(str(folder))
        keras_callback.set_model(self.model)
        keras_callback.on_train_begin()
        seeds = json.loads((folder / METADATA).read_text("utf8"))["seeds"]
        for state, value in zip(self._seed_states(), seeds, strict=True):
            state.assign(value)

    def _seed_states(self):
        """Of the random generators, which a file of weights leaves out."""
        weights = {id(weight) for weight in self.model.weights}
        return [v for v in self.model.variables if id(v) not in weights]

    def _finish_epoch(self, epoch, first):
        """By a `fit` of its own: `train_on_batch` would compile the step for other shapes, which
        rounds differently. What it averages or reports at its end is undone by what follows."""
        self._epoch, self._done = epoch, first
        self._data.seek(epoch, first)
        rest = self._data.dataset()
        if next(iter(rest), None) is None:
            return self._save(epoch + 1, 0)
        history = self.model.history
        backup = keras.callbacks.LambdaCallback(
            # Looking whether there is a rest was an iteration, too.
            on_epoch_begin=lambda epoch, logs: self._data.seek(epoch, first),
            on_train_batch_end=lambda batch, logs: self._after_batch(first + batch + 1),
            on_epoch_end=self.on_epoch_end,
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

    def _newest(self):
        """The backup with the furthest position; folders of another form are not ours."""
        folders = self._root.glob("backup-*-*")
        return max(folders, key=lambda f: [int(n) for n in f.name.split("-")[1:]], default=None)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._done = epoch, 0
        if self._data is not None:
            self._data.seek(epoch, 0)

    def on_train_batch_end(self, batch, logs=None):
        self._after_batch(batch + 1)

    def _after_batch(self, done):
        before, self._done = self._done, done  # several batches with steps_per_execution
        if self.save_freq != "epoch" and self._done // self.save_freq > before // self.save_freq:
            self._save(self._epoch, self._done)

    def on_epoch_end(self, epoch, logs=None):
        self._save(epoch + 1, 0)

    def on_train_end(self, logs=None):
        if self._delete:
            shutil.rmtree(self._root, ignore_errors=True)

    def _save(self, epoch, batch):
        final = self._root / f"backup-{epoch:06d}-{batch:09d}"
        aside = self._root / f"writing-{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self.model.save_weights(aside / WEIGHTS)
        seeds = [keras.ops.convert_to_numpy(state).tolist() for state in self._seed_states()]
        metadata = {"epoch": epoch, "batch": batch, "seeds": seeds}
        (aside / METADATA).write_text(json.dumps(metadata), "utf8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        for other in self._root.iterdir():
            if other != final and other.name.startswith(("backup-", "writing-")):
                shutil.rmtree(other, ignore_errors=True)
