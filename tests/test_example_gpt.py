"""The examples of GPT train, measure and write; the n-gram model is one of probabilities."""

import math
import re

import numpy as np
import pytest
from pages import read_page
from scripts import imported, run


@pytest.fixture(scope="module")
def kneser_ney():
    with imported("kneser_ney") as module:
        yield module.KneserNey


def texts(rng, count, size=12, vocab_size=7):
    return [[0, *rng.integers(1, vocab_size, size)] for _ in range(count)]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one(order, kneser_ney, rng):
    model = kneser_ney(texts(rng, 11), 7, order)
    for context in ([0], [0, 3], [0, 3, 1, 2], [0, 6, 6, 6, 6, 6]):
        each = [model.log_probabilities([*context, token])[-1] for token in range(7)]
        assert np.exp(each).sum() == pytest.approx(1.0, rel=1e-9)


def test_bigrams_by_hand(kneser_ney):
    """a a b, a b: c(a a) = 1 and c(a b) = 2, so d = 1 / (1 + 2)."""
    model = kneser_ney([[0, 0, 1], [0, 1]], 2, order=2)
    d = 1 / 3
    # N1+(. a) = N1+(. b) = 1 of 2, both once: the discount of the lowest order is 1.
    lowest = 2 / 2 * 0.5
    expected = (2 - d) / 3 + d * 2 / 3 * lowest
    assert model.log_probabilities([0, 1])[0] == pytest.approx(math.log(expected))


@pytest.mark.slow
def test_it_learns_and_writes(tmp_path, rng):
    rules = {"the": ["cat", "dog", "bird"], "cat": ["sees", "runs"], "sees": ["the"]}

    def line():
        words = ["the"]
        while len(words) < 9:
            words.append(rng.choice(rules.get(words[-1], ["the", "far"])))
        return " ".join(words)

    for name, count in (("train.txt", 160), ("held.txt", 24)):
        (tmp_path / name).write_text("\n".join(line() for _ in range(count)), "utf8")
    printed = run(
        "gpt_lm", f"--files={tmp_path / 'train.txt'}",
        f"--validation_files={tmp_path / 'held.txt'}", "--line_documents", "--vocab_size=280",
        "--preset=tiny", "--block_length=16", "--batch_size=8", "--epochs=3", "--dropout=0",
        "--learning_rate=0.02", "--nojit_compile", f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    perplexities = [float(x) for x in re.findall(r"perplexity ([0-9.]+) a token", printed)]
    bits = [float(x) for x in re.findall(r"([0-9.]+) bits a byte", printed)]
    assert len(perplexities) == len(bits) == 2 and max(perplexities) < 20
    # Both count the same tokens and bytes.
    ratio = np.divide(*np.log(perplexities)) / np.divide(*bits)
    assert ratio == pytest.approx(1.0, rel=0.05)
    assert len(re.findall(r"^  the .* \| ", printed, re.M)) == 5
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.keras", "hub", "saved_model", "learning_curve.png", "tokenizer"} <= there
    assert len(re.findall(r"^  the .*\n    -> .* \(log P -", printed, re.M)) == 5
    assert "backup" not in there
    read_page(tmp_path / "out", "Samples", "Attention", "Serve", "GPT", "Kneser-Ney 5-gram")
    assert (tmp_path / "out" / "hub" / "model.safetensors").stat().st_size


@pytest.mark.slow
@pytest.mark.slow
def test_a_language_model_is_fine_tuned_to_classify(tmp_path, rng):
    from keras_xfmr import models, text

    words = {"0": ["bad", "dull", "long"], "1": ["good", "fine", "fun"]}
    texts = [("film " + " ".join(rng.choice(words[c], 3)), c) for c in "01" * 40]
    (tmp_path / "reviews.txt").write_text("\n".join(line for line, _ in texts), "utf8")
    for name, rows in (("train.tsv", texts[:64]), ("test.tsv", texts[64:])):
        lines = "".join(f"{line}\t{c}\n" for line, c in rows)
        (tmp_path / name).write_text(f"document\tlabel\n{lines}", "utf8")
    # As gpt_lm.py leaves it.
    tokenizer = text.learn_sentence_piece([tmp_path / "reviews.txt"], 40)
    tokenizer.save(tmp_path / "gpt" / "tokenizer")
    sizes = dict(vocab_size=tokenizer.vocab_size, max_length=17, num_layers=1)
    ids = dict(pad_id=tokenizer.pad_id, start_id=tokenizer.start_id, end_id=tokenizer.end_id)
    models.Gpt.from_preset("tiny", **sizes, **ids).save_pretrained(tmp_path / "gpt" / "hub")
    printed = run(
        "gpt_classify", f"--train={tmp_path / 'train.tsv'}", f"--test={tmp_path / 'test.tsv'}",
        f"--pretrained={tmp_path / 'gpt'}", "--max_length=13", "--batch_size=8", "--epochs=3",
        "--learning_rate=0.02", "--nojit_compile", f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    assert "1 missing: score.weight" in printed
    accuracy = re.search(r"test accuracy ([0-9.]+)%, perplexity ([0-9.]+) a token", printed)
    assert float(accuracy[1]) > 90 and float(accuracy[2]) < 20
    assert len(re.findall(r"^  [01] \([01]\.\d\d\)  film", printed, re.M)) == 5
    read_page(tmp_path / "out", "Samples", "Attention", "Serve", "test perplexity of a token")
    assert "answered in a fresh process" in printed
    again = models.GptClassifier.from_pretrained(tmp_path / "out" / "hub")
    assert again.labels == ["0", "1"] and not again.load_report.missing
    back = text.load_pretrained_tokenizer(tmp_path / "out" / "hub")
    assert back.vocab_size == tokenizer.vocab_size
