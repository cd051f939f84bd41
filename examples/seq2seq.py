"""Shared by translate.py and chatbot.py: split, train, answer, draw, export, test.

A corpus here is a TSV of source<TAB>target in the output folder: `train.tsv` and `held_out.tsv`.
"""

import os
import pathlib
import random
import time

import fresh_process
import index_page
import keras
import numpy as np
import resuming
import telling
from absl import app

import keras_xfmr
from keras_xfmr import models, text, training, viz

SIDES = ("source", "target")
# The files of these examples in their output folders.
WRITES = (
    "train.tsv", "held_out.tsv", "train.part", "held_out.part", "flags.json", "source_tokenizer",
    "target_tokenizer", "backup", "tensorboard", "learning_curve.png", "cross_attention.png",
    "model.keras", "saved_model", *index_page.NAMES,
)  # fmt: skip
LONGEST = 4096  # maximum ids of a source; memory grows with the square of their number


# ---- the corpus


def split(pairs, output, held_out, seed=0):
    """Writes a stream of pairs to train.tsv and held_out.tsv, without common sources.

    White space becomes single blanks, because a tab or a line end inside a text would split it.
    Other translations of a held-out source are in neither file; their number is printed.

    Args:
        pairs: a function that returns a new iterator over (source, target).
        output: folder of the two files.
        held_out: number of held-out pairs.
        seed: seed of the choice.

    Returns:
        The two paths.

    Raises:
        app.UsageError: `held_out` is below 1, or there are too few pairs.
    """
    if held_out < 1:
        raise app.UsageError(f"--held_out must be at least 1. Received: {held_out}.")

    def tidy():
        return (tuple(" ".join(text.split()) for text in pair) for pair in pairs())

    draw, chosen, seen = random.Random(seed), [], 0
    for source, _ in tidy():  # reservoir sampling: memory does not grow with the corpus
        if len(chosen) < held_out:
            chosen.append((seen, source))
        elif (place := draw.randrange(seen + 1)) < held_out:
            chosen[place] = seen, source
        seen += 1
    if seen <= 2 * held_out:
        raise app.UsageError(f"{seen} pairs are too few to hold out {held_out}; lower --held_out.")
    places, sources = (set(part) for part in zip(*chosen))
    train, held = pathlib.Path(output, "train.tsv"), pathlib.Path(output, "held_out.tsv")
    aside, others = [path.with_suffix(".part") for path in (train, held)], 0
    with open(aside[0], "w", encoding="utf8") as kept, open(aside[1], "w", encoding="utf8") as away:
        for place, (source, target) in enumerate(tidy()):
            if place in places:
                away.write(f"{source}\t{target}\n")
            elif source in sources:
                others += 1
            else:
                kept.write(f"{source}\t{target}\n")
    for part, path in zip(aside, (train, held)):
        os.replace(part, path)
    print(f"{held_out} pairs held out; other translations of their sources, left out: {others}")
    return train, held


def refuse_own_files(output, paths):
    """Raises UsageError if `split` would overwrite the corpus."""
    own = [pathlib.Path(output, name).resolve() for name in ("train.tsv", "held_out.tsv")]
    for path in paths:
        if path and pathlib.Path(path).resolve() in own:
            raise app.UsageError(
                f"{path} would be overwritten by its own training or held-out part. "
                "Give another --output."
            )


def read_pairs(path):
    """The pairs of a TSV that this module wrote."""
    with open(path, encoding="utf8") as file:
        return [tuple(line.rstrip("\n").split("\t")) for line in file]


def fitting(pairs, tokenizers, bucket):
    """The pairs whose ids fit a bucket (source length, target length)."""
    sources, targets = zip(*pairs)
    source_lengths = tokenizers[0].encode(sources).row_lengths().numpy()
    target_lengths = tokenizers[1].encode(targets).row_lengths().numpy()
    fits = (source_lengths <= bucket[0]) & (target_lengths <= bucket[1])
    return [pair for pair, fit in zip(pairs, fits) if fit]


def save_tokenizers(tokenizers, output):
    """Writes both tokenizers, even if they are one, so that no tokenizer of an older job stays."""
    for side, tokenizer in zip(SIDES, tokenizers):
        tokenizer.save(output / f"{side}_tokenizer")


def load_tokenizers(output, shared):
    """Loads the tokenizers of `save_tokenizers`. With `shared=True` both sides have one."""
    source, target = (text.load_tokenizer(output / f"{side}_tokenizer") for side in SIDES)
    return source, source if shared else target


# ---- training


def fit(files, tokenizers, output, settings, *, seed=0, jit_compile=True):
    """Builds a Transformer and fits it; continues a killed run.

    Writes learning_curve.png, TensorBoard logs and model.keras into `output`, and the backup, which
    `resuming.finish` removes.

    Args:
        files: train.tsv and held_out.tsv.
        tokenizers: of source and target; if they are one object, the embeddings are shared.
        settings: epochs, batch_size, buckets, d_model, num_heads, num_layers, dropout,
            learning_rate, label_smoothing.

    Returns:
        The model, and the measures of the held-out part after the last epoch, with four digits.
    """
    source, target = tokenizers
    data = {"batch_size": settings["batch_size"], "buckets": settings["buckets"]}
    train = text.PairDataset(files[0], *tokenizers, seed=seed, on_bad_row="skip", **data)
    held = text.PairDataset(files[1], *tokenizers, shuffle_buffer=0, on_bad_row="skip", **data)
    steps = settings["epochs"] * train.count()
    held.count()
    print(f"{train.rows} pairs to train on, left out: {train.skipped}; {steps} steps")
    print(f"{held.rows} pairs to measure the loss on, left out: {held.skipped}")
    for part, pairs in (("train on", train), ("measure on", held)):
        if not pairs.rows:
            raise app.UsageError(
                f"Expected pairs to {part} of at most {settings['buckets'][-1]} ids (source, "
                f"target). Received: none, left out: {pairs.skipped}. Are its rows sentences?"
            )
    model = models.Transformer(
        source.vocab_size,
        None if target is source else target.vocab_size,
        d_model=settings["d_model"],
        num_heads=settings["num_heads"],
        ffn_dim=4 * settings["d_model"],
        num_layers=settings["num_layers"],
        dropout_rate=settings["dropout"],
        norm_first=True,  # learns faster in few steps than the paper's post-norm
        pad_id=target.pad_id,
        start_id=target.start_id,
        end_id=target.end_id,
    )
    schedule = training.LinearWarmupDecay(settings["learning_rate"], steps // 10, steps)
    model.compile(
        training.AdamW(schedule, weight_decay=0.01, beta_2=0.98, epsilon=1e-9),
        loss=training.MaskedCrossEntropy(settings["label_smoothing"], pad_id=model.pad_id),
        metrics=[
            training.MaskedAccuracy(pad_id=model.pad_id),
            training.MaskedPerplexity(pad_id=model.pad_id),
        ],
        jit_compile=jit_compile,
    )
    history = model.fit(
        train.dataset(),
        validation_data=held.dataset(),
        epochs=settings["epochs"],
        shuffle=False,  # the data set shuffles itself
        callbacks=[
            telling.TimeLeft(),
            resuming.backup(output, train),
            keras.callbacks.TensorBoard(output / "tensorboard", write_graph=False),
        ],
    ).history
    if history:
        viz.learning_curve(history, output / "learning_curve.png")
    model.save(output / "model.keras")
    measures = model.evaluate(held.dataset(), return_dict=True, verbose=0)
    return model, {name: float(f"{value:.4g}") for name, value in measures.items()}


# ---- answers


def answer(model, tokenizers, sources, *, length, batch_size=64, **options):
    """Raw sources to raw targets, in batches of one shape, for one compilation.

    Sources of more than `length` ids go to batches of twice the length, or four times, and so on.
    These have fewer rows, and no rows of padding. They need a few more compilations, with the
    default `max_length` of `generate`. Sources of more than `LONGEST` ids have the answer ""; their
    number is printed.

    Args:
        length: ids of a source; options as in `Transformer.generate`.

    Returns:
        A list of strings.
    """
    lengths = tokenizers[0].encode(sources).row_lengths().numpy()
    doublings = np.ceil(np.log2(np.maximum(lengths / length, 1))).astype(int)
    beyond = lengths > max(LONGEST, length)
    if beyond.any():
        print(f"sources of more than {max(LONGEST, length)} ids, not answered: {beyond.sum()}")
    answers = [""] * len(sources)
    for doubling in np.unique(doublings[~beyond]):
        places = np.flatnonzero((doublings == doubling) & ~beyond)
        rows, padding, chosen = batch_size, [""] * batch_size, options
        if doubling:
            rows, padding = max(batch_size >> doubling, 1), []
            chosen = {**options, "max_length": None}
        for start in range(0, len(places), rows):
            batch = places[start : start + rows]
            filled = [sources[i] for i in batch] + padding[len(batch) :]
            found = _answer_batch(model, tokenizers, filled, length << doubling, **chosen)
            for i, target in zip(batch, found):
                answers[i] = target
    return answers


def _answer_batch(model, tokenizers, sources, width, **options):
    ids = tokenizers[0].encode(sources).to_tensor(model.pad_id, shape=[None, width])
    found = model.generate(ids, **options)["token_ids"]
    best = found if found.ndim == 2 else found[:, 0]
    return [target.decode("utf8") for target in tokenizers[1].detokenize(best).numpy()]


def show_attention(model, tokenizers, sources, targets, output):
    """Writes attention.html, and draws the cross attention of the last decoder block for the first
    source, in cross_attention.png."""
    viz.attention_view(
        model, (sources, targets), output / "attention.html", tokenizer=tokenizers,
        title=f"{sources[0]} → {targets[0]}",
    )  # fmt: skip
    source_ids = tokenizers[0].encode(sources[:1]).to_tensor()
    target_ids = tokenizers[1].encode(targets[:1], start=True, end=False).to_tensor()
    weights = model.attention_weights(source_ids, target_ids)["cross"][-1][0]
    labels = [
        viz.token_names(tokenizer, ids[0])
        for tokenizer, ids in zip(tokenizers, (source_ids, target_ids))
    ]
    title, path = f"{sources[0]} → {targets[0]}", output / "cross_attention.png"
    viz.attention_map(np.asarray(weights), *labels, path, title=title)


def export_and_ask(model, tokenizers, output, questions, **options):
    """Exports the SavedModel and runs it in a process that imports only TensorFlow.

    Returns:
        The folder, and a list of (text, score).
    """
    folder = keras_xfmr.serving.export_saved_model(
        model, tokenizers, output / "saved_model", check_texts=questions, **options
    )
    answer = fresh_process.ask(folder, text=questions)
    return folder, list(zip(answer["output_text"], answer["score"]))


class Clock:
    """Prints the time of each step of the job."""

    def __init__(self):
        self._start = self._last = time.time()

    def step(self, message):
        now = time.time()
        print(f"[{now - self._start:5.0f} s, +{now - self._last:.0f}] {message}", flush=True)
        self._last = now
