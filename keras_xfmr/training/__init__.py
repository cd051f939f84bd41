"""What stands beside a model in `compile` and `fit`: losses, metrics, schedules, optimizers,
callbacks."""

from keras_xfmr.training.callbacks import BackupAndRestore
from keras_xfmr.training.losses import MaskedCrossEntropy
from keras_xfmr.training.metrics import MaskedAccuracy, MaskedPerplexity
from keras_xfmr.training.optimizers import AdamW
from keras_xfmr.training.schedules import InverseSqrtSchedule, LinearWarmupDecay

__all__ = [
    "AdamW",
    "BackupAndRestore",
    "InverseSqrtSchedule",
    "LinearWarmupDecay",
    "MaskedAccuracy",
    "MaskedCrossEntropy",
    "MaskedPerplexity",
]
