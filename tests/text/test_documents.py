"""`Documents`: which lines of which files stand together."""

import bz2
import re

import pytest
import tensorflow as tf

from keras_xfmr.text.data import documents as module
from keras_xfmr.text.data.documents import Documents


def read(documents):
    """Lists of segments, one for each part, and the numbers of the documents."""
    found = [(s, n) for s, n in documents.parts().as_numpy_iterator()]
    return [[s.decode() for s in segments] for segments, _ in found], [int(n) for _, n in found]


@pytest.fixture
def file(tmp_path):
    def write(content, name="a.txt"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write


def test_blank_lines_and_the_ends_of_files_divide_documents(file):
    files = [file("\n\na\nb\n\n \t\nc\n"), file("d\n\ne", "b.txt")]
    documents = Documents(files)
    parts, numbers = read(documents)
    assert parts == [["a", "b"], ["c"], ["d"], ["e"]]
    assert len(set(numbers)) == 4
    assert documents.skipped == {"blank": 5, "heading": 0, "utf8": 0}


def test_headings_of_wikitext_divide_documents_and_are_left_out(file):
    wikitext = " \n = One = \n \n a \n = b \n \n = = Part = = \n \n c \n = = = Deep = = = \n d \n"
    documents = Documents(file(wikitext + " = Two = \n \n e \n f = \n"), heading="wikitext")
    assert read(documents)[0] == [["a", "= b", "c", "d"], ["e", "f ="]]
    assert documents.skipped == {"blank": 5, "heading": 4, "utf8": 0}


def test_each_line_may_be_a_document_of_two_sentences_or_halves(file):
    lines = "One two  three\tfour five\n\nIt ends. This begins.\nalone\n정말 좋다\n"
    documents = Documents(file(lines), line_documents=True)
    parts, numbers = read(documents)
    assert parts[:2] == [["One two three", "four five"], ["It ends.", "This begins."]]
    assert parts[2:] == [["alone"], ["정말", "좋다"]]
    assert len(set(numbers)) == 4 and documents.skipped["blank"] == 1
    whole = Documents(file(lines), line_documents=True, sentence_split=False)
    assert read(whole)[0][1] == ["It ends.", "This begins."]
    assert read(Documents(file("a b\n c d e \n"), line_documents=True))[0] == [
        ["a", "b"],
        ["c d", "e"],
    ]


def test_files_may_be_where_tensorflow_reads_them():
    with tf.io.gfile.GFile("ram://documents.txt", "w") as file:
        file.write("a\n\nb\n")
    assert read(Documents("ram://documents.txt"))[0] == [["a"], ["b"]]


def test_white_space_of_unicode_is_a_blank_line(file):
    documents = Documents(file("a\n\u00a0\nb\n\u3000 \t\nc\n\u2003\nd\n"))
    assert read(documents) == ([["a"], ["b"], ["c"], ["d"]], [1, 2, 3, 4])
    assert documents.skipped["blank"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"sentence_split": False}, {"line_documents": True}], ids=str
)
def test_a_line_longer_than_a_part_is_cut_between_words(options, file):
    words = [f"word{i}" for i in range(7001)]  # 60 kB
    assert len(" ".join(words[:3500])) < module.PART < len(" ".join(words[:5000]))
    documents = Documents(file(" ".join(words) + "\nshort line\n"), **options)
    parts, numbers = read(documents)
    segments = [segment for part in parts for segment in part]
    long = [segment for segment in segments if segment.startswith("word")]
    assert " ".join(long).split() == words and len(parts) > 1
    assert max(len(segment.split()) for segment in long) == 256
    assert sum(map(len, segments[: len(long)])) == sum(map(len, long))  # the short one comes last


def test_a_byte_order_mark_and_crlf_are_taken_off(file):
    documents = Documents(file("\ufeffé\r\nb\r\n\r\n\ufeffc\r\n"))
    assert read(documents)[0] == [["é", "b"], ["c"]]


SENTENCES = [
    ("one sentence without an end", None),
    ("It ends. This begins! And so? Yes", ["It ends.", "This begins!", "And so?", "Yes"]),
    ('He said "No." Then (he left.) Well', ['He said "No."', "Then (he left.)", "Well"]),
    (
        "J. R. Smith paid 3.5. 5 were left . The end .",
        ["J. R. Smith paid 3.5.", "5 were left .", "The end ."],
    ),
    ("It was 3 a.m. and dark... still dark", None),
    ("네. 응. 아. 오. 이. 그", ["네.", "응.", "아.", "오.", "이.", "그"]),
    ("1. 2. 3. 4. 5!  6", ["1.", "2.", "3.", "4.", "5!", "6"]),
    ('"네." "응." "아." A. B. 가.', ['"네."', '"응."', '"아."', "A. B. 가."]),
    ("끝났다. 시작한다. 그래", ["끝났다.", "시작한다.", "그래"]),
    ("終わり。始まり！「本当？」はい", ["終わり。", "始まり！", "「本当？」", "はい"]),
]


def test_sentences(file):
    lines = [line for line, _ in SENTENCES]
    content = "\n\n".join(f"{line}\n{line}" for line in lines)  # a document of two lines each
    parts, _ = read(Documents(file(content)))
    for part, (line, sentences) in zip(parts, SENTENCES, strict=True):
        assert part == (sentences or [line]) * 2
    parts, _ = read(Documents(file("\n\n".join(lines)), sentence_split=False))
    assert parts == [[line] for line in lines]


def test_a_document_may_span_chunks_and_a_long_one_comes_in_parts(file, monkeypatch):
    monkeypatch.setattr(module, "LINES", 7)
    monkeypatch.setattr(module, "PART", 101)
    lines = [f"line {i:02}" for i in range(53)]  # 7 bytes each
    content = "\n".join(lines[:3]) + "\n\n" + "\n".join(lines[3:40]) + "\n\n" * 11
    content += "\n".join(lines[40:]) + "\n" + "x" * 1009 + "\ny\n"
    parts, numbers = read(Documents(file(content)))
    # A part ends with the segment that passes 101 bytes, counted from where the part began.
    assert [len(part) for part in parts] == [3, 15, 15, 7, 14, 1]
    assert sum(parts, []) == [*lines, "x" * 1009, "y"]
    assert numbers[1] == numbers[2] == numbers[3] and numbers[4] == numbers[5]
    assert len(set(numbers)) == 3


def test_sentences_are_the_segments_of_all_documents(file):
    documents = Documents(file("a\n\nb. C\n\n"))
    for _ in range(2):
        assert [s.decode() for s in documents.sentences().as_numpy_iterator()] == ["a", "b.", "C"]
        assert documents.skipped["blank"] == 2


def test_files_take_turns_when_sentences_are_sampled(file, monkeypatch):
    monkeypatch.setattr(module, "LINES", 7)
    files = [file("a. A\n" * 97), file("b\n" * 11, "b.txt"), file("c\n" * 53, "c.txt")]
    found = b"".join(s[:1] for s in Documents(files).sentences().as_numpy_iterator()).decode()
    assert found[:35] == "aA" * 7 + "b" * 7 + "c" * 7 + "aA" * 3 + "a"
    assert [found.count(letter) for letter in "aAbc"] == [97, 97, 11, 53]


def test_a_line_that_is_not_utf8_stops_with_file_and_line_or_is_counted(file):
    files = [file(b"a\n"), file(b"b\n\nc \xff\nd\n\xed\xa0\x80\n", "b.txt")]
    message = re.escape(f"{files[1]}:3: not valid UTF-8") + ".*pass on_bad_line="
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        read(Documents(files))
    documents = Documents(files, on_bad_line="skip")
    assert read(documents)[0] == [["a"], ["b"], ["d"]]
    assert documents.skipped == {"blank": 1, "heading": 0, "utf8": 2}


def test_a_line_with_a_nul_character_is_bad_too(file):
    path = file(b"a line of text\n" * 101 + b"a\0b\n")
    with pytest.raises(tf.errors.InvalidArgumentError, match="a.txt:102: not valid UTF-8, or with"):
        read(Documents(path))
    documents = Documents(path, on_bad_line="skip")
    assert read(documents)[0] == [["a line of text"] * 101] and documents.skipped["utf8"] == 1


@pytest.mark.parametrize("on_bad_line", ["raise", "skip"])
def test_utf_16_and_packed_files_are_named(on_bad_line, file):
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        for content in ("A sentence. Another.\r\n", "짧은 문장이다. 또 하나.\n"):
            path = file(content.encode(encoding))
            with pytest.raises(ValueError, match="a.txt looks like UTF-16.*iconv -f UTF-16"):
                Documents(path, on_bad_line=on_bad_line)
    with pytest.raises(ValueError, match="a.txt.bz2 is packed by bzip2.*bunzip2"):
        Documents(file(bz2.compress(b"a\n"), "a.txt.bz2"), on_bad_line=on_bad_line)


def test_arguments_that_do_not_fit_are_refused(file, tmp_path):
    with pytest.raises(FileNotFoundError, match="No text file at .*no.txt"):
        Documents([file("a"), tmp_path / "no.txt"])
    with pytest.raises(FileNotFoundError, match="No text file at .*Received: a folder"):
        Documents(tmp_path)
    with pytest.raises(ValueError, match="a.txt has no text"):
        Documents(file(b"\n \r\n\t\n"))
    with pytest.raises(ValueError, match="a.txt has a carriage return inside a line, at byte 2;"):
        Documents(file(b"a.\rb.\r"))
    with pytest.raises(ValueError, match="`files` names no file"):
        Documents([])
    with pytest.raises(ValueError, match="`heading` must be None or 'wikitext'"):
        Documents(file("a"), heading="markdown")
    with pytest.raises(ValueError, match="`on_bad_line` must be"):
        Documents(file("a"), on_bad_line="ignore")


def test_lines_are_counted_from_the_first_chunk_on(file, monkeypatch):
    monkeypatch.setattr(module, "LINES", 7)
    path = file(b"a\n" * 16 + b"\xff\n")
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(f"{path}:17: not valid")):
        read(Documents(path))


def test_carriage_returns_are_looked_for_in_the_first_megabyte(file):
    with pytest.raises(ValueError, match="carriage return inside a line, at byte 1000001"):
        Documents(file(b"a b\n" * 250_000 + b"c\rd\n"))
