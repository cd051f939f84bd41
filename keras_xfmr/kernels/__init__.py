"""How a formula is phrased for a backend: one portable phrasing, one for TensorFlow on a CPU.

Everything above calls these names and need not know which phrasing answers. (How a search lays out
its matrices is decided in `layers/projections.py`.)
"""

import keras

from keras_xfmr.kernels.portable import (
    BLOCK,
    MASKED_SCORE,
    Seen,
    attention,
    rms_norm,
    softmax,
    top_k,
    uniform_of_rows,
)

if keras.config.backend() == "tensorflow":
    from keras_xfmr.kernels import tensorflow as phrasing
else:
    from keras_xfmr.kernels import portable as phrasing

blockwise_attention = phrasing.blockwise_attention
build_training = phrasing.build_training
tensor_from_array = phrasing.tensor_from_array
dropout = phrasing.dropout
empty = phrasing.empty
layer_norm = phrasing.layer_norm
program = phrasing.program
projected_lstm = phrasing.projected_lstm
recompute = phrasing.recompute
uniform = phrasing.uniform
validated = phrasing.validated
write = phrasing.write

__all__ = [
    "BLOCK",
    "MASKED_SCORE",
    "Seen",
    "attention",
    "blockwise_attention",
    "build_training",
    "tensor_from_array",
    "dropout",
    "empty",
    "layer_norm",
    "program",
    "projected_lstm",
    "recompute",
    "rms_norm",
    "softmax",
    "top_k",
    "uniform",
    "uniform_of_rows",
    "validated",
    "write",
]
