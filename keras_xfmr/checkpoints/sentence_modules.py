"""How a folder of sentence-transformers makes one vector from a text: its `modules.json`.

D d_model, F features out
"""

import dataclasses
import re

from keras_xfmr.checkpoints.checkpoint import is_name
from keras_xfmr.checkpoints.files import read_checkpoint
from keras_xfmr.common.files import CONFIG_BYTES, read_json

# The modules that this library has, in their order. "BERT" is the first version's name.
ORDER = r"(Transformer|BERT) (Pooling )?(Dense )*(Normalize )?"
# Flag in a pooling's configuration -> mode, in the order in which vectors are put side by side.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Classes of torch -> activations. The default is tanh.
ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "linear",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.SiLU": "silu",
}
PROMPTS = "config_sentence_transformers.json"
MODES = tuple(FLAGS.values())
OLDEST = MODES[:4]  # the first version takes no other flags


@dataclasses.dataclass(frozen=True)
class Projection:
    """A module `Dense`: its place in the folder and its settings."""

    path: str
    inputs: int
    units: int
    activation: str
    use_bias: bool

    @property
    def arguments(self):
        """As arguments of an `Embedder`."""
        names = ("units", "activation", "use_bias")
        return {name: getattr(self, name) for name in names}


def read_pooling(folder):
    """How vectors of positions become one.

    Returns:
        None if the folder does not define it; a mode, one of `MODES`; or a tuple of them, whose
        vectors are concatenated.

    Raises:
        FileNotFoundError: the pooling's configuration is missing.
        ValueError: a damaged file, a pooling outside of the folder, or modules or modes that this
            library does not have.
    """
    modules = _modules(folder) or []
    kinds = [kind for kind, _ in modules]
    if kinds and not re.fullmatch(ORDER, "".join(f"{kind} " for kind in kinds)):
        raise ValueError(
            f"{str(folder / 'modules.json')!r} names the modules {kinds}. Expected a Transformer, "
            "a Pooling, any number of Dense and a Normalize, in this order. To make vectors "
            "without the others, pass `pooling=` yourself."
        )
    paths = [path for kind, path in modules if kind == "Pooling"]
    return _mode(folder, paths[0]) if paths else None


def read_normalize(folder):
    """Whether vectors get the length 1; None without a `modules.json`.

    Raises:
        ValueError: a damaged file.
    """
    modules = _modules(folder)
    return None if modules is None else "Normalize" in {kind for kind, _ in modules}


def read_projections(folder, d_model):
    """A list of the `Projection`s after the pooling of vectors `[D]`, with files that fit.

    Raises:
        FileNotFoundError: the configuration of one is missing, or its weights.
        ValueError: a damaged file, a module outside of the folder, or one that does more than a
            dense layer with a known activation; sizes that do not fit.
    """
    paths = [path for kind, path in _modules(folder) or [] if kind == "Dense"]
    found = [_projection(folder, path) for path in paths]
    fitting = [{d_model * count for count in range(1, 1 + len(MODES))}]
    for projection, sizes in zip(found, [*fitting, *({one.units} for one in found)]):
        if projection.inputs not in sizes:
            raise ValueError(
                f"{projection.path!r} in {str(folder)!r} reads vectors of {projection.inputs} "
                f"numbers. Expected: {min(sizes)}, or as many for each mode of the pooling."
            )
        with _open_projection(folder, projection):
            pass  # checks the file before memory is allocated
    return found


def read_prompts(folder):
    """Texts that belong in front of texts, by their names, without empty ones.

    Returns:
        A dictionary, and the name of the one that is the default, or None.

    Raises:
        ValueError: a damaged file.
    """
    file = folder / PROMPTS
    config = read_json(file, dict, CONFIG_BYTES) if file.is_file() else {}
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    texts = prompts.values() if isinstance(prompts, dict) else [prompts]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError(f"{str(file)!r} must have `prompts` as an object of texts.")
    prompts = {name: text for name, text in prompts.items() if text}
    return prompts, default if isinstance(default, str) and default in prompts else None


def not_honoured(folder):
    """Sentences about what the folder defines and an `Embedder` does not do.

    Raises:
        ValueError: a damaged file.
    """
    modules, said = _modules(folder) or [], []
    known = {"Transformer", "BERT", "Pooling", "Dense", "Normalize"}
    others = [kind for kind, _ in modules if kind not in known]
    if others:
        said.append(f"Its modules {others} are left out.")
    prompts, default = read_prompts(folder)
    if not prompts:
        return said
    said.append(
        f"It has prompts, which you put in front of your texts: {prompts}."
        + (f" {default!r} is the one for all texts." if default else "")
    )
    paths = [path for kind, path in modules if kind == "Pooling"]
    if paths and _config(folder, paths[0], "pooling").get("include_prompt") is False:
        said.append(
            "Its pooling leaves out the positions of prompts (include_prompt=false), an `Embedder` "
            "does not."
        )
    return said


def read_projection(folder, projection):
    """The weights of a `Projection`: kernel `[D, F]`, and bias `[F]` if there is one."""
    with _open_projection(folder, projection) as checkpoint:
        kernel = checkpoint["linear.weight"].T
        return [kernel, *([checkpoint["linear.bias"]] if projection.use_bias else [])]


def _open_projection(folder, projection):
    wanted = {"linear.weight": (projection.units, projection.inputs)}
    wanted |= {"linear.bias": (projection.units,)} if projection.use_bias else {}
    checkpoint = read_checkpoint(folder / projection.path)
    for name, shape in wanted.items():
        found = checkpoint.shapes.get(name)
        if found is None or tuple(found) != shape or "float" not in checkpoint.dtypes[name]:
            raise ValueError(
                f"{checkpoint.path} must have floats {name!r} of shape {shape}. Received: {found}."
            )
    return checkpoint


def module_files(pooling, normalize, projections, d_model):
    """The JSON files that define how an `Embedder` makes vectors: path in the folder -> content.

    Args:
        pooling: a mode, or several.
        normalize: whether vectors get the length 1.
        projections: arguments of dense layers, as `Projection.arguments`.
        d_model: size of the vectors of positions.

    Raises:
        ValueError: an activation without a name in sentence-transformers.
    """
    modes = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    kinds = ["Pooling", *["Dense"] * len(projections), *(["Normalize"] if normalize else [])]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds, 1))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(["Transformer", *kinds], paths))
    ]
    content = {"word_embedding_dimension": d_model}
    flags = {flag: mode in modes for flag, mode in FLAGS.items()}
    content |= {flag: on for flag, on in flags.items() if on or FLAGS[flag] in OLDEST}
    if len(modes) > 1:
        content["pooling_mode"] = list(modes)
    files = {f"{paths[1]}/config.json": content}
    size, theirs = len(modes) * d_model, {ours: name for name, ours in ACTIVATIONS.items()}
    for path, settings in zip(paths[2:], projections):
        if settings["activation"] not in theirs:
            raise ValueError(
                "Only these activations are written for sentence-transformers: "
                f"{', '.join(theirs)}. Received: {settings['activation']!r}."
            )
        files[f"{path}/config.json"] = {
            "in_features": size,
            "out_features": settings["units"],
            "bias": settings["use_bias"],
            "activation_function": theirs[settings["activation"]],
        }
        size = settings["units"]
    return {**files, "modules.json": modules}


def _modules(folder):
    """Kind and path of each module; None without a `modules.json`."""
    file = folder / "modules.json"
    if not file.is_file():
        return None
    modules = read_json(file, list, CONFIG_BYTES)
    if not all(isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules):
        raise ValueError(f"{str(file)!r} must list objects, each with a `type`.")
    return [(module["type"].rpartition(".")[2], module.get("path")) for module in modules]


def _config(folder, path, what):
    """The configuration of a module that has its own folder."""
    if not isinstance(path, str) or not _inside(path):
        raise ValueError(
            f"{str(folder / 'modules.json')!r} must name a folder inside its own for the "
            f"{what}. Received: {path!r}."
        )
    file = folder / path / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(file)!r} is missing, which defines how vectors are made. Fetch it, or pass "
            "pooling='mean' or 'cls', projections=() yourself."
        )
    return read_json(file, dict, CONFIG_BYTES)


def _mode(folder, path):
    """The mode or modes in the pooling's own configuration."""
    config = _config(folder, path, "pooling")
    modes = config.get("pooling_mode")
    if modes is None:
        flags = [key for key, value in config.items() if key.startswith("pooling_mode") and value]
        modes = [mode for flag, mode in FLAGS.items() if flag in flags]
        modes += [flag for flag in flags if flag not in FLAGS]
        modes = modes or ["mean"]  # the default of sentence-transformers
    elif isinstance(modes, str):  # as it is written since version 5.4: a name or several
        modes = [modes]
    known = isinstance(modes, list) and all(isinstance(m, str) and m in MODES for m in modes)
    if not known or not modes or len(set(modes)) < len(modes):
        raise ValueError(
            f"{str(folder / path / 'config.json')!r} must name one or several of the modes "
            f"{', '.join(MODES)}. Received: {modes!r}. To make other vectors, pass `pooling=` "
            "yourself."
        )
    return modes[0] if len(modes) == 1 else tuple(modes)


def _projection(folder, path):
    config = _config(folder, path, "dense layer")
    sizes = (config.get(name) for name in ("in_features", "out_features"))
    inputs, units = (n if type(n) is int and n > 0 else None for n in sizes)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    use_bias = config.get("bias", True)
    expected = {"module_input_name": "sentence_embedding", "use_residual": False}
    expected["module_output_name"] = "sentence_embedding"
    more = [name for name, value in expected.items() if config.get(name) not in (None, value)]
    known = isinstance(activation, str) and activation in ACTIVATIONS
    if more or None in (inputs, units) or not known or not isinstance(use_bias, bool):
        raise ValueError(
            f"{str(folder / path / 'config.json')!r} must describe a dense layer: `in_features`, "
            f"`out_features`, `bias`, and as `activation_function` one of "
            f"{', '.join(ACTIVATIONS)}. Received: {config!r:.500}. To make vectors without it, "
            "pass projections=()."
        )
    return Projection(path, inputs, units, ACTIVATIONS[activation], use_bias)


def _inside(path):
    """Whether a path leads down into a folder, whatever the system."""
    return len(path) < 1000 and all(map(is_name, path.split("/")))
