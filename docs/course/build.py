"""Puts the code of `course.py`, and what it prints, into the pages; makes the notebooks of them.

    python docs/course/build.py          # runs the code: a few minutes
    python docs/course/build.py 5 17     # runs these cells alone, which need no other but the setup
    python docs/course/build.py --text   # runs nothing: words have changed

A page is written by hand, except what follows a marker `<!-- code: NAME -->`: the cell of that name
and its output. Pictures are drawn by the code into `pictures/`; pages link to them.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).parent
PAGES = "en", "ko"
BLOCK = re.compile(
    r"<!-- code: (?P<name>\w+) -->\n(\n```python\n.*?\n```\n)?(\n```text\n(?P<output>.*?)\n```\n)?",
    re.DOTALL,
)


def cells():
    """The code of each cell of `course.py`, by its name."""
    script = (FOLDER / "course.py").read_text("utf8")
    parts = re.split(r"^# %% \[(\w+)\]\n", script, flags=re.MULTILINE)[1:]
    return {name: code.strip() for name, code in zip(parts[::2], parts[1::2])}


def run(names=None):
    """Runs cells in one namespace, in the current folder. Returns what each prints."""
    namespace, outputs = {"__name__": "course"}, {}
    for name, code in cells().items():
        if names is None or name in names:
            print(f"running cell {name}", file=sys.stderr, flush=True)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, f"course.py [{name}]", "exec"), namespace)
            outputs[name] = printed.getvalue().strip("\n")
    return outputs


def page(text, outputs=None):
    """The page with the code as it is now, and with these outputs; of other cells as they were."""
    code, outputs = cells(), outputs or {}

    def block(match):
        name, output = match["name"], match["output"]
        output = outputs.get(name, output)
        printed = f"\n```text\n{output}\n```\n" if output else ""
        return f"<!-- code: {name} -->\n\n```python\n{code[name]}\n```\n{printed}"

    return BLOCK.sub(block, text)


def notebook(text):
    """A page as a notebook without outputs: its words, and its code to run."""
    made = []

    def add(kind, source, **more):
        if source.strip():
            made.append(
                {"cell_type": kind, "id": f"cell-{len(made)}", "metadata": {}, **more}
                | {"source": source.strip().splitlines(keepends=True)}
            )

    end = 0
    for match in BLOCK.finditer(text):
        add("markdown", without_pictures(text[end : match.start()]))
        add("code", cells()[match["name"]], execution_count=None, outputs=[])
        end = match.end()
    add("markdown", without_pictures(text[end:]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def without_pictures(text):
    """In a notebook the code shows them."""
    return re.sub(r"^!\[.*\n?", "", text, flags=re.MULTILINE)


def main():
    parser = argparse.ArgumentParser(description="Writes the pages and notebooks of the course.")
    parser.add_argument("cells", nargs="*", help="names of cells to run, by default all")
    parser.add_argument("--text", action="store_true", help="run none")
    given, outputs = parser.parse_args(), {}
    if not given.text:
        os.chdir(FOLDER)  # pictures are written there
        outputs = run(["setup", *given.cells] if given.cells else None)
    for language in PAGES:
        path = FOLDER / f"{language}.md"
        text = page(path.read_text("utf8"), outputs)
        path.write_text(text, "utf8")
        (FOLDER / f"course.{language}.ipynb").write_text(notebook(text), "utf8")


if __name__ == "__main__":
    main()
