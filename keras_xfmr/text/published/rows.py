"""Settings of a folder about the inputs of its model: the maximum length, and lower case."""

from keras_xfmr.common.files import CONFIG_BYTES, read_json

# Files of sentence-transformers; the first one that exists counts.
KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
SENTENCE_SETTINGS = tuple(f"sentence_{kind}_config.json" for kind in KINDS)
# transformers writes 10**30 for a tokenizer that has no limit.
NO_LIMIT = 2**31


def longest_row(folder, config):
    """The maximum length of the rows of a model, special tokens included, or None.

    `max_seq_length` of sentence-transformers, else `model_max_length`; at most the number of
    positions in the model's `config.json`.

    Args:
        folder: the folder with the files.
        config: the content of `tokenizer_config.json`.

    Raises:
        ValueError: a length that is not an integer from 1.
    """
    model = _read(folder, ("config.json",))
    said = {
        "max_seq_length": _read(folder, SENTENCE_SETTINGS).get("max_seq_length"),
        "model_max_length": config.get("model_max_length"),
        "max_position_embeddings": model.get("max_position_embeddings", model.get("n_positions")),
    }
    for name, value in said.items():
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 1
        if value is not None and not (whole and (value >= NO_LIMIT or value == int(value))):
            raise ValueError(f"Expected a whole number from 1 as {name!r}. Received: {value!r}.")
    lengths = [None if n is None or n >= NO_LIMIT else int(n) for n in said.values()]
    longest = lengths[0] or lengths[1]
    return min(longest, lengths[2] or longest) if longest else None


def lowers_texts(folder):
    """Whether sentence-transformers makes texts lower case before the tokenizer.

    Raises:
        ValueError: `do_lower_case` is neither true nor false.
    """
    value = _read(folder, SENTENCE_SETTINGS).get("do_lower_case") or False
    if not isinstance(value, bool):
        raise ValueError(f"Expected true or false as 'do_lower_case'. Received: {value!r}.")
    return value


def _read(folder, names):
    found = [folder / name for name in names if (folder / name).is_file()]
    return read_json(found[0], dict, CONFIG_BYTES) if found else {}
