"""Reads what a loss or a metric is, in all the forms that `compile` takes."""

import functools
import inspect
import numbers
import types
import typing

import keras

ALIASES = {
    "bce": "binarycrossentropy", "kld": "kldivergence", "mse": "meansquarederror",
    "mae": "meanabsoluteerror", "mape": "meanabsolutepercentageerror",
    "msle": "meansquaredlogarithmicerror",
}  # fmt: skip
IGNORING = ("pad_id", "ignore_class", "mask_token_id")  # KerasHub's metrics have the last one
OPTIONS = ("from_logits", *IGNORING, "threshold", "thresholds", "top_k", "sparse_y_pred")


class Given(typing.NamedTuple):
    """What `read` found about one loss or metric.

    Attributes:
        title: its name in errors.
        key: its name in Keras, without capitals and underscores; "" if its code is a user's.
        options: those of `OPTIONS` that it has.
    """

    title: str
    key: str
    options: dict

    def ignored(self):
        """The argument and the label that it leaves out, or None."""
        found = ((name, self.options.get(name)) for name in IGNORING)
        return next((pair for pair in found if isinstance(pair[1], numbers.Real)), None)


def read(given, room):
    """The `Given` of an argument of `compile`, or None if it cannot be checked.

    Nothing is built from a name: Keras numbers the metrics that it builds.

    Args:
        given: a string, a function, a `functools.partial`, a class, an object, or its
            configuration.
        room: `keras.losses` or `keras.metrics`, where Keras looks for strings.
    """
    title = getattr(given, "__name__", None)
    if isinstance(given, str):
        if given.lower() in ("accuracy", "acc"):
            return Given(repr(given), "accuracy by shapes", {})
        if given.lower() in ("crossentropy", "ce"):
            return Given(repr(given), "crossentropy", {"from_logits": False})
        return _renamed(_read_name(given, room), repr(given))
    if isinstance(given, dict):  # of `keras.saving.serialize_keras_object`
        config = given.get("config")
        named = str(given.get("class_name") if isinstance(config, dict) else config)
        config = config if isinstance(config, dict) else {}
        return _with(_read_name(named, room) or Given(named, "", {}), config)
    if isinstance(given, functools.partial):
        found = read(given.func, room)
        return found and _with(found, given.keywords)
    if isinstance(given, types.FunctionType):
        return Given(title, _key(title), _defaults(given)) if _of_keras(given) else None
    if inspect.isclass(given):
        defaults = {}
        for kind in reversed([kind for kind in given.__mro__ if "__init__" in vars(kind)]):
            defaults.update(_defaults(kind))
        return _of_class(title, given, defaults)
    return _read_object(given, room)


def _read_name(name, room):
    found = named_in(room).get(ALIASES.get(_key(name), _key(name)))
    return None if found is None else read(found, room)


@functools.cache
def named_in(room):
    """The functions and classes of a module by their keys; a class goes before a function."""
    things = [thing for thing in vars(room).values() if callable(thing)]
    things.sort(key=inspect.isclass)
    return {_key(thing.__name__): thing for thing in things}


def _read_object(given, room):
    wrapped = getattr(given, "wrapped", None)
    if isinstance(wrapped, keras.losses.Loss):  # of `training.GlobalMean`
        found = read(wrapped, room)
        return found and _renamed(found, f"{type(given).__name__}({found.title})")
    names = ("from_logits", *IGNORING)  # a user's class may have no configuration
    attributes = {name: getattr(given, name) for name in names if hasattr(given, name)}
    try:
        config = given.get_config()
    except Exception:  # a user's code may raise any error
        config = {}
    options = _known({**attributes, **config})
    spelled = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    title = f"{type(given).__name__}({', '.join(spelled)})"
    if type(given) is keras.metrics.MeanMetricWrapper:
        wrapped = read(config.get("fn"), room)
        return wrapped and _renamed(_with(wrapped, config), title)
    return _of_class(title, type(given), options)


def _of_class(title, kind, options):
    """If a user's subclass reads the outputs itself, only its options count."""
    base = next((base for base in kind.__mro__ if _of_keras(base)), None)
    if base is None:
        return Given(title, "", options)
    users = kind.__mro__[: kind.__mro__.index(base)]
    if not any({"call", "__call__", "update_state"} & set(vars(user)) for user in users):
        return Given(title, _key(base.__name__), options)
    if issubclass(kind, keras.metrics.Metric) and "from_logits" in _defaults(base):
        # Its `update_state` may make probabilities, and then call Keras' with them.
        options = {name: value for name, value in options.items() if name != "from_logits"}
    return Given(title, "", options)


def _of_keras(thing):
    return (thing.__module__ or "").split(".")[0] == "keras"


def _defaults(function):
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # it is not written in Python
        return {}
    return _known({p.name: p.default for p in parameters if p.default is not p.empty})


def _known(options):
    return {name: options[name] for name in OPTIONS if name in options}


def _with(given, options):
    return given._replace(options={**given.options, **_known(options)})


def _renamed(given, title):
    return given and given._replace(title=title)


def _key(name):
    return name.replace("_", "").lower()
