"""A KerasHub backbone as a source of weights."""

import re

import numpy as np

from keras_xfmr.checkpoints.checkpoint import Checkpoint


class BackboneCheckpoint(Checkpoint):
    """Arrays that are in memory already, by the paths of their variables."""

    format = "keras_hub"

    def __init__(self, backbone):
        super().__init__(backbone.name)
        self._arrays = {variable.path: np.asarray(variable) for variable in backbone.weights}
        self.shapes = {name: array.shape for name, array in self._arrays.items()}
        self.dtypes = {name: array.dtype.name for name, array in self._arrays.items()}
        self.file_bytes = sum(array.nbytes for array in self._arrays.values())

    def _read(self, name):
        return self._arrays[name]


def is_backbone(source):
    """Whether a source is a Keras model."""
    return hasattr(source, "get_config") and hasattr(source, "weights")


def read_backbone(backbone, families):
    """The family, the configuration by published names, and the weights of a KerasHub backbone.

    Args:
        backbone: the model.
        families: the families that are allowed.

    Raises:
        ValueError: another kind of backbone; one with low-rank updates or quantized weights.
    """
    config, kinds = backbone.get_config(), [kind.__name__ for kind in type(backbone).__mro__]
    wanted = " or ".join(family.title for family in families)
    families = [family for family in families if family.backbone]
    if not families:
        raise ValueError(
            f"Expected a folder: no backbone of KerasHub is read as a {wanted}. Received: a "
            f"{type(backbone).__name__}."
        )
    family = next((f for f in families if f.backbone in kinds), families[0])
    options = [option for option in family.options if option.hub]
    unknown = [option.hub for option in options if option.hub not in config]
    if unknown:
        raise ValueError(
            f"Expected a KerasHub {' or '.join(f.backbone for f in families)}. Received: "
            f"{type(backbone).__name__}, whose configuration lacks {unknown}."
        )
    changed = [v.path for v in backbone.weights if re.search(r"(lora_kernel_[ab]|scale)$", v.path)]
    if changed:
        raise ValueError(
            "Expected a backbone with plain weights. Received: one with low-rank updates or "
            f"quantized: {changed[0]} and others. `backbone.save(FILE)` merges updates, and "
            "`keras.saving.load_model(FILE)` then gives a plain one."
        )
    published = {option.names[0]: config[option.hub] for option in options}
    return family, {**published, **family.backbone_fixed}, BackboneCheckpoint(backbone)
