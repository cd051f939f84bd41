"""Options of every search, against loops over one row in NumPy and transformers' processors.

B batch, P prompt length, L max_length, V vocab_size
"""

import numpy as np
import oracles
import pytest
from arrays import as_numpy
from keras import ops

from keras_xfmr import decoding

pytestmark = pytest.mark.portable

B, P, L, V, PAD = 5, 3, 11, 7, 6
PROMPT = np.array([[1, 4, 1], [PAD, 2, 5], [PAD, PAD, 3], [4, 4, 4], [0, 5, 0]])
LENGTHS = np.array([3, 2, 1, 3, 3])
PENALTIES = {
    "repetition": {"repetition_penalty": 2.5},
    "encouraged": {"repetition_penalty": 0.5},
    "tokens": {"no_repeat_ngram_size": 1},
    "pairs": {"no_repeat_ngram_size": 2},
    "triples": {"no_repeat_ngram_size": 3},
    "longer than all": {"no_repeat_ngram_size": 17},
    "length": {"min_length": 5},
    "all": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_length": 3},
}


class Table(decoding.Decoder):
    """Scores by the row, the column and the last token; they lean to a few tokens."""

    def __init__(self, rng, end_bias=0.0):
        self.scores = rng.normal(size=(B, P + L, V, V)).astype("float32") * 1.5
        self.scores += rng.normal(size=(B, 1, 1, V)).astype("float32") * 2.0
        self.scores[..., 0] += end_bias
        self.prompts_read = []

    def init_state(self, rows, length):
        return {"row": ops.arange(rows, dtype="int32")}

    def prefill(self, prompt, lengths, state):
        self.prompts_read.append(tuple(prompt.shape))
        return self.step(prompt[:, -1], ops.full((), P - 2, dtype="int32"), state)

    def step(self, token_ids, index, state):
        place = (state["row"] * (P + L) + index) * V + token_ids
        return ops.take(ops.convert_to_tensor(self.scores.reshape(-1, V)), place, axis=0), state

    def search(self, search, **options):
        options = {"end_id": 0, "max_length": L, "pad_id": PAD, "lengths": LENGTHS, **options}
        found = search(self, PROMPT, **options)
        return type(found)(*map(as_numpy, found))


def process(
    scores, ids, generated, ends=(0,), min_length=0, repetition_penalty=1.0,
    no_repeat_ngram_size=None,
):  # fmt: skip
    """The scores `[V]` of the token after `ids`, of which the last `generated` are new."""
    scores, size = scores.copy(), no_repeat_ngram_size
    for token in set(ids):
        negative = scores[token] < 0
        scores[token] *= repetition_penalty if negative else 1 / repetition_penalty
    for i in range(len(ids) - size + 1 if size else 0):
        if ids[i : i + size - 1] == ids[len(ids) - size + 1 :]:
            scores[ids[i + size - 1]] = -np.inf
    if generated < min_length:
        scores[list(ends)] = -np.inf
    return scores


def as_transformers(scores, ids, generated, ends=(0,), **penalties):
    """As `process`, by transformers' own."""
    import torch
    import transformers

    made = {
        "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor,
        "no_repeat_ngram_size": transformers.NoRepeatNGramLogitsProcessor,
        "min_length": lambda least: transformers.MinNewTokensLengthLogitsProcessor(
            len(ids) - generated, least, list(ends)
        ),
    }
    scores = torch.tensor(scores)[None]
    for name, value in penalties.items():
        scores = made[name](value)(torch.tensor([ids]), scores)
    return scores[0].numpy()


def greedy(table, row, processed=process, ends=(0,), **penalties):
    """The tokens of a row, and the log-probability of each."""
    ids, scores = PROMPT[row, P - LENGTHS[row] :].tolist(), []
    for i in range(L):
        logits = table.scores[row, P - 1 + i, ids[-1]]
        chosen = int(processed(logits, ids, i, ends, **penalties).argmax())
        scores.append(logits[chosen] - np.log(np.exp(logits.astype("float64")).sum()))
        ids.append(chosen)
        if chosen in ends:
            break
    return ids[LENGTHS[row] :], scores


def padded(ids, fill=PAD):
    return [*ids, *[fill] * (L - len(ids))]


@pytest.mark.slow
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_change_what_is_chosen_and_not_its_score(rng, name):
    table, penalties = Table(rng), PENALTIES[name]
    found = table.search(decoding.greedy_search, **penalties)
    drawn = table.search(decoding.sample, top_k=1, **penalties)
    for row in range(B):
        ids, scores = greedy(table, row, **penalties)
        assert found.token_ids[row].tolist() == padded(ids) == drawn.token_ids[row].tolist()
        assert found.scores[row] == pytest.approx(sum(scores), rel=1e-5)
    if name != "longer than all":
        assert found.token_ids.tolist() != table.search(decoding.greedy_search).token_ids.tolist()


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_are_those_of_transformers(rng, name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    table, penalties = Table(rng), PENALTIES[name]
    found = table.search(decoding.greedy_search, **penalties)
    for row in range(B):
        assert found.token_ids[row].tolist() == padded(
            greedy(table, row, as_transformers, **penalties)[0]
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repetition", "pairs", "length", "all"])
def test_a_beam_search_penalizes_log_probabilities(rng, name):
    table, penalties = Table(rng, end_bias=1.0), PENALTIES[name]
    found = table.search(decoding.beam_search, beam_size=3, num_return=3, **penalties)
    for row in range(B):

        def log_probs(prefix, row=row):
            ids = [*PROMPT[row, P - LENGTHS[row] :].tolist(), *prefix[1:]]
            logits = table.scores[row, P - 2 + len(prefix), ids[-1]].astype("float64")
            return process(logits - np.log(np.exp(logits).sum()), ids, len(prefix) - 1, **penalties)

        expected = oracles.beam_search(log_probs, -1, 0, L, 3, 0.6, 3)
        assert found.token_ids[row].tolist() == [padded(ids) for ids, _ in expected]
        np.testing.assert_allclose(found.scores[row], [s for _, s in expected], rtol=1e-5)


@pytest.mark.parametrize("search", [decoding.greedy_search, decoding.sample])
def test_any_of_several_tokens_ends_a_row(rng, search):
    table, ends = Table(rng), (0, 5, 3)
    options = {"top_k": 1} if search is decoding.sample else {}
    found = table.search(search, end_id=ends, min_length=2, **options)
    for row in range(B):
        ids, _ = greedy(table, row, ends=ends, min_length=2)
        assert found.token_ids[row].tolist() == padded(ids)
    last = {ids[n - 1] for ids, n in zip(found.token_ids.tolist(), found.lengths)}
    assert last <= set(ends) and len(last) > 1


def test_any_of_several_tokens_ends_a_beam(rng):
    table = Table(rng)
    found = table.search(decoding.beam_search, end_id=[0, 5, 3], beam_size=3, num_return=3)
    last = set()
    for row in range(B):
        for ids, length in zip(found.token_ids[row].tolist(), found.lengths[row]):
            assert not {0, 5, 3} & set(ids[: length - 1]) and set(ids[length:]) <= {PAD}
            last.add(ids[length - 1])
    assert last == {0, 5, 3}


def test_scores_of_tokens_add_up_to_the_score(rng):
    table = Table(rng, end_bias=1.0)
    found = table.search(decoding.greedy_search, token_scores=True)
    for row in range(B):
        expected = padded(greedy(table, row)[1], 0.0)
        np.testing.assert_allclose(found.token_scores[row], expected, rtol=1e-5, atol=1e-6)
    options = {"beam_size": 3, "num_return": 3, "alpha": 0.7}
    found = table.search(decoding.beam_search, token_scores=True, **options)
    plain = table.search(decoding.beam_search, **options)
    np.testing.assert_array_equal(found.token_ids, plain.token_ids)
    sums = found.token_scores.sum(-1) / oracles.length_penalty(found.lengths, 0.7)
    np.testing.assert_allclose(found.scores, sums, rtol=1e-5)
    behind = np.arange(L) >= found.lengths[..., None]
    assert not found.token_scores[behind].any() and behind.any()
    assert found.token_scores[~behind].all()


def test_several_sequences_are_drawn_from_a_prompt_that_is_read_once(rng):
    table = Table(rng)
    found = table.search(decoding.sample, num_return=19, seed=1, token_scores=True)
    assert found.token_ids.shape == found.token_scores.shape == (B, 19, L)
    assert found.scores.shape == found.lengths.shape == (B, 19)
    assert table.prompts_read == [(B, P - 1)]
    np.testing.assert_allclose(found.token_scores.sum(-1), found.scores, rtol=1e-5)
    log_probs = table.scores - np.log(np.exp(table.scores).sum(-1, keepdims=True))
    for row in range(B):
        assert len({tuple(ids) for ids in found.token_ids[row].tolist()}) > 9
        first = log_probs[row, P - 1, PROMPT[row, -1], found.token_ids[row, :, 0]]
        np.testing.assert_allclose(found.token_scores[row, :, 0], first, rtol=1e-4)
    best = table.search(decoding.sample, num_return=2, top_k=1).token_ids
    expected = [[padded(greedy(table, row)[0])] * 2 for row in range(B)]
    assert best.tolist() == expected
    assert table.search(decoding.sample, num_return=1).token_ids.shape == (B, 1, L)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("jit_compile, search, options", [
    (False, decoding.greedy_search, {}),
    (True, decoding.beam_search, {"beam_size": 3, "num_return": 2}),
    (True, decoding.sample, {"seed": 5, "num_return": 2}),
], ids=["greedy", "beam", "sample"])  # fmt: skip
def test_compiled_searches_take_all_options(rng, jit_compile, search, options):
    import tensorflow as tf

    table = Table(rng)
    options = {**options, **PENALTIES["all"], "end_id": [0, 3], "token_scores": True}
    expected = table.search(search, **options)
    options.update(max_length=L, pad_id=PAD)
    run = tf.function(
        lambda prompt, lengths: search(table, prompt, lengths=lengths, **options),
        jit_compile=jit_compile,
    )
    found = run(tf.constant(PROMPT, tf.int32), tf.constant(LENGTHS, tf.int32))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options, message", [
    ({"min_length": -1}, "`min_length` must be an integer in 0 .. 11. Received: -1"),
    ({"min_length": 12}, "`min_length` must be an integer in 0 .. 11. Received: 12"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be positive and finite.*: 0.0"),
    ({"repetition_penalty": float("nan")}, "`repetition_penalty` must be positive.*: nan"),
    ({"no_repeat_ngram_size": 0}, "`no_repeat_ngram_size` must be a positive integer.*: 0"),
    ({"end_id": [0, True]}, "`end_id` must be an integer, or a list .*Received: .0, True."),
])  # fmt: skip
@pytest.mark.parametrize("search", [
    decoding.greedy_search, decoding.beam_search, decoding.sample,
])  # fmt: skip
def test_an_option_outside_its_range_is_an_error(rng, search, options, message):
    with pytest.raises(ValueError, match=message):
        Table(rng).search(search, **options)


def test_the_number_of_sequences_to_draw_is_positive(rng):
    with pytest.raises(ValueError, match="`num_return` must be a positive integer. Received: 0"):
        Table(rng).search(decoding.sample, num_return=0)


@pytest.mark.parametrize("search, options", [
    (decoding.greedy_search, {}), (decoding.sample, {"seed": 3}),
    (decoding.beam_search, {"beam_size": 3, "num_return": 3, "alpha": 2.0}),
], ids=lambda x: getattr(x, "__name__", ""))  # fmt: skip
def test_a_limit_is_a_smaller_max_length(rng, search, options):
    table = Table(rng, end_bias=-1.0)
    found = table.search(search, limit=ops.convert_to_tensor(4), token_scores=True, **options)
    expected = table.search(search, max_length=4, token_scores=True, **options)
    np.testing.assert_array_equal(found.token_ids[..., :4], expected.token_ids)
    assert (found.token_ids[..., 4:] == PAD).all() and (found.lengths == expected.lengths).all()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
