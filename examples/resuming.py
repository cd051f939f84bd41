"""Shared by the examples that resume: a backup that stays until the whole job is done."""

import json
import sys

import distributing
from absl import app, flags

from keras_xfmr import training

FREE = ("output", "jit_compile", "beam_size")  # flags that may differ when a run goes on


def resumes(output):
    """Whether a killed run of this command left a backup in `output`; saves the flags of a new run.

    False for all workers except the chief; they repeat the first steps of a run.

    Raises:
        app.UsageError: the backup is of a run with other flags. Its data and vocabulary would
            silently replace those of this command.
    """
    if not training.is_chief():
        return False
    own = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    given = {flag.name: flag.value for flag in own if flag.name not in FREE}
    file = output / "flags.json"
    if backup(output).newest_backup() is None:
        file.write_text(json.dumps(given, indent=2) + "\n", "utf8")
        return False
    begun = json.loads(file.read_text("utf8")) if file.exists() else {}
    differ = [f"--{name}={begun.get(name)}" for name in given if begun.get(name) != given[name]]
    if differ:
        raise app.UsageError(
            f"{output} holds a killed run that was begun with other flags ({' '.join(differ)}). "
            f"Give those to go on with it, another --output, or remove {output / 'backup'}."
        )
    print(f"going on with the killed run in {output}")
    return True


def backup(output, data=None, save_freq="epoch"):
    """The callback for `fit`. It keeps its backup when training ends, because a run can fail before
    its model is saved and exported."""
    folder = distributing.shared_folder(output) / "backup"
    return training.BackupAndRestore(
        folder, data=data, save_freq=save_freq, delete_checkpoint=False
    )


def finish(output):
    """Removes the backup at the end of the job, so that the same command begins a new run."""
    if training.is_chief():
        backup(output).remove_backups()
