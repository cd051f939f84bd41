"""Several documents in one row: `pack_documents`, and `PretrainingDataset(document_ids=True)`.

B rows, T length, N documents
"""

import numpy as np
import pytest
import tensorflow as tf
from numbers_corpus import END, FIRST, MASK, PAD, START, data_of, documents_of, read, rows_of, write
from numbers_corpus import B as ROWS
from numbers_corpus import T as LENGTH

from keras_xfmr import text

B, T, N = 3, 23, 11


def data_set(sizes, labels=None, batch=7, weights=None):
    """Rows of documents, each of ids that no other has; labels are their numbers."""
    starts = np.cumsum([FIRST, *sizes])
    width = max(sizes)
    ids = np.array([[*range(a, a + n), *[PAD] * (width - n)] for a, n in zip(starts, sizes)])
    inputs = {
        "token_ids": ids.astype("int32"),
        "segment_ids": (ids * (ids != PAD) % 2).astype("int32"),
        "attention_mask": (ids != PAD).astype("int32"),
    }
    labels = np.arange(len(sizes)) if labels is None else labels
    rows = (inputs, labels) if weights is None else (inputs, labels, weights)
    return tf.data.Dataset.from_tensor_slices(rows).batch(batch)


def unpacked(batches):
    """label -> the ids and the segments of its document; each batch is checked."""
    found = {}
    for inputs, labels, *_ in batches:
        numbers, mask = inputs["document_ids"], inputs["attention_mask"]
        np.testing.assert_array_equal(mask, numbers > 0)
        assert (inputs["token_ids"][mask == 0] == PAD).all()
        count = np.count_nonzero(labels >= 0)
        assert (labels[count:] == -1).all() and not inputs["document_starts"][count:].any()
        assert count == sum(len(set(row) - {0}) for row in numbers)
        for (row, start), label in zip(inputs["document_starts"][:count], labels):
            number = numbers[row, start]
            place = row, numbers[row] == number
            assert np.flatnonzero(place[1])[0] == start and label not in found
            found[label] = inputs["token_ids"][place], inputs["segment_ids"][place]
        for row in numbers:  # 1, 2, ..., then padding
            assert row[row > 0].tolist() == sorted(row[row > 0]) and not row[mask_end(row) :].any()
    return found


def mask_end(row):
    return np.count_nonzero(row)


def batches_of(data):
    return list(data.as_numpy_iterator())


def test_rows_by_hand():
    data = data_set([4, 3, 5, 2], batch=3)
    packed = text.pack_documents(data, 2, 7, documents=5, pad_id=PAD)
    ((inputs, labels),) = batches_of(packed)
    expected = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17, 18]]
    np.testing.assert_array_equal(inputs["token_ids"], expected)
    expected = [[1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 2, 2]]
    np.testing.assert_array_equal(inputs["document_ids"], expected)
    np.testing.assert_array_equal(
        inputs["document_starts"], [[0, 0], [0, 4], [1, 0], [1, 5], [0, 0]]
    )
    assert labels.tolist() == [0, 1, 2, 3, -1]


def test_nothing_is_lost_and_each_label_stands_beside_its_document(rng):
    sizes = rng.integers(1, T + 1, 127).tolist()
    packed = text.pack_documents(data_set(sizes, batch=61), B, T, documents=N, pad_id=PAD)
    spec = {name: tuple(one.shape) for name, one in packed.element_spec[0].items()}
    assert {spec.pop("document_starts")} == {(N, 2)} and set(spec.values()) == {(B, T)}
    batches = batches_of(packed)
    found = unpacked(batches)
    starts = np.cumsum([FIRST, *sizes])
    assert sorted(found) == list(range(127))
    for label, (ids, segments) in found.items():
        expected = np.arange(starts[label], starts[label] + sizes[label])
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(segments, expected % 2)
    for size in (1, 200):  # it does not matter in which batches they come
        data = data_set(sizes, batch=size)
        again = batches_of(text.pack_documents(data, B, T, documents=N, pad_id=PAD))
        tf.nest.map_structure(np.testing.assert_array_equal, batches, again)


def test_rows_are_full_where_documents_are_short(rng):
    sizes = rng.integers(1, 14, 499).tolist()
    batches = batches_of(text.pack_documents(data_set(sizes), B, T, documents=31, pad_id=PAD))
    padding = np.mean([inputs["attention_mask"] == 0 for inputs, _ in batches[:-1]])
    assert padding < 0.08 and 1 - np.mean(sizes) / max(sizes) > 0.4


def test_a_batch_of_many_documents_is_full():
    batches = batches_of(text.pack_documents(data_set([1] * 19), 2, T, documents=5, pad_id=PAD))
    assert [np.count_nonzero(labels >= 0) for _, labels in batches] == [5, 5, 5, 4]


def test_labels_and_weights_of_any_form():
    labels = {"class": np.array([4, 0, 2]), "value": np.array([0.5, -1.0, 2.0], "float32")}
    labels["several"] = np.eye(3, dtype="int32")
    data = data_set([4, 3, 5], labels, weights=np.array([1.0, 0.25, 3.0], "float32"))
    ((_, labels, weights),) = batches_of(text.pack_documents(data, 1, 13, documents=5, pad_id=PAD))
    assert labels["class"].tolist() == [4, 0, 2, -1, -1]
    assert labels["value"].tolist() == [0.5, -1.0, 2.0, 0.0, 0.0]
    assert labels["several"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert weights.tolist() == [1.0, 0.25, 3.0, 0.0, 0.0]


def test_inputs_alone_without_a_mask():
    data = data_set([4, 3]).map(lambda inputs, _: {"token_ids": inputs["token_ids"]})
    (inputs,) = batches_of(text.pack_documents(data, 1, 17, pad_id=PAD))
    assert sorted(inputs) == ["attention_mask", "document_ids", "document_starts", "token_ids"]
    assert inputs["document_ids"].tolist() == [[1] * 4 + [2] * 3 + [0] * 10]
    assert inputs["document_starts"].shape == (4, 2)  # a place for four positions


def test_no_documents_give_no_batches():
    assert not batches_of(text.pack_documents(data_set([4, 3]).take(0), B, T, pad_id=PAD))


def test_documents_that_do_not_fit_are_refused():
    message = "Expected documents of 1 to 3 tokens.*Received: documents of .4. tokens"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        batches_of(text.pack_documents(data_set([2, 4]), B, 3, pad_id=PAD))
    masks = [[0, 0, 0], [0, 1, 1], [1, 0, 1]]
    rows = [{"token_ids": np.array([5, 6, 7]), "attention_mask": np.array(mask)} for mask in masks]
    data = tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(lambda *x: np.array(x), *rows))
    packed = text.pack_documents(data.batch(3), B, T)
    message = "with padding only behind them. Received: documents of .0 2 2. tokens"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        batches_of(packed)


def test_elements_of_another_form_are_refused():
    ids = tf.ones([2, 3], tf.int32)
    for element in (
        ids,
        {"tokens": ids},
        {"token_ids": tf.ones([2])},
        {"token_ids": ids, "truncated": tf.constant([True, False])},
        {"token_ids": ids, "document_ids": ids},
        ({"token_ids": ids}, 1, 2, 3),
    ):
        with pytest.raises(ValueError, match="one document a row, and `token_ids` among them"):
            text.pack_documents(tf.data.Dataset.from_tensors(element), B, T)
    for sizes in ((0, T), (B, 0)):
        with pytest.raises(ValueError, match="Received"):
            text.pack_documents(data_set([2]), *sizes)


# ---- masked words


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    """Documents of one segment, and what packs them."""
    lengths = [[int(n)] for n in np.random.default_rng(5).integers(1, 12, 127)]
    documents = documents_of(lengths)
    file = write(tmp_path_factory.mktemp("packed") / "a.txt", documents)
    options = dict(objective=None, document_ids=True, short_rate=0.0)
    return [document[0] for document in documents], data_of(file, **options)


def test_masked_rows_hold_each_document_once(pretraining):
    documents, data = pretraining
    batches = read(data)
    assert {batch["token_ids"].shape for batch in batches} == {(ROWS, LENGTH)}
    rows, found = rows_of(batches), []
    assert data.rows == len(rows) < min(0.5 * len(documents), ROWS * len(batches))
    for row in rows:
        for number in range(1, 1 + row["document_ids"].max()):
            ids = row["original"][row["document_ids"] == number]
            assert ids[0] == START and ids[-1] == END
            found.append(ids[1:-1].tolist())
        assert (row["original"][row["positions"]] >= FIRST).all() and len(row["positions"])
        assert (row["document_ids"] > 0).tolist() == row["attention_mask"].tolist()
    assert sorted(found) == sorted(documents)
    hidden = [row["token_ids"][row["positions"]] == MASK for row in rows]
    assert 0.6 < np.mean(np.concatenate(hidden)) < 0.95


@pytest.mark.slow
def test_masked_rows_are_a_function_of_the_epoch(pretraining):
    _, data = pretraining
    data.seek(0)
    dataset = data.dataset()
    first, second = read(data, dataset), read(data, dataset)
    data.seek(0, 1)
    again = read(data)
    for one, other in zip(first[1:], again):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)
    assert (first[0]["token_ids"] != second[0]["token_ids"]).mean() > 0.5


def test_packed_rows_have_no_next_sentence(tmp_path):
    with pytest.raises(ValueError, match="`document_ids` needs objective=None"):
        data_of(write(tmp_path / "a.txt", [[[5]]]), document_ids=True)
