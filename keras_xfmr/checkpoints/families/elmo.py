"""ELMo: the HDF5 files and `options.json` of bilm-tf, which allennlp reads too.

Attributes that the model must have: `token_embedding`, a table, or for words as characters a table
with `convolutions`, `highways` of a `gate` and a `transform`, and a `projection`, None if the
convolutions have `projection_dim` outputs; `encoder_blocks` with `forward` and `backward`, whose
`cell` has the weights of a `ProjectedLSTMCell`; of a language model `softmax`. Its configuration
has the arguments of `OPTIONS`.
"""

import dataclasses
import math
from typing import Any

from keras_xfmr.checkpoints.configuration import MOST_LABELS, Option, choice, rate, size
from keras_xfmr.checkpoints.tables import HEAD, Family, Style, bias, dense, matrix, table

# bilm-tf names each matrix separately. Its gates are in TensorFlow's order, as here.
TABLE = Style(embeddings="", out_in=False)
CONVOLUTION = Style("W_cnn_{i}", "b_cnn_{i}", out_in=False, joined=True, ones=1)
CARRY = Style("W_carry", "b_carry", out_in=False)
TRANSFORM = Style("W_transform", "b_transform", out_in=False)
PROJECTION = Style("W_proj", "b_proj", out_in=False)
LSTM = Style("W_0", "B", out_in=False, projection_kernel="W_P_0")
LSTM_1 = Style("kernel", "bias", out_in=False, projection_kernel="projection/kernel")
SOFTMAX = Style("W", "b", out_in=True)
P, U = "projection_dim", "units"
GATES = (U, U, U, U)


def spelled(name, style):
    """A name in HDF5, and in the TensorFlow 1 checkpoint that the file was written from."""
    return {style: name, dataclasses.replace(style): f"lm/{name}"}


def lstm(direction):
    """The rows of the layers of a direction, 0 or 1."""
    layer = f"encoder_blocks.{{i}}.{('forward', 'backward')[direction]}.cell"
    names = {
        LSTM: f"RNN_{direction}/RNN/MultiRNNCell/Cell{{i}}/LSTMCell/",
        LSTM_1: f"lm/RNN_{direction}/rnn/multi_rnn_cell/cell_{{i}}/lstm_cell/",
    }
    return (
        *matrix(layer, ("kernel", "recurrent_kernel"), ((P, P), GATES), names),
        *bias(layer, GATES, names),
        *matrix(layer, "projection_kernel", (U, P), names),
    )


# ---- words as characters


def by_characters(arguments):
    return arguments["vocab_size"] is None


def by_table(arguments):
    return arguments["vocab_size"] is not None


def count_filters(arguments):
    return len(arguments["filters"]) if by_characters(arguments) else 0


def count_highways(arguments):
    return arguments["num_highway"] if by_characters(arguments) else 0


def count_projections(arguments):
    return by_characters(arguments) and features(arguments) != arguments[P]


def width(arguments, i):
    """Characters that a convolution sees."""
    return arguments["filters"][i][0]


def outputs(arguments, i):
    """Of a convolution."""
    return arguments["filters"][i][1]


def features(arguments, i=None):
    """Of all convolutions together."""
    return sum(count for _, count in arguments["filters"])


CNN, SQUARE = "token_embedding", (features, features)
WEIGHTS = (
    *table(CNN, ("vocab_size", P), spelled("embedding", TABLE), count=by_table),
    *table(CNN, (261, "character_dim"), spelled("char_embed", TABLE), count=by_characters),
    *dense(
        f"{CNN}.convolutions.{{i}}",
        (width, "character_dim", outputs),
        spelled("CNN/", CONVOLUTION),
        count=count_filters,
    ),
    *dense(
        f"{CNN}.highways.{{i}}.gate",
        SQUARE,
        spelled("CNN_high_{i}/", CARRY),
        count=count_highways,
    ),
    *dense(
        f"{CNN}.highways.{{i}}.transform",
        SQUARE,
        spelled("CNN_high_{i}/", TRANSFORM),
        count=count_highways,
    ),
    *dense(
        f"{CNN}.projection",
        (features, P),
        spelled("CNN_proj/", PROJECTION),
        count=count_projections,
    ),
    *lstm(0),
    *lstm(1),
    # bilm-tf does not write it to its HDF5 files.
    *dense("softmax", (P, None), spelled("softmax/", SOFTMAX), part=HEAD),
)


# ---- options


def needed(name):
    """A default that raises ValueError."""

    def fail(arguments):
        raise ValueError(f"Expected `{name}` in the configuration. It is not there.")

    return fail


def needed_size(ours, name, **options):
    return size(ours, name, default=needed(name), **options)


def are_filters(filters):
    pairs = filters and all(isinstance(f, list) and len(f) == 2 for f in filters)
    return pairs and all(type(n) is int and n >= 1 for pair in filters for n in pair)


def clip(ours, name):
    """The row of a bound of absolute values; no bound if it is null or missing."""
    fits = lambda bound: 0 < bound < math.inf  # noqa: E731
    return Option(ours, (name,), None, "finite and above 0, or null", fits, float)


NAMES = {"relu": "relu", "tanh": "tanh"}
CHARACTERS: dict[str, Any] = {"when": by_characters}
TOKENS: dict[str, Any] = {"when": by_table}
OPTIONS = (
    size("vocab_size", "n_tokens_vocab", default=None),
    needed_size("units", "lstm.dim"),
    needed_size("projection_dim", "lstm.projection_dim"),
    size("num_layers", "lstm.n_layers", default=1, least=0),
    Option(
        "skip_connections", ("lstm.use_skip_connections",), False, "a bool", lambda _: True, bool
    ),
    clip("cell_clip", "lstm.cell_clip"),
    clip("projection_clip", "lstm.proj_clip"),
    rate("dropout_rate", "dropout", default=0.1),
    size(
        "max_characters", "char_cnn.max_characters_per_token", default=50, most=4096, **CHARACTERS
    ),
    needed_size("character_dim", "char_cnn.embedding.dim", **CHARACTERS),
    Option(
        "filters",
        ("char_cnn.filters",),
        needed("char_cnn.filters"),
        "pairs [width, count] of integers from 1",
        are_filters,
        list,
        **CHARACTERS,
    ),
    size("num_highway", "char_cnn.n_highway", default=0, least=0, **CHARACTERS),
    choice(
        "activation",
        "char_cnn.activation",
        default=needed("char_cnn.activation"),
        values=NAMES,
        **CHARACTERS,
    ),
    # Our own options. Vocabularies of bilm-tf begin with <S> and </S>, which are not words.
    size("pad_id", "pad_id", default=0, least=0, **TOKENS),
    size("start_id", "start_id", default=0, least=0, **TOKENS),
    size("end_id", "end_id", default=1, least=0, **TOKENS),
)
FIXED = {
    "bidirectional": (True,),
    "share_embedding_softmax": (False,),
    "char_cnn.n_characters": (261, 262),  # while bilm-tf trains, and later, with one for padding
}
# Options of training in bilm-tf; for a model of characters also the words of its softmax.
WORDS = "softmax.n_tokens_vocab"
TRAINING: tuple[str, ...] = (WORDS, "all_clip_norm_val", "batch_size", "learning_rate", "n_epochs")
TRAINING += ("n_negative_samples_batch", "n_train_tokens", "sample_softmax", "unroll_steps")


def flatten(config):
    """Options by dotted names, such as `lstm.dim`.

    Example:

    >>> flatten({"lstm": {"dim": 5}, "char_cnn": {"embedding": {"dim": 3}}, "n_tokens_vocab": 7})
    {'lstm.dim': 5, 'char_cnn.embedding.dim': 3, 'softmax.n_tokens_vocab': 7}
    """
    flat = dict(_flat(config, levels=3))
    if any(name.startswith("char_cnn") for name in flat) and "n_tokens_vocab" in flat:
        flat[WORDS] = flat.pop("n_tokens_vocab")
    return flat


def _flat(config, levels):
    for name, value in config.items():
        if "." in name:
            raise ValueError(f"Expected options in options. Received: {name!r}.")
        if levels > 1 and isinstance(value, dict) and value:
            yield from ((f"{name}.{inner}", part) for inner, part in _flat(value, levels - 1))
        else:
            yield name, value


def nest(written):
    """What `flatten` takes apart, as bilm-tf and allennlp read it: without our own names.

    Example:

    >>> nest({"model_type": "elmo", "lstm.dim": 5, "lstm.cell_clip": None, "char_cnn.n_highway": 2})
    {'lstm': {'dim': 5, 'cell_clip': None}, 'char_cnn': {'n_highway': 2, 'n_characters': 262}}
    """
    dropped = {"model_type", "architectures"}
    if written.get("n_tokens_vocab") is None:
        dropped.add("n_tokens_vocab")
    if any(name.startswith("char_cnn.") for name in written):
        written = {**written, "char_cnn.n_characters": 262}
    nested = {}
    for name, value in written.items():
        if name in dropped:
            continue
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return nested


def softmax_size(checkpoint):
    """The number of words of a `Published`'s softmax: by its weights, else by its options.

    Raises:
        ValueError: neither has it, or the number is not in range.
    """
    if "softmax/W" in checkpoint.names:
        shape = checkpoint.shape("softmax/W")
        if len(shape) != 2 or shape[1] != checkpoint.arguments[P]:
            raise ValueError(
                f"'softmax/W' must have the shape (words, {checkpoint.arguments[P]}). Received: "
                f"{shape}."
            )
        return shape[0]
    count = checkpoint.option(WORDS) or checkpoint.option("n_tokens_vocab")
    if type(count) is not int or not 1 <= count <= MOST_LABELS:
        raise ValueError(
            "There is no softmax in the checkpoint, and `n_tokens_vocab` in the configuration must "
            f"lie in 1 .. {MOST_LABELS}. Received: {count!r}. Pass the number of words for a new "
            "softmax: vocab_size=..."
        )
    return count


def check(elmo, model):
    """Raises ValueError for models that bilm-tf does not have."""
    arguments = elmo.get_config()
    if model is not elmo and getattr(model, "softmax", None) is None:
        raise ValueError(
            "bilm-tf has files only for an ELMo and for its language model. Save a head as a "
            f"`.keras` file. Received: a {type(model).__name__}."
        )
    words = arguments["vocab_size"]
    if model is not elmo and words is not None and model.softmax.kernel.shape[-1] != words:
        raise ValueError(
            f"bilm-tf has one `n_tokens_vocab` for the table and the softmax. Received: {words} "
            f"and {model.softmax.kernel.shape[-1]}."
        )


ELMO = Family(
    model_type="elmo",
    title="ELMo",
    model="Elmo",
    architectures=r"Elmo|ElmoLanguageModel",
    bare="Elmo",
    options=OPTIONS,
    weights=WEIGHTS,
    core="encoder",
    fixed=FIXED,
    others=TRAINING,
    ignored=r"lm/.*/Adagrad|train_perplexity",
    check=check,
    config_files=("options.json", "*options.json"),
    weights_file="lm_weights.hdf5",
    flatten=flatten,
    nest=nest,
)
