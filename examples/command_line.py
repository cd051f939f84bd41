"""What every example and benchmark asks of its command line, and of the files that it names.

The first import of this file imports TensorFlow, without the notes that it prints.
"""

import os
import pathlib
import re
import tempfile

from absl import app

MARK = ".written_by_example"
NOTES = re.compile(
    rb"All log messages before absl::InitializeLog|cudart_stub|cuda_platform\.cc.*cuInit|"
    rb"cpu_feature_guard|To enable the following instructions|Unable to register cu"
)


def import_quietly():
    """Imports TensorFlow, and leaves out what its libraries write about the machine.

    They write to the file of the standard error, below Python. Other lines are passed on. Notes
    and warnings that come later, such as those of XLA, are switched off by an environment variable,
    unless it is set; errors are not.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as written:
        standard_error = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            import tensorflow as tf
            import tensorflow_text  # noqa: F401

            if "SLURM_STEP_NODELIST" not in os.environ:  # its resolver has to look first
                tf.config.list_physical_devices()
        finally:
            os.dup2(standard_error, 2)
            written.seek(0)
            others = [line for line in written if not NOTES.search(line)]
            os.write(standard_error, b"".join(others))
            os.close(standard_error)


import_quietly()


def flags_alone(argv):
    """Raises UsageError where something was given that is no flag, and would be left out.

    Such as the second file of `--files a.txt b.txt`, or the value of `--jit_compile False`.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags, --name=value. Received: {' '.join(argv[1:])}.")


def output_folder(path, script, writes):
    """The folder for everything that a run writes, made if it is not there.

    A run replaces what an earlier run of the same example wrote. Such a folder is known by a file,
    `MARK`, that every run leaves in it.

    Args:
        path: of the folder.
        script: the example, as `argv[0]` names it.
        writes: names of the files and folders that a run writes there.

    Raises:
        app.UsageError: no path; or this example never wrote to the folder, and it holds files or
            folders of these names.
    """
    if not path:
        raise app.UsageError("--output must name a folder. Received: nothing.")
    folder, script = pathlib.Path(path), pathlib.Path(script).stem
    mark = folder / MARK
    written_by = mark.read_text("utf8").split() if mark.is_file() else []
    others = sorted(name for name in writes if (folder / name).exists())
    if others and script not in written_by:
        raise app.UsageError(
            f"{path} holds {', '.join(others)}, which this example did not write and which would "
            "be written over. Give another --output, or move them away."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if script not in written_by:
        mark.write_text("\n".join([*written_by, script]) + "\n", "utf8")
    return folder


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
