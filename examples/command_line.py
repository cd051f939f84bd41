"""Checks of the command line and of its files, for all examples and benchmarks.

The first import of this file imports TensorFlow, without the notes that it prints.
"""

import os
import pathlib
import re
import sys
import tempfile

from absl import app, flags

MARK = ".written_by_example"
NOTES = re.compile(
    rb"All log messages before absl::InitializeLog|cudart_stub|cuda_platform\.cc.*cuInit|"
    rb"cpu_feature_guard|To enable the following instructions|Unable to register cu"
)


def import_quietly():
    """Imports TensorFlow, without the notes of its libraries about the machine.

    These write to the file descriptor of the standard error, below Python. Other lines are passed
    on. Later notes and warnings, such as those of XLA, are switched off by an environment variable,
    unless it is set; errors are not.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as written:
        standard_error = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            import tensorflow as tf
            import tensorflow_text  # noqa: F401

            if "SLURM_STEP_NODELIST" not in os.environ:  # Slurm's resolver must run first
                tf.config.list_physical_devices()
        finally:
            os.dup2(standard_error, 2)
            written.seek(0)
            others = [line for line in written if not NOTES.search(line)]
            os.write(standard_error, b"".join(others))
            os.close(standard_error)


import_quietly()


class HelpFull(app.HelpfullFlag):
    """--helpfull: the flags of the example first, and behind them those of libraries."""

    def __init__(self):
        super().__init__()
        self.allow_override = True  # of the flag of absl

    def parse(self, argument):
        if not self.parser.parse(argument):
            return
        app.usage(shorthelp=True, writeto_stdout=True)
        shown = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
        print("Flags of libraries:")
        for module, defined in sorted(flags.FLAGS.flags_by_module_dict().items()):
            if not shown.issuperset(flag.name for flag in defined):
                print(flags.FLAGS.module_help(module))
        sys.exit(1)


app.define_help_flags()
flags.DEFINE_flag(HelpFull())


def flags_alone(argv):
    """Raises UsageError for arguments that are not flags, which would be ignored.

    Such as the second file of `--files a.txt b.txt`, or the value of `--jit_compile False`.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags, --name=value. Received: {' '.join(argv[1:])}.")


def output_folder(path, script, writes):
    """The folder for all output files, created if missing.

    A run replaces the output of an earlier run of the same example. Every run writes a file `MARK`,
    which identifies such a folder.

    Args:
        path: path of the folder.
        script: `argv[0]` of the example.
        writes: names of the files and folders that a run writes there.

    Raises:
        app.UsageError: no path; or the folder has files or folders of these names, but no `MARK` of
            this example.
    """
    if not path:
        raise app.UsageError("--output must name a folder. Received: nothing.")
    folder, script = pathlib.Path(path), pathlib.Path(script).stem
    mark = folder / MARK
    written_by = mark.read_text("utf8").split() if mark.is_file() else []
    others = sorted(name for name in writes if (folder / name).exists())
    if others and script not in written_by:
        raise app.UsageError(
            f"{path} holds {', '.join(others)}, which this example did not write and would "
            "overwrite. Give another --output, or move them away."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if script not in written_by:
        mark.write_text("\n".join([*written_by, script]) + "\n", "utf8")
    return folder


def read_text(path):
    """The content of a text file, without a byte order mark."""
    content = pathlib.Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise app.UsageError(
            f"{path}, line {line}: not UTF-8. Convert the file first, such as a Korean one by "
            f"`iconv -f CP949 -t UTF-8 {path}`."
        ) from error
