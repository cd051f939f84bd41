"""Attention weights as an interactive HTML page.

B rows, N heads, T queries, S keys
"""

import base64
import html
import json
import math
import pathlib
import re
from typing import Any

import numpy as np

from keras_xfmr.viz.figures import Path, shown
from keras_xfmr.viz.reading import read_attention, token_names

__all__ = ["attention_view", "token_names"]

PAGE = pathlib.Path(__file__).with_name("page")
# Part of an encoder-decoder -> the sides of its queries and of its keys.
SIDES = {"encoder": (0, 0), "decoder": (1, 1), "cross": (1, 0)}
MOST = 2**26  # weights of a page; a browser is slow to read a text of 100 MB


def attention_view(
    attention: Any,
    tokens: Any,
    path: Path | None = None,
    *,
    tokenizer: Any = None,
    title: str = "Attention",
) -> str:
    """Writes attention weights as one interactive HTML file.

    The page shows the tokens at the left (queries) and right (keys), and a line for each weight.
    The reader chooses a layer and heads; each head has a colour, and pointing at a token shows only
    its lines. A second view shows all layers and heads, and a click opens one. The file loads
    nothing, so it works without a network and can be sent by mail. The view follows bertviz (Vig
    2019), without its JavaScript libraries.

    A character that is invisible or turns the text, such as U+202E, is written as `\\u202e`.

    A weight is stored in one byte, as a share of the largest one of its head: 12 layers of 12 heads
    of 40 tokens are 0.33 MB.

    Args:
        attention: result of a model's `attention_weights`: a list of `[B, N, T, T]`, one for each
            layer, or the dictionary of a `Transformer`. Or a model that has `attention_weights`.
        tokens: T strings, or B lists of strings for several rows. A row may have fewer if the rest
            is padding. With a dictionary: a pair of source tokens and target tokens. With a model:
            a text, texts or ids, which `tokenizer` reads; for a `Transformer` a pair of these, or
            only sources (the targets are then generated). For an encoder and a packer: also what
            the packer returns, or a tuple of two texts (or of two lists of them), its two parts.
        path: where to write the page, or None.
        tokenizer: only with a model: its tokenizer or `SentencePacker`, which packs texts but not
            ids; for a `Transformer` a pair of tokenizers, or one for both sides. Ids need none; the
            page then shows numbers.
        title: title of the page.

    Returns:
        The page, a string.

    Raises:
        TypeError: tokens that are not strings.
        ValueError: weights that do not match the tokens, are negative or not finite; no weights; or
            more than a browser can show (2^26); a pair of texts for an encoder without a packer.

    Example::

        weights = model.attention_weights(source_ids, target_ids)
        attention_view(weights, (source_tokens, target_tokens), "attention.html")

        attention_view(bert, ["그는 배를 탔다"], "bert.html", tokenizer=tokenizer)
    """
    if hasattr(attention, "attention_weights"):
        attention, tokens = read_attention(attention, tokens, tokenizer)
    elif tokenizer is not None:
        raise ValueError(
            "`tokenizer` is for a model that reads texts. Received: weights and a tokenizer; "
            "pass `token_names(tokenizer, ids)` as `tokens`."
        )
    data = {"rows": _rows(attention, tokens)}
    page = _page(title, data)
    if path is not None:
        pathlib.Path(path).write_bytes(page.encode("utf8", "replace"))
    return page


def _page(title, data):
    # A "<" in a token could end the script. Characters other than ASCII are escaped, too, so that
    # halves of a surrogate pair do no harm.
    written = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"title": html.escape(str(title)), "data": written}
    for name, file in (
        ("style", "attention.css"), ("lines", "lines.js"), ("controls", "controls.js"),
    ):  # fmt: skip
        parts[name] = (PAGE / file).read_text("utf8").rstrip()
    page = (PAGE / "attention.html").read_text("utf8")
    # One pass: inserted text is not searched again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def _rows(attention, tokens):
    """The parts of each row, see `page/lines.js`."""
    if isinstance(attention, dict):
        unknown = sorted(set(attention) - set(SIDES))
        if unknown or not isinstance(tokens, (tuple, list)) or len(tokens) != 2:
            raise ValueError(
                f"Expected weights of {list(SIDES)} and a pair (source tokens, target tokens). "
                f"Received: {sorted(attention)} and {tokens!r}."
            )
        both = [_token_rows(side) for side in tokens]
        parts = [
            (name, both[SIDES[name][0]], both[SIDES[name][1]], attention[name])
            for name in SIDES
            if name in attention and len(attention[name])
        ]
    else:
        own = _token_rows(tokens)
        parts = [("attention", own, own, attention)] if len(attention) else []
    if not parts:
        raise ValueError("Expected the attention weights of one layer or more. Received: none.")
    count = sum(math.prod(np.shape(layer)) for *_, layers in parts for layer in layers)
    if count > MOST:
        raise ValueError(
            f"Expected at most {MOST:,} weights. Received: {count:,}; pass fewer rows, layers or "
            "tokens."
        )
    read = [(*part, [_layer(layer) for layer in layers]) for *part, layers in parts]
    return [
        [
            {"name": name, "left": left[row], "right": right[row],
             "layers": [_packed(name, layer, row, left, right) for layer in layers]}
            for name, left, right, layers in read
        ]
        for row in range(len(parts[0][1]))
    ]  # fmt: skip


def _token_rows(tokens):
    """Lists of strings, one for each row."""
    tokens = list(tokens)
    rows = tokens if tokens and not any(map(_is_one, tokens)) else [tokens]
    wrong = [one for row in rows for one in row if not isinstance(one, str)]
    if wrong:
        raise TypeError(
            f"`tokens` must be strings, or lists of strings. Received: {wrong[0]!r}. Use "
            "`token_names(tokenizer, ids)` for ids."
        )
    return [[shown(one) or "\u2205" for one in row] for row in rows]


def _is_one(token):
    return isinstance(token, (str, bytes)) or np.ndim(token) == 0


def _layer(weights):
    weights = np.asarray(weights, "float32")
    weights = weights[None] if weights.ndim == 3 else weights
    if weights.ndim != 4 or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(
            "A layer's weights must be finite and not negative, [rows, heads, queries, keys]. "
            f"Received: shape {weights.shape}, from {weights.min(initial=0)} to "
            f"{weights.max(initial=0)}."
        )
    return weights


def _packed(name, weights, row, left, right):
    """A row of a layer: bytes, and the factor of each head."""
    queries, keys = len(left[row]), len(right[row])
    rows, _, most_queries, most_keys = weights.shape
    padding = weights[row, :, :queries, keys:] if row < rows else weights
    if rows != len(left) or queries > most_queries or keys > most_keys or padding.any():
        raise ValueError(
            f"Expected weights [rows, heads, queries, keys] of {name} for {len(left)} rows. "
            f"Row {row} has {queries} queries and {keys} keys; later keys must have weight 0. "
            f"Received: shape {weights.shape}, sum {padding.sum():.4g} of the later keys."
        )
    weights = weights[row, :, :queries, :keys]
    largest = weights.max(axis=(1, 2), initial=0.0)
    scales = np.where(largest > 0, largest, 1.0) / 255
    content = np.rint(weights / scales[:, None, None]).astype("uint8")
    return {
        "scales": [float(f"{scale:.4g}") for scale in scales],
        "weights": base64.b64encode(content.tobytes()).decode(),
    }
