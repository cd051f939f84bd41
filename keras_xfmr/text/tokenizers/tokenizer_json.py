"""A SentencePiece model as a `tokenizer.json`, for Hugging Face's libraries."""

import base64

from keras_xfmr.text.tokenizers.added_tokens import added_token
from keras_xfmr.text.tokenizers.bert import BERT_TOKENS
from keras_xfmr.text.tokenizers.sentence_piece_model import (
    BPE,
    BYTE,
    NORMAL,
    UNIGRAM,
    USER_DEFINED,
    WORD_BEGIN,
)

NEVER = -1e9  # the score of pieces that SentencePiece does not find in a text


def as_tokenizer_json(model, tokenizer):
    """The content of a `tokenizer.json` for a `SentencePieceTokenizer` with BERT's special tokens.

    Differences in the libraries that read it: a literal special token in a text becomes that token,
    and so does the name of a byte (`<0x41>`) if its character is not a piece. They put no single
    `▁` before such tokens. If two segmentations of a word are equally probable, they may choose
    the other one.

    Args:
        model: the result of `read_model`.
        tokenizer: its vocabulary and special ids.

    Returns:
        Plain values, or None if the format cannot express it: a model of words or characters,
        special tokens with other names than BERT's, a vocabulary that leaves pieces out, or added
        tokens: the libraries would begin a new word after each of them.
    """
    tokens = tokenizer.get_vocabulary()
    special = special_tokens(tokenizer)
    kinds = {UNIGRAM: _unigram, BPE: _byte_pairs}
    if model.kind not in kinds or special is None:
        return None
    ordinary = {piece.text for piece in model.pieces if piece.kind in (NORMAL, BYTE)}
    found = {piece.text for piece in model.pieces if piece.kind == USER_DEFINED}
    if not ordinary <= set(tokens) or not found <= set(special.values()):
        return None
    own = {tokenizer.unknown_id, *tokenizer.special_ids}
    words = {
        "type": "Metaspace",
        "replacement": WORD_BEGIN,
        "prepend_scheme": "always" if model.begins_words else "never",
        "split": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added_token(token, special=i in own, id=i)
            for i, token in enumerate(tokens)
            if i in own
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": words,
        "post_processor": _template(tokenizer, special),
        "decoder": _decoder(model, words),
        "model": {
            **kinds[model.kind](model, tokens, tokenizer.unknown_id),
            "byte_fallback": _has_bytes(model),
        },
    }


def _has_bytes(model):
    return any(piece.kind == BYTE for piece in model.pieces)


def _decoder(model, words):
    """How pieces become text: neighbouring bytes are joined first."""
    if not _has_bytes(model):
        return words
    return {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, words]}


def _unigram(model, tokens, unknown_id):
    """The pieces with their log-probabilities."""
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
    vocabulary = [[token, scores.get(token, NEVER)] for token in tokens]
    return {"type": "Unigram", "unk_id": unknown_id, "vocab": vocabulary}


def _byte_pairs(model, tokens, unknown_id):
    """The pairs that form a piece, those of the highest score first."""
    ids = {token: index for index, token in enumerate(tokens)}
    normal = [piece for piece in model.pieces if piece.kind == NORMAL]
    known, merges = {piece.text for piece in normal}, []
    for piece in sorted(normal, key=lambda piece: -piece.score):
        halves = ((piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text)))
        merges += [" ".join(pair) for pair in halves if known.issuperset(pair)]
    return {
        "type": "BPE",
        "unk_token": tokens[unknown_id],
        "fuse_unk": True,
        "vocab": ids,
        "merges": merges,
    }


def special_tokens(tokenizer):
    """Names of BERT's special tokens at the tokenizer's ids, or None if one has another name."""
    tokens = tokenizer.get_vocabulary()
    ids = {role: getattr(tokenizer, role) for role in BERT_TOKENS}
    found = {role: tokens[i] for role, i in ids.items() if i is not None}
    return found if all(BERT_TOKENS[role] == token for role, token in found.items()) else None


def _normalizers(model):
    steps = []
    if model.characters:
        content = base64.b64encode(model.characters).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": content})
    if model.trims:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return steps


def _template(tokenizer, special):
    """`[CLS] A [SEP]`, and `[CLS] A [SEP] B [SEP]` with B of segment 1."""

    def token(role, segment):
        return {"SpecialToken": {"id": special[role], "type_id": segment}}

    def sentence(name, segment):
        return {"Sequence": {"id": name, "type_id": segment}}

    one = [token("start_id", 0), sentence("A", 0), token("end_id", 0)]
    ids = {special[role]: getattr(tokenizer, role) for role in ("start_id", "end_id")}
    return {
        "type": "TemplateProcessing",
        "single": one,
        "pair": [*one, sentence("B", 1), token("end_id", 1)],
        "special_tokens": {
            name: {"id": name, "ids": [index], "tokens": [name]} for name, index in ids.items()
        },
    }
