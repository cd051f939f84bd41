"""Runs a SavedModel in a process that imports only TensorFlow, like a server."""

import json
import os
import subprocess
import sys

CODE = """
import json, sys
import tensorflow as tf
import tensorflow_text  # registers the operations of the tokenizers
model = tf.saved_model.load(sys.argv[1])
texts = {name: tf.constant(rows) for name, rows in json.load(sys.stdin).items()}
answer = model.signatures[sys.argv[2]](**texts)
rows = {name: value.numpy().tolist() for name, value in answer.items()}
print(json.dumps(rows, default=bytes.decode))
"""


def ask(folder, signature="serving_default", **texts):
    """The outputs (name -> rows) of a signature for texts, given by the names of its inputs."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, folder, signature],
        input=json.dumps(texts),  # a command-line argument has a maximum length
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"The SavedModel did not answer in a fresh process:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
