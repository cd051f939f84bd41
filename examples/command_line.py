"""What every example and benchmark asks of its command line."""

from absl import app


def flags_alone(argv):
    """Raises UsageError where something was given that is no flag, and would be left out.

    Such as the second file of `--files a.txt b.txt`, or the value of `--jit_compile False`.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags, --name=value. Received: {' '.join(argv[1:])}.")
