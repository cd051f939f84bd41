"""What `export_language_model` writes, beside what the model in memory generates."""

import cpp_loader
import numpy as np
import pytest
import tensorflow as tf
from served import assert_rows_answer_for_themselves

from keras_xfmr import decoding, models, serving, text
from keras_xfmr.serving.language_model import PromptReader
from keras_xfmr.text.tokenizers.byte_pair_files import ALPHABET

MERGES = [("t", "h"), ("Ġ", "th"), ("l", "o"), ("Ġ", "lo"), ("ì", "ķ"), ("ë", "ħ")]
TEXTS = ["the low", "안녕", "", "lo" * 11 + " low" * 11, "a?"]
LENGTH, CONTEXT = 7, 23
LONGEST = CONTEXT - LENGTH + 1


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = [*ALPHABET, *map("".join, MERGES), "<|endoftext|>"]
    return text.BytePairTokenizer(vocabulary, MERGES)


@pytest.fixture(scope="module")
def model(tokenizer):
    size = tokenizer.vocab_size
    model = models.Gpt(
        size + 2,  # a table with more rows than the vocabulary
        d_model=14,
        num_heads=2,
        ffn_dim=19,
        num_layers=1,
        max_length=CONTEXT,
        start_id=size - 1,
        end_id=size - 1,
    )
    draw = np.random.default_rng(58)  # continuations of several lengths, and half characters
    for weight in model.weights:
        if weight.name in ("kernel", "embeddings"):
            weight.assign(2 * draw.normal(size=weight.shape) / weight.shape[-1] ** 0.5)
    table = model.token_embedding.embeddings
    table.assign(np.where(np.arange(size + 2)[:, None] == size - 1, 3, 1) * table.numpy())
    return model


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("served")
    return serving.export_language_model(model, tokenizer, path, max_length=LENGTH)


@pytest.fixture(scope="module")
def service(folder):
    return tf.saved_model.load(folder).signatures


@pytest.fixture(scope="module")
def shallow(model):
    """The embeddings and the logits of the model, which are enough for what is not its own."""
    shallow = models.Gpt.from_config({**model.get_config(), "num_layers": 0})
    for layer in ("token_embedding", "position_embedding"):
        getattr(shallow, layer).set_weights(getattr(model, layer).get_weights())
    return shallow


def with_all_options(model, tokenizer, path, **options):
    path = serving.export_language_model(
        model, tokenizer, path, max_length=2, max_prompt_length=5, max_characters=11,
        search="beam", num_return=2, top_k=3, min_length=1, check_texts=["a"], **options,
    )  # fmt: skip
    return tf.saved_model.load(path).signatures


@pytest.fixture(scope="module")
def other_service(shallow, tokenizer, tmp_path_factory):
    return with_all_options(shallow, tokenizer, tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [[tokenizer.start_id, *row] for row in tokenizer.tokenize(TEXTS).to_list()]


@pytest.fixture(scope="module")
def expected(model, tokenizer, prompts):
    """What the model and the tokenizer make of TEXTS."""
    found = model.generate(prompts, max_length=LENGTH, truncate=True, jit_compile=False)
    found["text"] = list(tokenizer.detokenize(found["token_ids"]).numpy())
    assert len(set(found["lengths"])) > 3 and any("\ufffd" in x.decode() for x in found["text"])
    return found


def padded(prompts, fill):
    """Left-aligned ids with anything behind them, and lengths."""
    rows = [row[-LONGEST:] for row in prompts]
    ids = np.full((len(rows), LONGEST + 2), fill, "int32")
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = row
    return {"token_ids": tf.constant(ids), "lengths": tf.constant([len(row) for row in rows])}


def draws(seed, temperature, top_p):
    return {
        "seed": tf.constant(seed, tf.int64),
        "temperature": tf.constant(temperature, tf.float32),
        "top_p": tf.constant(top_p, tf.float32),
    }


# ---- signatures


def test_signatures_have_names_types_and_the_batch_in_front(service):
    answers = {
        "output_text": ("string", 1), "score": ("float32", 1), "token_count": ("int32", 1),
        "truncated": ("bool", 1), "valid": ("bool", 1),
    }  # fmt: skip
    numbers = {
        "output_ids": ("int32", 2), "output_lengths": ("int32", 1), "score": ("float32", 1),
        "valid": ("bool", 1),
    }  # fmt: skip
    texts, ids = {"text": ("string", 1)}, {"token_ids": ("int32", 2), "lengths": ("int32", 1)}
    drawn = {"seed": ("int64", 1), "temperature": ("float32", 1), "top_p": ("float32", 1)}
    forms = {
        "serving_default": (texts, answers), "sample": (texts | drawn, answers),
        "ids": (ids, numbers),
    }  # fmt: skip
    assert set(service) == set(forms)
    for name, signature in service.items():
        both = signature.structured_input_signature[1], signature.structured_outputs
        for specs, form in zip(both, forms[name], strict=True):
            assert {key: (x.dtype.name, x.shape.rank) for key, x in specs.items()} == form


def test_texts_are_continued_as_by_the_model_in_memory(service, expected):
    found = service["serving_default"](text=tf.constant(TEXTS))
    assert list(found["output_text"].numpy()) == expected["text"]
    np.testing.assert_array_equal(found["token_count"], expected["lengths"])
    np.testing.assert_array_equal(found["truncated"], expected["truncated"])
    np.testing.assert_allclose(found["score"], expected["scores"], rtol=1e-4)


def test_texts_are_continued_alone_as_in_company(service, expected):
    for row, one in enumerate(TEXTS):
        found = service["serving_default"](text=tf.constant([one]))
        assert found["output_text"].numpy()[0] == expected["text"][row]


def test_ids_are_continued_as_by_the_model_in_memory(service, expected, prompts):
    """Whatever a server pads its batches with; a row of length 0 is a row of the batch alone."""
    inputs = padded([*prompts, []], fill=5)
    found = service["ids"](**inputs)
    assert found["output_ids"].shape == (6, LENGTH)
    np.testing.assert_array_equal(found["output_ids"][:5], expected["token_ids"])
    np.testing.assert_array_equal(found["output_lengths"], [*expected["lengths"], 0])
    np.testing.assert_allclose(found["score"], [*expected["scores"], 0.0], rtol=1e-4)


def test_no_rows_and_rows_of_no_ids(service):
    found = service["serving_default"](text=tf.constant([], tf.string))
    assert {value.shape for value in found.values()} == {(0,)}
    for rows in (0, 2):
        none, lengths = tf.zeros((rows, 0), tf.int32), tf.zeros(rows, tf.int32)
        found = service["ids"](token_ids=none, lengths=lengths)
        assert found["output_ids"].shape == (rows, LENGTH)
        assert not found["output_lengths"].numpy().any()


def test_a_row_without_tokens_has_no_score(other_service):
    """Also of a beam search, whose placeholders have a very low one."""
    found = other_service["ids"](token_ids=tf.constant([[4], [4]]), lengths=tf.constant([0, 1]))
    assert found["valid"].numpy().all() and found["score"].shape == (2, 2)
    assert not found["score"][0].numpy().any() and (found["score"][1].numpy() < 0).all()


def test_a_row_of_ids_that_a_model_cannot_read_answers_for_itself(service):
    """Of ids that are no row of the table, and more of them than a prompt may have."""
    right = {"token_ids": [[4, 265, *[5] * 16], [4, 7, *[-1] * 16]], "lengths": [1, 2]}
    long = {"token_ids": [4] * 18}
    assert_rows_answer_for_themselves(
        service["ids"], right,
        {"lengths": 2}, {"token_ids": [-1] * 18}, {**long, "lengths": 18}, {**long, "lengths": -1},
    )  # fmt: skip
    alone = service["ids"](token_ids=tf.fill([1, 18], 4), lengths=tf.constant([17]))
    assert alone["valid"].numpy().all()


# ---- draws


DRAWN = dict(seed=[3, -(2**63), 4, 3, 5], temperature=[1.0, 0.7, 2.0, 1.0, 1.0], top_p=[1.0] * 5)


def test_samples_are_those_of_the_model_in_memory(service, model, tokenizer, prompts):
    rows = [row[-LONGEST:] for row in prompts]
    ids = np.array([[4] * (LONGEST - len(row)) + row for row in rows])
    found = decoding.sample(
        model.decoder(), ids, lengths=[len(row) for row in rows], end_id=model.end_id,
        pad_id=model.end_id, max_length=LENGTH, **draws(**DRAWN),
    )  # fmt: skip
    answer = service["sample"](text=tf.constant(TEXTS), **draws(**DRAWN))
    assert list(answer["output_text"].numpy()) == list(tokenizer.detokenize(found.token_ids))
    np.testing.assert_array_equal(answer["token_count"], found.lengths)
    np.testing.assert_allclose(answer["score"], found.scores, rtol=1e-4)


def test_a_sample_depends_on_its_own_inputs_alone(service):
    """Not on the other rows, their number or order, or on what was asked before."""
    texts = np.array(["the low"] * 5)
    together = service["sample"](text=tf.constant(texts), **draws(**DRAWN))["output_text"].numpy()
    order = [2, 4, 0]
    fewer = {name: np.array(values)[order] for name, values in DRAWN.items()}
    texts = [*texts[order], "", TEXTS[3]]
    fewer = {name: [*values, 1, 1] for name, values in fewer.items()}
    found = service["sample"](text=tf.constant(texts), **draws(**fewer))["output_text"].numpy()
    np.testing.assert_array_equal(found[:3], together[order])
    for row in range(5):
        one = {name: values[row : row + 1] for name, values in DRAWN.items()}
        alone = service["sample"](text=tf.constant(["the low"]), **draws(**one))
        assert alone["output_text"].numpy()[0] == together[row]
    assert together[0] == together[3]
    assert len(set(together)) == 4  # of the first and the last the seed alone differs


@pytest.mark.slow
def test_cold_samples_are_the_greedy_continuation(service, expected):
    for rows in (dict(temperature=[1e-20] * 5, top_p=[1.0] * 5),
                 dict(temperature=[1.0] * 5, top_p=[1e-9] * 5)):  # fmt: skip
        found = service["sample"](text=tf.constant(TEXTS), **draws(seed=range(5), **rows))
        assert list(found["output_text"].numpy()) == expected["text"]


def test_a_row_that_cannot_be_drawn_answers_for_itself(service):
    right = {"text": ["the low", "a?"], **draws([3, 5], [1.0, 0.7], [1e-9, 1.0])}
    wrong = [("temperature", value) for value in (0.0, -1.0, np.nan, np.inf)]
    wrong += [("top_p", value) for value in (0.0, np.nan, 1.0001)]
    assert_rows_answer_for_themselves(
        service["sample"], right, *({name: value} for name, value in wrong)
    )


def test_a_row_has_all_its_inputs(service):
    with pytest.raises(tf.errors.InvalidArgumentError, match="as many rows in each input"):
        service["sample"](text=tf.constant(["a", "a"]), **draws([1], [1.0, 1.0], [1.0, 1.0]))


# ---- texts


@pytest.mark.slow
def test_the_end_of_a_text_is_read(other_service, shallow, tokenizer):
    """As many tokens as `max_prompt_length`, of as many characters as `max_characters`."""
    texts = ["abcd", "zabcde", "z" * 7 + "abcde", "." * 8 + "lolo lo", "녕" * 9 + " lo lo lo lo"]
    found = other_service["serving_default"](text=tf.constant(texts))
    assert found["truncated"].numpy().tolist() == [False, True, True, True, True]
    assert found["output_text"].shape == found["score"].shape == (5, 2)
    assert (found["output_text"][1] == found["output_text"][2]).numpy().all()
    ids = tokenizer.tokenize([one[-11:] for one in texts]).to_list()
    prompts = [[tokenizer.start_id, *row][-5:] for row in ids]
    options = dict(max_length=2, search="beam", num_return=2, min_length=1, jit_compile=False)
    expected = shallow.generate(prompts, **options)
    np.testing.assert_allclose(found["score"], expected["scores"], rtol=1e-4)
    np.testing.assert_array_equal(found["token_count"], expected["lengths"])


@pytest.mark.slow
def test_compiled_twins_answer_the_same(shallow, tokenizer, prompts, tmp_path):
    service = with_all_options(shallow, tokenizer, tmp_path / "twins", xla=True)
    texts = {"text": tf.constant(TEXTS)}
    ids = padded([row[:5] for row in prompts], fill=5)
    for name, inputs in (
        ("serving_default", texts), ("ids", ids), ("sample", texts | draws(**DRAWN)),
    ):  # fmt: skip
        plain, compiled = service[name](**inputs), service[f"{name}_xla"](**inputs)
        for key, value in plain.items():
            if key == "score":
                np.testing.assert_allclose(compiled[key], value, rtol=1e-4)
            else:
                np.testing.assert_array_equal(compiled[key], value)


def test_text_and_continuation_are_the_whole(tokenizer):
    """Also where a piece begins with a blank that its text alone does not have."""
    lines = tf.data.Dataset.from_tensor_slices(["the low road", "안녕하세요 여러분", "lower roads"])
    words = ["[PAD]", "[UNK]", "[START]", "[END]", "the", "lo", "##w", "road", "##s"]
    for one, whole in (
        (tokenizer, "the low 안녕"),
        (text.learn_sentence_piece(lines, 53), "the low road 안녕하세요"),
        (text.WordPieceTokenizer(words), "the low lo roads"),
        (text.CharacterTokenizer([*words[:4], *"thelow "]), "the low"),
    ):
        read = PromptReader(one, 97, 97)
        row = one.tokenize([whole]).to_list()[0]
        for i in range(1, len(row)):
            before = one.detokenize([row[:i]]).numpy()[0]
            if "\ufffd" in before.decode():
                continue  # no text ends there
            behind = read.continuation(tf.constant(row[i - 1 : i]), tf.constant([row[i:]]))
            assert (before + behind.numpy()[0]).decode() == whole
        first = read.continuation(tf.constant([one.start_id]), tf.constant([[*row, one.end_id]]))
        assert first.numpy()[0].decode() == whole


def test_the_tokenizer_lies_beside_the_model(folder, tokenizer):
    again = text.load_tokenizer(f"{folder}/assets.extra/tokenizer")
    assert again.encode(TEXTS).to_list() == tokenizer.encode(TEXTS).to_list()


@pytest.mark.slow
def test_the_loader_of_a_server_answers_the_same(loader, folder, expected, prompts):
    answer = cpp_loader.ask(loader, folder, "serving_default", {"text": TEXTS})
    assert answer["output_text"]["values"] == [value.decode() for value in expected["text"]]
    np.testing.assert_allclose(answer["score"]["values"], expected["scores"], rtol=1e-4)
    inputs = {name: value.numpy().tolist() for name, value in padded(prompts, fill=5).items()}
    answer = cpp_loader.ask(loader, folder, "ids", inputs)
    assert answer["output_lengths"]["values"] == expected["lengths"].tolist()


# ---- what does not fit


def test_an_export_of_another_model_names_the_one_that_is_for_it(model, tokenizer, tmp_path):
    sizes = dict(d_model=6, num_heads=1, ffn_dim=7, num_layers=0)
    transformer = models.Transformer(11, **sizes)
    classifier = models.BertClassifier(models.Bert(11, max_length=5, **sizes), num_classes=2)
    language = serving.export_language_model
    sequences = serving.export_saved_model
    for export, wrong, expected in (
        (language, transformer, "a Gpt. Received: Transformer, which `export_saved_model`"),
        (language, classifier, "a Gpt. Received: BertClassifier, which `export_encoder`"),
        (sequences, model, "a Transformer. Received: Gpt, which `export_language_model`"),
        (sequences, classifier, "Transformer. Received: BertClassifier, which `export_encoder`"),
    ):
        with pytest.raises(ValueError, match=expected):
            export(wrong, tokenizer, tmp_path / "m", max_length=LENGTH)
    with pytest.raises(ValueError, match="Received: Gpt, which `export_language_model` exports"):
        serving.export_encoder(model, tokenizer, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("options, message", [
    ({"search": "sample"}, '`search` must be "greedy" or "beam"; the signature `sample`'),
    ({"max_length": CONTEXT + 1}, "context has 23 positions. Received: max_length=24"),
    ({"max_prompt_length": LONGEST + 1}, "`max_prompt_length` must be an integer in 1 .. 17"),
    ({"pad_id": 3}, "model's own `pad_id`"),
    ({"num_return": 2}, "greedy_search has no option `num_return`"),
], ids=str)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(model, tokenizer, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        serving.export_language_model(
            model, tokenizer, tmp_path, **{"max_length": LENGTH, **options}
        )
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_another_model_is_refused(model, tokenizer, tmp_path):
    vocabulary = tokenizer.get_vocabulary()
    for other, message in (
        (text.ByteTokenizer(), "The tokenizer has start_id=2, the model start_id=262"),
        (text.BytePairTokenizer([*vocabulary, *"가나다"], MERGES), "has 266 ids, .* 265 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            serving.export_language_model(model, other, tmp_path / "m", max_length=LENGTH)
