"""Reads files of named entities, a word and its tag a line, in the published tagging schemes.

Each file is converted to IOB2: an entity begins with B-TYPE and continues with I-TYPE, all other
words have O. The tags of a file decide its scheme:

- IOB2; IOB1, which uses B- only if an entity of the same type is right before;
- BILOU, BIOES and BMEWO: U, S or W is an entity of one word, L or E its last word, I or M a word in
  its middle;
- types without prefixes, such as PER, and O: neighbouring words of one type are one entity.
"""

import collections
import io
import re

import command_line
from absl import app

Row = collections.namedtuple("Row", "line, word, prefix, type")

INSIDE, LAST, SINGLE = "IM", "LE", "USW"
PREFIXED = re.compile(rf"([B{INSIDE}{LAST}{SINGLE}])-(\S+)")
# B_PER, PER-B and PER_B would be read as types.
ELSEWHERE = re.compile(rf"[B{INSIDE}{LAST}{SINGLE}]_.+|.+[-_][B{INSIDE}{LAST}{SINGLE}]")


def read(path, split="bert"):
    """The sentences of a file as lists of words and of tags in IOB2.

    A line has a word in its first column and its tag in the last one. Columns are separated by
    tabs, or by blanks if the line has no tab. An empty line, `-DOCSTART-` and a comment end a
    sentence. A line that begins with `#` is a word if it has as many columns as other lines and its
    last column is a tag: `#<tab>O`, `#hashtag<tab>B-product`. Otherwise it is a comment: `# id 7`,
    `## id<tab>a <sentence:TYPE>`.

    A file may have a character a line, also for blanks (KLUE). Blanks are left out, and `split`
    must be "characters". An entity that begins at a blank begins at the next character.

    Args:
        path: the file.
        split: how words are split, as in `SentencePacker`.

    Raises:
        UsageError: a line cannot be read, with its number; the file has no entities.
    """
    sentences = _rows(path)
    scheme = _scheme(path, sentences)
    result = []
    for rows in sentences:
        words, tags = [row.word for row in rows], _iob2(path, rows, scheme)
        blank = next((row for row in rows if row.word == " "), None)
        if blank and split != "characters":
            raise _error(
                path, blank.line, "a blank is a word, so the file has a character a line. Give "
                "--split=characters, which splits texts in the same way."
            )  # fmt: skip
        keep = [split != "characters" or bool(word.strip()) for word in words]
        words = [word for word, kept in zip(words, keep) if kept]
        if words:
            result.append((words, leave_out(tags, keep)))
    kinds = types(result)
    if not kinds:
        raise app.UsageError(f"{path} has no entities.")
    count = sum(len(words) for words, _ in result)
    names = ", ".join(kinds)
    print(f"{path}: {len(result)} sentences, {count} words, entities: {names}; tags: {scheme}")
    return result


def types(sentences):
    """The types of entities."""
    return sorted({tag[2:] for _, tags in sentences for tag in tags if tag != "O"})


def leave_out(tags, keep):
    """Removes tags in IOB2; an entity that began at a removed tag begins at the next one.

    Args:
        tags: tags of the words.
        keep: whether to keep each one.
    """
    result, begins = [], False
    for tag, kept in zip(tags, keep):
        begins = tag[0] == "B" or (begins and tag[0] == "I")
        if kept:
            result.append(f"B{tag[1:]}" if begins else tag)
            begins = False
    return result


def _error(path, line, message):
    return app.UsageError(f"{path}, line {line}: {message}")


def _rows(path):
    """The sentences as lists of `Row`."""
    # Not `splitlines`: a word may have any other white space of Unicode.
    lines = io.StringIO(command_line.read_text(path), newline=None)
    lines = [_columns(line.rstrip("\n")) for line in lines]
    plain = [c for c in lines if c and c[0][0] != "#" and c[0] != "-DOCSTART-"]
    widths = {len(columns) for columns in plain}
    tags = {"O", *(columns[-1] for columns in plain)}
    sentences = [[]]
    for number, columns in enumerate(lines, 1):
        is_word = columns and (
            columns[0][0] != "#"
            or len(columns) in widths - {1}
            and (columns[-1] in tags or PREFIXED.fullmatch(columns[-1]))
        )
        if not is_word or columns[0] == "-DOCSTART-":
            sentences.append([])
        else:
            sentences[-1].append(_row(path, number, columns))
    _check_first_column(path, lines, sentences)
    return [rows for rows in sentences if rows]


def _columns(line):
    """The columns of a line, none for an empty line; a blank that is a word is a column."""
    tag = line.strip(" \t")
    if not tag:
        return []
    if "\t" in line:
        cells = [cell.strip(" ") for cell in line.rstrip(" \t").split("\t")]
    else:
        cells = re.split(" +", tag)
        if len(cells) == 1 and line[0] == " ":
            cells = ["", *cells]
    return [cells[0] or " ", *cells[1:]]


def _row(path, number, columns):
    word, tag = columns[0], columns[-1]
    prefixed = PREFIXED.fullmatch(tag)
    if len(columns) < 2 or not tag or " " in tag or (not prefixed and ELSEWHERE.fullmatch(tag)):
        raise _error(
            path, number, "expected a word and, as the last column, a tag O, B-TYPE or I-TYPE (or "
            "with the prefixes of BIOES or BILOU, or TYPE alone). Received: "
            f"{' '.join(columns)!r}. Write the prefix first, with a hyphen; begin a comment with #."
        )  # fmt: skip
    if tag == "O":
        return Row(number, word, "O", None)
    return Row(number, word, *(prefixed.groups() if prefixed else ("", tag)))


def _check_first_column(path, lines, sentences):
    """Raises UsageError if the first column counts the words, as in CoNLL-U."""
    wide = [rows for rows in sentences if rows and len(lines[rows[0].line - 1]) > 2]
    counted = [rows for rows in wide if len(rows) > 1]
    if counted and all(
        [row.word for row in rows] == [str(i) for i in range(1, len(rows) + 1)] for rows in counted
    ):
        first = counted[0][0].line
        raise _error(
            path, first, "the first column counts the words. Received: "
            f"{' '.join(lines[first - 1])!r}. Keep only words and tags, such as by `cut -f2,3`."
        )  # fmt: skip


def _scheme(path, sentences):
    """The name of the scheme of a file's tags."""
    tagged = [row for rows in sentences for row in rows if row.prefix != "O"]
    letters = {row.prefix for row in tagged}
    if "" in letters:
        bare = next(row for row in tagged if not row.prefix)
        outside = any(row.prefix == "O" for rows in sentences for row in rows)
        if len(letters) > 1 or not outside:
            raise _error(
                path, bare.line, f"the tag {bare.type} has no prefix, and "
                f"{'other tags have one' if len(letters) > 1 else 'no word has the tag O'}. "
                "Expected O, B-TYPE and I-TYPE as the last column, or TYPE and O alone."
            )  # fmt: skip
        return "types without prefixes"
    if letters & {*"LU"}:
        return "BILOU"
    if letters & {*"MW"}:
        return "BMEWO"
    return "BIOES" if letters & {*"ES"} else _iob(path, sentences)


def _iob(path, sentences):
    """IOB2 if each I- continues an entity; IOB1 if each B- separates two entities of one type."""
    pairs = [pair for rows in sentences for pair in zip([None, *rows], rows)]
    begins = [row for before, row in pairs if not before or before.type != row.type]
    inside = next((row for row in begins if row.prefix == "I"), None)
    outside = next((row for row in begins if row.prefix == "B"), None)
    if inside and outside:
        raise _error(
            path, inside.line, f"I-{inside.type} begins an entity, as in IOB1, but in line "
            f"{outside.line} B-{outside.type} begins one that IOB1 begins with I-. Expected one "
            f"scheme: begin each entity with B-, here with B-{inside.type} (IOB2)."
        )  # fmt: skip
    return "IOB1" if inside else "IOB2"


def _iob2(path, rows, scheme):
    """The tags of a sentence in IOB2."""
    tags = []
    for before, row, behind in zip([None, *rows], rows, [*rows[1:], None]):
        if row.prefix == "O":
            tags.append("O")
            continue
        goes_on = before is not None and before.type == row.type
        if scheme in ("BILOU", "BIOES", "BMEWO"):
            _check_bounds(path, before, row, behind)
            begins = row.prefix in "B" + SINGLE
        else:
            begins = row.prefix == "B" or not goes_on
        tags.append(f"{'B' if begins else 'I'}-{row.type}")
    return tags


def _check_bounds(path, before, row, behind):
    """Raises UsageError if an entity of BILOU, BIOES or BMEWO has no beginning or no end."""
    opened = before is not None and before.type == row.type and before.prefix in "B" + INSIDE
    closes = behind is not None and behind.type == row.type and behind.prefix in INSIDE + LAST
    if row.prefix in INSIDE + LAST and not opened:
        missing = f"an entity that begins with B-{row.type} before it"
    elif row.prefix in "B" + INSIDE and not closes:
        missing = f"an entity that goes on behind it and ends with E-{row.type} or L-{row.type}"
    else:
        return
    raise _error(
        path, row.line, f"expected {missing}. Received: {row.prefix}-{row.type}. Correct the tag: "
        f"an entity of one word is S-{row.type} or U-{row.type}."
    )  # fmt: skip
