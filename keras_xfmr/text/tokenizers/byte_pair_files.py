"""The files of byte-pair encodings: `vocab.json`, `merges.txt`, `tokenizer.json`."""

import json

from keras_xfmr.common.files import MAX_LINES, read_bytes, read_json
from keras_xfmr.text.tokenizers.added_tokens import added_token, in_order


def _alphabet():
    """GPT-2's character for each byte: itself if it is printable, else one beyond Latin-1."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


ALPHABET = _alphabet()
BYTES = {character: byte for byte, character in enumerate(ALPHABET)}
# The values that a `tokenizer.json` must have for these keys, if it has the keys.
MODEL = {
    "type": ("BPE",),
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
WORDS = {"type": ("ByteLevel",), "add_prefix_space": (False,), "use_regex": (None, True)}
GPT2_WORDS = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def read_vocabulary_and_merges(vocabulary, merges, added=()):
    """Tokens in the order of their ids and pairs in the order of their ranks.

    Args:
        vocabulary, merges: paths of `vocab.json` and `merges.txt`.
        added: objects of `content`, `id` and `special`, as `tokenizer.json` has them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is damaged.
    """
    tokens = in_order(read_json(vocabulary), added, contents(added))
    return tokens, _merges_of(read_bytes(merges))


def json_of(content):
    """The content of a `tokenizer.json`, from its bytes."""
    try:
        return json.loads(content.decode("utf8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tokenizer.json is damaged: {error}") from error


def byte_pairs_of(fast):
    """As `read_vocabulary_and_merges`, from the content of a `tokenizer.json`.

    Raises:
        ValueError: it is damaged, or is another kind of tokenizer.
    """
    check_part(fast, "pre_tokenizer", WORDS)
    if fast.get("normalizer") is not None:
        raise ValueError(
            "Expected no normalizer in tokenizer.json: GPT-2's tokenizer changes nothing. "
            f"Received: {fast['normalizer']!r:.200}."
        )
    return vocabulary_and_merges_of(fast)


def contents(added):
    """The tokens of a list of added tokens; the list may be damaged."""
    return [token.get("content") for token in added if isinstance(token, dict)]


def found_in(fast, roles=()):
    """The added tokens of a byte-level `tokenizer.json` that are found in a text: all that are not
    special and have no role."""
    plain = [token for token in fast.get("added_tokens") or [] if not token.get("special")]
    return plainly_found([token for token in plain if token["content"] not in roles])


def plainly_found(added, normalizes=False):
    """The contents of added tokens that are found exactly.

    Args:
        added: objects of `content` and flags.
        normalizes: whether texts are normalized, so that the flag `normalized` has an effect.

    Raises:
        ValueError: a token is found in another way.
    """
    for token in added:
        flags = ["single_word", "lstrip", "rstrip", *(["normalized"] if normalizes else [])]
        flags = [flag for flag in flags if token.get(flag)]
        if flags:
            raise ValueError(
                f"Expected {', '.join(flags)}=false of added tokens in tokenizer.json. Received: "
                f"{token['content']!r}, which would be found in a text in another way."
            )
    return [token["content"] for token in added]


def vocabulary_and_merges_of(fast):
    """Tokens and pairs as in `read_vocabulary_and_merges`, from any `tokenizer.json`."""
    model, added = check_part(fast, "model", MODEL), fast.get("added_tokens") or []
    ids, merges = model.get("vocab"), model.get("merges")
    if not isinstance(ids, dict) or not isinstance(merges, list) or not isinstance(added, list):
        raise ValueError("tokenizer.json is damaged: its model has no vocabulary or no merges.")
    tokens = in_order(ids, added, contents(added))
    return tokens, [_pair(merge, rank) for rank, merge in enumerate(merges)]


def as_tokenizer_json(
    vocabulary, merges, special, *, found=(), words=GPT2_WORDS, normalizer=None, **model
):
    """The content of a `tokenizer.json` for a byte-pair encoding; by default for one over bytes.

    Args:
        vocabulary: tokens in the order of their ids.
        merges: pairs in the order of their ranks.
        special: tokens that no text has.
        found: tokens that are found in a text before it is split into words.
        words: how texts are split into words and joined again.
        normalizer: None, or a step that changes the texts before that.
        **model: entries of the model that differ from those over bytes.
    """
    blanks = any(" " in left + right for left, right in merges)  # which old readers cannot read
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added_token(token, special=token in special, id=i)
            for i, token in enumerate(vocabulary)
            if token in special or token in found
        ],
        "normalizer": normalizer,
        "pre_tokenizer": words,
        "post_processor": words if words["type"] == "ByteLevel" else None,
        "decoder": words,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            **model,
            "vocab": {token: i for i, token in enumerate(vocabulary)},
            "merges": [list(pair) if blanks else " ".join(pair) for pair in merges],
        },
    }


def _merges_of(content):
    """The pairs of a `merges.txt`: a line `#version: 0.2`, then a pair a line."""
    if content.count(b"\n") > MAX_LINES:
        raise ValueError(f"Expected at most {MAX_LINES} merges. Received: more.")
    # Not `splitlines`, which also splits at characters that tokens may have.
    lines = content.decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
    skip = int(not lines[0] or lines[0].startswith("#version"))
    return [_pair(line, rank) for rank, line in enumerate(lines[skip:])]


def _pair(merge, rank):
    pair = tuple(merge.split(" ")) if isinstance(merge, str) else merge
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise ValueError(f"A merge must be two tokens. Received: {merge!r} as number {rank}.")
    return tuple(pair)


def check_part(fast, name, expected):
    """The part `name` of a `tokenizer.json`, after a check of its values.

    Args:
        fast: the content of the file.
        name: its key.
        expected: key -> the allowed values; the first one is the default.
    """
    if not isinstance(fast, dict):
        raise ValueError("tokenizer.json is damaged: expected an object at its top.")
    part = fast.get(name)
    if not isinstance(part, dict):
        raise ValueError(
            f"Expected an object as {name} in tokenizer.json. Received: {part!r:.200}."
        )
    for key, values in expected.items():
        found = part.get(key, values[0])
        if found not in values:
            raise ValueError(
                f"Expected {key}={values[-1]!r} in the {name} of tokenizer.json. Received: "
                f"{found!r:.200}. Supported are byte-pair encodings over bytes, such as GPT-2's, "
                "and those over characters with a pre-tokenizer 'Metaspace', such as KoGPT2's; a "
                "SentencePiece model (`*.model`) in the folder works too."
            )
    return part
