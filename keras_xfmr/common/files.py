"""Reading files of others up to a limit, and writing files completely or not at all."""

import contextlib
import json
import os
import pathlib

MAX_BYTES = 24 * 2**20  # the largest tokenizer.json of a published BERT has 17 MB
CONFIG_BYTES = 4 << 20  # id2label of a large classifier is long, but not longer
MAX_LINES = 2**20  # the largest vocabulary has half as many
LFS_POINTER = b"version https://git-lfs"


def read_bytes(path, most=None):
    """The content of a file of at most `most` bytes, by default `MAX_BYTES`.

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
        # `read` allocates memory for the whole limit before it reads.
        content = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > most:
        raise ValueError(f"Expected at most {most} bytes. Received: more in {str(path)!r}.")
    return content


def refuse_pointer(path):
    """Raises ValueError if a file is only a pointer of git-lfs."""
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(
                f"{str(path)!r} is a pointer of git-lfs. Fetch the file itself by `git lfs pull`."
            )


def read_lines(path):
    """The lines of a `vocab.txt`, none of them empty.

    Removes a byte order mark, empty lines at the end, and white space at the ends of lines, as the
    `tokenizers` package does.

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
    """The content of a JSON file, a `dict` or a `list`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger than `most` bytes, not JSON, or of another kind.
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
    """Writes bytes to a file, all or nothing: first to a temporary file, which is then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    os.replace(aside, path)


@contextlib.contextmanager
def written_aside(path):
    """The path of a temporary file, renamed to `path` when the block ends without an error.

    It is flushed to disk before that, and has the permissions of a new file. Readers never see a
    partial file, and an interrupted block does not change the old one.

    Example::

        with written_aside(pathlib.Path("model.bin")) as aside:
            aside.write_bytes(content)
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(b"")
        mode = aside.stat().st_mode
        yield aside
        aside.chmod(mode)  # some packages write files that only their owner can read
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
    """Writes a JSON file, all or nothing."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode("utf8"))
