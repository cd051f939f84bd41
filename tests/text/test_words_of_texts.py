"""Words of raw texts with their places, windows over them, and the entities that they form."""

import numpy as np
import pytest
import tensorflow as tf
from seqeval.scheme import IOB1, IOB2, IOBES, Entities

from keras_xfmr import text
from keras_xfmr.text.packers.entities import EntityFinder
from keras_xfmr.text.words import SPLITS, cut_words, split_words

LETTERS = "abcdefgh"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS)]
TEXTS = [
    '"Café", she\u3000said 漢字!', "", " \t", "좋다 \u200b누. 😀a", "e\u0301 \u200b é", "x" * 11,
]  # fmt: skip


@pytest.fixture(scope="module")
def packer():
    return text.SentencePacker(text.BertTokenizer(WORDS), max_length=7)


def rows_of(found):
    return zip(*(part.to_list() for part in found))


@pytest.mark.parametrize("split", SPLITS)
def test_words_stand_where_their_offsets_say(split):
    found = tf.function(cut_words)(tf.constant(TEXTS), split)
    for source, (words, starts, ends) in zip(TEXTS, rows_of(found)):
        words = [word.decode() for word in words]
        assert [source[a:b] for a, b in zip(starts, ends)] == words
        assert starts == sorted(starts) and all(a < b for a, b in zip(starts, ends))
        if split == "whitespace":
            assert words == source.split()
        if split == "characters":
            assert words == [character for character in source if not character.isspace()]
    assert cut_words(tf.constant([], tf.string), split)[1].shape[0] == 0


@pytest.mark.parametrize("split_cjk", [False, True])
def test_the_first_cut_is_that_of_bert(split_cjk):
    """The same words as normalization leaves them, control characters at their ends apart."""
    words = cut_words(tf.constant(TEXTS), "bert", split_cjk=split_cjk)[0]
    expected = split_words(tf.constant(TEXTS), split_cjk=split_cjk)
    for row, other in zip(words.to_list(), expected.to_list()):
        assert [word.decode().strip("\u200b").encode() for word in row] == other


def test_bytes_that_are_no_utf_8_move_no_other_row():
    texts = tf.constant([b"a \xff\xfeb c", b"d e"])
    words, starts, ends = cut_words(texts, "bert")
    assert words[1].numpy().tolist() == [b"d", b"e"]
    assert (starts[1].numpy().tolist(), ends[1].numpy().tolist()) == ([0, 2], [1, 3])
    # Each of these bytes is one character to a decoder.
    decoded = texts[0].numpy().decode(errors="replace")
    assert decoded[starts[0, 2] : ends[0, 2]] == "c"


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_each_word_is_read_where_most_stands_around_it(stride, packer, rng):
    rows = [
        ["".join(rng.choice(list(LETTERS), size)) for size in rng.integers(0, 4, count)]
        for count in (0, 1, 3, 11, 29)
    ]
    ragged = tf.ragged.constant([[w.encode() for w in row] for row in rows], tf.string, 1)
    packed, first = packer.pack_word_windows(ragged, stride), 0
    places = zip(packed["word_windows"].to_list(), packed["word_positions"].to_list())
    for row, (windows, positions) in zip(rows, places):
        pieces = "".join(row)
        begins = [0]
        while begins[-1] + 5 < len(pieces):
            begins.append(begins[-1] + stride)
        for number, begin in enumerate(begins):
            ids = packed["token_ids"][first + number].numpy()
            shown = packed["attention_mask"][first + number].numpy().sum() - 2
            assert shown == min(5, len(pieces) - begin)
            spelled = [WORDS[i].removeprefix("##") for i in ids[1 : 1 + shown]]
            assert "".join(spelled) == pieces[begin : begin + 5]
        ends = np.cumsum([len(word) for word in row], dtype=int)
        for word, end, window, position in zip(row, ends, windows, positions):
            if not word:
                assert window == position == -1
                continue
            place = end - len(word)
            assert begins[window - first] + position - 1 == place

            def around(begin, place=place, begins=begins):
                # What is missing at the ends of a text is in no window.
                left = place - begin if begin else 99
                right = begin + 4 - place if begin != begins[-1] else 99
                return min(left, right)

            fitting = [b for b in begins if b <= place < b + 5]
            assert around(begins[window - first]) == max(map(around, fitting))
        first += len(begins)


def test_what_the_packer_refuses(packer):
    with pytest.raises(ValueError, match="`split` must be one of .*'words'"):
        text.SentencePacker(packer.tokenizer, 7, split="words")
    with pytest.raises(ValueError, match="`stride` must be an integer in 1 .. 5"):
        packer.pack_word_windows(tf.ragged.constant([["a"]]), 6)


# ---- entities

TAGS = {
    "IOB1": (IOB1, "BI", False),
    "IOB2": (IOB2, "BI", True),
    "BILOU": (IOBES, "BILU", True),
    "BIOES": (IOBES, "BIES", True),
}


def draw_tags(rng, letters, always_begins):
    """A well-formed row of tags, and the same in seqeval's letters."""
    single, last = (letters[3], letters[2]) if len(letters) == 4 else ("B", "I")
    tags = []
    while len(tags) < 17:
        kind, size = rng.choice(["A", "B"]), rng.integers(1, 4)
        if rng.random() < 0.4:
            tags.append("O")
        elif len(letters) == 4:
            middle = ["I"] * (size - 2) + [last]
            tags += [f"{x}-{kind}" for x in ([single] if size == 1 else ["B", *middle])]
        else:
            begins = always_begins or (tags and tags[-1][2:] == kind)
            tags += [f"{x}-{kind}" for x in (["B" if begins else "I"] + ["I"] * (size - 1))]
    return tags[:17] if len(letters) == 2 else tags


@pytest.mark.parametrize("name", TAGS)
def test_entities_are_those_of_seqeval(name, rng):
    scheme, letters, always = TAGS[name]
    labels = ["O", *(f"{letter}-{kind}" for letter in letters for kind in "AB")]
    rows = [draw_tags(rng, letters, always) for _ in range(23)]
    width = max(map(len, rows))
    tags = np.full((23, width), -1, "int32")
    for row, named in zip(tags, rows):
        row[: len(named)] = [labels.index(tag) for tag in named]
    finder = EntityFinder(labels)
    kinds, firsts, lasts = (part.numpy() for part in finder(tf.constant(tags), width))
    theirs = [[tag.replace("L-", "E-").replace("U-", "S-") for tag in named] for named in rows]
    for row, entities in enumerate(Entities(theirs, scheme).entities):
        expected = sorted((e.start, e.end - 1, e.tag) for e in entities)
        found = zip(firsts[row], lasts[row], (finder.types[kind] for kind in kinds[row]))
        assert list(found)[: len(expected)] == expected
        assert (firsts[row, len(expected) :] == -1).all()
        few = [part.numpy()[0] for part in finder(tf.constant(tags[row : row + 1]), 3)]
        assert few[1].tolist() == firsts[row, :3].tolist()


def test_entities_of_no_words_and_of_tags_without_letters():
    finder = EntityFinder(["O", "A", "B-A", "I-B"])
    assert finder.types == ["A", "B"]
    kind, first, last = finder(tf.constant([[1, 1, 2, 3, -1, 3]]), 5)
    # The word without a tag is passed over: the last entity goes on behind it.
    assert kind.numpy().tolist() == [[0, 0, 1, -1, -1]]
    assert first.numpy().tolist() == [[0, 2, 3, -1, -1]]
    assert last.numpy().tolist() == [[1, 2, 5, -1, -1]]
    before = EntityFinder(["O", "PER-B", "PER-I"])
    kind, first, last = before(tf.constant([[1, -1, 2, 0, 1, -1]]), 2)
    assert before.types == ["PER"] and kind.numpy().tolist() == [[0, 0]]
    assert (first.numpy().tolist(), last.numpy().tolist()) == ([[0, 4]], [[2, 4]])
    ended = EntityFinder(["L-A", "I-A"])  # of no scheme: an entity goes on behind its end
    assert ended(tf.constant([[1, 0, 1]]), 3)[1].numpy().tolist() == [[0, 2, -1]]
    assert finder(tf.zeros([2, 0], tf.int32), 3)[0].numpy().tolist() == [[-1] * 3] * 2
