"""Training a part of an encoder: freezing, rates that decrease with depth, low-rank updates."""

import collections
import numbers
import os
from collections.abc import Sequence

import keras

from keras_xfmr.common.types import Config, Mixin, Self

FREEZE_KEYS = ("frozen", "trainable")  # entries of a configuration, by `freeze_config`


class Adaptable(Mixin):
    """A mixin for encoders that sets which weights are trained, also in a saved model."""

    def freeze(self, num_layers: int, *, embeddings: bool = True) -> None:
        """Freezes the embeddings and the first `num_layers` blocks.

        The other blocks are trained; with low-rank updates, only their updates. Compile the model
        again afterwards.

        Args:
            num_layers: how many blocks, from the first on.
            embeddings: whether to freeze the embeddings, too.

        Raises:
            ValueError: there are fewer blocks.

        Example:

        >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=2)
        >>> bert.freeze(1)
        >>> [block.trainable for block in bert.encoder_blocks]
        [False, True]
        """
        if not 0 <= num_layers <= len(self.encoder_blocks):
            raise ValueError(
                f"`num_layers` must lie in 0 .. {len(self.encoder_blocks)}, the number of blocks. "
                f"Received: {num_layers}."
            )
        for layer in self.embedding_layers():
            _set_trainable(layer, not embeddings)
        for i, block in enumerate(self.encoder_blocks):
            _set_trainable(block, i >= num_layers)
        if self._lora:
            self._train_updates_alone()

    def layer_learning_rates(self, decay: float) -> dict[str, float]:
        """Factors of the learning rate that decrease from the top block to the embeddings.

        decay^(num_layers - i) for block i, decay^(num_layers + 1) for the embeddings, 1 for the
        rest (Howard and Ruder 2018; Clark et al. 2020).

        Args:
            decay: the ratio of a block's rate to that of the block above it, in (0, 1].

        Returns:
            A dictionary for `keras_xfmr.training.AdamW(learning_rate_factors=...)`.

        Raises:
            ValueError: `decay` is not in (0, 1].

        Example:

        >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=2)
        >>> bert.layer_learning_rates(0.5)["encoder_1"]
        0.5
        """
        if not 0 < decay <= 1:
            raise ValueError(f"`decay` must lie in (0, 1]. Received: {decay}.")
        count = len(self.encoder_blocks)
        factors = {layer.name: decay ** (count + 1) for layer in self.embedding_layers()}
        factors |= {block.name: decay ** (count - i) for i, block in enumerate(self.encoder_blocks)}
        return factors

    def enable_lora(
        self, rank: int, *, targets: Sequence[str] = ("query", "value"), alpha: float | None = None
    ) -> None:
        """Freezes the encoder and gives its projections trainable low-rank updates.

        W + alpha / rank * A B (Hu et al. 2022), by Keras' own `enable_lora`: for query, key and
        value, whose kernels are `[D, N, H]`, each of the N heads has its own A `[D, rank]`, and all
        share B `[rank, H]`. Call it again for other targets. `save_pretrained` writes the merged
        weights; a saved model also keeps the updates, so training can continue. Compile the model
        again afterwards.

        Args:
            rank: of A and B.
            targets: names among `"query"`, `"key"`, `"value"`, `"attention_output"`, `"inner"`,
                `"output"`, the projections of every block, and `"pooler"`.
            alpha: by default `rank`.

        Raises:
            ValueError: a rank that is not positive, targets that are unknown or already have
                updates.

        Example:

        >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
        >>> bert.enable_lora(2, targets=["query"])
        >>> sorted({weight.name for weight in bert.trainable_weights})
        ['lora_kernel_a', 'lora_kernel_b']
        """
        dense = collections.defaultdict(list)
        for block in self.encoder_blocks:
            for layer in block.projections():
                dense[layer.name].append(layer)
        if self.pooler is not None:
            dense["pooler"].append(self.pooler)
        if not isinstance(rank, numbers.Integral) or rank < 1:
            raise ValueError(f"`rank` must be a positive integer. Received: {rank!r}.")
        if not targets or set(targets) - set(dense):
            raise ValueError(f"`targets` must be among {tuple(dense)}. Received: {targets!r}.")
        if again := set(targets) & set(self._lora):
            raise ValueError(
                f"{sorted(again)} have low-rank updates already, by an earlier `enable_lora`. "
                f"Received: targets={targets!r}."
            )
        for name in targets:
            for layer in dense[name]:
                layer.enable_lora(int(rank), lora_alpha=alpha)
            self._lora[name] = [int(rank), alpha]
        self._train_updates_alone()

    def _train_updates_alone(self):
        for weight in self.weights:
            if "lora" not in weight.name:
                weight.trainable = False

    # ---- in a configuration

    def get_config(self) -> Config:
        lora = {"lora": self._lora} if self._lora else {}
        frozen = freeze_config(self, self.weights)
        return {**self._config, "name": self.name, **lora, **frozen}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> Self:
        config = dict(config)
        lora, frozen = config.pop("lora", {}), {}
        for key in FREEZE_KEYS:
            if key in config:
                frozen[key] = config.pop(key)
        model = cls(**config)
        for name, (rank, alpha) in lora.items():
            model.enable_lora(rank, targets=[name], alpha=alpha)
        freeze_again(model, model.weights, **frozen)
        return model


def freeze_config(model, weights):
    """The frozen weights, as entries of a configuration."""
    paths = [path for path, weight in _paths(weights).items() if not weight.trainable]
    noted = {"frozen": paths} if paths else {}
    return noted if model.trainable else {**noted, "trainable": False}


def freeze_again(model, weights, frozen=(), trainable=True):
    """Freezes the weights of `freeze_config`, so that `trainable = True` undoes it as before."""
    weights = _paths(weights)
    if lost := set(frozen) - set(weights):
        raise ValueError(f"The model has no weights {sorted(lost)[:3]} to keep frozen.")
    for path in frozen:
        weights[path].trainable = False
    for layer in model.layers:
        trained = any(weight.trainable for weight in layer.weights)
        if layer.weights and not trained and not isinstance(layer, keras.Model):
            layer.trainable = False
    if not trainable:
        model.trainable = False


def _set_trainable(layer, value):
    # On TensorFlow, setting the value that an attribute already has does not reach the layers
    # inside.
    layer.trainable = not value
    layer.trainable = value


def _paths(weights):
    """Weights by their paths, without the beginning that all share, such as an outer layer."""
    parts = [weight.path.split("/") for weight in weights]
    shared = len(os.path.commonprefix([part[:-1] for part in parts]))
    return {"/".join(part[shared:]): weight for part, weight in zip(parts, weights)}
