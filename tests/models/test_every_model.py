"""Every exported model and head through one harness, and a user's subclass.

B batch, S length, V vocab_size, C classes
"""

import functools
import inspect
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import conformance
import keras
import numpy as np
import pytest
from conformance import (
    CASES,
    OWN,
    PLACES,
    answers,
    assert_same,
    draw_weights,
    paths,
    real_positions,
    widened,
)
from keras import ops

from keras_xfmr import models, training

pytestmark = pytest.mark.portable
every_model = pytest.mark.parametrize("case", [*CASES, *OWN], ids=str)
exported_models = pytest.mark.parametrize("case", CASES, ids=str)
# Their parts are those of other cases, each by itself: only CI repeats what takes long.
SLOW = [
    case for case in CASES
    if case.encoder not in (None, conformance.Reader) or case.name or case.kind is not None
    or case.model in (models.Embedder, models.MaskedLanguageModel, models.Transformer)
]  # fmt: skip
quick_models = pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CASES], ids=str
)  # fmt: skip
TENSORFLOW = pytest.mark.requires_tensorflow


def test_every_exported_model_is_here():
    of_inputs = {"Input", "Inputs"}  # what an encoder of a user declares
    exported = {name for name in models.__all__ if isinstance(getattr(models, name), type)}
    exported -= of_inputs
    assert {case.model.__name__ for case in CASES} == exported


@every_model
def test_the_config_holds_every_argument_and_makes_an_equal_model(case):
    model = case.example
    config = model.get_config()
    parameters = inspect.signature(type(model).__init__).parameters.values()
    kinds = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = {parameter.name for parameter in parameters if parameter.kind in kinds} - {"self"}
    assert names | set(case.arguments) <= set(config)
    assert case in OWN or set(config) == names
    again = type(model).from_config(json.loads(json.dumps(config)))
    assert type(again) is type(model) and isinstance(model, case.model)
    assert again.get_config() == config == model.get_config()
    assert paths(again.weights) == paths(model.weights)


@every_model
def test_the_outputs_have_their_names_and_shapes(case):
    found = case.example(case.inputs)
    shapes = conformance.of_shapes(tuple, case.outputs)
    assert keras.tree.map_structure(lambda x: tuple(x.shape), found) == shapes
    keras.tree.map_structure(lambda x, y: None, found, case.example.output)


@every_model
def test_padding_and_other_rows_change_no_answer(case):
    model = case.example
    expected = answers(model, case.inputs)
    wide = answers(model, widened(case.inputs, 3))
    alone = answers(model, {name: row_alone(name, x) for name, x in case.inputs.items()})
    for before, after, one in zip(expected, wide, alone, strict=True):
        real = real_positions(before, case.inputs)
        after = after[:, : before.shape[1]] if after.shape != before.shape else after
        tolerance = dict(rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(after[real], before[real], **tolerance)
        kept = before[1][real[1]] if real.ndim > 1 else before[1]
        np.testing.assert_allclose(one[0], kept, **tolerance)
        assert kept.std() > 1e-2


def row_alone(name, values):
    """The second row without its padding."""
    width = {"target_ids": 3}.get(name, 4)
    return values[1:] if name in PLACES else values[1:, :width]


@exported_models
@pytest.mark.parametrize("policy, close", [
    ("mixed_bfloat16", 2.0**-3),
    pytest.param("mixed_float16", 2.0**-6, marks=pytest.mark.slow),
])  # fmt: skip
def test_half_precision_is_finite_and_close_to_float32(case, policy, close):
    model = case.built(dtype=policy)
    outputs = keras.tree.flatten(model(case.inputs))
    expected = case.half or policy.removeprefix("mixed_")
    assert {keras.backend.standardize_dtype(x.dtype) for x in outputs} == {expected}
    assert {x.dtype for x in keras.tree.flatten(model.output)} == {expected}
    assert {w.dtype for w in model.trainable_weights} == {"float32"}
    found = answers(model, case.inputs)
    assert all(np.isfinite(x).all() for x in found)
    assert_same(found, answers(case.example, case.inputs), rtol=close, atol=close)
    assert policy in json.dumps(model.get_config())


# ---- files, in a fresh process

FRESH = """
import pathlib, sys
import keras, numpy as np
import keras_xfmr
folder = pathlib.Path(sys.argv[1])

def answer(model, name):
    with np.load(folder / f"{name}.npz") as inputs:
        outputs = keras.tree.flatten(model(dict(inputs)))
    return [keras.ops.convert_to_numpy(x) for x in outputs]

found = {}
for name in sys.argv[2:]:
    if name == "-":
        import conformance  # what follows is a user's
        continue
    model = keras.saving.load_model(folder / f"{name}.keras")
    found[f"{name}/trained"] = np.array([w.path for w in model.trainable_weights])
    for kind in ("model", "weights"):
        for i, value in enumerate(answer(model, name)):
            found[f"{name}/{kind}/{i}"] = value
        model.set_weights([0.0 * w for w in model.get_weights()])
        model.load_weights(folder / f"{name}.weights.h5")
np.savez(folder / "found.npz", **found)
"""


def file_name(case, adapted=False):
    return re.sub(r"\W+", "_", f"{case}{' adapted' if adapted else ''}")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """From a case to what a fresh process makes of the files of its models, plain and adapted.

    There is one process for the cases that are slow, and one for the others.
    """
    found = {}

    def of(case):
        slow = case in SLOW
        if slow not in found:
            cases = [one for one in [*CASES, *OWN] if (one in SLOW) == slow]
            found[slow] = answers_of_a_process(tmp_path_factory.mktemp("models"), cases)
        return found[slow]

    return of


def answers_of_a_process(folder, cases):
    names = {False: [], True: []}
    for case in cases:
        for model in examples(case):
            name = file_name(case, model is not case.example)
            model.save(folder / f"{name}.keras")
            model.save_weights(folder / f"{name}.weights.h5")
            np.savez(folder / f"{name}.npz", **case.inputs)
            users = conformance.Reader in (case.encoder, case.kind) or case in OWN
            names[users].append(name)
    places = [pathlib.Path(models.__file__).parents[2], pathlib.Path(conformance.__file__).parent]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, "-c", FRESH, str(folder), *names[False], "-", *names[True]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(folder / "found.npz") as found:
        return dict(found)


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in [*CASES, *OWN]],
    ids=str,
)
@pytest.mark.parametrize("kind", ["model", "weights"])
def test_a_fresh_process_gives_the_same_answers_from_a_file(case, kind, fresh):
    found = fresh(case)
    for model in examples(case):
        name = file_name(case, model is not case.example)
        for i, expected in enumerate(keras.tree.flatten(model(case.inputs))):
            expected = ops.convert_to_numpy(expected)
            np.testing.assert_array_equal(found[f"{name}/{kind}/{i}"], expected)
        assert found[f"{name}/trained"].tolist() == paths(model.trainable_weights)


# ---- what is trained


def body(model):
    """The part that has blocks: the encoder of a head, or the model."""
    return getattr(model, "encoder", model)


def blocks_of(model):
    part = body(model)
    blocks = [*getattr(part, "encoder_blocks", ()), *getattr(part, "decoder_blocks", ())]
    return list({id(block): block for block in blocks}.values())


@functools.cache
def examples(case):
    """Models to save: also one with a part frozen, and one with low-rank updates, once a family."""
    found = [case.example]
    if case.model in (models.BertClassifier, models.Transformer) or str(case) == "Gpt":
        found.append(case.built())
        if case.adaptable:
            body(found[1]).enable_lora(2, targets=("query", "inner"), alpha=5)
            body(found[1]).freeze(0)
            draw_weights(found[1])
        else:
            blocks_of(found[1])[0].trainable = False
    return found


@quick_models
def test_what_is_frozen_stays_so_and_can_be_trained_again(case):
    model = case.built(num_layers=2)
    everything = sorted(paths(model.trainable_weights))
    first = blocks_of(model)[0]
    if case.adaptable:
        body(model).freeze(1)
        still = [*first.weights, *(w for x in body(model).embedding_layers() for w in x.weights)]
    else:
        first.trainable = False
        still = first.weights
    trained = paths(model.trainable_weights)
    assert set(trained) == set(everything) - set(paths(still)) and trained
    case.compiled(model, run_eagerly=True, jit_compile=False)
    before = {w.path: ops.convert_to_numpy(w) for w in model.weights}
    model.train_on_batch(case.inputs, case.labels())
    moved = {w.path for w in model.weights if (ops.convert_to_numpy(w) != before[w.path]).any()}
    assert moved and moved <= set(trained)
    same = [model]
    if conformance.Reader not in (case.encoder, case.kind):  # whose configuration has sizes alone
        same.append(type(model).from_config(model.get_config()))
        assert paths(same[1].trainable_weights) == trained
    for one in same:
        if case.adaptable:
            body(one).freeze(0, embeddings=False)
        else:
            blocks_of(one)[0].trainable = True
        assert sorted(paths(one.trainable_weights)) == everything
    model.trainable = False
    assert not model.trainable_weights and model.get_config()["trainable"] is False
    model.trainable = True
    assert sorted(paths(model.trainable_weights)) == everything


OWNERS = [case for case in CASES if case.adaptable and case.encoder is None]
HEADS = [case for case in CASES if case.adaptable and case.encoder is not None]
UPDATABLE = [
    pytest.param(case, marks=[pytest.mark.slow] * (case in HEADS[1:]))
    for case in [*OWNERS, *HEADS]
    if case.updatable
]


@pytest.mark.parametrize("case", [*OWNERS, HEADS[0]], ids=str)
def test_the_rate_of_a_layer_falls_towards_the_embeddings(case):
    model = case.built(num_layers=2)
    part = body(model)
    factors = part.layer_learning_rates(0.5)
    expected = dict.fromkeys(map(id, model.trainable_weights), 1.0)
    for layer in part.embedding_layers():
        expected.update(dict.fromkeys(map(id, layer.weights), 0.125))
    for block, factor in zip(blocks_of(model), (0.25, 0.5), strict=True):
        expected.update(dict.fromkeys(map(id, block.weights), factor))
    optimizer = training.AdamW(0.1, weight_decay=0.0, epsilon=1e-20, learning_rate_factors=factors)
    variables = model.trainable_variables
    before = [ops.convert_to_numpy(v) for v in variables]
    # The first step of Adam is the learning rate, whatever the gradient.
    optimizer.apply([ops.ones(v.shape) for v in variables], variables)
    for variable, old in zip(variables, before):
        step = np.abs(ops.convert_to_numpy(variable) - old)
        np.testing.assert_allclose(step, 0.1 * expected[id(variable)], rtol=1e-3)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.learning_rate_factors == factors and len(set(expected.values())) >= 3


@pytest.mark.parametrize("case", UPDATABLE, ids=str)
def test_low_rank_updates_begin_with_the_same_answers_and_train_alone(case):
    model = case.built()
    before, inner = answers(model, case.inputs), set(paths(body(model).weights))
    outer = [path for path in paths(model.trainable_weights) if path not in inner]
    body(model).enable_lora(2, targets=("query", "inner"))
    assert_same(answers(model, case.inputs), before, rtol=0, atol=0)
    updates = [w for w in model.trainable_weights if "lora" in w.name]
    assert len(updates) == 4 and set(paths(model.trainable_weights)) == {*outer, *paths(updates)}
    case.compiled(model, run_eagerly=True, jit_compile=False)
    old = {w.path: ops.convert_to_numpy(w) for w in model.weights}
    for _ in range(2):  # where B is 0, A has no gradient
        model.train_on_batch(case.inputs, case.labels())
    moved = {w.path for w in model.weights if (ops.convert_to_numpy(w) != old[w.path]).any()}
    assert set(paths(updates)) <= moved <= set(paths(model.trainable_weights))


# ---- compiled steps, and SavedModels


def shallow(case):
    """A model for what is slow: of a head, whose encoder is tested by itself, with no blocks."""
    return case.example if case.encoder is None else case.built(num_layers=0)


@TENSORFLOW
@quick_models
def test_fit_with_and_without_xla_gives_the_same_losses(case):
    model, found = shallow(case), []
    weights = model.get_weights()
    for compiled in (dict(run_eagerly=True, jit_compile=False), dict(jit_compile=True)):
        model.set_weights(weights)
        case.compiled(model, keras.optimizers.SGD(0.1), **compiled)
        data = dict(x=case.inputs, y=case.labels(), batch_size=conformance.B)
        found.append(model.fit(**data, epochs=2, shuffle=False, verbose=0).history["loss"])
    model.set_weights(weights)
    np.testing.assert_allclose(*found, rtol=1e-4)
    assert found[0][1] < found[0][0]


@TENSORFLOW
@quick_models
def test_an_exported_model_gives_the_same_answers(case, tmp_path, caplog):
    import tensorflow as tf

    model = shallow(case)
    model.export(tmp_path / "saved", verbose=False)
    given = {name: tf.constant(values) for name, values in case.inputs.items()}
    loaded = tf.saved_model.load(tmp_path / "saved")
    outputs = keras.tree.flatten(loaded.serve(model.validated_inputs(given)))
    assert_same(list(map(np.asarray, outputs)), answers(model, case.inputs), rtol=1e-6, atol=1e-6)
    assert not caplog.records  # TensorFlow could read all of the call


# ---- ids that are none


def bad_inputs(case):
    """(what is wrong, inputs, the message) of every way in which an input can be wrong."""
    for one in case.example.declared_inputs:
        if one.name not in case.inputs or one.size is None:
            continue
        ids = case.inputs[one.name]
        size = conformance.S if isinstance(one.size, str) else one.size
        named = f"{re.escape(one.title)}|`{one.name}`"
        for what, wrong in (("negative", -1), ("beyond", size), ("fraction", 0.5)):
            values = ids.astype(np.result_type(ids, type(wrong)))
            values[1, 1] = wrong
            yield what, {**case.inputs, one.name: values.astype(values.dtype)}, named
        if one.longest is not None:
            name = {"source_ids": "target_ids", "target_ids": "source_ids"}.get(one.name)
            long = widened(case.inputs, one.longest + 1 - ids.shape[1])
            kept = {name: case.inputs[name]} if name else {}
            yield "too long", {**long, **kept}, named


class Batches(keras.utils.PyDataset):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


@functools.cache
def quick(case):
    """A compiled model whose steps are not traced."""
    return case.compiled(case.built(), run_eagerly=True, jit_compile=False)


@exported_models
def test_bad_ids_in_arrays_are_refused(case):
    model, labels, seen = quick(case), case.labels(), set()
    for what, inputs, message in bad_inputs(case):
        for call in (model, model.predict, model.predict_on_batch):
            with pytest.raises(ValueError, match=message):
                call(inputs)
        for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
            with pytest.raises(ValueError, match=message):
                call(inputs, labels)
        seen.add(what)
    bounded = any(one.longest for one in model.declared_inputs)
    assert seen == {"negative", "beyond", "fraction", *(["too long"] if bounded else [])}
    with pytest.raises(ValueError, match="Expected `.*Received: inputs .*'labels'"):
        model({**case.inputs, "labels": case.inputs[next(iter(case.inputs))]})


@exported_models
def test_bad_ids_of_a_generator_are_refused(case):
    model, labels = quick(case), case.labels()
    for _, inputs, message in bad_inputs(case):
        for call in (functools.partial(model.fit, shuffle=False), model.evaluate):
            for data in (Batches((inputs, labels)), iter_of((inputs, labels))):
                with pytest.raises(ValueError, match=message):
                    call(data, verbose=0)


def iter_of(batch):
    yield batch


@TENSORFLOW
@quick_models
def test_bad_ids_of_a_data_set_are_refused(case):
    import tensorflow as tf

    model, labels = quick(case), case.labels()
    fit = functools.partial(model.fit, shuffle=False)
    calls = itertools.cycle((fit, model.evaluate, model.predict))
    for what, inputs, message in bad_inputs(case):
        if what == "negative":
            continue  # one check looks at both ends
        call = next(calls)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            call(tf.data.Dataset.from_tensors((inputs, labels)), verbose=0)


@TENSORFLOW
@exported_models
def test_a_ragged_input_is_refused_where_a_model_is_built_over_it(case):
    for name in case.inputs:
        inputs = {
            each: keras.KerasTensor((None, *values.shape[1:]), "int32", ragged=each == name)
            for each, values in case.inputs.items()
        }
        with pytest.raises(ValueError, match=f"`{name}` must be rows.*Received: a ragged tensor"):
            case.example(inputs)
