"""What `import keras_xfmr` costs beside `import keras`.

Fresh interpreters take turns at `import keras` and `import keras_xfmr`; the time is that of the
whole process, so the interpreter's own start stands on both sides.

    python -m benchmarks.import_time

Prints both medians with quartiles, and the median of the differences within a round.
"""

import functools
import subprocess
import sys

from absl import app, flags

from benchmarks import side_by_side
from examples import command_line

FLAGS = flags.FLAGS


def import_once(module):
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, capture_output=True)


def main(argv):
    command_line.flags_alone(argv)
    functions = {name: functools.partial(import_once, name) for name in ("keras", "keras_xfmr")}
    seconds = side_by_side.alternate(functions, FLAGS.rounds, FLAGS.warmup)
    for name, values in seconds.items():
        low, median, high = side_by_side.quartiles(values)
        print(f"import {name:<12}{median:>8.3f} s  ({low:.3f} .. {high:.3f})")
    differences = [b - a for a, b in zip(*seconds.values(), strict=True)]
    low, median, high = side_by_side.quartiles(differences)
    print(f"difference         {median:>8.3f} s  ({low:.3f} .. {high:.3f}), {FLAGS.rounds} rounds")


if __name__ == "__main__":
    app.run(main)
