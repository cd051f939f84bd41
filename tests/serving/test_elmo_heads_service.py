"""What `export_encoder` writes of heads over an Elmo: classes, tags, entities and vectors.

C 11 characters of a word, M 5 words of a row, W 13 words, E 3 entities
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from served import assert_rows_answer_for_themselves, in_memory, unchecked

from keras_xfmr import models, serving, text

pytestmark = pytest.mark.slow

C, M, W, MOST = 11, 5, 13, 3
LABELS = ["no", "yes", "예"]
TAGS = ["O", "B-ORG", "I-ORG"]
VOCABULARY = ["[PAD]", "[UNK]", "[START]", "[END]", "good", "bad", "film", "영화가"]
# The last one is longer than a row.
TEXTS = ["good film", "", "영화가 bad!", "bad film good film bad film"]
SPLIT = [["good", "film"], [], ["영화가", "bad", "!"], ["bad", "film", "good", "film", "bad"]]


def elmo(**options):
    keras.utils.set_random_seed(7)
    sizes = dict(units=5, projection_dim=3, num_layers=1, num_highway=1, character_dim=2)
    initializer = keras.initializers.RandomUniform(-0.9, 0.9, seed=3)
    options = {**sizes, "max_characters": C, "filters": ((1, 3), (2, 5)), **options}
    return models.Elmo(initializer=initializer, **options)


@pytest.fixture(scope="module")
def packer():
    return text.WordPacker(M, max_characters=C)


@pytest.fixture(scope="module")
def word_packer():
    return text.WordPacker(M, tokenizer=text.WordTokenizer(VOCABULARY))


def ask(service, signature="serving_default", **inputs):
    answers = service[signature](**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in answers.items()}


def characters_of(rows):
    rows = tf.ragged.constant([[w.encode() for w in row] for row in rows], tf.string, 1)
    return text.words_to_characters(rows, max_characters=C).numpy()


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_a_classifier_answers_labels_with_scores(packer):
    model = models.Classifier(elmo(), 3, labels=LABELS)
    service = in_memory(serving.export_encoder, model, packer)
    ids, found = characters_of(SPLIT), ask(service, text=TEXTS)
    scores = softmax(np.asarray(model({"character_ids": ids})))
    assert set(found) == {"label", "score", "scores", "truncated", "valid"}
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["score"], scores.max(-1), rtol=1e-4)
    assert [name.decode() for name in found["label"]] == [LABELS[i] for i in scores.argmax(-1)]
    assert found["truncated"].tolist() == [False, False, False, True]
    assert not packer.report_truncation  # which is the user's
    lengths = [len(row) for row in SPLIT]
    padded = np.where(ids, ids, -1)
    padded = np.pad(padded, [(0, 0), (0, 7), (0, 0)], constant_values=262).astype("int32")
    by_ids = ask(service, "ids", character_ids=padded, lengths=lengths)
    np.testing.assert_allclose(by_ids["scores"], scores, rtol=1e-4, atol=1e-6)
    right = {"character_ids": np.full((2, 7, C), 97, "int32"), "lengths": [1, 5]}
    wrong = {"lengths": 6}, {"character_ids": 262}
    assert_rows_answer_for_themselves(service["ids"], right, *wrong)


def test_a_vocabulary_of_words_is_written_with_the_model(word_packer, tmp_path):
    model = models.Embedder(elmo(vocab_size=11))
    with unchecked():
        path = serving.export_encoder(model, word_packer, tmp_path, max_characters=61)
    tokenizer = text.load_tokenizer(f"{path}/assets.extra/tokenizer")
    service = tf.saved_model.load(path).signatures
    texts = [*TEXTS, "good " + "bad" * 1_000_000]
    found = ask(service, text=texts)
    rows = tf.ragged.constant([*SPLIT, ["good", "bad" * 19]], ragged_rank=1)
    ids = tokenizer.words_to_ids(rows).to_tensor(0).numpy()
    expected = np.asarray(model({"token_ids": ids}))
    assert found["vector"].shape == (5, 6) and expected.std() > 0.1
    np.testing.assert_allclose(found["vector"], expected, rtol=1e-4, atol=1e-6)
    assert found["truncated"].tolist() == [False, False, False, True, True]
    lengths = [2, 0, 3, 5, 2]
    padded = np.pad(ids, [(0, 0), (0, 7)], constant_values=99)
    by_ids = ask(service, "ids", token_ids=padded, lengths=lengths)
    np.testing.assert_allclose(by_ids["vector"], expected, rtol=1e-4, atol=1e-6)
    found = ask(service, "ids", token_ids=[[10, 5], [11, 5]], lengths=[1, 1])
    assert found["valid"].tolist() == [True, False] and not found["vector"][1].any()


def test_vectors_of_a_vocabulary_are_float32(word_packer):
    model = elmo(vocab_size=11, dtype="mixed_bfloat16")
    service = in_memory(serving.export_encoder, model, word_packer)
    ids = np.array([[4, 6, 0], [7, 5, 1]], "int32")  # the last word is none of the vocabulary
    shown = np.array([[1, 1, 0], [1, 1, 1]])[:, :, None]
    layers = [np.asarray(keras.ops.cast(layer, "float32")) * shown for layer in model(ids)]
    expected = dict(zip(["layer_0", "layer_1", "mean"], [*layers, np.mean(layers, axis=0)]))
    by_text = ask(service, text=["good film", TEXTS[2]])
    words = [["good", "film", "film"], SPLIT[2]]
    by_words = ask(service, "words", words=words, lengths=[2, 3])
    by_ids = ask(service, "ids", token_ids=np.where(ids, ids, -1), lengths=[2, 3])
    for name, vectors in expected.items():
        for found in (by_text, by_words, by_ids):
            assert found[name].dtype == np.float32 and found[name].shape == (2, M, 6)
            np.testing.assert_allclose(found[name][:, :3], vectors, rtol=1e-2, atol=1e-2)
            assert not found[name][:, 3:].any()
        assert np.abs(vectors).max() > 0.1
    mean = (by_text["layer_0"] + by_text["layer_1"]) / 2  # half precision would round it
    np.testing.assert_allclose(by_text["mean"], mean, rtol=1e-6)


@pytest.fixture(scope="module")
def tagger():
    model = models.Tagger(elmo(), len(TAGS), labels=TAGS)
    model.classifier.kernel.assign(np.random.default_rng(5).normal(size=(6, 3)) * 9)
    return model


@pytest.fixture(scope="module")
def tags(tagger, packer):
    return in_memory(
        serving.export_encoder, tagger, packer, max_words=W, max_entities=MOST, stride=2
    )


def by_hand(model, words):
    """Scores of words `[W, C]`, each from the window in which most words stand around it."""
    begins = [0]
    while begins[-1] + M < len(words):
        begins.append(begins[-1] + 2)
    windows = [
        np.asarray(model({"character_ids": characters_of([words[begin : begin + M]])}))[0]
        for begin in begins
    ]

    def around(place, begin):  # beyond the ends of a text nothing is missing
        left = place - begin if begin else 99
        return min(left, begin + M - 1 - place if begin < begins[-1] else 99)

    scores = []
    for place in range(len(words)):
        inside = [n for n, begin in enumerate(begins) if begin <= place < begin + M]
        n = max(inside, key=lambda n: (around(place, begins[n]), -n))
        scores.append(softmax(windows[n][place - begins[n]]))
    return np.array(scores)


def test_words_are_tagged_in_windows(tagger, tags):
    rows = [["bad", "film", "good"] * 4 + ["bad"], [], ["영화가", "bad", "!"], ["a"] * (W + 1)]
    texts = [" ".join(row) for row in rows]
    found = ask(tags, text=texts)
    words = {name: found[name] for name in set(found) - {"truncated", "valid"}}
    assert {values.shape[1:] for values in words.values()} == {(W,)}
    assert found["truncated"].tolist() == [False] * 3 + [True]
    for row, words in enumerate(rows):
        words = words[:W]
        rest = W - len(words)
        assert [word.decode() for word in found["words"][row]] == words + [""] * rest
        spans = list(zip(found["start"][row], found["end"][row]))
        assert [texts[row][a:b] for a, b in spans[: len(words)]] == words
        assert spans[len(words) :] == [(-1, -1)] * rest
        if words:
            scores = by_hand(tagger, words)
            names = [TAGS[i] for i in scores.argmax(-1)] + [""] * rest
            assert [tag.decode() for tag in found["tags"][row]] == names
            kept = found["scores"][row, : len(words)]
            np.testing.assert_allclose(kept, scores.max(-1), rtol=1e-4)
    assert len(set(found["tags"][0])) > 1
    alone = ask(tags, text=texts[2:3])
    for name, values in alone.items():
        if name == "scores":
            np.testing.assert_allclose(values[0], found[name][2], rtol=1e-4)
        else:
            np.testing.assert_array_equal(values[0], found[name][2])


def test_entities_are_cut_from_the_text(tags):
    texts = ["bad film good, 영화가 film! good bad", ""]
    words, found = ask(tags, text=texts), ask(tags, "entities", text=texts)
    places = {name: found[name] for name in set(found) - {"truncated", "valid"}}
    assert {values.shape for values in places.values()} == {(2, MOST)}
    names = [tag.decode() for tag in words["tags"][0] if tag]
    # An entity begins at each B-, and at an I- that has no entity before it.
    first = [
        i for i, tag in enumerate(names)
        if tag[0] == "B" or tag[0] == "I" and (not i or names[i - 1] == "O")
    ]  # fmt: skip
    begins = [begin for begin in found["start"][0] if begin >= 0]
    assert begins and begins == words["start"][0][first[:MOST]].tolist()
    for begin, end, spelled in zip(begins, found["end"][0], found["text"][0]):
        assert texts[0][begin:end] == spelled.decode()
    assert found["truncated"].tolist() == [len(first) > MOST, False]
    assert set(found["entity"][1]) == {b""}


def test_ids_of_a_tagger_have_the_width_that_was_sent(tagger, tags):
    words = ["bad", "film", "good"]
    ids = np.pad(characters_of([words]), [(0, 0), (0, 6), (0, 0)], constant_values=-1)
    found = ask(tags, "ids", character_ids=ids, lengths=[3])["scores"]
    assert found.shape == (1, 9, len(TAGS)) and (found[0, 3:] == 0).all()
    np.testing.assert_allclose(found[0, :3], by_hand(tagger, words), rtol=1e-4)
    right = {"character_ids": np.full((2, 9, C), 97, "int32"), "lengths": [1, 5]}
    assert_rows_answer_for_themselves(tags["ids"], right, {"lengths": 6})


def test_what_does_not_fit(packer, word_packer, tmp_path):
    def refused(message, model, packer, **options):
        with pytest.raises(ValueError, match=message):
            serving.export_encoder(model, packer, tmp_path / "m", **options)
        assert not (tmp_path / "m").exists()

    of_characters, of_words = elmo(), elmo(vocab_size=7)
    sentences = text.SentencePacker(text.BertTokenizer([*VOCABULARY, "[CLS]", "[SEP]"]), 7)
    bert = models.Bert(11, d_model=12, num_heads=3, ffn_dim=17, num_layers=1, max_length=7)
    refused(r"a WordPacker for an Elmo.*SentencePacker for a Elmo\.", of_characters, sentences)
    refused("SentencePacker for a Embedder over a Elmo", models.Embedder(of_words), sentences)
    refused("WordPacker for a Embedder over a Bert", models.Embedder(bert), packer)
    refused("reads characters.*ids of a vocabulary.*out", of_characters, word_packer)
    refused("reads a table of words.*characters. Give", of_words, packer)
    refused("8 ids and pad_id=0, the model's table 7 rows", of_words, word_packer)
    refused("pad_token_id=1", elmo(vocab_size=8, pad_id=1), word_packer)
    short = text.WordPacker(M, max_characters=C - 1)
    refused("max_characters=11. Received: .*max_characters=10", of_characters, short)
    refused("packs one text.*pairs=True", models.Classifier(of_characters), packer, pairs=True)
    refused("over a Elmo, which has no `seg", models.SpanPredictor(of_characters), packer)
    refused("of a Elmo takes .*max_words.*Received: stride", of_characters, packer, stride=2)
    refused("`max_words` must be a positive integer", of_characters, packer, max_words=0)
    with pytest.raises(ValueError, match="Received: Elmo, which `export_encoder` exports"):
        serving.export_language_model(of_characters, None, tmp_path / "m", max_length=3)
