"""Searches over small Markov chains, where the oracles can look at every sequence.

B batch, R rows (batch times beams), L max_length, V vocab_size
"""

import collections

import numpy as np
import oracles
import pytest
from keras import ops

from keras_xfmr import decoding

pytestmark = pytest.mark.portable

B, L, V, START, END, PAD = 11, 6, 5, 1, 3, 4
ENDS = {"end_id": END, "max_length": L, "pad_id": PAD}


class Chains:
    """B chains of second order: the next token depends on the row, two tokens and the position.

    What depends on an earlier token and on the row travels in the state, so a search that forgets
    to carry or to reorder its state goes wrong.
    """

    def __init__(self, rng, rows=B, scale=2.0, end_bias=0.0):
        self.rows = rows
        self.logits = rng.normal(size=(rows, V, V, V)).astype("float32") * scale
        self.logits[..., END] += end_bias
        self.positions = rng.normal(size=(2 * L, V)).astype("float32")
        self.calls = 0
        self.state = {"row": np.arange(rows, dtype="int32"), "last": np.zeros(rows, "int32")}
        self.prompt = np.full(rows, START, "int32")

    def step(self, token_ids, index, state):
        self.calls += 1
        place = (state["row"] * V + state["last"]) * V + token_ids
        logits = ops.take(ops.convert_to_tensor(self.logits.reshape(-1, V)), place, axis=0)
        logits = logits + ops.take(ops.convert_to_tensor(self.positions), index, axis=0)
        return logits, {"row": state["row"], "last": token_ids}

    def log_probs(self, row, prompt=()):
        """The oracles' view of a row: prefix (after `prompt`) -> [V], in float64."""

        def next_log_probs(prefix):
            prefix = (*prompt, *prefix)
            last = prefix[-2] if len(prefix) > 1 else 0
            logits = self.logits[row, last, prefix[-1]] + self.positions[len(prefix) - 1]
            logits = logits.astype("float64")
            return logits - np.log(np.exp(logits).sum())

        return next_log_probs

    def run(self, search, prompt=None, **options):
        """The arrays of a search over all rows."""
        prompt = self.prompt if prompt is None else prompt
        state = {name: ops.convert_to_tensor(x) for name, x in self.state.items()}
        return as_numpy(search(self.step, prompt, state, **{**ENDS, **options}))

    def score(self, row, ids):
        next_log_probs, ids = self.log_probs(row), (START, *ids)
        return sum(next_log_probs(ids[:i])[ids[i]] for i in range(1, len(ids)))


def as_numpy(found):
    return decoding.SearchResult(*(ops.convert_to_numpy(x) for x in found))


def padded(ids):
    return [*ids, *[PAD] * (L - len(ids))]


def test_greedy_search_takes_what_the_oracle_takes(rng):
    chains = Chains(rng)
    found = chains.run(decoding.greedy_search)
    for row in range(B):
        ids = oracles.greedy(chains.log_probs(row), START, END, L)
        assert found.token_ids[row].tolist() == padded(ids)
        assert found.lengths[row] == len(ids)
        assert found.scores[row] == pytest.approx(chains.score(row, ids), rel=1e-5)
    assert 1 < len(set(found.lengths)) and found.lengths.max() == L  # some end, some do not


@pytest.mark.parametrize("vocab_size", [7, 1031])  # a long row is searched in blocks
def test_of_equal_tokens_greedy_search_takes_the_first(rng, vocab_size):
    logits = np.floor(rng.uniform(0, 3, (61, vocab_size))).astype("float32")
    step = lambda ids, index, state: (ops.convert_to_tensor(logits), state)  # noqa: E731
    found = decoding.greedy_search(step, np.zeros(61, "int32"), end_id=-1, max_length=1)
    np.testing.assert_array_equal(as_numpy(found).token_ids[:, 0], logits.argmax(-1))


def test_a_longer_prompt_is_read_before_the_first_choice(rng):
    chains = Chains(rng)
    prompt = np.stack([[2, row % 3, START] for row in range(B)]).astype("int32")
    greedy = chains.run(decoding.greedy_search, prompt)
    beams = chains.run(decoding.beam_search, prompt, beam_size=3)
    for row in range(B):
        log_probs = chains.log_probs(row, prompt=tuple(prompt[row, :-1]))
        ids = oracles.greedy(log_probs, START, END, L)
        assert greedy.token_ids[row].tolist() == padded(ids)
        ((ids, _),) = oracles.beam_search(log_probs, START, END, L, 3, 0.6, 1)
        assert beams.token_ids[row, 0].tolist() == padded(ids)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("beam_size", [1, 2, 3, 7])
def test_beam_search_finds_what_the_oracle_finds(rng, beam_size, alpha):
    chains = Chains(rng)
    options = {"beam_size": beam_size, "alpha": alpha, "num_return": beam_size}
    found = chains.run(decoding.beam_search, **options)
    assert found.token_ids.shape == (B, beam_size, L)
    for row in range(B):
        expected = oracles.beam_search(
            chains.log_probs(row), START, END, L, beam_size, alpha, beam_size
        )
        assert found.token_ids[row].tolist() == [padded(ids) for ids, _ in expected]
        assert found.lengths[row].tolist() == [len(ids) for ids, _ in expected]
        np.testing.assert_allclose(found.scores[row], [s for _, s in expected], rtol=1e-5)


def test_a_wide_beam_finds_the_best_of_all_sequences(rng):
    chains = Chains(rng, rows=3)
    found = chains.run(decoding.beam_search, beam_size=4**4, alpha=1.0, num_return=13, max_length=4)
    for row in range(3):
        expected = oracles.exhaustive_search(chains.log_probs(row), START, END, 4, 1.0, 13)
        lengths = [len(ids) for ids, _ in expected]
        assert found.lengths[row].tolist() == lengths
        for ids, length, (best, _) in zip(found.token_ids[row], lengths, expected, strict=True):
            assert ids[:length].tolist() == list(best) and (ids[length:] == PAD).all()
        np.testing.assert_allclose(found.scores[row], [s for _, s in expected], rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 5.0])
def test_one_beam_is_greedy_search(rng, alpha):
    chains = Chains(rng, rows=61, end_bias=1.0)
    greedy = chains.run(decoding.greedy_search)
    beam = chains.run(decoding.beam_search, beam_size=1, alpha=alpha)
    np.testing.assert_array_equal(beam.token_ids[:, 0], greedy.token_ids)
    np.testing.assert_array_equal(beam.lengths[:, 0], greedy.lengths)
    penalty = oracles.length_penalty(greedy.lengths, alpha)
    np.testing.assert_allclose(beam.scores[:, 0], greedy.scores / penalty, rtol=1e-5, atol=1e-6)
    assert set(greedy.lengths) == set(range(1, L + 1))


def test_hypotheses_come_best_first_and_differ(rng):
    found = Chains(rng).run(decoding.beam_search, beam_size=5, num_return=5)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    for row in found.token_ids.tolist():
        assert len({tuple(ids) for ids in row}) == 5


def test_more_beams_than_there_are_sequences_leave_empty_ones_last(rng):
    chains = Chains(rng)
    found = chains.run(decoding.beam_search, beam_size=7, num_return=7, max_length=1)
    for row in range(B):
        expected = oracles.beam_search(chains.log_probs(row), START, END, 1, 7, 0.6, 7)
        assert found.token_ids[row, : len(expected)].tolist() == [list(i) for i, _ in expected]
    assert len(expected) == V and (found.lengths[:, :V] == 1).all()
    assert_empty(found, V)


def assert_empty(found, start):
    """No hypothesis from `start` on."""
    assert (found.scores[:, start:] == np.float32(-1e9)).all() and found.scores[:, start:].size
    assert not found.lengths[:, start:].any() and (found.token_ids[:, start:] == PAD).all()


@pytest.mark.parametrize("alpha", [0.6, 5.0])
@pytest.mark.parametrize("end_id, length", [(0, 1), (END, 3)])
def test_a_vocabulary_of_one_token_has_one_sequence(end_id, length, alpha):
    def step(token_ids, index, state):
        return ops.expand_dims(ops.cast(token_ids, "float32"), -1), state

    options = {"end_id": end_id, "max_length": 3, "pad_id": PAD, "alpha": alpha}
    found = as_numpy(
        decoding.beam_search(step, np.zeros(2, "int32"), beam_size=3, num_return=3, **options)
    )
    assert (found.lengths[:, 0] == length).all() and not found.scores[:, 0].any()
    assert found.token_ids[:, 0].tolist() == [[0] * length + [PAD] * (3 - length)] * 2
    assert_empty(found, 1)


@pytest.mark.parametrize("search", [decoding.greedy_search, decoding.sample])
def test_what_follows_the_end_token_is_padding(rng, search):
    found = Chains(rng, end_bias=1.0).run(search)
    for ids, length in zip(found.token_ids, found.lengths, strict=True):
        assert END not in ids[: length - 1]
        assert length == L or ids[length - 1] == END
        assert (ids[length:] == PAD).all()
    assert len(set(found.lengths)) > 1


@pytest.mark.requires_tensorflow  # whose eager loop runs the step once an iteration
def test_a_search_stops_when_no_row_can_change(rng):
    import tensorflow as tf

    chains = Chains(rng, end_bias=3.0)
    found = chains.run(decoding.greedy_search, max_length=2 * L)
    assert tf.executing_eagerly() and chains.calls == found.lengths.max() < 2 * L
    chains.calls, longest = 0, 0
    chains.run(decoding.beam_search, beam_size=2, max_length=2 * L)

    def watched(log_probs):
        def next_log_probs(prefix):
            nonlocal longest
            longest = max(longest, len(prefix))
            return log_probs(prefix)

        return next_log_probs

    for row in range(B):
        oracles.beam_search(watched(chains.log_probs(row)), START, END, 2 * L, 2, 0.6, 1)
    assert chains.calls == longest < 2 * L


@pytest.mark.parametrize("search, options", [
    (decoding.greedy_search, {}), (decoding.beam_search, {"beam_size": 3, "num_return": 3}),
])  # fmt: skip
def test_a_row_does_not_depend_on_the_other_rows(rng, search, options):
    chains = Chains(rng)
    together = chains.run(search, **options)
    for row in range(B):
        alone = Chains(rng, rows=1)
        alone.logits, alone.positions = chains.logits[row : row + 1], chains.positions
        for one, all_ in zip(alone.run(search, **options), together, strict=True):
            np.testing.assert_allclose(one[0], all_[row], rtol=1e-6)


@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("search, options", [
    (decoding.greedy_search, {}),
    (decoding.beam_search, {"beam_size": 3, "num_return": 2}),
    (decoding.sample, {"seed": 5, "top_k": 4, "top_p": 0.9, "temperature": 1.5}),
], ids=["greedy", "beam", "sample"])  # fmt: skip
def test_compiled_searches_find_the_same(rng, search, options):
    import tensorflow as tf

    chains = Chains(rng)
    eager = chains.run(search, **options)
    for jit_compile in (False, True):
        compiled = tf.function(
            lambda prompt, state: search(chains.step, prompt, state, **ENDS, **options),
            jit_compile=jit_compile,
        )
        found = as_numpy(compiled(chains.prompt, chains.state))
        np.testing.assert_array_equal(found.token_ids, eager.token_ids)
        np.testing.assert_array_equal(found.lengths, eager.lengths)
        np.testing.assert_allclose(found.scores, eager.scores, rtol=1e-5)


def test_half_precision_logits_are_scored_in_float32(rng):
    chains = Chains(rng)
    chains.logits = chains.logits.astype("float16").astype("float32")
    chains.positions[:] = 0.0

    def half(token_ids, index, state):
        logits, state = chains.step(token_ids, index, state)
        return ops.cast(logits, "float16"), state

    for search in (decoding.greedy_search, decoding.beam_search):
        found = as_numpy(search(half, chains.prompt, dict(chains.state), **ENDS))
        np.testing.assert_allclose(found.scores, chains.run(search).scores, rtol=1e-6)


def test_the_length_penalty_is_equation_14():
    for length, alpha in ((1, 0.6), (7, 1.0), (50, 0.0)):
        expected = oracles.length_penalty(length, alpha)
        assert float(decoding.length_penalty(length, alpha)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("search, options, message", [
    (decoding.greedy_search, {"max_length": 0}, "`max_length` must be a positive integer.*0"),
    (decoding.beam_search, {"max_length": 2.0}, "`max_length` must be a positive integer.*2.0"),
    (decoding.sample, {"max_length": -1}, "`max_length` must be a positive integer.*-1"),
    (decoding.greedy_search, {"max_length": True}, "`max_length` must be a positive integer.*True"),
    (decoding.beam_search, {"beam_size": True}, "`beam_size` must be a positive integer.*True"),
    (decoding.beam_search, {"beam_size": 0}, "`beam_size` must be a positive integer.*0"),
    (decoding.beam_search, {"num_return": 5}, "`num_return` must be an integer in 1 .. 4.*: 5"),
    (decoding.beam_search, {"alpha": -0.1}, "`alpha` must not be negative. Received: -0.1"),
    (decoding.beam_search, {"num_return": 2.0}, "`num_return` must be an integer in 1 .. 4.*: 2.0"),
    (decoding.beam_search, {"alpha": float("nan")}, "`alpha` must not be negative. Received: nan"),
    (decoding.beam_search, {"alpha": 300.0}, "`alpha` is so large .* alpha=300.0, max_length="),
    (decoding.beam_search, {"alpha": float("inf")}, "`alpha` is so large .*alpha=inf"),
    (decoding.sample, {"temperature": 0.0}, "`temperature` must be positive and finite.*: 0.0"),
    (decoding.sample, {"temperature": float("inf")}, "`temperature` must be .* finite.*: inf"),
    (decoding.sample, {"top_k": 0}, "`top_k` must be a positive integer. Received: 0"),
    (decoding.sample, {"top_p": 1.5}, r"`top_p` must lie in \(0, 1\]. Received: 1.5"),
    (decoding.sample, {"top_p": 0.0}, r"`top_p` must lie in \(0, 1\]. Received: 0.0"),
    (decoding.greedy_search, {"end_id": [2, 3.0]}, "`end_id` must be an integer, or .*2, 3.0"),
    (decoding.greedy_search, {"end_id": []}, "`end_id` must be an integer, or .*: ..."),
    (decoding.beam_search, {"end_id": None}, "`end_id` must be an integer.*None"),
    (decoding.sample, {"end_id": 2.0}, "`end_id` must be an integer.*2.0"),
], ids=lambda x: str(x) if isinstance(x, dict) else "")  # fmt: skip
def test_a_bad_argument_is_an_error_that_says_what_was_received(rng, search, options, message):
    with pytest.raises(ValueError, match=message):
        Chains(rng).run(search, **options)


@pytest.mark.parametrize("shape", [(B, 2, 1), (B, 0), ()])
def test_a_prompt_of_another_shape_is_an_error(rng, shape):
    with pytest.raises(ValueError, match="`prompt` must have the shape .batch. or"):
        Chains(rng).run(decoding.greedy_search, np.ones(shape, "int32"))


@pytest.mark.parametrize("search", [decoding.greedy_search, decoding.beam_search])
def test_a_step_function_keeps_the_form_of_what_it_is_given(search):
    def run(step, state):
        options = {"end_id": 3, "max_length": 5}
        return ops.convert_to_numpy(search(step, np.array([1]), state, **options).token_ids)

    def logits_of(ids):
        return ops.one_hot(ids + 1, 7) * 9.0

    zeros = ops.zeros((1, 2))
    expected = run(lambda ids, index, state: (logits_of(ids), state), [zeros])
    for step, state in (
        (lambda ids, index, state: (logits_of(ids), state), None),
        (lambda ids, index, state: (logits_of(ids), tuple(state)), [zeros]),
    ):
        np.testing.assert_array_equal(run(step, state), expected)
    with pytest.raises(ValueError, match=r"logits .rows, vocabulary., one row .*1, 7\)"):
        run(lambda ids, index, state: (logits_of(ids)[:, None], state), ())
    with pytest.raises(ValueError, match="state with the structure .*Received: 0 tensors.* for 1"):
        run(lambda ids, index, state: (logits_of(ids), ()), [zeros])
    rows = 4 if search is decoding.beam_search else 1
    with pytest.raises(ValueError, match=rf"Received: {rows} ids and logits of shape \(2, 7\)"):
        run(lambda ids, index, state: (ops.zeros((2, 7)), state), [zeros])


@pytest.mark.parametrize("search", [decoding.greedy_search, decoding.beam_search])
def test_a_state_is_told_apart_by_its_keys(search):
    def step(ids, index, state):
        logits = ops.one_hot(ids + ops.cast(state["step"], "int32"), 7) * 9.0
        return logits, {"step": state["step"], "other": state["other"]}  # sorted: other, step

    state = collections.OrderedDict(step=ops.ones((1,)), other=ops.zeros((1,)))
    found = search(step, np.array([1]), state, end_id=6, max_length=4)
    assert ops.convert_to_numpy(found.token_ids).reshape(-1).tolist() == [2, 3, 4, 5]
