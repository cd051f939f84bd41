"""`generate` of models with a decoder: searches, compiled once, the same on every backend."""

import collections
import functools
import inspect
import numbers
import threading
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_xfmr import decoding, kernels
from keras_xfmr.common.checks import check_positive_int, check_seed
from keras_xfmr.common.types import Mixin, ModelInputs, Search, Tensor

SEARCHES = {
    "greedy": decoding.greedy_search,
    "sample": decoding.sample,
    "beam": decoding.beam_search,
}


class Borrower(keras.Model):
    """A model whose call uses the weights of another one, and trains nothing."""

    def __init__(self, model):
        super().__init__(autocast=False)  # a state that it is given has the model's own types
        self.model = model
        self.built = True  # it has no weights of its own

    # Keras reads both lists at every call, and collecting the weights of a deep model takes
    # milliseconds.

    @property
    def trainable_variables(self):
        return []

    @functools.cached_property
    def non_trainable_variables(self):
        return self.variables


class Generator(Borrower):
    """A model whose call searches. Once it is compiled, `run` compiles the search once per shape.

    Args:
        model: a `Generative` model.
        max_length: the most tokens to generate.
        search: `"greedy"`, `"sample"`, `"beam"`, or a function like those of `keras_xfmr.decoding`.
        **options: of the search.
    """

    def __init__(self, model, max_length, search="greedy", **options):
        super().__init__(model)
        check_positive_int("max_length", max_length)
        if not callable(search) and search not in SEARCHES:
            raise ValueError(
                f"`search` must be one of {tuple(SEARCHES)} or a function. Received: {search!r}."
            )
        self.max_length = max_length
        self.search = search if callable(search) else SEARCHES[search]
        _check_options(self.search, options)
        self.options = options
        self.beams = _beams(self.search, options)
        self.seed_generator = None
        if self.search is decoding.sample and options.get("seed") is None:
            # Owned here, so that each compiled call draws new numbers.
            self.seed_generator = keras.random.SeedGenerator()
            self.options = {**options, "seed": self.seed_generator}
        self._one_at_a_time = threading.Lock()

    def call(self, inputs):
        inputs, given = _split_options(inputs)
        decoder, prompt, lengths = self.model.start_search(inputs, self.beams)
        read = ops.shape(prompt)[1] - 1 if len(prompt.shape) > 1 else 0
        state = decoder.init_state(ops.shape(prompt)[0], read + self.max_length)
        options = {**self.options, **given}
        options |= {} if lengths is None else {"lengths": lengths}
        found = self.search(decoder, prompt, state, max_length=self.max_length, **options)
        return found._asdict()

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self._program = kernels.program(self)

    def run(self, inputs, seed=None):
        """The result as NumPy arrays. In the scope of a strategy, too, each row is searched once.

        Calls with the same integer as `seed` draw the same tokens.
        """
        if not isinstance(self.options.get("seed"), keras.random.SeedGenerator):
            return self._program(inputs)
        with self._one_at_a_time:  # the seed is a variable: another thread would change it
            if seed is not None:
                self.seed_generator.state.assign(keras.random.SeedGenerator(seed).state)
            return self._program(inputs)


def _split_options(inputs):
    """The inputs of the model, and the inputs that are options of a search.

    These options are the seeds of rows, and the most tokens, the same number for each row.
    """
    if not isinstance(inputs, dict):
        return inputs, {}
    inputs = dict(inputs)
    options = {name: inputs.pop(name) for name in ("seed", "limit") if name in inputs}
    if "limit" in options:
        options["limit"] = ops.max(options["limit"], initial=0)
    return inputs, options


def _parameters(search):
    """The parameters of a search by name; empty for an unknown search."""
    search = SEARCHES.get(search, search)
    return inspect.signature(search).parameters if callable(search) else {}


def _as_dict(inputs):
    return inputs if isinstance(inputs, dict) else {"source_ids": inputs}


def _check_options(search, options):
    """Raises ValueError for options that the search does not have."""
    parameters = _parameters(search).values()
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.name != "limit"]
    for name in sorted(set(options) - set(known)):
        others = [key for key, one in SEARCHES.items() if name in _parameters(one)]
        others = f" It is one of search={' and of '.join(map(repr, others))}." if others else ""
        raise ValueError(
            f"{search.__name__} has no option `{name}`, only {', '.join(known[3:])}.{others}"
        )


def _beams(search, options):
    """How many rows a search has for a sentence: its beams, or the sequences that it draws."""
    parameters = _parameters(search)
    name = "beam_size" if "beam_size" in parameters else "num_return"
    beams = options.get(name, getattr(parameters.get(name), "default", 1))
    return beams if isinstance(beams, numbers.Integral) else 1  # the search refuses others


def options_key(options):
    """A key of options, with the full contents of arrays: `repr` leaves out their middle."""

    def spell(value):
        if not isinstance(value, np.ndarray) and not ops.is_tensor(value):
            return value
        array = ops.convert_to_numpy(value)
        return array.dtype.str, array.shape, array.tobytes()

    return repr(keras.tree.map_structure(spell, sorted(options.items())))


class NextToken(Borrower):
    """One step of a stream, from a result of `TokenStream.begin` or `advance` to the next."""

    def __init__(self, model, stream, width):
        super().__init__(model)
        self.stream, self.width = stream, width

    def call(self, found):
        return self.stream.advance(self.model.decoder(), self.width, found)


class Streamer(Generator):
    """A `Generator` that yields tokens one by one.

    One program reads the prompts, another one generates a token; each is compiled once per shape.

    Args:
        model: a `Generative` model without a context, such as `Gpt`.
        width: columns of the prompts.
        max_length, search, **options: see `decoding.TokenStream`.
    """

    def __init__(self, model, width, max_length, search="greedy", **options):
        super().__init__(model, max_length, search, **options)
        self.stream = decoding.TokenStream(search, max_length=max_length, **self.options)
        self.next_token = NextToken(model, self.stream, width)

    def call(self, inputs):
        inputs, given = _split_options(inputs)
        decoder, prompt, lengths = self.model.start_search(inputs)
        return self.stream.begin(decoder, prompt, lengths, **given)

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self._program = kernels.program(self, to_numpy=False)
        self.next_token.compile(*args, **kwargs)
        self._advance = kernels.program(self.next_token, to_numpy=False)

    def tokens(self, inputs, seed=None):
        """Yields the tokens `[B]` of each step, until all rows have ended."""
        found = self.run(inputs, seed)
        for number in range(1, self.max_length + 1):
            yield ops.convert_to_numpy(found["loop"].last)
            if number == self.max_length or ops.convert_to_numpy(found["loop"].finished).all():
                return
            found = self._advance(found)


class GeneratorCache:
    """Keeps generators. Keras does not track them here: they only borrow a model's weights.

    It holds the `MOST` that were used last.
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


class Generative(Mixin):
    """A mixin for models that generate: `generate` runs compiled searches on the model's decoder.

    A model has `decoder`, `start_search` and the ids `pad_id` and `end_id`.
    """

    def decoder(self, context: Any = None, *, rows: int | None = None) -> decoding.Decoder:
        """The `decoding.Decoder` for a search of `keras_xfmr.decoding`.

        Args:
            context: what the decoder reads, such as an encoder's memory; one for each batch
                element, for any number of beams.
            rows: rows that `step` will read, if known. It decides the layout of the kernels in
                memory, so it affects only the speed.
        """
        raise NotImplementedError

    def start_search(
        self, inputs: ModelInputs, beams: int = 1
    ) -> tuple[decoding.Decoder, Tensor, Tensor | None]:
        """The inputs of a search.

        Args:
            inputs: tensors that `generate` has checked.
            beams: rows of the search for each sentence.

        Returns:
            `(decoder, prompt, lengths)`; the lengths of the right-aligned prompts, or None if they
            are equal.
        """
        raise NotImplementedError

    def generate(
        self,
        inputs: ModelInputs,
        *,
        max_length: int,
        up_to: int | None = None,
        search: Search = "greedy",
        jit_compile: bool = True,
        **options,
    ) -> dict[str, np.ndarray]:
        """Generates sequences by a compiled search.

        Args:
            inputs: NumPy arrays, checked by the model: one, or a dictionary. A program is compiled
                for each width of a `"prompt"`.
            up_to: fewer tokens than `max_length`, by the program that is compiled for `max_length`.
            max_length, search, jit_compile, **options: see `Transformer.generate`.
        """
        if up_to is not None and "limit" not in _parameters(search):
            max_length, up_to = up_to, None
        if up_to is not None:
            inputs = _as_dict(inputs)
            rows = len(inputs["source_ids"])
            inputs = {**inputs, "limit": np.full(rows, up_to, "int32")}
        found = self._searched("generate", inputs, search, jit_compile, max_length, options)
        sequences = {"token_ids", "token_scores"} & set(found)
        return {**found, **{name: found[name][..., :up_to] for name in sequences}}

    def _stream(self, inputs, *, max_length, search="greedy", jit_compile=True, **options):
        """As `generate`, but yields the tokens `[B]` of each step."""
        return self._searched("stream", inputs, search, jit_compile, max_length, options)

    def _searched(self, kind, inputs, search, jit_compile, max_length, options):
        options = {"max_length": max_length, **options}
        # The seed is a variable, so a new seed needs no recompilation.
        seed = None
        if search in ("sample", decoding.sample) and options.get("seed") is not None:
            if np.ndim(options["seed"]):
                inputs = {**_as_dict(inputs), "seed": np.asarray(options.pop("seed"))}
            elif not isinstance(options["seed"], keras.random.SeedGenerator):
                seed = check_seed(options.pop("seed"))
        # A program also depends on these: low-rank updates are further variables.
        made_of = (self.pad_id, self.start_id, self.end_id, len(self.variables))
        prompt = inputs.get("prompt") if isinstance(inputs, dict) else None
        width = None if prompt is None else prompt.shape[1]
        key = (kind, search, jit_compile, seed is None, made_of, width, options_key(options))

        def make():
            if kind == "stream":
                generator = Streamer(self, width, search=search, **self._special_ids(options))
            else:
                generator = self.make_generator(search=search, **options)
            generator.compile(jit_compile=jit_compile)
            return generator

        generator = self._generators.get(key, make)
        if kind == "stream":
            generator.stream.check_rows(len(prompt))
            return generator.tokens(inputs, seed)
        return generator.run(inputs, seed)

    def make_generator(self, *, max_length: int, search: Search = "greedy", **options) -> Generator:
        """A model from the inputs of `generate` to the result of a search.

        It can be called, compiled or exported. It borrows this model's weights.

        Args:
            max_length: the most tokens to generate, the end token included.
            search: as for `generate`.
            **options: of the search, except `pad_id`. `end_id`, one or several, replaces the
                model's.

        Raises:
            ValueError: an unknown search or option, or `pad_id`.
        """
        return Generator(self, max_length, search, **self._special_ids(options))

    def _special_ids(self, options):
        """The options of a search and the model's own ids."""
        if "pad_id" in options:
            raise ValueError(
                f"A search uses the model's own `pad_id`. Received: pad_id={options['pad_id']!r}. "
                "Leave it out."
            )
        pad_id = self.end_id if self.pad_id is None else self.pad_id
        return {"end_id": self.end_id, "pad_id": pad_id, **options}

    @functools.cached_property
    def _generators(self):
        return GeneratorCache()
