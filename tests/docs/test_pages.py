"""The pages name what is there, and their code runs from top to bottom."""

import ast
import contextlib
import functools
import importlib
import inspect
import io
import re
import runpy

import documents
import pytest

import keras_xfmr

ROOMS = [name for name in keras_xfmr.__all__ if name != "viz"]
PUBLIC = {
    name: getattr(module, name)
    for module in (importlib.import_module(f"keras_xfmr.{room}") for room in ROOMS)
    for name in module.__all__
}
GENERATING = keras_xfmr.models.Transformer, keras_xfmr.models.Gpt


def code_of(page):
    """Expressions and statements of a page: its blocks, and code in its prose."""
    for code in (*documents.blocks(page), *documents.inline(page)):
        with contextlib.suppress(SyntaxError):
            yield from ast.walk(ast.parse(code))


@pytest.mark.parametrize("page", documents.PAGES)
def test_public_names_and_their_arguments_are_there(page):
    for node in code_of(page):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            room = node.value.id
            if room in ROOMS:
                module = importlib.import_module(f"keras_xfmr.{room}")
                assert hasattr(module, node.attr), f"{page}: {room}.{node.attr}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")
            thing = PUBLIC.get(called[-1])
            if thing is not None and not {"keras", "nn", "torch"} & set(called[:-1]):
                given = {keyword.arg for keyword in node.keywords} - {None}
                assert given <= arguments(thing), f"{page}: {ast.unparse(node)}"


def arguments(thing):
    """Names that a public function or class may be called with; its docstring has the others."""
    makers = [one.__init__ for one in thing.__mro__] if inspect.isclass(thing) else [thing]
    names = {name for make in makers for name in inspect.signature(make).parameters}
    names |= {*getattr(thing, "_fields", ())}  # of a named tuple
    return names | set(re.findall(r"`(\w+)`", thing.__doc__)) | {"name", "dtype"}


@functools.cache
def flags_of(script):
    """The flags of an example, and of the modules beside it that it imports."""
    content = (documents.ROOT / "examples" / script).read_text("utf8")
    found = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', content))
    for module in re.findall(r"^import (\w+)$", content, re.M):
        if (documents.ROOT / "examples" / f"{module}.py").is_file():
            found |= flags_of(f"{module}.py")
    return found


@pytest.mark.parametrize("page", documents.PAGES)
def test_commands_have_flags_that_the_examples_know(page):
    for command in re.findall(r"examples/\w+\.py .*", "\n".join(documents.blocks(page, "sh"))):
        script = re.match(r"examples/(\w+\.py)", command)[1]
        flags = set(re.findall(r" --(?:no)?(\w+)", command))
        assert flags <= flags_of(script), f"{page}: {command}"


def test_no_command_installs_the_package_by_its_name():
    """It is not on PyPI, where anyone could take the name."""
    files = [documents.ROOT / name for name in ("README.md", "README.ko.md", "CHANGELOG.md")]
    for folder in ("docs", "examples", "keras_xfmr", "tests"):
        files += [
            path
            for path in (documents.ROOT / folder).rglob("*")
            if path.suffix in (".md", ".rst", ".py", ".ipynb")
        ]
    for path in files:
        content = path.read_text("utf8")
        found = re.search(r"""pip install(\s+-\S+)*\s+["'\\]*keras[-_]xfmr\b.*""", content)
        assert not found, f"{path.name}: {found[0]}"


def run(page, folder, monkeypatch):
    """Runs the Python of a page, as a file that its functions can be read from."""
    monkeypatch.chdir(folder)
    if "my_bert" in documents.read(page):
        documents.write_bert("my_bert")
    for kind in GENERATING:  # XLA compiles searches in other tests
        uncompiled = functools.partialmethod(kind.generate, jit_compile=False)
        monkeypatch.setattr(kind, "generate", uncompiled)
    (folder / "page.py").write_text("\n".join(documents.blocks(page)), "utf8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path("page.py")
    return printed.getvalue()


def check(page, printed):
    """What a comment behind `print` shows is what it printed: shapes, folders, True."""
    lines = printed.splitlines()
    expected = r"^ *print\(.*\)  # ((?:\([\d, ]+\)|True|models/).*)$"
    for shown in re.findall(expected, documents.read(page), re.M):
        assert shown.split(": ")[0] in lines, f"{page}: {shown}"


@pytest.mark.parametrize("page", documents.QUICK)
def test_code_runs(page, tmp_path, monkeypatch):
    check(page, run(page, tmp_path, monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", sorted({*documents.PAGES} - {*documents.QUICK} - documents.NOT_RUN)
)
def test_code_that_trains_runs(page, tmp_path, monkeypatch):
    check(page, run(page, tmp_path, monkeypatch))
