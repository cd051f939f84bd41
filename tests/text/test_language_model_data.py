"""`LanguageModelDataset` beside the same in Python, and what cannot work."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import text
from keras_xfmr.text.data import block_dataset, language_model
from keras_xfmr.text.data import documents as documents_module
from keras_xfmr.text.tokenizers.byte_pair_files import ALPHABET

T, B = 7, 3
TOKENIZERS = {  # start and end are two tokens, or one that is padding too
    "two": text.ByteTokenizer(),
    "one": text.BytePairTokenizer([*ALPHABET, "th", "<|endoftext|>"], [("t", "h")]),
}


@pytest.fixture
def documents(rng):
    """31 documents of up to 5 lines of up to 23 characters."""
    letters = np.array(list("thé 한x"))
    lines = [
        ["".join(["t", *letters[rng.integers(0, 6, size)], "h"]) for size in sizes]
        for sizes in (rng.integers(0, 22, rng.integers(1, 6)) for _ in range(31))
    ]
    return lines


@pytest.fixture
def file(documents, tmp_path):
    content = "\n\n".join("\n".join(lines) for lines in documents)
    (tmp_path / "a.txt").write_text(content + "\n", "utf8")
    return tmp_path / "a.txt"


def data_of(files, tokenizer, **config):
    config = {"block_length": T, "batch_size": B, "document_ids": True, **config}
    return text.LanguageModelDataset(files, tokenizer, **config)


def read(data):
    batches = list(data.dataset())
    for inputs, labels in batches:
        for value in (*inputs.values(), labels):
            assert value.shape == (B, T) and value.dtype == tf.int32
    return [({k: v.numpy() for k, v in inputs.items()}, y.numpy()) for inputs, y in batches]


def rows_of(batches):
    """(ids, labels, numbers of the documents) of every row."""
    batches = [(x["token_ids"], y, x["document_ids"]) for x, y in batches]
    return [tuple(v.tolist() for v in row) for batch in batches for row in zip(*batch)]


def stream_of(documents, tokenizer, separator="\n"):
    """Tokens, and the label after each, of documents one after the other."""
    tokens = []
    one = tokenizer.start_id == tokenizer.end_id
    for lines in documents:
        [ids] = tokenizer.tokenize([separator.join(lines)]).to_list()
        opening = [] if one and tokens else [tokenizer.start_id]
        tokens += [*opening, *ids, tokenizer.end_id]
    labels = tokens[1:]
    if not one:
        labels = [-1 if x == tokenizer.start_id else x for x in labels]
    return tokens[:-1], labels


def blocks_of(stream, tokenizer):
    """The rows of one stream, the last one filled: ids, labels, and numbers of the documents."""
    rows = []
    for i in range(0, len(stream[0]), T):
        tokens, labels = (part[i : i + T] for part in stream)
        begins = [token == tokenizer.start_id for token in tokens[1:]]
        numbers = [1, *(1 + sum(begins[: n + 1]) for n in range(len(begins)))]
        missing = T - len(tokens)
        padding = ([tokenizer.pad_id] * missing, [-1] * missing, [0] * missing)
        rows.append(tuple(a + b for a, b in zip((tokens, labels, numbers), padding)))
    return rows


def filled(rows, tokenizer, size):
    return rows + [([tokenizer.pad_id] * T, [-1] * T, [0] * T)] * (size - len(rows))


def test_blocks_by_hand(tmp_path):
    (tmp_path / "a.txt").write_text("ab\nc\n\nd\n", "utf8")
    data = data_of(tmp_path / "a.txt", TOKENIZERS["two"], document_ids=True, separator=" ")
    a, b, c, d, blank = (ord(x) + 4 for x in "abcd ")
    [(inputs, labels)] = read(data)
    padding = [0] * T
    assert inputs["token_ids"].tolist() == [
        [2, a, b, blank, c, 3, 2],
        [d, 0, 0, 0, 0, 0, 0],
        padding,
    ]
    assert labels.tolist() == [[a, b, blank, c, 3, -1, d], [3, -1, -1, -1, -1, -1, -1], [-1] * T]
    assert inputs["document_ids"].tolist() == [[1] * 6 + [2], [1, 0, 0, 0, 0, 0, 0], padding]
    assert data.rows == 2 and data.bytes == 5


@pytest.mark.slow
@pytest.mark.parametrize("name, chunk, part", [("one", 128, 32 * 1024), ("two", 3, 13)])
def test_blocks_are_those_of_the_stream(name, chunk, part, documents, file, monkeypatch):
    monkeypatch.setattr(block_dataset, "CHUNK", chunk)
    monkeypatch.setattr(documents_module, "PART", part)  # long documents come in parts
    tokenizer = TOKENIZERS[name]
    data = data_of(file, tokenizer, shuffle_buffer=0)
    rows = rows_of(read(data))
    expected = blocks_of(stream_of(documents, tokenizer), tokenizer)
    assert rows == filled(expected, tokenizer, -(-len(expected) // B) * B)
    assert data.bytes == sum(len("\n".join(lines).encode()) for lines in documents)
    assert data.rows == len(expected)


def test_shuffled_blocks_are_the_same_ones(documents, file):
    tokenizer = TOKENIZERS["two"]
    blocks = blocks_of(stream_of(documents, tokenizer), tokenizer)
    data = data_of(file, tokenizer, seed=5)
    epochs = [rows_of(read(data)) for _ in range(2)]
    for rows in epochs:
        assert sorted(rows) == sorted(filled(blocks, tokenizer, len(rows)))
    assert epochs[0] != epochs[1] and epochs[0][: len(blocks)] != blocks
    tf.random.set_seed(7)
    again = data_of(file, tokenizer, seed=5)
    again.seek(1, 2)
    assert rows_of(read(again)) == epochs[1][2 * B :]


def dealt(documents, tokenizer):
    """The documents of each of B rows: the next one goes where the fewest tokens wait."""
    rows, sizes = [[] for _ in range(B)], [0] * B
    for lines in documents:
        row = sizes.index(min(sizes))
        rows[row].append(lines)
        sizes[row] = len(stream_of(rows[row], tokenizer)[0])
    return rows


def test_contiguous_rows_go_on_in_the_next_batch(documents, file, monkeypatch):
    monkeypatch.setattr(block_dataset, "CHUNK", 5)
    tokenizer = TOKENIZERS["one"]
    data = data_of(file, tokenizer, contiguous=True)
    batches = read(data)
    for number, row_documents in enumerate(dealt(documents, tokenizer)):
        rows = blocks_of(stream_of(row_documents, tokenizer), tokenizer)
        assert rows_of(batches)[number::B] == filled(rows, tokenizer, len(batches))
    data.seek(0, 3)
    assert rows_of(read(data)) == rows_of(batches)[3 * B :]


@pytest.mark.slow
def test_a_long_document_is_divided_among_contiguous_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "PART", 11)
    monkeypatch.setattr(language_model, "PARTS", 2)
    monkeypatch.setattr(block_dataset, "CHUNK", 3)
    lines = ["".join(pair) for pair in itertools.product("abcde", "vwxyz")]
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf8")
    tokenizer = TOKENIZERS["two"]
    batches = read(data_of(tmp_path / "a.txt", tokenizer, contiguous=True))
    assert batches[0][0]["token_ids"][:, 0].tolist() == [tokenizer.start_id] * B
    assert len(batches) < 7  # and not 11, as one row alone would have
    labels = [np.concatenate([y[row] for _, y in batches]) for row in range(B)]
    found = [bytes(int(i) - 4 for i in row if i > 3).decode() for row in labels]
    assert sorted("".join(found).split()) == lines


@pytest.mark.slow
def test_lines_that_are_documents_stay_whole(tmp_path):
    (tmp_path / "a.txt").write_text("a  b cd\nd\n", "utf8")
    tokenizer = TOKENIZERS["one"]
    data = data_of(tmp_path / "a.txt", tokenizer, line_documents=True, shuffle_buffer=0)
    a, b, c, d = range(97, 101)
    end = tokenizer.end_id
    padding = ([end] * T, [-1] * T, [0] * T)
    assert rows_of(read(data)) == [
        ([end, a, 32, 32, b, 32, c], [a, 32, 32, b, 32, c, d], [1] * 7),
        ([d, end, d, end, end, end, end], [end, d, end, -1, -1, -1, -1], [1, 2, 2, 0, 0, 0, 0]),
        padding,
    ]


def test_a_document_without_a_token_is_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("a\n\n\u200b\n\na\n", "utf8")
    tokenizer = text.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
    data = data_of(tmp_path / "a.txt", tokenizer)
    assert rows_of(read(data))[0][:2] == ([2, 4, 3, 2, 4, 0, 0], [4, 3, -1, 4, 3, -1, -1])
    assert data.skipped["empty"] == 1


def test_what_does_not_fit_is_refused(file):
    tokenizer = TOKENIZERS["two"]
    for config, message in (
        ({"block_length": 0}, "`block_length` must be a positive integer.*Received: 0"),
        ({"batch_size": 2.5}, "`batch_size` must be a positive integer"),
        ({"contiguous": True, "shuffle_buffer": 5}, "cannot be shuffled"),
        ({"separator": None}, "`separator` must be a string"),
        ({"sentence_split": True}, "Expected no `sentence_split`"),
        ({"heading": "x"}, "`heading` must be"),
        ({"shuffle_buffer": -1}, "`shuffle_buffer` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            data_of(file, tokenizer, **config)
    with pytest.raises(FileNotFoundError):
        data_of("missing.txt", tokenizer)
