"""Docstrings of the package, in which `code` has one backtick, as reStructuredText."""

import inspect
import re

NAMES_ON_TWO_LINES = re.compile(r"^( {4}\w+(?:, \w+)*,)\n {8}(?=\w+(?:, \w+)*: )", re.M)
CODE = re.compile(r"`([^`]+)`")


def public_names(modules):
    """name -> where the reference has it, for each way to write a public name."""
    known = {}
    for module in modules:
        room = module.__name__.removeprefix("keras_xfmr.")
        for name in module.__all__:
            target = f"{module.__name__}.{name}"
            written = (name, f"{room}.{name}", target)
            known |= dict.fromkeys(written, target)
            thing = getattr(module, name)
            if inspect.isclass(thing):
                for method in vars(thing):
                    if not method.startswith("_"):
                        known |= {f"{one}.{method}": f"{target}.{method}" for one in written}
    return known


def to_rst(lines, known):
    """The lines of a docstring as lines of reStructuredText that napoleon reads.

    Args:
        lines: of one docstring, without its indentation.
        known: what `public_names` returns.
    """
    text = NAMES_ON_TWO_LINES.sub(r"\1 ", "\n".join(lines))
    blocks, above = [], ""
    for block in re.split(r"\n{2,}", text.strip("\n")):
        blocks.append(_block(block, above, known))
        above = block if not block.startswith(" ") or _is_text(above) else above
    return "\n\n".join(blocks).splitlines() + [""]


def _is_text(block):
    return not block.rstrip().endswith("::")


def _block(block, above, known):
    """One paragraph, or what stands between two empty lines."""
    indented = block.startswith("    ")
    if block == "Example::":
        return "Example:\n\n.. code-block:: python"
    if block.lstrip().startswith(">>>") or (indented and not _is_text(above)):
        return block
    if indented and not re.match(r"(- |\d\. |[A-Z][a-z ]+:\n)", above):
        return ".. code-block:: text\n\n" + block  # a formula or a drawing
    pieces = CODE.split(block)  # prose, code, prose, ...
    prose = list(map(_prose, pieces[::2]))
    for i, text in enumerate(pieces[1::2]):
        before = r"\ " if re.search(r"\w$", prose[i]) else ""
        after = r"\ " if re.match(r"\w", prose[i + 1]) else ""
        prose[i] += before + _code(text.strip(), known) + after
    block = "".join(prose)
    block = re.sub(r"^(Inputs of the call)(.*?:)(?=\s|$)", r"**\1**\2", block, flags=re.S)
    return re.sub(r"^(Returns|Yields):\n {4}", lambda m: f":{m[1].lower()}: ", block)


def _prose(text):
    """Characters that mean something in reStructuredText, as they are."""
    return re.sub(r"([\\*|]|(?<=\w)_(?!\w))", r"\\\1", text)


def _code(text, known):
    """Code in a line of prose; a public name links to its place."""
    name = text.removesuffix("()")
    return f":py:obj:`{text} <{known[name]}>`" if name in known else f"``{text}``"
