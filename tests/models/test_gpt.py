"""GPT: what a position may see, packed documents, generation, scores, its variants.

B batch, T length, V vocab_size
"""

import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import models, training

pytestmark = pytest.mark.portable
V, T = 29, 11
SIZES = dict(d_model=6, num_heads=2, ffn_dim=7, num_layers=2, max_length=13)
VARIANTS = {
    "gpt2": {},
    "gpt": dict(norm_first=False, positions="interleaved"),
    "modern": dict(
        positions="rotary", norm="rms_norm", activation="swiglu", use_bias=False,
        num_key_value_heads=1, tie_output=False, d_model=8,
    ),
    "alibi": dict(positions="alibi"),
}  # fmt: skip
PROMPTS = [[5, 7, 3], [9, 2, 2, 8, 1, 4], [6]]


def make(**arguments):
    keras.utils.set_random_seed(7)
    return models.Gpt(V, **{**SIZES, "initializer_range": 0.5, **arguments})


@pytest.fixture(
    scope="module",
    params=["gpt2", "modern", *(pytest.param(x, marks=pytest.mark.slow) for x in ("gpt", "alibi"))],
)
def model(request):
    return make(**VARIANTS[request.param])


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(3).integers(0, V, (2, T))


def logits_of(model, ids, **more):
    return ops.convert_to_numpy(model({"token_ids": ids, **more}))


def test_the_future_changes_nothing(model, ids):
    changed = ids.copy()
    changed[:, 6:] = (ids[:, 6:] + 1) % V
    before, after = logits_of(model, ids), logits_of(model, changed)
    np.testing.assert_allclose(before[:, :6], after[:, :6], rtol=1e-5, atol=1e-5)
    assert (np.abs(before - after)[:, 6:].max(axis=-1) > 1e-3).all()


def test_packed_documents_are_read_as_alone(model, ids):
    documents = np.array([[1] * 4 + [2] * 5 + [0] * 2] * 2)
    packed = logits_of(model, ids, document_ids=documents)
    for start, end in ((0, 4), (4, 9)):
        alone = logits_of(model, ids[:, start:end])
        np.testing.assert_allclose(packed[:, start:end], alone, rtol=1e-4, atol=1e-5)
    assert np.isfinite(packed).all()


def test_padding_in_front_or_behind_changes_nothing(model, ids):
    mask = np.array([[0] * 3 + [1] * 8, [1] * 8 + [0] * 3])
    found = logits_of(model, ids, attention_mask=mask)
    for row, part in ((0, slice(3, None)), (1, slice(0, 8))):
        alone = logits_of(model, ids[row : row + 1, part])
        np.testing.assert_allclose(found[row, part], alone[0], rtol=1e-4, atol=1e-5)


def greedy(model, prompt, count):
    """One token after another, from all of the text."""
    text, total = list(prompt), 0.0
    for _ in range(count):
        padded = text + [0] * (SIZES["max_length"] - len(text))  # one program for all lengths
        scores = logits_of(model, np.array([padded]))[0, len(text) - 1].astype("float64")
        total += scores.max() - np.log(np.exp(scores).sum())
        text.append(int(scores.argmax()))
        if text[-1] == model.end_id:
            break
    return text[len(prompt) :], total


def test_prompts_together_go_on_as_one_by_one(model):
    found = model.generate(PROMPTS, max_length=7, jit_compile=False)
    for row, prompt in enumerate(PROMPTS):
        expected, score = greedy(model, prompt, 7)
        length = found["lengths"][row]
        assert found["token_ids"][row, :length].tolist() == expected
        assert found["scores"][row] == pytest.approx(score, rel=1e-4)
    assert not found["truncated"].any()


@pytest.mark.slow
def test_a_search_with_beams_goes_on_from_each_prompt(model):
    options = dict(max_length=4, search="beam", beam_size=3, num_return=2, jit_compile=False)
    together = model.generate(PROMPTS, **options)
    alone = model.generate(PROMPTS[1:2], **options)
    np.testing.assert_array_equal(together["token_ids"][1], alone["token_ids"][0])
    # The score of a hypothesis is that of the model, without a penalty of its length.
    plain = model.generate(PROMPTS[:1], **{**options, "alpha": 0.0})
    text = PROMPTS[0] + plain["token_ids"][0, 0, : plain["lengths"][0, 0]].tolist()
    tokens = model.score([text])["token_scores"][0, len(PROMPTS[0]) :]
    assert plain["scores"][0, 0] == pytest.approx(tokens.sum(), rel=1e-4)


def test_scores_are_log_probabilities(model, ids):
    found = model.score([ids[0].tolist(), ids[1, :4].tolist()])
    logits = logits_of(model, ids).astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for row, length in ((0, T), (1, 4)):
        expected = log_p[row, np.arange(length - 1), ids[row, 1:length]]
        np.testing.assert_allclose(found["token_scores"][row, 1:length], expected, rtol=1e-4)
        assert found["scores"][row] == pytest.approx(expected.sum(), rel=1e-4)
    assert (found["token_scores"][1, 4:] == 0).all() and (found["token_scores"][:, 0] == 0).all()


def test_the_end_is_learned_where_it_is_the_padding():
    """Labels of -1 are left out, not the end's id."""
    model = make(num_layers=1)
    ids = np.array([[5, 7, V - 1, 6, 3, V - 1]] * 4)
    labels = np.concatenate([ids[:, 1:], np.full((4, 1), -1)], axis=1)
    loss = training.MaskedCrossEntropy(pad_id=-1)
    perplexity = training.MaskedPerplexity(pad_id=-1)
    model.compile("adam", loss, metrics=[perplexity], jit_compile=False)
    measured = model.evaluate(ids, labels, verbose=0, return_dict=True)
    tokens = model.score(ids[:1].tolist())["token_scores"][0, 1:]
    assert measured["loss"] == pytest.approx(-tokens.mean(), rel=1e-4)
    assert measured["perplexity"] == pytest.approx(np.exp(-tokens.mean()), rel=1e-4)
    model.compile("adam", training.MaskedCrossEntropy(pad_id=5), jit_compile=False)
    with pytest.raises(ValueError, match="leaves out the label 5, a token.* Pass loss=-1|pad_id"):
        model.fit(ids, labels, verbose=0)


def test_an_id_that_only_pads_is_not_seen(ids):
    model = make(pad_id=0, start_id=1, end_id=2)
    rows = np.maximum(ids, 3)
    padded = np.concatenate([rows[:, :5], np.zeros((2, 2), int)], axis=1)
    alone = model.generate(rows[:1, :5].tolist(), max_length=3, jit_compile=False)
    found = model.generate(padded, max_length=3, jit_compile=False)
    np.testing.assert_array_equal(found["token_ids"][0], alone["token_ids"][0])


def test_a_prompt_beyond_the_context():
    model = make(num_layers=1)
    long = [(i * 5) % V for i in range(12)]
    with pytest.raises(ValueError, match="at most 10 tokens, .* max_length=4 .* context of 13"):
        model.generate([long], max_length=4)
    found = model.generate([long, [3]], max_length=4, truncate=True, jit_compile=False)
    last = model.generate([long[-10:]], max_length=4, jit_compile=False)
    assert found["truncated"].tolist() == [True, False]
    np.testing.assert_array_equal(found["token_ids"][0], last["token_ids"][0])
    with pytest.raises(ValueError, match="leaves none for a prompt"):
        model.generate([[3]], max_length=14)


@pytest.mark.parametrize("prompt, message", [
    ([[]], "of at least one token.*start_id=28"),
    ([], "of at least one token"),
    ([[V]], "must lie in 0 .. 28"),
    (np.array([3]), r"integers \[batch, length\]"),
    ([5, 7], r"For one prompt pass \[\[5, 7\]\]"),
])  # fmt: skip
def test_what_is_no_prompt(prompt, message):
    with pytest.raises(ValueError, match=message):
        make(num_layers=0).generate(prompt, max_length=2)


@pytest.mark.parametrize("arguments, message", [
    (dict(num_heads=4), "`num_heads` must divide `d_model`"),
    (dict(positions="absolute"), "`positions` must be one of .*'rotary'"),
    (dict(norm="batch_norm"), "`norm` must be one of"),
    (dict(dropout_rate=1.0), "`dropout_rate` must lie in"),
    (dict(end_id=V), "`end_id` must be an integer in 0 .. 28"),
])  # fmt: skip
def test_sizes_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


STREAMS = [
    {},
    dict(search="sample", seed=3, temperature=0.8, top_p=0.9, top_k=7),
    dict(repetition_penalty=1.7, no_repeat_ngram_size=2, min_length=3),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", STREAMS)
def test_a_stream_hands_out_what_generate_finds(options):
    model = make(**VARIANTS["modern"], max_length=17)
    arguments = dict(max_length=5, jit_compile=False, **options)
    whole = model.generate(PROMPTS, **arguments)["token_ids"]
    streamed = np.stack(list(model.stream(PROMPTS, **arguments)), axis=1)
    np.testing.assert_array_equal(streamed, whole[:, : streamed.shape[1]])
    assert streamed.shape[1] == 5 or (whole[:, streamed.shape[1] :] == model.end_id).all()


def test_a_stream_ends_with_its_last_row():
    model = make(start_id=0)
    first = int(model.generate([[5]], max_length=1)["token_ids"][0, 0])
    model.end_id = first
    assert [ids.tolist() for ids in model.stream([[5]], max_length=4)] == [[first]]


def test_a_stream_compiles_two_programs_for_any_number_of_tokens():
    class Counted(models.Gpt):
        traced = 0

        def decoder(self, *args, **kwargs):
            self.traced += 1
            return super().decoder(*args, **kwargs)

    compiled = keras.backend.backend() != "tensorflow"  # there a graph is enough
    options = dict(max_length=6, search="sample", jit_compile=compiled)
    model = Counted(V, **SIZES)
    drawn = [
        [ids.tolist() for ids in model.stream([[5, 7]], seed=seed, **options)]
        for seed in (1, 2, 1)
    ]
    assert model.traced == 2
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_stream_refuses_at_the_call():
    model = make()
    for arguments, message in (
        (dict(search="beam"), "A stream is"),
        (dict(num_return=2), "num_return"),
        (dict(temperature=0.5), "temperature"),  # of greedy search
        (dict(max_length=0), "max_length"),
        (dict(seed=1), "seed"),
        (dict(min_length=4), "min_length"),
        (dict(search="sample", temperature=[0.5, 1.0]), "temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            model.stream([[5, 7]], **{"max_length": 3, **arguments})


def test_prompts_of_any_form_are_the_same_rows():
    model = make(pad_id=0, start_id=1, end_id=2)
    rows = [[5, 7], [9, 3, 8, 4]]
    padded = {"right": [[5, 7, 0, 0], [9, 3, 8, 4]], "left": [[0, 0, 5, 7], [9, 3, 8, 4]]}
    options = dict(max_length=3, jit_compile=False)
    expected = model.generate(rows, **options)["token_ids"]
    for ids in padded.values():
        np.testing.assert_array_equal(
            model.generate(np.array(ids), **options)["token_ids"], expected
        )
    longer = [[5, 7, 9], [9, 3, 8, 4]]
    found = model.generate(longer, lengths=[2, 4], **options)["token_ids"]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        model.score(longer, lengths=[2, 4])["scores"], model.score(rows)["scores"]
    )


@pytest.mark.parametrize("lengths", [[2], [-1, 3], [3, 9], [2.0, 3.0], 2])
def test_lengths_that_do_not_fit(lengths):
    for prompt in ([[5, 7, 9], [9, 3, 8]], np.array([[5, 7, 9], [9, 3, 8]])):
        with pytest.raises(ValueError, match="`lengths` of 2 integers, one for each row"):
            make().generate(prompt, lengths=lengths, max_length=2)


def test_a_mask_may_have_other_numbers_than_one(ids):
    model = make()
    np.testing.assert_array_equal(
        logits_of(model, ids, attention_mask=1 + ids % 2), logits_of(model, ids)
    )


@pytest.mark.slow
def test_end_ids_and_seeds_of_rows_are_options():
    model, options = make(), dict(max_length=4, jit_compile=False)
    plain = model.generate(PROMPTS, **options)["token_ids"]
    ends = [int(plain[0, 1]), int(plain[1, 2])]
    found = model.generate(PROMPTS, end_id=ends, **options)
    for row, length in zip(plain, found["lengths"]):
        places = np.flatnonzero(np.isin(row, ends))
        assert length == (places[0] + 1 if places.size else 4)
    options |= dict(search="sample")
    together = model.generate(PROMPTS, seed=[3, 5, 3], **options)["token_ids"]
    alone = model.generate(PROMPTS[1:2], seed=[5], **options)["token_ids"]
    np.testing.assert_array_equal(together[1], alone[0])
    streamed = np.stack(list(model.stream(PROMPTS, seed=np.array([3, 5, 3]), **options)), 1)
    np.testing.assert_array_equal(streamed, together[:, : streamed.shape[1]])
