"""The classes of characters that BERT's words are cut by, and how their file is made."""

import unicodedata

from keras_xfmr.text import unicode_ranges


def test_the_generator_reads_unicode_s_file():
    lines = [
        "0009;<control>;Cc;0;S;;;;;N;CHARACTER TABULATION;;;;",
        "0001;<control>;Cc;0;BN;;;;;N;START OF HEADING;;;;",
        "0021;EXCLAMATION MARK;Po;0;ON;;;;;N;;;;;",
        "0022;QUOTATION MARK;Po;0;ON;;;;;N;;;;;",
        "0041;LATIN CAPITAL LETTER A;Lu;0;L;;;;;N;;;;0061;",
        "0300;COMBINING GRAVE ACCENT;Mn;230;NSM;;;;;N;NON-SPACING GRAVE;;;;",
        "E000;<Private Use, First>;Co;0;L;;;;;N;;;;;",
        "F8FF;<Private Use, Last>;Co;0;L;;;;;N;;;;;",
    ]
    classes = unicode_ranges.classes_of(unicode_ranges.read_categories(lines))
    ranges = {name: unicode_ranges.as_ranges(codes) for name, codes in classes.items()}
    assert ranges["control"] == "1 e000-f8ff fffd"
    assert ranges["punctuation"] == "21-22 24 2b 3c-3e 5e 60 7c 7e"
    assert ranges["marks"] == "300"


def test_the_file_agrees_with_python_s_unicode():
    """Where Unicode 3.2 and today's agree on a character, Unicode 8 does not differ."""
    categories = {}
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category not in ("Cn", "Cs") and category == unicodedata.ucd_3_2_0.category(chr(code)):
            categories[code] = category
    expected = unicode_ranges.classes_of(categories)
    for name, ranges in unicode_ranges.load_ranges().items():
        pairs = [item.partition("-") for item in ranges.split()]
        found = {code for a, _, b in pairs for code in range(int(a, 16), int(b or a, 16) + 1)}
        special = {0xFFFD} | unicode_ranges.ASCII_SYMBOLS
        assert (found - special) & set(categories) == expected[name] - special
        assert expected[name] <= found
