"""Finds named entities with a head over an ELMo; the head learns the weight of each layer.

Paper: Peters et al. 2018, "Deep contextualized word representations", sections 3.2 and 4.

    python examples/elmo_lm.py --files=wiki.valid.txt --validation_files=wiki.test.txt \\
        --heading=wikitext --output=runs/elmo
    python examples/elmo_ner.py --train=train.conll --dev=dev.conll --test=test.conll \\
        --pretrained=runs/elmo

The files have the format of CoNLL, in one of the schemes that conll.py reads. --pretrained is the
--output of elmo_lm.py, whose --split is used, or a folder of bilm-tf; without it the ELMo has
random weights. The head reads gamma * sum_j s_j h_j, the mix of the layers' vectors h_j. The ELMo
is frozen: only s, gamma and the layer of tags are trained; with --train_encoder the ELMo too.
--plain leaves out the LSTMs: the same head reads only the words' own vectors, which do not depend
on the sentence.

seqeval counts entities as in bert_ner.py; the baseline gives each word its most frequent tag.
Prints also s and gamma; s shows the importance of a layer only if the vectors of all layers have
about the same length.

Writes to --output: index.html (shows the results), learning_curve.png, mix.png, model.keras, and
saved_model/, which takes text and returns words with tags, and entities, tested in a process that
imports only TensorFlow. Results: benchmarks/RESULTS.md.
"""

import command_line
import distributing
import keras
import mixing
import tagging
from absl import flags, logging

from keras_xfmr import models

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.adopt_module_key_flags(tagging)
flags.adopt_module_key_flags(mixing)
FLAGS.set_default("split", None)  # as in --pretrained
flags.DEFINE_string("output", "runs/elmo_ner", "Folder for all output files.")


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    output = distributing.output_folder(FLAGS.output, argv[0], mixing.WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    encoder, packer = mixing.prepare(FLAGS.split, FLAGS.max_length, FLAGS.dropout)
    train, dev, test, labels = tagging.load(packer.split)
    tagging.tell_unseen(packer, train=train, test=test)
    model = models.Tagger(encoder, len(labels), labels=labels, dropout_rate=FLAGS.dropout)
    rate = FLAGS.learning_rate or (1e-3 if FLAGS.train_encoder else 1e-2)
    tagging.fit(model, packer, train, dev, labels, output, rate)
    measures = tagging.measure(model, packer, test, labels)
    mixing.tell(model, output)
    model.save(output / "model.keras")
    tagging.serve(model, packer, test, output, measures)


if __name__ == "__main__":
    distributing.run(main)
