"""Removes temporary folders and old versions from a model's folder.

Only folders with the mark of this library are removed, and temporary folders that have been empty
for an hour. Links are not followed.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile
import time

MARK = ".written_by_keras_xfmr"  # in each version, and in each temporary folder as its lock
PREFIX = ".writing-"
UNMARKED = 3600  # seconds that a folder may be without a mark, before it has one and after


@contextlib.contextmanager
def folder_aside(path):
    """A temporary folder in `path`, removed after the block.

    Its mark is locked during the block. A killed process leaves its folder and loses the lock, so
    the next export removes the folder.
    """
    _sweep(path)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=path))
    lock = os.open(aside / "lock", os.O_CREAT | os.O_RDWR)
    try:
        with contextlib.suppress(OSError):  # no mark without file locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(aside / "lock", aside / MARK)  # the mark is already locked when it appears
        yield aside
    finally:
        _remove(aside)
        os.close(lock)


def _sweep(path):
    for aside in path.glob(PREFIX + "*"):
        if aside.is_symlink():  # perhaps to a version elsewhere, which has a mark, too
            continue
        with contextlib.suppress(OSError), open(aside / MARK, "rb+") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if it is in use
            _remove(aside)
        with contextlib.suppress(OSError):
            _remove_unmarked(aside)


def _remove_unmarked(aside):
    """Removes a folder of a process that was killed before its mark was there, or after."""
    left = os.listdir(aside)
    old = time.time() - aside.stat().st_mtime > UNMARKED
    if old and set(left) <= {"lock"} and len(aside.name) == len(PREFIX) + 8:  # as `mkdtemp` has it
        for name in left:
            os.unlink(aside / name)
        os.rmdir(aside)


def _remove(aside):
    """Removes the mark last, so that `_sweep` finds the rest if this process is killed."""
    for child in aside.iterdir():
        if child.name != MARK:
            shutil.rmtree(child, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def put_old_versions(path, newest, keep, aside):
    """Moves versions below the newest to a temporary folder, except the last `keep - 1`.

    Args:
        path: of the model.
        newest: a number; versions above it stay.
        keep: how many of this library's versions stay, the newest one included.
        aside: see `folder_aside`; a server never sees half of a version.
    """
    def is_ours(child):  # an export does not use names such as `007`
        number = child.name.isdecimal() and str(int(child.name)) == child.name
        return number and (child / MARK).is_file() and not child.is_symlink()

    versions = sorted((int(child.name) for child in path.iterdir() if is_ours(child)), reverse=True)
    older = [version for version in versions if version < newest]
    for version in older[keep - 1 :]:
        with contextlib.suppress(OSError):  # another export has just moved it
            os.rename(path / str(version), aside / str(version))
