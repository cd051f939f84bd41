"""What `export_encoder` writes of a model that tags words: words, tags, entities."""

import functools
import itertools

import cpp_loader
import keras
import numpy as np
import pytest
import tensorflow as tf
from served import assert_rows_answer_for_themselves, in_memory

from keras_xfmr import models, serving, text

pytestmark = pytest.mark.slow

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "he",
    "likes",
    "apple",
    '"',
    "##s",
    ".",
    "누",
]
LABELS = ["O", "B-ORG", "I-ORG", "B-PER", "I-PER"]
LONGEST, WIDTH, MOST = 7, 13, 3


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(5)
    bert = models.Bert(
        17, d_model=12, num_heads=3, ffn_dim=19, num_layers=1, max_length=LONGEST,
        initializer_range=0.9,
    )  # fmt: skip
    return models.BertTokenClassifier(bert, len(LABELS), labels=LABELS)


def packer_of(split="bert"):
    return text.SentencePacker(text.BertTokenizer(WORDS), LONGEST, split=split)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return serving.export_encoder(
        model, packer_of(), tmp_path_factory.mktemp("tagger"),
        max_words=WIDTH, max_entities=MOST, stride=2, max_characters=97,
    )  # fmt: skip


@functools.cache
def load(path):
    return tf.saved_model.load(path).signatures


def ask(service, signature="serving_default", **inputs):
    """Answers of what was written to a path, or of what is in memory."""
    signatures = service if isinstance(service, dict) else load(service)
    answers = signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})
    return {name: value.numpy() for name, value in answers.items()}


def strings(row):
    return [value.decode() for value in row]


def by_hand(model, pieces, counts):
    """Scores of words, each of which has `counts` pieces, from the window that each belongs to."""
    room, stride = LONGEST - 2, 2
    begins = range(0, max(len(pieces) - room, 0) + stride, stride) if len(pieces) > room else [0]
    windows, scores = [pieces[begin : begin + room] for begin in begins], []
    for place in np.cumsum([0, *counts[:-1]]):
        near = [
            min(place - begin, begin + len(window) - 1 - place)
            for begin, window in zip(begins, windows)
        ]
        # The ends of a text have nothing behind them that a window could show.
        first, last = (begin + (room - stride + 1) // 2 for begin in (begins[0], begins[-1]))
        k = 0 if place < first else len(begins) - 1 if place >= last else int(np.argmax(near))
        ids = np.array([[2, *windows[k], 3]])
        logits = np.asarray(model({"token_ids": ids}))[0, 1 + place - begins[k]]
        scores.append(np.exp(logits) / np.exp(logits).sum())
    return np.array(scores)


TEXTS = ['He likes "Apples".', "누 누\u3000apple", "", "apple " * 12]


def test_words_are_cut_at_punctuation_and_tagged_in_windows(model, path):
    found, tokenizer = ask(path, text=TEXTS), packer_of().tokenizer
    words = {name: found[name] for name in set(found) - {"truncated", "valid"}}
    assert {value.shape for value in words.values()} == {(4, WIDTH)}
    expected = [["He", "likes", '"', "Apples", '"', "."], ["누", "누", "apple"], [], ["apple"] * 12]
    for row, words in enumerate(expected):
        count = len(words)
        assert strings(found["words"][row]) == words + [""] * (WIDTH - count)
        spans = zip(found["start"][row], found["end"][row])
        assert [TEXTS[row][a:b] for a, b in itertools.islice(spans, count)] == words
        assert (found["start"][row, count:] == -1).all() and (found["end"][row, count:] == -1).all()
        if not words:
            continue
        pieces = tokenizer.tokenize(tf.constant(words))
        counts = pieces.row_lengths().numpy()
        scores = by_hand(model, pieces.values.numpy(), counts)
        assert strings(found["tags"][row, :count]) == [LABELS[i] for i in scores.argmax(-1)]
        np.testing.assert_allclose(found["scores"][row, :count], scores.max(-1), rtol=1e-4)
    assert found["truncated"].tolist() == [False] * 4


def test_a_quotation_mark_hides_no_entity(path):
    """Training files have punctuation apart: both spellings are one text to the model."""
    apart, together = ask(path, text=['He " Apple " .']), ask(path, text=['He "Apple".'])
    for name in ("words", "tags"):
        assert strings(apart[name][0]) == strings(together[name][0])
    np.testing.assert_allclose(apart["scores"], together["scores"], rtol=1e-5)


def test_what_is_beyond_a_bound_is_reported(path):
    texts = ["he " * WIDTH, "he " * (WIDTH + 1), "he" + " " * 96, "he" + " " * 95, "\u200b he"]
    found = ask(path, text=texts)
    assert found["truncated"].tolist() == [False, True, True, False, False]
    assert strings(found["words"][1]) == ["he"] * WIDTH
    assert strings(found["words"][4])[:2] == ["he", ""]
    empty = ask(path, text=tf.constant([], tf.string))
    assert {name: value.shape[1:] for name, value in empty.items()} == {
        name: value.shape[1:] for name, value in found.items()
    }


def conlleval(tags):
    """Entities of tags, one after the other, as conlleval reads them."""
    found, before = [], "O"
    for place, tag in enumerate(tags):
        goes_on = tag[0] == "I" and before != "O" and before[2:] == tag[2:]
        if tag != "O" and not goes_on:
            found.append([tag[2:], place, place])
        elif tag != "O":
            found[-1][2] = place
        before = tag
    return found


def test_entities_are_cut_from_the_text(path, rng):
    marks = np.array(["he", "likes", "apple", '"', "누", " ", "  ", ". "])
    texts = ["".join(rng.choice(marks, 9)) for _ in range(41)]
    words, found = ask(path, text=texts), ask(path, "entities", text=texts)
    places = {name: found[name] for name in set(found) - {"truncated", "valid"}}
    assert {value.shape for value in places.values()} == {(41, MOST)}
    several = 0
    for row, asked in enumerate(texts):
        tags = [tag for tag in strings(words["tags"][row]) if tag]
        expected = conlleval(tags)
        assert found["truncated"][row] == (len(expected) > MOST)
        for place in range(MOST):
            if place >= len(expected):
                rest = [found[name][row, place] for name in ("entity", "text", "start", "end")]
                assert rest == [b"", b"", -1, -1] and found["score"][row, place] == 0
                continue
            kind, first, last = expected[place]
            several += last > first
            start, end = words["start"][row, first], words["end"][row, last]
            assert found["entity"][row, place].decode() == kind
            assert (found["start"][row, place], found["end"][row, place]) == (start, end)
            assert found["text"][row, place].decode() == asked[start:end]
            score = words["scores"][row, first : last + 1].mean()
            assert found["score"][row, place] == pytest.approx(score, rel=1e-5)
    assert several > 5 and found["truncated"].any()


def test_bytes_that_are_no_utf_8_are_one_character_each(path):
    """As most decoders read them; a neighbour is answered as ever."""
    texts = [b"\xed\xa0\xbd\xed\xb8\x80 he likes", b"he \xff\x80likes apple", b"he likes"]
    words, found = ask(path, text=texts), ask(path, "entities", text=texts)
    alone = ask(path, "entities", text=texts[2:])
    for name in ("entity", "text", "start", "end"):
        np.testing.assert_array_equal(found[name][2], alone[name][0])
    for row, asked in enumerate(asked.decode("utf8", "replace") for asked in texts):
        for name, answer in (("words", words), ("text", found)):
            spans = zip(answer[name][row], answer["start"][row], answer["end"][row])
            assert all(asked[a:b] == word.decode() for word, a, b in spans if a >= 0)


def test_without_a_class_for_what_is_no_entity_there_are_none(model):
    plain = models.BertTokenClassifier(model.bert, 2)
    service = in_memory(serving.export_encoder, plain, packer_of(), max_words=3)
    assert set(service) == {"serving_default", "ids"}


def test_neighbours_change_neither_width_nor_answer(path):
    together = {name: ask(path, name, text=TEXTS) for name in ("serving_default", "entities")}
    for row, name in itertools.product(range(4), together):
        for output, values in ask(path, name, text=TEXTS[row : row + 1]).items():
            expected = together[name][output][row]
            assert values[0].shape == expected.shape
            if values.dtype == "float32":
                np.testing.assert_allclose(values[0], expected, rtol=1e-4, atol=1e-7)
            else:
                np.testing.assert_array_equal(values[0], expected)


def test_ids_have_the_width_that_was_sent_and_zeros_behind_a_row(model, path):
    ids = np.array([[2, 5, 7, 3], [2, 3, 2, 2]], "int32")
    found = ask(path, "ids", token_ids=ids, lengths=[4, 2])["scores"]
    expected = np.asarray(keras.ops.softmax(model({"token_ids": ids[:1]})))[0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)
    assert (found[1, 2:] == 0).all() and (found[1, :2] > 0).all()
    wide = np.pad(ids, [(0, 0), (0, 7)], constant_values=2)  # beyond the model's positions
    padded = ask(path, "ids", token_ids=wide, lengths=[4, 2])["scores"]
    assert padded.shape == (2, 11, len(LABELS))
    np.testing.assert_allclose(padded[:, :4], found, rtol=1e-4, atol=1e-7)
    assert (padded[:, 4:] == 0).all()
    right = {"token_ids": ids, "lengths": [4, 2]}
    bad = {"token_ids": [2, 17, 7, 3]}
    assert_rows_answer_for_themselves(load(path)["ids"], right, bad)
    none = ask(path, "ids", token_ids=np.zeros((2, 0), "int32"), lengths=[0, 0])["scores"]
    assert none.shape == (2, 0, len(LABELS))


@pytest.mark.parametrize(
    "split, words", [("whitespace", ["he.", "누"]), ("characters", list("he.누"))]
)
def test_a_service_cuts_as_its_packer_says(split, words, model):
    service = in_memory(serving.export_encoder, model, packer_of(split), max_words=5)
    found = strings(ask(service, text=["he. \u3000누"])["words"][0])
    assert [word for word in found if word] == words


def test_a_server_without_xla_answers_as_python(path, loader):
    for name in ("serving_default", "entities"):
        expected, found = (
            ask(path, name, text=TEXTS),
            cpp_loader.ask(loader, path, name, {"text": TEXTS}),
        )
        for output, values in expected.items():
            answer = np.reshape(found[output]["values"], values.shape)
            if values.dtype == object:
                answer = np.vectorize(str.encode, otypes=[object])(answer)
                np.testing.assert_array_equal(answer, values)
            else:
                np.testing.assert_allclose(answer, values, rtol=1e-4, atol=1e-7)
