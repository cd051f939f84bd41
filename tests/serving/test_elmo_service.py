"""What `export_encoder` writes of an Elmo: words, their vectors in each layer, and the mean.

C 11 characters of a word, W 7 words, D 6, one LSTM
"""

import functools
import json

import cpp_loader
import forked
import numpy as np
import pytest
import tensorflow as tf
from served import assert_rows_answer_for_themselves

from keras_xfmr import models, serving, text

C, W, D, MOST = 11, 7, 6, 61
NAMES = ["layer_0", "layer_1", "mean"]
# The last but one is longer than the rows of the packer's training, the last one than the service.
SPLIT = [
    ["Ann", "'", "s", "dog", "barks"], ["배를", "탄다", "."], [], ["internationally"],
    ["눈이", "온다", ",", "눈이", "아프다", "."], ["a", "b", "a", "b", "a", "b", "a", "b"],
]  # fmt: skip
TEXTS = ["Ann's  dog barks", "배를\u3000탄다.", "", "internationally", "눈이 온다, 눈이 아프다.",
         "a b a b a b a b"]  # fmt: skip
FRESH = """
import json, sys
import tensorflow as tf
import tensorflow_text
model = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answers = model(text=tf.constant(json.loads(sys.argv[2])))
rows = {name: value.numpy().tolist() for name, value in answers.items()}
assert "keras_xfmr" not in sys.modules
print(json.dumps(rows, default=bytes.decode))
"""


@pytest.fixture(scope="module")
def model():
    elmo = models.Elmo(
        units=5, projection_dim=D // 2, num_layers=1, max_characters=C, character_dim=2,
        filters=((1, 3), (2, 5)), num_highway=1,
    )  # fmt: skip
    rng = np.random.default_rng(7)
    for weight in elmo.weights:  # biases, too, by which padding has vectors in the lowest layer
        weight.assign(rng.uniform(-0.9, 0.9, weight.shape))
    return elmo


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    packer = text.WordPacker(5, max_characters=C)
    folder = tmp_path_factory.mktemp("elmo")
    return serving.export_encoder(model, packer, folder, max_words=W, max_characters=MOST)


@functools.cache
def load(path):
    return tf.saved_model.load(path).signatures


def ask(path, signature="serving_default", **inputs):
    answers = load(path)[signature](**{k: tf.constant(v) for k, v in inputs.items()})
    return {name: value.numpy() for name, value in answers.items()}


def characters_of(rows):
    rows = tf.ragged.constant([[w.encode() for w in row] for row in rows], tf.string, 1)
    return text.words_to_characters(rows, max_characters=C).numpy()


def vectors(model, words):
    """Those of one row, which the model reads alone: its layers and their mean `[W, D]` each."""
    found = np.zeros((3, W, D), "float32")
    if words:
        found[:2, : len(words)] = [layer[0] for layer in model(characters_of([words]))]
        found[2] = (found[0] + found[1]) / 2
    return dict(zip(NAMES, found))


def assert_close(found, expected):
    for name in NAMES:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)


def stacked(rows):
    return {name: np.stack([row[name] for row in rows]) for name in NAMES}


def test_each_word_has_the_vectors_of_the_model(model, path):
    found = ask(path, text=TEXTS)
    assert set(found) == {"words", "start", "end", *NAMES, "truncated", "valid"}
    assert_close(found, stacked([vectors(model, row[:W]) for row in SPLIT]))
    assert found["truncated"].tolist() == [False] * 5 + [True]
    for row, (asked, words) in enumerate(zip(TEXTS, SPLIT)):
        words = words[:W]
        rest = W - len(words)
        assert [word.decode() for word in found["words"][row]] == words + [""] * rest
        spans = list(zip(found["start"][row], found["end"][row]))
        assert [asked[a:b] for a, b in spans[: len(words)]] == words
        assert spans[len(words) :] == [(-1, -1)] * rest
    # Its context tells one word of a text from the same word elsewhere, but in the lowest layer.
    first, again = (found["layer_0"][4, i] for i in (0, 3))
    np.testing.assert_allclose(first, again, rtol=1e-5)
    assert np.abs(found["layer_1"][4, 0] - found["layer_1"][4, 3]).max() > 0.01


def test_no_texts_have_no_answers(path):
    found = ask(path, text=np.array([], "S"))
    assert {name: value.shape[0] for name, value in found.items()} == dict.fromkeys(found, 0)


def test_no_neighbour_changes_a_width_or_an_answer(path):
    together = ask(path, text=TEXTS)
    for row in (1, 2):
        for name, values in ask(path, text=TEXTS[row : row + 1]).items():
            assert values.shape[1:] == together[name].shape[1:]
            if name in NAMES:
                np.testing.assert_allclose(values[0], together[name][row], rtol=1e-4, atol=1e-6)
            else:
                np.testing.assert_array_equal(values[0], together[name][row])
    nothing = ask(path, text=tf.constant([], tf.string))
    assert {name: value.shape[1:] for name, value in nothing.items()} == {
        name: value.shape[1:] for name, value in together.items()
    }


@pytest.mark.parametrize("end", ["a ", "a", "\ufdfa", "안 ", " ", "𠀀", "\u0301"])
def test_a_megabyte_is_read_up_to_its_bound(end, path):
    found = ask(path, text=["b b" + end * 1_000_000, "b"])
    assert found["truncated"].tolist() == [True, False]
    kept = ask(path, text=[("b b" + end * MOST)[:MOST], "b"])
    assert found["words"].shape == (2, W)
    assert max(map(len, found["words"].ravel())) <= 4 * MOST
    for name in set(found) - {"truncated", *NAMES}:
        np.testing.assert_array_equal(found[name], kept[name])
    assert_close(found, kept)


def test_words_that_are_divided_already(model, path):
    # Behind a row's length stands what a server pads with; a word may be empty, or a megabyte.
    long = "x" * 1_000_000
    words = [["Ann", "'", "s", "Ann"], ["배를"] + ["Ann"] * 3, ["", "b", long, "b"], ["a"] * 4]
    lengths = [3, 1, 4, 0]
    expected = stacked([vectors(model, row[:count]) for row, count in zip(words, lengths)])
    found = ask(path, "words", words=words, lengths=lengths)
    assert set(found) == {*NAMES, "valid"}
    assert_close(found, expected)
    wide = [row + ["Ann"] * 9 for row in words]  # than the service reads
    assert_close(ask(path, "words", words=wide, lengths=lengths), expected)
    none = ask(path, "words", words=np.zeros((2, 0), object), lengths=[0, 0])
    assert_close(none, stacked([vectors(model, [])] * 2))


def test_what_stands_behind_a_row_of_ids_does_no_harm(model, path):
    ids = characters_of(SPLIT[:3])
    lengths = [5, 3, 0]
    expected = stacked([vectors(model, row) for row in SPLIT[:3]])
    assert_close(ask(path, "ids", character_ids=ids, lengths=lengths), expected)
    shown = np.arange(ids.shape[1]) < np.array(lengths)[:, None]
    for filling in (262, -1, 97):
        padded = np.where(shown[:, :, None], ids, filling)
        padded = np.pad(padded, [(0, 0), (0, 13), (0, 0)], constant_values=filling)
        found = ask(path, "ids", character_ids=padded.astype("int32"), lengths=lengths)
        assert_close(found, expected)
    none = ask(path, "ids", character_ids=np.zeros((1, 0, C), "int32"), lengths=[0])
    assert_close(none, stacked([vectors(model, [])]))


@pytest.mark.parametrize(
    "words, width, value, lengths, message",
    [
        (2, C, 97, [2, 2], "a length for each row of `character_ids`"),
        (2, C - 1, 97, [2], r"character_ids \[1,2,10\] is not compatible with .*,11\]"),
    ],
)
def test_ids_of_another_shape_are_an_error(words, width, value, lengths, message, path):
    ids = np.full((1, words, width), value, "int32")
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ask(path, "ids", character_ids=ids, lengths=lengths)


def test_a_row_that_cannot_be_read_answers_for_itself(path):
    ids = np.full((2, 9, C), 97, "int32")
    right, wrong = {"character_ids": ids, "lengths": [2, 7]}, [{"lengths": n} for n in (8, 10, -1)]
    bad = [{"character_ids": unknown} for unknown in (-1, 262)]
    assert_rows_answer_for_themselves(load(path)["ids"], right, *wrong, *bad)
    right = {"words": [["Ann"] * 9] * 2, "lengths": [2, 7]}
    assert_rows_answer_for_themselves(load(path)["words"], right, *wrong)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a length for each row of `words`"):
        ask(path, "words", words=[["a"] * 9], lengths=[1, 1])


@pytest.mark.slow
def test_tensorflow_alone_answers(path):
    done = forked.run("-c", FRESH, path, json.dumps(TEXTS))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    expected = ask(path, text=TEXTS)
    assert_close({name: np.array(found[name], "float32") for name in NAMES}, expected)
    words = [[word.decode() for word in row] for row in expected["words"]]
    assert found["words"] == words


@pytest.mark.slow
def test_a_server_without_xla_answers_as_python(path, loader):
    expected = ask(path, text=TEXTS)
    found = cpp_loader.ask(loader, path, "serving_default", {"text": TEXTS})
    values = {name: np.reshape(found[name]["values"], expected[name].shape) for name in NAMES}
    assert_close({name: value.astype("float32") for name, value in values.items()}, expected)


def test_no_operation_needs_xla(path):
    graph = load(path)["serving_default"].graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    found = {node.op for node in nodes}
    assert "TensorListSetItem" in found  # the loops are here
    assert not [op for op in found if "xla" in op.lower()]
    assert not [f.signature.name for f in graph.library.function if f.attr["_XlaMustCompile"].b]
