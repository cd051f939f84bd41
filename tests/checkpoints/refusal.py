"""What is asked of a reader that is given a hostile file."""

import builtins
import contextlib
import cProfile
import io
import os
import tracemalloc
import types

import pytest

from keras_xfmr.checkpoints import read_checkpoint

# Python's own objects; an empty list takes 80 bytes and one byte of a pickle.
MEMORY, MEMORY_PER_BYTE = 2**20, 100
# Calls of functions stand for time, which depends on what else the machine does. An instruction of
# a pickle takes a byte and some calls.
CALLS, CALLS_PER_BYTE = 10_000, 20
# A file is read in blocks, and the end of a zip file before its beginning.
READ, READ_PER_BYTE = 2**15, 4


class _Counted(io.FileIO):
    """A file that counts the bytes that are read of it."""

    def __init__(self, path, spent):
        super().__init__(path)
        self._spent = spent

    def readinto(self, buffer):
        count = super().readinto(buffer)
        self._spent.read += count
        return count

    def readall(self):
        content = super().readall()
        self._spent.read += len(content)
        return content


@contextlib.contextmanager
def measured():
    """What the block takes: `memory` at its highest, `calls` of functions, bytes `read` of files.

    Each is the same on a busy machine, and is there after the block.
    """
    spent, profile = types.SimpleNamespace(memory=None, calls=None, read=0), cProfile.Profile()
    tracing, plain = tracemalloc.is_tracing(), builtins.open

    def counted(file, mode="r", *arguments, **options):
        if mode != "rb":
            return plain(file, mode, *arguments, **options)
        return io.BufferedReader(_Counted(file, spent))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", counted)
        patch.setattr(io, "open", counted)
        if tracing:
            tracemalloc.reset_peak()
        else:
            tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        profile.enable()
        try:
            yield spent
        finally:
            profile.disable()
            spent.memory = tracemalloc.get_traced_memory()[1] - before
            if not tracing:
                tracemalloc.stop()
            spent.calls = sum(entry.callcount for entry in profile.getstats())


def refuses(path, match, size=None):
    """Reading all of a checkpoint ends in a ValueError that says what, soon and cheaply."""
    size = os.path.getsize(path) if size is None else size
    with measured() as spent:
        with pytest.raises(ValueError, match=match):
            with read_checkpoint(path) as checkpoint:
                for name in checkpoint:
                    checkpoint[name]
    assert spent.memory < MEMORY + MEMORY_PER_BYTE * size
    assert spent.calls < CALLS + CALLS_PER_BYTE * size
    assert spent.read < READ + READ_PER_BYTE * size


def cases(table):
    return pytest.mark.parametrize("content, message", list(table.values()), ids=list(table))
