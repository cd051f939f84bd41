"""The examples of ELMo train, measure and write; a head learns a mix of its layers."""

import itertools
import re

import keras
import numpy as np
import pytest
from absl import app, flags
from pages import read_page
from scripts import imported, run

from keras_xfmr import models, text

SMALL = ("--preset=tiny", "--nojit_compile")
NUMBER = r"\d+\.\d+"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sentences to learn from, held-out ones, and a word with two meanings."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(3)
    for name, count in (("train", 40), ("held", 11)):
        pairs = rng.choice(["cat", "dog", "owl"], (count, 2))
        lines = [f"the {a} sees the {b} ." for a, b in pairs]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", "utf8")
    senses = ("word\tsense\tsentence", *(
        f"bat\t{sense}\tthe bat {verb} ." for sense, verbs in
        (("animal", ("sees", "eats")), ("club", ("hits", "breaks"))) for verb in verbs
    ))  # fmt: skip
    (folder / "senses.tsv").write_text("\n".join(senses) + "\n", "utf8")
    return folder


def learn(corpus, output, *given):
    """What elmo_lm.py prints."""
    return run(
        "elmo_lm", f"--files={corpus}/train.txt", f"--validation_files={corpus}/held.txt",
        f"--senses={corpus}/senses.tsv", *SMALL, "--vocab_size=11", "--max_characters=7",
        "--block_length=5", "--batch_size=3", "--learning_rate=0.02", "--dropout=0", *given,
        f"--output={output}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder as elmo_lm.py leaves it, of words that are read by ids, and not trained."""
    folder = tmp_path_factory.mktemp("elmo")
    words = "the film bad dull long good fine fun anna ben dan sees new york oslo .".split()
    (folder / "words.txt").write_text(" ".join(words), "utf8")
    tokenizer = text.learn_words([folder / "words.txt"], 23, split="whitespace")
    tokenizer.save(folder / "tokenizer")
    draw = keras.initializers.RandomUniform(-0.5, 0.5, seed=2)
    sizes = dict(vocab_size=tokenizer.vocab_size, num_layers=1)
    model = models.Elmo.from_preset("tiny", **sizes, initializer=draw)
    model.save_pretrained(folder / "hub")
    return folder


def check_learned(output, printed, words):
    """What a run of elmo_lm.py must leave and print."""
    told = rf"held out, (.*): perplexity of a word forward ({NUMBER}), backward ({NUMBER})\n"
    found = re.findall(told, printed)
    assert {state for state, _, _ in found} == {"blocks alone", "with the state before"}
    # Five of the words of a sentence are known from those before, or behind.
    assert all(1 < float(one) < words for _, *both in found for one in both)
    layers = rf"^layer (\d): cosine within a sense {NUMBER}, between {NUMBER}, difference"
    assert re.findall(layers, printed, re.M) == ["0", "1", "2"]
    there = {path.name for path in output.iterdir()}
    assert {"elmo.keras", "model.keras", "hub", "tokenizer", "tensorboard", "flags.json"} <= there
    assert (output / "senses.png").stat().st_size > 5000
    assert (output / "learning_curve.png").stat().st_size > 5000
    assert "backup" not in there
    read_page(output, "Measured", "Next", "The vectors of one word in sentences")


@pytest.mark.slow
def test_it_learns_by_characters_and_brings_a_classifier_its_words(corpus, reviews, tmp_path):
    printed = learn(corpus, tmp_path / "elmo", "--epochs=2", "--split=whitespace")
    check_learned(tmp_path / "elmo", printed, words=9)
    encoder = models.Elmo.from_pretrained(tmp_path / "elmo" / "hub")
    assert encoder.of_characters and not encoder.load_report.missing
    # Layer 0 does not know the sentence: the word has one vector in all.
    within, between = re.search(rf"layer 0: .*? ({NUMBER}), between ({NUMBER})", printed).groups()
    assert within == between == "1.000"
    given = (*reviews, f"--pretrained={tmp_path / 'elmo'}", *SHORT, "--epochs=1")
    printed = run("elmo_classify", *given, f"--output={tmp_path / 'out'}")
    mix(printed, layers=3)
    check_written(tmp_path / "out")


@pytest.mark.slow
def test_it_learns_by_ids_with_a_state_and_goes_on_when_it_was_killed(corpus, tmp_path):
    given = ("--words=ids", "--stateful", "--num_sampled=3", "--epochs=2")
    whole = learn(corpus, tmp_path / "whole", *given)
    check_learned(tmp_path / "whole", whole, words=11)
    encoder = models.Elmo.from_pretrained(tmp_path / "whole" / "hub")
    tokenizer = text.load_tokenizer(tmp_path / "whole" / "tokenizer")
    assert encoder.get_config()["vocab_size"] == tokenizer.vocab_size

    def killed(self, epoch, logs=None):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keras.callbacks.TensorBoard, "on_epoch_end", killed)  # behind the backup
        learn(corpus, tmp_path / "parts", *given)
    resumed = learn(corpus, tmp_path / "parts", *given)
    assert "going on with the killed run" in resumed
    assert "Epoch 2/2" in resumed and "Epoch 1/2" not in resumed
    measures = [line for line in whole.splitlines() if line.startswith(("held out", "layer"))]
    assert measures and set(measures) <= set(resumed.splitlines())


# ---- heads


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("reviews"), np.random.default_rng(5)
    words = {"0": ["bad", "dull", "long"], "1": ["good", "fine", "fun"]}
    texts = [("the film " + " ".join(rng.choice(words[c], 3)), c) for c in "01" * 40]
    for name, rows in (("train", texts[:64]), ("test", texts[64:])):
        lines = "".join(f"{line}\t{c}\n" for line, c in rows)
        (folder / f"{name}.tsv").write_text(f"document\tlabel\n{lines}", "utf8")
    return [f"--train={folder}/train.tsv", f"--test={folder}/test.tsv"]


@pytest.fixture(scope="module")
def entities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entities")
    pairs = itertools.product(("anna", "ben", "dan"), ("new york", "oslo"))
    rows = [
        [f"{name} B-person", "sees O", *(f"{word} {part}-place" for word, part in
         zip(place.split(), "BI")), ". O"] for name, place in pairs
    ]  # fmt: skip
    for name, count in (("train", 8), ("test", 1)):
        sentences = ["\n".join(row) for row in rows] * count
        (folder / f"{name}.conll").write_text("\n\n".join(sentences) + "\n", "utf8")
    return [f"--{name}={folder}/{name}.conll" for name in ("train", "test")]


SHORT = (
    "--max_length=7", "--batch_size=8", "--learning_rate=0.1", "--dropout=0", "--nojit_compile",
)  # fmt: skip


def mix(printed, layers):
    """s and gamma, which a run has told."""
    told = re.search(rf"^scalar mix: (.*); gamma (-?{NUMBER})$", printed, re.M)
    shares = [float(one) for one in re.findall(rf"layer \d ({NUMBER})", told[1])]
    assert len(shares) == layers and sum(shares) == pytest.approx(1.0, abs=2e-3)
    return shares, float(told[2])


def check_written(output):
    assert (output / "mix.png").stat().st_size > 5000
    assert (output / "learning_curve.png").stat().st_size > 5000
    assert (output / "saved_model" / "1" / "saved_model.pb").is_file()
    read_page(output, "Measured", "Samples", "Serve", "What the head takes of each layer")


@pytest.mark.slow
@pytest.mark.slow
def test_a_head_over_a_frozen_encoder_classifies(pretrained, reviews, tmp_path):
    printed = run(
        "elmo_classify", *reviews, f"--pretrained={pretrained}", *SHORT, "--epochs=12",
        f"--output={tmp_path}",
    )  # fmt: skip
    assert "0.00% of the texts are cut to 7" in printed
    assert float(re.search(rf"test accuracy ({NUMBER})%", printed)[1]) > 90
    shares, gamma = mix(printed, layers=2)
    assert max(shares) - min(shares) > 0.01 and gamma != 1.0  # they were learned
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    trained = {weight.path.split("/")[-2] for weight in model.trainable_weights}
    assert trained == {"scalar_mix", "classifier"}
    published = models.Elmo.from_pretrained(pretrained / "hub")
    for found, expected in zip(model.encoder.weights, published.weights, strict=True):
        np.testing.assert_array_equal(found, expected, found.path)
    assert len(re.findall(r"^  [01] \([01]\.\d\d\)  the film", printed, re.M)) == 5
    assert "answered in a fresh process" in printed
    check_written(tmp_path)


@pytest.mark.slow
def test_a_new_encoder_is_trained_with_its_head(reviews, tmp_path):
    printed = run(
        "elmo_classify", *reviews, "--preset=tiny", "--train_encoder", *SHORT, "--epochs=5",
        "--learning_rate=0.02", f"--output={tmp_path}",
    )  # fmt: skip
    assert float(re.search(rf"test accuracy ({NUMBER})%", printed)[1]) > 90
    mix(printed, layers=3)
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert len(model.trainable_weights) == len(model.weights)


@pytest.mark.slow
def test_words_without_lstms_are_tagged(pretrained, entities, tmp_path):
    """The words of this corpus have one tag each."""
    printed = run(
        "elmo_ner", *entities, f"--pretrained={pretrained}", "--plain", *SHORT, "--epochs=20",
        f"--output={tmp_path}",
    )  # fmt: skip
    assert "test: 0 words cut away at 7 parts, 0 without any" in printed
    assert mix(printed, layers=1)[0] == [1.0]
    assert float(re.search(rf"test F1 ({NUMBER})% of whole entities", printed)[1]) > 90
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert len(model.encoder.encoder_blocks) == 0
    assert "anna sees new york .\n    person[anna], place[new york]\n    in truth" in printed
    check_written(tmp_path)


@pytest.mark.slow
def test_a_tagger_is_trained_over_characters(entities, tmp_path):
    given = ("--preset=tiny", "--train_encoder", *SHORT, "--epochs=9", "--learning_rate=0.02")
    printed = run("elmo_ner", *entities, *given, f"--output={tmp_path}")
    mix(printed, layers=3)
    assert float(re.search(rf"test F1 ({NUMBER})% of whole entities", printed)[1]) > 90
    check_written(tmp_path)


@pytest.fixture
def prepare():
    """From flags of elmo_ner.py to the encoder and its packer."""
    with imported("elmo_ner") as example:

        def make(*given):
            flags.FLAGS(["elmo_ner", "--train=a", "--test=b", *given])
            return example.mixing.prepare(example.FLAGS.split, 5, 0.25)

        yield make


def test_an_encoder_is_frozen_or_trained_and_may_be_the_words_alone(pretrained, prepare):
    frozen, packer = prepare(f"--pretrained={pretrained}")
    assert not frozen.trainable_weights and frozen.dropout_rate == 0
    assert packer.split == "whitespace" and packer.tokenizer.vocab_size == 20  # as of the folder
    inputs = packer(["anna sees oslo ."])
    plain, _ = prepare(f"--pretrained={pretrained}", "--plain")
    assert not plain.trainable_weights
    (words,), _ = plain.encode(inputs)
    np.testing.assert_allclose(words, frozen(inputs)[0], atol=1e-6)
    trained, packer = prepare("--preset=tiny", "--train_encoder", "--noplain", "--pretrained=")
    assert len(trained.trainable_weights) == len(trained.weights)
    assert trained.dropout_rate == 0.25
    assert packer.split == "bert" and packer.tokenizer is None  # it reads characters


def test_a_pretrained_encoder_is_given_the_words_that_it_knows(pretrained, prepare, tmp_path):
    with pytest.raises(app.UsageError, match="--split=whitespace. Received: --split=bert"):
        prepare(f"--pretrained={pretrained}", "--split=bert")
    models.Elmo.from_preset("tiny", vocab_size=13).save_pretrained(tmp_path / "hub")
    with pytest.raises(app.UsageError, match="a model of 13 words and no tokenizer"):
        prepare(f"--pretrained={tmp_path}")
    tokenizer = text.WordTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", *"abcdefghi"])
    tokenizer.save(tmp_path / "tokenizer")
    assert prepare(f"--pretrained={tmp_path}")[1].tokenizer.vocab_size == 13


def test_an_elmo_reads_one_text(reviews, tmp_path):
    with pytest.raises(app.UsageError, match="reads one text. Received: --text_pair=label"):
        run("elmo_classify", *reviews, "--text_pair=label", f"--output={tmp_path}")
