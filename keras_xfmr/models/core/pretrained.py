"""Loading and saving of published weights."""

import pathlib
from typing import Any

import keras
from absl import logging

from keras_xfmr import checkpoints, kernels
from keras_xfmr.common.types import Config, Path, Self
from keras_xfmr.models.core.arguments import NamedArguments


@keras.saving.register_keras_serializable("keras_xfmr", name="DrawnUnlessLoaded")
class FilledLater(keras.initializers.TruncatedNormal):
    """Skips random initialization, because it is slower than reading a checkpoint.

    It is for the weights of one model, which are all assigned before use. After that, when `filled`
    is set, it draws. A configuration holds it as the truncated normal, so a layer that is made from
    the configuration draws its weights.

    Args:
        mean, stddev, seed: of that truncated normal.
    """

    filled = False

    def __call__(self, shape, dtype=None):
        if not self.filled:
            return kernels.empty(shape, dtype)
        return self.from_config(self.get_config())(shape, dtype)

    def clone(self):
        return self  # so that `filled` reaches every layer

    @classmethod
    def from_config(cls, config):
        return keras.initializers.TruncatedNormal(**config)


def saved_initializer(initializer):
    """An `initializer` argument in a configuration: None where it only skips drawing."""
    later = isinstance(initializer, FilledLater)
    return None if later else keras.initializers.serialize(keras.initializers.get(initializer))


class Pretrained(NamedArguments):
    """A mixin with `from_pretrained` and `save_pretrained`.

    Attributes:
        family: the name of its table in `checkpoints.families`, such as `"bert"`.
        load_report: after `from_pretrained`, a `checkpoints.LoadReport` of what was `loaded`,
            `missing` (randomly initialized), `unexpected` (in the file, not in the model) and
            `tied`; else None.
    """

    family: str | None = None
    load_report = None

    @classmethod
    def from_pretrained(cls, source: Path | keras.Model, **overrides) -> Self:
        """The model with published weights, loaded by name.

        Args:
            source: a Hugging Face folder (`config.json` with `model.safetensors`,
                `pytorch_model.bin`, of either format, or their shards), a TensorFlow 1 checkpoint
                (for BERT a folder with `bert_config.json`), a KerasHub backbone such as
                `BertBackbone`, or for ELMo a folder of bilm-tf (`options.json` and an HDF5 file).
                No code in it is executed. Names may begin with `module.`, `_orig_mod.` or `model.`,
                the prefixes of wrappers. A folder of sentence-transformers may have its transformer
                in a folder `0_...`. A configuration that names neither `model_type` nor
                `architectures` is read as one of this class's family.
            **overrides: arguments that replace those of the source, such as `dropout_rate`, `dtype`
                or `num_classes`. If the source's head has another number of classes, the new head
                is randomly initialized.

        Returns:
            The model; `model.load_report` lists what was loaded. Parts that the source does not
            have (a pooler, a head) are randomly initialized, and logged.

        Raises:
            FileNotFoundError: no such folder (nothing is downloaded), or no configuration or no
                weights in it.
            ValueError: the model is of another family, a weight of the encoder is missing, a shape
                differs, weights are not floating-point numbers, or a file is damaged.

        Example::

            model = BertClassifier.from_pretrained("path/to/kobert", num_classes=2)
            print(model.load_report)
        """
        num_labels = overrides.get("num_classes")
        opened = checkpoints.open_pretrained(source, family=cls.family, num_labels=num_labels)
        with opened as checkpoint:
            sizes = {**checkpoint.arguments, **overrides}
            initializer = FilledLater(stddev=sizes.get("initializer_range", 0.02))
            model = cls._for_checkpoint(checkpoint, {**overrides, "initializer": initializer})
            model.load_report = checkpoints.load_pretrained(model, checkpoint)
            initializer.filled = True
        _tell(model, checkpoint, overrides)
        return model

    def save_pretrained(self, path: Path) -> None:
        """Writes `config.json` and `model.safetensors` as Hugging Face's `transformers` reads them.

        For ELMo `options.json` and `lm_weights.hdf5`, as bilm-tf and allennlp read them.
        Low-rank updates are merged. A `BertEmbedder` also writes what sentence-transformers reads
        (`modules.json`, `1_Pooling/config.json`). Each file is written under a temporary name, then
        renamed.

        Raises:
            ValueError: a head that reads the [CLS] vector of an encoder without a pooler, which
                `transformers` does not have.

        Example::

            model.save_pretrained("my_bert")
        """
        checkpoints.save_pretrained(self, pathlib.Path(path))

    # ---- what subclasses define

    @classmethod
    def _for_checkpoint(cls, checkpoint, overrides):
        """A model of the checkpoint's sizes.

        `overrides` has an `initializer` that draws nothing, for weights that every checkpoint has.
        """
        arguments = {**checkpoint.arguments, **overrides}
        if "initializer" not in cls.argument_names():
            del arguments["initializer"]  # a subclass whose constructor does not take it
        return cls(**arguments)

    def hub_files(self) -> dict[str, Any]:
        """Further JSON files of the folder: path in it -> content."""
        return {}

    def hub_layers(self) -> dict[str, keras.layers.Layer]:
        """Dense layers whose weights have folders of their own: folder -> layer."""
        return {}

    def hub_config(self) -> Config:
        """Entries of `config.json` besides the encoder's sizes: the architecture, labels."""
        return {"architectures": ["BertModel"]}


def _tell(model, checkpoint, overrides):
    """Logs what a user may not expect of a loaded model."""
    report = model.load_report
    if checkpoint.family.classifier_weights[0] in report.loaded:
        _tell_of_classifier(model, checkpoint, overrides.get("labels"))
    nameless = getattr(model, "labels", ()) is None and checkpoint.names_labels
    if nameless and overrides.get("num_classes") is None and checkpoint.labels is None:
        logging.warning(
            "The checkpoint's `id2label` does not have one name for each of its %d labels, so they "
            "have numbers as names. Pass `labels=` to name them.",
            checkpoint.num_labels,
        )
    if report.missing:
        logging.warning(
            "Not in the checkpoint, so randomly initialized: %s", ", ".join(report.missing)
        )


def _tell_of_classifier(model, checkpoint, given):
    theirs, ours = checkpoint.architecture, model.hub_config()["architectures"][0]
    if theirs not in (None, ours):
        logging.warning(
            "The checkpoint's `classifier` comes from a %s and was loaded into a %s: names and "
            "sizes fit, but the task is different.",
            theirs,
            type(model).__name__,
        )
    labels = checkpoint.labels
    named = labels is not None and labels != [f"LABEL_{i}" for i in range(len(labels))]
    if named and list(given or labels) != labels:
        logging.warning(
            "The checkpoint's `classifier` is for the labels %s, and was loaded for the labels %s.",
            labels[:5],
            list(given)[:5],
        )
