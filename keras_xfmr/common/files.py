"""Files: those of strangers are read whole, but never more than fits; ours are written whole."""

import contextlib
import json
import os
import pathlib

MAX_BYTES = 24 * 2**20  # the largest tokenizer.json of a published BERT has 17 MB
CONFIG_BYTES = 4 << 20  # id2label of a large classifier is long, but not longer
MAX_LINES = 2**20  # and its vocabulary half of it
LFS_POINTER = b"version https://git-lfs"


def read_bytes(path, most=None):
    """What a file holds, if that is not more than `most` bytes, by default `MAX_BYTES`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger, or a pointer of git-lfs.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No {path.name} in {str(path.parent)!r}.")
    refuse_pointer(path)
    most = MAX_BYTES if most is None else most
    with path.open("rb") as file:
        # `read` takes memory for all that it may read, before it finds less.
        content = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > most:
        raise ValueError(f"Expected at most {most} bytes. Received: more in {str(path)!r}.")
    return content


def refuse_pointer(path):
    """Raises ValueError where a file is only what git-lfs leaves in the place of one."""
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(
                f"{str(path)!r} is a pointer of git-lfs. Fetch the file itself by `git lfs pull`."
            )


def read_lines(path):
    """The lines of a `vocab.txt`, none of them empty.

    A byte order mark is taken off, and empty lines and white space at the ends, as the `tokenizers`
    package takes it off.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is too large, is not UTF-8 or has empty lines before others.
    """
    content = read_bytes(path)
    if content.count(b"\n") > MAX_LINES:
        raise ValueError(f"Expected at most {MAX_LINES} lines. Received: more.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"Expected UTF-8. Received: other bytes in line {line}.") from error
    lines = [line.rstrip() or line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")]
    if "" in lines:
        raise ValueError(
            f"Expected a token a line. Received: nothing in line {lines.index('') + 1}."
        )
    return lines


def read_json(path, kind=dict, most=None):
    """What a JSON file holds, a `dict` or a `list`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger than `most` bytes, no JSON, or of another kind.
    """
    path = pathlib.Path(path)
    content = read_bytes(path, most)
    try:
        content = json.loads(content.decode("utf8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged, it is not JSON: {error}") from error
    if not isinstance(content, kind):
        expected = {dict: "an object", list: "a list"}[kind]
        raise ValueError(f"{str(path)!r} is damaged: expected {expected} at its top.")
    return content


def write_whole(path, content):
    """Writes bytes to a file, whole or not at all: beside it first, then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    os.replace(aside, path)


@contextlib.contextmanager
def written_aside(path):
    """The path of a file beside `path`, which takes its name when the block ends without an error.

    It is flushed to disk before, and is as readable as any new file. Nobody sees half of it, and an
    interrupted block leaves the old file as it was.

    Example::

        with written_aside(pathlib.Path("model.bin")) as aside:
            aside.write_bytes(content)
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(b"")
        mode = aside.stat().st_mode
        yield aside
        aside.chmod(mode)  # some packages let nobody else read their files
        _flush(aside)
        os.replace(aside, path)
        _flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path, content):
    """Writes a JSON file, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode("utf8"))
