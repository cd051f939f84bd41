"""Published BERT weights by canonical name, checked against their configuration, unread."""

import math
import pathlib
import re

from keras import ops

from keras_xfmr import kernels
from keras_xfmr.checkpoints.bert_config import (
    architecture,
    bert_arguments,
    classifier_dropout,
    label_count,
    label_names,
    read_config,
)
from keras_xfmr.checkpoints.bert_names import DECODER_BIAS, canonical, encoder_shapes
from keras_xfmr.checkpoints.checkpoint import stored_dtype
from keras_xfmr.checkpoints.files import is_there, read_checkpoint
from keras_xfmr.checkpoints.sentence_modules import read_normalize, read_pooling

FLOATS = ("float16", "bfloat16", "float32", "float64")
# Of the weights to the file. torch lets weights share bytes, which a model's own do not.
MOST_SHARING = 2
# Of a classifier that a file does not have, and that is drawn on the word of its configuration.
MOST_LABELS_TO_DRAW = 10_000

# Where folders of sentence-transformers had the weights before its second version, such as
# "0_Transformer" and "0_BERT".
INNER = "0_*"


def open_bert(source, *, num_labels=None):
    """The weights and the configuration of a published BERT, unread: a `BertCheckpoint`.

    Args:
        source: a folder, a TensorFlow 1 prefix beside its `bert_config.json`, or a KerasHub
            `BertBackbone`.
        num_labels: classes of a head, in the place of what the source says.

    Raises:
        FileNotFoundError: no such folder, no configuration or no weights there.
        ValueError: the weights are not those of the configuration, or a file is damaged.

    Example::

        with open_bert("bert-base-uncased") as checkpoint:
            print(checkpoint.arguments, len(checkpoint.names))
    """
    if hasattr(source, "get_config") and hasattr(source, "weights"):
        from keras_xfmr.checkpoints.keras_hub import read_backbone

        config, tensors = read_backbone(source)
        return BertCheckpoint(config, tensors, out_in=False, num_labels=num_labels)
    path = pathlib.Path(source)
    if not is_there(path):
        raise FileNotFoundError(
            f"Expected a folder on this disk, or a checkpoint in one. Received: {str(source)!r}, "
            "which is not there. Nothing is downloaded: fetch a published model first, e.g. by "
            f"`hf download {source} --local-dir FOLDER` (of huggingface_hub), and give that FOLDER."
        )
    folder = path if path.is_dir() else path.parent
    inner = [] if (path / "config.json").is_file() else sorted(path.glob(f"{INNER}/config.json"))
    path = inner[0].parent if inner else path
    config, tensors = read_config(path if path.is_dir() else folder), read_checkpoint(path)
    return BertCheckpoint(
        config, tensors, out_in=tensors.format != "tf1", num_labels=num_labels, folder=folder
    )


class BertCheckpoint:
    """Weights by canonical name; all of the encoder are there, in the configuration's shapes.

    Args:
        config: as published.
        tensors: a `Checkpoint`.
        out_in: whether matrices are stored (out, in).
        num_labels: classes of a head, in the place of what the source says.
        folder: where `modules.json` of sentence-transformers may lie.

    Attributes:
        arguments: of `keras_xfmr.models.Bert`.
        num_labels: classes of a head.
        labels: their names, or None where there are none or another number of them.
        problem_type: what transformers trains a classifier for, or None.
        classifier_dropout: of a head; None where nothing is said.
        architecture: the class of transformers that the weights are of, or None.
        pooling: None, `"mean"`, `"cls"` or `"other"`, of sentence-transformers.
        normalize: whether its vectors have the length 1, or None.
        names: canonical name -> name in the file.

    Raises:
        ValueError: a configuration that is no BERT's or does not fit the weights. `num_labels`,
            where it cannot be believed; `pooling` and `normalize`, where `modules.json` is damaged.
    """

    def __init__(self, config, tensors, *, out_in, num_labels=None, folder=None):
        self._config, self._tensors, self._out_in = config, tensors, out_in
        self._num_labels, self._folder = num_labels, folder
        self.names = {}
        for name in tensors:
            known = self.names.setdefault(canonical(name), name)
            if known != name:
                raise ValueError(
                    f"The checkpoint has {canonical(name)!r} twice, as {known!r} and as {name!r}."
                )
        # The bias of the masked words has two names, of which a file has either or both.
        if "cls.predictions.bias" not in self.names and DECODER_BIAS in self.names:
            self.names["cls.predictions.bias"] = self.names.pop(DECODER_BIAS)
        self.arguments = bert_arguments(config)
        self._check_encoder()
        if num_labels is None and "classifier.weight" not in self.names:
            label_count(config)  # what is no number is refused for every model
        # Of so many classes as were asked for, where the file's has others.
        self.new_classifier = (
            num_labels is not None
            and "classifier.weight" in self.names
            and self._classes_in_file() != num_labels
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._tensors.close()

    @property
    def num_labels(self):
        if self._num_labels is not None:
            return self._num_labels
        if "classifier.weight" in self.names:
            return self._classes_in_file()
        count = label_count(self._config)
        if count > MOST_LABELS_TO_DRAW:
            raise ValueError(
                f"The configuration names {count} labels, and there is no classifier in the "
                f"checkpoint. More than {MOST_LABELS_TO_DRAW} are not drawn on its word: give "
                "`num_classes=` yourself."
            )
        return count

    @property
    def names_labels(self):
        """Whether the configuration means to name them; `labels` is None where it fails to."""
        return self._config.get("id2label") is not None

    @property
    def labels(self):
        return label_names(self._config, self.num_labels)

    @property
    def problem_type(self):
        return self._config.get("problem_type")

    @property
    def classifier_dropout(self):
        return classifier_dropout(self._config)

    @property
    def architecture(self):
        return architecture(self._config)

    @property
    def pooling(self):
        return None if self._folder is None else read_pooling(self._folder)

    @property
    def normalize(self):
        return None if self._folder is None else read_normalize(self._folder)

    def shape(self, name):
        """As stored."""
        return tuple(self._tensors.shapes[self.names[name]])

    def dtype(self, name):
        """As stored."""
        return self._tensors.dtypes[self.names[name]]

    def read(self, name, shape, inputs):
        """A weight in this library's shape; the first `inputs` axes of a matrix are its input."""
        out_in = self._is_out_in(name)
        if inputs:
            sides = (math.prod(shape[:inputs]), math.prod(shape[inputs:]))
            expected = sides[::-1] if out_in else sides
        else:
            expected = (math.prod(shape),) if name.endswith("bias") else tuple(shape)
        if self.shape(name) != expected:
            raise ValueError(
                f"{self.names[name]!r} must have the shape {expected} in this model. Received: "
                f"{self.shape(name)}. {self._way_out(name)}"
            )
        self._check_dtype(name)
        array = self._tensors.view(self.names[name])
        return ops.reshape(kernels.copied(array.T if inputs and out_in else array), shape)

    def _is_out_in(self, name):
        # Google stored the matrices of heads as PyTorch does all of them.
        return self._out_in or self.names[name].endswith("output_weights")

    def _check_encoder(self):
        """The configuration agrees with the file, before any memory is taken on its word."""
        self._check_blocks()
        expected = dict(encoder_shapes(self.arguments, out_in=self._out_in))
        lost = [name for name in expected if name not in self.names]
        if lost:
            raise ValueError(f"{not_there(lost)} It is no BERT, or damaged.")
        for name, shape in expected.items():
            if self.shape(name) != shape:
                raise ValueError(
                    f"By the configuration {self.names[name]!r} has the shape {shape}. Received: "
                    f"{self.shape(name)}."
                )
            self._check_dtype(name)
        self._check_bytes(expected)

    def _check_bytes(self, shapes):
        """A file is not made large by weights that are all the same bytes of it."""
        needed = sum(
            math.prod(shape) * stored_dtype(self.dtype(name)).itemsize
            for name, shape in shapes.items()
        )
        if needed > MOST_SHARING * self._tensors.file_bytes:
            raise ValueError(
                f"The weights of the encoder have {needed} bytes, the file has "
                f"{self._tensors.file_bytes}: they share the same bytes. Save each for itself, "
                "e.g. as safetensors."
            )

    def _check_blocks(self):
        """`num_layers` is that of the file, before names are made for so many."""
        count = self.arguments["num_layers"]
        matches = (re.match(r"encoder\.layer\.(\d+)\.", name) for name in self.names)
        blocks = {int(match[1]) for match in matches if match}
        if len(blocks) != count or blocks != set(range(len(blocks))):
            found = f"{len(blocks)}: {sorted(blocks)[:3]} .. {sorted(blocks)[-1:]}"
            if not blocks:
                found = f"none, no name begins with encoder.layer.: {sorted(self.names)[:3]} ..."
            raise ValueError(
                f"The configuration names {count} blocks. Received: weights of {found}."
            )

    def _way_out(self, name):
        if name.startswith(("embeddings.", "encoder.", "pooler.")):
            return "The sizes of an encoder are those of its weights: leave such arguments out."
        return (
            "Where it is a head of another task, load the encoder alone: "
            "Head(Bert.from_pretrained(path), ...)."
        )

    def _check_dtype(self, name):
        if self.dtype(name) not in FLOATS:
            raise ValueError(
                f"{self.names[name]!r} has the type {self.dtype(name)}. Expected: one of "
                f"{', '.join(FLOATS)}. Where the checkpoint is quantised, load the "
                "floating-point weights that it was made from."
            )

    def _classes_in_file(self):
        """Rows of the classifier, where they are rows of this encoder's size."""
        name, d_model = "classifier.weight", self.arguments["d_model"]
        shape = self.shape(name) if self._is_out_in(name) else self.shape(name)[::-1]
        if len(shape) != 2 or shape[0] < 1 or shape[1] != d_model:
            raise ValueError(
                f"{self.names[name]!r} must have {d_model} inputs, the vector of the encoder, and "
                f"at least one output. Received: shape {self.shape(name)}. Where it is a head of "
                "another task, load the encoder alone: Head(Bert.from_pretrained(path), ...)."
            )
        return shape[0]


def not_there(names):
    """The message about weights of the encoder that a checkpoint does not have."""
    more = " ..." if len(names) > 5 else ""
    return (
        f"{len(names)} weights of the encoder are not in the checkpoint: "
        f"{', '.join(names[:5])}{more}."
    )
