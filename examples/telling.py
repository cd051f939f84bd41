"""Progress messages of the examples: the current stage, and the time that training will take."""

import math
import time

import keras

START = time.time()


def stage(message):
    """Prints the name of a stage, and the seconds since the start."""
    print(f"[{time.time() - START:5.0f} s] {message}", flush=True)


class TimeLeft(keras.callbacks.Callback):
    """Prints that the first step compiles, and once how long the training will take, estimated
    from some steps.

    Args:
        first, last: the measured steps. The first step of a run compiles.
    """

    def __init__(self, first=5, last=25):
        super().__init__()
        self._first, self._last, self._seen, self._began, self._epoch = first, last, 0, None, 0

    def on_train_begin(self, logs=None):
        print("The first step takes longer, because it compiles the model.", flush=True)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._seen += 1
        if self._seen == self._first:
            self._began = time.time()
        if self._seen == self._last and self.params.get("steps"):
            rate = (time.time() - self._began) / (self._last - self._first)
            steps = self.params["steps"] * (self.params["epochs"] - self._epoch) - batch - 1
            if steps > 0:
                print(f"\n{steps:,} steps are left: about {spell(steps * rate)}", flush=True)


def trained(model):
    """How many weights are trained, and of how many, as text."""
    count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    every = f"{model.count_params():,} weights"
    return every if count == model.count_params() else f"{count:,} of {every}"


def spell(seconds):
    """A duration as text."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
