"""BERT's control characters, punctuation and marks, from Unicode 8.

Published BERT models were made with that version. The ranges are written out, because the classes
of a regular expression change with the version of TensorFlow that serves a SavedModel. This command
makes `unicode_8.json` from https://www.unicode.org/Public/8.0.0/ucd/UnicodeData.txt:

    python -m keras_xfmr.text.unicode_ranges UnicodeData.txt
"""

import json
import pathlib
import sys
import textwrap

FILE = pathlib.Path(__file__).with_name("unicode_8.json")
# White space that is not a control character here, and the character that replaces broken text.
KEPT, BROKEN = {0x9, 0xA, 0xD}, 0xFFFD
ASCII_SYMBOLS = {ord(x) for x in "$+<=>^`|~"}  # punctuation to BERT, symbols to Unicode


def read_categories(lines):
    """Code point -> general category, from the lines of a `UnicodeData.txt`."""
    categories, first = {}, None
    for line in lines:
        code, name, category, *_ = line.split(";")
        code = int(code, 16)
        if name.endswith(", First>"):
            first = code
        start = first if name.endswith(", Last>") else code
        categories.update(dict.fromkeys(range(start, code + 1), category))
    return categories


def classes_of(categories):
    """Name of a class -> its code points, as the tokenizer of BERT has them."""

    def among(*wanted):
        return {code for code, category in categories.items() if category in wanted}

    return {
        "control": (among("Cc", "Cf", "Co") | {BROKEN}) - KEPT,
        "punctuation": among("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po") | ASCII_SYMBOLS,
        "marks": among("Mn"),
    }


def as_ranges(codes):
    """Code points as hexadecimal ranges, such as `"9-a d"`."""
    pairs = []
    for code in sorted(codes):
        if pairs and code == pairs[-1][1] + 1:
            pairs[-1][1] = code
        else:
            pairs.append([code, code])
    return " ".join(f"{a:x}" if a == b else f"{a:x}-{b:x}" for a, b in pairs)


def load_ranges():
    """Name of a class -> its ranges."""
    content = json.loads(FILE.read_text("utf8"))
    return {name: " ".join(lines) for name, lines in content.items()}


def main(path):
    with open(path, encoding="utf8") as lines:
        classes = classes_of(read_categories(lines))
    content = {
        name: textwrap.wrap(as_ranges(codes), 96, break_on_hyphens=False)
        for name, codes in classes.items()
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n", "utf8")


if __name__ == "__main__":
    main(sys.argv[1])
