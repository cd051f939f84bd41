"""Finds the transformer in a folder of sentence-transformers."""

from keras_xfmr.common.files import CONFIG_BYTES, read_json

# Before version 2 the transformer had its own folder, such as "0_Transformer" or "0_BERT", beside a
# `config.json` that has only the version.
INNER, ABOUT_NO_MODEL = "0_*/config.json", {"__version__"}


def transformer_folder(folder):
    """The folder of the configuration, the weights and the tokenizer: `folder` or one in it.

    Args:
        folder: a `pathlib.Path`.

    Raises:
        ValueError: `config.json` is damaged.
    """
    config = folder / "config.json"
    if config.is_file() and not set(read_json(config, dict, CONFIG_BYTES)) <= ABOUT_NO_MODEL:
        return folder
    inner = sorted(folder.glob(INNER))
    return inner[0].parent if inner else folder
