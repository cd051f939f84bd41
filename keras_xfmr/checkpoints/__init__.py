"""Published weights: safetensors, `pytorch_model.bin` and TensorFlow checkpoints.

The readers know formats and no model. They need neither torch nor TensorFlow, run no code of a
file, and no array takes more memory than what the file holds of it (twice that for float16).
"""

from keras_xfmr.checkpoints.bert import LoadReport, load_bert, save_bert
from keras_xfmr.checkpoints.bert_checkpoint import open_bert
from keras_xfmr.checkpoints.checkpoint import Checkpoint
from keras_xfmr.checkpoints.files import read_checkpoint
from keras_xfmr.checkpoints.formats.safetensors import write_safetensors

__all__ = [
    "Checkpoint",
    "LoadReport",
    "load_bert",
    "open_bert",
    "read_checkpoint",
    "save_bert",
    "write_safetensors",
]
