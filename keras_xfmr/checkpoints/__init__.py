"""Published weights: safetensors, `pytorch_model.bin`, HDF5 and TensorFlow checkpoints.

The readers know formats and no model. They need neither torch nor TensorFlow, and run no code of a
file. An array takes no more memory than its bytes in the file (twice that for float16).
"""

from keras_xfmr.checkpoints.checkpoint import Checkpoint
from keras_xfmr.checkpoints.files import read_checkpoint
from keras_xfmr.checkpoints.formats.hdf5 import write_hdf5
from keras_xfmr.checkpoints.formats.safetensors import write_safetensors
from keras_xfmr.checkpoints.mapping import LoadReport, load_pretrained, save_pretrained
from keras_xfmr.checkpoints.published import open_pretrained

__all__ = [
    "Checkpoint",
    "LoadReport",
    "load_pretrained",
    "open_pretrained",
    "read_checkpoint",
    "save_pretrained",
    "write_hdf5",
    "write_safetensors",
]
