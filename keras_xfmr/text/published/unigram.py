"""Converts a unigram model of a `tokenizer.json` to a SentencePiece model."""

import base64
import binascii
import math

from keras_xfmr.common.protobuf import field
from keras_xfmr.text.tokenizers.sentence_piece_model import (
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN_PIECE,
)

STEPS = ("Precompiled", "Strip", "Replace")  # steps that a SentencePiece model has too


def is_unigram(fast):
    """Whether a `tokenizer.json` has a unigram model.

    Args:
        fast: its content, `{}` without one.
    """
    model = fast.get("model")
    return isinstance(model, dict) and model.get("type") == "Unigram"


def unigram_of(fast, special):
    """The pieces in the order of their ids, and the bytes of a SentencePiece model of them.

    Args:
        fast: the content of a `tokenizer.json`.
        special: pieces that text cannot produce.

    Raises:
        ValueError: it is damaged, or splits texts in another way than SentencePiece.
    """
    model = fast["model"]
    pieces, unknown = model.get("vocab"), model.get("unk_id")
    if not isinstance(pieces, list) or not all(map(_is_piece, pieces)):
        raise ValueError("tokenizer.json is damaged: its model has no pieces with their scores.")
    if type(unknown) is not int or not 0 <= unknown < len(pieces):
        raise ValueError(f"tokenizer.json is damaged: `unk_id` is {unknown!r}.")
    if model.get("byte_fallback"):
        raise ValueError("Expected byte_fallback=false in tokenizer.json. Received: True.")
    words = _flat(fast.get("pre_tokenizer"), "pretokenizers")
    kinds = [step.get("type") for step in words]
    if kinds not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        raise ValueError(
            "Expected a pre_tokenizer Metaspace in tokenizer.json, as SentencePiece has it. "
            f"Received: {kinds}."
        )
    before = words[-1].get("prepend_scheme", "always") != "never"
    before = before and words[-1].get("add_prefix_space", True)
    parts = []
    for index, (text, score) in enumerate(pieces):
        kind = CONTROL if text in special else NORMAL
        kind = UNKNOWN_PIECE if index == unknown else kind
        piece = field(1, text.encode("utf8")) + field(2, float(score)) + field(3, kind)
        parts.append(field(1, piece))
    rules = field(2, _characters(fast)) + field(3, int(bool(before))) + field(4, 1)
    proto = b"".join([*parts, field(2, field(3, UNIGRAM)), field(3, rules)])
    return [text for text, _ in pieces], proto


def _is_piece(piece):
    if not isinstance(piece, list) or len(piece) != 2 or not isinstance(piece[0], str):
        return False
    return isinstance(piece[1], (int, float)) and abs(piece[1]) < 1e30 and math.isfinite(piece[1])


def _characters(fast):
    """The table that normalizes characters."""
    steps = _flat(fast.get("normalizer"), "normalizers")
    others = [step.get("type") for step in steps if step.get("type") not in STEPS]
    tables = [step for step in steps if step.get("type") == "Precompiled"]
    if others or len(tables) > 1:
        raise ValueError(
            "Expected a normalizer Precompiled in tokenizer.json, as SentencePiece has it. "
            f"Received: {[step.get('type') for step in steps]}."
        )
    content = tables[0].get("precompiled_charsmap") if tables else ""
    try:
        return base64.b64decode(content or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"tokenizer.json is damaged: {error}.") from error


def _flat(step, name):
    """A list of a step, or of the steps of a sequence."""
    steps = [] if step is None else [step]
    if isinstance(step, dict) and step.get("type") == "Sequence":
        steps = step.get(name)
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValueError(f"tokenizer.json is damaged: {name} are no objects.")
    return steps
