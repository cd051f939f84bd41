"""What the models on top of an encoder share."""

import types
from collections.abc import Mapping

import keras

from keras_xfmr.common.types import ArrayLike, Config, ModelInputs, Self, Tensor
from keras_xfmr.models.core.arguments import NamedArguments
from keras_xfmr.models.core.data import ValidatesData
from keras_xfmr.models.core.encoder import (
    Encoder,
    document_starts,
    reading_of,
    without_pooler,
)
from keras_xfmr.models.core.fine_tuning import FREEZE_KEYS, freeze_again, freeze_config
from keras_xfmr.models.core.inputs import Input


class Head(NamedArguments, ValidatesData, keras.Model):
    """A model on top of an `Encoder`: its graph and its configuration.

    It owns the layers of the encoder that it uses; several heads may share an encoder. A subclass
    calls `_over(encoder)` first, makes its layers, and ends with `_graph(outputs_of)`.
    """

    pooled = False  # whether the head reads the pooled vector
    further_inputs: tuple[Input, ...] = ()  # `Input`s, besides the encoder's
    argument = "encoder"  # how the constructor names the encoder
    one_a_row = ""  # what it gives for a row, if packed encoders are refused

    def _over(self, encoder):
        """Takes the encoder."""
        if not isinstance(encoder, Encoder):
            raise TypeError(
                f"`{self.argument}` must be an encoder, such as a keras_xfmr.models.Bert. "
                f"Received: {encoder!r}."
            )
        if encoder.packed and self.one_a_row:
            raise ValueError(
                f"{type(self).__name__} gives {self.one_a_row} for each row, and rows of a packed "
                "encoder may hold several documents. Make the encoder with packed=False; the "
                "weights are the same. Received: an encoder with packed=True."
            )
        # Keras does not track a namespace; otherwise the head would own the encoder's pooler.
        self._held = types.SimpleNamespace(encoder=encoder)
        self._reading = reading_of(encoder, self.pooled)  # its weights come before the head's own
        self.scalar_mix = encoder.scalar_mix() if encoder.mixes else None

    @property
    def encoder(self) -> Encoder:
        """The encoder."""
        return self._held.encoder

    def __dir__(self) -> list[str]:
        # Keras saves every model that `dir` lists. The graph already has the encoder's layers.
        return [name for name in super().__dir__() if name not in ("encoder", self.argument)]

    @classmethod
    def reads_pooled(cls, arguments: Config) -> bool:
        """Whether a head of these arguments reads the pooled vector."""
        return cls.pooled

    def _graph(self, outputs_of, config, name, kwargs):
        """Builds the functional graph `outputs_of(sequence, pooled, inputs)`."""
        self.refuse_unknown(kwargs)
        encoder = self.encoder
        read = encoder.declared_inputs
        if encoder.packed and self.pooled:
            read = read.and_also(document_starts(encoder))
        self.declared_inputs = read.and_also(*self.further_inputs)
        inputs = self.declared_inputs.symbolic()
        read = {one.name: inputs[one.name] for one in read}
        outputs = outputs_of(*self._vectors(inputs, self._reading(read)), inputs)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.dtype_policy = encoder.dtype_policy
        self._config = config

    def _vectors(self, inputs, read):
        """The vectors of every position, and the pooled one, or None."""
        if self.scalar_mix is None:
            sequence, *pooled = read
            return sequence, pooled[0] if pooled else None
        sequence = self.scalar_mix(read)
        if not self.pooled:
            return sequence, None
        return sequence, self.encoder.pool(sequence, inputs["attention_mask"])

    def _dense(self, units, name, **options):
        return keras.layers.Dense(
            units,
            kernel_initializer=self.encoder.initializer(),
            dtype=self.encoder.dtype_policy,
            name=name,
            **options,
        )

    def warn_of(self, inputs: Mapping[str, ArrayLike]) -> None:
        self.encoder.warn_of(inputs)

    def hidden_states(self, inputs: ModelInputs) -> list[Tensor]:
        """The encoder's hidden states, see `Encoder.hidden_states`."""
        return self.encoder.hidden_states(self._of_encoder(inputs))

    def attention_weights(self, inputs: ModelInputs) -> list[Tensor]:
        """The encoder's attention weights, see `Encoder.attention_weights`."""
        return self.encoder.attention_weights(self._of_encoder(inputs))

    def _of_encoder(self, inputs):
        inputs = self.validated_inputs(inputs)
        return {one.name: inputs[one.name] for one in self.encoder.declared_inputs}

    # ---- in a configuration

    def get_config(self) -> Config:
        encoder = keras.saving.serialize_keras_object(self.encoder)
        if not self.pooled:
            encoder["config"] = without_pooler(encoder["config"])
        own = {**self._config, "name": self.name, **freeze_config(self, self._own_weights())}
        return {self.argument: encoder, **own}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> Self:
        encoder = dict(config[cls.argument])
        if not cls.reads_pooled(config):  # files of version 0.1.0 have the pooler
            encoder["config"] = without_pooler(encoder["config"])
        config = {**config, cls.argument: keras.saving.deserialize_keras_object(encoder)}
        noted = {key: config.pop(key) for key in FREEZE_KEYS if key in config}
        model = cls(**config)
        freeze_again(model, model._own_weights(), **noted)
        return model

    def _own_weights(self):
        inner = {id(weight) for weight in self.encoder.weights}
        return [weight for weight in self.weights if id(weight) not in inner]

    @classmethod
    def _head_arguments(cls, checkpoint, given):
        """What a published configuration says about the head, besides what is `given`."""
        return {}
