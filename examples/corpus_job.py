"""Inputs and outputs of embed_corpus.py: files, a model, and a folder for one job."""

import collections
import hashlib
import json
import os
import sys
import threading

import tensorflow as tf
from absl import app

DIRECT = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
WRITES = "rows", "bad", "job.json", "done.json"


def find_files(patterns):
    """The files, sorted, each once."""
    found = set()
    for pattern in patterns:
        names = [pattern] if tf.io.gfile.exists(pattern) else tf.io.gfile.glob(pattern)
        if not names or any(map(tf.io.gfile.isdir, names)):
            raise app.UsageError(f"Expected text files. Received: {pattern}, which names none.")
        found.update(names)
    return sorted(found)


def find_model(folder):
    """The SavedModel: the folder, or its highest version."""
    if tf.io.gfile.exists(f"{folder}/saved_model.pb"):
        return folder
    names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
    versions = [int(name.strip("/")) for name in names if name.strip("/").isdecimal()]
    if not versions:
        raise app.UsageError(f"Expected --model of a SavedModel. Received: {folder}.")
    return f"{folder}/{max(versions)}"


def describe(files, settings):
    """Everything that the rows depend on. The index of a SavedModel's variables has checksums."""
    digest = hashlib.sha256()
    for name in ("saved_model.pb", "variables/variables.index"):
        if tf.io.gfile.exists(f"{settings.model}/{name}"):
            with tf.io.gfile.GFile(f"{settings.model}/{name}", "rb") as file:
                digest.update(file.read())
    return {
        "files": [[path, tf.io.gfile.stat(path).length] for path in files],
        "model": digest.hexdigest(),
        "outputs": settings.outputs,
        "block_lines": settings.block_lines,
        "longest_line": settings.longest_line,
    }


def digest(job):
    return hashlib.sha256(json.dumps(job).encode()).hexdigest()[:16]


def before(output, job):
    """The counters of the job if it is done, else None.

    Raises:
        app.UsageError: the folder has files of another job.
    """
    here = [name for name in WRITES if tf.io.gfile.exists(f"{output}/{name}")]
    if "job.json" in here:
        with tf.io.gfile.GFile(f"{output}/job.json", "r") as file:
            begun = json.load(file)
        other = sorted(name for name in job if begun.get(name) != job[name])
        if other:
            raise app.UsageError(
                f"{output} has rows of another job: its {', '.join(other)} differ. Give another "
                "--output, or remove that folder."
            )
    elif here:
        raise app.UsageError(f"{output} has {', '.join(here)} of others. Give another --output.")
    if "done.json" in here:
        with tf.io.gfile.GFile(f"{output}/done.json", "r") as file:
            return json.load(file)
    return None


def beam_options(runner, given):
    """Beam's options.

    Raises:
        app.UsageError: Beam is not installed, or its direct runner has no such flag.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise app.UsageError(
            "Apache Beam is not installed. Install the extra `beam` of the clone: pip install -e "
            f"'.[beam]', or take --runner=loop. Received: {error}"
        ) from error
    direct = runner.lower() in ("direct", "directrunner")
    if direct:  # Beam's own alias would first try Prism, a program that it downloads
        known = PipelineOptions([]).get_all_options()
        named = PipelineOptions(given).get_all_options(retain_unknown_options=True)
        if unknown := sorted(set(named) - set(known)):
            raise app.UsageError(f"Neither this example nor Beam has a flag {', '.join(unknown)}.")
    return PipelineOptions([f"--runner={DIRECT if direct else runner}", *given])


def totals(counters):
    """Name -> number of the counters of a Beam job. Some runners have None instead of 0."""
    return collections.Counter({one.key.metric.name: one.result or 0 for one in counters})


def end_without_worker(failed):
    """Ends this process if a process of the direct runner has died, because Beam would wait.

    A process may die because memory is short. This is a `threading.excepthook`: the thread of Beam
    that started the process raises an error, which Beam ignores.
    """
    threading.__excepthook__(failed)
    if "Worker subprocess exited" in str(failed.exc_value):
        print("A process of Beam's direct runner has died. The same command goes on with the job.",
              file=sys.stderr, flush=True)  # fmt: skip
        os._exit(1)  # the main thread waits for an answer that never comes


def report(total, seconds, output):
    print(
        f"{total['lines']:,} lines in {total['blocks']:,} blocks: {total['rows']:,} rows, "
        f"{total['kept']:,} of an earlier run, {total['blank']:,} blank, {total['bad']:,} bad"
        + (f" (see {output}/bad)" if total["bad"] else "")
    )
    busy = total["milliseconds"] / 1000
    if seconds and total["rows"]:
        print(f"{total['rows'] / seconds:,.0f} sentences/s in {seconds:.1f} s with the start, "
              f"{total['rows'] / max(busy, 1e-3):,.0f} in a second of a process")  # fmt: skip
