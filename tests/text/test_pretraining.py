"""`PretrainingDataset`: batches, their order, what `fit` takes, and what cannot work."""

import itertools
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from numbers_corpus import (
    END,
    PAD,
    START,
    VOCABULARY,
    B,
    P,
    T,
    data_of,
    documents_of,
    pair,
    random_lengths,
    read,
    rows_of,
    same,
    write,
)

from keras_xfmr import text
from keras_xfmr.text.data import documents as documents_module
from keras_xfmr.text.data import pretraining as pretraining_module
from keras_xfmr.text.data.pretraining import PretrainingDataset

INPUTS = ["attention_mask", "masked_positions", "segment_ids", "token_ids"]


@pytest.fixture
def documents(rng):
    """149 documents of up to 30 segments of up to 16 tokens, no token twice."""
    return documents_of(random_lengths(rng, documents=149, segments=31, tokens=17))


@pytest.fixture
def file(documents, tmp_path):
    return write(tmp_path / "a.txt", documents)


# ---- batches


def test_an_instance_by_hand(tmp_path):
    data = data_of(write(tmp_path / "a.txt", [[[5, 6], [7]], [[8]]]), batch_size=4, short_rate=0.0)
    ((inputs, labels, weights),) = data.dataset()
    assert sorted(inputs) == INPUTS and sorted(labels) == sorted(weights) == ["mlm", "nsp"]
    kinds = {value.dtype for value in (*inputs.values(), *labels.values())}
    assert kinds == {tf.int32} and {v.dtype for v in weights.values()} == {tf.float32}
    rows = rows_of(read(data))
    # The last document has one segment, and what it borrows is from the first one.
    (alone,) = (row for row in rows if pair(row)[0] == [8])
    assert pair(alone)[1] in ([5, 6, 7], [7]) and alone["nsp_label"] == 1
    length = 1 + 1 + 1 + len(pair(alone)[1]) + 1
    ids = [START, 8, END, *pair(alone)[1], END]
    np.testing.assert_array_equal(alone["original"], ids + [PAD] * (T - length))
    np.testing.assert_array_equal(alone["segment_ids"][:length], [0] * 3 + [1] * (length - 3))
    np.testing.assert_array_equal(alone["attention_mask"], [1] * length + [0] * (T - length))
    assert not alone["segment_ids"][length:].any()
    np.testing.assert_array_equal(alone["mlm_weight"], [1] + [0] * (P - 1))
    assert alone["nsp_weight"] == 1
    assert data.rows == len(rows)


def test_every_batch_has_one_shape_and_the_last_is_filled(file):
    data = data_of(file)
    batches = read(data)
    for batch in batches:
        assert {v.shape for k, v in batch.items() if "nsp" in k} == {(B,)}
        assert batch["token_ids"].shape == (B, T) and batch["mlm_label"].shape == (B, P)
    filled = np.flatnonzero(~batches[-1]["attention_mask"].any(axis=1))
    assert len(filled) == len(batches) * B - data.rows > 0 and filled[-1] == B - 1
    for name, value in batches[-1].items():
        empty = PAD if name in ("token_ids", "mlm_label") else 0
        np.testing.assert_array_equal(value[filled], empty)
    shapes = [s.shape.as_list() for s in tf.nest.flatten(data.dataset().element_spec)]
    assert shapes == [[B, T], [B, P], [B, T], [B, T], [B, P], [B], [B, P], [B]]


def test_without_an_objective_there_is_no_such_label(file):
    inputs, labels, weights = next(iter(data_of(file, objective=None).dataset()))
    assert sorted(inputs) == INPUTS and list(labels) == list(weights) == ["mlm"]
    assert not inputs["segment_ids"].numpy().any()


# ---- order


@pytest.mark.slow
def test_everything_is_a_function_of_seed_and_epoch(file):
    found = {}
    for seed in (5, 6):
        data = data_of(file, seed=seed)
        dataset = data.dataset()
        for epoch in (0, 1):
            data.seek(epoch)
            found[seed, epoch] = read(data, dataset)
    keras.utils.set_random_seed(1009)  # which is no part of it
    again = data_of(file, seed=5)
    again.seek(1)
    same(read(again), found[5, 1])
    for one, other in itertools.combinations(found.values(), 2):
        for name in ("token_ids", "masked_positions"):
            assert np.mean(one[0][name] == other[0][name]) < 0.6


@pytest.mark.slow
def test_documents_are_in_another_order_in_each_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining_module, "CHUNK", 7)  # instances are shuffled inside one
    file = write(tmp_path / "a.txt", documents_of([[3]] * 59))
    data = data_of(file, objective=None)
    epochs = [[int(row["original"][1]) for row in rows_of(read(data))] for _ in range(2)]
    assert len(epochs[0]) == 59 and sorted(epochs[0]) == sorted(epochs[1])
    assert len(set(epochs[0][:7]) & set(epochs[1][:7])) < 4


@pytest.mark.slow
def test_masks_and_pairs_are_new_in_each_epoch(file):
    data = data_of(file, shuffle_buffer=0, short_rate=0.0)  # so that the first A is the same
    data.seek(0)
    one = rows_of(read(data))
    data.seek(1)
    other = rows_of(read(data))
    pairs = [{tuple(map(tuple, pair(row))) for row in rows} for rows in (one, other)]
    assert 0 < len(pairs[0] & pairs[1]) < 0.5 * len(pairs[0])
    masks = [
        {tuple(map(tuple, pair(row))): row["positions"].tolist() for row in rows}
        for rows in (one, other)
    ]
    both = masks[0].keys() & masks[1].keys()
    assert sum(masks[0][key] == masks[1][key] for key in both) < 0.5 * len(both)


def test_seek_goes_on_at_that_batch(file):
    data = data_of(file, seed=3)
    data.seek(2)
    dataset = data.dataset()  # one data set for all epochs, as in `fit`
    whole = read(data, dataset)
    for batch in (1, 7, 10_007):
        data.seek(2, batch)
        same(read(data, dataset), whole[batch:])
    data.seek(3)
    third = read(data, dataset)
    assert np.any(third[0]["token_ids"] != whole[0]["token_ids"])
    # Without a callback that seeks, each iteration is the epoch after that of the one before.
    data.seek(2)
    same(read(data, dataset), whole)
    data.count()  # a pass that is no epoch of the run
    same(read(data, dataset), third)


@pytest.mark.slow
def test_after_counting_every_epoch_has_one_length(file):
    data = data_of(file, batch_size=3, seed=4)
    dataset = data.dataset()
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    natural = []
    for epoch in range(4):
        data.seek(epoch)
        natural.append(read(data, dataset))
    data.seek(1, 3)
    count = data.count()
    assert count == len(natural[0]) and data.count() == count
    rest = data.dataset()
    assert rest.cardinality() == count - 3
    same(read(data, rest)[:5], natural[1][3:8])
    lengths = [len(batches) for batches in natural]
    assert min(lengths[:-1]) < count < max(lengths[:-1])  # the seed has both kinds
    data.seek(0)
    dataset = data.dataset()
    for epoch, batches in enumerate(natural[:-1]):
        data.seek(epoch)
        same(read(data, dataset), [*batches, *natural[epoch + 1]][:count])


# ---- training


@pytest.mark.slow
def test_fit_takes_labels_and_weights_by_name(file):
    def loss(name):
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight", name=name
        )

    lengths = {"masked_positions": P}
    inputs = {n: keras.Input([lengths.get(n, T)], dtype="int32", name=n) for n in INPUTS}
    mlm = keras.layers.Embedding(VOCABULARY, 7)(inputs["masked_positions"])
    mlm = keras.layers.Dense(VOCABULARY, kernel_initializer="zeros")(mlm)
    others = (inputs[n] for n in INPUTS if n != "masked_positions")
    ids = keras.layers.Embedding(VOCABULARY + 2, 7)(sum(others))
    nsp = keras.layers.Dense(2, kernel_initializer="zeros")(ids[:, 0])
    model = keras.Model(inputs, {"mlm": mlm, "nsp": nsp})
    model.compile(
        optimizer=keras.optimizers.SGD(0.0),
        loss={"mlm": loss("mlm"), "nsp": loss("nsp")},
        weighted_metrics={"nsp": ["accuracy"]},
    )
    data = data_of(file)
    data.seek(0, data.count() - 3)
    history = model.fit(data.dataset(), shuffle=False, verbose=0).history
    # Rows of padding and empty places would lower the means.
    np.testing.assert_allclose(history["mlm_loss"], np.log(VOCABULARY), rtol=1e-4)
    np.testing.assert_allclose(history["nsp_loss"], np.log(2), rtol=1e-4)
    data.seek(0, data.count() - 3)
    labels = np.array([row["nsp_label"] for row in rows_of(read(data))])
    np.testing.assert_allclose(history["nsp_accuracy"], np.mean(labels == 0), rtol=1e-4)


# ---- what cannot work


@pytest.mark.parametrize("parts", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_document_has_no_other_to_borrow_from(parts, tmp_path, monkeypatch):
    if parts:
        monkeypatch.setattr(documents_module, "PART", 101)
    path = write(tmp_path / "a.txt", documents_of([[5] * 97]))
    message = "only one among the 128 .*objective=.*or None.*`heading`.*`shuffle_buffer`"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        read(data_of(path))
    if parts:
        for objective in ("sop", None):
            assert rows_of(read(data_of(path, objective=objective)))


def test_a_vocabulary_without_a_mask_token_is_refused(file):
    with pytest.raises(ValueError, match=r"\[MASK\].*Received: ByteTokenizer"):
        PretrainingDataset(file, text.ByteTokenizer())


@pytest.mark.parametrize(
    "options",
    [{"mask_rate": v} for v in (0.0, 1.1)]
    + [{"short_rate": v} for v in (-0.1, 1.1)]
    + [{"objective": v} for v in ("mlm", True)]
    + [{"max_length": v} for v in (4, 12.5)]
    + [{"batch_size": 0}, {"max_predictions": 0}, {"shuffle_buffer": -1}, {"heading": "#"}]
    + [{"seed": s} for s in (None, 1.5, 2**63, -(2**63) - 1)],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(options, file):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`.*Received"):
        data_of(file, **options)


@pytest.mark.parametrize("place", [(-1,), (0, -1)], ids=str)
def test_a_place_that_is_none_is_refused(place, file):
    with pytest.raises(ValueError, match="`(epoch|batch)` must be an integer, at least 0"):
        data_of(file).seek(*place)


def test_a_missing_file_and_a_bad_line_are_named(file, tmp_path):
    with pytest.raises(FileNotFoundError, match="No text file at .*no.txt"):
        data_of([file, tmp_path / "no.txt"])
    (tmp_path / "b.txt").write_bytes(b"5\n\n6\n\xff\n")
    with pytest.raises(tf.errors.InvalidArgumentError, match="b.txt:4: not valid UTF-8"):
        read(data_of([file, tmp_path / "b.txt"]))


# ---- memory

MEASURE = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from numbers_corpus import NumberTokenizer
from keras_xfmr.text.data.pretraining import PretrainingDataset

for path in sys.argv[2:]:
    data = PretrainingDataset(path, NumberTokenizer(), batch_size=101, shuffle_buffer=211)
    for _ in data.dataset():
        pass
    print(data.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_files(tmp_path):
    line = " ".join(map(str, range(10_000, 10_023))) + "\n"
    for name, documents in (("few", 499), ("many", 9973)):
        (tmp_path / name).write_text((line * 11 + "\n") * documents)
    with open(tmp_path / "many", "a") as file:
        file.write(line * 20_011)  # one document that is longer than all that is held
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, pathlib.Path(__file__).parent]
        + [tmp_path / "few", tmp_path / "many"],
        check=True,
        capture_output=True,
        text=True,
    )
    (few, before), (many, after) = (map(int, line.split()) for line in found.stdout.splitlines())
    assert many > 20 * few > 20_000
    # Three million ids of four bytes are 12 MB, and the instances made of them 120 MB.
    assert after - before < 60, f"{before} MB after {few} rows, {after} MB after {many}"
