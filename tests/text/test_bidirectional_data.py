"""`BidirectionalLanguageModelDataset` beside the same in Python, and what cannot work."""

import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import text
from keras_xfmr.text.data import block_dataset
from keras_xfmr.text.data import documents as documents_module

T, B, C = 5, 3, 11
PAD, UNKNOWN, START, END = range(4)
VOCABULARY = ["[PAD]", "[UNK]", "[START]", "[END]", "a", "b", "c", "한국"]


@pytest.fixture(scope="module")
def tokenizer():
    return text.WordTokenizer(VOCABULARY, split="whitespace")


@pytest.fixture
def sentences(rng):
    """41 sentences of up to 9 words, some of which no vocabulary knows."""
    words = [*VOCABULARY[4:], "new", "[START]", "<S>", "</S>", "한", "abcdefghijklm"]
    return [list(rng.choice(words, size)) for size in rng.integers(1, 10, 41)]


@pytest.fixture
def file(sentences, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(map(" ".join, sentences)), "utf8")
    return tmp_path / "a.txt"


def data_of(files, tokenizer, **config):
    config = {"block_length": T, "batch_size": B, "max_characters": C, **config}
    return text.BidirectionalLanguageModelDataset(files, tokenizer, **config)


def read(data):
    batches = []
    for inputs, labels in data.dataset():
        for name, value in (*inputs.items(), *labels.items()):
            assert tuple(value.shape) == ((B, T, C) if "character" in name else (B, T))
            assert value.dtype == tf.int32
        batches.append({k: v.numpy() for k, v in {**inputs, **labels}.items()})
    return batches


def rows_of(batches, names=("token_ids", "forward", "reverse_token_ids", "backward")):
    return [
        tuple(batch[name][row].tolist() for name in names) for batch in batches for row in range(B)
    ]


def id_of(word):
    return VOCABULARY.index(word) if word in VOCABULARY[4:] else UNKNOWN


def stream_of(sentences, backward=False):
    """Ids, and the label after each, of sentences one after the other."""
    first, last = (END, START) if backward else (START, END)
    tokens, labels = [], []
    for words in sentences:
        ids = [id_of(word) for word in words]
        tokens += [first, *(ids[::-1] if backward else ids), last]
        labels += [-1, *(ids[::-1] if backward else ids), last]
    return tokens[:-1], labels[1:]


def blocks_of(sentences):
    """The rows of one stream, the last one filled."""
    streams = [*stream_of(sentences), *stream_of(sentences, backward=True)]
    rows = []
    for i in range(0, len(streams[0]), T):
        parts = [part[i : i + T] for part in streams]
        missing = T - len(parts[0])
        rows.append(tuple(x + [y] * missing for x, y in zip(parts, (PAD, -1, PAD, -1))))
    return rows


EMPTY = ([PAD] * T, [-1] * T) * 2


def filled(rows, size):
    return rows + [EMPTY] * (size - len(rows))


def test_blocks_by_hand(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_bytes(b" = b = \na b new\n\n c\n\xff<\n")
    config = {"heading": "wikitext", "on_bad_line": "skip", "characters": False}
    data = data_of(tmp_path / "a.txt", tokenizer, **config)
    [batch] = read(data)
    assert batch["token_ids"].tolist() == [[2, 4, 5, 1, 3], [2, 6, 0, 0, 0], [0] * T]
    assert batch["forward"].tolist() == [[4, 5, 1, 3, -1], [6, 3, -1, -1, -1], [-1] * T]
    assert batch["reverse_token_ids"].tolist() == [[3, 1, 5, 4, 2], [3, 6, 0, 0, 0], [0] * T]
    assert batch["backward"].tolist() == [[1, 5, 4, 2, -1], [6, 2, -1, -1, -1], [-1] * T]
    assert data.rows == 2 and data.bytes == 8
    assert data.skipped == {"blank": 1, "heading": 1, "utf8": 1, "empty": 0}


def test_characters_by_hand(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("<S> 한\n[START]", "utf8")
    [batch] = read(data_of(tmp_path / "a.txt", tokenizer))
    start, end = text.sentence_markers(C)
    words = tf.constant([["<S>", "한", "[START]"]])
    angle, korean, bracket = text.words_to_characters(words, max_characters=C).numpy()[0]
    padding = np.zeros(C, int)
    rows = [[start, angle, korean, end, start], [bracket, *[padding] * 4], [padding] * T]
    np.testing.assert_array_equal(batch["character_ids"], rows)
    rows = [[end, korean, angle, start, end], [bracket, *[padding] * 4], [padding] * T]
    np.testing.assert_array_equal(batch["reverse_character_ids"], rows)
    assert batch["forward"].tolist() == [[1, 1, 3, -1, 1], [3, *[-1] * 4], [-1] * T]
    assert batch["backward"].tolist() == [[1, 1, 2, -1, 1], [2, *[-1] * 4], [-1] * T]


@pytest.mark.slow
def test_an_epoch_has_the_blocks_of_the_streams_shuffled(sentences, file, tokenizer, monkeypatch):
    monkeypatch.setattr(block_dataset, "CHUNK", 7)
    data = data_of(file, tokenizer, characters=False, seed=5)
    blocks = blocks_of(sentences)
    assert data.count() == -(-len(blocks) // B)
    epochs = [rows_of(read(data)) for _ in range(2)]
    assert data.rows == len(blocks)
    for rows in epochs:
        assert sorted(rows) == sorted(filled(blocks, data.count() * B))
        # Each word is a label once in each direction, and so is each sentence's last marker.
        ids = [id_of(word) for words in sentences for word in words]
        for place, last in ((1, END), (3, START)):
            labels = [label for row in rows for label in row[place] if label >= 0]
            assert sorted(labels) == sorted(ids + [last] * len(sentences))
    assert epochs[0] != epochs[1] and epochs[0][: 3 * B] != blocks[: 3 * B]
    again = data_of(file, tokenizer, seed=5, characters=False)
    again.seek(1, 2)
    assert rows_of(read(again)) == epochs[1][2 * B :]


def dealt(sentences):
    """The sentences of each of B rows: the next one goes where the fewest words wait."""
    rows, sizes = [[] for _ in range(B)], [0] * B
    for words in sentences:
        row = sizes.index(min(sizes))
        rows[row].append(words)
        sizes[row] += len(words) + 2
    return rows


def test_contiguous_rows_go_on_in_the_next_batch(sentences, file, tokenizer, monkeypatch):
    monkeypatch.setattr(block_dataset, "CHUNK", 7)
    data = data_of(file, tokenizer, contiguous=True)
    batches = read(data)
    start, end = (marker.tolist() for marker in text.sentence_markers(C))
    for number, own in enumerate(dealt(sentences)):
        rows = filled(blocks_of(own), len(batches))
        found = rows_of(batches, ("forward", "backward"))[number::B]
        assert found == [(forward, backward) for _, forward, _, backward in rows]
        spelled = [text.words_to_characters([words], max_characters=C)[0] for words in own]
        for name, step in (("character_ids", 1), ("reverse_character_ids", -1)):
            first, last = (start, end)[::step]
            stream = [[first, *ids.numpy()[::step].tolist(), last] for ids in spelled]
            expected = np.zeros([len(batches) * T, C], int)
            expected[: len(sum(stream, [])) - 1] = sum(stream, [])[:-1]
            found = np.concatenate([batch[name][number] for batch in batches])
            np.testing.assert_array_equal(found, expected)
    data.seek(0, 3)
    names = ("character_ids", "forward", "reverse_character_ids", "backward")
    assert rows_of(read(data), names) == rows_of(batches, names)[3 * B :]


@pytest.mark.slow
def test_a_long_line_is_several_sentences(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "PART", 7)
    monkeypatch.setattr(documents_module, "WORDS", 2)
    (tmp_path / "a.txt").write_text("a b c a b c a b c\nc", "utf8")
    config = {"characters": False, "shuffle_buffer": 0, "batch_size": 1}
    data = data_of(tmp_path / "a.txt", tokenizer, block_length=29, **config)
    [(inputs, _)] = data.dataset()
    a, b, c = 4, 5, 6
    parts = [[a, b, c, a, b, c], [a, b, c], [c]]
    forward = sum(([START, *part, END] for part in parts), [])
    assert inputs["token_ids"][0].numpy().tolist() == forward[:-1] + [PAD] * 14
    backward = sum(([END, *part[::-1], START] for part in parts), [])
    assert inputs["reverse_token_ids"][0].numpy().tolist() == backward[:-1] + [PAD] * 14


def test_what_does_not_fit_is_refused(file, tokenizer):
    for config, message in (
        ({"block_length": 0}, "`block_length` must be a positive integer.*Received: 0"),
        ({"batch_size": 2.5}, "`batch_size` must be a positive integer"),
        ({"max_characters": 2}, "`max_characters` must be .*Received: 2"),
        ({"contiguous": True, "shuffle_buffer": 5}, "cannot be shuffled"),
        ({"tokenizer": text.ByteTokenizer()}, "Expected a `WordTokenizer`.*ByteTokenizer"),
        ({"heading": "x"}, "`heading` must be"),
        ({"seed": -1}, "`seed` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            data_of(file, **{"tokenizer": tokenizer, **config})
    with pytest.raises(FileNotFoundError):
        data_of("missing.txt", tokenizer)
