"""A folder that all workers see."""

import contextlib
import random

from keras_xfmr import kernels

MARK = "seen-by-all-workers-{}"


def check(model, folder):
    """ValueError on all workers if one does not see a file that the chief writes to a folder."""
    chief = kernels.is_chief(getattr(model, "distribute_strategy", None))
    drawn = kernels.sum_over_workers(model, random.SystemRandom().randrange(2**20) * chief)
    if drawn is None:
        return
    mark = folder / MARK.format(drawn[0])
    if chief:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    kernels.sum_over_workers(model, 0)  # waits until it is written
    seen, replicas = kernels.sum_over_workers(model, int(mark.exists()))
    if chief:
        mark.unlink()
    if seen < replicas:
        if chief:
            with contextlib.suppress(OSError):  # the folder has other files
                folder.rmdir()
        raise ValueError(
            "Workers need a folder that all of them see, such as one on a network drive. Received: "
            f"{str(folder)!r}, where {replicas - seen} of {replicas} replicas do not see the file "
            "of the first worker."
        )
