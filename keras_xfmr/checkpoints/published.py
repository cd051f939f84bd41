"""Published weights by the names of their family's table: checked, but not read yet."""

import math
import pathlib
from typing import Any

from keras_xfmr.checkpoints import configuration, sentence_modules
from keras_xfmr.checkpoints.checkpoint import stored_dtype
from keras_xfmr.checkpoints.families import FAMILIES, family_called, find_family
from keras_xfmr.checkpoints.files import is_there, read_checkpoint
from keras_xfmr.checkpoints.keras_hub import is_backbone, read_backbone
from keras_xfmr.checkpoints.tables import CORE, HEAD, joins
from keras_xfmr.common.sentence_folders import transformer_folder
from keras_xfmr.common.types import Path

FLOATS = ("float16", "bfloat16", "float32", "float64")
# Ratio of the weights to the file. torch lets weights share bytes; those of a model do not.
MOST_SHARING = 2
# Limit for a classifier that a file does not have, and whose size is in the configuration.
MOST_LABELS_TO_DRAW = 10_000


def open_pretrained(
    source: Path | Any, *, family: str | None = None, num_labels: int | None = None
) -> "Published":
    """The weights and the configuration of a published model, unread: a `Published`.

    Args:
        source: a folder, a TensorFlow 1 prefix or an HDF5 file beside its configuration, or a
            KerasHub backbone.
        family: the family that it must have, such as `"bert"`; needed if the configuration has
            neither `model_type` nor `architectures`.
        num_labels: classes of a head, instead of the source's.

    Raises:
        FileNotFoundError: no such folder, no configuration or no weights there.
        ValueError: the weights are not those of the configuration or of the family, or a file is
            damaged.

    Example::

        with open_pretrained("bert-base-uncased") as checkpoint:
            print(checkpoint.arguments, len(checkpoint.names))
    """
    if is_backbone(source):
        families = [family_called(family)] if family else FAMILIES.values()
        return Published(*read_backbone(source, families), num_labels=num_labels)
    path = pathlib.Path(source)
    if not is_there(path):
        raise FileNotFoundError(
            f"Expected a folder on this disk, or a checkpoint in one. Received: {str(source)!r}, "
            "which is not there. Nothing is downloaded: fetch a published model first, e.g. by "
            f"`hf download {source} --local-dir FOLDER` (of huggingface_hub), and give that FOLDER."
        )
    folder = path if path.is_dir() else path.parent
    path = transformer_folder(path) if path.is_dir() else path
    wanted = [family_called(family)] if family else FAMILIES.values()
    files = dict.fromkeys(name for one in wanted for name in one.config_files)
    config = configuration.read_config(path if path.is_dir() else folder, tuple(files))
    found = find_family(config, family)
    config = found.flatten(config)
    return Published(found, config, read_checkpoint(path), num_labels=num_labels, folder=folder)


class Published:
    """Weights by their names in the family's table; those of its core have been checked.

    Args:
        family: a `Family`.
        config: as published.
        tensors: a `Checkpoint`.
        num_labels: classes of a head, instead of the source's.
        folder: where `modules.json` of sentence-transformers may be.

    Attributes:
        family: the `Family`.
        arguments: of the family's model, such as `keras_xfmr.models.Bert`.
        num_labels: classes of a head.
        labels: their names, or None if there are none or another number of them.
        problem_type: what transformers trains a classifier for, or None.
        classifier_dropout: of a head; None if the configuration has none.
        architecture: the class in transformers of the weights, or None.
        pooling: how sentence-transformers makes one vector, as an argument of an `Embedder`, or
            None.
        normalize: whether its vectors have the length 1, or None.
        projections: its dense layers after the pooling, as an argument of an `Embedder`.
        prompts: what it puts in front of texts, name -> text.
        names: name in the table -> name in the file.

    Raises:
        ValueError: a configuration that the family has no model for, or that does not fit the
            weights. Reading `num_labels`, if it is too large; reading `pooling`, `normalize`,
            `projections` and `prompts`, if the files of sentence-transformers are damaged, or make
            vectors in a way that this library does not have.
    """

    def __init__(self, family, config, tensors, *, num_labels=None, folder=None):
        self.family, self._config, self._tensors = family, config, tensors
        self._num_labels, self._folder = num_labels, folder
        self.names, self._known = {}, {}
        for stored in tensors:
            known = family.identify(stored)
            if known.name in self.names:
                raise ValueError(
                    f"The checkpoint has {known.name!r} twice, as {self.names[known.name]!r} and "
                    f"as {stored!r}."
                )
            self.names[known.name], self._known[known.name] = stored, known
        self._take_tied()
        self.arguments = configuration.read_arguments(family, config)
        self._check_core()
        if num_labels is None and not self.has_classifier:
            configuration.label_count(config)  # refuses a wrong number for every model
        # The classifier is new if the file's has another number of classes than `num_labels`.
        self.new_classifier = (
            num_labels is not None and self.has_classifier and self._classes_in_file() != num_labels
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._tensors.close()

    # ---- what the configuration says about heads

    @property
    def has_classifier(self):
        """Whether there are weights with an output for each label."""
        return self.family.classifier_weights[0] in self.names

    @property
    def num_labels(self):
        if self._num_labels is not None:
            return self._num_labels
        if self.has_classifier:
            return self._classes_in_file()
        count = configuration.label_count(self._config)
        if count > MOST_LABELS_TO_DRAW:
            raise ValueError(
                f"The configuration names {count} labels, and there is no classifier in the "
                f"checkpoint. More than {MOST_LABELS_TO_DRAW} are not drawn unless you pass "
                "`num_classes=`."
            )
        return count

    @property
    def names_labels(self):
        """Whether the configuration has names of labels; `labels` is None if they do not fit."""
        return self._config.get("id2label") is not None

    @property
    def labels(self):
        return configuration.label_names(self._config, self.num_labels)

    @property
    def problem_type(self):
        return self._config.get("problem_type")

    @property
    def classifier_dropout(self):
        return configuration.classifier_dropout(self._config)

    @property
    def architecture(self):
        return configuration.architecture(self._config)

    @property
    def pooling(self):
        return None if self._folder is None else sentence_modules.read_pooling(self._folder)

    @property
    def normalize(self):
        return None if self._folder is None else sentence_modules.read_normalize(self._folder)

    @property
    def projections(self):
        return [projection.arguments for projection in self._projections()]

    def _projections(self):
        if self._folder is None:
            return []
        return sentence_modules.read_projections(self._folder, self.arguments["d_model"])

    def projection_weights(self):
        """Of each of the `projections`: its place in the folder, its kernel and its bias."""
        for one in self._projections():
            yield one.path, sentence_modules.read_projection(self._folder, one)

    @property
    def prompts(self):
        return {} if self._folder is None else sentence_modules.read_prompts(self._folder)[0]

    @property
    def not_honoured(self):
        """Sentences about what sentence-transformers does and an `Embedder` does not."""
        return [] if self._folder is None else sentence_modules.not_honoured(self._folder)

    def option(self, name):
        """The unchecked value of a name in the configuration, or None."""
        return self._config.get(name)

    # ---- weights

    def shape(self, name):
        """As stored."""
        return tuple(self._tensors.shapes[self.names[name]])

    def dtype(self, name):
        """As stored."""
        return self._tensors.dtypes[self.names[name]]

    def sides(self, name):
        """The shape as (in, out), or that of the weight."""
        known, shape = self._known[name], self.shape(name)
        if known.style.joined:
            sides = known.weight.sides(self.arguments, known.block)
            return sides if None not in sides and joins(shape, sides) else shape
        return shape[::-1] if known.weight.turned(known.style) else shape

    def read(self, name):
        """An array as (in, out), or as the weight. Copy it: it may be the file's own bytes."""
        self.check_dtype(name)
        known, array = self._known[name], self._tensors.view(self.names[name])
        if known.style.joined:
            return array.reshape(self.sides(name))
        return array.T if known.weight.turned(known.style) else array

    def read_stored(self, name):
        """An array as it is in the file."""
        return self._tensors[self.names[name]]

    def check_dtype(self, name):
        """Raises ValueError if a weight has no floating-point type."""
        if self.dtype(name) not in FLOATS:
            raise ValueError(
                f"{self.names[name]!r} has the type {self.dtype(name)}. Expected: one of "
                f"{', '.join(FLOATS)}. Where the checkpoint is quantised, load the "
                "floating-point weights that it was made from."
            )

    def way_out(self, name):
        """What to do about a weight that does not fit a model."""
        if self._known[name].weight.part != HEAD:
            core = self.family.core
            of_tokens = "word_embeddings" in name or "token_embedding" in name or "wte" in name
            return f"The sizes of an {core} are those of its weights: leave such arguments out." + (
                " Where a tokenizer has more tokens, call `models.resize_token_embeddings` on the "
                "loaded model."
                if of_tokens
                else ""
            )
        return (
            f"Where it is a head of another task, load the {self.family.core} alone: "
            f"Head({self.family.model}.from_pretrained(path), ...)."
        )

    def lost(self, names):
        """The message about weights of the core that a checkpoint does not have."""
        more = " ..." if len(names) > 5 else ""
        return (
            f"{len(names)} weights of the {self.family.core} are not in the checkpoint: "
            f"{', '.join(names[:5])}{more}."
        )

    # ---- checks

    def _take_tied(self):
        """Files may store a tied weight under either of its names."""
        for tied in self.family.tied:
            if tied.to not in self.names and tied.name in self.names:
                self.names[tied.to] = self.names[tied.name]
                self._known[tied.to] = self.family.identify(tied.to)

    def _check_core(self):
        """The configuration must agree with the file, before memory is allocated for it."""
        self._check_blocks()
        expected = {
            weight.name_in(block): (weight, weight.sides(self.arguments, block))
            for weight, block in self.family.expand(self.arguments)
            if weight.part == CORE
        }
        lost = [name for name in expected if name not in self.names]
        if lost:
            raise ValueError(f"{self.lost(lost)} It is not a {self.family.title}, or damaged.")
        for name, known in self._known.items():
            if known.weight is not None and known.weight.part == CORE and name not in expected:
                raise ValueError(
                    f"By the configuration there is no {name!r}. Received: {self.names[name]!r}."
                )
        for name, (weight, sides) in expected.items():
            if self.sides(name) != sides:
                turned = weight.turned(self._known[name].style)
                raise ValueError(
                    f"By the configuration {self.names[name]!r} has the shape "
                    f"{sides[::-1] if turned else sides}. Received: {self.shape(name)}."
                )
            self.check_dtype(name)
        self._check_bytes({name: sides for name, (_, sides) in expected.items()})

    def _check_bytes(self, shapes):
        """Refuses weights that share bytes, so that a small file cannot take much memory."""
        needed = sum(
            math.prod(shape) * stored_dtype(self.dtype(name)).itemsize
            for name, shape in shapes.items()
        )
        if needed > MOST_SHARING * self._tensors.file_bytes:
            raise ValueError(
                f"The weights of the {self.family.core} have {needed} bytes, the file has "
                f"{self._tensors.file_bytes}: they share the same bytes. Save each separately, "
                "e.g. as safetensors."
            )

    def _check_blocks(self):
        """The file must have the configuration's number of blocks, before their names are made."""
        starts = {row.count: start for start, row in reversed(self.family.numbered_starts.items())}
        for kind, start in starts.items():
            count = self.family.numbered_starts[start].times(self.arguments)
            known = [known for known in self._known.values() if known.counted is not None]
            blocks = {known.block for known in known if known.counted.count == kind}
            if len(blocks) == count and blocks == set(range(len(blocks))):
                continue
            found = f"{len(blocks)}: {sorted(blocks)[:3]} .. {sorted(blocks)[-1:]}"
            if not blocks:
                found = f"none, no name begins with {start}: {sorted(self.names)[:3]} ..."
                before = {name.partition(start)[0] for name in self.names if start in name}
                if len(before) == 1:
                    found += f". Take {before.pop()!r} off the names in the file"
            raise ValueError(
                f"The configuration names {count} blocks ({start}0 and so on). Received: weights "
                f"of {found}."
            )

    def _classes_in_file(self):
        """Outputs of the classifier, if it takes vectors of this size."""
        name, d_model = self.family.classifier_weights[0], self.arguments["d_model"]
        sides = self.sides(name)
        if len(sides) != 2 or sides[1] < 1 or sides[0] != d_model:
            raise ValueError(
                f"{self.names[name]!r} must have {d_model} inputs, the vector of the "
                f"{self.family.core}, and at least one output. Received: shape "
                f"{self.shape(name)}. {self.way_out(name)}"
            )
        return sides[1]
