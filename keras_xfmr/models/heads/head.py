"""What the models on top of an encoder share."""

import keras

from keras_xfmr.models.core.arguments import NamedArguments
from keras_xfmr.models.core.data import ValidatesData
from keras_xfmr.models.core.encoder import Encoder
from keras_xfmr.models.core.fine_tuning import FREEZE_KEYS, freeze_again, freeze_config


class Head(NamedArguments, ValidatesData, keras.Model):
    """A model on top of an `Encoder`: its graph, its configuration, what is trained of it.

    A subclass calls `_over(encoder)` first, makes its layers, and ends with `_graph(outputs_of)`.
    """

    pooled = False  # whether the head reads the pooled vector
    further_inputs = ()  # `Input`s, besides the encoder's
    argument = "encoder"  # how the constructor names the encoder

    def _over(self, encoder):
        """Takes the encoder."""
        if not isinstance(encoder, Encoder):
            raise TypeError(
                f"`{self.argument}` must be an encoder, such as a keras_xfmr.models.Bert. "
                f"Received: {encoder!r}."
            )
        self.encoder = encoder

    def _graph(self, outputs_of, config, name, kwargs):
        """Builds the functional graph `outputs_of(sequence, pooled, inputs)`."""
        self.refuse_unknown(kwargs)
        encoder = self.encoder
        self.declared_inputs = encoder.declared_inputs.and_also(*self.further_inputs)
        inputs = self.declared_inputs.symbolic()
        read = {one.name: inputs[one.name] for one in encoder.declared_inputs}
        sequence, pooled = encoder(read, validate=False)
        outputs = outputs_of(sequence, pooled, inputs)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.dtype_policy = encoder.dtype_policy
        self._config = config

    def _dense(self, units, name):
        return keras.layers.Dense(
            units,
            kernel_initializer=self.encoder.initializer(),
            dtype=self.encoder.dtype_policy,
            name=name,
        )

    def warn_of(self, inputs):
        self.encoder.warn_of(inputs)

    # ---- what is trained: a pooler that this head does not read has no gradient in it

    @property
    def trainable_variables(self):
        return self._divided(super().trainable_variables)[0]

    @property
    def trainable_weights(self):
        return self._divided(super().trainable_weights)[0]

    @property
    def non_trainable_variables(self):
        return super().non_trainable_variables + self._divided(super().trainable_variables)[1]

    @property
    def non_trainable_weights(self):
        return super().non_trainable_weights + self._divided(super().trainable_weights)[1]

    def _divided(self, variables):
        """Those that this head reads, and the others."""
        pooler = None if self.pooled else self.encoder.pooler
        unread = set() if pooler is None else {id(weight) for weight in pooler.weights}
        return (
            [v for v in variables if id(v) not in unread],
            [v for v in variables if id(v) in unread],
        )

    # ---- in a configuration

    def get_config(self):
        encoder = keras.saving.serialize_keras_object(self.encoder)
        own = {**self._config, "name": self.name, **freeze_config(self, self._own_weights())}
        return {self.argument: encoder, **own}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        encoder = keras.saving.deserialize_keras_object(config[cls.argument])
        config = {**config, cls.argument: encoder}
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
