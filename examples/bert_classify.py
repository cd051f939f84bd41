"""Fine-tunes a BERT to classify texts, beside a bag-of-words baseline, and serves it.

Paper: Devlin et al. 2019, "BERT", https://arxiv.org/abs/1810.04805

    python examples/bert_classify.py --train=ratings_train.txt --test=ratings_test.txt
    python examples/bert_classify.py --train=... --test=... --pretrained=DIR
    python examples/bert_classify.py --train=... --test=... --baseline

The files are TSVs with a header; --text and --label name the columns (NSMC, e9t/nsmc, has
`document` and `label`), --text_pair that of a second text, where there is one. DIR is a Hugging
Face BERT folder (KoBERT, MiniLM) or the --output of bert_pretrain.py; without it the model is
trained from scratch with a learned vocabulary (for Korean and its kin take
--vocabulary=sentence_piece, which is learned in a minute). --baseline adds the accuracy of a
logistic regression over character n-grams: what a model has to beat. Written to --output:
learning_curve.png, model.keras, hub/, weights and tokenizer as a folder for --pretrained, and
saved_model/, which takes raw text and answers labels with scores, asked in a process that imports
only TensorFlow. Results: benchmarks/RESULTS.md.
"""

import csv
import io

import command_line
import fine_tuning
import fresh_process
import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from keras_xfmr import models, serving, text, viz

FLAGS = flags.FLAGS
flags.DEFINE_string("train", None, "TSV with a header.", required=True)
flags.DEFINE_string("test", None, "TSV with the same columns, never trained on.", required=True)
flags.DEFINE_string("text", "document", "Name of the column with the text.")
flags.DEFINE_string("text_pair", None, "Name of the column with a second text, if there is one.")
flags.DEFINE_string("label", "label", "Name of the column with the class.")
flags.DEFINE_string("pretrained", None, "Folder of a published BERT or of bert_pretrain.py.")
flags.DEFINE_string("preset", "tiny", "From scratch: sizes of the model.")
flags.DEFINE_enum(
    "vocabulary", "word_piece", ["word_piece", "sentence_piece"], "From scratch: kind of pieces."
)
flags.DEFINE_integer("vocab_size", 8000, "From scratch: pieces.")
flags.DEFINE_integer("max_length", 48, "Pieces of a text; longer ones are cut, and counted.")
flags.DEFINE_integer("batch_size", 64, "Texts of a step.")
flags.DEFINE_integer("epochs", 3, "Passes over the data.")
flags.DEFINE_integer("limit", None, "Texts to train on, for a try.")
flags.DEFINE_float("learning_rate", None, "Highest rate. From scratch: 5e-4, pretrained: 1e-4.")
flags.DEFINE_bool("baseline", False, "Also a logistic regression.")
flags.DEFINE_float("dropout", 0.1, "Rate, of attention weights too.")
flags.DEFINE_integer("seed", 1, "Of weights, dropout and data order.")
flags.DEFINE_bool("jit_compile", True, "Compile the training step with XLA.")
flags.DEFINE_string("output", "runs/classify", "Folder for everything that is written.")


def read(path):
    """The texts, one or two a row, and the labels of a TSV; rows that lack one are left out."""
    lines = io.StringIO(command_line.read_text(path), newline="")
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    columns = [FLAGS.text, *([FLAGS.text_pair] if FLAGS.text_pair else []), FLAGS.label]
    missing = set(columns) - set(rows.fieldnames or ())
    if missing:
        raise app.UsageError(
            f"{path} has the columns {rows.fieldnames}, not {sorted(missing)}. Name them by "
            "--text, --text_pair and --label."
        )
    try:
        found = [[(row[column] or "").strip() for column in columns] for row in rows]
    except csv.Error as error:
        raise app.UsageError(
            f"{path}:{rows.reader.line_num}: {error}. Texts are cut at --max_length pieces "
            "anyway: shorten this one, or take the row out."
        ) from error
    kept = [row for row in found if all(row)]
    print(f"{path}: {len(kept)} texts, {len(found) - len(kept)} left out without a text or label")
    return [row[:-1] for row in kept], [row[-1] for row in kept]


def batches(packer, texts, labels, shuffle):
    """Batches of one shape; the last one of an epoch of training is left out."""
    data = tf.data.Dataset.from_tensor_slices((texts, labels))
    if shuffle:
        data = data.shuffle(len(texts), seed=FLAGS.seed)
    data = data.batch(FLAGS.batch_size, drop_remainder=shuffle)
    data = data.map(
        lambda rows, label: (packer(*tf.unstack(rows, axis=1)), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return data.prefetch(tf.data.AUTOTUNE)


def fit(model, packer, train, test, output):
    """Trains with a warm-up and a linear decay; the accuracy on the test texts."""
    steps = fine_tuning.count_steps(train[0], FLAGS.batch_size, FLAGS.epochs)
    rate = FLAGS.learning_rate or (1e-4 if FLAGS.pretrained else 5e-4)
    model.compile(
        fine_tuning.optimizer(rate, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=FLAGS.jit_compile,
    )
    history = model.fit(
        batches(packer, *train, shuffle=True), epochs=FLAGS.epochs, shuffle=False
    ).history
    viz.learning_curve(history, output / "learning_curve.png")
    return model.evaluate(batches(packer, *test, shuffle=False), verbose=0, return_dict=True)


def baseline(train, test):
    """Accuracy of a logistic regression over TF-IDF of 1 to 4 characters."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=3, sublinear_tf=True)
    regression = LogisticRegression(C=4.0, max_iter=300)
    regression.fit(features.fit_transform(map(" ".join, train[0])), train[1])
    return regression.score(features.transform(map(" ".join, test[0])), test[1])


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    output = command_line.output_folder(FLAGS.output, argv[0], fine_tuning.WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    (texts, names), (test_texts, test_names) = read(FLAGS.train), read(FLAGS.test)
    if FLAGS.limit:
        chosen = np.random.default_rng(FLAGS.seed).permutation(len(texts))[: FLAGS.limit]
        texts, names = [texts[i] for i in chosen], [names[i] for i in chosen]
    labels = sorted(set(names))
    if len(labels) < 2:  # a model of one class is a regression
        raise app.UsageError(
            f"Expected texts of two classes or more to train on. Received: {len(texts)} of the "
            f"classes {labels}. The column of the class is named by --label."
        )
    if not test_names:
        raise app.UsageError(f"Expected texts to test on. Received: {FLAGS.test} without any.")
    unknown = set(test_names) - set(labels)
    if unknown:
        raise app.UsageError(f"{FLAGS.test} has classes that no training text has: {unknown}")
    train = texts, np.array([labels.index(name) for name in names])
    test = test_texts, np.array([labels.index(name) for name in test_names])
    print(f"most frequent class: {np.bincount(test[1]).max() / len(test[1]):.2%} of the test texts")
    if FLAGS.baseline:
        print(f"logistic regression, test accuracy {baseline(train, test):.2%}")

    tokenizer, model = fine_tuning.prepare(
        models.BertClassifier,
        labels,
        [one for row in texts for one in row],
        pretrained=FLAGS.pretrained,
        dropout=FLAGS.dropout,
        preset=FLAGS.preset,
        vocabulary=FLAGS.vocabulary,
        vocab_size=FLAGS.vocab_size,
        max_length=FLAGS.max_length,
    )
    # Every batch has one length: one compilation.
    packer = text.SentencePacker(tokenizer, FLAGS.max_length, pad_to_max_length=True)
    lengths = [tokenizer.tokenize(column).row_lengths() for column in zip(*texts)]
    cut = np.sum(lengths, axis=0) > FLAGS.max_length - 1 - len(lengths)
    print(f"{np.mean(cut):.2%} of the texts are cut to {FLAGS.max_length}")
    measures = fit(model, packer, train, test, output)
    print(f"{model.count_params():,} weights, test accuracy {measures['accuracy']:.2%}")

    fine_tuning.save(model, tokenizer, output)
    inputs = dict(zip(("text", "text_pair"), zip(*test_texts[:5])))
    folder = serving.export_encoder(
        model,
        packer,
        output / "saved_model",
        pairs=len(inputs) > 1,
        check_texts=inputs["text"],
    )
    answer = fresh_process.ask(folder, **inputs)
    for asked, label, score in zip(test_texts, answer["label"], answer["score"]):
        print(f"  {label} ({score:.2f})  {' | '.join(asked)}")
    print(f"{folder} answered in a fresh process")


if __name__ == "__main__":
    app.run(main)
