"""Versions, refusals and other searches of `export_saved_model`, on a model of few weights."""

import functools
import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from served import assert_rows_answer_for_themselves, in_memory, unchecked

from keras_xfmr import models, serving, text
from keras_xfmr.serving import export, publish

LETTERS = text.CharacterTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", *"abcdefg"])


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    model = models.Transformer(11, d_model=6, num_heads=2, ffn_dim=7, num_layers=1)
    model.set_weights([2 * weight for weight in model.get_weights()])
    return model


def write(model, path, tokenizers=(LETTERS, LETTERS), search="greedy", **options):
    options = {"max_length": 5, **options}
    return serving.export_saved_model(model, tokenizers, path, search=search, **options)


def signatures(model, search="greedy", **options):
    """What `write` would write, in memory."""
    options = {"max_length": 5, "search": search, **options}
    return in_memory(serving.export_saved_model, model, (LETTERS, LETTERS), **options)


def ask(signatures, *texts):
    answer = signatures["serving_default"](text=tf.constant(texts))
    return {name: value.numpy() for name, value in answer.items()}


def test_versions_count_up_and_none_is_overwritten(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "check_answers", lambda *arguments, **texts: None)
    for name in ("2", "notes", ".writing-7"):
        (tmp_path / name).mkdir()
    assert write(model, tmp_path) == str(tmp_path / "3")
    assert write(model, tmp_path, version=17) == str(tmp_path / "17")
    before = (tmp_path / "17" / "saved_model.pb").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="17 is there already. Leave out `version`"):
        write(model, tmp_path, version=17)
    assert (tmp_path / "17" / "saved_model.pb").stat().st_mtime_ns == before
    assert write(model, str(tmp_path), keep=2) == str(tmp_path / "18")
    names = {"2", "notes", ".writing-7", "17", "18"}
    assert {child.name for child in tmp_path.iterdir()} == names
    assert set(tf.saved_model.load(str(tmp_path / "17")).signatures) == {"serving_default", "ids"}


@pytest.mark.parametrize("version", [0, -1, 1.5, "3", True])
def test_a_version_is_a_positive_integer(version, model, tmp_path):
    with pytest.raises(ValueError, match="`version` must be a positive integer. Received"):
        write(model, tmp_path, version=version)
    assert not list(tmp_path.iterdir())


def test_nothing_appears_when_the_written_model_answers_otherwise(model, tmp_path, monkeypatch):
    write_rightly = export.write

    def write_wrongly(endpoints, tokenizers, folder):
        weights = model.get_weights()
        model.set_weights([weight[..., ::-1] for weight in weights])
        try:
            write_rightly(endpoints, tokenizers, folder)
        finally:
            model.set_weights(weights)

    monkeypatch.setattr(export, "write", write_wrongly)
    with pytest.raises(RuntimeError, match="does not answer as the model in memory"):
        write(model, tmp_path / "model", check_texts=["abc", "g"])
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.slow
def test_every_signature_is_asked(model, tmp_path, monkeypatch):
    changes = {
        "serving_default": ("output_text", "x"), "ids": ("score", 1.0),
        "serving_default_xla": ("score", 1.0), "ids_xla": ("score", 1.0),
    }  # fmt: skip

    def check(folder, endpoints, asked):
        assert endpoints.keys() == changes.keys()
        for name, (function, signature) in endpoints.items():
            output, more = changes[name]

            def answers(*inputs, function=function, output=output, more=more):
                found = function(*inputs)
                return {**found, output: found[output] + more}

            with pytest.raises(RuntimeError, match=f"Expected of '{name}' {output}"):
                publish.check_answers(folder, {**endpoints, name: (answers, signature)}, asked)

    monkeypatch.setattr(export, "check_answers", check)
    monkeypatch.setattr(tf.saved_model, "load", functools.cache(tf.saved_model.load))
    path = write(model, tmp_path, xla=True, check_texts=["abc", "g"])
    assert path == str(tmp_path / "1")


def test_nothing_appears_when_writing_fails(model, tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("No space left on device")

    monkeypatch.setattr(export, "check_answers", lambda *arguments, **texts: None)
    monkeypatch.setattr(publish, "_flush", fail)
    with pytest.raises(OSError, match="No space left"):
        write(model, tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_a_version_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "rename"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, n=name, f=function: (calls.append(n), f(*args)))
    with publish.new_version(tmp_path) as place:
        place.folder.mkdir()
        (place.folder / "saved_model.pb").write_bytes(b"a model")
    # Of a folder its lock; of a version the file, the mark, the folder; the one above.
    assert calls == ["rename", *["fsync"] * 3, "rename", "fsync"]
    assert (place.final / "saved_model.pb").read_bytes() == b"a model"


def test_a_tokenizer_larger_than_the_table_is_refused(model, tmp_path):
    for side, tokenizers in (
        ("source", (text.ByteTokenizer(), LETTERS)),
        ("target", (LETTERS, text.ByteTokenizer())),
    ):
        message = f"The {side} tokenizer has 260 ids, the model's {side} table 11 rows"
        with pytest.raises(ValueError, match=message):
            write(model, tmp_path / "model", tokenizers)
    assert not (tmp_path / "model").exists()


def test_an_export_is_asked_something(model, tmp_path):
    with pytest.raises(ValueError, match="`check_texts` must have at least one text"):
        write(model, tmp_path / "model", check_texts=[])
    assert not (tmp_path / "model").exists()


def test_a_source_tokenizer_with_another_padding_is_refused(model, tmp_path):
    other = text.CharacterTokenizer(LETTERS.get_vocabulary())
    other.pad_id = 1
    with pytest.raises(ValueError, match="source tokenizer has pad_id=1, the model pad_id=0"):
        write(model, tmp_path / "model", (other, LETTERS))
    assert not (tmp_path / "model").exists()


def test_both_signatures_pad_with_the_padding_of_the_model(tmp_path, monkeypatch):
    exported, texts = {}, tf.constant(["abc", "g", "", "hello you"])

    def keep(endpoints, tokenizers, folder):
        folder.mkdir()
        exported.update(endpoints)

    monkeypatch.setattr(export, "write", keep)
    monkeypatch.setattr(export, "check_answers", lambda *arguments: None)
    keras.utils.set_random_seed(3)
    tokenizer = text.ByteTokenizer(pad_id=1, unknown_id=0)
    model = models.Transformer(260, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, pad_id=1)
    model.set_weights([3 * weight for weight in model.get_weights()])
    write(model, tmp_path, (tokenizer, tokenizer), max_length=2)
    (from_text, _), (from_ids, _) = exported["serving_default"], exported["ids"]
    ids = tokenizer.encode(texts)
    expected = model.make_generator(max_length=2)(ids.to_tensor(1))["scores"]
    np.testing.assert_allclose(from_text(texts)["score"], expected, rtol=1e-4)
    found = from_ids(ids.to_tensor(7), ids.row_lengths())["score"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


class Owner(keras.Model):
    """A model of another kind, with all that an export reads of one."""

    def __init__(self, model):
        super().__init__()
        self.source_embedding = self.target_embedding = model.source_embedding
        self.pad_id, self.start_id, self.end_id = model.pad_id, model.start_id, model.end_id
        self.make_generator = model.make_generator

    def call(self, source_ids):
        return self.source_embedding(source_ids)


@pytest.mark.slow
def test_a_model_that_is_not_functional_is_exported_and_each_weight_written_once(model, tmp_path):
    owner = Owner(model)
    owner(tf.constant([[4, 5, 3]]))
    with unchecked():
        path = write(owner, tmp_path)
    assert ask(tf.saved_model.load(path).signatures, "abc")["output_text"].shape == (1,)
    written = tf.train.list_variables(os.path.join(path, "variables", "variables"))
    shapes = [tuple(shape) for _, shape in written if shape]
    assert sorted(shapes) == sorted(tuple(weight.shape) for weight in model.weights)


@pytest.mark.slow
def test_several_hypotheses_are_the_second_axis(model):
    service = signatures(model, search="beam", beam_size=3, num_return=2)
    answer = ask(service, "abc", "gg", "")
    assert answer["output_text"].shape == answer["score"].shape == (3, 2)
    assert (answer["score"][:, 0] >= answer["score"][:, 1]).all()
    ids = LETTERS.encode(tf.constant(["abc", "gg", ""])).to_tensor(0)
    options = dict(max_length=5, search="beam", beam_size=3, num_return=2, jit_compile=False)
    found = model.generate(ids, **options)
    np.testing.assert_allclose(answer["score"], found["scores"], rtol=1e-5)
    for n in (0, 1):
        texts = LETTERS.detokenize(found["token_ids"][:, n]).numpy()
        np.testing.assert_array_equal(answer["output_text"][:, n], texts)


@pytest.mark.slow
def test_a_sampled_answer_is_exported_too_and_drawn_anew(model, tmp_path):
    with unchecked():
        path = write(model, tmp_path, search="sample", temperature=2.0)
    loaded = tf.saved_model.load(path).signatures["serving_default"]
    answers = {tuple(loaded(text=tf.constant(["abc"] * 7))["output_text"].numpy()) for _ in "abc"}
    assert len(answers) == 3


def test_two_that_are_written_at_once_are_two_versions(tmp_path):
    with publish.new_version(tmp_path) as first:
        with publish.new_version(tmp_path) as second:
            for place in (first, second):
                place.folder.mkdir()
                (place.folder / "model").write_text("x")
    assert (second.final.name, first.final.name) == ("1", "2")
    with pytest.raises(FileExistsError, match="7 is there already"):
        with publish.new_version(tmp_path, 7) as place:
            place.folder.mkdir()
            (tmp_path / "7" / "model").mkdir(parents=True)
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "7"}


def test_a_place_that_is_no_local_folder_is_refused(model):
    with pytest.raises(ValueError, match="`path` must be a local folder. Received: 'gs://a/b'"):
        write(model, "gs://a/b")


@pytest.mark.parametrize("name, found", [("run[1]", "["), ("a*b?", "*?"), ("a\\b", "\\")])
def test_a_place_whose_name_is_a_pattern_is_refused(name, found, model, tmp_path):
    with pytest.raises(ValueError, match="pattern. Received: " + re.escape(found)):
        write(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def bounded():
    """A model with positions for few source tokens."""
    sizes = dict(d_model=6, num_heads=2, ffn_dim=7, num_layers=1)
    return models.Transformer(11, **sizes, positions="learned", max_length=6)


def test_a_text_beyond_the_model_loses_its_end_and_says_so(bounded, tmp_path):
    service = signatures(bounded)
    answer = ask(service, "abcdeabcdefg", "ab", "abcde")
    assert answer["truncated"].tolist() == [True, False, False]
    np.testing.assert_allclose(*answer["score"][::2], rtol=1e-5)  # of 5 tokens and the end
    ids = service["ids"]
    wide = tf.fill([1, 40], 4)  # as a server pads them
    found = ids(token_ids=wide, lengths=tf.constant([3]))
    np.testing.assert_allclose(
        found["score"], ids(token_ids=wide[:, :3], lengths=tf.constant([3]))["score"], rtol=1e-5
    )
    assert not ids(token_ids=wide, lengths=tf.constant([7]))["valid"].numpy().any()
    with pytest.raises(ValueError, match="learned positions for 6 .*max_source_length=7"):
        write(bounded, tmp_path, max_source_length=7)


def test_a_bound_of_the_source_may_be_given(model):
    service = signatures(model, max_source_length=3)
    answer = ask(service, "abc" * 500, "ab")
    assert answer["truncated"].tolist() == [True, False]
    np.testing.assert_allclose(*answer["score"], rtol=1e-5)
    ids = service["ids"]
    right = {"token_ids": [[5, 6, 3, 3], [4, 3, 3, 3]], "lengths": [3, 2]}
    wrong = [{"token_ids": [5, -1, 3, 3]}, {"token_ids": [5, 11, 3, 3]}, {"lengths": 4}]
    assert_rows_answer_for_themselves(ids, right, *wrong, {"lengths": -1})
    with pytest.raises(tf.errors.InvalidArgumentError, match="a length for each row"):
        ids(token_ids=tf.constant([[5, 3], [5, 3]]), lengths=tf.constant([2]))
    found = ids(token_ids=tf.constant([[5, 3, -1]]), lengths=tf.constant([2]))
    assert np.isfinite(found["score"]).all()  # what stands behind a row is not read
