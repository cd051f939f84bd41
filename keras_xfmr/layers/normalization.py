"""Layer normalization over the last axis, with backend-specific kernels."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_xfmr import kernels
from keras_xfmr.common.checks import check_epsilon
from keras_xfmr.common.types import Tensor
from keras_xfmr.layers.base import Checked


@keras.saving.register_keras_serializable("keras_xfmr")
class LayerNorm(Checked, keras.layers.LayerNormalization):
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta (Ba et al. 2016, equation 4).

    The arguments and weights of `keras.layers.LayerNormalization`; the statistics are float32 in
    every precision.

    Example:

    >>> LayerNorm(epsilon=1e-12)(keras.random.normal((2, 5, 8))).shape
    (2, 5, 8)
    """

    token_wise = True

    def __init__(self, axis: int | Sequence[int] = -1, epsilon: float = 1e-3, **kwargs) -> None:
        super().__init__(axis=axis, epsilon=check_epsilon("epsilon", epsilon), **kwargs)

    def call(self, inputs: Tensor) -> Tensor:
        rms_scaling = getattr(self, "rms_scaling", False)  # deprecated in Keras' layer
        if rms_scaling or not _is_last_axis(self.axis, inputs):
            return super().call(inputs)
        outputs = kernels.layer_norm(inputs, self.gamma, self.beta, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)


@keras.saving.register_keras_serializable("keras_xfmr")
class RMSNorm(Checked, keras.layers.RMSNormalization):
    """gamma * x / sqrt(mean(x^2) + epsilon) (Zhang and Sennrich 2019, equation 4).

    The arguments and weights of `keras.layers.RMSNormalization`, over the last axis.

    Example:

    >>> RMSNorm()(keras.random.normal((2, 5, 8))).shape
    (2, 5, 8)
    """

    token_wise = True

    def __init__(self, axis: int = -1, epsilon: float = 1e-6, **kwargs) -> None:
        super().__init__(axis=axis, epsilon=check_epsilon("epsilon", epsilon), **kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        if not _is_last_axis(self.axis, inputs):
            return super().call(inputs)
        return kernels.rms_norm(inputs, self.scale, self.epsilon)


def _is_last_axis(axis, inputs):
    axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
    return axes in ([-1], [len(inputs.shape) - 1])
