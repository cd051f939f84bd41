"""Every public signature has types, and type checkers are told of them."""

import configparser
import inspect
import pathlib
import typing

import keras_xfmr

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = pathlib.Path(keras_xfmr.__file__).parent
ROOMS = keras_xfmr.__all__


def is_public(name):
    return not name.startswith("_") or name.startswith("__") and name.endswith("__")


def is_ours(function):
    """Whether it is written in the package, not made by `dataclasses` or a base of another one."""
    path = inspect.getfile(function) if inspect.isfunction(function) else ""
    return PACKAGE in pathlib.Path(path).parents


def methods_of(kind):
    """The methods that the library gives a class: its own and inherited ones, properties too."""
    for base in kind.__mro__:
        for member in (member for name, member in vars(base).items() if is_public(name)):
            parts = (member.fget, member.fset) if isinstance(member, property) else (member,)
            for part in parts:
                function = inspect.unwrap(getattr(part, "__func__", part))
                if is_ours(function):
                    yield function, not isinstance(member, staticmethod)


def public_functions():
    """Each public function and method once, and whether its first parameter is `self` or `cls`."""
    found = {}
    for room in (getattr(keras_xfmr, name) for name in ROOMS):
        for thing in (getattr(room, name) for name in room.__all__):
            if inspect.isclass(thing):
                found.update(methods_of(thing))
            else:
                found[inspect.unwrap(thing)] = False
    return found.items()


def untyped(function, bound):
    """The parameters that have no type, and `return`."""
    parameters = list(inspect.signature(function).parameters.values())[bound:]
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    types = typing.get_type_hints(function)  # NameError where a quoted name is unknown
    return [name for name in (*named, "return") if name not in types]


def test_every_public_signature_has_types():
    functions = public_functions()
    names = {function.__qualname__ for function, _ in functions}
    assert {"Encoder.hidden_states", "Epochs.seek", "Tokenizer.special_ids", "sample"} <= names
    missing = {f"{f.__module__}.{f.__qualname__}": untyped(f, bound) for f, bound in functions}
    assert not {name: those for name, those in missing.items() if those}


def test_type_checkers_find_the_types_of_an_installed_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf8")
    assert "py.typed" in setup["options.package_data"]["keras_xfmr"].split()
    assert (ROOT / "keras_xfmr" / "py.typed").is_file()
