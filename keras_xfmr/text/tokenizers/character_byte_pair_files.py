"""`tokenizer.json` of byte-pair encodings over characters, such as KoGPT2's."""

import re

from keras_xfmr.text.tokenizers.byte_pair_files import (
    as_tokenizer_json,
    check_part,
    plainly_found,
    vocabulary_and_merges_of,
)
from keras_xfmr.text.tokenizers.metaspace import FORMS, SCHEMES, WORD_BEGIN

WORDS = {
    "type": ("Metaspace",),
    "replacement": (WORD_BEGIN,),
    "str_rep": (WORD_BEGIN,),
    "add_prefix_space": (True, False),
    "prepend_scheme": SCHEMES,
    "split": (True, False),
}
# The steps of a BertNormalizer. A file may have one with all steps off.
STEPS = ("clean_text", "handle_chinese_chars", "lowercase", "strip_accents")
# A name between such brackets is a control token; a user's text must not produce it.
BRACKETED = re.compile(r"(?s)<.*\w.*>|\[.*\w.*\]")


def character_pairs_of(fast):
    """Reads a character byte-pair encoding from a `tokenizer.json`.

    Args:
        fast: the content of the file.

    Returns:
        Tokens in the order of their ids, pairs in the order of their ranks, and the other
        arguments of `CharacterBytePairTokenizer` that the file sets.

    Raises:
        ValueError: it is damaged, or is another kind of tokenizer.
    """
    words = check_part(fast, "pre_tokenizer", WORDS)
    vocabulary, merges = vocabulary_and_merges_of(fast)
    prefix = words.get("add_prefix_space", True)
    scheme = words.get("prepend_scheme", "always" if prefix else "never")
    if not prefix and scheme != "never":
        raise ValueError(
            "Expected prepend_scheme='never' where add_prefix_space is false in tokenizer.json. "
            f"Received: {scheme!r}."
        )
    fuse = fast["model"].get("fuse_unk", False)
    if not isinstance(fuse, bool):
        raise ValueError(f"Expected true or false as fuse_unk in tokenizer.json. Received: {fuse}.")
    forms = _forms(fast.get("normalizer"))
    if len(forms) > 1:
        raise ValueError(f"Expected one normalizer in tokenizer.json. Received: {forms}.")
    unknown = fast["model"].get("unk_token")
    settings = {
        "unknown_token": unknown,
        "fuse_unknown": fuse,
        "normalization": forms[0] if forms else None,
        "prepend_scheme": scheme,
        "split": words.get("split", True),
        "added_tokens": _found(fast.get("added_tokens") or [], unknown, bool(forms)),
    }
    return vocabulary, merges, settings


def _forms(normalizer):
    """Names of the Unicode normalization forms, one after the other."""
    if normalizer is None:
        return []
    normalizer = normalizer if isinstance(normalizer, dict) else {}
    parts = normalizer.get("normalizers")
    if normalizer.get("type") == "Sequence" and isinstance(parts, list):
        return [form for part in parts for form in _forms(part)]
    if normalizer.get("type") in FORMS[1:]:
        return [normalizer["type"]]
    steps = [step for step in STEPS if normalizer.get(step, step != "strip_accents")]
    if normalizer.get("type") == "BertNormalizer" and not steps:
        return []
    raise ValueError(
        f"Expected no normalizer in tokenizer.json, or NFC or NFKC. Received: {normalizer!r:.200}. "
        "Change the texts before the tokenizer, and remove it from the file."
    )


def _found(added, unknown, normalizes):
    """The added tokens that are found in a text: all except names between brackets."""
    return plainly_found(
        [
            token
            for token in added
            if token["content"] != unknown and not BRACKETED.fullmatch(token["content"])
        ],
        normalizes,
    )


def as_character_json(vocabulary, merges, special, config):
    """The content of a `tokenizer.json` for a `CharacterBytePairTokenizer`.

    Args:
        vocabulary: tokens in the order of their ids.
        merges: pairs in the order of their ranks.
        special: tokens that no text has, and the unknown one.
        config: the other arguments.
    """
    form = config["normalization"]
    return as_tokenizer_json(
        vocabulary,
        merges,
        special,
        found=config["added_tokens"],
        words={
            "type": "Metaspace",
            "replacement": WORD_BEGIN,
            "prepend_scheme": config["prepend_scheme"],
            "split": config["split"],
        },
        normalizer=None if form is None else {"type": form},
        unk_token=config["unknown_token"],
        fuse_unk=config["fuse_unknown"],
    )
