"""What `export_encoder` writes: raw text in; labels, tags, values or vectors out."""

import functools

import cpp_loader
import keras
import numpy as np
import pytest
import tensorflow as tf
from served import assert_rows_answer_for_themselves, in_memory, unchecked

from keras_xfmr import models, serving, text
from keras_xfmr.serving import encoders

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "아주", "좋다"]
TEXTS = ["good films", "아주 bad film good", ""]
LABELS = ["no", "yes", "예"]


@pytest.fixture(scope="module")
def packer():
    return text.SentencePacker(text.BertTokenizer(WORDS), max_length=7)


SIZES = dict(d_model=12, num_heads=3, ffn_dim=17, num_layers=1, max_length=7)


def make(kind, dtype=None, **options):
    keras.utils.set_random_seed(5)
    bert = models.Bert(13, **SIZES, initializer_range=0.5, dtype=dtype)
    return getattr(models, kind)(bert, **options)


@functools.cache
def load(path):
    return tf.saved_model.load(path)


def ask(service, signature="serving_default", **inputs):
    """Answers of what was written to a path, or of what is in memory."""
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    signatures = service if isinstance(service, dict) else load(service).signatures
    answers = signatures[signature](**inputs)
    return {name: value.numpy() for name, value in answers.items()}


def assert_no_answers_to_no_texts(service, *names):
    answer = ask(service, **{name: tf.constant([], tf.string) for name in names or ["text"]})
    assert {len(value) for value in answer.values()} == {0}


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def numbers_of(model, packer, *texts):
    packed = packer(*(tf.constant(t) for t in texts))
    return np.asarray(model(packed))


def test_a_classifier_answers_labels_with_scores(packer, tmp_path):
    model = make("BertClassifier", num_classes=3)
    texts = np.array(TEXTS)
    path = serving.export_encoder(model, packer, tmp_path, labels=LABELS, check_texts=texts)
    expected, answer = softmax(numbers_of(model, packer, TEXTS)), ask(path, text=TEXTS)
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answer["score"], expected.max(-1), rtol=1e-5)
    assert [x.decode() for x in answer["label"]] == [LABELS[i] for i in expected.argmax(-1)]
    answer = ask(path, text=["good bad good bad good", "good bad good bad good bad"])
    assert answer["truncated"].tolist() == [False, True]  # 7 ids hold 5 pieces
    assert_no_answers_to_no_texts(path)


@pytest.mark.slow
def test_a_classifier_of_several_labels_answers_each_by_itself(packer):
    model = make("BertClassifier", num_classes=3, multi_label=True, labels=LABELS)
    service = in_memory(serving.export_encoder, model, packer)
    logits, answer = numbers_of(model, packer, TEXTS), ask(service, text=TEXTS)
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-5, atol=1e-6)
    assert [x.decode() for x in answer["label"]] == [LABELS[i] for i in logits.argmax(-1)]


def test_a_classifier_of_one_label_answers_its_probability(packer):
    model = make("BertClassifier", num_classes=1, multi_label=True, labels=["spam"])
    answer = ask(in_memory(serving.export_encoder, model, packer), text=TEXTS)
    expected = 1 / (1 + np.exp(-numbers_of(model, packer, TEXTS)))
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-5, atol=1e-6)


def test_a_pair_classifier_reads_two_texts(packer):
    model, others = make("BertClassifier"), TEXTS[::-1]
    service = in_memory(serving.export_encoder, model, packer, pairs=True)
    expected = softmax(numbers_of(model, packer, TEXTS, others))
    answer = ask(service, text=TEXTS, text_pair=others)
    assert answer["truncated"].tolist() == [False, True, False]
    assert not packer.report_truncation  # which is the user's
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_regression_answers_a_value(packer):
    model = make("BertClassifier", num_classes=1)
    service = in_memory(serving.export_encoder, model, packer)
    expected = numbers_of(model, packer, TEXTS)[:, 0]
    np.testing.assert_allclose(ask(service, text=TEXTS)["value"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_embedder_answers_vectors_through_the_c_loader(packer, loader, tmp_path):
    model = make("BertEmbedder")
    with unchecked():
        path = serving.export_encoder(model, packer, tmp_path / "model")
    expected = numbers_of(model, packer, TEXTS)
    answer = ask(path, text=TEXTS)
    np.testing.assert_allclose(answer["vector"], expected, rtol=1e-5, atol=1e-6)
    assert answer["truncated"].tolist() == [False] * 3
    answer = cpp_loader.ask(loader, path, "serving_default", {"text": TEXTS})["vector"]
    assert answer["shape"] == [3, 12]
    np.testing.assert_allclose(
        np.reshape(answer["values"], (3, 12)), expected, rtol=1e-4, atol=1e-5
    )


def test_ids_are_read_up_to_their_lengths(packer):
    model = make("BertEmbedder")
    service = in_memory(serving.export_encoder, model, packer)
    short = np.array([[2, 5, 3]], "int32")
    padded = np.array([[2, 5, 3, 2, 2, 2]], "int32")  # a server pads with the first element
    expected = ask(service, "ids", token_ids=short, lengths=[3])["vector"]
    wide = np.concatenate([padded, np.full((1, 17), -1, "int32")], 1)  # than the model's positions
    for more in (padded, wide):
        found = ask(service, "ids", token_ids=more, lengths=[3])["vector"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    right = {"token_ids": [[2, 5, 3, 3, 3, 3, 3, 3], [2, 6, 5, 3, 99, 99, 99, 99]]}
    bad = [{"token_ids": [2, unknown, *[3] * 6]} for unknown in (-7, 13)]
    assert_rows_answer_for_themselves(
        service["ids"], {**right, "lengths": [3, 4]}, *bad, {"lengths": 8}, {"lengths": -1}
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="a length for each row"):
        ask(service, "ids", token_ids=[[2, 5], [2, 3]], lengths=[2])
    assert_no_answers_to_no_texts(service)


@pytest.mark.slow
def test_ids_of_no_width_are_an_empty_text(packer):
    service = in_memory(serving.export_encoder, make("BertClassifier"), packer)
    nothing = ask(service, "ids", token_ids=np.zeros((2, 0), "int32"), lengths=[0, 0])
    padded = ask(service, "ids", token_ids=np.full((2, 1), 7, "int32"), lengths=[0, 0])
    assert set(nothing) == set(padded)
    for name, answer in nothing.items():
        np.testing.assert_array_equal(answer, padded[name])


@pytest.mark.parametrize(
    "kind, options, export, message",
    [
        ("BertClassifier", {}, {"labels": ["one"]}, "2 classes"),
        ("BertClassifier", {}, {"labels": {"good": 1, "bad": 0}}, "2 classes.*Received: {'good'"),
        ("BertTokenClassifier", {}, {"pairs": True}, "pairs"),
        ("BertEmbedder", {}, {"labels": ["no", "yes"]}, "BertEmbedder takes.*Received: labels"),
        ("BertClassifier", {}, {"top": 3}, "BertClassifier takes.*pairs, labels.*Received: top"),
        ("BertPretrainer", {}, {"max_answer_length": 3}, "Received: max_answer_length"),
    ],
)
def test_what_does_not_fit(kind, options, export, message, packer, tmp_path):
    with pytest.raises(ValueError, match=message):
        serving.export_encoder(make(kind, **options), packer, tmp_path / "m", **export)
    assert not (tmp_path / "m").exists()


def test_a_tokenizer_is_no_packer(packer, tmp_path):
    with pytest.raises(ValueError, match="a SentencePacker for the others.*BertTokenizer for a"):
        serving.export_encoder(make("BertClassifier"), packer.tokenizer, tmp_path / "m")


def test_a_bert_is_not_exported_as_a_sequence_to_sequence_model(packer, tmp_path):
    tokenizers = packer.tokenizer, packer.tokenizer
    with pytest.raises(ValueError, match="BertClassifier, which `export_encoder` exports"):
        serving.export_saved_model(make("BertClassifier"), tokenizers, tmp_path / "m", max_length=3)


def test_a_packer_longer_than_the_models_positions_is_refused(packer, tmp_path):
    longer = text.SentencePacker(packer.tokenizer, max_length=8)
    with pytest.raises(ValueError, match="up to 8 tokens, the model has positions for 7"):
        serving.export_encoder(make("BertEmbedder"), longer, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_another_padding_id_is_refused(packer, tmp_path):
    bert = models.Bert(13, **SIZES, pad_token_id=1)
    with pytest.raises(ValueError, match="pad_id=0"):
        serving.export_encoder(models.BertEmbedder(bert), packer, tmp_path)


def test_a_tokenizer_larger_than_the_table_is_refused(packer, tmp_path):
    larger = text.SentencePacker(text.BertTokenizer([*WORDS, "x", "y", "z"]), max_length=7)
    with pytest.raises(ValueError, match="The tokenizer has 14 ids.*table 13 rows"):
        serving.export_encoder(make("BertEmbedder"), larger, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("kind", ["BertSpanPredictor", "BertClassifier", "BertPretrainer"])
def test_a_packer_with_more_segments_than_the_model_is_refused(kind, packer, tmp_path):
    bert = models.Bert(13, **SIZES, type_vocab_size=1)
    spans = kind == "BertSpanPredictor"
    if spans:
        packer = text.QuestionPacker(packer.tokenizer, 7, stride=2, max_question_length=2)
    model, options = getattr(models, kind)(bert), {} if spans else {"pairs": True}
    with pytest.raises(ValueError, match="segments has 1 rows.*type_vocab_size=2.*_size=1"):
        serving.export_encoder(model, packer, tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


@pytest.fixture
def exported(monkeypatch):
    """The endpoints of an export that writes nothing and asks nothing."""
    endpoints = {}

    def keep(found, tokenizers, folder):
        folder.mkdir()
        endpoints.update(found)

    monkeypatch.setattr(encoders, "write", keep)
    monkeypatch.setattr(encoders, "check_answers", lambda *arguments: None)
    return endpoints


def test_nothing_appears_when_the_written_model_answers_otherwise(
    exported, packer, tmp_path, monkeypatch
):
    def differ(folder, endpoints, asked):
        assert folder.exists() and endpoints == exported and asked.keys() == endpoints.keys()
        raise RuntimeError("other answers")

    monkeypatch.setattr(encoders, "check_answers", differ)
    with pytest.raises(RuntimeError, match="other answers"):
        serving.export_encoder(make("BertEmbedder"), packer, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.parametrize("kind", ["BertClassifier", "BertTokenClassifier"])
def test_half_precision_is_left_before_the_softmax(kind, exported, packer, tmp_path):
    model = make(kind, dtype="mixed_bfloat16", num_classes=3)
    serving.export_encoder(model, packer, tmp_path)
    function, _ = exported["ids"]
    scores = function(tf.constant([[2, 5, 3]]), tf.constant([3]))["scores"].numpy()
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(-1), 1.0, rtol=1e-6)
