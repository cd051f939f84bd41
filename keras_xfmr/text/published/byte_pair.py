"""Byte-pair encodings of published folders: GPT-2, RoBERTa and similar ones, and KoGPT2."""

from keras_xfmr.text.tokenizers.added_tokens import added_beside
from keras_xfmr.text.tokenizers.byte_pair import END_OF_TEXT, BytePairTokenizer
from keras_xfmr.text.tokenizers.byte_pair_files import (
    byte_pairs_of,
    found_in,
    read_vocabulary_and_merges,
    vocabulary_and_merges_of,
)
from keras_xfmr.text.tokenizers.character_byte_pair import CharacterBytePairTokenizer

FILES = ("vocab.json", "merges.txt")
# Classes of transformers that read these two files as GPT-2's does.
READ_ALIKE = ("GPT2", "Roberta", "Bart", "Longformer", "LED", "PreTrained")
# Our argument -> its names in tokenizer_config.json and special_tokens_map.json; the first one
# that a file has counts.
ROLES = {
    "end_token": ("eos_token", "sep_token"),
    "start_token": ("bos_token", "cls_token"),
    "pad_token": ("pad_token",),
    "mask_token": ("mask_token",),
}
# Our argument -> the default token, if the vocabulary has it.
ROBERTA = {"end_token": "</s>", "start_token": "<s>", "pad_token": "<pad>"}
KOGPT2 = {"end_token": "</s>", "pad_token": "<pad>"}  # its end token is its start token


def is_byte_pair(folder, fast):
    """Whether a folder has a byte-pair encoding of any kind.

    Args:
        folder: may have `vocab.json` and `merges.txt`.
        fast: the content of its `tokenizer.json`, `{}` without one.
    """
    if fast:
        model = fast.get("model")
        return isinstance(model, dict) and model.get("type", "BPE") == "BPE" and "merges" in model
    return all((folder / name).is_file() for name in FILES)


def load_byte_pair(folder, fast, config, special):
    """The `BytePairTokenizer` of a folder, or its `CharacterBytePairTokenizer`.

    Args:
        folder, fast: as in `is_byte_pair`.
        config, special: the contents of `tokenizer_config.json` and `special_tokens_map.json`.

    Raises:
        ValueError: a file is damaged, or needs a step that these tokenizers do not have.
    """
    named = {**special, **config}
    words = fast.get("pre_tokenizer")
    if isinstance(words, dict) and words.get("type") == "Metaspace":
        vocabulary, _ = vocabulary_and_merges_of(fast)
        tokens = _special_tokens(vocabulary, named, KOGPT2)
        return CharacterBytePairTokenizer.from_json(fast, **tokens)
    if config.get("add_prefix_space"):
        raise ValueError(
            "Expected add_prefix_space=false in tokenizer_config.json. Received: "
            f"{config['add_prefix_space']!r}. Remove it, and put the blank before the texts."
        )
    if fast:
        content, added = byte_pairs_of(fast), fast.get("added_tokens")
    else:
        name = str(config.get("tokenizer_class", READ_ALIKE[0]))
        if name.removesuffix("Fast").removesuffix("Tokenizer") not in READ_ALIKE:
            raise ValueError(
                f"Expected tokenizer_class to be one of {', '.join(READ_ALIKE)} with "
                f"'Tokenizer' behind it. Received: {name!r}, which reads {' and '.join(FILES)} in "
                "another way."
            )
        added = added_beside(folder, config, special)
        content = read_vocabulary_and_merges(*(folder / name for name in FILES), added)
    roles = _special_tokens(content[0], named, ROBERTA)
    found = found_in({"added_tokens": added}, roles.values())
    return BytePairTokenizer(*content, **roles, added_tokens=found)


def _special_tokens(vocabulary, named, others):
    """Arguments of the tokenizer; GPT-2's oldest folders have no names of special tokens."""
    found = {}
    for argument, roles in ROLES.items():
        tokens = [named[role] for role in roles if named.get(role) is not None]
        if tokens:
            found[argument] = tokens[0].get("content") if isinstance(tokens[0], dict) else tokens[0]
    if "end_token" in found:
        return found
    vocabulary = set(vocabulary)
    if END_OF_TEXT in vocabulary:
        return {"end_token": END_OF_TEXT, **found}
    if vocabulary.issuperset(others.values()):
        return {**others, "mask_token": "<mask>" if "<mask>" in vocabulary else None, **found}
    raise ValueError(
        "Expected an eos_token in tokenizer_config.json or special_tokens_map.json. Received: "
        f"none, and no {END_OF_TEXT} in the vocabulary. Add it to the file, or call `from_file` of "
        "`BytePairTokenizer` or `CharacterBytePairTokenizer` with the `end_token`."
    )
