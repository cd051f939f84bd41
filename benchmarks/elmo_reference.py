"""Compares `models.Elmo` with the vectors that the original code gave for published weights.

    git clone --depth=1 https://github.com/allenai/bilm-tf
    python -m benchmarks.elmo_reference --folder=bilm-tf/tests/fixtures/model

The folder has lm_weights.hdf5, options.json, lm_embeddings_sentences.json (three lists of ten
sentences) and lm_embeddings_0.hdf5 to lm_embeddings_2.hdf5, the top layer's two directions of each
sentence. The original read the lists side by side, three sentences a batch, and carried the state
of its LSTMs from one batch to the next. Printed: the greatest absolute difference in that mode, and
how far the same sentences are from it when each begins with a state of zeros, as they do by
default.
"""

import json
import pathlib

import h5py
import numpy as np
import tensorflow as tf
from absl import app, flags

from examples import command_line
from keras_xfmr import models, text

FLAGS = flags.FLAGS
flags.DEFINE_string("folder", None, "Folder of the fixture.", required=True)


def main(argv):
    command_line.flags_alone(argv)
    folder = pathlib.Path(FLAGS.folder)
    model = models.Elmo.from_pretrained(folder)
    print(model.load_report)
    lists = json.loads((folder / "lm_embeddings_sentences.json").read_text("utf8"))
    packer = text.WordPacker(
        512, max_characters=model.get_config()["max_characters"], split="whitespace"
    )
    files = [h5py.File(folder / f"lm_embeddings_{i}.hdf5", "r") for i in range(len(lists))]
    state, differences = None, {"the state carried over": 0.0, "a state of zeros": 0.0}
    for number, sentences in enumerate(zip(*lists, strict=True)):
        inputs = packer(tf.constant(sentences))
        layers, state = model.encode(inputs, state)
        for name, top in zip(differences, (layers[-1], model(inputs)[-1])):
            for row, file in zip(top, files):
                expected = np.concatenate(file[str(number)][...], axis=-1)  # forward, backward
                found = row.numpy()[: len(expected)]
                differences[name] = max(differences[name], np.abs(found - expected).max())
    for name, difference in differences.items():
        print(f"{name}: greatest difference {difference:.2e}")


if __name__ == "__main__":
    app.run(main)
