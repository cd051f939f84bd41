"""`PretrainingDataset`: the pairs are real ones, and what is hidden follows the rule."""

import numpy as np
import pytest
from numbers_corpus import (
    END,
    FIRST,
    MASK,
    PAD,
    START,
    VOCABULARY,
    NumberTokenizer,
    T,
    data_of,
    documents_of,
    pair,
    random_lengths,
    read,
    rows_of,
    write,
)

from keras_xfmr.text.data import pretraining as module


@pytest.fixture
def documents(rng):
    """149 documents of up to 30 segments of up to 16 tokens, no token twice."""
    return documents_of(random_lengths(rng, documents=149, segments=31, tokens=17))


@pytest.fixture
def file(documents, tmp_path):
    return write(tmp_path / "a.txt", documents)


# ---- pairs


@pytest.mark.slow
def test_pairs_are_real_stretches_of_the_corpus(file, documents):
    owner = {t: i for i, d in enumerate(documents) for segment in d for t in segment}
    begins = {segment[0] for document in documents for segment in document}
    rows = rows_of(read(data_of(file)))
    labels = np.array([row["nsp_label"] for row in rows])
    borrowed = set()
    for row in rows:
        a, b = pair(row)
        assert a and b and len(a) + len(b) <= T - 3
        for sequence in (a, b):
            assert sequence == list(range(sequence[0], sequence[-1] + 1))
            assert len({owner[t] for t in sequence}) == 1
        assert row["nsp_label"] == (owner[a[0]] != owner[b[0]])
        if len(a) + len(b) < T - 3:  # nothing was cut off
            assert a[0] in begins and b[0] in begins
            assert row["nsp_label"] or b[0] == a[-1] + 1
        if row["nsp_label"]:
            borrowed.add(owner[b[0]])
    assert 0.5 < labels.mean() < 0.8  # half, and all of which only one segment was in hand
    assert len(borrowed) > 120


@pytest.mark.slow
@pytest.mark.parametrize("whole_word", [pytest.param(False, marks=pytest.mark.slow), True])
def test_without_an_objective_every_token_comes_once(whole_word, file, documents):
    tokens = [t for d in documents for segment in d for t in segment]
    data = data_of(file, objective=None, whole_word=whole_word)
    rows = rows_of(read(data))
    found = [t for row in rows for t in row["original"] if t > MASK]
    assert sorted(found) == tokens
    for row in rows:
        ids = row["original"][row["attention_mask"] == 1]
        assert ids[0] == START and ids[-1] == END and (ids[1:-1] > MASK).all()
    in_order = data_of(file, objective=None, shuffle_buffer=0)
    assert [t for row in rows_of(read(in_order)) for t in row["original"] if t > MASK] == tokens
    assert found != tokens


def test_sentence_order(file, documents):
    owner = {t: i for i, d in enumerate(documents) for segment in d for t in segment}
    rows = rows_of(read(data_of(file, objective="sop")))
    labels = []
    for row in rows:
        a, b = pair(row)
        if not row["nsp_weight"]:
            assert not b and row["nsp_label"] == 0
            continue
        labels.append(row["nsp_label"])
        assert owner[a[0]] == owner[b[0]]
        assert (a[0] > b[0]) == row["nsp_label"]
        if len(a) + len(b) < T - 3:
            assert min(b[0], a[0]) + len(b if row["nsp_label"] else a) == max(b[0], a[0])
    assert abs(np.mean(labels) - 0.5) < 0.07  # more than four standard deviations


def test_segments_longer_than_an_instance_are_cut(tmp_path):
    documents = documents_of([[2, 1009], [101], [1, 1, 1]])
    rows = rows_of(read(data_of(write(tmp_path / "a.txt", documents), objective=None)))
    found = sorted(t for row in rows for t in row["original"] if t > MASK)
    assert found == list(range(FIRST, FIRST + 2 + 1009 + 101 + 3))


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 5, 7])
def test_no_document_is_lost_at_the_end(count, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    documents = documents_of([[5, 5]] * count)
    rows = rows_of(read(data_of(write(tmp_path / "a.txt", documents), short_rate=0.0)))
    firsts = {pair(row)[0][0] for row in rows}
    assert firsts.issuperset(document[0][0] for document in documents)


@pytest.mark.slow
def test_a_segment_without_tokens_is_counted(tmp_path):
    (tmp_path / "a.txt").write_text("5 6\n?\n\n7\n!!\n\n...\n")
    data = data_of(tmp_path / "a.txt")
    assert {tuple(pair(row)[0]) for row in rows_of(read(data))} == {(5, 6), (7,)}
    assert data.skipped == {"blank": 2, "heading": 0, "utf8": 0, "empty": 3}


@pytest.mark.slow
def test_options_of_documents_reach_them(tmp_path):
    content = b"= One =\n5 6. 7\n\n= = Part = =\n8\n\xff\n= Two =\n9\n"
    (tmp_path / "a.txt").write_bytes(content)
    options = {"heading": "wikitext", "on_bad_line": "skip", "objective": None}
    data = data_of(tmp_path / "a.txt", sentence_split=False, **options)
    assert sorted(pair(row)[0] for row in rows_of(read(data))) == [[5, 6, 7, 8], [9]]
    assert data.skipped == {"blank": 1, "heading": 3, "utf8": 1, "empty": 0}


# ---- masks


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Rows of a larger sample, with short sentences, and the same with whole words."""
    rng = np.random.default_rng(13)
    documents = documents_of(random_lengths(rng, documents=307, segments=61, tokens=19))
    path = write(tmp_path_factory.mktemp("many") / "a.txt", documents)
    rows = []
    for whole_word in (False, True):
        data = data_of(path, max_length=127, batch_size=101, whole_word=whole_word)
        rows.append(rows_of(read(data)))
    assert len(rows[0]) == len(rows[1]) > 900
    return rows


@pytest.mark.slow
def test_a_share_of_the_tokens_is_hidden(many):
    special, chosen, tokens = (START, END, PAD, MASK), 0, 0
    for row in many[0]:
        a, b = pair(row)
        n = len(a) + len(b)
        assert len(row["positions"]) == min(20, max(1, round(0.15 * n)))
        assert np.all(np.diff(row["positions"]) > 0)
        assert not np.isin(row["original"][row["positions"]], special).any()
        assert row["attention_mask"][row["positions"]].all()
        np.testing.assert_array_equal(row["mlm_weight"], row["mlm_label"] != PAD)
        chosen, tokens = chosen + len(row["positions"]), tokens + n
    assert abs(chosen / tokens - 0.15) < 0.003  # rounding alone


@pytest.mark.parametrize("whole_word", [False, True])
def test_what_stands_in_their_place(whole_word, many):
    now, before = (
        np.concatenate([row[ids][row["positions"]] for row in many[whole_word]])
        for ids in ("token_ids", "original")
    )
    other = now[(now != MASK) & (now != before)]
    assert len(now) > 13_000
    # Four standard deviations.
    assert abs(np.mean(now == MASK) - 0.8) < 0.014
    assert abs(np.mean(now == before) - 0.1) < 0.0105
    assert not np.isin(other, (PAD, START, END, MASK)).any()
    assert abs(other.mean() / VOCABULARY - 0.5) < 0.035 and other.min() < 500


def test_the_pieces_of_a_word_go_together(many):
    continues = NumberTokenizer().continuations()
    sizes = set()
    for row in many[1]:
        chosen, ids = set(row["positions"].tolist()), row["original"]
        assert len(chosen) <= min(20, max(1, round(0.15 * sum(map(len, pair(row))))))
        words = []
        for place in np.flatnonzero(row["attention_mask"]):
            if ids[place] <= MASK:
                continue
            if continues[ids[place]] and ids[place - 1] > MASK:
                words[-1].add(int(place))
            else:
                words.append({int(place)})
        for word in words:
            assert word & chosen in (set(), word)
            sizes.add(len(word & chosen))
    assert sizes == {0, 1, 2, 3}
    broken = sum(
        continues[row["original"][p]] and p - 1 not in row["positions"]
        for row in many[0]
        for p in row["positions"]
        if row["original"][p - 1] > MASK
    )
    assert broken > 1000  # the option makes the difference


def test_lengths_of_the_sample(many):
    lengths = np.array([sum(map(len, pair(row))) for row in many[0]])
    assert lengths.max() == 124 and lengths.min() >= 2
    assert np.mean(lengths == 124) > 0.5  # the rest is short or at the end of a document
