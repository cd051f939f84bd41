"""Published weights in and out of models."""

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

    For the weights of one model, all of which are assigned before it is used; from then on, when
    `filled` is set, it draws. A configuration holds it as the truncated normal with its arguments,
    so a layer that is made from it draws its weights.

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
    """A mixin of `from_pretrained` and `save_pretrained`.

    Attributes:
        family: the name of its table in `checkpoints.families`, such as `"bert"`.
        load_report: after `from_pretrained`, what was `loaded`, `missing` (freshly drawn),
            `unexpected` (in the file, not in the model) and `tied`, a `checkpoints.LoadReport`;
            else None.
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
                Nothing in it is executed. Names may have `module.`, `_orig_mod.` or `model.` in
                front, as wrappers leave them. A folder of sentence-transformers may have its
                transformer in a folder `0_...`. A configuration that names neither `model_type` nor
                `architectures` is read as one of this class's family.
            **overrides: arguments in the place of what the source says, such as `dropout_rate`,
                `dtype`, or `num_classes`: a head of that many classes is freshly drawn where the
                source's has others.

        Returns:
            The model; `model.load_report` says what was loaded. What the source does not have
            (a pooler, a head) is freshly drawn, and logged.

        Raises:
            FileNotFoundError: no such folder (nothing is downloaded), or no configuration or no
                weights in it.
            ValueError: the model is of another family, a weight of the encoder is missing, a shape
                differs, weights are no floating-point numbers, or a file is damaged.

        Example::

            model = BertClassifier.from_pretrained("kobert", num_classes=2)
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
        (`modules.json`, `1_Pooling/config.json`). Each file is written aside and renamed.

        Raises:
            ValueError: a head that reads the [CLS] vector of an encoder without a pooler, which
                that library does not have.

        Example::

            model.save_pretrained("my_bert")
        """
        checkpoints.save_pretrained(self, pathlib.Path(path))

    # ---- what subclasses say

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
        """Dense layers whose weights lie in folders of their own: folder -> layer."""
        return {}

    def hub_config(self) -> Config:
        """What `config.json` says besides the encoder's sizes: the architecture, labels."""
        return {"architectures": ["BertModel"]}


def _tell(model, checkpoint, overrides):
    """Logs what a user may not expect of a model that was loaded."""
    report = model.load_report
    if checkpoint.family.classifier_weights[0] in report.loaded:
        _tell_of_classifier(model, checkpoint, overrides.get("labels"))
    nameless = getattr(model, "labels", ()) is None and checkpoint.names_labels
    if nameless and overrides.get("num_classes") is None and checkpoint.labels is None:
        logging.warning(
            "The checkpoint's `id2label` is not one name for each of its %d labels, which have "
            "numbers instead. Give `labels=` to name them.",
            checkpoint.num_labels,
        )
    if report.missing:
        logging.warning("Not from the checkpoint, but freshly drawn: %s", ", ".join(report.missing))


def _tell_of_classifier(model, checkpoint, given):
    theirs, ours = checkpoint.architecture, model.hub_config()["architectures"][0]
    if theirs not in (None, ours):
        logging.warning(
            "The checkpoint's `classifier` is that of a %s and was loaded into a %s: names and "
            "sizes are alike, the task is another.",
            theirs,
            type(model).__name__,
        )
    labels = checkpoint.labels
    named = labels is not None and labels != [f"LABEL_{i}" for i in range(len(labels))]
    if named and list(given or labels) != labels:
        logging.warning(
            "The checkpoint's `classifier` is that of the labels %s, and was loaded as that of %s.",
            labels[:5],
            list(given)[:5],
        )
