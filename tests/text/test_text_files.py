"""Text files of all pipelines and learners: packed by gzip, named by patterns, drawn from."""

import collections
import functools
import gzip
import pathlib

import forked
import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import text
from keras_xfmr.text.data import files as module
from keras_xfmr.text.data.files import TextFiles

LINES = [f"line {i} é" for i in range(1009)]
CONTENT = "\n".join(LINES).encode()  # without a line feed at the end


def lines_of(paths, size=101):
    """The lines by both readers, which must agree."""
    files = TextFiles(paths)
    in_graph, in_turn = [], []
    for index, reader in enumerate(files.readers()):
        in_graph += [line.decode() for line in files.dataset(index).as_numpy_iterator()]
        while lines := reader.take(size):
            assert len(lines) <= size
            in_turn += [line.decode().rstrip("\n") for line in lines]
    assert in_graph == in_turn
    return in_graph


# ---- gzip


@pytest.mark.parametrize("piece", [1 << 16, 7])
def test_a_packed_file_has_the_lines_of_the_plain_one(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE", piece)
    packed = tmp_path / "corpus"  # the name says nothing
    packed.write_bytes(gzip.compress(CONTENT))
    assert lines_of(packed) == LINES
    packed.write_bytes(gzip.compress(CONTENT + b"\n\n") + gzip.compress(b"a") + gzip.compress(b""))
    assert lines_of(packed) == [*LINES, "", "a"]
    (tmp_path / "plain").write_bytes(CONTENT)
    assert lines_of([tmp_path / "plain", packed]) == [*LINES, *LINES, "", "a"]


def test_a_file_that_is_named_twice_is_taken_once(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text(f"{name}\n")
    assert lines_of([tmp_path / "b", tmp_path / "*", tmp_path / "b"]) == ["b", "a"]


@pytest.mark.parametrize(
    "damage, what",
    [
        (lambda packed: packed[: len(packed) // 2], "its end is missing"),
        (lambda packed: packed[:-8], "its end is missing"),
        (lambda packed: packed[:-1], "its end is missing"),
        (lambda packed: packed[:10], "its end is missing"),
        (lambda packed: packed + packed[:99], "its end is missing"),
        (lambda packed: packed[:-8] + b"\0" + packed[-7:], "incorrect data check"),
        (lambda packed: packed[:300] + packed[400:], "invalid"),
        (lambda packed: packed + b"no packed text", "incorrect header check"),
    ],
)
def test_a_damaged_file_is_named(damage, what, tmp_path):
    path = tmp_path / "a.txt.gz"
    packed = gzip.compress(CONTENT)
    path.write_bytes(packed)
    TextFiles(path)  # which is remembered
    path.write_bytes(damage(packed))
    message = f"a.txt.gz is packed by gzip, and damaged.*gzip -t.*Received: .*{what}"
    with pytest.raises(ValueError, match=message):
        text.Documents(path)


def test_an_empty_member_behind_which_tensorflow_reads_nothing_is_refused(tmp_path):
    """When TensorFlow reads on, the check can go."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"a\n", mtime=0) + gzip.compress(b"") + gzip.compress(b"b\n"))
    lines = tf.data.TextLineDataset(str(path), compression_type="GZIP")
    assert list(lines.as_numpy_iterator()) == [b"a"]
    with pytest.raises(ValueError, match="a.gz is packed by gzip, with an empty member in its mid"):
        TextFiles(path)


def test_a_whole_file_is_unpacked_once(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(CONTENT))
    TextFiles(tmp_path / "a.gz")
    before = module._unpack_once.cache_info()
    TextFiles(tmp_path / "a.gz")
    after = module._unpack_once.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (1, 0)


@pytest.mark.parametrize(
    "content, message",
    [
        (gzip.compress(b"a\n", mtime=0), "a.gz is packed by gzip twice; .*gunzip < FILE"),
        ("a text\n".encode("utf-16"), "a.gz looks like UTF-16"),
        (b"a\rb\r", "a.gz has a carriage return inside a line, at byte 1;"),
        (b"a.txt" + b"\0" * 252 + b"ustar  \0" + b"\0" * 999, "a.gz is packed by tar; .*tar -xf"),
        (b"\n \n", "a.gz has no text"),
        (b"", "a.gz has no text"),
    ],
)
def test_what_is_packed_is_checked_as_plain_text_is(content, message, tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message):
        text.Documents(tmp_path / "a.gz")


def test_the_beginning_of_a_packed_file_is_bounded(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"a b\n" * 250_000 + b"c\rd\n"))
    with pytest.raises(ValueError, match="carriage return inside a line, at byte 1000001"):
        TextFiles(tmp_path / "a.gz")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"a b\n" * 270_000 + b"c\rd\n"))
    TextFiles(tmp_path / "b.gz")  # a plain one is not read so far either


def test_a_bad_line_of_a_packed_file_is_named(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"a\nb\n\xff\n"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="a.gz:3: not valid UTF-8"):
        list(text.Documents(tmp_path / "a.gz").parts())
    with pytest.raises(ValueError, match="a.gz:3: not valid UTF-8"):
        text.learn_characters(tmp_path / "a.gz")


def test_pairs_of_packed_files(tmp_path):
    sides = ["a b\nc\n", "d\ne f\n"]
    for side, content in zip("xy", sides):
        (tmp_path / f"1.{side}.gz").write_bytes(gzip.compress(content.encode()))
        (tmp_path / f"2.{side}.gz").write_bytes(content[::-1].strip().encode())  # a plain one
    tokenizer = text.ByteTokenizer()
    pairs = text.PairDataset(
        str(tmp_path / "*.x.gz"), tokenizer, tokenizer, target=str(tmp_path / "*.y.gz")
    )
    assert [[side.decode() for side in pair] for pair in pairs.pairs().as_numpy_iterator()] == [
        ["a b", "d"], ["c", "e f"], ["c", "f e"], ["b a", "d"]
    ]  # fmt: skip
    rows = b"a\tb\nc\td\n"
    (tmp_path / "a.tsv").write_bytes(gzip.compress(rows))
    pairs = text.PairDataset(tmp_path / "a.tsv", tokenizer, tokenizer, batch_size=5)
    assert len(list(pairs.dataset())) == 1 and pairs.rows == 2


MEASURE = """
import resource, sys
from keras_xfmr import text

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

list(text.Documents(sys.argv[1]).parts())
text.learn_words(sys.argv[1], 11, sample=101)
before = peak()
for _ in text.Documents(sys.argv[2]).parts():
    pass
text.learn_words(sys.argv[2], 11, sample=101)
print(before, peak())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_what_was_packed(tmp_path):
    line = b"the same words again and again\n"
    for name, count in (("few", 10_007), ("many", 2_000_003)):
        with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
            for _ in range(count // 1000):
                file.write(line * 1000)
    assert (tmp_path / "many").stat().st_size < 2e6  # 62 MB of text
    root = pathlib.Path(__file__).parents[2]
    run = forked.run(
        "-c", MEASURE, tmp_path / "few", tmp_path / "many", PYTHONPATH=str(root)
    )
    assert run.returncode == 0, run.stderr
    before, after = map(int, run.stdout.split())
    assert after - before < 40, f"{before} MB before, {after} MB after"


# ---- patterns


def test_the_files_of_a_pattern_are_in_the_order_of_their_names(tmp_path):
    for name in ("b.txt", "a.txt", "c.txt", "d.md", "10.txt", "a*.txt"):
        (tmp_path / name).write_text(name)
    assert lines_of(f"{tmp_path}/[!1]*.txt") == ["a*.txt", "a.txt", "b.txt", "c.txt"]
    assert lines_of([tmp_path / "d.md", tmp_path / "?.txt"]) == ["d.md", "a.txt", "b.txt", "c.txt"]
    assert lines_of(tmp_path / "a*.txt") == ["a*.txt"]  # there is a file of this very name


def test_a_pattern_without_a_file_is_named(tmp_path):
    for paths in (f"{tmp_path}/*.txt", [tmp_path / "no[abc]"], pathlib.Path(tmp_path, "?")):
        with pytest.raises(FileNotFoundError, match="No text file matches the pattern"):
            TextFiles(paths)
        with pytest.raises(FileNotFoundError, match="No text file matches the pattern"):
            text.learn_words(paths, 7)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="Received: a folder"):
        TextFiles(f"{tmp_path}/f*")


# ---- samples


def drawn(path, size, seed=0):
    """The distinct lines that a sample has: each is one character of its own."""
    return text.learn_characters(path, sample=size, seed=seed).get_vocabulary()[4:]


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory):
    """2,003 lines of a character each, in a packed file and two plain ones."""
    folder = tmp_path_factory.mktemp("alphabet")
    lines = [f"{chr(0xAC00 + i)}\n".encode() for i in range(2003)]
    (folder / "1.gz").write_bytes(gzip.compress(b"".join(lines[:1009])))
    (folder / "2").write_bytes(b"".join(lines[1009:1500]))
    (folder / "3").write_bytes(b"".join(lines[1500:]))
    return folder


def test_a_sample_is_drawn_from_all_of_the_text(alphabet):
    files = f"{alphabet}/*"
    lines = text.Documents(files, sentence_split=False).sentences()
    for texts in (files, lines):
        found = drawn(texts, 211)
        assert len(found) == 211 and drawn(texts, 211) == found != drawn(texts, 211, seed=5)
        place = np.array([ord(character) - 0xAC00 for character in found])
        # Quarters of the text have about the same share: 53 of 211, give or take 6.3.
        assert min(np.bincount(place // 501)) > 30
    assert len(drawn(files, 5000)) == 2003


def test_every_line_has_the_same_odds(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{letter}\n" for letter in "abcdefghijk"))
    counts = collections.Counter()
    for seed in range(330):
        counts.update(drawn(path, 3, seed))
    # 90 each, with a standard deviation of 8.1.
    assert sum(counts.values()) == 990 and 58 < min(counts.values()) <= max(counts.values()) < 122


LEARN = {
    "words": functools.partial(text.learn_words, vocab_size=29),
    "sentence_piece": functools.partial(text.learn_sentence_piece, vocab_size=29),
    "bert_sentence_piece": functools.partial(text.learn_bert_sentence_piece, vocab_size=29),
    "word_piece": functools.partial(text.learn_word_piece, vocab_size=29),
    "bert_word_piece": functools.partial(text.learn_bert_word_piece, vocab_size=29),
    "byte_pair": functools.partial(text.learn_byte_pair, vocab_size=283),
}


@pytest.mark.parametrize("learn", LEARN.values(), ids=LEARN)
def test_every_learner_draws_from_packed_files(learn, tmp_path):
    lines = [f"{a}{b} {b}{a}" for a in "abcdefg" for b in "abcdefg"]
    (tmp_path / "a.gz").write_bytes(gzip.compress("\n".join([*lines, "\0"]).encode()))
    assert learn(f"{tmp_path}/*.gz", sample=23, seed=1).vocab_size > 9  # without the last line
    with pytest.raises(ValueError, match="a.gz:50: not valid UTF-8, or with a NUL"):
        learn(f"{tmp_path}/*.gz", sample=50)
    for bad in ({"sample": 0}, {"sample": 2.5}, {"seed": -1}):
        with pytest.raises(ValueError, match="`(sample|seed)` must be"):
            learn(tmp_path / "a.gz", **bad)


def test_a_bad_line_that_is_drawn_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\n" * 5 + b"\xff\n")
    with pytest.raises(ValueError, match="a.txt:6: not valid UTF-8"):
        text.learn_characters(tmp_path / "a.txt", sample=7)
