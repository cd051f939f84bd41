"""Damaged HDF5 files in a child process: each is read, or is a ValueError; the child does not end.

More of them:

    FUZZED_FILES=100000 python -m pytest -m slow tests/checkpoints/test_hdf5_damage.py
"""

import os

import pytest
from hdf5_files import outcomes


def check(counts, number):
    assert sum(counts.values()) == number and set(counts) == {"read", "refused"}, counts
    # The damage is neither so small that all pass, nor so great that only the first check runs.
    assert min(counts.values()) > number / 20, counts


def test_some_damaged_files(tmp_path):
    check(outcomes(5, 101, tmp_path), 101)


@pytest.mark.slow
def test_damaged_files(tmp_path):
    number = int(os.environ.get("FUZZED_FILES", 4_003))
    check(outcomes(7, number, tmp_path), number)
