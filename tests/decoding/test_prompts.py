"""Prompts: read at once, of different lengths, in front of what every search finds.

B batch, S source, P prompt length, L max_length, V vocab_size
"""

import numpy as np
import pytest
from arrays import as_numpy
from keras import ops

from keras_xfmr import decoding
from keras_xfmr.models import Transformer

pytestmark = pytest.mark.portable

B, S, P, L, V = 3, 7, 5, 6, 11
SOURCE = np.array([[5, 7, 3, 8, 4, 10, 6], [8, 9, 10, 5, 0, 0, 0], [4, 4, 6, 0, 0, 0, 0]])
PROMPT = np.array([[2, 5, 7, 9, 4], [0, 0, 2, 8, 6], [0, 0, 0, 0, 2]])  # right-aligned
LENGTHS = np.array([5, 3, 1])
LEARNED = {"norm_first": True, "positions": "learned", "max_length": 13}
SEARCHES = {
    "greedy": (decoding.greedy_search, {}),
    "beam": (decoding.beam_search, {"beam_size": 3, "num_return": 2}),
    "sample": (decoding.sample, {"seed": 1, "top_k": 1}),
}


@pytest.fixture(
    scope="module",
    params=[{}, pytest.param(LEARNED, marks=pytest.mark.slow)],
    ids=["post-norm", "pre-norm and learned"],
)
def model(request):
    return make(**request.param)


def make(**arguments):
    model = Transformer(V, d_model=6, num_heads=3, ffn_dim=13, num_layers=(1, 2), **arguments)
    rng = np.random.default_rng(41)
    for variable in sorted(model.trainable_weights, key=lambda v: v.path):  # Keras' order changes
        small = variable.path.endswith(("beta", "bias"))  # they pull every answer to one token
        variable.assign(rng.normal(size=variable.shape) * (0.1 if small else 1.5))
    return model


def test_a_prompt_read_at_once_gives_what_its_tokens_give_one_by_one(model):
    decoder = model.decoder(model.context(SOURCE))
    whole = as_numpy(model({"source_ids": SOURCE, "target_ids": PROMPT[:1].repeat(B, 0)}))
    prompt = ops.convert_to_tensor(PROMPT[:1].repeat(B, 0).astype("int32"))
    logits, state = decoder.prefill(prompt[:, :-1], None, decoder.init_state(B, P))
    np.testing.assert_allclose(as_numpy(logits), whole[:, -2], atol=1e-4)
    steps = decoder.init_state(B, P)
    for i in range(P - 1):
        logits, steps = decoder.step(prompt[:, i], i, steps)
        np.testing.assert_allclose(as_numpy(logits), whole[:, i], atol=1e-4)
    for found in (state, steps):
        logits, _ = decoder.step(prompt[:, -1], P - 1, found)
        np.testing.assert_allclose(as_numpy(logits), whole[:, -1], atol=1e-4)


def test_padding_in_front_of_a_prompt_is_seen_by_no_one(model):
    decoder = model.decoder(model.context(SOURCE))
    state = decoder.init_state(B, P + 1)
    prompt = ops.convert_to_tensor(PROMPT.astype("int32"))
    logits, state = decoder.prefill(prompt, ops.convert_to_tensor(LENGTHS), state)
    after, _ = decoder.step(ops.full((B,), 7, dtype="int32"), P, state)
    for row, length in enumerate(LENGTHS):
        ids = [[*PROMPT[row, P - length :], 7]]
        alone = as_numpy(model({"source_ids": SOURCE[row : row + 1], "target_ids": np.array(ids)}))
        np.testing.assert_allclose(as_numpy(logits)[row], alone[0, -2], atol=1e-4)
        np.testing.assert_allclose(as_numpy(after)[row], alone[0, -1], atol=1e-4)


@pytest.mark.parametrize("name", SEARCHES)
def test_prompts_of_different_lengths_are_continued_as_one_by_one(model, name):
    search, options = SEARCHES[name]
    options = {"end_id": 3, "max_length": L, "token_scores": True, **options}
    decoder = model.decoder(model.context(SOURCE))
    together = search(decoder, PROMPT, lengths=LENGTHS, **options)
    for row, length in enumerate(LENGTHS):
        alone = search(
            model.decoder(model.context(SOURCE[row : row + 1])),
            PROMPT[row : row + 1, P - length :],
            **options,
        )
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_allclose(as_numpy(one)[0], as_numpy(all_)[row], atol=1e-4)


def test_generate_goes_on_from_prompts_after_the_start_token(model):
    prompts = [[5, 7, 9, 4], [8, 6], []]
    decoder = model.decoder(model.context(SOURCE))
    expected = decoding.greedy_search(decoder, PROMPT, lengths=LENGTHS, end_id=3, max_length=3)
    found = model.generate(SOURCE, prompt=prompts, max_length=3, jit_compile=False)
    np.testing.assert_array_equal(found["token_ids"], as_numpy(expected.token_ids))
    np.testing.assert_array_equal(found["lengths"], as_numpy(expected.lengths))


def test_a_prompt_has_a_row_for_each_source_and_ids_of_the_vocabulary(model):
    with pytest.raises(ValueError, match="a row for each of the 3 sources. Received: 2"):
        model.generate(SOURCE, prompt=[[5], [6]])
    with pytest.raises(ValueError, match="must lie in 0 .. 10.*Received: ids from 4 to 11"):
        model.generate(SOURCE, prompt=[[5], [], [4, 11]])


@pytest.mark.requires_tensorflow
def test_the_graph_of_a_prompt_does_not_grow_with_it():
    import tensorflow as tf

    decoder = Transformer(V, d_model=6, num_heads=3, ffn_dim=13, num_layers=1).decoder
    memory, mask = tf.zeros((2, S, 6)), tf.ones((2, 1, S), tf.bool)

    def size(function, width):
        prompt = tf.TensorSpec((2, width), tf.int32)
        graph = tf.function(function, autograph=False).get_concrete_function(prompt).graph
        nodes = graph.as_graph_def()
        inner = sum(len(function.node_def) for function in nodes.library.function)
        return len(nodes.node) + inner

    def read(prompt):
        model = decoder((memory, mask))
        return model.prefill(prompt, None, model.init_state(2, prompt.shape[1]))[0]

    def search(prompt):
        return decoding.greedy_search(decoder((memory, mask)), prompt, end_id=3, max_length=L)

    def search_by_steps(prompt):
        step = lambda ids, index, state: (tf.one_hot(ids, V), state)  # noqa: E731
        return decoding.greedy_search(step, prompt, end_id=3, max_length=L)

    for function, most in ((read, 450), (search, 900), (search_by_steps, 400)):
        short, long = (size(function, width) for width in (5, 129))
        assert long < most and long - short < 10  # constants of shapes may be shared


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_after_a_prompt_needs_no_xla_and_no_known_sizes(model, name):
    import tensorflow as tf

    generator = model.make_generator(
        max_length=4, search=name, repetition_penalty=1.5, no_repeat_ngram_size=2, min_length=1,
        **SEARCHES[name][1],
    )  # fmt: skip
    inputs = {"source_ids": SOURCE, "prompt": PROMPT, "lengths": LENGTHS}
    inputs = {key: tf.constant(value, tf.int32) for key, value in inputs.items()}
    specs = {key: tf.TensorSpec([None] * len(x.shape), tf.int32) for key, x in inputs.items()}
    search = tf.function(generator, input_signature=[specs], autograph=False)
    graph = search.get_concrete_function().graph.as_graph_def()
    functions = [graph.node, *(function.node_def for function in graph.library.function)]
    assert not [node.op for nodes in functions for node in nodes if node.op.startswith("Xla")]
    for one, other in zip(search(inputs).values(), generator(inputs).values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_decoder_makes_its_matrices_once():
    model = make()
    decoder = model.decoder(model.context(SOURCE))
    token_ids, state = ops.full((B,), 5, dtype="int32"), decoder.init_state(B, 2)
    expected = as_numpy(decoder.step(token_ids, 0, state)[0])
    for block in model.decoder_blocks:
        for dense in block.projections():
            dense.kernel.assign(0 * as_numpy(dense.kernel))
    np.testing.assert_allclose(as_numpy(decoder.step(token_ids, 0, state)[0]), expected, atol=1e-4)
    changed = model.decoder(model.context(SOURCE)).step(token_ids, 0, state)[0]
    assert np.abs(as_numpy(changed) - expected).max() > 1


class Counter(decoding.Decoder):
    """The next token is one more than the last; counts its steps."""

    def __init__(self):
        self.steps = 0

    def init_state(self, rows, length):
        return ()

    def prefill(self, prompt, lengths, state):
        return ops.one_hot(prompt[:, -1] + 1, V), state

    def step(self, token_ids, index, state):
        self.steps += 1
        return ops.one_hot(token_ids + 1, V) * 9.0, state


@pytest.mark.requires_tensorflow  # whose eager loop runs the step once an iteration
@pytest.mark.parametrize("name", SEARCHES)
def test_a_row_of_padding_gets_no_tokens_and_does_not_lengthen_the_loop(name):
    search, options = SEARCHES[name]
    decoder, options = Counter(), {"end_id": 6, "max_length": L, **options}
    options = {**options, "alpha": 0.0} if name == "beam" else options
    prompt, lengths = np.array([[1, 4], [9, 4], [0, 0]]), np.array([2, 1, 0])
    found = search(decoder, prompt, lengths=lengths, pad_id=10, **options)
    best = (slice(None), 0) if name == "beam" else slice(None)
    assert as_numpy(found.lengths)[best].tolist() == [2, 2, 0]
    ids = as_numpy(found.token_ids)[best].tolist()
    assert ids == [[5, 6, 10, 10, 10, 10]] * 2 + [[10] * L]
    steps, decoder.steps = decoder.steps, 0
    search(decoder, prompt[:1], pad_id=10, **options)
    assert steps == decoder.steps <= L


@pytest.mark.parametrize("lengths, message", [
    ([5, 3], r"`lengths` must have the shape .batch., .*Received: shape \(2,\) for .*\(3, 5\)"),
    ([5, 6, 1], r"`lengths` must lie in 0 .. 5, .*Received: \[5, 6, 1\]"),
    ([5, -1, 1], r"`lengths` must lie in 0 .. 5, .*Received: \[5, -1, 1\]"),
])  # fmt: skip
def test_lengths_that_do_not_fit_are_an_error(lengths, message):
    with pytest.raises(ValueError, match=message):
        decoding.greedy_search(Counter(), PROMPT, lengths=np.array(lengths), end_id=3, max_length=L)


def test_a_step_function_takes_no_padding():
    step = lambda ids, index, state: (ops.one_hot(ids + 1, V), state)  # noqa: E731
    with pytest.raises(ValueError, match="A step function does not know where a row begins"):
        decoding.greedy_search(step, PROMPT, lengths=LENGTHS, end_id=3, max_length=L)


@pytest.mark.slow
@pytest.mark.parametrize("prompt, options", [
    (None, {}), ([[5, 7, 9], [], [8]], {"search": "beam", "beam_size": 2, "num_return": 2}),
])  # fmt: skip
def test_alignments_are_where_the_last_block_looks_before_each_token(model, options, prompt):
    found = model.generate(
        SOURCE, prompt=prompt, max_length=L, alignments=True, jit_compile=False, **options
    )
    assert found["alignments"].shape == found["token_ids"].shape
    assert found["alignments"].dtype == np.int32
    flat = {k: np.reshape(v, (B, -1, *v.shape[-1:]))[:, -1] for k, v in found.items()
            if k in ("token_ids", "alignments")}  # fmt: skip
    counts = np.reshape(found["lengths"], (B, -1))[:, -1]
    looked = []
    for row, count in enumerate(counts):
        read = [model.start_id, *([] if prompt is None else prompt[row])]
        for place in range(L):
            if place >= count:
                assert flat["alignments"][row, place] == -1
                continue
            target = np.array([[*read, *flat["token_ids"][row, :place]]])
            weights = model.attention_weights(SOURCE[row : row + 1], target)["cross"][-1]
            expected = as_numpy(weights)[0, :, -1].mean(0).argmax()
            assert flat["alignments"][row, place] == expected
            looked.append(expected)
    assert len(set(looked)) > 1


def test_padding_of_prompts_in_an_array_is_left_out():
    model, options = make(), dict(max_length=3, jit_compile=False)
    rows = [[5, 7, 9], [8], [4, 6]]
    padded = np.array([[5, 7, 9], [8, 0, 0], [0, 4, 6]])
    np.testing.assert_array_equal(
        model.generate(SOURCE, prompt=padded, **options)["token_ids"],
        model.generate(SOURCE, prompt=rows, **options)["token_ids"],
    )


def test_a_prompt_that_fills_the_positions():
    with pytest.raises(ValueError, match="13 positions .* Received: a prompt of 13 tokens"):
        make(**LEARNED).generate(SOURCE[:1], prompt=[[5] * 13])
