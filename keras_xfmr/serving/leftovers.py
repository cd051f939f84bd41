"""What lies in a model's folder besides the versions that stay: folders aside, and old versions.

Nothing is removed that does not carry the mark of this library.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile

MARK = ".written_by_keras_xfmr"  # a file in each folder aside, where it is the lock, and version
PREFIX = ".writing-"


@contextlib.contextmanager
def folder_aside(path):
    """A new folder in `path`, which is gone after the block.

    Its mark is locked in the block. A process that is killed leaves its folder, and loses the lock:
    the next one removes the folder.
    """
    _sweep(path)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=path))
    lock = os.open(aside / "lock", os.O_CREAT | os.O_RDWR)
    try:
        with contextlib.suppress(OSError):  # of a file system without locks: no mark
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(aside / "lock", aside / MARK)  # which is locked as soon as it can be seen
        yield aside
    finally:
        _remove(aside)
        os.close(lock)


def _sweep(path):
    for aside in path.glob(PREFIX + "*"):
        with contextlib.suppress(OSError), open(aside / MARK, "rb+") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)  # or somebody writes there
            _remove(aside)


def _remove(aside):
    """The mark goes last: what is left when this process is killed is swept, too."""
    for child in aside.iterdir():
        if child.name != MARK:
            shutil.rmtree(child, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def put_old_versions(path, newest, keep, aside):
    """Moves versions below the newest to a folder aside, except the last `keep - 1`.

    Args:
        path: of the model.
        newest: a number; versions above it stay.
        keep: how many of this library's versions stay, the newest one included.
        aside: see `folder_aside`; a server never sees half of a version.
    """
    def is_ours(child):  # `007` is no name that an export gives
        number = child.name.isdecimal() and str(int(child.name)) == child.name
        return number and (child / MARK).is_file() and not child.is_symlink()

    versions = sorted((int(child.name) for child in path.iterdir() if is_ours(child)), reverse=True)
    older = [version for version in versions if version < newest]
    for version in older[keep - 1 :]:
        with contextlib.suppress(OSError):  # another export has just moved it
            os.rename(path / str(version), aside / str(version))
