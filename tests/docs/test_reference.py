"""Every public name has its place in the reference, and its docstring becomes arguments there."""

import importlib
import re
import sys

import documents
import pytest

import keras_xfmr

sys.path.insert(0, str(documents.DOCS))
import docstrings  # noqa: E402

sys.path.remove(str(documents.DOCS))


@pytest.mark.parametrize("room", keras_xfmr.__all__)
def test_every_public_name_has_its_place(room):
    module = importlib.import_module(f"keras_xfmr.{room}")
    page = documents.DOCS / "reference" / f"{room}.rst"
    named = re.findall(r"^\.\. auto(?:class|function):: (\w+)$", page.read_text("utf8"), re.M)
    assert sorted(named) == sorted(module.__all__), f"add a line to {page}, or take one out"
    assert f"\n{room}\n" in documents.read("reference/index.md")


def test_code_formulas_and_sections_become_restructuredtext():
    lines = """One `Input`s, |x|, a_, `Known`, `Known.make` and `*b`.

        y = W x

Args:
    first, second,
        third: as `Known`.
    *others: more.

Returns:
    A pair: `[B]`.

Example::

    f(1)

Inputs of the call: ids.""".splitlines()
    known = {"Known": "room.Known", "Known.make": "room.Known.make"}
    assert "\n".join(docstrings.to_rst(lines, known)).rstrip() == r"""One ``Input``\ s, \|x\|, a\_, :py:obj:`Known <room.Known>`, :py:obj:`Known.make <room.Known.make>` and ``*b``.

.. code-block:: text

        y = W x

Args:
    first, second, third: as :py:obj:`Known <room.Known>`.
    \*others: more.

:returns: A pair: ``[B]``.

Example:

.. code-block:: python

    f(1)

**Inputs of the call**: ids."""  # noqa: E501
