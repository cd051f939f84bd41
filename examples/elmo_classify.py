"""Classifies texts with a head over an ELMo; the head learns the weight of each layer.

Paper: Peters et al. 2018, "Deep contextualized word representations", section 3.2.

    python examples/elmo_lm.py --files=reviews.txt --validation_files=held_out.txt \\
        --senses=examples/word_senses_ko.tsv --output=runs/elmo
    python examples/elmo_classify.py --train=ratings_train.txt --test=ratings_test.txt \\
        --pretrained=runs/elmo

The files are TSVs with a header; --text and --label name the columns (NSMC, e9t/nsmc, has
`document` and `label`). --pretrained is the --output of elmo_lm.py or a folder of bilm-tf; without
it the ELMo has random weights. The head reads the mean over the words of gamma * sum_j s_j h_j, the
mix of the layers' vectors h_j. The ELMo is frozen: only s, gamma and the layer of classes are
trained; with --train_encoder the ELMo too. --plain leaves out the LSTMs: the same head reads only
the words' own vectors. --baseline adds the accuracy of a logistic regression over character
n-grams. Prints the accuracy, s and gamma; s shows the importance of a layer only if the vectors of
all layers have about the same length.

Writes to --output: index.html (shows the results), learning_curve.png, mix.png, model.keras, and
saved_model/, which takes text and returns labels with scores, tested in a process that imports only
TensorFlow. Results: benchmarks/RESULTS.md.
"""

import classifying
import command_line
import distributing
import fine_tuning
import keras
import mixing
from absl import app, flags, logging

from keras_xfmr import models, training

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.adopt_module_key_flags(classifying)
flags.adopt_module_key_flags(mixing)
flags.DEFINE_enum(
    "split", None, ["bert", "whitespace"], "How texts are split; by default as in --pretrained."
)
flags.DEFINE_string("output", "runs/elmo_classify", "Folder for all output files.")


def compile_model(model, steps):
    """With a warm-up and a linear decay."""
    rate = FLAGS.learning_rate or (1e-3 if FLAGS.train_encoder else 1e-2)
    model.compile(
        fine_tuning.optimizer(rate, steps),
        training.MaskedCrossEntropy(pad_id=-1),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=FLAGS.jit_compile,
    )


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    if FLAGS.text_pair:
        raise app.UsageError(f"An ELMo reads one text. Received: --text_pair={FLAGS.text_pair}.")
    output = distributing.output_folder(FLAGS.output, argv[0], mixing.WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    train, test, labels = classifying.load()
    encoder, packer = mixing.prepare(FLAGS.split, FLAGS.max_length, FLAGS.dropout)
    classifying.tell_cut(lambda column: packer.split_words(column)[0], train[0], packer.max_length)
    model = models.Classifier(encoder, len(labels), labels=labels, dropout_rate=FLAGS.dropout)
    compile_model(model, fine_tuning.count_steps(train[0], FLAGS.batch_size, FLAGS.epochs))
    measures = classifying.fit(
        model, lambda texts, classes: (packer(*texts), classes), train, test, output
    )
    print(f"{model.count_params():,} weights, test accuracy {measures['accuracy']:.2%}")
    mixing.tell(model, output)
    model.save(output / "model.keras")
    measured = {"test accuracy": f"{measures['accuracy']:.2%}"}
    classifying.serve(model, packer, test[0], output, measured)


if __name__ == "__main__":
    distributing.run(main)
