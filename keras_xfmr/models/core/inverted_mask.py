"""Warns about padding masks in which 1 hides, which are allowed but probably an error.

B batch, T length
"""

import warnings

from keras_xfmr import functional


def warn_of_inverted_mask(inputs, pad_id):
    """Warns if `attention_mask` hides the tokens and shows the padding.

    It checks rows that have both, if their values are known. Inside a compiled graph they are not.

    Args:
        inputs: `token_ids` and perhaps `attention_mask`, `[B, T]` each, by their names.
        pad_id: of the model.
    """
    if "attention_mask" not in inputs:
        return
    ids, mask = map(functional.concrete_value, (inputs["token_ids"], inputs["attention_mask"]))
    if ids is None or mask is None or ids.ndim != 2 or ids.shape != mask.shape:
        return
    tokens, seen = ids != pad_id, mask != 0
    both = tokens.any(axis=1) & ~tokens.all(axis=1)
    if both.any() and (seen != tokens)[both].all():
        warnings.warn(
            f"`attention_mask` hides every token and shows the padding (pad_token_id={pad_id}). It "
            "must be 1 for a token and 0 for padding. If yours is the reverse, pass "
            "`1 - attention_mask`, or leave it out.",
            stacklevel=3,
        )
