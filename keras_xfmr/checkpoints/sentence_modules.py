"""How a folder of sentence-transformers makes one vector of a text: its `modules.json`."""

from keras_xfmr.checkpoints.checkpoint import CONFIG_BYTES, is_name
from keras_xfmr.common.files import read_json

KINDS = ("Transformer", "Pooling", "Normalize")
# Flags that are set: the mode. None is what sentence-transformers takes for the mean.
FLAGS = {(): "mean", ("pooling_mode_mean_tokens",): "mean", ("pooling_mode_cls_token",): "cls"}


def read_pooling(folder):
    """How vectors of positions become one.

    Returns:
        None where nothing is said; `"mean"` or `"cls"`; `"other"` where neither of the two gives
        that vector: another mode, several, or further modules such as a dense layer.

    Raises:
        FileNotFoundError: the pooling's configuration is missing.
        ValueError: a damaged file, or a pooling outside of the folder.
    """
    modules = _modules(folder) or []
    paths = [path for kind, path in modules if kind == "Pooling"]
    mode = _mode(folder, paths[0]) if paths else None
    strange = len(paths) > 1 or not {kind for kind, _ in modules} <= set(KINDS)
    return "other" if strange else mode


def read_normalize(folder):
    """Whether vectors get the length 1; None without a `modules.json`.

    Raises:
        ValueError: a damaged file.
    """
    modules = _modules(folder)
    return None if modules is None else "Normalize" in {kind for kind, _ in modules}


def _modules(folder):
    """Kind and path of each module; None without a `modules.json`."""
    file = folder / "modules.json"
    if not file.is_file():
        return None
    modules = read_json(file, list, CONFIG_BYTES)
    if not all(isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules):
        raise ValueError(f"{str(file)!r} must list objects, each with a `type`.")
    return [(module["type"].rpartition(".")[2], module.get("path")) for module in modules]


def _mode(folder, path):
    """The mode in the pooling's own configuration."""
    if not isinstance(path, str) or not _inside(path):
        raise ValueError(
            f"{str(folder / 'modules.json')!r} must name a folder inside its own as that of the "
            f"pooling. Received: {path!r}."
        )
    file = folder / path / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(file)!r} is missing, which says how vectors are pooled. Fetch it, or say so "
            "yourself: pooling='mean' or 'cls'."
        )
    config = read_json(file, dict, CONFIG_BYTES)
    modes = config.get("pooling_mode")
    if modes is not None:  # as sentence-transformers writes it since 5.4: a name or several
        mode = modes[0] if isinstance(modes, list) and len(modes) == 1 else modes
        return mode if mode in ("mean", "cls") else "other"
    chosen = tuple(key for key, value in config.items() if "pooling_mode" in key and value)
    return FLAGS.get(chosen, "other")


def _inside(path):
    """Whether a path leads down into a folder, whatever the system."""
    return len(path) < 1000 and all(map(is_name, path.split("/")))
