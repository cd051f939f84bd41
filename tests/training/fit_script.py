"""A tiny training run that can be killed, for test_fit.py; run as a program or imported."""

import os
import signal
import sys

import keras

from keras_xfmr import models, text, training

EPOCHS = 2
LETTERS = "abcdefgh"


def write_pairs(path, rows=47):
    """Words to copy, of up to nine letters; no two alike."""
    with open(path, "w", encoding="utf8") as file:
        for i in range(rows):
            word = "".join(LETTERS[(i * 7 + j * j) % 8] for j in range(2 + i % 8))
            file.write(f"{word}\t{word}\n")


def make(path, dropout_rate=0.3, jit_compile=False, **options):
    """A compiled model and its data: 10 batches, in one bucket unless `options` say otherwise."""
    keras.utils.set_random_seed(5)
    tokenizer = text.CharacterTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", *LETTERS])
    options = {"batch_size": 5, "buckets": (11,), "shuffle_buffer": 101, **options}
    pairs = text.PairDataset(path, tokenizer, tokenizer, **options)
    pairs.count()
    model = models.Transformer(
        12, d_model=14, num_heads=2, ffn_dim=19, num_layers=1, dropout_rate=dropout_rate
    )
    model.compile(
        training.AdamW(training.InverseSqrtSchedule(14, 7)),
        training.MaskedCrossEntropy(0.1),
        metrics=[training.MaskedAccuracy()],
        jit_compile=jit_compile,
    )
    return model, pairs


class Stop(keras.callbacks.Callback):
    """Stops the run after a batch of an epoch, by what it is given to call."""

    def __init__(self, epoch, batch, stop):
        super().__init__()
        self.place, self.stop = (epoch, batch), stop

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            self.stop()


def fit(model, pairs, backup_dir, save_freq, *callbacks):
    backup = training.BackupAndRestore(backup_dir, data=pairs, save_freq=save_freq)
    callbacks = [backup, *callbacks]
    model.fit(pairs.dataset(), epochs=EPOCHS, verbose=0, shuffle=False, callbacks=callbacks)


def main(path, backup, save_freq, epoch, batch, compiled):
    model, pairs = make(path, jit_compile=compiled == "True")
    save_freq = save_freq if save_freq == "epoch" else int(save_freq)
    kill = Stop(int(epoch), int(batch), lambda: os.kill(os.getpid(), signal.SIGKILL))
    fit(model, pairs, backup, save_freq, kill)


if __name__ == "__main__":
    main(*sys.argv[1:])
