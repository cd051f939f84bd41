"""Dates in many languages, from Babel's CLDR data: real text without a download.

The source is a date in any language and style, with the target language; the target is the date in
that language: `<de> 2024년 3월 5일 화요일` -> `5. März 2024`.
"""

import collections
import datetime
import functools
import random

from babel import Locale
from babel.dates import get_date_format

LANGUAGES = ("ko", "en", "de", "fr", "es", "ja")
STYLES = ("full", "long", "medium", "short")
FIRST, LAST = datetime.date(1980, 1, 1), datetime.date(2039, 12, 31)


def all_dates():
    """Every date of the range."""
    days = (LAST - FIRST).days + 1
    return [FIRST + datetime.timedelta(days=day) for day in range(days)]


def writer(language, style):
    """A function from a date to its text. The pattern is looked up once, not for each date."""
    locale = Locale.parse(language)
    pattern = get_date_format(style, locale)
    return lambda date: pattern.apply(date, locale)


@functools.cache
def readings():
    """date -> its unambiguous strings, over all languages and styles.

    `3/4/24` is the third of April in some languages and the fourth of March in others; such strings
    are left out.
    """
    meanings = collections.defaultdict(set)
    writers = [writer(language, style) for language in LANGUAGES for style in STYLES]
    for date in all_dates():
        for write in writers:
            meanings[write(date)].add(date)
    clear = collections.defaultdict(list)
    for string, dates in meanings.items():
        if len(dates) == 1:
            clear[next(iter(dates))].append(string)
    return clear


def make_pairs(train_size, held_size, seed=0):
    """Training and held-out pairs; a held-out date is in no training pair, in any form.

    Args:
        train_size, held_size: how many pairs of each.
        seed: seed of the split and of the draws.

    Returns:
        Two lists of (source, target).
    """
    draw = random.Random(seed)
    clear = readings()
    answers = {language: writer(language, "long") for language in LANGUAGES}
    dates = sorted(clear)
    draw.shuffle(dates)
    held, train = dates[: len(dates) // 10], dates[len(dates) // 10 :]

    def pairs(dates, size):
        made = []
        for _ in range(size):
            date, language = draw.choice(dates), draw.choice(LANGUAGES)
            source = f"<{language}> {draw.choice(clear[date])}"
            made.append((source, answers[language](date)))
        return made

    return pairs(train, train_size), pairs(held, held_size)


def write_pairs(path, pairs):
    """Writes pairs as a TSV."""
    with open(path, "w", encoding="utf8", newline="\n") as file:
        file.writelines(f"{source}\t{target}\n" for source, target in pairs)
