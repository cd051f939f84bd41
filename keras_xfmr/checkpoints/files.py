"""Which file holds the weights, and which reader reads it."""

import pathlib
import re

from keras_xfmr.checkpoints.checkpoint import Checkpoint, is_name, naming
from keras_xfmr.checkpoints.formats.hdf5 import HDF5Checkpoint
from keras_xfmr.checkpoints.formats.safetensors import SafetensorsCheckpoint
from keras_xfmr.checkpoints.formats.tf1 import TF1Checkpoint
from keras_xfmr.checkpoints.formats.torch import TorchCheckpoint
from keras_xfmr.common.files import CONFIG_BYTES, read_json
from keras_xfmr.common.types import Path

# The files that are searched in a folder, the safest and fastest first.
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "lm_weights.hdf5",
)
HDF5 = (".hdf5", ".h5")
READERS = {".safetensors": SafetensorsCheckpoint, **dict.fromkeys(HDF5, HDF5Checkpoint)}
# The parts of a TensorFlow checkpoint that are not its index.
TF1_PART = re.compile(r"(.+)\.(data-\d+-of-\d+|meta)")


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights of a published model, as a mapping that reads an array at each access.

    Args:
        path: a file: safetensors, a `pytorch_model.bin` of either format, the `.index.json` of a
            model in several files, HDF5 (`*.hdf5`, `*.h5`), or a TensorFlow checkpoint by its
            prefix (`bert_model.ckpt`) or one of its files (`bert_model.ckpt.index`). Or a folder,
            which is searched in this order: `model.safetensors`, `model.safetensors.index.json`,
            `pytorch_model.bin`, `pytorch_model.bin.index.json`, `lm_weights.hdf5`, a
            TensorFlow checkpoint (the one that the file `checkpoint` names, or the only
            `*.ckpt*.index`), and the only HDF5 file.

    Returns:
        A `Checkpoint`: name -> array, with `shapes`, `format` and `close`; also a context manager.

    Raises:
        FileNotFoundError: there are no weights; the message lists the files that are there.
        ValueError: a file that is damaged, or contains more than weights. No code of a file is run,
            and no array is larger than its bytes in the file (twice that for float16).

    Example::

        with read_checkpoint("bert-base-uncased") as checkpoint:
            shapes = checkpoint.shapes
    """
    place = pathlib.Path(path)
    if place.is_dir():
        place = _in_folder(place)
    elif not is_there(place):
        raise FileNotFoundError(
            f"No weights at {str(place)!r}: neither a file, nor a folder, nor "
            "the prefix of a TensorFlow checkpoint."
        )
    if place.is_file() and place.suffix == ".json":
        with naming(place):
            return ShardedCheckpoint(place)
    part = TF1_PART.fullmatch(place.name)
    return _read_one(place.with_name(part[1]) if part else place)


def is_there(path):
    """Whether `path` is a folder, a file, or the prefix of a TensorFlow checkpoint."""
    return path.is_dir() or path.is_file() or _index(path).is_file()


def _index(prefix):
    return prefix.with_name(f"{prefix.name}.index")


def _in_folder(folder):
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.glob("*.ckpt*.index") if path.is_file())
    latest = folder / "checkpoint"
    name = _latest(latest) if latest.is_file() else ""
    if is_name(f"{name}.index") and is_name(name) and _index(folder / name).is_file():
        return folder / name
    found = found or sorted(p for p in folder.iterdir() if p.suffix in HDF5 and p.is_file())
    if len(found) > 1:
        raise ValueError(
            f"{folder} has several checkpoints: {[path.name for path in found]}. Name one of them."
        )
    if found:
        return found[0]
    there = sorted(path.name for path in folder.iterdir())
    more = " and more" if there[20:] else ""
    raise FileNotFoundError(
        f"No weights in {str(folder)!r}. Looked for {', '.join(FILES)}, a TensorFlow checkpoint "
        f"(*.ckpt.index) and an HDF5 file (*.hdf5, *.h5). There are: {there[:20]}{more}."
    )


def _latest(path):
    """The name in TensorFlow's file `checkpoint`, without the folder, which may have been moved."""
    with open(path, encoding="utf8", errors="replace") as file:
        lines = file.read(10_000).splitlines()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model_checkpoint_path":
            return value.strip().strip('"').replace("\\", "/").rpartition("/")[2]
    return ""


def _read_one(path):
    with naming(path):
        index = path if path.suffix == ".index" else _index(path)
        is_tf1 = index == path or not path.is_file()
        if is_tf1 and not index.is_file():
            raise ValueError(f"a part of a TensorFlow checkpoint, whose {index.name} is missing.")
        if is_tf1:
            return TF1Checkpoint(index.with_suffix(""))
        return READERS.get(path.suffix, TorchCheckpoint)(path)


class ShardedCheckpoint(Checkpoint):
    """A model in several files; an index maps each name to its file."""

    def __init__(self, path):
        super().__init__(path)
        weight_map = _weight_map(path)
        self._files = {}
        for file in sorted(set(weight_map.values())):
            if not (path.parent / file).is_file():
                raise FileNotFoundError(f"{path} names the file {file!r}, which is missing.")
            self._files[file] = self._resources.enter_context(_read_one(path.parent / file))
            self.file_bytes += self._files[file].file_bytes
        self._shard_of = {name: self._files[file] for name, file in weight_map.items()}
        for name, shard in self._shard_of.items():
            if name not in shard:
                raise ValueError(f"{name!r} is not in {shard.path.name}, where the index says.")
            self.shapes[name], self.dtypes[name] = shard.shapes[name], shard.dtypes[name]
            self.format = shard.format

    def view(self, name):
        return self._shard_of[name].view(name)

    def _read(self, name):
        return self._shard_of[name][name]


def _weight_map(path):
    """name -> name of a file in the same folder."""
    weight_map = read_json(path, dict, CONFIG_BYTES).get("weight_map")
    if type(weight_map) is not dict or not all(type(f) is str for f in weight_map.values()):
        raise ValueError(
            'Expected an index {"weight_map": {name: file}}. Where it is a configuration, pass '
            "its folder."
        )
    for file in set(weight_map.values()):
        if not is_name(file):
            raise ValueError(f"Expected files beside the index. Received: {file!r}.")
    return weight_map
