"""Strings that tell tokenizers apart, made from a seed."""

import random

# First and last code point, each block with what makes it hard.
BLOCKS = (
    (0x20, 0x7E),  # ASCII
    (0x00, 0x1F),  # controls, white space among them
    (0x7F, 0x24F),  # Latin with accents
    (0x300, 0x36F),  # combining marks
    (0x370, 0x52F),  # Greek with its final sigma, Cyrillic
    (0x590, 0x6FF),  # Hebrew and Arabic: right to left, points, format characters
    (0x900, 0xDFF),  # Indic scripts, spacing and nonspacing marks
    (0xE00, 0xFFF),  # Thai, Lao, Tibetan
    (0x1100, 0x11FF),  # Hangul letters
    (0xAC00, 0xD7A3),  # Hangul syllables
    (0x1E00, 0x1FFF),  # Vietnamese, old Greek
    (0x2000, 0x206F),  # blanks, joiners, directions, dashes
    (0x2100, 0x2BFF),  # symbols
    (0x2E00, 0x30FF),  # punctuation, kana
    (0x3400, 0x4DBF),  # CJK ideographs
    (0x4E00, 0x9FFF),
    (0x1CF00, 0x1D7FF),  # musical notes, mathematical letters
    (0x1F000, 0x1FAFF),  # emoji
    (0x20000, 0x2FA1F),  # rare and compatibility ideographs
    (0xE000, 0xFFFF),  # private use, ligatures, wide letters, U+FFFD, byte order mark
    (0xE0000, 0xE01EF),  # tags, variation selectors
    (0, 0x10FFFF),  # anything, also what no script has yet
)
WORDS = (
    "the playing unaffable Straße Ἀθῆναι ΟΔΟΣ İstanbul naïve Ångström москва "
    "안녕하세요 오늘은 영화가 東京タワー नमस्ते สวัสดี שלום مرحبا don't e-mail U.S.A. 3.14 "
    "[MASK] [CLS] [SEP] [PAD] [UNK] ##ing 👩‍🚀 🇰🇷 ✌🏽 ﬁle ①② Ⅷ ㎏ C++ a_b http://x.y/z?q=1"
).split()


def character(rng):
    first, last = rng.choice(BLOCKS)
    while 0xD800 <= (code := rng.randint(first, last)) <= 0xDFFF:
        pass
    return chr(code)


def string(rng):
    kind = rng.randrange(6)
    if kind == 0:  # one block only: words of one script
        first, last = rng.choice(BLOCKS[:-1])
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randrange(23)))
    if kind == 1:  # everything mixed
        return "".join(character(rng) for _ in range(rng.randrange(29)))
    if kind == 2:  # words with something in, before or after them
        words = [rng.choice(WORDS) for _ in range(rng.randint(1, 7))]
        return rng.choice(("", " ", "  ", character(rng))).join(words)
    if kind == 3:  # a word about as long as words may be
        letter = rng.choice("aé한ж字🙂") if rng.random() < 0.5 else character(rng)
        return letter * rng.randint(95, 105) + rng.choice(("", " x", "."))
    if kind == 4:  # letters with marks upon marks
        marks = [chr(rng.randint(0x300, 0x36F)) for _ in range(rng.randrange(5))]
        return "".join(rng.choice(WORDS)) + "".join(marks) + rng.choice(WORDS)
    return "".join(c + rng.choice(("", character(rng))) for c in rng.choice(WORDS))


def strings(count, seed):
    rng = random.Random(seed)
    return ["", " ", "\n", *(string(rng) for _ in range(count - 3))]
