"""Published configurations: a family's table of options, and the labels of heads."""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_xfmr.common.files import CONFIG_BYTES, read_json

MOST_LABELS = 1_000_000

# ---- the table


@dataclasses.dataclass(frozen=True)
class Option:
    """A row of a configuration table.

    Attributes:
        ours: the argument of the model.
        names: in configurations; the first one found is read, and the first is written.
        default: if a configuration has no value; it may be a function of the arguments so far.
        expected: the values that may be used, for messages.
        fits: whether a value may be used. It must be False for NaN.
        kind: `int`, `float`, `bool` or `str`.
        hub: the name in the configuration of a KerasHub backbone.
        values: published value -> ours, if they differ.
        unset: what None means in a model, a function of its arguments; by default `default`.
        when: a function of the arguments so far: whether such models have the option.
    """

    ours: str
    names: tuple
    default: object
    expected: str
    fits: Callable[[Any], bool]
    kind: type
    hub: str | None = None
    values: dict | None = None
    unset: Callable[[dict], Any] | None = None
    when: Callable[[dict], bool] = lambda arguments: True

    def read(self, config, arguments):
        """The argument's value.

        Raises:
            ValueError: a value of a wrong type or outside its range.
        """
        name = next((name for name in self.names if config.get(name) is not None), None)
        if name is None:
            return self.default(arguments) if callable(self.default) else self.default
        value = config[name]
        wanted = (int, float) if self.kind is float else self.kind
        if isinstance(value, bool) != (self.kind is bool) or not isinstance(value, wanted):
            expected = "a number" if self.kind is float else self.kind.__name__
        elif not self.fits(value):
            expected = self.expected
        else:
            return value if self.values is None else self.values[value]
        raise ValueError(f"`{name}` in the configuration is {value!r}. Expected: {expected}.")

    def write(self, arguments):
        """The value in a configuration."""
        value = arguments[self.ours]
        if value is None:
            value = self.unset or self.default
            value = value(arguments) if callable(value) else value
        if self.values is None:
            return value
        published = [theirs for theirs, ours in self.values.items() if ours == value]
        if not published:
            raise ValueError(
                f"There is no published `{self.names[0]}` for {self.ours}={value!r}. Expected one "
                f"of {', '.join(dict.fromkeys(map(str, self.values.values())))}."
            )
        return published[0]


def size(ours, *names, default, least=1, most=None, hub=None, **more):
    """The row of a whole number from `least` to `most`; without `most` the weights bound it."""
    expected = f"from {least}" if most is None else f"from {least} to {most}"
    fits = lambda n: least <= n and (most is None or n <= most)  # noqa: E731
    return Option(ours, names, default, expected, fits, int, hub, **more)


def rate(ours, *names, default, hub=None, unset=None):
    """The row of a dropout rate."""
    fits, expected = (lambda r: 0 <= r < 1), "from 0 to below 1"
    return Option(ours, names, default, expected, fits, float, hub, unset=unset)


def epsilon(ours, *names, default):
    """The row of what a norm adds to the variance."""
    return Option(ours, names, default, "between 0 and 1", lambda e: 0 < e < 1, float)


def deviation(ours, *names, default):
    """The row of the standard deviation that initializes weights."""
    expected = "finite and not negative"
    return Option(ours, names, default, expected, lambda d: 0 <= d <= 1e30, float)


def choice(ours, *names, default, values=None, **more):
    """The row of a name; `values` maps published names to ours."""
    if values is None:
        return Option(ours, names, default, "a name", bool, str, **more)
    expected = f"one of {', '.join(values)}"
    return Option(ours, names, default, expected, values.__contains__, str, values=values, **more)


def read_config(folder, files):
    """The configuration in a folder, a dictionary.

    Args:
        folder: a `pathlib.Path`.
        files: names, or patterns that fit one file; the first one found is read.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is too large, or not a JSON object; several fit a pattern.
    """
    for name in files:
        found = sorted(path for path in folder.glob(name) if path.is_file())
        if len(found) > 1:
            raise ValueError(f"{folder} has several {name}: {[path.name for path in found]}.")
        if found:
            return read_json(found[0], dict, CONFIG_BYTES)
    raise FileNotFoundError(f"No {' or '.join(files)} in {str(folder)!r}.")


def read_arguments(family, config):
    """Arguments of the family's model from a published configuration.

    Raises:
        ValueError: an option that the family's model here does not have, or a value of a wrong
            type or outside its range.
    """
    for name, allowed in family.fixed.items():
        if config.get(name) not in (None, *allowed):
            raise ValueError(
                f"The {family.title} here has `{name}` {' or '.join(map(repr, allowed))}. "
                f"Received: {name}={config[name]!r} in the configuration."
            )
    _check_known(family, config)
    arguments = dict(family.constants)
    for option in family.options:
        if option.when(arguments):
            arguments[option.ours] = option.read(config, arguments)
    return arguments


def _check_known(family, config):
    """Raises ValueError for unknown options, if the family's options are all known."""
    names = {"model_type", "architectures", *family.fixed, *(family.others or ())}
    names.update(name for option in family.options for name in option.names)
    unknown = sorted(set(config) - names)
    if family.others is not None and unknown:
        raise ValueError(
            f"The configuration has options that the {family.title} here does not have: "
            f"{unknown[:5]}. It has {', '.join(sorted(names))}."
        )


def written_config(family, arguments):
    """The published configuration of a model with these arguments, before `nest` of its family.

    Raises:
        ValueError: a model that `transformers` does not have.
    """
    for ours, value in family.constants.items():
        if arguments[ours] != value:
            raise ValueError(
                f"`transformers` has {family.title} only with {ours}={value!r}. Received: "
                f"{ours}={arguments[ours]!r}."
            )
    options = [option for option in family.options if option.when(arguments)]
    written = {option.names[0]: option.write(arguments) for option in options}
    return {"model_type": family.model_type, **written}


# ---- what heads of all families have


def classifier_dropout(config):
    """The dropout rate of a head, None for that of the encoder.

    Raises:
        ValueError: it is not a rate.
    """
    return rate("dropout_rate", "classifier_dropout", default=None).read(config, {})


def architecture(config):
    """The class in transformers of the weights, or None."""
    named = config.get("architectures")
    single = isinstance(named, list) and len(named) == 1 and isinstance(named[0], str)
    return named[0] if single else None


def label_count(config):
    """The number of labels in the configuration.

    Raises:
        ValueError: it is not a number of labels.
    """
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if type(count) is not int or not 1 <= count <= MOST_LABELS:
        raise ValueError(f"`num_labels` must lie in 1 .. {MOST_LABELS}. Received: {count!r}.")
    return count


def label_names(config, count):
    """Names of `count` labels in the order of their ids, or None if there are no such names."""
    labels = config.get("id2label")
    if not isinstance(labels, dict) or len(labels) != count:
        return None
    names = [labels.get(str(i)) for i in range(count)]
    return names if all(isinstance(name, str) for name in names) else None
