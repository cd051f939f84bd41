"""What the tests of exports share."""

import fcntl
import os

import cpp_loader
import pytest


@pytest.fixture(scope="session")
def loader(tmp_path_factory):
    """The compiled C++ loader; the first of pytest-xdist's workers that wants it makes it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with open(folder / "loader.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "loader").exists():
            cpp_loader.build_loader(folder)
    return folder / "loader"
