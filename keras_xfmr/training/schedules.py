"""Learning-rate schedules."""

import keras
from keras import ops

from keras_xfmr.common.types import Config, Index, Tensor


@keras.saving.register_keras_serializable("keras_xfmr")
class InverseSqrtSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """scale * d_model^-0.5 * min(step^-0.5, step * warmup_steps^-1.5).

    Vaswani et al. 2017, equation 3: linear warm-up, then the inverse square root of the step. The
    highest rate is at step = warmup_steps. Steps count from 1: Keras' iteration 0 is step 1.

    Args:
        d_model: D of the model.
        warmup_steps: positive; 4000 in the paper.
        scale: a factor; 1 in the paper.

    Raises:
        ValueError: `d_model` or `warmup_steps` is less than 1, `scale` negative.

    Example:

    >>> round(float(InverseSqrtSchedule(512, warmup_steps=4000)(3999)), 6)  # (512 * 4000)^-0.5
    0.000699
    """

    def __init__(self, d_model: int, warmup_steps: int = 4000, *, scale: float = 1.0) -> None:
        super().__init__()
        for name, value in {"d_model": d_model, "warmup_steps": warmup_steps}.items():
            if not value >= 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {value!r}.")
        if not scale >= 0:
            raise ValueError(f"`scale` must not be negative. Received: {scale!r}.")
        self.d_model = d_model
        self.warmup_steps = warmup_steps
        self.scale = scale

    def __call__(self, step: Index) -> Tensor:
        step = ops.cast(step, "float32") + 1.0
        rate = ops.minimum(ops.rsqrt(step), step * self.warmup_steps**-1.5)
        return self.scale * self.d_model**-0.5 * rate

    def get_config(self) -> Config:
        return {"d_model": self.d_model, "warmup_steps": self.warmup_steps, "scale": self.scale}


@keras.saving.register_keras_serializable("keras_xfmr")
class LinearWarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 to `peak` in the warm-up, then falls linearly to 0 at `total_steps`.

    Devlin et al. 2019, appendix A.2. Steps count from 1: Keras' iteration 0 is step 1.

    Args:
        peak: the highest rate, at step = warmup_steps.
        warmup_steps: at least 0.
        total_steps: larger than `warmup_steps`; from there on the rate is 0.

    Raises:
        ValueError: numbers of steps outside these ranges, or a negative `peak`.

    Example:

    >>> round(float(LinearWarmupDecay(1.0, 10, 110)(59)), 6)
    0.5
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        super().__init__()
        if not peak >= 0:
            raise ValueError(f"`peak` must not be negative. Received: {peak!r}.")
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "`warmup_steps` must be at least 0 and smaller than `total_steps`. "
                f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}."
            )
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def __call__(self, step: Index) -> Tensor:
        step = ops.cast(step, "float32") + 1.0
        rising = step / max(self.warmup_steps, 1)
        falling = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        rate = ops.where(step < self.warmup_steps, rising, ops.maximum(falling, 0.0))
        return self.peak * rate

    def get_config(self) -> Config:
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }
