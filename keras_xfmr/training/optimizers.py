"""Optimizers whose configuration survives saving."""

import keras


@keras.saving.register_keras_serializable("keras_xfmr")
class AdamW(keras.optimizers.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), none on norms and biases.

    w <- w - lr * weight_decay * w - lr * m_hat / (sqrt(v_hat) + epsilon). The arguments of
    `keras.optimizers.AdamW` (also gradient accumulation, clipping and weight averaging: see
    `gradient_accumulation_steps`, `clipnorm`, `use_ema`). Keras' own
    `exclude_from_weight_decay` is not saved with a model; `no_decay` is.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: the factor above; 0.01 for BERT.
        no_decay: variables whose name contains one of these do not decay.
        **kwargs: of `keras.optimizers.AdamW`.

    Example:

    >>> optimizer = AdamW(1e-4, weight_decay=0.01, clipnorm=1.0)
    >>> optimizer.get_config()["no_decay"]
    ('bias', 'gamma', 'beta', 'scale')
    """

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.01,
        *,
        no_decay=("bias", "gamma", "beta", "scale"),
        name="adamw",
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.no_decay = tuple(no_decay)
        if self.no_decay:
            self.exclude_from_weight_decay(var_names=list(self.no_decay))

    def get_config(self):
        return {**super().get_config(), "no_decay": self.no_decay}
