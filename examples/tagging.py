"""Shared by the examples that tag words: data, a look-up, counting by seqeval, the export.

Training splits the words of the files as the served model splits texts, by --split: "bert"
separates punctuation from words, so that `"Apple".` has the same entity as `" Apple " .`. The first
part of a word gets its tag, the other parts continue the entity; in the results, the tag of the
first part is the tag of the word. The first piece of a part gets its tag; other pieces have none.
"""

import collections

import conll
import distributing
import fine_tuning
import fresh_process
import index_page
import keras
import numpy as np
import telling
import tensorflow as tf
from absl import app, flags
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2, Entities

from keras_xfmr import serving, text, training, viz

FLAGS = flags.FLAGS
flags.DEFINE_string("train", None, "Required. CoNLL file for training.", required=True)
flags.DEFINE_string("dev", None, "CoNLL file for validation after each epoch.")
flags.DEFINE_string("test", None, "Required. CoNLL file for testing.", required=True)
flags.DEFINE_enum(
    "split", "bert", ["bert", "whitespace", "characters"], "How texts are split into words."
)
flags.DEFINE_integer(
    "max_length", 96, "Longest sentence, in pieces or words; the rest is cut."
)
flags.DEFINE_integer("batch_size", 32, "Sentences of a step.")
flags.DEFINE_integer("epochs", 4, "Passes over the data.")
flags.DEFINE_float("dropout", 0.1, "Dropout rate, also of attention weights.")
flags.DEFINE_integer("seed", 1, "Random seed of weights, dropout and data order.")
flags.DEFINE_bool("jit_compile", True, "Compile the training step with XLA.")

IGNORED = -1  # label of all pieces except the first one of a word


def load(split):
    """The sentences for training, for validation (or None) and for testing; the tags.

    Args:
        split: how texts are split into words.
    """
    train, test = (conll.read(path, split) for path in (FLAGS.train, FLAGS.test))
    dev = conll.read(FLAGS.dev, split) if FLAGS.dev else None
    unknown = set(conll.types(test + (dev or []))) - set(conll.types(train))
    if unknown:
        raise app.UsageError(f"{FLAGS.train} has no entities of the types {sorted(unknown)}.")
    labels = ["O", *(f"{part}-{kind}" for kind in conll.types(train) for part in "BI")]
    print(f"each word's most frequent tag, test F1 {f1(test, look_up(train, test)):.2%}")
    return train, dev, test, labels


def look_up(train, test):
    """Tags of the test sentences: for each word its most frequent tag in training."""
    counts = collections.defaultdict(collections.Counter)
    for words, tags in train:
        for word, tag in zip(words, tags):
            counts[word][tag] += 1
    usual = {word: counter.most_common(1)[0][0] for word, counter in counts.items()}
    return [[usual.get(word, "O") for word in words] for words, _ in test]


def cut(packer, sentences):
    """Splits the words of each sentence as the packer splits texts.

    Returns:
        For each sentence its parts; their tags; for each word the index of its first part, -1 if it
        has none, such as a control character.
    """
    words = sorted({word for words, _ in sentences for word in words})
    found, _, _ = packer.split_words(tf.constant(words, tf.string))
    parts = {
        word: [part.decode("utf8") for part in row] for word, row in zip(words, found.to_list())
    }
    result = []
    for words, tags in sentences:
        counts = [len(parts[word]) for word in words]
        tags = conll.leave_out(tags, [count > 0 for count in counts])
        counted = [count for count in counts if count]
        spread = [
            tag if part == 0 or tag == "O" else f"I{tag[1:]}"
            for tag, count in zip(tags, counted)
            for part in range(count)
        ]
        ends = np.cumsum(counts)
        firsts = [int(end - count) if count else -1 for end, count in zip(ends, counts)]
        result.append(([part for word in words for part in parts[word]], spread, firsts))
    return result


def ragged_words(rows):
    words = [[word.encode("utf8") for word in words] for words in rows]
    return tf.ragged.constant(words, tf.string, ragged_rank=1)


def batches(packer, sentences, labels, shuffle):
    """Batches of one shape, without the last, smaller batch of a training epoch."""
    words, tags, _ = zip(*cut(packer, sentences))
    tags = [[labels.index(tag) for tag in tags] for tags in tags]
    data = (ragged_words(words), tf.ragged.constant(tags, tf.int32, ragged_rank=1))
    data = tf.data.Dataset.from_tensor_slices(data)
    if shuffle:
        data = data.shuffle(len(sentences), seed=FLAGS.seed)

    def pack(words, tags):
        packed = packer.pack_words(words)
        positions = packed.pop("word_positions")
        return packed, text.spread_word_labels(
            tags, positions, packer.max_length, ignore_id=IGNORED
        )

    data = data.batch(FLAGS.batch_size, drop_remainder=shuffle)
    data = data.map(pack, num_parallel_calls=tf.data.AUTOTUNE)
    return distributing.by_rows(data.prefetch(tf.data.AUTOTUNE))


def find(model, packer, sentences, labels, batch_size=64):
    """The model's tag of each word, the tag of its first part; a word that the model did not see
    gets the entity around it."""
    cut_sentences, found = cut(packer, sentences), []
    for start in range(0, len(sentences), batch_size):
        rows = cut_sentences[start : start + batch_size]
        filled = [words for words, _, _ in rows] + [[]] * (batch_size - len(rows))  # one shape
        packed = packer.pack_words(ragged_words(filled))
        positions = packed.pop("word_positions").numpy()
        best = np.argmax(model.predict_on_batch(packed), axis=-1)
        for row, (_, _, firsts) in enumerate(rows):
            places = [positions[row, first] if first >= 0 else -1 for first in firsts]
            found.append(fill([labels[best[row, p]] if p >= 0 else None for p in places]))
    return found


def fill(tags):
    """Replaces tags that are None: by the entity around them if it continues after them, as in the
    served model; else by O."""
    filled = []
    for place, tag in enumerate(tags):
        behind = next((later for later in tags[place:] if later), "O")
        before = filled[-1] if filled else "O"
        goes_on = behind[0] == "I" and before != "O" and before[2:] == behind[2:]
        filled.append(tag or (behind if goes_on else "O"))
    return filled


def unseen(packer, sentences):
    """The number of words that were cut off, and of words without a piece.

    As in `find`, the first part of a word counts.
    """
    parts, _, firsts = zip(*cut(packer, sentences))
    words = ragged_words(parts)
    if of_words(packer):
        pieces = tf.ones_like(words.values, tf.int64)  # every word has one
    else:
        pieces = packer.tokenizer.tokenize(words.values).row_lengths()
    pieces = words.with_values(pieces).to_list()
    positions = packer.pack_words(words)["word_positions"].numpy()
    away = nothing = 0
    for row, places in enumerate(firsts):
        for first in places:
            empty = first < 0 or pieces[row][first] == 0
            nothing += empty
            away += not empty and positions[row, first] < 0
    return int(away), nothing


def of_words(packer):
    """Whether the model reads words instead of pieces."""
    return isinstance(packer, text.WordPacker)


def tell_unseen(packer, **files):
    unit = "parts" if of_words(packer) else "pieces"
    for name, sentences in files.items():
        away, nothing = unseen(packer, sentences)
        print(
            f"{name}: {away} words cut away at {packer.max_length} {unit}, {nothing} without any"
        )


def report(sentences, found, as_conlleval=False, **options):
    """seqeval's report on whole entities."""
    if not as_conlleval:
        options |= {"mode": "strict", "scheme": IOB2}
    true = [tags for _, tags in sentences]
    return classification_report(true, found, zero_division=0, **options)


def f1(sentences, found, **options):
    return float(report(sentences, found, output_dict=True, **options)["micro avg"]["f1-score"])


class EntityF1(keras.callbacks.Callback):
    """Adds the F1 of a file's entities to the progress bar and the log, as `val_f1`."""

    def __init__(self, packer, sentences, labels):
        super().__init__()
        self.data = packer, sentences, labels

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["val_f1"] = f1(self.data[1], find(self.model, *self.data))


def fit(model, packer, train, dev, labels, output, rate):
    """Trains with a warm-up to the `rate` and a linear decay."""
    steps = fine_tuning.count_steps(train, FLAGS.batch_size, FLAGS.epochs)
    model.compile(
        fine_tuning.optimizer(rate, steps),
        training.MaskedCrossEntropy(pad_id=IGNORED),
        metrics=[training.MaskedAccuracy(pad_id=IGNORED)],
        jit_compile=FLAGS.jit_compile,
    )
    telling.stage(f"training {telling.trained(model)} on {len(train):,} sentences")
    history = model.fit(
        batches(packer, train, labels, shuffle=True),
        validation_data=batches(packer, dev, labels, shuffle=False) if dev else None,
        epochs=FLAGS.epochs,
        shuffle=False,  # the data set shuffles itself
        callbacks=[telling.TimeLeft(), *([EntityF1(packer, dev, labels)] if dev else [])],
    ).history
    viz.learning_curve(history, output / "learning_curve.png")


def measure(model, packer, test, labels):
    """Prints and returns the F1 of the entities: name -> value."""
    found = find(model, packer, test, labels)
    print(report(test, found, digits=4))
    whole, counted = f1(test, found), f1(test, found, as_conlleval=True)
    print(
        f"{model.count_params():,} weights, test F1 {whole:.2%} of whole entities, "
        f"as conlleval counts {counted:.2%}"
    )
    return {"test F1 of whole entities": f"{whole:.2%}", "as conlleval counts": f"{counted:.2%}"}


def show(words, tags):
    """The true entities as `type[words]`."""
    (entities,) = Entities([tags], IOB2).entities
    named = [f"{e.tag}[{' '.join(words[e.start : e.end])}]" for e in entities]
    return ", ".join(named) or "none"


def serve(model, packer, test, output, measures):
    """Exports the model, tests it on some sentences with entities in a fresh process, and writes
    index.html.

    Args:
        measures: name -> measured value.
    """
    telling.stage("exporting the service, and asking it in a fresh process")
    shown = [(words, tags) for words, tags in test if set(tags) != {"O"}][:8]
    texts = [" ".join(words) for words, _ in shown]
    folder = serving.export_encoder(
        model, packer, output / "saved_model", check_texts=texts[:3]
    )
    answer = fresh_process.ask(folder, "entities", text=texts)
    rows = []
    for asked, kinds, named, (words, true) in zip(texts, answer["entity"], answer["text"], shown):
        heard = [f"{kind}[{name}]" for kind, name in zip(kinds, named) if kind]
        rows.append((asked, ", ".join(heard) or "none", show(words, true)))
        print("  {}\n    {}\n    in truth: {}".format(*rows[-1]))
    page = index_page.write(
        output, measures, ("text", "entities", "in truth"), rows,
        index_page.Service({"text": texts[:2]}, "entities"),
    )  # fmt: skip
    print(f"{folder} answered in a fresh process; to look at: {page}")
