"""ELMo in NumPy, loop by loop, from the papers and the original's description.

B batch, T length, C characters, U units, P projection_dim
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def clip(x, limit):
    return x if limit is None else np.clip(x, -limit, limit)


def projected_lstm(
    x, weights, h, c, *, mask=None, backwards=False, forget_bias=1.0, cell_clip=None,
    projection_clip=None,
):  # fmt: skip
    """Sak et al. 2014; the gates of TensorFlow's LSTMCell. Row by row, step by step, in float64."""
    kernel, recurrent, projection = (
        np.asarray(weights[f"{name}kernel"], "float64")
        for name in ("", "recurrent_", "projection_")
    )
    rows, length = x.shape[:2]
    outputs = np.zeros((rows, length, projection.shape[1]))
    h, c = np.array(h, "float64"), np.array(c, "float64")
    for b in range(rows):
        for t in reversed(range(length)) if backwards else range(length):
            if mask is not None and not mask[b, t]:
                continue
            z = x[b, t] @ kernel + h[b] @ recurrent + weights.get("bias", 0.0)
            i, j, f, o = np.split(z, 4)
            c[b] = clip(sigmoid(f + forget_bias) * c[b] + sigmoid(i) * np.tanh(j), cell_clip)
            h[b] = clip((sigmoid(o) * np.tanh(c[b])) @ projection, projection_clip)
            outputs[b, t] = h[b]
    return outputs, h, c


def character_cnn(ids, embeddings, convolutions, highways, projection, activation="relu"):
    """Kim et al. 2016: ids `[B, T, C]` to vectors; a highway is W_t, b_t, W_g, b_g."""
    act = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}[activation]
    table = np.concatenate([np.zeros((1, embeddings.shape[1])), embeddings])
    rows = []
    for word in ids.reshape(-1, ids.shape[-1]):
        letters = table[word]
        found = []
        for kernel, bias in convolutions:
            width = len(kernel)
            places = [
                np.einsum("we,wen->n", letters[p : p + width], kernel) + bias
                for p in range(len(word) - width + 1)
            ]
            found.append(act(np.max(places, axis=0)))
        x = np.concatenate(found)
        for w_t, b_t, w_g, b_g in highways:
            gate = sigmoid(x @ w_g + b_g)
            x = gate * act(x @ w_t + b_t) + (1 - gate) * x
        rows.append(x @ projection[0] + projection[1])
    return np.reshape(rows, (*ids.shape[:-1], -1))


def scalar_mix(values, weight, gamma, layer_norm=False):
    """Peters et al. 2018, equation 1."""
    if layer_norm:
        values = [
            (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-12)
            for v in values
        ]
    return gamma * sum(s * v for s, v in zip(softmax(np.asarray(weight)), values))
