"""What `export_encoder` writes of models that find answers and fill blanks."""

import functools
import itertools
import json

import cpp_loader
import forked
import keras
import numpy as np
import pytest
import tensorflow as tf
from served import assert_rows_answer_for_themselves, in_memory, unchecked

from keras_xfmr import models, serving, text

pytestmark = pytest.mark.slow

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "good", "bad", "film", "##s", "cafe", "누", "구"]
LONGEST = 19
# The last one is longer than the packer takes.
QUESTIONS = ["good film", "누구", "bad bad", "", "cafe good bad good bad"]
# Context, and what of it each piece is: characters first to behind the last.
CONTEXTS = {
    "Bad  FILMS, good Café!": [(0, 3), (5, 9), (9, 10), (10, 11), (12, 16), (17, 21), (21, 22)],
    "좋다 누 구": [(0, 2), (3, 4), (5, 6)],
    "\u200bcafe\u0301\u3000films": [(1, 6), (7, 11), (11, 12)],
    "": [],
    "bad  film " * 9: [(10 * i + a, 10 * i + b) for i in range(9) for a, b in ((0, 3), (5, 9))],
}
FRESH = """
import json, sys
import tensorflow as tf
import tensorflow_text
model = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
asked = {name: tf.constant(texts) for name, texts in json.loads(sys.argv[2]).items()}
rows = {name: value.numpy().tolist() for name, value in model(**asked).items()}
print(json.dumps(rows, default=bytes.decode))
"""


@pytest.fixture(scope="module")
def packer():
    return text.SentencePacker(text.BertTokenizer(WORDS), max_length=LONGEST)


@pytest.fixture(scope="module")
def question_packer(packer):
    return text.QuestionPacker(packer.tokenizer, LONGEST, stride=5, max_question_length=4)


def make(kind, vocab_size=13, **options):
    keras.utils.set_random_seed(7)
    bert = models.Bert(
        vocab_size, d_model=12, num_heads=3, ffn_dim=17, num_layers=1, max_length=LONGEST,
        initializer_range=0.7,
    )  # fmt: skip
    return getattr(models, kind)(bert, **options)


@pytest.fixture(scope="module")
def spans(question_packer, tmp_path_factory):
    """max_answer_length -> the model, and its service: one in memory, and one that is written."""
    model, path = make("BertSpanPredictor"), tmp_path_factory.mktemp("spans")
    short = in_memory(serving.export_encoder, model, question_packer, max_answer_length=2)
    long = serving.export_encoder(model, question_packer, path, max_answer_length=30)
    return {2: (model, short), 30: (model, long)}


@functools.cache
def load(path):
    return tf.saved_model.load(path)


def signatures(service):
    """Of what was written to a path, or of what is in memory."""
    return service if isinstance(service, dict) else load(service).signatures


def ask(service, signature="serving_default", **inputs):
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    answers = signatures(service)[signature](**inputs)
    return {name: value.numpy() for name, value in answers.items()}


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def best_span(start, end, context, longest):
    """Every pair, one by one: (first, last), or None."""
    spans = [(i, j) for i in context for j in context if i <= j < i + longest]
    return max(spans, key=lambda span: start[span[0]] + end[span[1]], default=None)


# ---- answers in a text


def windows(question, pieces):
    """Where windows of a context begin, and how long they are: the loop of BERT's run_squad.py."""
    room, begin = LONGEST - 3 - len(question), 0
    while True:
        length = min(len(pieces) - begin, room)
        yield begin, length
        if begin + length == len(pieces):
            return
        begin += min(length, 5)


@pytest.mark.parametrize("longest", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_an_answer_is_the_best_span_of_all_windows(longest, packer, spans):
    model, service = spans[longest]
    asked, contexts = zip(*itertools.product(QUESTIONS, CONTEXTS))
    found = ask(service, question=asked, context=contexts)
    by_ids_of = signatures(service)["ids"]
    ids_of, elsewhere, later, lengths = packer.tokenizer.tokenize, 0, 0, set()
    for row, (asking, context) in enumerate(zip(asked, contexts)):
        question, ids = ids_of([asking])[0].numpy(), ids_of([context])[0].numpy()
        assert found["truncated"][row] == (len(question) > 4)
        question, pieces, candidates = question[:4], CONTEXTS[context], []
        nothing = []  # of each window
        assert len(ids) == len(pieces)
        for begin, length in windows(question, pieces):
            window = np.array([[2, *question, 3, *ids[begin : begin + length], 3]], "int32")
            first = len(question) + 2
            segments = (np.arange(window.shape[1]) >= first).astype("int32")[None]
            logits = model({"token_ids": window, "segment_ids": segments})
            start, end = (np.asarray(logits[name])[0] for name in ("start", "end"))
            length_of = tf.constant([window.shape[1]])
            by_ids = by_ids_of(
                token_ids=tf.constant(window), segment_ids=tf.constant(segments), lengths=length_of
            )
            best = best_span(start, end, range(first, first + length), longest)
            assert (by_ids["first"][0], by_ids["last"][0]) == (best or (-1, -1))
            if best is None:
                continue
            elsewhere += best != best_span(start, end, range(window.shape[1]), longest)
            none = softmax(start)[0] * softmax(end)[0]
            assert float(by_ids["no_answer"][0]) == pytest.approx(none, rel=1e-4)
            nothing.append(none)
            score = softmax(start)[best[0]] * softmax(end)[best[1]]
            assert float(by_ids["score"][0]) == pytest.approx(score, rel=1e-4)
            total, shift = start[best[0]] + end[best[1]], begin - first
            candidates.append((total, score, best[0] + shift, best[1] + shift, begin))
        if not candidates:
            assert found["answer"][row] == b"" and found["score"][row] == 0
            assert (found["start"][row], found["end"][row]) == (0, 0)
            assert found["no_answer"][row] == 1
            continue
        _, score, first, last, begin = max(candidates)
        later += begin > 0
        lengths.add(last - first)
        assert found["score"][row] == pytest.approx(score, rel=1e-4)
        assert found["no_answer"][row] == pytest.approx(min(nothing), rel=1e-4)
        begin, behind = pieces[first][0], pieces[last][1]
        assert (found["start"][row], found["end"][row]) == (begin, behind)
        assert found["answer"][row].decode() == context[begin:behind]
    assert elsewhere > 3  # where the model would look by itself
    assert later > 1  # answers that lie behind the first window
    assert len(set(found["answer"])) > 5
    assert (max(lengths) > 2) == (longest == 30)


def test_padding_and_neighbours_change_no_answer(spans):
    _, path = spans[30]
    nothing = ask(path, question=tf.constant([], tf.string), context=tf.constant([], tf.string))
    assert {len(value) for value in nothing.values()} == {0}
    service = signatures(path)
    asked = tf.constant(QUESTIONS), tf.constant(list(CONTEXTS))
    together = service["serving_default"](question=asked[0], context=asked[1])
    for row in range(len(QUESTIONS)):
        one = slice(row, row + 1)
        alone = service["serving_default"](question=asked[0][one], context=asked[1][one])
        for name, answer in alone.items():
            if name in ("score", "no_answer"):
                np.testing.assert_allclose(answer[0], together[name][row], rtol=1e-4)
            else:
                assert answer[0] == together[name][row], name
    ids = np.array([[2, 5, 7, 3, 6, 7, 8, 5, 3]], "int32")
    segments = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 1]], "int32")
    expected = ask(path, "ids", token_ids=ids, segment_ids=segments, lengths=[9])
    # A server pads with the first element; segments of 1 behind the end are a worse case.
    padded = np.pad(ids, [(0, 0), (0, 4)], constant_values=2)
    ones = np.pad(segments, [(0, 0), (0, 4)], constant_values=1)
    for name, answer in ask(path, "ids", token_ids=padded, segment_ids=ones, lengths=[9]).items():
        np.testing.assert_allclose(answer, expected[name], rtol=1e-4, err_msg=name)
    asked = {"token_ids": np.tile(ids, (2, 1)), "segment_ids": np.tile(segments, (2, 1))}
    wrong = [{"token_ids": [13] * 9}, {"segment_ids": [2] * 9}, {"lengths": 10}]
    service = signatures(path)["ids"]
    assert_rows_answer_for_themselves(service, {**asked, "lengths": [9, 7]}, *wrong)
    none, zero = (np.zeros((1, width), "int32") for width in (0, 1))
    expected = ask(path, "ids", token_ids=zero, segment_ids=zero, lengths=[0])
    for name, answer in ask(path, "ids", token_ids=none, segment_ids=none, lengths=[0]).items():
        np.testing.assert_allclose(answer, expected[name], rtol=1e-4, err_msg=name)


def test_a_server_without_xla_and_python_answers_alike(spans, loader):
    _, path = spans[30]
    asked = {"question": QUESTIONS, "context": list(CONTEXTS)}
    expected = ask(path, **asked)
    found = cpp_loader.ask(loader, path, "serving_default", asked)
    assert set(found) == set(expected)
    for name, answer in expected.items():
        values = found[name]["values"]
        if name in ("score", "no_answer"):
            np.testing.assert_allclose(values, answer, rtol=1e-4)
        else:
            assert values == [x.decode() if name == "answer" else x for x in answer], name


def test_sentence_pieces_answer_without_the_blank_before_a_word(tmp_path, rng):
    corpus = ["the film is good", "영화가 아주 좋다", "누가 봐도 좋은 영화"]
    tokenizer = text.learn_bert_sentence_piece(tf.data.Dataset.from_tensor_slices(corpus * 3), 59)
    model = make("BertSpanPredictor", tokenizer.vocab_size)
    packer = text.QuestionPacker(tokenizer, LONGEST, stride=8, max_question_length=8)
    with unchecked():
        path = serving.export_encoder(model, packer, tmp_path, max_answer_length=5)
    words, blanks = " ".join(corpus).split(), [" ", "  ", "\u3000", "\n"]
    contexts = ["".join(rng.choice(words) + rng.choice(blanks) for _ in "abc") for _ in range(41)]
    asked = {"question": ["누가"] * 41, "context": contexts}
    done = forked.run("-c", FRESH, path, json.dumps(asked))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    rows = list(zip(contexts, found["answer"], found["start"], found["end"]))
    for context, answer, start, end in rows:
        assert context[start:end] == answer == answer.strip()
    # A blank before it, one behind it, one inside: all of them do occur.
    assert any(start and context[start - 1].isspace() for context, _, start, _ in rows)
    assert any(context[end : end + 1].isspace() for context, _, _, end in rows)
    assert any(len(answer.split()) > 1 for answer in found["answer"])


# ---- blanks


IDS = np.array([[2, 5, 4, 8, 3, 9, 3], [2, 4, 3, 6, 4, 7, 3]], "int32")
SEGMENTS = np.array([[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]], "int32")
POSITIONS = np.array([[2, 2], [4, 1]], "int32")


@pytest.fixture(scope="module", params=[False, True], ids=["one text", "pairs"])
def filler(request, packer, tmp_path_factory):
    """With pairs, fewer predictions than words; without, more."""
    pairs = request.param
    model = make("BertPretrainer", next_sentence=pairs)
    if pairs:
        return model, in_memory(serving.export_encoder, model, packer, pairs=True, top=3), pairs
    path = tmp_path_factory.mktemp("filler")
    return model, serving.export_encoder(model, packer, path, top=100), pairs


def test_blanks_are_filled_by_the_most_probable_ids(filler):
    model, path, pairs = filler
    segments = {"segment_ids": SEGMENTS} if pairs else {}
    logits = model({"token_ids": IDS, "masked_positions": POSITIONS, **segments})
    scores = softmax(np.asarray(logits["mlm"]))
    asked = dict(token_ids=IDS, lengths=[7, 7], masked_positions=POSITIONS, **segments)
    found = ask(path, "ids", **asked)
    best = np.argsort(-scores, axis=-1)[..., : 3 if pairs else 13]
    np.testing.assert_array_equal(found["top_ids"], best)
    np.testing.assert_allclose(found["top_scores"], np.take_along_axis(scores, best, -1), rtol=1e-4)
    assert ("follows" in found) == pairs
    if pairs:
        follows = softmax(np.asarray(logits["nsp"]))[:, 0]
        np.testing.assert_allclose(found["follows"], follows, rtol=1e-4)
        assert np.ptp(follows) > 0.01

    asked["token_ids"] = np.pad(IDS, [(0, 0), (0, 4)], constant_values=2)
    if pairs:
        asked["segment_ids"] = np.pad(SEGMENTS, [(0, 0), (0, 4)], constant_values=1)
    for name, answer in ask(path, "ids", **asked).items():
        np.testing.assert_allclose(answer, found[name], rtol=1e-4, err_msg=name)


def test_a_row_of_numbers_outside_their_tables_answers_for_itself(filler):
    _, path, pairs = filler
    asked = dict(token_ids=IDS, lengths=[5, 7], masked_positions=POSITIONS)
    asked |= {"segment_ids": SEGMENTS} if pairs else {}
    wrong = [{"masked_positions": [0, position]} for position in (-1, LONGEST)]
    wrong += [{"lengths": length} for length in (-1, 8)] + [{"token_ids": [13] * 7}]
    wrong += [{"segment_ids": [segment] * 7} for segment in ((-1, 2) if pairs else ())]
    assert_rows_answer_for_themselves(signatures(path)["ids"], asked, *wrong)
    # A position behind the ids of its row, with which a server may have padded it.
    found = ask(path, "ids", **{**asked, "masked_positions": [[2, 5], [4, 6]]})
    assert found["valid"].all() and not found["top_scores"][0, 1].any()
    assert found["top_scores"][1, 1].any()
    if pairs:
        # A client sent fewer segments than ids; the row beside it has enough of them.
        found = ask(path, "ids", **{**asked, "segment_ids": SEGMENTS[:, :6]})
        assert found["valid"].tolist() == [True, False]
        with pytest.raises(tf.errors.InvalidArgumentError, match="as many rows in each input"):
            ask(path, text=["good"], text_pair=["bad", "good"])


def test_raw_text_is_read_as_pairs_only(filler, packer):
    model, path, pairs = filler
    if not pairs:
        asked = dict(token_ids=IDS, lengths=[7, 7], masked_positions=POSITIONS)
        expected = ask(path, "ids", **asked)
        for name, answer in ask(path, **asked).items():
            np.testing.assert_array_equal(answer, expected[name])
        return
    first, second = ["good films", "bad"], ["누구", "film film"]
    packed = packer(tf.constant(first), tf.constant(second))
    logits = model({**packed, "masked_positions": np.zeros((2, 1), "int32")})["nsp"]
    found = ask(path, text=first, text_pair=second)
    assert set(found) == {"follows", "truncated", "valid"} and not found["truncated"].any()
    np.testing.assert_allclose(found["follows"], softmax(np.asarray(logits))[:, 0], rtol=1e-4)


def test_masks_in_raw_text_are_filled_by_pieces(filler):
    model, path, pairs = filler
    texts = ["Good [MASK], bad[MASK]", "film", "[MASK]Café"]
    ids = [[2, 5, 4, 1, 6, 4, 3], [2, 7, 3, 0, 0, 0, 0], [2, 4, 9, 3, 0, 0, 0]]
    positions = np.zeros((3, 16), int)
    positions[:, :2] = [[2, 5], [0, 0], [1, 0]]
    logits = model({"token_ids": np.array(ids), "masked_positions": positions})["mlm"]
    scores = softmax(np.asarray(logits))[..., : len(WORDS)]  # the table has a row more
    best = np.argsort(-scores, axis=-1)[..., : 3 if pairs else 12]
    masked = positions[:, :, None] > 0
    found = ask(path, "fill_mask", text=texts)
    pieces = np.char.decode(found["top_pieces"].astype("S"), "utf8")
    np.testing.assert_array_equal(pieces, np.where(masked, np.array(WORDS)[best], ""))
    expected = np.where(masked, np.take_along_axis(scores, best, -1), 0)
    np.testing.assert_allclose(found["top_scores"], expected, rtol=1e-4)
    assert not found["truncated"].any()
    assert ask(path, "fill_mask", text=["bad " * LONGEST])["truncated"].tolist() == [True]


def test_a_pretrainer_without_a_mask_token_is_served_by_ids():
    packer = text.SentencePacker(text.ByteTokenizer(), max_length=LONGEST)
    service = in_memory(serving.export_encoder, make("BertPretrainer", 260), packer)
    assert set(service) == {"serving_default", "ids"}


# ---- errors


def test_what_does_not_fit(packer, question_packer, tmp_path):
    def refused(message, model, packer=packer, **options):
        with pytest.raises(ValueError, match=message):
            serving.export_encoder(model, packer, tmp_path / "m", **options)
        assert not (tmp_path / "m").exists()

    refused("next_sentence", make("BertPretrainer", next_sentence=False), pairs=True)
    for name in ("BertPretrainer", "BertSpanPredictor"):
        option = "top" if name == "BertPretrainer" else "max_answer_length"
        fitting = packer if name == "BertPretrainer" else question_packer
        refused(f"`{option}` must be a positive integer", make(name), fitting, **{option: 0})
    refused("Expected one of .*Received: Bert.", make("BertEmbedder").bert)
    refused("Received: SentencePacker for a BertSpanPredictor", make("BertSpanPredictor"))
    refused("Received: QuestionPacker for a BertEmb", make("BertEmbedder"), question_packer)
