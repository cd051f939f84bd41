"""One of several workers, which may kill or stop itself, for test_distribution.py:
python killed_worker_script.py folder backups kill_at [plain or timeout]"""

import json
import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_xfmr import models, text, training

STEPS, EPOCHS = 5, 3


def blocks(file):
    """Blocks of a text, shuffled in each epoch; every worker has a copy of the text."""
    letters = np.random.default_rng(3).choice(list("abcdefgh"), (16, 4))
    file.write_text("\n\n".join("".join(row) for row in letters))
    tokenizer = text.CharacterTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", *"abcdefgh"])
    data = text.LanguageModelDataset(file, tokenizer, block_length=5, batch_size=4)
    assert data.count() == STEPS
    return data


def main(folder, backups, kill_at, kind="60"):
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    backups = backups.replace("INDEX", str(index))
    if kind == "plain":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        strategy = training.MultiWorkerStrategy(timeout=float(kind))
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = models.Gpt(13, d_model=6, num_heads=3, ffn_dim=11, num_layers=1, max_length=7)
        loss = training.MaskedCrossEntropy(pad_id=-1)
        model.compile(training.AdamW(0.02), loss, metrics=[training.MaskedAccuracy(pad_id=-1)])

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            at = f"{index}, {self.epoch}, {batch}"
            if at == kill_at:
                os.kill(os.getpid(), signal.SIGKILL if kind == "60" else signal.SIGSTOP)

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    data = blocks(pathlib.Path(folder) / f"text-{index}.txt")
    backup = training.BackupAndRestore(backups, data=data, save_freq=2)
    with strategy.scope():  # where Keras makes a variable when it saves weights
        model.fit(
            data.dataset(), epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[backup, Kill()]
        )
    np.savez(pathlib.Path(folder) / f"weights-{index}", *model.get_weights())
    print("done", training.is_chief(strategy))


if __name__ == "__main__":
    main(*sys.argv[1:])
