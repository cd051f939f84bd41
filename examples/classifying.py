"""Shared by the examples that classify texts: data, a baseline, the export of the model."""

import csv
import io

import command_line
import distributing
import fresh_process
import index_page
import numpy as np
import telling
import tensorflow as tf
from absl import app, flags

from keras_xfmr import serving, text, viz

FLAGS = flags.FLAGS
flags.DEFINE_string("train", None, "Required. TSV with a header.", required=True)
flags.DEFINE_string("test", None, "Required. TSV with the same columns, to test.", required=True)
flags.DEFINE_string("text", "document", "Name of the column with the text.")
flags.DEFINE_string("text_pair", None, "Name of the column with a second text, if there is one.")
flags.DEFINE_string("label", "label", "Name of the column with the class.")
flags.DEFINE_integer("limit", None, "Maximum number of training texts, for a quick try.")
flags.DEFINE_integer("max_length", 48, "Longest text, in pieces or words; the rest is cut.")
flags.DEFINE_integer("batch_size", 64, "Texts of a step.")
flags.DEFINE_integer("epochs", 3, "Passes over the data.")
flags.DEFINE_float("dropout", 0.1, "Dropout rate, also of attention weights.")
flags.DEFINE_bool("baseline", False, "Also measure a logistic regression.")
flags.DEFINE_integer("seed", 1, "Random seed of weights, dropout and data order.")
flags.DEFINE_bool("jit_compile", True, "Compile the training step with XLA.")


def read(path):
    """The texts, one or two a row, and the labels of a TSV, without incomplete rows."""
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
            "anyway: shorten this one, or remove the row."
        ) from error
    kept = [row for row in found if all(row)]
    print(f"{path}: {len(kept)} texts, {len(found) - len(kept)} left out without a text or label")
    return [row[:-1] for row in kept], [row[-1] for row in kept]


def load():
    """Training and test data (texts, numbers of their classes), and the names of the classes."""
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
        telling.stage("fitting a logistic regression")
        print(f"logistic regression, test accuracy {baseline(train, test):.2%}")
    return train, test, labels


def baseline(train, test):
    """Accuracy of a logistic regression over TF-IDF of 1 to 4 characters."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=3, sublinear_tf=True)
    regression = LogisticRegression(C=4.0, max_iter=300)
    regression.fit(features.fit_transform(map(" ".join, train[0])), train[1])
    return regression.score(features.transform(map(" ".join, test[0])), test[1])


def make_packer(tokenizer, texts, segments=2):
    """A packer with one length, for one compilation; prints how many texts it cuts.

    Args:
        tokenizer: as in `text.SentencePacker`.
        texts: rows of one or two texts.
        segments: number of segment types of the model.
    """
    columns = 2 if FLAGS.text_pair else 1
    tell_cut(tokenizer.tokenize, texts, FLAGS.max_length - 1 - columns)
    return text.SentencePacker(
        tokenizer, FLAGS.max_length, pad_to_max_length=True, type_vocab_size=segments
    )


def tell_cut(divide, texts, room):
    """Prints how many texts do not fit.

    Args:
        divide: from a column of texts to their pieces, ragged.
        texts: one or two a row.
        room: maximum number of pieces of a row.
    """
    cut = 0
    for start in range(0, len(texts), 4096):  # for memory
        columns = zip(*texts[start : start + 4096])
        lengths = [divide(column).row_lengths() for column in columns]
        cut += np.count_nonzero(np.sum(lengths, axis=0) > room)
    print(f"{cut / len(texts):.2%} of the texts are cut to {FLAGS.max_length}")


def batches(pack, data, shuffle, endless=False):
    """Batches of one shape, without the last, smaller batch of a training epoch.

    Args:
        pack: from one or two columns of texts, and the classes, to a model's inputs and labels.
        data: texts, one or two a row, and their classes.
        endless: whether to repeat the data forever.
    """
    rows = tf.data.Dataset.from_tensor_slices(data)
    if shuffle:
        rows = rows.shuffle(len(data[0]), seed=FLAGS.seed)
    if endless:
        rows = rows.repeat()
    rows = rows.batch(FLAGS.batch_size, drop_remainder=shuffle)
    rows = rows.map(
        lambda texts, classes: pack(tf.unstack(texts, axis=1), classes),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return distributing.by_rows(rows.prefetch(tf.data.AUTOTUNE))


def fit(model, pack, train, test, output, pack_rows=None):
    """Trains a compiled model; returns its measures on the test texts.

    Args:
        pack: see `batches`.
        pack_rows: from batches to batches of packed rows. Their number differs from epoch to epoch,
            so the data is endless. None for rows of one text, which the test always has.
    """
    data, steps = batches(pack, train, shuffle=True, endless=bool(pack_rows)), None
    if pack_rows:
        data, steps = pack_rows(data), len(train[0]) // FLAGS.batch_size
    telling.stage(f"training {telling.trained(model)} on {len(train[0]):,} texts")
    history = model.fit(
        data,
        epochs=FLAGS.epochs,
        steps_per_epoch=steps,
        shuffle=False,
        callbacks=[telling.TimeLeft()],
    ).history
    viz.learning_curve(history, output / "learning_curve.png")
    telling.stage(f"measuring on {len(test[0]):,} texts")
    return model.evaluate(batches(pack, test, shuffle=False), verbose=0, return_dict=True)


def serve(model, packer, texts, output, measures):
    """Exports the model, tests it on the first texts in a fresh process, and writes index.html.

    Args:
        measures: name -> measured value.
    """
    telling.stage("exporting the service, and asking it in a fresh process")
    inputs = dict(zip(("text", "text_pair"), zip(*texts[:5])))
    folder = serving.export_encoder(
        model,
        packer,
        output / "saved_model",
        pairs=len(inputs) > 1,
        check_texts=inputs["text"],
    )
    answer = fresh_process.ask(folder, **inputs)
    for asked, label, score in zip(texts, answer["label"], answer["score"]):
        print(f"  {label} ({score:.2f})  {' | '.join(asked)}")
    rows = [
        (" | ".join(asked), label, f"{score:.2f}")
        for asked, label, score in zip(texts, answer["label"], answer["score"])
    ]
    service = index_page.Service({name: column[:2] for name, column in inputs.items()})
    page = index_page.write(output, measures, ("text", "label", "score"), rows, service)
    print(f"{folder} answered in a fresh process; to look at: {page}")


def show_attention(model, packer, texts, output):
    """Writes attention.html of the first texts."""
    packed = packer(*map(list, zip(*texts[:3])))
    viz.attention_view(model, packed, output / "attention.html", tokenizer=packer)
