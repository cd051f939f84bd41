"""Prompts of any form as rows of ids, and rows as a right-aligned matrix.

B batch, P prompt length
"""

import numpy as np
from keras import ops


def as_rows(given, lengths=None):
    """Ids of any form as a list of arrays, one a row.

    Args:
        given: a list of lists of ids, a ragged tensor, or integers `[B, P]`.
        lengths: `[B]`, the ids of each row of `[B, P]` that count; by default all.

    Raises:
        ValueError: an array of another rank, or another number of lengths.
    """
    if hasattr(given, "to_list"):  # ragged
        given = given.to_list()
    if isinstance(given, (list, tuple)):
        return [np.asarray(ops.convert_to_numpy(row)).reshape(-1) for row in given]
    given = ops.convert_to_numpy(given)
    if given.ndim != 2:
        raise ValueError(
            f"Prompts must have the shape [batch, length]. Received: shape {given.shape}."
        )
    lengths = [given.shape[1]] * len(given) if lengths is None else lengths
    return [row[: int(length)] for row, length in zip(given, lengths, strict=True)]


def align_right(rows, fill):
    """Rows of ids as int32 `[B, P]`, `fill` in front of them, and their lengths, int32 `[B]`."""
    lengths = np.array([len(row) for row in rows], "int32")
    aligned = np.full((len(rows), lengths.max(initial=1)), fill, "int32")
    for place, row in zip(aligned, rows):
        place[len(place) - len(row) :] = row
    return aligned, lengths
