"""Versions, refusals and other searches of `export_saved_model`, on a model of few weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

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


def ask(path, *texts):
    loaded = tf.saved_model.load(path)
    answer = loaded.signatures["serving_default"](text=tf.constant(texts))
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
    assert write(model, str(tmp_path)) == str(tmp_path / "18")
    names = {"2", "notes", ".writing-7", "3", "17", "18"}
    assert {child.name for child in tmp_path.iterdir()} == names
    assert set(tf.saved_model.load(str(tmp_path / "3")).signatures) == {"serving_default", "ids"}


@pytest.mark.parametrize("version", [0, -1, 1.5, "3", True])
def test_a_version_is_a_positive_integer(version, model, tmp_path):
    with pytest.raises(ValueError, match="`version` must be a positive integer. Received"):
        write(model, tmp_path, version=version)
    assert not list(tmp_path.iterdir())


def test_nothing_appears_when_the_written_model_answers_otherwise(model, tmp_path, monkeypatch):
    write_rightly = export.write

    def write_wrongly(endpoints, model, tokenizers, folder):
        weights = model.get_weights()
        model.set_weights([weight[..., ::-1] for weight in weights])
        try:
            write_rightly(endpoints, model, tokenizers, folder)
        finally:
            model.set_weights(weights)

    monkeypatch.setattr(export, "write", write_wrongly)
    with pytest.raises(RuntimeError, match="does not answer as the model in memory"):
        write(model, tmp_path / "model", check_texts=["abc", "g"])
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize("name", ["serving_default", "ids", "serving_default_xla", "ids_xla"])
def test_every_signature_is_asked(name, model, tmp_path, monkeypatch):
    make = export._endpoints

    def make_wrongly(*arguments):
        endpoints = make(*arguments)
        function, signature = endpoints[name]
        def answers(*inputs):
            found = function(*inputs)
            if tf.executing_eagerly():  # the model in memory
                found = {**found, "score": found["score"] + 1}
            return found

        return {**endpoints, name: (answers, signature)}

    monkeypatch.setattr(export, "_endpoints", make_wrongly)
    with pytest.raises(RuntimeError, match=f"Expected of '{name}' score"):
        write(model, tmp_path / "model", xla=True, check_texts=["abc", "g"])


def test_nothing_appears_when_writing_fails(model, tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("No space left on device")

    monkeypatch.setattr(export, "check_answers", lambda *arguments, **texts: None)
    monkeypatch.setattr(publish, "_flush", fail)
    with pytest.raises(OSError, match="No space left"):
        write(model, tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_a_tokenizer_larger_than_the_table_is_refused(model, tmp_path):
    for side, tokenizers in (
        ("source", (text.ByteTokenizer(), LETTERS)),
        ("target", (LETTERS, text.ByteTokenizer())),
    ):
        message = f"The {side} tokenizer has 260 ids, the model's {side} table 11 rows"
        with pytest.raises(ValueError, match=message):
            write(model, tmp_path / "model", tokenizers)
    assert not (tmp_path / "model").exists()


def test_several_hypotheses_are_the_second_axis(model, tmp_path):
    path = write(model, tmp_path, search="beam", beam_size=3, num_return=2)
    answer = ask(path, "abc", "gg", "")
    assert answer["output_text"].shape == answer["score"].shape == (3, 2)
    assert (answer["score"][:, 0] >= answer["score"][:, 1]).all()
    ids = LETTERS.encode(tf.constant(["abc", "gg", ""])).to_tensor(0)
    options = dict(max_length=5, search="beam", beam_size=3, num_return=2, jit_compile=False)
    found = model.generate(ids, **options)
    np.testing.assert_allclose(answer["score"], found["scores"], rtol=1e-5)
    for n in (0, 1):
        texts = LETTERS.detokenize(found["token_ids"][:, n]).numpy()
        np.testing.assert_array_equal(answer["output_text"][:, n], texts)


def test_a_sampled_answer_is_exported_too_and_drawn_anew(model, tmp_path):
    path = write(model, tmp_path, search="sample", temperature=2.0)
    loaded = tf.saved_model.load(path).signatures["serving_default"]
    answers = {tuple(loaded(text=tf.constant(["abc"] * 7))["output_text"].numpy()) for _ in "abc"}
    assert len(answers) == 3
