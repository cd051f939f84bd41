"""The memory of a request is bounded by a service's configuration, whatever a client sends."""

import json

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import models, serving, text
from keras_xfmr.text.tokenizers.byte_pair_files import ALPHABET

pytestmark = pytest.mark.slow

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL, *"abcdefgh.", *(f"##{letter}" for letter in "abcdefgh")]
# Of each long row: what it repeats, in bytes of any kind.
ROWS = {
    "words": b"ab ", "masks": b"[MASK]", "no UTF-8": b"\x80", "ideographs": "𠀀".encode(),
    "many characters in one": "\ufdfa".encode(),
}  # fmt: skip
# Prints how many MiB more all services took for a row of 10 MB than for short ones.
ASK = """
import json, resource, sys
import tensorflow as tf
import tensorflow_text
services = json.loads(sys.argv[1])

def ask(length):
    truncated = []
    for folder, signature, names in services:
        service = tf.saved_model.load(folder).signatures[signature]
        for row in {rows}.values():
            long = tf.constant([row * (length // len(row) + 1)])
            # Of two inputs the first is a question, and short.
            texts = {name: long if name == names[-1] else tf.constant(["ab"]) for name in names}
            answers = service(**texts)
            truncated.append(bool(answers.get("context_truncated", answers["truncated"])[0]))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, truncated

short, _ = ask(17)
long, truncated = ask(10_000_000)
print(json.dumps([long - short, truncated]))
"""


def head(kind, longest=128, vocab_size=None, **options):
    keras.utils.set_random_seed(3)
    sizes = dict(d_model=12, num_heads=3, ffn_dim=17, num_layers=1, max_length=longest)
    bert = models.Bert(vocab_size or len(PIECES), **sizes)
    return getattr(models, kind)(bert, **options)


@pytest.mark.slow
def test_a_row_of_ten_megabytes_costs_little_memory(tmp_path):
    """Each service reads its default part of it, and reports that."""
    tokenizer = text.BertTokenizer(PIECES)
    packer = text.SentencePacker(tokenizer, max_length=128)
    services = []
    for kind, signature in (
        ("BertClassifier", "serving_default"),
        ("BertTokenClassifier", "entities"),
        ("BertPretrainer", "fill_mask"),
    ):
        options = dict(labels=["O", "B-X"]) if kind == "BertTokenClassifier" else {}
        path = serving.export_encoder(head(kind, **options), packer, tmp_path / kind)
        services.append((path, signature, ["text"]))
    lines = tf.data.Dataset.from_tensor_slices(["abc de", "中 한국 \ufdfa"] * 3)
    pieces = text.learn_bert_sentence_piece(lines, 43)
    for kind, vocabulary in (("words", tokenizer), ("pieces", pieces)):
        spans = head("BertSpanPredictor", 384, vocabulary.vocab_size)
        path = serving.export_encoder(spans, text.QuestionPacker(vocabulary), tmp_path / kind)
        services.append((path, "serving_default", ["question", "context"]))
    characters = text.CharacterTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", *"abc[MASK] "])
    translator = models.Transformer(
        characters.vocab_size, d_model=12, num_heads=3, ffn_dim=17, num_layers=1
    )
    path = serving.export_saved_model(
        translator, (characters, characters), tmp_path / "translator", max_length=5
    )
    services.append((path, "serving_default", ["text"]))
    learner = text.BytePairTokenizer([*ALPHABET, "ab", "<|endoftext|>"], [("a", "b")])
    writer = models.Gpt(
        learner.vocab_size, d_model=12, num_heads=3, ffn_dim=17, num_layers=1, max_length=128
    )
    path = serving.export_language_model(writer, learner, tmp_path / "writer", max_length=5)
    services.append((path, "serving_default", ["text"]))
    sizes = dict(units=7, projection_dim=5, num_layers=1, filters=[(1, 3), (3, 5)])
    elmo, word_packer = models.Elmo(**sizes), text.WordPacker(128)
    path = serving.export_encoder(elmo, word_packer, tmp_path / "elmo")
    services.append((path, "serving_default", ["text"]))
    tagger = models.Tagger(elmo, 2, labels=["O", "B-X"])
    path = serving.export_encoder(tagger, word_packer, tmp_path / "elmo tagger")
    services.append((path, "entities", ["text"]))
    # A program that this process starts by itself would begin with the peak of this one.
    done = forked.run("-c", ASK.replace("{rows}", repr(ROWS)), json.dumps(services))
    assert done.returncode == 0, done.stderr[-2000:]
    more, truncated = json.loads(done.stdout.splitlines()[-1])
    assert all(truncated)
    print(f"{more:.0f} MiB more")
    assert more < 500  # of all services together


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A model over short windows, its packer, and the export with three windows."""
    packer = text.QuestionPacker(text.BertTokenizer(PIECES), 11, stride=2, max_question_length=3)
    model = head("BertSpanPredictor", 11)
    path = serving.export_encoder(
        model, packer, tmp_path_factory.mktemp("questions"), max_windows=3, max_characters=61
    )
    return model, packer, tf.saved_model.load(path).signatures["serving_default"]


def test_a_context_is_read_up_to_its_last_window(questions):
    model, packer, service = questions
    # A question of one piece leaves 7 of a window; three windows read 11.
    contexts = ["a b c d e f g h a b c", "a b c d e f g h a b c d", "a" + " " * 61, ""]
    found = service(question=tf.constant(["a"] * 4), context=tf.constant(contexts))
    assert found["context_truncated"].numpy().tolist() == [False, True, True, False]
    assert not found["truncated"].numpy().any()
    assert found["answer"][0] == found["answer"][1]
    np.testing.assert_allclose(found["score"][0], found["score"][1], rtol=1e-5)
    everything = packer.pack(["a"], contexts[1:2])
    assert everything["windows"][0] == 4 and not everything["context_truncated"][0]


def test_windows_in_parts_are_answered_as_alone(questions):
    """More windows than the model reads at once."""
    _, _, service = questions
    contexts = [" ".join("abcdefgh"[i % 8] for i in range(n, n + 11)) for n in range(8)]
    asked = {"question": tf.constant(["a"] * 8), "context": tf.constant(contexts)}
    together = service(**asked)
    for row in range(8):
        alone = service(**{name: values[row : row + 1] for name, values in asked.items()})
        assert alone["answer"][0] == together["answer"][row]
        np.testing.assert_allclose(alone["score"][0], together["score"][row], rtol=1e-4)


def test_masks_beyond_the_bound(tmp_path):
    packer = text.SentencePacker(text.BertTokenizer(PIECES), max_length=13)
    path = serving.export_encoder(head("BertPretrainer", 13), packer, tmp_path, max_masks=2, top=3)
    service = tf.saved_model.load(path).signatures
    found = service["fill_mask"](text=tf.constant(["[MASK] a [MASK]", "[MASK]" * 3, "a"]))
    assert found["truncated"].numpy().tolist() == [False, True, False]
    assert found["top_pieces"].shape == (3, 2, 3)
    alone = service["fill_mask"](text=tf.constant(["a"]))
    assert alone["top_pieces"].shape == (1, 2, 3) and (alone["top_pieces"] == b"").numpy().all()
    ids = dict(token_ids=tf.constant([[2, 4, 4, 4, 3]]), lengths=tf.constant([5]))
    found = service["ids"](**ids, masked_positions=tf.constant([[1, 3]]))
    assert found["top_ids"].shape == (1, 2, 3)
    more = service["ids"](**ids, masked_positions=tf.constant([[1, 3, 2]]))
    assert more["top_ids"].shape == (1, 3, 3) and more["valid"][0]
    np.testing.assert_allclose(more["top_scores"][:, :2], found["top_scores"], rtol=1e-5)
    assert not more["top_scores"][:, 2].numpy().any()
    with pytest.raises(tf.errors.InvalidArgumentError, match="as many rows in each input"):
        service["ids"](**ids, masked_positions=tf.constant([[1], [2]]))


def test_a_source_is_read_up_to_its_bounds(tmp_path):
    characters = text.CharacterTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", *"ab"])
    model = models.Transformer(
        characters.vocab_size, d_model=12, num_heads=3, ffn_dim=17, num_layers=1
    )
    both = (characters, characters)
    path = serving.export_saved_model(model, both, tmp_path, max_length=3, beam_size=1)
    service = tf.saved_model.load(path).signatures
    texts = tf.constant(["a" * 511, "a" * 512])
    found = service["serving_default"](text=texts)["truncated"]
    assert found.numpy().tolist() == [False, True]
    ids = tf.ones([1, 513], tf.int32)
    service["ids"](token_ids=ids, lengths=tf.constant([512]))
    assert not service["ids"](token_ids=ids, lengths=tf.constant([513]))["valid"][0]
    path = serving.export_saved_model(
        model, both, tmp_path, max_length=3, beam_size=1, max_characters=5
    )
    found = tf.saved_model.load(path).signatures["serving_default"](
        text=tf.constant(["a" * 5, "a" * 6])
    )
    assert found["truncated"].numpy().tolist() == [False, True]
