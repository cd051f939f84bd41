"""Finds losses and metrics given to `compile` that do not fit a model's outputs.

Keras does not check this: a loss that expects probabilities trains wrongly on logits, and one that
leaves out class 0 as padding never learns that class.
"""

import typing

import keras
import numpy as np

from keras_xfmr.models.core.given import named_in, read

# ---- what an output is


class Output(typing.NamedTuple):
    """Describes one output of a model.

    Attributes:
        kind: a key of `KINDS`.
        size: the number of classes, None where it differs from batch to batch.
        padding: the class that a loss or a metric may leave out, or None.
        hint: another way in which this model lets a loss leave out a class.
        of_tokens: whether each token of a row has a label.
    """

    kind: str
    size: int | None = None
    padding: int | None = None
    hint: str = ""
    of_tokens: bool = False


class Kind(typing.NamedTuple):
    """`what` errors call it, a `loss` and a `metric` that fit, and what gives probabilities."""

    what: str
    loss: str
    metric: str
    activation: str


_SPARSE = "keras.losses.SparseCategoricalCrossentropy(from_logits=True)"
_BINARY = "keras.losses.BinaryCrossentropy(from_logits=True)"
_AT_ZERO = "keras.metrics.BinaryAccuracy(threshold=0.0)"
_ARGMAX = "keras.metrics.SparseCategoricalAccuracy()"
KINDS = {
    "classes": Kind("logits of one class among several", _SPARSE, _ARGMAX, "softmax"),
    "multi_label": Kind("logits of a yes or no for each class", _BINARY, _AT_ZERO, "sigmoid"),
    "value": Kind(
        "one value, or one logit of a yes or no",
        f"{_BINARY}, or 'mse' for a value",
        f"{_AT_ZERO} for logits, or a metric of regression for values",
        "sigmoid",
    ),
    "vocabulary": Kind(
        "logits over a vocabulary",
        "keras_xfmr.training.MaskedCrossEntropy(pad_id={})",
        "keras_xfmr.training.MaskedAccuracy(pad_id={})",
        "softmax",
    ),
    "positions": Kind("logits over the positions of a row", _SPARSE, _ARGMAX, "softmax"),
}


# ---- what does not fit

# These have no `from_logits` and are defined for probabilities, or for predicted classes.
OF_PROBABILITIES = {
    "kldivergence", "poisson", "dice", "tversky", "categoricalgeneralizedcrossentropy",
    "precisionatrecall", "recallatprecision", "sensitivityatspecificity",
    "specificityatsensitivity", "accuracy",
}  # fmt: skip
# These compare numbers: values of a regression, or labels of -1 and 1.
OF_VALUES = {
    "meansquarederror", "meanabsoluteerror", "meanabsolutepercentageerror",
    "meansquaredlogarithmicerror", "rootmeansquarederror", "huber", "logcosh", "logcosherror",
    "hinge", "squaredhinge", "categoricalhinge", "cosinesimilarity", "r2score",
}  # fmt: skip
COUNTS = {
    "precision", "recall", "truepositives", "truenegatives", "falsepositives", "falsenegatives",
}  # fmt: skip
F_SCORES = {"f1score", "fbetascore"}


def refusal(name, outputs, **given):
    """Why an argument of `compile` does not fit a model's outputs, or None.

    Args:
        name: of the model's class.
        outputs: an `Output`, or a dictionary of them by the outputs' names.
        **given: `loss`, `metrics` and `weighted_metrics`.
    """
    named = outputs if isinstance(outputs, dict) else {None: outputs}
    logits = set()  # outputs of one value that the loss reads as logits
    losses = {}  # output -> what its loss is
    for argument, values in given.items():
        room = keras.losses if argument == "loss" else keras.metrics
        for output, value in _per_output(values, sorted(named, key=str)):
            found = read(value, room)
            if found is None:
                continue
            if argument == "loss":
                losses[output] = found
                if found.options.get("from_logits"):
                    logits.add(output)
            kind = KINDS[named[output].kind]
            problem = _problem(named[output], argument, found, output in logits)
            problem = problem or _beside(losses.get(output), named[output], argument, found)
            if problem:
                why, way_out = problem
                which = "" if output is None else f" `{output}`"
                return (
                    f"`{argument}` must fit the output{which} of {name}: {kind.what}. Received: "
                    f"{argument}={found.title}, {why}. {way_out}"
                )
    return None


def ignored_label(loss, outputs, name=None):
    """The label that the loss of an output leaves out, or None.

    Args:
        loss: the argument of `compile`.
        outputs: as for `refusal`.
        name: of the output, if it has one.
    """
    names = sorted(outputs) if isinstance(outputs, dict) else [None]
    for output, value in _per_output(loss, names):
        found = read(value, keras.losses) if output == name else None
        if found and found.ignored():
            return found.ignored()[1]
    return None


def _per_output(given, names):
    """Each loss or metric with the name of its output, in Keras' order of outputs."""
    if len(names) == 1:
        yield from ((names[0], leaf) for leaf in _leaves(given))
    elif isinstance(given, dict):
        for name in names:
            yield from ((name, leaf) for leaf in _leaves(given.get(name)))
    elif isinstance(given, (list, tuple)) and len(given) == len(names):
        for name, values in zip(names, given):
            yield from ((name, leaf) for leaf in _leaves(values))
    else:
        yield from ((name, leaf) for name in names for leaf in _leaves(given))


def _leaves(given):
    if isinstance(given, dict) and "class_name" not in given:
        given = list(given.values())
    if not isinstance(given, (list, tuple)):
        given = [] if given is None else [given]
        yield from given
        return
    for value in given:
        yield from _leaves(value)


def _problem(output, argument, given, logits):
    """Why it does not fit, and the way out, or None."""
    fitting = _fitting(output, argument)
    if output.kind in ("multi_label", "value"):
        if _takes_argmax(given):
            return "which expects one class among several", f"Pass {fitting}."
        if given.key == "accuracy by shapes":
            chosen = "CategoricalAccuracy" if output.size > 1 else "BinaryAccuracy(threshold=0.5)"
            return f"which Keras takes for {chosen} here", f"Pass {fitting}."
    elif given.ignored() and "iou" not in given.key:
        problem = _left_out(output, *given.ignored())
        if problem:
            return problem
    if output.kind == "value" and argument != "loss" and not logits:
        return None  # of a regression
    return _expects_probabilities(KINDS[output.kind], argument, given, fitting)


def _beside(loss, output, argument, given):
    """Why a loss or a metric does not fit classes, or does not fit the loss, or None."""
    if output.kind not in ("classes", "positions", "vocabulary"):
        return None
    fitting = _fitting(output, argument)
    if given.key in OF_VALUES:
        return "which compares numbers, not classes", f"Pass {fitting}."
    if argument == "loss" or loss is None:
        return None
    sparse = loss.key.startswith("sparse") or "pad_id" in loss.options
    other = given.key.startswith(("categorical", "topkcategorical", "binary"))
    if sparse and other:
        return "whose labels have one number for each class, unlike the loss's", f"Pass {fitting}."
    counts = given.key.startswith("sparse") or given.key == "accuracy by shapes"
    if argument == "metrics" and output.of_tokens and loss.ignored() and counts:
        label = loss.ignored()[1]
        if given.ignored() is None:
            return (
                f"which counts the label {label} that the loss leaves out",
                f"Pass keras_xfmr.training.MaskedAccuracy(pad_id={label}).",
            )
    return None


def _fitting(output, argument):
    kind = KINDS[output.kind]
    return (kind.loss if argument == "loss" else kind.metric).format(output.padding)


def _takes_argmax(given):
    """Whether it compares one class a row, that of the largest logit."""
    largest = given.key in F_SCORES and given.options.get("threshold") is None
    overlap = "iou" in given.key and given.options.get("sparse_y_pred") is False
    return largest or overlap or "categorical" in given.key or "pad_id" in given.options


def _left_out(output, argument, label):
    if label == output.padding or label < 0 or (output.size and label >= output.size):
        return None
    if output.kind == "vocabulary":
        return (
            f"which leaves out the label {label}, a token",
            f"Pass {argument}={output.padding}, what the model leaves out, to the loss and the "
            "metrics.",
        )
    meant = "a position" if output.kind == "positions" else f"one of the {output.size} classes"
    return (
        f"which leaves out the label {label}, {meant}",
        f"Pass {argument}=-1, and give the label -1 where nothing is to be learned.{output.hint}",
    )


def _expects_probabilities(kind, argument, given, fitting):
    options, room = given.options, "losses" if argument == "loss" else "metrics"
    named = named_in(getattr(keras, room)).get(given.key)
    name = f"keras.{room}.{getattr(named, '__name__', '')}"
    # A loss of a softmax and a loss of sigmoids need labels of different forms.
    several = f"{fitting}, or, where labels are 0 or 1 for each class, "
    own = f"or a class or a function of your own that takes keras.ops.{kind.activation} first"
    if not options.get("from_logits", True):
        other = several if given.key.startswith("binary") and kind.activation == "softmax" else ""
        way_out = f"{other}{name}(from_logits=True)"
        if named is None:  # a user's, or "crossentropy"
            way_out = fitting if given.key else "from_logits=True"
        return "which expects probabilities", f"Pass {way_out}."
    threshold = _threshold(given)
    if threshold:
        other = several if kind.activation == "softmax" else ""
        option = "thresholds" if given.key in COUNTS else "threshold"
        way_out = fitting if given.key in F_SCORES else f"{other}{name}({option}=0.0)"
        return f"whose threshold {threshold} is a probability", f"Pass {way_out}, {own}."
    if given.key in OF_PROBABILITIES:
        return "which expects probabilities, or classes", f"Pass {fitting}, {own}."
    if "iou" in given.key and given.key != "binaryiou" and options.get("sparse_y_pred"):
        return "which expects classes", "Pass sparse_y_pred=False."
    return None


def _threshold(given):
    """A threshold above 0, or None; 0 is the probability 0.5 on logits as well."""
    if given.key in COUNTS and not given.options.get("top_k"):
        threshold = given.options.get("thresholds")
        threshold = 0.5 if threshold is None else threshold
    elif given.key in {*F_SCORES, "binaryaccuracy", "binaryiou"}:
        threshold = given.options.get("threshold")
    else:
        return None
    return None if threshold is None else next((t for t in np.ravel(threshold) if t > 0), None)
