"""Families of published models, one file for each, and the search for a folder's family."""

import re
import warnings

from keras_xfmr.checkpoints.families.bert import BERT
from keras_xfmr.checkpoints.families.elmo import ELMO
from keras_xfmr.checkpoints.families.gpt2 import GPT2

FAMILIES = {family.model_type: family for family in (BERT, GPT2, ELMO)}


def family_called(name):
    """The family with a name.

    Raises:
        ValueError: there is none.
    """
    if name not in FAMILIES:
        raise ValueError(f"`family` must be one of {tuple(FAMILIES)}. Received: {name!r}.")
    return FAMILIES[name]


def find_family(config, called=None):
    """The family of a configuration.

    By `model_type`; without one, by `architectures`; without either, as in the files of Google,
    OpenAI and of bilm-tf, the family `called`; its table must then fit.

    Args:
        config: as published.
        called: the family of the class that was called; None for any family.

    Raises:
        ValueError: an unknown family, another one than `called`, or no family.
    """
    if called is not None:
        family_called(called)
    kind, named = config.get("model_type"), config.get("architectures")
    if kind is not None:
        received = f"model_type={kind!r}"
        found = FAMILIES.get(kind) if isinstance(kind, str) else None
    elif named:
        received = f"architectures={named!r}"
        found = _of_architectures(named)
    else:
        received = "a configuration with neither `model_type` nor `architectures`"
        found = None if called is None else FAMILIES[called]
    if found is not None and called in (None, found.model_type):
        if named and _of_architectures(named) is not found:
            warnings.warn(
                f"The configuration has {received} and architectures={named!r}, which is not a "
                f"{found.title} of transformers. The weights are read as those of a {found.title}.",
                stacklevel=2,
            )
        return found
    wanted = [family for family in FAMILIES.values() if called in (None, family.model_type)]
    expected = " or ".join(f"{w.title} (model_type={w.model_type!r})" for w in wanted)
    hint = ""
    if found is not None:
        hint = f" A {found.title} is loaded by keras_xfmr.models.{found.model}."
    elif kind is None and not named:
        hint = " Pass the family: family=..."
    raise ValueError(f"Expected the configuration of a {expected}. Received: {received}.{hint}")


def _of_architectures(named):
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    for family in FAMILIES.values():
        if any(re.fullmatch(family.architectures, name) for name in names):
            return family
    return None
