"""The Transformer against KerasHub in one run: `training_step`, then `decoding`.

    python -m benchmarks.transformer
    python -m benchmarks.transformer --rounds=5 --nomemory

Flags that both know are handed on to both; each prints what its own description says.
"""

import subprocess
import sys

PARTS = ("training_step", "decoding")


def main():
    for part in PARTS:
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{part}", *sys.argv[1:]])
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
