"""The course in `docs/course`: what its code claims holds, and the pages have the code."""

import importlib.util
import json
import pathlib
import re

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "course"
PAGES = "en", "ko"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("course_build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("language", PAGES)
def test_pages_and_notebooks_have_the_code(build, language):
    text = (FOLDER / f"{language}.md").read_text("utf8")
    told = "run `python docs/course/build.py`, or with --text where no output has changed"
    assert build.page(text) == text, told
    assert build.notebook(text) == (FOLDER / f"course.{language}.ipynb").read_text("utf8"), told
    assert [match["name"] for match in build.BLOCK.finditer(text)] == list(build.cells())


@pytest.mark.parametrize("language", PAGES)
def test_pages_show_every_picture_and_all_that_is_printed(build, language):
    text = (FOLDER / f"{language}.md").read_text("utf8")
    linked = re.findall(r"^!\[.+\]\(pictures/(.+)\)$", text, re.MULTILINE)
    assert sorted(linked) == sorted(path.name for path in FOLDER.glob("pictures/*"))
    for match in build.BLOCK.finditer(text):
        assert bool(match["output"]) == ("print(" in build.cells()[match["name"]])
    assert all(path.stat().st_size < 60_000 for path in FOLDER.glob("pictures/*"))


def test_the_index_has_the_questions_of_the_pages(build):
    index = (FOLDER / "index.md").read_text("utf8")
    questions = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", index, re.MULTILINE)
    for column, language in enumerate(PAGES, start=1):
        text = build.BLOCK.sub("", (FOLDER / f"{language}.md").read_text("utf8"))
        headings = re.findall(r"^## (\d+)\. (.+)$", text, re.MULTILINE)
        assert [(row[0], row[column]) for row in questions] == headings
        assert max(map(len, text.splitlines())) <= 100, f"{language}.md: wrap its prose"


def test_a_cheap_claim_holds(build, tmp_path, monkeypatch):
    """Scores are masked before the softmax, not after."""
    monkeypatch.chdir(tmp_path)
    assert "rows sum to [1. 1. 1. 1.]" in build.run(["setup", "5"])["5"]


@pytest.mark.slow
def test_a_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((FOLDER / "course.en.ipynb").read_text("utf8"))
    namespace = {"__name__": "notebook"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
    drawn = {path.name for path in tmp_path.glob("pictures/*")}
    assert drawn == {path.name for path in FOLDER.glob("pictures/*")}
