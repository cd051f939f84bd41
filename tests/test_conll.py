"""Files of named entities in every scheme that examples/conll.py reads, and those it refuses."""

import re

import pytest
from absl import app
from scripts import imported


@pytest.fixture(scope="module")
def conll():
    with imported("conll") as module:
        yield module


@pytest.fixture
def read(conll, tmp_path):
    """Reads lines, which "|" parts; a comma stands for a tab."""

    def read(lines, split="bert"):
        path = tmp_path / "file.conll"
        path.write_text(lines.replace("|", "\n").replace(",", "\t") + "\n", "utf8")
        return conll.read(path, split)

    return read


# Three words x, two words x right behind, one word y.
WORDS = "abcdefgh"
EXPECTED = "B-x I-x I-x B-x I-x O B-y O".split()


@pytest.mark.parametrize(
    "scheme, tags",
    [
        ("IOB2", "B-x I-x I-x B-x I-x O B-y O"),
        ("IOB1", "I-x I-x I-x B-x I-x O I-y O"),
        ("BILOU", "B-x I-x L-x B-x L-x O U-y O"),
        ("BIOES", "B-x I-x E-x B-x E-x O S-y O"),
        ("BMEWO", "B-x M-x E-x B-x E-x O W-y O"),
    ],
)
def test_a_scheme_is_found_and_becomes_iob2(scheme, tags, read, capsys):
    lines = "|".join(map(",".join, zip(WORDS, tags.split())))
    assert read(lines) == [([*WORDS], EXPECTED)]
    assert capsys.readouterr().out.endswith(
        f"file.conll: 1 sentences, 8 words, entities: x, y; tags: {scheme}\n"
    )


def test_an_entity_ends_with_its_sentence_and_with_another_type(read):
    assert read("a I-x||b I-x|c I-y") == [(["a"], ["B-x"]), (["b", "c"], ["B-x", "B-y"])]
    assert read("a B-x||b B-y|c B-y")[1] == (["b", "c"], ["B-y", "B-y"])


def test_types_may_stand_without_prefixes(read, capsys):
    found = read("a person|b person|c creative-work|d O|e person")
    assert found == [([*"abcde"], ["B-person", "I-person", "B-creative-work", "O", "B-person"])]
    assert "tags: types without prefixes" in capsys.readouterr().out


def test_a_number_sign_begins_a_comment_or_a_word(read):
    lines = "-DOCSTART- -X- O|# id 7|#,O|#tag,B-x|##,I-x||# text = a O|# a,b,O|a,B-x|# id 8|b,O"
    assert read(lines) == [
        (["#", "#tag", "##"], ["O", "B-x", "I-x"]),
        (["a"], ["B-x"]),
        (["b"], ["O"]),
    ]
    lines = "# id O|EU NN B-NP B-x|# NN I-NP I-x|# id = 7"  # as CoNLL-2003's
    assert read(lines) == [(["EU", "#"], ["B-x", "I-x"])]
    assert read("a x|# x|# y|b O") == [(["a", "#"], ["B-x", "I-x"]), (["b"], ["O"])]


def test_white_space_other_than_blanks_belongs_to_a_word(read):
    found = read("New York,B-x|a\u3000b,X,I-x|\x85 I-x|,|  c  O ")
    assert found == [(["New York", "a\u3000b", "\x85"], ["B-x", "I-x", "I-x"]), (["c"], ["O"])]


KLUE = (
    "## 토큰 구분자 : \\n|## 컬럼명 : CHAR,NE_TAG|## klue_0,<한 군:QT>서 <# 나:PS>|"
    "한,B-QT| ,I-QT|군,I-QT|서,O| ,B-PS|#,I-PS| ,I-PS|나,I-PS||"
    "## klue_1,  <y:LC>|\u3000,B-LC| ,I-LC|y,I-LC"
)


def test_a_file_of_characters_loses_its_blanks_and_no_entity(read):
    assert read(KLUE, "characters") == [
        (["한", "군", "서", "#", "나"], ["B-QT", "I-QT", "O", "B-PS", "I-PS"]),
        (["y"], ["B-LC"]),
    ]
    assert read("a B-x|  O|b O", "characters") == [(["a", "b"], ["B-x", "O"])]  # no tab
    assert read("a,B-x|,O|b,O", "characters") == [(["a", "b"], ["B-x", "O"])]  # a lost blank


@pytest.mark.parametrize(
    "line, message",
    [
        ("alone", "expected a word and, as the last column, a tag O, B-TYPE or I-TYPE"),
        ("word person_B", "Received: 'word person_B'. Write the prefix first, with a hyphen"),
        ("word B_person", "Received: 'word B_person'"),
        ("word,a tag", "Received: 'word a tag'"),
        ("word person", "the tag person has no prefix, and other tags have one"),
        ("word o", "the tag o has no prefix"),
        ("word I-person", "I-person begins an entity, as in IOB1, but in line 1 B-person begins"),
        ("word L-location", "an entity that begins with B-location before it. Received: L-l"),
        (" ,O", "a blank is a word, so the file has a character a line. Give --split=characters"),
    ],
)
def test_a_malformed_row_is_an_error_with_file_and_line(line, message, read, tmp_path):
    begin = "anna,U-person||oslo,U-location" if "L-" in line else "anna,B-person||oslo,B-location"
    with pytest.raises(app.UsageError, match=re.escape(message)) as error:
        read(f"{begin}||{line}" if "L-" in line else f"{begin}|{line}")
    assert str(error.value).startswith(f"{tmp_path / 'file.conll'}, line {4 + ('L-' in line)}: ")


@pytest.mark.parametrize(
    "lines, number, message",
    [
        ("a S-x|b B-x|c O", 2, "an entity that goes on behind it and ends with E-x or L-x"),
        ("a S-x|b B-x|c I-x", 3, "an entity that goes on behind it"),
        ("a S-x|b B-x|c E-y", 2, "an entity that goes on behind it"),
        ("a NN|b VB", 1, "the tag NN has no prefix, and no word has the tag O"),
        ("1,a,B-x|2,b,O||1,c,O", 1, "the first column counts the words. Received: '1 a B-x'."),
    ],
)
def test_what_no_scheme_allows_is_named(lines, number, message, read):
    with pytest.raises(app.UsageError, match=f"line {number}: .*{re.escape(message)}"):
        read(lines)


def test_a_file_without_entities_is_refused(read):
    for lines in ("a O|b O", "# id 1", "", "# O"):
        with pytest.raises(app.UsageError, match="has no entities"):
            read(lines)
