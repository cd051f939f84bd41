"""Thousands of damaged files of every format: each is read, or is a ValueError; nothing else.

But a file that names others may name one that is missing, which is a FileNotFoundError.

More of them:

    FUZZED_FILES=100000 python -m pytest tests/checkpoints/test_fuzzed_files.py
"""

import collections
import json
import os
import random
import resource
import tracemalloc

import pytest
from damage import mutated
from refusal import measured
from weight_files import (
    TF_DATA,
    sample_safetensors,
    sample_state,
    sample_tf_index,
    torch_stream,
    torch_zip,
)

from keras_xfmr.checkpoints import read_checkpoint

INDEX_JSON = json.dumps({"weight_map": {"floats": "a.safetensors", "corner": "a.bin"}}).encode()
# What is damaged -> the name of its file, and of the file that is then read.
ORIGINALS = {
    "safetensors": (sample_safetensors(), "a.safetensors", "a.safetensors"),
    "zip": (torch_zip(sample_state()), "a.bin", "a.bin"),
    "pickle in a zip": (sample_state(), "data.pkl", "a.bin"),
    "stream": (torch_stream(sample_state(b"N")), "b.bin", "b.bin"),
    "index of TensorFlow": (sample_tf_index(), "c.ckpt.index", "c.ckpt"),
    "data of TensorFlow": (TF_DATA, "c.ckpt.data-00000-of-00001", "c.ckpt"),
    "index of shards": (INDEX_JSON, "i.json", "i.json"),
}
NAME_OTHER_FILES = ("index of TensorFlow", "index of shards")


def outcome(kind, path):
    """What became of reading all of a file."""
    try:
        with read_checkpoint(path) as checkpoint:
            for name, shape in checkpoint.shapes.items():
                assert checkpoint[name].shape == shape
        return "read"
    except ValueError:
        return "refused"
    except FileNotFoundError:
        assert kind in NAME_OTHER_FILES
        return "missing"


def run(number, folder):
    """Reads `number` damaged files of each kind; (kind, outcome) -> how many."""
    generator, counts = random.Random(5), collections.Counter()
    for content, name, _ in ORIGINALS.values():
        (folder / name).write_bytes(content)
    (folder / "a.bin").write_bytes(torch_zip(sample_state()))
    tracemalloc.start()
    for kind, (original, name, read) in ORIGINALS.items():
        keep = (folder / read).read_bytes() if (folder / read).exists() else None
        for i in range(number):
            content = mutated(original, generator)
            if kind == "pickle in a zip":
                content = torch_zip(content)
            (folder / (read if kind == "pickle in a zip" else name)).write_bytes(content)
            try:
                with measured() as spent:
                    result = outcome(kind, folder / read)
            except Exception as error:
                raise AssertionError(f"{kind}, file {i}: {content!r}") from error
            found = (kind, i, spent, content)
            assert spent.memory < 2**19 and spent.calls < 2**13 and spent.read < 2**14, found
            counts[kind, result] += 1
        (folder / name).write_bytes(original)
        if keep is not None:
            (folder / read).write_bytes(keep)
    tracemalloc.stop()
    return counts


@pytest.mark.slow
def test_damaged_files(tmp_path):
    number = int(os.environ.get("FUZZED_FILES", 4_003)) // len(ORIGINALS) + 1
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = run(number, tmp_path)
    assert sum(counts.values()) == number * len(ORIGINALS)
    for kind in ORIGINALS:
        # The damage is neither so small that all pass, nor so great that only the first check runs.
        assert counts[kind, "read"] > 0, counts
        assert counts[kind, "refused"] > 0, counts
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 64 * 1024  # KiB
