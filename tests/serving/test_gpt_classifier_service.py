"""What `export_encoder` writes of a GptClassifier.

V 13, T at most 11, C 3
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import models, serving, text

pytestmark = pytest.mark.slow

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "cafe"]
TEXTS = ["good film", "", "bad bad bad films cafe good bad good bad film"]  # the last one is cut
NAMES = ["no", "so so", "yes"]


@pytest.fixture(scope="module")
def packer():
    return text.SentencePacker(text.BertTokenizer(WORDS), max_length=7)


@pytest.fixture(scope="module")
def gpt():
    keras.utils.set_random_seed(5)
    return models.Gpt(
        13, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, max_length=11, initializer_range=0.7,
        pad_id=0, start_id=2, end_id=3,
    )  # fmt: skip


def ask(service, signature, **inputs):
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    found = service.signatures[signature](**inputs)
    return {name: value.numpy() for name, value in found.items()}


def packed_inputs(packer, *texts):
    packed = packer(*map(tf.constant, texts))
    return {name: packed[name] for name in ("token_ids", "attention_mask")}


def test_a_service_gives_the_classes_alone(packer, gpt, tmp_path):
    gpt = models.Gpt.from_config({**gpt.get_config(), "pad_id": None})  # it reads the mask
    model = models.GptClassifier(gpt, num_classes=3, labels=NAMES)
    folder = serving.export_encoder(model, packer, tmp_path, pairs=True)
    service = tf.saved_model.load(folder)
    found = ask(service, "serving_default", text=TEXTS, text_pair=TEXTS[::-1])
    assert set(found) == {"label", "score", "scores", "truncated", "valid"}
    inputs = packed_inputs(packer, TEXTS, TEXTS[::-1])
    logits = np.exp(model(inputs)["classes"])
    expected = logits / logits.sum(-1, keepdims=True)
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-4, atol=1e-6)
    assert found["label"].tolist() == [NAMES[i].encode() for i in expected.argmax(-1)]
    assert found["truncated"].tolist() == [True, False, True]
    # A server pads its batches with what it likes.
    ids, lengths = inputs["token_ids"].numpy(), inputs["attention_mask"].numpy().sum(1)
    ids = np.where(inputs["attention_mask"], ids, 9).astype("int32")
    by_ids = ask(service, "ids", token_ids=ids, lengths=lengths.astype("int32"))
    np.testing.assert_allclose(by_ids["scores"], expected, rtol=1e-4, atol=1e-6)


def test_a_tokenizer_with_another_padding_is_refused(packer, gpt, tmp_path):
    other = models.Gpt.from_config({**gpt.get_config(), "pad_id": 4})
    with pytest.raises(ValueError, match="pad_id=0, the model's table 13 rows and pad_token_id=4"):
        serving.export_encoder(models.GptClassifier(other), packer, tmp_path)
