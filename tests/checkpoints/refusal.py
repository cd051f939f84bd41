"""What is asked of a reader that is given a hostile file."""

import os
import time
import tracemalloc

import pytest

from keras_xfmr.checkpoints import read_checkpoint

# Python's own objects; an empty list takes 80 bytes and one byte of a pickle.
MEMORY, MEMORY_PER_BYTE = 2**20, 100


def refuses(path, match, size=None):
    """Reading all of a checkpoint ends in a ValueError that says what, soon and cheaply."""
    size = os.path.getsize(path) if size is None else size
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(ValueError, match=match):
            with read_checkpoint(path) as checkpoint:
                for name in checkpoint:
                    checkpoint[name]
        took, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY + MEMORY_PER_BYTE * size
    assert took < 5  # a second without the tracing, on a machine with nothing else to do


def cases(table):
    return pytest.mark.parametrize("content, message", list(table.values()), ids=list(table))
