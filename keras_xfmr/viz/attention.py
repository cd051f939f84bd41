"""Attention as a page that people look around in.

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

from keras_xfmr.viz.figures import Path
from keras_xfmr.viz.reading import read_attention, token_names

__all__ = ["attention_view", "token_names"]

PAGE = pathlib.Path(__file__).with_name("page")
# Part of an encoder-decoder -> whose tokens are its queries, and whose its keys.
SIDES = {"encoder": (0, 0), "decoder": (1, 1), "cross": (1, 0)}
MOST = 2**26  # weights of a page; a browser reads no text of 100 MB quickly


def attention_view(
    attention: Any,
    tokens: Any,
    path: Path | None = None,
    *,
    tokenizer: Any = None,
    title: str = "Attention",
) -> str:
    """Writes attention weights as one HTML file, in which a reader chooses what to see.

    The page shows the tokens at the left (queries) and right (keys), and a line for each weight;
    layer and heads are chosen, one colour a head, and pointing at a token leaves its lines only. A
    second view shows all layers and heads, and a click opens one. The file is complete: it loads
    nothing, so it works without a network and can be sent by mail. As bertviz (Vig 2019) shows
    attention, without its JavaScript libraries.

    A weight is kept in one byte, as a share of the largest one of its head: 12 layers of 12 heads
    of 40 tokens are 0.33 MB.

    Args:
        attention: what `attention_weights` of a model returned: a list of `[B, N, T, T]`, one a
            layer, or the dictionary of a `Transformer`. Or a model that has `attention_weights`.
        tokens: T strings, or B lists of these for several rows. A row may have fewer where the rest
            of it is padding. With a dictionary a pair of such: of the source and of the target.
            With a model: a text or texts, or ids, which are read by `tokenizer`; for a
            `Transformer` a pair of them, or sources alone, with what it generates as targets.
        path: where to write the page, or None.
        tokenizer: with a model only: its tokenizer or `SentencePacker`, for a `Transformer` a pair
            of tokenizers, or one for both sides. It can be left out for ids, whose numbers are then
            shown.
        title: over the page.

    Returns:
        The page, a string.

    Raises:
        TypeError: tokens that are no strings.
        ValueError: weights that do not fit the tokens or are no numbers from 0; none at all; or
            more than a browser can take (2^26).

    Example::

        weights = model.attention_weights(source_ids, target_ids)
        attention_view(weights, (source_tokens, target_tokens), "attention.html")

        attention_view(bert, ["그는 배를 탔다"], "bert.html", tokenizer=tokenizer)
    """
    if hasattr(attention, "attention_weights"):
        attention, tokens = read_attention(attention, tokens, tokenizer)
    elif tokenizer is not None:
        raise ValueError(
            "`tokenizer` is for a model, which reads texts. Received: weights and a tokenizer; "
            "pass `token_names(tokenizer, ids)` as `tokens`."
        )
    data = {"rows": _rows(attention, tokens)}
    page = _page(title, data)
    if path is not None:
        pathlib.Path(path).write_bytes(page.encode("utf8", "replace"))
    return page


def _page(title, data):
    # "<" would let a token end the script that holds it; others than ASCII are escaped, too, so
    # that halves of a surrogate pair do not matter.
    written = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"title": html.escape(str(title)), "data": written}
    for name, file in (
        ("style", "attention.css"), ("lines", "lines.js"), ("controls", "controls.js"),
    ):  # fmt: skip
        parts[name] = (PAGE / file).read_text("utf8").rstrip()
    page = (PAGE / "attention.html").read_text("utf8")
    # In one pass: what is put in is not looked through.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def _rows(attention, tokens):
    """Of each row its parts, as `page/lines.js` describes them."""
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
    """Lists of strings, one a row."""
    tokens = list(tokens)
    rows = tokens if tokens and not any(map(_is_one, tokens)) else [tokens]
    wrong = [one for row in rows for one in row if not isinstance(one, str)]
    if wrong:
        raise TypeError(
            f"`tokens` must be strings, or lists of them. Received: {wrong[0]!r}. "
            "`token_names(tokenizer, ids)` gives those of ids."
        )
    return [list(row) for row in rows]


def _is_one(token):
    return isinstance(token, (str, bytes)) or np.ndim(token) == 0


def _layer(weights):
    weights = np.asarray(weights, "float32")
    weights = weights[None] if weights.ndim == 3 else weights
    if weights.ndim != 4 or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(
            "A layer's weights must be finite numbers from 0, [rows, heads, queries, keys]. "
            f"Received: shape {weights.shape}, from {weights.min(initial=0)} to "
            f"{weights.max(initial=0)}."
        )
    return weights


def _packed(name, weights, row, left, right):
    """A row of a layer: bytes, and what each head's have to be multiplied with."""
    queries, keys = len(left[row]), len(right[row])
    rows, _, most_queries, most_keys = weights.shape
    padding = weights[row, :, :queries, keys:] if row < rows else weights
    if rows != len(left) or queries > most_queries or keys > most_keys or padding.any():
        raise ValueError(
            f"Expected weights [rows, heads, queries, keys] of {name} for {len(left)} rows, the "
            f"row {row} of which has {queries} queries and {keys} keys, and no weight behind them. "
            f"Received: shape {weights.shape}, the sum {padding.sum():.4g} behind the last key."
        )
    weights = weights[row, :, :queries, :keys]
    largest = weights.max(axis=(1, 2), initial=0.0)
    scales = np.where(largest > 0, largest, 1.0) / 255
    content = np.rint(weights / scales[:, None, None]).astype("uint8")
    return {
        "scales": [float(f"{scale:.4g}") for scale in scales],
        "weights": base64.b64encode(content.tobytes()).decode(),
    }
