"""Fonts and saving, shared by all pictures."""

import contextlib
import functools
import os
import re
import unicodedata
import warnings

try:
    import matplotlib
    from matplotlib import font_manager
except ImportError as error:
    raise ImportError(
        "`keras_xfmr.viz` needs matplotlib. Install the extra `viz` of the clone: "
        "pip install -e '.[viz]'"
    ) from error

Path = str | os.PathLike[str]

# Fonts with Hangul, kana and ideographs, if one is installed.
WIDE_FONTS = (
    "Noto Sans CJK KR", "Noto Sans CJK JP", "NanumGothic", "UnDotum", "Malgun Gothic",
    "Apple SD Gothic Neo", "AppleGothic", "Hiragino Sans",
)  # fmt: skip
# What the names of their files begin with.
WIDE_FILES = (
    "notosanscjk", "nanumgothic", "undotum", "malgun", "applesdgothicneo", "applegothic",
    "hiragino",
)  # fmt: skip

SIGNS = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}
# Joiners and tags are parts of a visible character, such as an emoji of several.
JOINING = re.compile("[\u200c\u200d\U000e0020-\U000e007f]")
# No format character by its category: fillers of Hangul, variation selectors.
FILLING = re.compile("[\u034f\u115f\u1160\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def fonts():
    return [*(_wide_fonts() or _newly_installed()), "DejaVu Sans"]


def _wide_fonts():
    known = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in WIDE_FONTS if name in known]


@functools.cache
def _newly_installed():
    """Wide fonts that matplotlib does not know, because it keeps a list from an earlier day."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        name = os.path.basename(path).replace("-", "").replace(" ", "").lower()
        if path not in known and name.startswith(WIDE_FILES):
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # no font after all
                font_manager.fontManager.addfont(path)
    return _wide_fonts()


def shown(token):
    """A token in which what is invisible, or would turn the text around it, has a sign or number.

    Spaces, joiners and fillers have one only where nothing else stands.
    """
    every = all(one.isspace() or _is_hidden(one) or FILLING.match(one) for one in token)
    return "".join(
        _numbered(one) if every or _is_hidden(one) and not JOINING.match(one) else one
        for one in token
    )


def _is_hidden(one):
    return unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _numbered(one):
    number = f"{ord(one):04x}"
    return SIGNS.get(one) or (f"\\u{{{number}}}" if len(number) > 4 else f"\\u{number}")


def texts():
    """In this context labels are plain text: a dollar sign starts no formula."""
    return matplotlib.rc_context({"font.family": fonts(), "text.parse_math": False})


def saved(figure, path):
    if path is None:
        return figure
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=120)
    # matplotlib warns of each character separately.
    missing = [one for one in caught if str(one.message).startswith("Glyph ")]
    for one in caught:
        if one not in missing:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if missing:
        warnings.warn(
            f"No installed font has {len({str(one.message) for one in missing})} of the characters "
            f"in {path}: they are drawn as boxes. Install a font with them, such as fonts-nanum or "
            "Noto Sans CJK.",
            stacklevel=3,
        )
    return figure
