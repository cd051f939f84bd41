"""What `export_saved_model` writes: asked in this process, in a fresh one and by the C++ loader."""

import json

import cpp_loader
import forked
import numpy as np
import pytest
import tensorflow as tf
from served import assert_rows_answer_for_themselves

from keras_xfmr import models, serving, text

pytestmark = pytest.mark.slow

SPECIAL = ["[PAD]", "[UNK]", "[START]", "[END]"]
SENTENCES = ["the quick brown fox", "안녕하세요 세계", "naïve café", "jumps over the lazy dog"]
TEXTS = ["the fox jumps", "안녕", "lazy café dog over the fox", "", "ж?"]
LENGTH = 7


@pytest.fixture(scope="module")
def tokenizers():
    lines = tf.data.Dataset.from_tensor_slices(SENTENCES * 3)
    words = ["red", "green", "안녕", "세계", "b", "##c", ",", "é", "##d", "lo", "##ng"]
    return text.learn_sentence_piece(lines, 997), text.WordPieceTokenizer([*SPECIAL, *words])


@pytest.fixture(scope="module")
def model(tokenizers):
    model = models.Transformer(
        tokenizers[0].vocab_size,
        tokenizers[1].vocab_size + 2,  # a table with more rows than the vocabulary
        d_model=14,
        num_heads=2,
        ffn_dim=19,
        num_layers=1,
        dropout_rate=0.1,
    )
    # Larger weights than those that training begins with, and answers of several lengths.
    draw = np.random.default_rng(38)
    for weight in model.weights:
        if weight.name in ("kernel", "embeddings"):
            weight.assign(3 * draw.normal(size=weight.shape) / weight.shape[-1] ** 0.5)
    return model


@pytest.fixture(scope="module")
def folder(model, tokenizers, tmp_path_factory):
    """A model's folder with one version that has all signatures."""
    path = tmp_path_factory.mktemp("served") / "new" / "model"
    found = serving.export_saved_model(
        model, tokenizers, path, max_length=LENGTH, beam_size=3, xla=True, check_texts=TEXTS[:2]
    )
    assert found == str(path / "1")
    return path / "1"


@pytest.fixture(scope="module")
def signatures(folder):
    loaded = tf.saved_model.load(str(folder))
    return loaded.signatures


@pytest.fixture(scope="module")
def expected(model, tokenizers):
    """What the model and the tokenizers answer to TEXTS."""
    ids = tokenizers[0].encode(tf.constant(TEXTS)).to_tensor(0)
    options = dict(max_length=LENGTH, search="beam", beam_size=3, jit_compile=False)
    found = {name: value[:, 0] for name, value in model.generate(ids, **options).items()}
    found["text"] = list(tokenizers[1].detokenize(found["token_ids"]).numpy())
    assert len(set(found["text"])) > 2 and len(set(found["lengths"])) > 2
    assert (found["token_ids"] >= tokenizers[1].vocab_size).any()
    return found


def ragged_ids(tokenizers):
    ids = tokenizers[0].encode(tf.constant(TEXTS))
    return ids.to_tensor(0), tf.cast(ids.row_lengths(), tf.int32)


# ---- signatures


def test_signatures_have_names_types_and_the_batch_in_front(signatures):
    texts = {"text": ("string", [None])}
    ids = {"token_ids": ("int32", [None, None]), "lengths": ("int32", [None])}
    answer = {"output_text": ("string", [None]), "score": ("float32", [None])}
    answer |= {"truncated": ("bool", [None]), "valid": ("bool", [None])}
    found = {
        "output_ids": ("int32", [None, LENGTH]),
        "output_lengths": ("int32", [None]),
        "score": ("float32", [None]),
        "valid": ("bool", [None]),
    }
    forms = {"serving_default": (texts, answer), "ids": (ids, found)}
    forms |= {f"{name}_xla": form for name, form in forms.items()}
    assert set(signatures) == set(forms)
    for name, (inputs, outputs) in forms.items():
        positional, named = signatures[name].structured_input_signature
        assert positional == ()
        assert described(named) == inputs
        # Dimensions that the graph leaves open are open; those that it knows are right.
        for key, (dtype, shape) in described(signatures[name].structured_outputs).items():
            assert dtype == outputs[key][0] and len(shape) == len(outputs[key][1])
        assert set(signatures[name].structured_outputs) == set(outputs)
        assert not set(inputs) & set(outputs)


def described(specs):
    return {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in specs.items()}


@pytest.mark.parametrize("name", ["serving_default", "serving_default_xla"])
def test_text_is_answered_as_by_the_model_in_memory(name, signatures, expected):
    answer = signatures[name](text=tf.constant(TEXTS))
    assert list(answer["output_text"].numpy()) == expected["text"]
    np.testing.assert_allclose(answer["score"], expected["scores"], rtol=1e-5)
    for i, one in enumerate(TEXTS):  # alone as in company
        answer = signatures["serving_default"](text=tf.constant([one]))
        assert answer["output_text"].numpy()[0] == expected["text"][i]


@pytest.mark.parametrize("name", ["ids", "ids_xla"])
def test_ids_are_answered_as_by_the_model_in_memory(name, signatures, expected, tokenizers):
    token_ids, lengths = ragged_ids(tokenizers)
    answer = signatures[name](token_ids=token_ids, lengths=lengths)
    np.testing.assert_array_equal(answer["output_ids"], expected["token_ids"])
    np.testing.assert_array_equal(answer["output_lengths"], expected["lengths"])
    np.testing.assert_allclose(answer["score"], expected["scores"], rtol=1e-5)


def test_what_a_server_pads_its_batches_with_does_no_harm(signatures, expected, tokenizers):
    token_ids, lengths = ragged_ids(tokenizers)
    longer = tf.pad(token_ids, [[0, 0], [0, 3]])
    inside = tf.sequence_mask(lengths, longer.shape[1])
    padded = tf.where(inside, longer, token_ids[0, 0])  # the batch's first element
    assert token_ids[0, 0] != 0 and not np.array_equal(padded, longer)
    answer = signatures["ids"](token_ids=padded, lengths=lengths)
    np.testing.assert_array_equal(answer["output_ids"], expected["token_ids"])
    np.testing.assert_allclose(answer["score"], expected["scores"], rtol=1e-5)


def test_a_row_of_no_length_has_a_finite_answer_and_disturbs_no_other(signatures, tokenizers):
    token_ids, lengths = ragged_ids(tokenizers)
    alone = signatures["ids"](token_ids=token_ids, lengths=lengths)
    none = tf.concat([lengths[:1], [0], lengths[2:]], axis=0)
    answer = signatures["ids"](token_ids=token_ids, lengths=none)
    assert np.isfinite(answer["score"]).all()
    for row in (0, 2, 3, 4):
        np.testing.assert_array_equal(answer["output_ids"][row], alone["output_ids"][row])
    empty = signatures["ids"](token_ids=tf.zeros((2, 0), tf.int32), lengths=tf.zeros(2, tf.int32))
    np.testing.assert_array_equal(empty["output_ids"][0], answer["output_ids"][1])


@pytest.mark.parametrize("name", ["ids", "ids_xla"])
def test_a_row_with_an_id_outside_the_vocabulary_answers_for_itself(name, signatures, tokenizers):
    size = tokenizers[0].vocab_size
    right = {"token_ids": [[size - 1, 3, size], [7, 8, 3]], "lengths": [2, 3]}
    wrong = [{"token_ids": [outside, 3, 3]} for outside in (size, -1)]
    assert_rows_answer_for_themselves(signatures[name], right, *wrong)


def test_an_empty_batch_has_an_empty_answer(signatures):
    answer = signatures["serving_default"](text=tf.constant([], tf.string))
    assert {value.shape for value in answer.values()} == {(0,)}
    none = tf.zeros((0,), tf.int32)
    answer = signatures["ids"](token_ids=tf.zeros((0, 5), tf.int32), lengths=none)
    assert answer["output_ids"].shape == (0, LENGTH)


# ---- files


def test_the_tokenizers_lie_beside_the_model(folder, tokenizers):
    for side, tokenizer in zip(("source", "target"), tokenizers, strict=True):
        again = text.load_tokenizer(folder / "assets.extra" / side)
        assert type(again) is type(tokenizer)
        texts = tf.constant(TEXTS)
        assert again.encode(texts).to_list() == tokenizer.encode(texts).to_list()


FRESH = """
import json, sys
import tensorflow as tf, tensorflow_text
model = tf.saved_model.load(sys.argv[1])
found = model.signatures["serving_default"](text=tf.constant(json.loads(sys.argv[2])))
texts = [text.decode() for text in found["output_text"].numpy()]
assert "keras_xfmr" not in sys.modules
print(json.dumps({"text": texts, "score": found["score"].numpy().tolist()}))
"""


def test_a_process_without_this_library_answers_text(folder, expected, tmp_path):
    found = forked.run("-c", FRESH, folder, json.dumps(TEXTS), cwd=tmp_path, PYTHONPATH="")
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    assert answer["text"] == [value.decode() for value in expected["text"]]
    np.testing.assert_allclose(answer["score"], expected["scores"], rtol=1e-5)


# ---- the loader of a server


def test_the_servers_loader_answers_the_same_without_xla(loader, folder, expected, tokenizers):
    answer = cpp_loader.ask(loader, folder, "serving_default", {"text": TEXTS})
    assert answer["output_text"]["shape"] == answer["score"]["shape"] == [len(TEXTS)]
    texts = [value.decode() for value in expected["text"]]
    assert answer["output_text"]["values"] == texts
    np.testing.assert_allclose(answer["score"]["values"], expected["scores"], rtol=1e-5)
    token_ids, lengths = ragged_ids(tokenizers)
    inputs = {"token_ids": token_ids.numpy().tolist(), "lengths": lengths.numpy().tolist()}
    answer = cpp_loader.ask(loader, folder, "ids", inputs)
    found = np.reshape(answer["output_ids"]["values"], answer["output_ids"]["shape"])
    np.testing.assert_array_equal(found, expected["token_ids"])
    with pytest.raises(RuntimeError, match="XLA compilation disabled"):
        cpp_loader.ask(loader, folder, "serving_default_xla", {"text": TEXTS})


def test_tokenizers_that_do_not_fit_are_refused(model, tokenizers, tmp_path):
    arguments = {**model.get_config(), "start_id": model.end_id, "end_id": model.start_id}
    other = type(model).from_config(arguments)
    message = f"target tokenizer has start_id={model.start_id}, the model start_id={model.end_id}"
    for wrong, pair, expected in (
        (other, tokenizers, message),
        (model, tokenizers[0], "the pair \\(source, target\\)"),
    ):
        with pytest.raises(ValueError, match=expected):
            serving.export_saved_model(wrong, pair, tmp_path / "m", max_length=LENGTH)
    assert not (tmp_path / "m").exists()
