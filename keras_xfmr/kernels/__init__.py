"""The formulas for each backend: a portable version, and one for TensorFlow on a CPU.

All other folders call these names and need not know the version. (The layout of matrices in a
search is decided in `layers/projections.py`.)
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
    from keras_xfmr.kernels import portable as phrasing  # type: ignore[no-redef]  # the same names

blockwise_attention = phrasing.blockwise_attention
build_training = phrasing.build_training
copies = phrasing.copies
dense = phrasing.dense
dropout = phrasing.dropout
empty = phrasing.empty
is_chief = phrasing.is_chief
layer_norm = phrasing.layer_norm
of_chief = phrasing.of_chief
program = phrasing.program
projected_lstm = phrasing.projected_lstm
recompute = phrasing.recompute
refuse_branches = phrasing.refuse_branches
refusing_uneven = phrasing.refusing_uneven
replicas = phrasing.replicas
replicas_of = phrasing.replicas_of
step_memory = phrasing.step_memory
slope = phrasing.slope
strategy_replicas = phrasing.strategy_replicas
sum_over_replicas = phrasing.sum_over_replicas
sum_over_workers = phrasing.sum_over_workers
tensor_from_array = phrasing.tensor_from_array
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
    "copies",
    "dense",
    "dropout",
    "empty",
    "is_chief",
    "layer_norm",
    "of_chief",
    "program",
    "projected_lstm",
    "recompute",
    "refuse_branches",
    "refusing_uneven",
    "replicas",
    "replicas_of",
    "rms_norm",
    "slope",
    "softmax",
    "step_memory",
    "strategy_replicas",
    "sum_over_replicas",
    "sum_over_workers",
    "tensor_from_array",
    "top_k",
    "uniform",
    "uniform_of_rows",
    "validated",
    "write",
]
