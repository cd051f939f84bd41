"""Checks of plain values: integers, rates, seeds. Each returns a value for a configuration."""

import collections.abc
import numbers

SEED_LIMIT = 2**31  # a backend would truncate a larger seed


def check_int(name, value, least=None, most=None):
    """`value` as a Python integer, because a configuration cannot hold integers of NumPy.

    Raises:
        ValueError: it is not an integer, below `least` or above `most`.

    Example:

    >>> check_int("num_layers", np.int64(3), least=0)
    3
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    below = whole and least is not None and value < least
    above = whole and most is not None and value > most
    if not whole or below or above:
        if (least, most) == (1, None):
            expected = "a positive integer"
        elif most is not None:
            expected = f"an integer in {least} .. {most}"
        else:
            expected = "an integer" + ("" if least is None else f", at least {least}")
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}.")
    return int(value)


def check_positive_int(name, value):
    """`value` as a Python integer of at least 1; ValueError for anything else."""
    return check_int(name, value, least=1)


def check_rate(name, value, all_too=False):
    """`value`, a dropout rate in [0, 1), with `all_too` in [0, 1]; ValueError for anything else."""
    if not isinstance(value, numbers.Real) or not (0 <= value < 1 or (all_too and value == 1)):
        end = "]" if all_too else ")"
        raise ValueError(f"`{name}` must lie in [0, 1{end}. Received: {value!r}.")
    return value


def check_number(name, value, zero=True):
    """`value`, a positive number or, with `zero`, 0; ValueError for anything else."""
    if not isinstance(value, numbers.Real) or not (value > 0 or (zero and value == 0)):
        expected = "a number that is not negative" if zero else "a positive number"
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}.")
    return value


def check_epsilon(name, value):
    """`value`, what a norm adds to a variance, in (0, 1); ValueError for anything else."""
    if not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise ValueError(f"`{name}` must lie in (0, 1). Received: {value!r}.")
    return value


def check_choice(name, value, choices):
    """`value`, one of `choices`; ValueError for anything else."""
    if not isinstance(value, collections.abc.Hashable) or value not in choices:
        raise ValueError(f"`{name}` must be one of {tuple(choices)}. Received: {value!r}.")
    return value


def check_seed(seed, name="seed"):
    """`seed` as a Python integer in 0 .. 2^31 - 1; ValueError for anything else."""
    return check_int(name, seed, least=0, most=SEED_LIMIT - 1)
