"""Files from strangers: read whole, but never more of them than fits."""

import json
import pathlib

MAX_BYTES = 64 * 2**20  # the largest published vocabularies have a quarter of it


def read_bytes(path):
    """What a file holds, if it is not larger than `MAX_BYTES`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No {path.name} in {str(path.parent)!r}.")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"Expected at most {MAX_BYTES} bytes. Received: more in {path.name}.")
    return content


def read_lines(path):
    """The lines of a text file, none of them empty; a byte order mark and CRLF are taken off.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is too large, is not UTF-8 or has empty lines.
    """
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"Expected UTF-8. Received: other bytes in line {line}.") from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if "" in lines:
        raise ValueError(
            f"Expected a token a line. Received: nothing in line {lines.index('') + 1}."
        )
    return lines


def read_json(path):
    """The object of a JSON file as a dictionary.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is too large, no JSON, or no object.
    """
    path = pathlib.Path(path)
    try:
        content = json.loads(read_bytes(path).decode("utf8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} is damaged: expected an object at its top.")
    return content
