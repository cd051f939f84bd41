"""Who may import whom, read from the sources, and what an import costs."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "keras_xfmr"

# Room -> the other rooms it may import: the table of BUILD.md.
ROWS = re.findall(
    r"^\| (\w+) \| ([\w, -]+) \|$", (ROOT.parent / "BUILD.md").read_text("utf8"), re.M
)
MAY_IMPORT = {room: set(others.split(", ")) - {"-"} for room, others in ROWS if room != "room"}
MAY_IMPORT["__init__"] = set(MAY_IMPORT)
TENSORFLOW = ("kernels/tensorflow", "text/", "serving/", "training/distribution.py")
SOURCES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def room_of(source):
    return source.split("/")[0].removesuffix(".py")


def imports(source, tree=None):
    """The dotted names that a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(tree or ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import is one of the package; the house writes whole names.
            module = f"keras_xfmr.{node.module or ''}" if node.level else node.module
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def rooms_imported(names):
    rooms = {name.split(".")[1] for name in names if name.startswith("keras_xfmr.")}
    return rooms | ({"__init__"} if "keras_xfmr" in names else set())


def test_the_walk_sees_every_form_of_import():
    code = """
import keras_xfmr.layers.attention as a
from keras_xfmr import models, text
from keras_xfmr.serving.export import export_saved_model
from .decoding import beam
def later():
    import tensorflow as tf
    from keras.src import backend
"""
    names = imports("", ast.parse(code))
    assert rooms_imported(names) == {"layers", "models", "text", "serving", "decoding"}
    assert {"tensorflow", "keras.src.backend"} <= names
    assert "kernels/portable.py" in SOURCES and len(SOURCES) > 20


def test_the_table_names_every_room():
    assert {room_of(source) for source in SOURCES} == set(MAY_IMPORT)


def test_a_file_imports_only_the_rooms_below_its_own():
    for source in SOURCES:
        room = room_of(source)
        assert rooms_imported(imports(source)) <= MAY_IMPORT[room] | {room}, source


def test_only_the_rooms_that_need_tensorflow_import_it():
    tensorflow = {"tensorflow", "tensorflow_text", "tf_keras"}
    roots = {source: {name.split(".")[0] for name in imports(source)} for source in SOURCES}
    others = [source for source in SOURCES if not source.startswith(TENSORFLOW)]
    assert not [source for source in others if roots[source] & tensorflow]
    assert [source for source in SOURCES if "tensorflow" in roots[source]]


def test_no_file_reaches_into_keras():
    for source in SOURCES:
        private = {n for n in imports(source) if n.startswith(("keras.src", "keras._tf_keras"))}
        assert not private, source
        for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("keras", "src"), (source, node.lineno)


def test_importing_the_library_loads_none_of_the_slow_packages():
    code = """
import sys
import keras  # loads matplotlib itself, where it is installed
before = set(sys.modules)
import keras_xfmr
slow = {"tensorflow_text", "keras_nlp", "keras_hub", "matplotlib"}
lazy = {"keras_xfmr.serving", "keras_xfmr.text", "keras_xfmr.viz"}
print("loaded", sorted((slow | lazy) & (set(sys.modules) - before)), set(lazy) <= {
    f"keras_xfmr.{name}" for name in dir(keras_xfmr)
})
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "loaded [] True"


@pytest.mark.slow
def test_all_names_can_be_imported_without_matplotlib():
    code = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *more):
        return None if name.split(".")[0] == "matplotlib" else self.finder.find_spec(name, *more)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from keras_xfmr import *
print("text" in globals(), "viz" in globals())
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "True False"


def test_a_room_offers_its_own_names_alone_and_each_once():
    import keras_xfmr

    for name in keras_xfmr.__all__:
        room, offered = getattr(keras_xfmr, name), {}
        exec(f"from keras_xfmr.{name} import *", offered)
        kept = {key for key in offered if key != "__builtins__"}
        assert kept == set(room.__all__) and len(kept) == len(room.__all__), name
        for key in kept:
            assert vars(room)[key].__module__.startswith("keras_xfmr."), (name, key)
    assert set(dir(keras_xfmr)) == {*keras_xfmr.__all__, "__version__"}


def test_a_room_that_does_not_exist_is_an_attribute_error():
    import keras_xfmr

    with pytest.raises(AttributeError, match="no attribute 'kitchen'"):
        _ = keras_xfmr.kitchen
    assert keras_xfmr.viz.__name__ == "keras_xfmr.viz"
