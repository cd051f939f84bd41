"""Runs an example on one process and on two workers of this machine, and compares the weights.

    python examples/distribute/two_workers.py runs/two examples/gpt_lm.py --files=corpus.txt \\
        --validation_files=held_out.txt --preset=tiny --epochs=2 --dropout=0

The first argument is the output folder of both runs, the second the example, the rest its flags.
Each worker takes half of the rows of every batch. Without dropout the weights of both runs are the
same up to rounding; with dropout each worker draws its own.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(command, output, workers):
    """Runs a command, as one process or as several workers; the chief's output is shown.

    Returns:
        Seconds.
    """
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    begin, processes = time.time(), []
    for index in range(workers):
        environment, flags = dict(os.environ), [f"--output={output}"]
        if workers > 1:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
            flags.append("--distribute=workers")
        processes.append(subprocess.Popen([*command, *flags], env=environment))
    failed = [index for index, process in enumerate(processes) if process.wait()]
    if failed:
        raise SystemExit(f"Of {workers} workers these ended with an error: {failed}.")
    return time.time() - begin


def main(folder, *command):
    import keras

    import keras_xfmr.models  # noqa: F401, whose classes the files name

    command, root = [sys.executable, *command, "--jit_compile=false"], pathlib.Path(folder)
    seconds, weights = {}, {}
    for workers in (1, 2):
        output = root / f"{workers}"
        print(f"== {workers} process{'es' if workers > 1 else ''}", flush=True)
        seconds[workers] = run(command, output, workers)
        weights[workers] = keras.saving.load_model(output / "model.keras").get_weights()
    apart = max(np.abs(one - two).max() for one, two in zip(weights[1], weights[2], strict=True))
    print(f"one process {seconds[1]:.0f} s, two workers {seconds[2]:.0f} s")
    print(f"greatest difference of their weights: {apart:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
