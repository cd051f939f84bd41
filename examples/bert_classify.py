"""Fine-tunes a BERT to classify texts, compares it with a baseline, and exports it for serving.

Paper: Devlin et al. 2019, "BERT", https://arxiv.org/abs/1810.04805

    python examples/bert_classify.py --train=ratings_train.txt --test=ratings_test.txt
    python examples/bert_classify.py --train=... --test=... --pretrained=DIR
    python examples/bert_classify.py --train=... --test=... --baseline

The files are TSVs with a header; --text and --label name the columns (NSMC, e9t/nsmc, has
`document` and `label`), --text_pair the column of a second text. DIR is a Hugging Face BERT folder
(KoBERT, MiniLM) or the --output of bert_pretrain.py. Without it the model is trained from scratch
with a learned vocabulary (for Korean use --vocabulary=sentence_piece, which is learned in a
minute). --packed puts several texts into a row: a step then has as many texts in fewer rows.
--baseline adds the accuracy of a logistic regression over character n-grams.

Writes to --output: index.html (shows the results), attention.html, learning_curve.png, model.keras,
hub/ (weights and tokenizer, a folder for --pretrained), and saved_model/, which takes text and
returns labels with scores, tested in a process that imports only TensorFlow. Results:
benchmarks/RESULTS.md.
"""

import functools

import classifying
import command_line
import distributing
import fine_tuning
import keras
import tensorflow as tf
from absl import app, flags, logging

from keras_xfmr import models, text, training

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.adopt_module_key_flags(classifying)
flags.DEFINE_string("pretrained", None, "A published BERT, or the --output of bert_pretrain.py.")
flags.DEFINE_bool("train_encoder", True, "Of --pretrained: train more than the head.")
flags.DEFINE_string("preset", "tiny", "From scratch: sizes of the model.")
flags.DEFINE_enum(
    "vocabulary", "word_piece", ["word_piece", "sentence_piece"], "From scratch: kind of pieces."
)
flags.DEFINE_integer("vocab_size", 8000, "From scratch: size of the vocabulary.")
flags.DEFINE_bool("packed", False, "Several texts in a row; about --batch_size texts a step.")
flags.DEFINE_float("learning_rate", None, "Peak rate. From scratch: 5e-4, pretrained: 1e-4.")
flags.DEFINE_string("output", "runs/classify", "Folder for all output files.")


def compile_model(model, steps):
    """With a warm-up and a linear decay."""
    rate = FLAGS.learning_rate or (1e-4 if FLAGS.pretrained else 5e-4)
    model.compile(
        fine_tuning.optimizer(rate, steps),
        training.MaskedCrossEntropy(pad_id=-1),
        metrics=[training.MaskedAccuracy(pad_id=-1)],
        jit_compile=FLAGS.jit_compile,
    )


def packing(packer, texts):
    """A function that packs the rows of a data set; a batch has about --batch_size texts."""
    mask = packer(*map(list, zip(*texts[:4096])))["attention_mask"]
    share = float(tf.reduce_mean(tf.cast(mask, tf.float32)))
    rows = max(1, round(share * FLAGS.batch_size))
    print(f"{1 - share:.1%} of the positions are padding without packing; {rows} rows a batch")
    return functools.partial(
        text.pack_documents,
        rows=rows,
        length=FLAGS.max_length,
        documents=2 * FLAGS.batch_size,
        pad_id=packer.tokenizer.pad_id,
    )


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.packed and FLAGS.distribute != "none":
        raise app.UsageError(
            "--packed works on one device only. Received: "
            f"--distribute={FLAGS.distribute}."
        )
    logging.set_verbosity(logging.WARNING)
    output = distributing.output_folder(FLAGS.output, argv[0], fine_tuning.WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    train, test, labels = classifying.load()
    tokenizer, model = fine_tuning.prepare(
        models.BertClassifier,
        labels,
        [one for row in train[0] for one in row],
        pretrained=FLAGS.pretrained,
        train_encoder=FLAGS.train_encoder,
        dropout=FLAGS.dropout,
        preset=FLAGS.preset,
        vocabulary=FLAGS.vocabulary,
        vocab_size=FLAGS.vocab_size,
        max_length=FLAGS.max_length,
        packed=FLAGS.packed,
    )
    segments = model.encoder.get_config()["type_vocab_size"]
    packer = classifying.make_packer(tokenizer, train[0], segments)
    compile_model(model, fine_tuning.count_steps(train[0], FLAGS.batch_size, FLAGS.epochs))
    measures = classifying.fit(
        model,
        lambda texts, classes: (packer(*texts), classes),
        train,
        test,
        output,
        packing(packer, train[0]) if FLAGS.packed else None,
    )
    print(f"{model.count_params():,} weights, test accuracy {measures['accuracy']:.2%}")
    fine_tuning.save(model, tokenizer, output)
    classifying.show_attention(model, packer, test[0], output)
    measured = {"test accuracy": f"{measures['accuracy']:.2%}"}
    classifying.serve(model, packer, test[0], output, measured)


if __name__ == "__main__":
    distributing.run(main)
