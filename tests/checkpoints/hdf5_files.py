"""HDF5 files for tests, and damaged ones read in a process of their own: the C library may end it.

    python tests/checkpoints/hdf5_files.py SEED FIRST AFTER_LAST FOLDER

prints a line for each damaged file that was read or refused.
"""

import collections
import io
import pathlib
import random
import resource
import signal
import subprocess
import sys
import types

import h5py
import numpy as np
from damage import mutated

ROOT = pathlib.Path(__file__).parents[2] / "keras_xfmr"
MOST_MEMORY = 64 * 2**10  # KiB; more than the library takes at its first files
MOST_SECONDS = 20  # of the processor, for one file


def hdf5_file(fill, **options):
    """The bytes of a file that the function `fill` was called with."""
    content = io.BytesIO()
    with h5py.File(content, "w", **options) as file:
        fill(file)
    return content.getvalue()


def fill_sample(file):
    file["CNN/W"] = np.arange(35, dtype="float32").reshape(1, 5, 7) / 8
    file["CNN/b"] = np.arange(7, dtype=">f8")
    file["RNN_0/RNN/Cell0/B"] = np.arange(3, dtype="float16")
    file["char_embed"] = np.ones((2, 3), "float32")


def originals():
    """An old file, as published ones are, and one with the newest structures and checksums."""
    return [hdf5_file(fill_sample), hdf5_file(fill_sample, libver="latest")]


def outcomes(seed, number, folder):
    """What became of `number` damaged files -> how many; a child for each that ends its child."""
    counts, first = collections.Counter(), 0
    while first < number:
        command = [sys.executable, __file__, *map(str, (seed, first, number, folder))]
        child = subprocess.run(command, capture_output=True, text=True)
        lines = child.stdout.split()
        counts.update(lines)
        first += len(lines)
        if child.returncode > 0:
            raise AssertionError(f"file {first} of seed {seed}: {child.stderr}")
        if child.returncode:
            counts[signal.Signals(-child.returncode).name] += 1
            first += 1
    return counts


def reader():
    """`HDF5Checkpoint`, without the packages around it, which take seconds to import."""
    for name in ("keras_xfmr", "keras_xfmr.checkpoints"):
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    from keras_xfmr.checkpoints.formats.hdf5 import HDF5Checkpoint

    return HDF5Checkpoint


def main(seed, first, after_last, folder):
    read, path, files = reader(), pathlib.Path(folder) / f"{seed}.hdf5", originals()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(int(first), int(after_last)):
        path.write_bytes(mutated(files[i % 2], random.Random(f"{seed} {i}")))
        signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
        try:
            with read(path) as checkpoint:
                for name, shape in checkpoint.shapes.items():
                    assert checkpoint[name].shape == shape
            result = "read"
        except ValueError:
            result = "refused"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
        assert grown < MOST_MEMORY, f"{grown} KiB"
        print(result, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
