"""Which source token belongs to each generated token.

B batch, n sequences a source, S source, P prompt length, L generated tokens
"""

import numpy as np
from keras import ops


def align(model, source_ids, prompt, lengths, found):
    """The source token with the largest cross-attention in the last block, averaged over the heads.

        a[t] = argmax_s mean_n A[n, t, s],  A the weights from which token t is predicted

    Args:
        model: a model with `attention_weights(source_ids, target_ids)`.
        source_ids: int `[B, S]`.
        prompt: int `[B, P]`, right-aligned, the start token included.
        lengths: int `[B]`, tokens of each prompt.
        found: a search's `token_ids [B, L]` or `[B, n, L]` and `lengths`.

    Returns:
        int32 of the shape of `token_ids`, columns of the source; -1 after the end of a sequence.
    """
    token_ids, count = found["token_ids"], found["lengths"]
    repeats = token_ids.shape[1] if token_ids.ndim == 3 else 1
    source_ids, prompt, lengths = (
        np.repeat(x, repeats, axis=0) for x in (source_ids, prompt, lengths)
    )
    generated = token_ids.reshape(-1, token_ids.shape[-1])
    width, length = prompt.shape[1], generated.shape[1]
    targets = np.zeros((len(prompt), width + length - 1), "int32")
    for row, first, size, tokens in zip(targets, prompt, lengths, generated):
        row[:size] = first[width - size :]
        row[size : size + length - 1] = tokens[:-1]
    weights = model.attention_weights(source_ids, targets)["cross"][-1]
    looks_at = ops.convert_to_numpy(ops.argmax(ops.mean(ops.cast(weights, "float32"), 1), -1))
    places = np.minimum(lengths[:, None] - 1 + np.arange(length), looks_at.shape[1] - 1)
    looks_at = np.take_along_axis(looks_at, places, axis=1).reshape(token_ids.shape)
    there = np.arange(length) < count[..., None]
    return np.where(there, looks_at, -1).astype("int32")
