"""What the models on top of `Bert` share."""

import keras

from keras_xfmr import functional
from keras_xfmr.models.bert import Bert, symbolic_inputs
from keras_xfmr.models.core.data import ChecksData, check_range
from keras_xfmr.models.core.fine_tuning import FREEZE_KEYS, freeze_again, freeze_config
from keras_xfmr.models.core.pretrained import Pretrained


class BertHead(Pretrained, ChecksData, keras.Model):
    """Inputs, configuration, looking at data, making the encoder."""

    family = Bert.family
    pooled = False  # whether the head reads the pooled vector
    further_inputs = ()  # names, besides the encoder's

    def _graph(self, bert, outputs_of, name, extra_inputs=None, **kwargs):
        """Builds the functional graph `outputs_of(sequence, pooled, inputs)`."""
        self.refuse_unknown(kwargs)
        inputs = symbolic_inputs()
        sequence, pooled = bert(inputs)
        inputs = {**inputs, **(extra_inputs or {})}
        outputs = outputs_of(sequence, pooled, inputs)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.dtype_policy = bert.dtype_policy

    def complete_inputs(self, inputs):
        """As `Bert.complete_inputs`."""
        inputs = self.bert.complete_inputs(inputs, self.further_inputs)
        for name in self.further_inputs:  # masked positions
            values = functional.concrete_value(inputs[name])
            check_range(f"`{name}`", values, inputs["token_ids"].shape[-1])
        return inputs

    def _dense(self, bert, units, name):
        return keras.layers.Dense(
            units, kernel_initializer=bert.initializer(), dtype=bert.dtype_policy, name=name
        )

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
        pooler = None if self.pooled else self.bert.pooler
        unread = set() if pooler is None else {id(weight) for weight in pooler.weights}
        return (
            [v for v in variables if id(v) not in unread],
            [v for v in variables if id(v) in unread],
        )

    # ---- in a configuration

    def get_config(self):
        bert = keras.saving.serialize_keras_object(self.bert)
        own = {**self._config, "name": self.name, **freeze_config(self, self._own_weights())}
        return {"bert": bert, **own}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {**config, "bert": keras.saving.deserialize_keras_object(config["bert"])}
        noted = {key: config.pop(key) for key in FREEZE_KEYS if key in config}
        model = cls(**config)
        freeze_again(model, model._own_weights(), **noted)
        return model

    def _own_weights(self):
        inner = {id(weight) for weight in self.bert.weights}
        return [weight for weight in self.weights if id(weight) not in inner]

    # ---- data are looked at

    def named(self, inputs):
        return self.bert.named(inputs)

    def ranges(self, inputs, labels=None):
        yield from self.bert.ranges(inputs)
        inputs = self.named(inputs)
        if inputs.get("token_ids") is None:
            return  # the call says so
        length = inputs["token_ids"].shape[-1]
        for name in self.further_inputs:  # masked positions
            if inputs.get(name) is not None and length is not None:
                yield f"`{name}`", inputs[name], length, "", None
        if labels is not None:
            yield from self.label_ranges(labels, length)

    def label_ranges(self, labels, length):
        """The labels' part of `ranges`; `length` is T, None where it is not known yet."""
        return ()

    @classmethod
    def from_preset(cls, preset, **overrides):
        """The sizes of a published model, with freshly drawn weights: see `Bert.from_preset`.

        Args:
            preset: its name.
            **overrides: arguments of the head and of `Bert`.

        Example::

            model = BertClassifier.from_preset("tiny", num_classes=2)
        """
        mine, encoder = cls._divide(overrides)
        return cls(Bert.from_preset(preset, **encoder), **mine)

    @classmethod
    def _for_checkpoint(cls, checkpoint, overrides):
        mine, encoder = cls._divide(overrides)
        arguments = {**checkpoint.arguments, "pooler": cls.pooled, **encoder}
        return cls(Bert(**arguments), **{**cls._head_arguments(checkpoint, mine), **mine})

    @classmethod
    def _head_arguments(cls, checkpoint, given):
        """What the published configuration says about the head, besides what is `given`."""
        return {}

    @classmethod
    def _divide(cls, arguments):
        """Arguments of the head, and those of the encoder; `dropout_rate` is both's."""
        own, encoder = set(cls.argument_names()) - {"bert"}, Bert.argument_names()
        cls.refuse_unknown({name: arguments[name] for name in set(arguments) - {*own, *encoder}})
        theirs = (set(arguments) - own) | {"dropout_rate"}
        mine = {key: value for key, value in arguments.items() if key in own}
        return mine, {key: value for key, value in arguments.items() if key in theirs}


def check_encoder(bert):
    """The encoder that a head is given, seen to be one."""
    if not isinstance(bert, Bert):
        raise TypeError(f"`bert` must be a keras_xfmr.models.Bert. Received: {bert!r}.")
    return bert
