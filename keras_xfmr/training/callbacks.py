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

    Args:
        backup_dir: folder for the backups; removed when training ends, unless
            `delete_checkpoint=False`.
        data: the data set that is fitted, with a method `seek(epoch, batch)` that makes its next
            iteration start there, such as `keras_xfmr.text.PairDataset`. Without it a broken epoch
            is repeated from its first batch.
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
        newest = self._newest()
        super().__init__(str(newest or self._root / "none"), save_freq=save_freq)
        if data is None and save_freq != "epoch":
            raise ValueError(
                "A backup inside an epoch can only be taken up again by data that can start "
                "there. Pass `data=` with a method `seek(epoch, batch)`, or save_freq='epoch'. "
                f"Received: data=None, save_freq={save_freq!r}."
            )
        self._data = data
        self._delete = delete_checkpoint
        self._epoch, self._first_batch = 0, 0
        if newest is not None:
            position = json.loads((newest / METADATA).read_text("utf8"))
            self._epoch, self._first_batch = position["epoch"], position["batch"]

    def _newest(self):
        """The backup with the furthest position; folders of another form are not ours."""
        folders = self._root.glob("backup-*-*")
        return max(folders, key=lambda f: [int(n) for n in f.name.split("-")[1:]], default=None)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch != self._epoch:
            self._epoch, self._first_batch = epoch, 0
        if self._data is not None:
            self._data.seek(self._epoch, self._first_batch)

    def on_train_batch_end(self, batch, logs=None):
        done = self._first_batch + batch + 1
        if self.save_freq != "epoch" and done % self.save_freq == 0:
            self._save(self._epoch, done)

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
        (aside / METADATA).write_text(json.dumps({"epoch": epoch, "batch": batch}), "utf8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        for other in self._root.iterdir():
            if other != final and other.name.startswith(("backup-", "writing-")):
                shutil.rmtree(other, ignore_errors=True)
