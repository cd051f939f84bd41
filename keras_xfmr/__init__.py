"""Reusable Keras 3 layers that compose into Transformer models.

The packages: `functional` (mathematics), `layers`, `models`, `training`, `decoding`, `checkpoints`,
    `text`, `serving` and `viz`. The last three need TensorFlow's text operations or matplotlib, so
    they are loaded at first use.
"""

import importlib
import importlib.util

from keras_xfmr import checkpoints, decoding, functional, layers, models, training

__version__ = "0.1.0"
_LAZY = ("serving", "text", "viz")

__all__ = ["checkpoints", "decoding", "functional", "layers", "models", "training", *_LAZY]
if importlib.util.find_spec("matplotlib") is None:
    __all__.remove("viz")  # so that `from keras_xfmr import *` works without it


def __getattr__(name):
    if name in _LAZY:
        return importlib.import_module(f"keras_xfmr.{name}")
    raise AttributeError(f"module 'keras_xfmr' has no attribute {name!r}")


def __dir__():
    return sorted({*__all__, "viz", "__version__"})
