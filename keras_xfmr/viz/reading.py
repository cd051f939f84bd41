"""From a model and texts to attention weights and the names of tokens.

Models and tokenizers are used by their methods: this folder imports no other one.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np

ROLES = {"pad_id": "[PAD]", "start_id": "[START]", "end_id": "[END]", "unknown_id": "[UNK]"}


def token_names(tokenizer: Any, ids: Any) -> list[str]:
    """Names of ids in pictures: each id detokenized alone, and special tokens by their names.

    Args:
        tokenizer: a `keras_xfmr.text.Tokenizer`.
        ids: T integers.

    Returns:
        T strings. Bytes that are not a whole character are written as `\\xed`.

    Example::

        token_names(tokenizer, [2, 57, 8, 3])  # ["[CLS]", "dog", "##s", "[SEP]"]
    """
    ids = np.asarray(ids)
    found = np.asarray(tokenizer.detokenize(ids[:, None]))
    spelled = tokenizer.get_vocabulary() if hasattr(tokenizer, "get_vocabulary") else []
    roles = {getattr(tokenizer, role): name for role, name in ROLES.items()}
    names = []
    for one, name in zip(ids.tolist(), found.tolist()):
        if not name and 0 <= one < len(spelled):  # a special token, or the start of a word
            name = spelled[one]
        name = name.decode("utf8", "replace") if isinstance(name, bytes) else str(name)
        names.append(name or roles.get(one, ""))
    return names


def read_attention(model, given, tokenizer):
    """The weights and tokens of texts or ids, see `attention_view`."""
    if "target_ids" not in inspect.signature(model.attention_weights).parameters:
        return _of_encoder(model, given, tokenizer)
    both = tokenizer if isinstance(tokenizer, (tuple, list)) else (tokenizer, tokenizer)
    source, target = given if isinstance(given, tuple) else (given, None)
    source_ids, source_tokens = _ids(source, both[0])
    if target is None:
        starts = np.full((len(source_ids), 1), model.start_id)
        target = np.asarray(model.generate(source_ids)["token_ids"])
        target = np.concatenate([starts, target], axis=1)
        ended = np.cumsum(target[:, 1:] == model.end_id, axis=1) > 0
        lengths = 1 + (~ended).sum(axis=1)
        target = [row[:length].tolist() for row, length in zip(target, lengths)]
    target_ids, target_tokens = _ids(target, both[1], end=False)
    weights = model.attention_weights(source_ids, target_ids)
    return weights, (source_tokens, target_tokens)


def _of_encoder(model, given, tokenizer):
    model = getattr(model, "encoder", model)  # a head may need inputs that are not text
    packed, packer = given, tokenizer if callable(tokenizer) else None
    tokenizer = tokenizer if packer is None else packer.tokenizer
    texts = [given] if _are_texts(given) else []
    if isinstance(given, tuple) and given and all(map(_are_texts, given)):
        texts = _pair(given, packer)
    if texts and packer is not None:
        packed = packer(*map(_listed, texts))
    if not isinstance(packed, dict):
        ids, tokens = _ids(packed, tokenizer, start=True)
        return model.attention_weights(ids), tokens
    # A packer may return more than a model reads, such as segments for a Gpt.
    read = [one.name for one in model.declared_inputs]
    inputs = {name: np.asarray(packed[name]) for name in read if name in packed}
    ids = inputs["token_ids"]
    mask = inputs.get("attention_mask", np.ones_like(ids))
    rows = [row[: int(seen.sum())] for row, seen in zip(ids, mask)]
    return model.attention_weights(inputs), [_names(row, tokenizer) for row in rows]


def _pair(given, packer):
    """The two parts of a row; a tuple has them, and a list has separate texts."""
    if packer is None or len(given) != 2:
        raise ValueError(
            "A tuple is a pair of texts (or of lists of texts), which a packer reads: pass "
            "`tokenizer=SentencePacker(tokenizer, max_length)`. Separate texts are a list. "
            f"Received: {given!r} and {'no' if packer is None else 'a'} packer."
        )
    return given


def _are_texts(given):
    several = isinstance(given, Iterable) and not isinstance(given, dict)
    return isinstance(given, str) or (several and all(isinstance(one, str) for one in given))


def _listed(texts):
    return [texts] if isinstance(texts, str) else list(texts)


def _ids(given, tokenizer, *, start=None, end=True):
    """Ids `[B, T]` from texts or ids, and the tokens of each row without padding."""
    texts = _are_texts(given)
    if texts and tokenizer is None:
        raise ValueError(f"Texts need a `tokenizer`. Received: {given!r} without one.")
    if texts:
        start = not end if start is None else start
        rows = tokenizer.encode(_listed(given), start=start, end=end).to_list()
    else:
        rows = [list(row) for row in (given if np.ndim(given[0]) else [given])]
    lengths = {len(row) for row in rows}
    if len(lengths) > 1 and tokenizer is None:
        raise ValueError(
            "Rows of ids of different lengths need a `tokenizer`, whose padding fills them. "
            f"Received: lengths {sorted(lengths)} without one."
        )
    ids = np.full((len(rows), max(lengths)), getattr(tokenizer, "pad_id", 0), "int32")
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return ids, [_names(row, tokenizer) for row in rows]


def _names(ids, tokenizer):
    return [str(int(one)) for one in ids] if tokenizer is None else token_names(tokenizer, ids)
