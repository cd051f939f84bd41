"""Sphinx: `python -m sphinx -W --keep-going -b html docs site` builds the documentation.

Nothing is fetched, neither by the build nor by its pages.
"""

import importlib
import inspect
import os
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from docstrings import public_names, to_rst  # noqa: E402
from sphinx.search.en import SearchEnglish  # noqa: E402

import keras_xfmr  # noqa: E402

ROOMS = "layers models training decoding text serving checkpoints functional viz".split()
MODULES = [importlib.import_module(f"keras_xfmr.{room}") for room in ROOMS]
KNOWN = public_names(MODULES)

project = "keras_xfmr"
copyright = "the authors of keras_xfmr, Apache License 2.0"
version = release = keras_xfmr.__version__
language = "en"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "sphinx_copybutton"]
exclude_patterns = ["**.ipynb_checkpoints"]
html_theme = "furo"
html_title = "keras_xfmr"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = html_show_sourcelink = False
pygments_style = "friendly"
highlight_language = "none"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Call arguments", "params_style")]
autodoc_typehints = "none"
autodoc_preserve_defaults = True
suppress_warnings = ["ref.python"]  # of a property of type `bytes`, where others are called that
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 60


# Methods that the rooms call on each other.
WITHIN = {
    "are_in", "argument_names", "check", "check_data", "check_rank", "compile_from_config",
    "complete", "compute_output_shape", "compute_output_spec", "described_outputs", "get_config",
    "hides_padding", "hub_config", "hub_files", "hub_layers", "ignored_label", "label_ranges",
    "named", "over", "pairs_in", "quantize", "ranges", "reads_pooled", "refuse_unknown", "shown",
    "validated_inputs", "warn_of",
}  # fmt: skip


def _others():
    """Names of the classes of Keras and TensorFlow that public classes inherit from."""
    things = (getattr(module, name) for module in MODULES for name in module.__all__)
    bases = {base for thing in things if inspect.isclass(thing) for base in thing.__mro__}
    return {base.__name__ for base in bases if not base.__module__.startswith("keras_xfmr")}


autodoc_default_options = {"members": True, "inherited-members": ", ".join(sorted(_others()))}


def _convert(app, what, name, thing, options, lines):
    lines[:] = to_rst(lines, KNOWN)


def _skip(app, what, name, thing, skip, options):
    """Pages name what a room has; the fields of a named tuple stand in its docstring."""
    field = type(thing).__name__ == "_tuplegetter"
    return True if what == "module" or field or name in WITHIN else None


def _signature(app, what, name, thing, options, signature, returns):
    """The arguments of a class are those of its `__init__`: Keras' models have a `__new__`, too."""
    if what != "class" or thing.__init__ is object.__init__ or issubclass(thing, tuple):
        return None
    first, *given = inspect.signature(thing.__init__).parameters.values()
    given = [
        one.replace(
            annotation=one.empty,
            default=_Dots() if len(repr(one.default)) > 40 else one.default,
        )
        for one in given
    ]
    return str(inspect.Signature(given)), None


class _Dots:
    """The default of an argument that is too long for a line."""

    def __repr__(self):
        return "..."


class SearchBoth(SearchEnglish):
    """English, and the beginnings of Korean words: particles follow a noun without a space.

    The page of searches looks for parts of words only if the query has three letters or more.
    """

    def split(self, input):
        words = super().split(input)
        korean = [word for word in words if re.fullmatch("[가-힣]{3,}", word)]
        return words + [word[:end] for word in korean for end in range(2, len(word))]


def setup(app):
    app.add_search_language(SearchBoth)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _convert, priority=400)  # before napoleon
