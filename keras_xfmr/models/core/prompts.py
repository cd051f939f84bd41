"""Converts prompts of any form to rows of ids, and rows to a right-aligned matrix.

B batch, P prompt length
"""

import numpy as np
from keras import ops

from keras_xfmr.models.core.inputs import IDS, refuse_texts


def as_rows(given, lengths=None, pad_id=None):
    """Ids of any form as a list of arrays, one for each row.

    Args:
        given: a list of lists of ids, a ragged tensor, or integers `[B, P]`.
        lengths: `[B]`, how many ids of each row count; by default all except the padding.
        pad_id: what is padding in integers `[B, P]`, or None; lists and ragged rows have none.

    Raises:
        ValueError: texts, ids of another rank, or lengths that are not one integer in 0 .. P for
            each row.
    """
    refuse_texts({"prompt": given}, IDS)
    if hasattr(given, "to_list"):  # ragged
        given = given.to_list()
    listed = isinstance(given, (list, tuple))
    rows = [np.asarray(ops.convert_to_numpy(row)) for row in given] if listed else given
    rows = rows if listed else ops.convert_to_numpy(rows)
    if any(row.ndim != 1 for row in rows) if listed else rows.ndim != 2:
        found = f"{given!r}" if listed else f"shape {rows.shape}"
        raise ValueError(
            "Prompts must be a list of lists of ids, or integers [batch, length]. For one prompt "
            f"pass [[5, 7]]. Received: {found}."
        )
    if lengths is not None:
        return _first(rows, lengths)
    return [row if listed or pad_id is None else row[row != pad_id] for row in rows]


def _first(rows, lengths):
    """The first `lengths` ids of each row."""
    lengths = np.asarray(ops.convert_to_numpy(lengths))
    whole = lengths.shape == (len(rows),) and lengths.dtype.kind in "iu"
    if not whole or any(not 0 <= length <= len(row) for row, length in zip(rows, lengths)):
        raise ValueError(
            f"Expected `lengths` of {len(rows)} integers, one for each row, from 0 to its ids. "
            f"Received: {lengths.tolist()} for rows of {[len(row) for row in rows]}."
        )
    return [row[:length] for row, length in zip(rows, lengths)]


def round_up(width, most):
    """The next of 16, 24, 32, 48, 64, 96, ..., at most `most`, at least `width`.

    A program is compiled for each width, so there must be few widths.
    """
    power = 16
    while power < width:
        power *= 2
    between = power * 3 // 4
    return max(width, min(between if max(width, 17) <= between else power, most))


def align_right(rows, fill, most):
    """Rows of ids as int32 `[B, P]`, `fill` in front of them, and their lengths, int32 `[B]`.

    P is rounded up, to at most `most`.
    """
    lengths = np.array([len(row) for row in rows], "int32")
    width = round_up(lengths.max(initial=1), most)
    aligned = np.full((len(rows), width), fill, "int32")
    for place, row in zip(aligned, rows):
        place[len(place) - len(row) :] = row
    return aligned, lengths
