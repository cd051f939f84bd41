"""What every example and benchmark asks of its command line, and of the files that it names."""

import pathlib

from absl import app


def flags_alone(argv):
    """Raises UsageError where something was given that is no flag, and would be left out.

    Such as the second file of `--files a.txt b.txt`, or the value of `--jit_compile False`.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags, --name=value. Received: {' '.join(argv[1:])}.")


def read_text(path):
    """What a text file holds, without a byte order mark."""
    content = pathlib.Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise app.UsageError(
            f"{path}, line {line}: not UTF-8. Convert the file first, such as a Korean one by "
            f"`iconv -f CP949 -t UTF-8 {path}`."
        ) from error
