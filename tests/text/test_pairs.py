"""`PairDataset`: what comes out of good files, and what is said about bad ones."""

import bz2
import collections
import lzma
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import text

SOURCE, TARGET = text.ByteTokenizer(), text.ByteTokenizer(pad_id=1, unknown_id=0)
ROWS = [(f"s{i}" * (1 + i % 3), f"t{i}" * (1 + i % 2)) for i in range(1103)]


def write(path, rows, ending="\n"):
    path.write_bytes("".join(f"{a}\t{b}{ending}" for a, b in rows).encode())
    return path


def pairs_of(path, **options):
    options = {"batch_size": 3, "buckets": (7,), "shuffle_buffer": 0, **options}
    return text.PairDataset(path, SOURCE, TARGET, **options)


def read(pairs, data=None):
    """The texts of an epoch, a list of pairs for every batch; filled rows are left out."""
    batches = []
    for inputs, labels in (data or pairs.dataset()).as_numpy_iterator():
        texts = zip(map(string, inputs["source_ids"]), map(string, labels), strict=True)
        batches.append([pair for pair in texts if pair[0]])
    return batches


def string(ids):
    return bytes(int(i) - 4 for i in ids if i > 3).decode()


def flat(batches):
    return [pair for batch in batches for pair in batch]


@pytest.fixture
def many(tmp_path):
    """More rows than two chunks of the pipeline, of three lengths."""
    return write(tmp_path / "many.tsv", ROWS)


# ---- batches


def test_inputs_begin_with_the_start_and_labels_end_with_the_end(tmp_path):
    pairs = pairs_of(write(tmp_path / "a.tsv", [("ab", "xyz"), ("c", "w")]), batch_size=2)
    ((inputs, labels),) = pairs.dataset()
    a, b, c, w, x, y, z = (4 + ord(letter) for letter in "abcwxyz")
    np.testing.assert_array_equal(
        inputs["source_ids"], [[a, b, 3, 0, 0, 0, 0], [c, 3, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        inputs["target_ids"], [[2, x, y, z, 3, 1, 1], [2, w, 3, 1, 1, 1, 1]]
    )
    np.testing.assert_array_equal(labels, [[x, y, z, 3, 1, 1, 1], [w, 3, 1, 1, 1, 1, 1]])
    assert labels.dtype == inputs["source_ids"].dtype == inputs["target_ids"].dtype == tf.int32


def test_no_epoch_waits_for_a_tuner(many):
    """Letting an iterator go may wait up to a minute for the thread that tunes it."""
    pairs = pairs_of(many)
    for data in (pairs.dataset(), pairs.pairs(), pairs.sentences(1)):
        assert data.options().autotune.enabled is False


@pytest.mark.parametrize(
    "buckets, expected",
    [
        # The end token counts: "abcd" has 5 ids.
        ((3, 5, 11), {"ab": (3, 3), "abc": (5, 5), "abcd": (5, 5), "abcde": (11, 11)}),
        (((5, 3), (7, 11)), {"ab": (5, 3), "abcd": (5, 3), "abcde": (7, 11), "a" * 6: (7, 11)}),
    ],
)
def test_a_pair_goes_to_the_first_bucket_that_holds_it(buckets, expected, tmp_path):
    rows = [(source, "x") for source in expected] + [("x", "y" * 10)]
    found = {}
    for inputs, labels in pairs_of(write(tmp_path / "a.tsv", rows), buckets=buckets).dataset():
        for source in map(string, inputs["source_ids"].numpy()):
            found[source] = (inputs["source_ids"].shape[1], labels.shape[1])
        assert inputs["target_ids"].shape == labels.shape
    found.pop("", None)
    longest = (buckets[-1], buckets[-1]) if isinstance(buckets[-1], int) else buckets[-1]
    assert found == {**expected, "x": longest}  # its long target puts it there


def test_every_batch_of_a_bucket_has_one_shape_and_the_last_is_filled(many):
    pairs = pairs_of(many, batch_size=13, buckets=(7, 17))
    shapes = collections.Counter()
    for inputs, labels in pairs.dataset():
        assert inputs["source_ids"].shape == inputs["target_ids"].shape == labels.shape
        shapes[tuple(labels.shape)] += 1
        filled = ~np.any(inputs["source_ids"] != 0, axis=1)
        np.testing.assert_array_equal(labels[filled], 1)
        np.testing.assert_array_equal(inputs["target_ids"][filled], 1)
    fits = [len(s) < 7 and len(t) < 7 for s, t in ROWS]
    expected = {(13, 7): -(-sum(fits) // 13), (13, 17): -(-(len(fits) - sum(fits)) // 13)}
    assert shapes == expected
    assert pairs.dataset().element_spec[1].shape.as_list() == [13, None]


@pytest.mark.parametrize("batch_size, shuffle_buffer", [(23, 101), (2003, 5003)])
def test_no_pair_is_lost_or_doubled(many, batch_size, shuffle_buffer):
    pairs = pairs_of(many, batch_size=batch_size, shuffle_buffer=shuffle_buffer, buckets=(7, 17))
    assert collections.Counter(flat(read(pairs))) == collections.Counter(ROWS)
    assert pairs.rows == len(ROWS) and not any(pairs.skipped.values())


# ---- order


def test_without_a_shuffle_buffer_the_order_is_the_files(many):
    assert flat(read(pairs_of(many, buckets=(17,), batch_size=13))) == ROWS


@pytest.mark.slow
def test_the_order_is_a_function_of_seed_and_epoch(many):
    def order(seed, epoch):
        pairs = pairs_of(many, seed=seed, shuffle_buffer=2003, buckets=(7, 17), batch_size=101)
        pairs.seek(epoch)
        return read(pairs)

    orders = [order(5, 0), order(5, 1), order(1009, 0)]
    keras.utils.set_random_seed(13)  # which is no part of it
    assert order(5, 1) == orders[1]
    assert len({str(found) for found in orders}) == 3
    assert order(6, 0) not in orders  # a run's second epoch is not the first of the next seed
    first = orders[0][0]
    assert first != sorted(first, key=ROWS.index)


def test_seek_goes_on_at_that_batch(many):
    pairs = pairs_of(many, seed=3, shuffle_buffer=2003, buckets=(7, 17), batch_size=101)
    pairs.seek(2)
    data = pairs.dataset()  # one data set for all epochs, as in `fit`
    whole = read(pairs, data)
    for batch in (1, 5, 10_007):
        pairs.seek(2, batch)
        assert read(pairs, data) == whole[batch:]
    pairs.seek(2)
    assert read(pairs, data) == whole
    # Without a callback that seeks, each iteration is the epoch after that of the one before.
    third = read(pairs, data)
    assert third != whole
    pairs.seek(3)
    assert read(pairs, data) == third
    list(pairs.pairs()), pairs.count()  # passes that are no epochs of the run
    pairs.seek(2)
    list(pairs.pairs()), pairs.count()
    assert read(pairs, data) == whole


def test_a_counted_data_set_knows_its_length(many):
    pairs = pairs_of(many, buckets=(7, 17), batch_size=101)
    assert pairs.dataset().cardinality() == tf.data.UNKNOWN_CARDINALITY
    pairs.seek(1, 3)
    assert pairs.count() == 12  # 4 and 8 batches
    rest = pairs.dataset()
    assert rest.cardinality() == len(list(rest)) == 12 - 3
    pairs.seek(1)
    assert pairs.dataset().cardinality() == len(read(pairs)) == 12


def test_a_data_set_that_was_made_for_another_place_says_so(many):
    pairs = pairs_of(many, buckets=(7, 17), batch_size=101)
    pairs.count()
    whole = pairs.dataset()
    pairs.seek(0, 3)
    rest = pairs.dataset()
    message = "made to begin at batch 0, .*Call `dataset..` again after `seek`.* batch 3 as the n"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        next(iter(whole))
    pairs.seek(1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="begin at batch 3.* batch 0 as"):
        next(iter(rest))
    pairs.seek(1)
    assert len(list(whole)) == 12


@pytest.mark.parametrize("place", [(-1,), (0, -1), (0.5,), (0, None)], ids=str)
def test_a_place_that_is_none_is_refused(place, many):
    pairs = pairs_of(many)
    with pytest.raises(ValueError, match="`(epoch|batch)` must be an integer, at least 0"):
        pairs.seek(*place)
    pairs.seek(np.int64(1), np.int32(0))


def test_the_largest_seed_is_one(many):
    largest = 2**31 - 1
    pairs = pairs_of(many, seed=largest, shuffle_buffer=2003, buckets=(17,), batch_size=101)
    pairs.seek(3)
    assert sorted(flat(read(pairs))) == sorted(ROWS)
    for seed in (-1, largest + 1):
        with pytest.raises(ValueError, match="`seed` must be an integer in 0 .. 2147483647"):
            pairs_of(many, seed=seed)


# ---- what is taken as it should


def test_a_byte_order_mark_crlf_and_blank_lines_are_taken_off(tmp_path):
    content = "\ufeffé\tb\r\n\r\n \t \r\nc\t\ufeffd\r\n\n\ufeffe\tf"
    (tmp_path / "a.tsv").write_bytes(content.encode())
    pairs = pairs_of(tmp_path / "a.tsv")
    assert flat(read(pairs)) == [("é", "b"), ("c", "\ufeffd"), ("e", "f")]
    assert pairs.skipped == {"blank": 3, "fields": 0, "utf8": 0, "empty": 0, "too_long": 0}
    assert pairs.rows == 3


def test_a_file_may_begin_with_a_marked_blank_line_and_end_without_a_break(tmp_path):
    (tmp_path / "a.tsv").write_bytes("\ufeff\r\n\na\tb".encode())
    pairs = pairs_of(tmp_path / "a.tsv")
    assert flat(read(pairs)) == [("a", "b")] and pairs.skipped["blank"] == 2


def test_columns_are_chosen_and_the_header_of_each_file_is_left_out(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"one\ttwo\tthree\na\tb\tc\n")
    (tmp_path / "b.tsv").write_bytes(b"\xff not a row\nd\te\nf\tg\n")  # two fields
    files = [tmp_path / "a.tsv", str(tmp_path / "b.tsv")]
    assert flat(read(pairs_of(files, skip_header=True))) == [("a", "b"), ("d", "e"), ("f", "g")]
    pairs = pairs_of(files[0], skip_header=True, columns=(2, 0))
    assert flat(read(pairs)) == [("c", "a")]


def test_files_may_be_where_tensorflow_reads_them():
    with tf.io.gfile.GFile("ram://pairs.tsv", "w") as file:
        file.write("a\tb\nc\td\n")
    pairs = pairs_of("ram://pairs.tsv", buckets=np.array([3, 7]), columns=(np.int64(0), 1))
    assert flat(read(pairs)) == [("a", "b"), ("c", "d")]
    assert pairs.buckets == ((3, 3), (7, 7))


def test_two_files_are_read_side_by_side(tmp_path):
    (tmp_path / "a.en").write_bytes(b"\xef\xbb\xbfa\tb\r\n\r\nc\r\n")
    (tmp_path / "a.ko").write_bytes("가\n\n나\n".encode())
    (tmp_path / "b.en").write_bytes(b"d")
    (tmp_path / "b.ko").write_bytes("다\n".encode())
    english, korean = ([tmp_path / f"{n}.{side}" for n in "ab"] for side in ("en", "ko"))
    pairs = pairs_of(english, target=korean)
    assert flat(read(pairs)) == [("a\tb", "가"), ("c", "나"), ("d", "다")]
    assert pairs.skipped["blank"] == 1
    assert [s.decode() for s in pairs.sentences(0).as_numpy_iterator()] == ["a\tb", "c", "d"]
    assert [s.decode() for s in pairs.sentences(1).as_numpy_iterator()] == ["가", "나", "다"]


# ---- bad rows

BAD = {
    "fields": (b"a", b"a\tb\tc", "expected 2 tab-separated fields, as in most of the"),
    "utf8": (b"\xff\tb", b"a\t\xed\xa0\x80", "not valid UTF-8"),
    "utf8 without NUL": (b"a\0\tb", b"a\t\0", "not valid UTF-8, or with a NUL character"),
    "empty": (b"\tb", b"a\t \r", "the source is empty"),
    "empty but for white space of Unicode": (
        "\u3000\u00a0\tb".encode(), "a\t \u2003\x85".encode(), "the source is empty"
    ),
    "too_long": (b"aaaaaaa\tb", b"a\tbbbbbbb", "more ids than the last bucket holds: 7 .* 7 of"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_stops_with_file_line_and_reason(reason, tmp_path):
    (tmp_path / "good.tsv").write_bytes(b"a\tb\n\nc\td\n")
    content = b"a\tb\n\nc\td\n" + BAD[reason][0] + b"\ne\tf\n" * 101
    (tmp_path / "bad.tsv").write_bytes(content)
    pairs = pairs_of([tmp_path / "good.tsv", tmp_path / "bad.tsv"])
    message = re.escape(f"{tmp_path / 'bad.tsv'}:4: ") + BAD[reason][2]
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{message}.*pass on_bad_row"):
        read(pairs)


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_left_out_and_counted(reason, tmp_path):
    first, second, _ = BAD[reason]
    rest = [b"aaaaaa\tbbbbbb"] * 29
    content = b"\n".join([b"a\tb", first, b"", b"c\td", second, first, *rest])
    (tmp_path / "a.tsv").write_bytes(content)
    pairs = pairs_of(tmp_path / "a.tsv", on_bad_row="skip")
    data = pairs.dataset()
    for _ in range(2):  # the counts are of one iteration
        good = [("a", "b"), ("c", "d"), *[("aaaaaa", "bbbbbb")] * 29]
        assert flat(read(pairs, data)) == good
        counts = {"blank": 1, "fields": 0, "utf8": 0, "empty": 0, "too_long": 0}
        counts[reason.split()[0]] = 3
        assert pairs.skipped == counts
        assert pairs.rows == len(good)


def test_one_malformed_row_at_the_top_makes_no_other_malformed(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"a\tb\tnote\n" + b"c\td\n" * 5)
    pairs = pairs_of(tmp_path / "a.tsv", on_bad_row="skip")
    assert flat(read(pairs)) == [("c", "d")] * 5 and pairs.skipped["fields"] == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="a.tsv:1: expected 2 tab-separated"):
        read(pairs_of(tmp_path / "a.tsv"))


def test_numpy_s_integers_are_sizes(many):
    for size in (np.int64(2), np.int32(2)):
        sizes = {"batch_size": size, "shuffle_buffer": size}
        assert len(read(pairs_of(many, on_bad_row="skip", **sizes))) > 1


@pytest.mark.parametrize("bad", ["en", "ko"])
@pytest.mark.parametrize("line, reason", [(b"\xff", "not valid UTF-8"), (b" ", "the .* is empty")])
def test_the_one_of_two_files_that_has_a_fault_is_named(bad, line, reason, tmp_path):
    for side in ("en", "ko"):
        for number in "12":
            content = b"a\n" + (line if (side, number) == (bad, "2") else b"b") + b"\nc\n"
            (tmp_path / f"{number}.{side}").write_bytes(content)
    sources, targets = ([tmp_path / f"{number}.{side}" for number in "12"] for side in ("en", "ko"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"2.{bad}:2: {reason}"):
        read(pairs_of(sources, target=targets))


@pytest.mark.parametrize("longer", ["en", "ko"])
def test_files_of_unequal_length_are_told(longer, tmp_path):
    for side in ("en", "ko"):
        (tmp_path / f"a.{side}").write_bytes(b"a\nb\n" + b"c\nd\n" * (side == longer))
    files = {"source": tmp_path / "a.en", "target": tmp_path / "a.ko"}
    shorter = "ko" if longer == "en" else "en"
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"a.{shorter}:3: this file ends"):
        read(pairs_of(files["source"], target=files["target"]))
    pairs = pairs_of(files["source"], target=files["target"], on_bad_row="skip")
    assert flat(read(pairs)) == [("a", "a"), ("b", "b")]
    assert pairs.skipped["fields"] == 2


# ---- bad arguments


def test_a_missing_file_is_named(many, tmp_path):
    for options in ({"path": tmp_path / "no.tsv"}, {"path": many, "target": tmp_path / "no.tsv"}):
        with pytest.raises(FileNotFoundError, match="No text file at .*no.tsv"):
            pairs_of(**options)
    with pytest.raises(FileNotFoundError, match="No text file at .*Received: a folder"):
        pairs_of(tmp_path)


def test_utf_16_and_packed_files_are_named(tmp_path):
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        (tmp_path / "a.tsv").write_bytes("source\ttarget\r\n".encode(encoding))
        with pytest.raises(ValueError, match="a.tsv looks like UTF-16.*iconv -f UTF-16"):
            pairs_of(tmp_path / "a.tsv", on_bad_row="skip")
    for packer, pack, command in ((bz2, "bzip2", "bunzip2"), (lzma, "xz", "unxz")):
        (tmp_path / "packed").write_bytes(packer.compress(b"a\tb\n" * 99))
        with pytest.raises(ValueError, match=f"packed is packed by {pack}.*{command} FILE"):
            pairs_of(tmp_path / "packed")


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", b"header\tonly\n"])
def test_a_file_without_rows_is_refused(content, tmp_path):
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(ValueError, match="a.tsv has no rows"):
        pairs_of(tmp_path / "a.tsv", skip_header=content.startswith(b"header"))


@pytest.mark.parametrize("content", ["", "\n \n\u3000\n"])
def test_parallel_files_without_rows_are_refused(content, tmp_path):
    for side in ("en", "ko"):
        (tmp_path / f"a.{side}").write_text(content, "utf8")
    with pytest.raises(ValueError, match="a.en has no rows"):
        pairs_of(tmp_path / "a.en", target=tmp_path / "a.ko")


@pytest.mark.parametrize("content", [b"a\tb\rc\td\r", b"a\rx\tb\n"])
def test_lines_that_a_carriage_return_ends_or_breaks_are_refused(content, tmp_path):
    (tmp_path / "mac.tsv").write_bytes(content)
    good = write(tmp_path / "a.tsv", [("a", "b")])
    place = content.index(b"\r")
    message = f"mac.tsv has a carriage return inside a line, at byte {place}; .*rewrite it: tr "
    for options in ({"path": [good, tmp_path / "mac.tsv"]}, {"path": good}):
        if "mac" not in str(options["path"]):
            options["target"] = tmp_path / "mac.tsv"
        with pytest.raises(ValueError, match=message):
            pairs_of(**options)


def test_a_file_with_too_few_columns_is_refused(many):
    with pytest.raises(ValueError, match=r"many.tsv: expected at least 4 tab-.*Received: 2"):
        pairs_of(many, columns=(0, 3))


@pytest.mark.parametrize(
    "options",
    [{"buckets": b} for b in ((), (5, 5), (7, 5), (0, 5), ((5, 7), (7, 5)), ((3, 5, 7),), (5.5,))]
    + [{"columns": c} for c in ((-1, 0), (0,), (0, 1, 2), ("a", "b"))]
    + [{"batch_size": 0}, {"batch_size": 2.5}, {"on_bad_row": "ignore"}, {"path": []}]
    + [{"shuffle_buffer": -1}, {"shuffle_buffer": 10**9}, {"target": []}]
    + [{"buckets": 64}, {"buckets": None}, {"columns": 5}]
    + [{"seed": s} for s in (None, 1.5, True, 2**63, -(2**63) - 1)],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(options, many):
    options = {"path": many, **options}
    with pytest.raises(ValueError, match="`[a-z_]*`|Each source file needs a target file"):
        pairs_of(**options)


# ---- memory, and ids


MEASURE = """
import resource, sys
from keras_xfmr import text

for path in sys.argv[1:]:
    tokenizer = text.ByteTokenizer()
    pairs = text.PairDataset(
        path, tokenizer, tokenizer, batch_size=503, buckets=(61,), shuffle_buffer=2003
    )
    for _ in pairs.dataset():
        pass
    print(pairs.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    for rows in (2_000, 200_000):
        with open(tmp_path / f"{rows}.tsv", "w", encoding="utf8") as file:
            file.writelines(f"{i} {'source ' * 6}\t{i} {'target ' * 6}\n" for i in range(rows))
    files = [tmp_path / "2000.tsv", tmp_path / "200000.tsv"]
    assert files[1].stat().st_size > 19e6
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], check=True, capture_output=True, text=True
    )
    (few, before), (many, after) = (map(int, line.split()) for line in found.stdout.splitlines())
    assert (few, many) == (2_000, 200_000)
    # Twenty million ids of four bytes would be 80 MB, and more as tensors.
    assert after - before < 50, f"{before} MB after 2,000 rows, {after} MB after 200,000"


def test_ids_outside_the_table_stop_the_data_set(tmp_path):
    data = pairs_of(write(tmp_path / "a.tsv", [("a", "b"), ("c", "z")])).dataset()
    checked = data.map(lambda inputs, labels: (text.check_ids(127)(inputs), labels))
    for (inputs, _), (expected, _) in zip(checked, data, strict=True):
        np.testing.assert_array_equal(inputs["target_ids"], expected["target_ids"])
    check = text.check_ids(126, "ids of the target")
    message = r"ids of the target must lie in 0 .. 125 .vocab_size=126.*from 1 to 126"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(data.map(lambda inputs, labels: check(inputs["target_ids"], labels)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="token_ids must .*from -3 to 5"):
        text.check_ids(7)(tf.constant([[5, -3]]))
    assert text.check_ids(7)(tf.zeros((0, 5), tf.int64)).shape == (0, 5)
    assert int(text.check_ids(300)(np.array([250], "uint8"))[0]) == 250
    with pytest.raises(ValueError, match="token_ids must be integers. Received: dtype float64"):
        text.check_ids(8)(np.array([1.5]))


def test_ids_as_a_tokenizer_gives_them_are_checked():
    ids = tf.ragged.constant([[5, 3], [], [6]])
    assert text.check_ids(7)(ids).to_list() == ids.to_list()
    data = tf.data.Dataset.from_tensors(ids)
    assert list(data.map(text.check_ids(7)))[0].to_list() == ids.to_list()
    with pytest.raises(tf.errors.InvalidArgumentError, match="in 0 .. 5 .*from 3 to 6"):
        list(data.map(text.check_ids(6)))


def test_lines_are_counted_from_the_first_chunk_on(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_xfmr.text.data.pair_reader.CHUNK", 7)
    path = write(tmp_path / "a.tsv", [("a", "b")] * 16)
    path.write_bytes(path.read_bytes() + b"c\n")
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(f"{path}:17: expected 2")):
        read(pairs_of(path))
