"""Losses, metrics, schedules, optimizers, callbacks and strategies for `compile` and `fit`."""

import keras

from keras_xfmr.kernels import is_chief
from keras_xfmr.training.averaging import average_weights
from keras_xfmr.training.callbacks import BackupAndRestore
from keras_xfmr.training.layout import layout_map
from keras_xfmr.training.losses import GlobalMean, MaskedCrossEntropy
from keras_xfmr.training.memory import memory_estimate
from keras_xfmr.training.metrics import MaskedAccuracy, MaskedPerplexity
from keras_xfmr.training.optimizers import AdamW
from keras_xfmr.training.schedules import InverseSqrtSchedule, LinearWarmupDecay

if keras.config.backend() == "tensorflow":
    from keras_xfmr.training.distribution import (  # noqa: F401
        MirroredStrategy,
        MultiWorkerStrategy,
    )

__all__ = [
    "AdamW",
    "BackupAndRestore",
    "GlobalMean",
    "InverseSqrtSchedule",
    "LinearWarmupDecay",
    "MaskedAccuracy",
    "MaskedCrossEntropy",
    "MaskedPerplexity",
    "average_weights",
    "is_chief",
    "layout_map",
    "memory_estimate",
]
if keras.config.backend() == "tensorflow":
    __all__ += ["MirroredStrategy", "MultiWorkerStrategy"]
