"""Optimizers that save their whole configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from absl import logging

from keras_xfmr import kernels
from keras_xfmr.common.arguments import refuse_unknown
from keras_xfmr.common.types import Config, Tensor

NO_DECAY = ("bias", "gamma", "beta", "scale")


@keras.saving.register_keras_serializable("keras_xfmr")
class AdamW(keras.optimizers.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), none on norms and biases.

    w <- w - lr * weight_decay * w - lr * m_hat / (sqrt(v_hat) + epsilon). It has the arguments of
    `keras.optimizers.AdamW`: gradient accumulation (`gradient_accumulation_steps`), weight
    averaging (`use_ema`), and clipping: `global_clipnorm` clips by the norm of all gradients, as
    BERT does; `clipnorm` clips each variable separately. Keras does not save
    `exclude_from_weight_decay` with a model; `no_decay` is saved.

    With `gradient_accumulation_steps` a schedule counts batches, not updates, as with every
    optimizer of Keras: for 1,000 updates of 4 batches each, `total_steps` is 4,000. A mean over
    tokens, such as `MaskedCrossEntropy`, is computed for each batch, so batches with fewer tokens
    count as much as the others; `keras_xfmr.text.accumulate` avoids this. Keras does not support
    gradient accumulation and `ema_overwrite_frequency` under `MirroredStrategy` and
    `MultiWorkerMirroredStrategy`: both are refused when the optimizer is built.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: the factor above; by default 0.01, as for BERT (Keras' default is 0.004).
        no_decay: variables whose name contains one of these strings (or this string) do not decay.
            The name is the variable's own (`"kernel"`, `"gamma"`), not that of its layer or model.
            A string of yours that is in no name gives a warning.
        learning_rate_factors: name of a layer -> factor of the learning rate of its variables, such
            as from `Bert.layer_learning_rates`; other variables have factor 1. Weight decay uses
            the full rate.
        **kwargs: of `keras.optimizers.AdamW`.

    Raises:
        TypeError: an unknown argument.
        ValueError: it is built in the scope of a strategy that does not support it, see above.

    Example:

    >>> optimizer = AdamW(1e-4, weight_decay=0.01, global_clipnorm=1.0)
    >>> optimizer.get_config()["no_decay"]
    ('bias', 'gamma', 'beta', 'scale')
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        weight_decay: float = 0.01,
        *,
        no_decay: str | Sequence[str] = NO_DECAY,
        learning_rate_factors: Mapping[str, float] | None = None,
        name: str = "adamw",
        **kwargs,
    ) -> None:
        refuse_unknown(AdamW, kwargs)
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.no_decay = _names(no_decay)
        self._excluded = False  # True after a call of Keras' method
        self.learning_rate_factors = dict(learning_rate_factors or {})

    def get_config(self) -> Config:
        factors = self.learning_rate_factors
        return {
            **super().get_config(),
            "no_decay": self.no_decay,
            "learning_rate_factors": factors,
        }

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[keras.Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Keras' method; replaces `no_decay`, and is not saved."""
        self._excluded = True
        super().exclude_from_weight_decay(var_list, var_names)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        kernels.refuse_branches(self)
        if not self._excluded:
            kept = [v for v in variables if any(name in v.name for name in self.no_decay)]
            super().exclude_from_weight_decay(kept)
            own = set(self.no_decay) - set(NO_DECAY)
            _warn("no_decay", {name for name in own if not any(name in v.name for v in kept)})
        super().build(variables)
        self._factor_of = {}
        unused = set(self.learning_rate_factors)
        for variable in variables:
            layers = variable.path.split("/")
            unused -= set(layers)
            factors = [f for name, f in self.learning_rate_factors.items() if name in layers]
            # On TensorFlow, updates come with the backend's variable; under a strategy, with its
            # copy on a replica; elsewhere, with Keras' own.
            for key in (variable, variable.value, *kernels.copies(variable.value)):
                self._factor_of[id(key)] = factors[0] if factors else 1.0

        _warn("learning_rate_factors", unused)

    def apply(
        self,
        grads: Sequence[Tensor | None],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> Any:
        """Keras' method; it clips sums: over replicas, and over the tokens of a row of a table.

        Keras clips the gradients of each replica before it adds them up, so several replicas would
        train differently from one. On TensorFlow it computes the norm of a table's gradient before
        the gradients of a repeated token are added up.
        """
        if self._clips():
            grads = [
                None if g is None else kernels.dense(kernels.sum_over_replicas(g)) for g in grads
            ]
        return super().apply(grads, trainable_variables)

    def _clips(self):
        return any((self.clipnorm, self.global_clipnorm, self.clipvalue))

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        if self._clips() and kernels.strategy_replicas() > 1:  # the gradients are sums already
            gradient = gradient / kernels.strategy_replicas()
        if self.learning_rate_factors:
            learning_rate = learning_rate * self._factor_of[id(variable)]
        super().update_step(gradient, variable, learning_rate)


def _warn(argument, names):
    if names:
        logging.warning(
            "`%s` names what is not trained, or not there: %s.", argument, ", ".join(sorted(names))
        )


def _names(no_decay):
    """`no_decay` as a tuple; ValueError where it is no name, or holds what is none."""
    names = (no_decay,) if isinstance(no_decay, str) else no_decay
    listed = isinstance(names, (list, tuple, set, frozenset))
    if not listed or not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            "`no_decay` must be a name or several, which parts of the names of variables have. For "
            f"decay of all weights pass `()`. Received: {no_decay!r}."
        )
    return tuple(names)
