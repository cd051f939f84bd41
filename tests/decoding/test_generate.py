"""Searches over a Transformer: cached and compiled, against loops that run the whole decoder.

B batch, S source, L max_length, V vocab_size
"""

import json
import pathlib

import forked
import keras
import numpy as np
import pytest
from arrays import as_numpy
from keras import ops

from keras_xfmr import decoding
from keras_xfmr.layers.projections import Prepared
from keras_xfmr.models import Transformer
from keras_xfmr.models.core.generative import GeneratorCache

pytestmark = pytest.mark.portable

B, S, L, V = 5, 7, 6, 11
LEARNED = {"seed": 40, "norm_first": True, "positions": "learned", "max_length": S}
SOURCE = np.array([
    [5, 7, 3, 8, 4, 10, 6], [8, 9, 10, 5, 0, 0, 0], [4, 4, 0, 0, 0, 0, 0], [0] * S,
    [10, 9, 8, 7, 6, 5, 4],
])  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return make(**LEARNED)


def make(seed=35, **arguments):
    """A model whose answers differ from row to row, and of which some end."""
    model = Transformer(V, d_model=6, num_heads=3, ffn_dim=13, num_layers=(1, 2), **arguments)
    rng = np.random.default_rng(seed)
    for variable in sorted(model.trainable_weights, key=lambda v: v.path):  # Keras' order changes
        small = variable.path.endswith(("beta", "bias"))  # they pull every answer to one token
        variable.assign(rng.normal(size=variable.shape) * (0.1 if small else 1.5))
    return model


def search(model, source=SOURCE, **options):
    """The cached search without compilation."""
    generator = model.make_generator(**{"max_length": L, **options})
    return {name: as_numpy(x) for name, x in generator(ops.convert_to_tensor(source)).items()}


def uncached_step(model, source):
    """Reads the whole prefix again at each token; the state is the prefix and its source."""
    rows = len(source)
    prefix = np.zeros((rows, L + 1), "int32")

    def step(token_ids, index, state):
        source, prefix = state
        here = ops.expand_dims(ops.arange(L + 1) == index, 0)
        prefix = ops.where(here, ops.expand_dims(token_ids, 1), prefix)
        logits = model({"source_ids": source, "target_ids": prefix})
        return ops.take(logits, index, axis=1), (source, prefix)

    start = np.full(rows, model.start_id, "int32")
    return step, start, (ops.convert_to_tensor(source), ops.convert_to_tensor(prefix))


def assert_same(found, expected, tolerance=1e-4):
    """Equal ids; scores are sums of a few log-probabilities near 1, in float32."""
    if isinstance(expected, decoding.SearchResult):
        expected = {name: as_numpy(x) for name, x in expected._asdict().items()}
    assert found.keys() == expected.keys() == {"token_ids", "scores", "lengths"}
    np.testing.assert_array_equal(found["token_ids"], expected["token_ids"])
    np.testing.assert_array_equal(found["lengths"], expected["lengths"])
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [
    {}, LEARNED, {**LEARNED, "seed": 37, "pad_id": 1, "start_id": 3, "end_id": 4},
    {**LEARNED, "seed": 42, "start_id": 3}, {**LEARNED, "seed": 35, "start_id": 0},
    {**LEARNED, "pad_id": 3},
], ids=[
    "post-norm", "pre-norm and learned", "other special ids", "starts with the end",
    "starts with padding", "padded with the end",
])  # fmt: skip
def test_cached_greedy_search_equals_the_loop_over_the_whole_decoder(arguments):
    model = make(**arguments)
    source = np.where(SOURCE == 0, model.pad_id, SOURCE)
    target = np.full((B, L + 1), model.pad_id)
    target[:, 0], ended, scores = model.start_id, np.zeros(B, bool), np.zeros(B)
    for i in range(L):
        logits = as_numpy(model({"source_ids": source, "target_ids": target}))[:, i]
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        scores += np.where(ended, 0.0, log_probs.max(-1))
        target[:, i + 1] = np.where(ended, model.pad_id, log_probs.argmax(-1))
        ended |= target[:, i + 1] == model.end_id
    found = search(model, source)
    np.testing.assert_array_equal(found["token_ids"], target[:, 1:])
    np.testing.assert_allclose(found["scores"], scores, rtol=0, atol=1e-4)
    assert len({tuple(ids) for ids in found["token_ids"]}) > 2 and ended.any()


@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_cached_beam_search_equals_the_search_over_the_whole_decoder(model, beams):
    options = {"beam_size": beams, "num_return": beams}
    expected = decoding.beam_search(
        *uncached_step(model, SOURCE), end_id=3, max_length=L, **options
    )
    assert_same(search(model, search="beam", **options), expected)


def test_cached_sampling_equals_sampling_over_the_whole_decoder(model):
    options = {"seed": 5, "temperature": 2.0, "top_k": 7}
    expected = decoding.sample(*uncached_step(model, SOURCE), end_id=3, max_length=L, **options)
    assert_same(search(model, search="sample", **options), expected)


# On JAX everything that is not compiled is what the other tests look at.
@pytest.mark.parametrize("jit_compile", [
    pytest.param(False, marks=pytest.mark.requires_tensorflow), True,
])  # fmt: skip
@pytest.mark.parametrize("options", [
    {},
    pytest.param({"search": "beam", "beam_size": 3, "num_return": 2}, marks=pytest.mark.slow),
    pytest.param({"search": "sample", "seed": 5, "temperature": 2.0}, marks=pytest.mark.slow),
], ids=["greedy", "beam", "sample"])  # fmt: skip
def test_generate_compiles_the_same_search(model, options, jit_compile):
    found = model.generate(SOURCE, max_length=L, jit_compile=jit_compile, **options)
    assert all(isinstance(x, np.ndarray) for x in found.values())
    assert_same(found, search(model, **options))


@pytest.mark.parametrize("options", [
    {},
    pytest.param({"search": "beam", "beam_size": 3, "num_return": 3}, marks=pytest.mark.slow),
], ids=["greedy", "beam"])  # fmt: skip
def test_a_row_does_not_depend_on_the_other_rows_nor_on_their_padding(model, options):
    together = search(model, **options)
    for row in range(B):
        length = max(1, (SOURCE[row] != 0).sum())
        alone = search(model, SOURCE[row : row + 1, :length], **options)
        assert_same(alone, {name: x[row : row + 1] for name, x in together.items()})


def test_an_empty_batch_gives_no_sequences(model):
    for options in ({}, {"search": "beam", "beam_size": 3}):
        found = search(model, SOURCE[:0], **options)
        assert {len(x) for x in found.values()} == {0}


def test_sampling_without_a_seed_draws_anew_from_one_compiled_search(model):
    options = {"search": "sample", "temperature": 5.0, "max_length": L, "jit_compile": False}
    first, second = (model.generate(SOURCE, **options)["token_ids"] for _ in range(2))
    assert (first != second).any()


def test_another_seed_draws_anew_from_one_compiled_search():
    model = make(**LEARNED)
    options = {"search": "sample", "temperature": 5.0, "max_length": L, "jit_compile": False}
    draws = [model.generate(SOURCE, seed=seed, **options)["token_ids"] for seed in (1, 2, 1)]
    assert (draws[0] != draws[1]).any()
    np.testing.assert_array_equal(draws[0], draws[2])


COMPILED = keras.backend.backend() != "tensorflow"  # which traces what is not compiled, too


def counted(model):
    """The model, and a list that grows whenever one of its searches is traced."""
    made, decoder = [], model.decoder

    def count(*args, **options):
        made.append(args)
        return decoder(*args, **options)

    model.decoder = count
    return model, made


def test_another_length_is_another_program_and_another_seed_is_none():
    model, made = counted(make(**LEARNED))
    counts = []
    for length, seed in ((1, 1), (1, 2), (2, 1), (1, 3), (2, 3)):
        options = {"search": "sample", "max_length": length, "seed": seed}
        model.generate(SOURCE, jit_compile=COMPILED, **options)
        counts.append(len(made))
    assert counts == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("options", [
    {}, pytest.param({"search": "beam", "beam_size": 3, "alpha": 1.0}, marks=pytest.mark.slow),
], ids=str)  # fmt: skip
def test_few_programs_serve_sources_of_all_lengths(options):
    model, made = counted(make())
    sources = [np.full((2, width), 4) + np.arange(width) % 7 for width in (3, 11, 16, 17, 24, 3)]
    found = [model.generate(source, jit_compile=COMPILED, **options) for source in sources]
    assert len(made) == 2  # 16 and 24 tokens
    for source, one in zip(sources[:2], found):
        assert one["token_ids"].shape[-1] == source.shape[1] + 50
        exact = model.generate(
            source, max_length=source.shape[1] + 50, jit_compile=COMPILED, **options
        )
        assert_same(one, exact)


def test_few_programs_serve_prompts_of_all_lengths(model):
    model, made = counted(make())
    for width in (1, 7, 15):
        prompt = [[4 + i % 7 for i in range(width)]] * B
        model.generate(SOURCE, prompt=prompt, max_length=L, jit_compile=COMPILED)
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.requires_tensorflow
def test_new_shapes_do_not_make_tensorflow_warn(model, caplog):
    for rows in range(1, 7):
        model.generate(SOURCE[:1].repeat(rows, 0), max_length=1 + rows % 3, jit_compile=False)
    assert "retracing" not in caplog.text


def test_the_eight_programs_used_last_are_kept():
    cache = GeneratorCache()
    made = [cache.get(key, object) for key in [*range(8), 0, 8]]
    assert cache.get(0, object) is made[0] is made[8]
    assert cache.get(1, object) is not made[1]  # 8 has put it out


@pytest.mark.parametrize("kind", [np.asarray, ops.convert_to_tensor])
def test_large_arrays_among_the_options_are_told_apart(kind):
    model, made = counted(Transformer(2003, d_model=6, num_heads=3, ffn_dim=13, num_layers=1))

    def favoured(step, prompt, state, *, bias, **options):
        def biased(token_ids, index, state):
            logits, state = step(token_ids, index, state)
            return logits + bias["of"], state

        return decoding.greedy_search(biased, prompt, state, **options)

    for token in (1000, 1001, 1000):
        bias = {"of": kind(np.where(np.arange(2003) == token, 1e4, 0.0).astype("float32"))}
        options = {"search": favoured, "bias": bias, "max_length": 1, "jit_compile": COMPILED}
        assert model.generate(SOURCE[:1], **options)["token_ids"] == token
    assert len(made) == 2


def test_a_prompt_is_read_before_the_first_choice(model):
    source = ops.convert_to_tensor(SOURCE)
    greedy = search(model)["token_ids"]
    prompt = np.concatenate([np.full((B, 1), model.start_id), greedy[:, :2]], axis=1)
    step, _, state = model.step_function(source, L)  # L - 2 tokens after a prompt of 3
    found = decoding.greedy_search(step, prompt, state, end_id=3, max_length=L - 2)
    going = ~(greedy[:, :2] == 3).any(axis=1)
    assert going.sum() > 1
    np.testing.assert_array_equal(as_numpy(found.token_ids)[going], greedy[going, 2:])


def of_own_making(step, prompt, state, **options):
    return decoding.greedy_search(step, prompt, state, **options)


@pytest.mark.parametrize("search, options, beams", [
    ("greedy", {}, 1),
    ("sample", {}, 1),
    ("beam", {}, 4),
    (decoding.beam_search, {"beam_size": 7}, 7),
    (of_own_making, {}, 1),
])  # fmt: skip
def test_a_model_is_told_how_many_rows_a_sentence_has(model, search, options, beams, monkeypatch):
    rows = []

    def watched(layers, count):
        rows.append(count)
        return Prepared(layers, count)

    monkeypatch.setattr("keras_xfmr.models.transformer.Prepared", watched)
    generator = model.make_generator(search=search, max_length=2, **options)
    generator(ops.convert_to_tensor(SOURCE))
    assert rows == [B * beams]


def test_a_compiled_search_follows_the_weights_of_its_model():
    model = make()
    before = model.generate(SOURCE, max_length=L, jit_compile=False)
    for variable in model.trainable_weights:
        variable.assign(-1.0 * variable)
    after = model.generate(SOURCE, max_length=L, jit_compile=False)
    assert (after["token_ids"] != before["token_ids"]).any()
    assert_same(after, search(model))


def test_a_model_that_has_generated_comes_back_from_a_file(tmp_path):
    model = make()
    layers, weights = list(model.layers), list(model.weights)
    before = model.generate(SOURCE, max_length=L, jit_compile=False)
    assert model.layers == layers and len(model.weights) == len(weights)
    model.save(tmp_path / "model.keras")
    assert_same(search(keras.saving.load_model(tmp_path / "model.keras")), before)


@pytest.mark.parametrize("arguments, expected", [({}, S + 50), (LEARNED, S)], ids=str)
def test_the_default_length_is_that_of_the_source_and_fifty(arguments, expected):
    model, seen = make(**arguments), {}

    def one_token(step, prompt, state, *, max_length, **options):
        seen.update(options, max_length=max_length)
        return decoding.greedy_search(step, prompt, state, max_length=1, **options)

    found = model.generate(SOURCE, search=one_token, jit_compile=False)
    assert seen == {"max_length": expected, "end_id": 3, "pad_id": 0}
    assert found["token_ids"].shape == (B, 1)


@pytest.mark.parametrize("source, options, message", [
    (SOURCE[0], {}, r"`source_ids` must have the shape .batch, length., .*Received: shape \(7,\)"),
    (SOURCE + 1, {}, "must lie in 0 .. 10.*Received: ids from 1 to 11"),
    (SOURCE + 0.5, {}, "must be integers. Received: dtype float64"),
    (SOURCE, {"search": "best"}, "`search` must be one of .*'beam'.*Received: 'best'"),
    (SOURCE, {"max_length": 0}, "`max_length` must be a positive integer. Received: 0"),
    (SOURCE, {"max_length": -1}, "`max_length` must be a positive integer. Received: -1"),
    (SOURCE, {"pad_id": 5}, "model's own `pad_id`. Received: pad_id=5"),
    (SOURCE, {"limit": 3}, "no option `limit`, only end_id, max_length"),
    (SOURCE, {"temperature": 0.5}, "no option `temperature`, .* one of search='sample'"),
    (SOURCE, {"search": "sample", "seed": 1.5}, "`seed` must be an integer in 0 .*Received: 1.5"),
    (SOURCE, {"search": "sample", "seed": True}, "`seed` must be an integer in 0 .*: True"),
    (SOURCE, {"search": "sample", "seed": 2**31}, "`seed` must be an integer in 0 .*: 2147483648"),
    (["text"], {}, "`source_ids` must be ids, which a tokenizer"),
    (SOURCE, {"prompt": "text"}, "`prompt` must be ids, which a tokenizer"),
    (SOURCE, {"max_length": 8}, "positions for 7 tokens. Received: max_length=8"),
    (np.tile(SOURCE, 2), {}, "learned positions for 7 source tokens. Received: 14"),
])  # fmt: skip
def test_what_generate_cannot_take_is_an_error(model, source, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(source, **options)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("given", [
    ("no fit", "sample"), pytest.param(("fit", "greedy", "beam", "sample"), marks=pytest.mark.slow),
], ids=" ".join)  # fmt: skip
def test_rows_come_once_in_the_scope_of_a_strategy(given):
    script = pathlib.Path(__file__).parent / "strategy_script.py"
    done = forked.run(script, *given)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["replicas"] == 2
    for name in given[1:]:
        expected = found["outside"][f"{name}, False"]
        assert len(expected) == 2
        for place in ("inside", "callback") if given[0] == "fit" else ("inside",):
            assert [found[place][f"{name}, {jit}"] for jit in (False, True)] == [expected] * 2


def test_a_seed_generator_of_the_user_moves_on_by_one_at_every_call(model):
    options = {"search": "sample", "temperature": 5.0, "max_length": L, "jit_compile": COMPILED}
    seeds = [keras.random.SeedGenerator(7) for _ in range(2)]
    first, second = (model.generate(SOURCE, seed=seeds[0], **options) for _ in range(2))
    assert (first["token_ids"] != second["token_ids"]).any()
    assert_same(model.generate(SOURCE, seed=seeds[1], **options), first)
    states = [as_numpy(seed.state).tolist() for seed in seeds]
    assert states == [[7, 2], [7, 1]]
