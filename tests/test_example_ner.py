"""bert_ner.py as a user runs it, on a little corpus; what examples that tag share, by hand."""

import itertools
import re

import numpy as np
import pytest
from absl import app
from pages import read_page
from scripts import imported, run

from keras_xfmr import text

NAMES = ("anna", "ben", "carla", "dan")
PLACES = ("new york", "paris", "lake como", "oslo")


def lines(words, kind):
    """A word and its tag a line; an empty `kind` is no entity."""
    tags = ["O"] * len(words) if not kind else [f"{'I' if i else 'B'}-{kind}" for i in range(9)]
    return [f"{word}\t{tag}" for word, tag in zip(words, tags)]


def sentence(name, place):
    parts = (name, "person"), ("lives in", ""), (place, "location"), (".", "")
    return "\n".join(sum((lines(part.split(), kind) for part, kind in parts), []))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """train, dev and test; the last test sentence is 30 words of one piece each."""
    folder = tmp_path_factory.mktemp("corpus")
    pairs = [sentence(*pair) for pair in itertools.product(NAMES, PLACES)]
    dots = "\n".join([". O"] * 18)  # what the model sees of the last test sentence
    files = {
        "train": ["-DOCSTART- -X- O", *[*pairs, dots] * 16],
        "dev": pairs[1::3],
        "test": [*pairs[::3], "\n".join([". O", *[". NN O"] * 28, "dan\tB-person"])],
    }
    for name, sentences in files.items():
        (folder / f"{name}.conll").write_text("\n \t\n".join(sentences) + "\n", "utf8")
    return folder


@pytest.mark.slow
def test_it_finds_entities_counts_what_was_cut_and_serves(corpus, tmp_path):
    small = ("--max_length=20", "--batch_size=16", "--epochs=4", "--learning_rate=3e-3")
    flags = [f"--{name}={corpus}/{name}.conll" for name in ("train", "dev", "test")]
    small += ("--vocab_size=70", "--nojit_compile")
    printed = run("bert_ner", *flags, *small, f"--output={tmp_path}")
    assert "272 sentences, 1696 words, entities: location, person" in printed
    # Of 30 words, 18 fit between [CLS] and [SEP].
    assert "train: 0 words cut away at 20 pieces, 0 without any" in printed
    assert "test: 12 words cut away at 20 pieces, 0 without any" in printed
    assert "val_f1" in printed and "━" in printed  # the progress bar
    # 12 entities in sentences that are as in training, and one that was cut away: recall 12 / 13.
    assert re.search(r"micro avg +1\.0000 +0\.9231 +0\.9600 +13\n", printed)
    assert "test F1 96.00% of whole entities, as conlleval counts 96.00%" in printed
    for name in ("learning_curve.png", "model.keras"):
        assert (tmp_path / name).stat().st_size > 5000
    # The look-up knows each word, and is right about the one that was cut away for the model.
    assert "each word's most frequent tag, test F1 100.00%" in printed
    assert "anna lives in new york .\n    person[anna], location[new york]\n" in printed
    assert re.search(r"\. dan\n    none\n    in truth: person\[dan\]\n", printed)
    assert "saved_model/1 answered in a fresh process" in printed
    read_page(tmp_path, "Samples", "Attention", "Serve", "as conlleval counts", "96.00%")


@pytest.fixture
def example():
    """The module, for what needs no flags."""
    with imported("tagging") as module:
        yield module


def test_a_type_that_was_never_trained_on_is_an_error(corpus, tmp_path):
    (tmp_path / "test.conll").write_text("anna B-person\nfish B-food\n")
    files = (f"--train={corpus}/train.conll", f"--test={tmp_path}/test.conll")
    message = r"train.conll has no entities of the types \['food'\]"
    with pytest.raises(app.UsageError, match=message):
        run("bert_ner", *files, f"--output={tmp_path / 'out'}")


@pytest.fixture
def packer():
    """Of a tokenizer that knows `ab`, `a`, two punctuation marks, and five positions."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "\"", "."]
    return lambda split: text.SentencePacker(
        text.BertTokenizer(words), 5, pad_to_max_length=True, split=split
    )


@pytest.mark.parametrize(
    "split, parts, tags, firsts",
    [
        (
            "bert",
            ["\"", "ab", "\"", ".", "a", ".", "b"],
            ["B-x", "I-x", "I-x", "I-x", "I-x", "O", "B-y"],
            [0, 4, 5, -1, 6],
        ),
        (
            "characters",
            ["\"", "a", "b", "\"", ".", "a", ".", "\x01", "b"],
            ["B-x", "I-x", "I-x", "I-x", "I-x", "I-x", "O", "B-y", "I-y"],
            [0, 5, 6, 7, 8],
        ),
    ],
)
def test_words_are_cut_as_the_packer_cuts_texts(split, parts, tags, firsts, example, packer):
    words = ['"ab".', "a", ".", "\x01", "b"]  # a control character is no word of BERT's
    given = ["B-x", "I-x", "O", "B-y", "I-y"]
    found = example.cut(packer(split), [(words, given), (["."], ["O"])])
    assert found == [(parts, tags, firsts), (["."], ["O"], [0])]
    joined = packer(split).split_words([" ".join(words)])[0].to_list()[0]
    assert [part.decode() for part in joined] == parts  # which the served model reads


def test_whole_entities_are_counted_by_hand(example):
    # Found: one of two, and a second that lacks its beginning.
    sentences = [(list("abcde"), ["B-x", "I-x", "O", "B-y", "I-y"])]
    found = [["B-x", "I-x", "O", "I-y", "I-y"]]
    assert example.f1(sentences, found) == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert example.f1(sentences, found, as_conlleval=True) == 1
    # One word too many: neither the entity nor the word counts.
    assert example.f1(sentences, [["B-x", "I-x", "I-x", "O", "O"]]) == 0
    assert example.show(*sentences[0]) == "x[a b], y[d e]"


def test_the_look_up_takes_a_words_most_frequent_tag(example):
    train = [(["may", "may", "may", "anna"], ["O", "B-x", "B-x", "B-x"])]
    assert example.look_up(train, [(["may", "new"], ["O", "O"])]) == [["B-x", "O"]]


def test_words_that_the_model_does_not_see_are_counted_and_no_entities(example, packer):
    class Model:
        """Gives the first three positions the tags 1, 2 and 3, all others 4."""

        def predict_on_batch(self, packed):
            assert packed["token_ids"].shape == (2, 5)
            return np.eye(5)[np.minimum(1 + np.arange(5), 4)][None].repeat(2, 0)

    packer, labels = packer("bert"), ["O", "B-u", "B-v", "B-w", "B-x"]
    rows = [["ab", "\u200b", "a", "a", "a"], ["\u200b"], ["a"]]
    sentences = [(words, ["O"] * len(words)) for words in rows]
    assert example.unseen(packer, sentences) == (2, 2)
    found = example.find(Model(), packer, sentences, labels, 2)
    assert found == [["B-v", "O", "B-x", "O", "O"], ["O"], ["B-v"]]
    # A word has the tag of its first part, and is cut away with it.
    sentences = [(["a.", "a", "a."], ["O"] * 3)]
    assert example.unseen(packer, sentences) == (1, 0)
    assert example.find(Model(), packer, sentences, labels, 2) == [["B-v", "B-x", "O"]]
