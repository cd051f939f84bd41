"""A compiled search over a model, the same on every backend."""

import collections
import functools
import inspect
import numbers
import threading

import keras
import numpy as np
from keras import ops

from keras_xfmr import decoding, kernels
from keras_xfmr.common.checks import check_positive_int

SEARCHES = {
    "greedy": decoding.greedy_search,
    "sample": decoding.sample,
    "beam": decoding.beam_search,
}


class Generator(keras.Model):
    """A model whose call searches. Once it is compiled, `run` compiles the search once per shape.

    Args:
        model: has `step_function(inputs, max_length, beams) -> (step, prompt, state)`.
        max_length: the most tokens to generate.
        search: `"greedy"`, `"sample"`, `"beam"`, or a function of `keras_xfmr.decoding`'s form.
        **options: of the search.
    """

    def __init__(self, model, max_length, search="greedy", **options):
        super().__init__()
        check_positive_int("max_length", max_length)
        if not callable(search) and search not in SEARCHES:
            raise ValueError(
                f"`search` must be one of {tuple(SEARCHES)} or a function. Received: {search!r}."
            )
        self.model = model
        self.max_length = max_length
        self.search = search if callable(search) else SEARCHES[search]
        self.options = options
        self.beams = _beams(self.search, options)
        self.seed_generator = None
        if self.search is decoding.sample and options.get("seed") is None:
            # Owned here, so that a compiled call draws anew each time.
            self.seed_generator = keras.random.SeedGenerator()
            self.options = {**options, "seed": self.seed_generator}
        self._one_at_a_time = threading.Lock()
        self.built = True  # it has no weights of its own

    # A search trains nothing. Keras asks for both lists at every call, and to collect the weights
    # of a deep model takes milliseconds.

    @property
    def trainable_variables(self):
        return []

    @functools.cached_property
    def non_trainable_variables(self):
        return self.variables

    def call(self, inputs):
        step, prompt, state = self.model.step_function(inputs, self.max_length, self.beams)
        found = self.search(step, prompt, state, max_length=self.max_length, **self.options)
        return found._asdict()

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self._program = kernels.program(self)

    def run(self, inputs, seed=None):
        """The result as NumPy arrays, of each row once, also in the scope of a strategy.

        With an integer it is drawn as any other call with that integer draws.
        """
        if not isinstance(self.options.get("seed"), keras.random.SeedGenerator):
            return self._program(inputs)
        with self._one_at_a_time:  # the seed is state: another thread's call would go on from it
            if seed is not None:
                self.seed_generator.state.assign(keras.random.SeedGenerator(seed).state)
            return self._program(inputs)


def _beams(search, options):
    """How many rows a search has for a sentence: its `beam_size`, where it has one."""
    parameter = inspect.signature(search).parameters.get("beam_size")
    beams = options.get("beam_size", getattr(parameter, "default", 1))
    return beams if isinstance(beams, numbers.Integral) else 1  # the search refuses others


def options_key(options):
    """What tells options from others, arrays by all they hold: `repr` leaves out their middle."""

    def spell(value):
        if not isinstance(value, np.ndarray) and not ops.is_tensor(value):
            return value
        array = ops.convert_to_numpy(value)
        return array.dtype.str, array.shape, array.tobytes()

    return repr(keras.tree.map_structure(spell, sorted(options.items())))


class GeneratorCache:
    """A holder that keeps models out of the layer that owns it: they only borrow its weights.

    The `MOST` that were used last are kept.
    """

    MOST = 8

    def __init__(self):
        self.models = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key, make):
        with self._lock:
            if key not in self.models:
                self.models[key] = make()
            self.models.move_to_end(key)
            if len(self.models) > self.MOST:
                self.models.popitem(last=False)
            return self.models[key]
