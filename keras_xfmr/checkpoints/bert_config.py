"""A published BERT's `config.json` (Hugging Face) or `bert_config.json` (Google)."""

from keras_xfmr.checkpoints.checkpoint import CONFIG_BYTES
from keras_xfmr.common.files import read_json

# Hugging Face's name of each size -> our argument, and the default where a file is silent.
ARGUMENTS = {
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("d_model", 768),
    "num_attention_heads": ("num_heads", 12),
    "intermediate_size": ("ffn_dim", 3072),
    "num_hidden_layers": ("num_layers", 12),
    "max_position_embeddings": ("max_length", 512),
    "type_vocab_size": ("type_vocab_size", 2),
    "hidden_dropout_prob": ("dropout_rate", 0.1),
    "attention_probs_dropout_prob": ("attention_dropout_rate", 0.1),
    "hidden_act": ("hidden_act", "gelu"),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
    "pad_token_id": ("pad_token_id", 0),
    "initializer_range": ("initializer_range", 0.02),
}
# Whether a number may be used, and what is expected. Written so that NaN may not.
RANGES = {
    "hidden_dropout_prob": (lambda rate: 0 <= rate < 1, "from 0 to below 1"),
    "attention_probs_dropout_prob": (lambda rate: 0 <= rate < 1, "from 0 to below 1"),
    "layer_norm_eps": (lambda epsilon: 0 < epsilon < 1, "between 0 and 1"),
    "num_hidden_layers": (lambda count: count >= 0, "from 0"),
    "initializer_range": (lambda deviation: 0 <= deviation <= 1e30, "finite and not negative"),
    "pad_token_id": (lambda row: row >= 0, "from 0"),
}
CONFIG_FILES = ("config.json", "bert_config.json")
MOST_LABELS = 1_000_000


def read_config(folder):
    """The configuration in a folder, a dictionary.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is too large, or no JSON object.
    """
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            return read_json(folder / name, dict, CONFIG_BYTES)
    raise FileNotFoundError(f"No {' or '.join(CONFIG_FILES)} in {str(folder)!r}.")


def bert_arguments(config):
    """Arguments of `Bert` from a Hugging Face or Google configuration.

    Raises:
        ValueError: another kind of model, or a value of a wrong type or outside its range.
    """
    kind, positions = config.get("model_type", "bert"), config.get("position_embedding_type")
    if kind != "bert" or positions not in (None, "absolute") or config.get("is_decoder"):
        raise ValueError(
            "Expected a BERT encoder with absolute positions. Received: "
            f"model_type={kind!r}, position_embedding_type={positions!r}, "
            f"is_decoder={config.get('is_decoder')!r}."
        )
    arguments = {}
    for theirs, (ours, default) in ARGUMENTS.items():
        value = config.get(theirs)
        value = default if value is None else value
        wanted = (int, float) if isinstance(default, float) else type(default)
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise ValueError(
                f"`{theirs}` in the configuration is {value!r}. "
                f"Expected: {'a number' if isinstance(default, float) else type(default).__name__}."
            )
        if not isinstance(value, str):
            fits, expected = RANGES.get(theirs, (lambda size: size >= 1, "from 1"))
            if not fits(value):
                raise ValueError(
                    f"`{theirs}` in the configuration is {value!r}. Expected: {expected}."
                )
        arguments[ours] = value
    return arguments


def classifier_dropout(config):
    """The dropout rate of a head, None where it is the encoder's.

    Raises:
        ValueError: it is no rate.
    """
    rate = config.get("classifier_dropout")
    fits, expected = RANGES["hidden_dropout_prob"]
    number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if rate is not None and not (number and fits(rate)):
        raise ValueError(
            f"`classifier_dropout` in the configuration is {rate!r}. Expected: {expected}."
        )
    return rate


def architecture(config):
    """The class of transformers that the weights are of, or None."""
    named = config.get("architectures")
    single = isinstance(named, list) and len(named) == 1 and isinstance(named[0], str)
    return named[0] if single else None


def label_count(config):
    """The number of labels by the configuration.

    Raises:
        ValueError: it is no number of labels.
    """
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if type(count) is not int or not 1 <= count <= MOST_LABELS:
        raise ValueError(f"`num_labels` must lie in 1 .. {MOST_LABELS}. Received: {count!r}.")
    return count


def label_names(config, count):
    """Names of `count` labels in the order of their ids, or None where there are no such names."""
    labels = config.get("id2label")
    if not isinstance(labels, dict) or len(labels) != count:
        return None
    names = [labels.get(str(i)) for i in range(count)]
    return names if all(isinstance(name, str) for name in names) else None
