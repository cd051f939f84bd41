"""The page that examples leave in their output folders."""

import pathlib
import shlex
import sys
import types

import pytest
from pages import read_page
from scripts import imported

HOSTILE = "<script>alert(1)</script> & 'quoted' \"text\" 밥"


def words(command):
    """As a shell reads a command that goes on behind a backslash at the end of a line."""
    return shlex.split(command.replace("\\\n", ""))


@pytest.fixture
def index_page(monkeypatch):
    """The module, and flags of an example: one was given, one was not."""
    with imported("index_page") as module:
        given = types.SimpleNamespace(name="note", value=HOSTILE, default=None)
        given.serialize = lambda: f"--note={HOSTILE}"
        other = types.SimpleNamespace(name="epochs", value=3, default=3)
        monkeypatch.setattr(module, "_flags", lambda: [other, given])
        monkeypatch.setattr(sys, "argv", ["examples/translate.py"])
        yield module


def test_a_page_has_what_lies_in_the_folder_and_takes_texts_as_texts(index_page, tmp_path):
    for name in ("learning_curve.png", "attention.html", "model.keras", "other.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "saved_model").mkdir()
    rows = [(HOSTILE, "<b>"), ("두 번째", 7)]
    service = index_page.Service({"text": [HOSTILE]}, "entities")
    path = index_page.write(
        tmp_path, {"loss": 0.123456, HOSTILE: "1 of 2"}, ("text", "<label>"), rows, service,
        then="python examples/a.py --b=<c>",
    )  # fmt: skip
    assert path == tmp_path / "index.html"
    page = read_page(tmp_path)
    assert set(page.links) == {
        "data:,", "learning_curve.png", "attention.html", "model.keras", "saved_model"
    }  # fmt: skip
    assert "script" not in page.tags and page.tags.count("img") == 1
    for text in (HOSTILE, "<label>", "<b>", "두 번째", "0.1235", "python examples/a.py --b=<c>"):
        assert text in page.texts
    # What a shell makes of the commands.
    (command,) = (text for text in page.texts if text.startswith("python examples/translate"))
    expected = ["python", "examples/translate.py", f"--note={HOSTILE}"]
    assert words(command) == expected
    (serve,) = (text for text in page.texts if text.startswith("docker"))
    docker, curl = (words(part) for part in serve.split("\n\n"))
    assert f"{(tmp_path / 'saved_model').resolve()}:/models/translate" in docker
    request = {"signature_name": "entities", "inputs": {"text": [HOSTILE]}}
    assert index_page.json.loads(curl[-1]) == request and curl[1].endswith("/translate:predict")


def test_words_of_short_cells_are_not_broken(index_page, tmp_path):
    long = "a text of more characters than a label"
    path = index_page.write(tmp_path, {}, ("text", "label"), [(long, "0.54")])
    page = path.read_text("utf8")
    assert f"<td>{long}</td><td class=short>0.54</td>" in page
    assert "td.short { overflow-wrap: break-word; }" in page


def test_a_page_leaves_out_what_is_not_there(index_page, tmp_path):
    (tmp_path / "hub").mkdir()
    index_page.write(tmp_path, {}, service=index_page.Service({"text": ["a"]}))
    page = read_page(tmp_path)
    assert not {"img", "iframe"} & set(page.tags)
    assert not {"Samples", "Measured", "Serve", "Next", "Attention"} & set(page.texts)


def test_every_training_example_writes_the_page():
    examples = pathlib.Path(__file__).parent.parent / "examples"
    shared = {"classifying": "classifying.serve(", "tagging": "tagging.serve("}
    training = [path for path in examples.glob("*.py") if "distributing.run(main)" in
                path.read_text("utf8")]  # fmt: skip
    assert len(training) == 10
    for path in training:
        code = path.read_text("utf8")
        assert "index_page.write(" in code or any(call in code for call in shared.values()), path
