"""Questions beside windows of contexts, and where the answers stand in them."""

import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import text

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *"abcdefghij", "##k", "?", "누", "##구", "é"]


@pytest.fixture(scope="module")
def tokenizer():
    return text.BertTokenizer(WORDS, lowercase=False)


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [0, 1, 5, 6, 7, 8, 9, 23])
@pytest.mark.parametrize("stride", [1, 3, 5])
def test_windows_are_those_of_the_original_s_loop(pieces, stride, tokenizer, rng):
    packer = text.QuestionPacker(tokenizer, 11, stride=stride, max_question_length=3)
    question, letters = "a ? b a", rng.choice(list("abcdefghij"), pieces)
    ids = [WORDS.index(letter) for letter in letters]
    asked = [WORDS.index(piece) for piece in "a?b"]
    expected, begin, room = [], 0, 11 - 3 - 3
    while True:
        length = min(len(ids) - begin, room)
        expected.append([2, *asked, 3, *ids[begin : begin + length], 3])
        if begin + length == len(ids):
            break
        begin += min(length, stride)
    packed = packer([question, "?"], [" ".join(letters), "j"])
    of_row = packed["row"].numpy()
    assert of_row.tolist() == [0] * len(expected) + [1]
    lengths = packed["attention_mask"].numpy().sum(1)
    rows = [row[:n].tolist() for row, n in zip(packed["token_ids"].numpy(), lengths)]
    assert rows == [*expected, [2, 16, 3, 14, 3]]
    for row, segments in zip(expected, packed["segment_ids"].numpy()):
        assert segments[: len(row)].tolist() == [0] * 5 + [1] * (len(row) - 5)


def test_answers_are_where_their_pieces_are(tokenizer):
    """Hand-worked: characters of several bytes, a word of pieces, one in two windows or in none."""
    packer = text.QuestionPacker(tokenizer, 8, stride=2, max_question_length=1)
    context = "é 누구 a, bk c"  # pieces é 누 ##구 a [UNK] b ##k c, four in a window
    cases = {
        "누구": [(4, 5), (0, 0), (0, 0)],
        "a": [(6, 6), (4, 4), (0, 0)],
        "구 a": [(5, 6), (3, 4), (0, 0)],
        "a, b": [(0, 0), (4, 6), (0, 0)],
        "bk": [(0, 0), (0, 0), (4, 5)],
        "c": [(0, 0), (0, 0), (6, 6)],
        "누구 a, b": [(0, 0)] * 3,  # longer than a window
        "": [(0, 0)] * 3,
    }
    packed = packer(
        ["?"] * len(cases),
        [context] * len(cases),
        answer=list(cases),
        answer_start=[context.find(answer) for answer in cases],
    )
    found = zip(packed["start"].numpy().tolist(), packed["end"].numpy().tolist())
    assert packed["row"].numpy().tolist() == np.repeat(np.arange(len(cases)), 3).tolist()
    assert list(found) == [labels for case in cases.values() for labels in case]


def test_spans_lead_back_to_the_answers_that_they_were_made_from(tokenizer):
    packer = text.QuestionPacker(tokenizer, 8, stride=2, max_question_length=1)
    contexts = ["é 누구 a, bk c", "c  누구\u3000누 ", "", "a\tbk"]
    answers, places = ["bk", "누구\u3000누", "", "a"], [8, 3, 0, 0]
    questions = ["?"] * 4
    labels = packer(questions, contexts, answer=answers, answer_start=places)
    packed = packer.pack(questions, contexts)
    found = packer.answers(
        packed, contexts, labels["start"], labels["end"], tf.cast(labels["start"] > 0, "float32")
    )
    assert [answer.decode() for answer in found["answer"].numpy()] == answers
    np.testing.assert_array_equal(found["start"], places)
    np.testing.assert_array_equal(found["end"], np.add(places, [len(x) for x in answers]))
    in_context = packed["in_context"].numpy()
    assert [int(row.sum()) for row in in_context] == [4, 4, 4, 4, 0, 3]
    assert packed["row"].numpy()[found["window"]].tolist() == [0, 1, 2, 3]
    assert not in_context[:, :3].any()  # [CLS] ? [SEP]


@pytest.mark.slow
def test_it_works_inside_a_data_set(tokenizer):
    packer = text.QuestionPacker(
        tokenizer, 12, stride=4, max_question_length=2, pad_to_max_length=True
    )
    rows = {"question": ["a?", "b"], "context": ["a b c " * 5, "c"], "answer": ["c a", "c"]}
    data = tf.data.Dataset.from_tensor_slices(rows | {"answer_start": [10, 0]}).batch(2)
    data = data.map(lambda x: packer(**x)).unbatch().batch(3, drop_remainder=True)
    batch = next(iter(data))
    assert batch["token_ids"].shape == (3, 12)
    first, last = int(batch["start"][0]), int(batch["end"][0])
    answer = batch["token_ids"][0, first : last + 1].numpy().tolist()
    assert answer == [WORDS.index("c"), WORDS.index("a")]


@pytest.mark.parametrize("end_token", ["[SEP]", "[CLS]"])
def test_one_kind_of_segment_finds_its_answers_too(end_token):
    tokenizer = text.BertTokenizer(WORDS, lowercase=False)
    tokenizer.end_id = WORDS.index(end_token)  # GPT-2's start token is its end token
    sizes = {"stride": 2, "max_question_length": 1}
    two, one = (
        text.QuestionPacker(tokenizer, 8, **sizes, type_vocab_size=kinds) for kinds in (2, 1)
    )
    question, context = ["?", "", "a"], ["é 누구 a, bk c", "a b", ""]
    expected, found = (packer.pack(question, context) for packer in (two, one))
    assert not found["segment_ids"].numpy().any()
    np.testing.assert_array_equal(found["in_context"], expected["in_context"])
    assert found["in_context"].numpy().sum() == 14
    answers = {"answer": ["bk", "b", ""], "answer_start": [8, 2, 0]}
    expected, found = (packer(question, context, **answers) for packer in (two, one))
    for name in ("start", "end", "row", "token_ids"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    wide = text.QuestionPacker(tokenizer, 8, **sizes, pad_to_multiple_of=4)
    assert wide(["?"], ["a b"])["token_ids"].shape == (1, 8)


def test_answers_that_do_not_stand_at_their_place_are_left_out_and_counted(tokenizer):
    packer = text.QuestionPacker(
        tokenizer, 8, stride=2, max_question_length=1, on_bad_answer="skip"
    )
    contexts = ["é 누구 a b c", "a b", "a b", "", "c", "a b"]
    answers, places = ["누구", "b", "b", "b", "", "b"], [2, 1, -3, 10**12, 5, 2]
    rows = {"question": ["?"] * 6, "context": contexts, "answer": answers, "answer_start": places}
    data = tf.data.Dataset.from_tensor_slices(rows).batch(6).map(lambda x: packer(**x))
    for passes in (1, 2):
        packed = next(iter(data))
        assert packed["row"].numpy().tolist() == [0, 0, 4, 5]
        assert packed["start"].numpy().tolist() == [4, 0, 0, 4]
        assert packer.skipped == 3 * passes
    expected = text.QuestionPacker(tokenizer, 8, stride=2, max_question_length=1)(
        *(tf.gather(rows[name], [0, 4, 5]) for name in ("question", "context")),
        **{name: tf.gather(rows[name], [0, 4, 5]) for name in ("answer", "answer_start")},
    )
    for name in packed.keys() - {"row"}:
        np.testing.assert_array_equal(packed[name], expected[name], err_msg=name)
    nothing = packer(["?"], ["a"], answer=["b"], answer_start=[0])
    assert nothing["token_ids"].shape[0] == 0 and nothing["start"].shape == (0,)


def test_bad_input_is_refused(tokenizer):
    packer = text.QuestionPacker(tokenizer, 12, stride=4, max_question_length=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="stand at the character"):
        packer(["a"], ["a b c"], answer=["b"], answer_start=[1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="`answer_start`, from 0"):
        packer(["a"], ["a b c"], answer=["b"], answer_start=[-3])
    with pytest.raises(tf.errors.InvalidArgumentError, match="stand at .*on_bad_answer='skip'"):
        packer(["a"], ["a b c"], answer=["b"], answer_start=[10**12])
    with pytest.raises(ValueError, match="`on_bad_answer` must be one of .*Received: 'drop'"):
        text.QuestionPacker(tokenizer, on_bad_answer="drop")
    with pytest.raises(tf.errors.InvalidArgumentError, match="a context for each question"):
        packer(["a", "b"], ["a b c"])
    with pytest.raises(ValueError, match="`answer_start`"):
        packer(["a"], ["a b c"], answer=["b"])
    sizes = {"max_length": 12, "stride": 4, "max_question_length": 2}
    with pytest.raises(ValueError, match="`stride` must lie in 1 .. max_length - 3"):
        text.QuestionPacker(tokenizer, **sizes | {"stride": 8})
    bad = [("stride", 0), ("stride", 1.5), ("max_question_length", 0), ("max_length", "9")]
    for name, size in bad:
        message = f"`{name}` must be a(n| positive) integer.* Received: {size!r}"
        with pytest.raises(ValueError, match=message):
            text.QuestionPacker(tokenizer, **sizes | {name: size})
    other = text.WordPieceTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", "a"])
    with pytest.raises(ValueError, match="Received: WordPieceTokenizer"):
        text.QuestionPacker(other)


def test_a_question_is_truncated_beyond_its_length(tokenizer):
    packer = text.QuestionPacker(tokenizer, 12, stride=4, max_question_length=2)
    packed = packer.pack(["a", "a b", "a b c"], ["c"] * 3)
    assert packed["truncated"].numpy().tolist() == [False, False, True]
