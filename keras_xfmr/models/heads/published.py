"""What heads over a published encoder share: loading and saving of weights."""

from typing import Any

from keras_xfmr.common.types import Self
from keras_xfmr.models.core.pretrained import Pretrained


class OverPublished(Pretrained):
    """A mixin for heads over an encoder of a published family; it comes before the head's class.

    Attributes:
        over: the encoder's class. `argument` is the head's name for the encoder.
    """

    over: Any = None

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> Self:
        """A head over an encoder of a published size, with random weights.

        Args:
            preset: a name that the encoder's `from_preset` takes.
            **overrides: arguments of the head and of the encoder.

        Example::

            model = BertClassifier.from_preset("tiny", num_classes=2)
        """
        mine, encoder = cls._divide(overrides)
        return cls(cls.over.from_preset(preset, **{**cls._pooler(mine), **encoder}), **mine)

    @classmethod
    def _for_checkpoint(cls, checkpoint, overrides):
        mine, encoder = cls._divide(overrides)
        arguments = {**checkpoint.arguments, **cls._pooler(mine), **encoder}
        return cls(cls.over(**arguments), **{**cls._head_arguments(checkpoint, mine), **mine})

    @classmethod
    def _pooler(cls, mine):
        """`pooler=False` for an encoder that has one, if this head does not read it."""
        has = "pooler" in cls.over.argument_names()
        return {} if not has or cls.reads_pooled(mine) else {"pooler": False}

    @classmethod
    def _divide(cls, arguments):
        """Arguments of the head, and those of the encoder; both take `dropout_rate`."""
        own = set(cls.argument_names()) - {cls.argument}
        encoder = cls.over.argument_names()
        cls.refuse_unknown({name: arguments[name] for name in set(arguments) - {*own, *encoder}})
        theirs = (set(arguments) - own) | {"dropout_rate"}
        mine = {key: value for key, value in arguments.items() if key in own}
        return mine, {key: value for key, value in arguments.items() if key in theirs}

    def _label_config(self, architecture):
        labels = self.labels or [f"LABEL_{i}" for i in range(self.num_classes)]
        several = getattr(self, "multi_label", False)
        return {
            "architectures": [architecture],
            "classifier_dropout": self._config["dropout_rate"],
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
            **({"problem_type": "multi_label_classification"} if several else {}),
        }
