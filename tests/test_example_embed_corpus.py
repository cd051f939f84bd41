"""Every line of a corpus has one row or one reason, however often its job is killed."""

import ast
import base64
import gzip
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import tracemalloc
import types

import numpy as np
import pytest
from absl import app, flags
from scripts import ROOT, imported, run, run_as_command

MARK = b"\xef\xbb\xbf"
CORPUS = MARK + b"one\r\n\n \t\ntwo words\nb\xe9b\xe9\nnu\0l\n" + b"x" * 41 + b"\n\xed\x95\x9c\x85"
CORPUS = CORPUS[:-1] + b"\nrefused\nnot a number\nthe last"


@pytest.fixture
def example():
    with imported("embed_corpus") as module:
        yield module


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A SavedModel of the signature that `export_encoder` writes, and of no weights."""
    import tensorflow as tf

    class Lengths(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(self, text):
            wrong = tf.reduce_any(tf.equal(text, "refused"))
            with tf.control_dependencies([tf.debugging.Assert(~wrong, ["A wrong text."])]):
                size = tf.cast(tf.strings.length(text), tf.float32)
            size = tf.where(tf.equal(text, "not a number"), float("nan"), size)
            vector = tf.stack([size, size / 3], axis=1)
            label = tf.where(size > 3, "long", "short")
            return {"vector": vector, "label": label, "scores": vector}

    folder, module = str(tmp_path_factory.mktemp("service") / "3"), Lengths()
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
    return os.path.dirname(folder)


def settings(**changed):
    return types.SimpleNamespace(**{"block_lines": 3, "longest_line": 40, **changed})


def read(folder):
    """All lines of JSON of a folder, in the order of its files."""
    contents = [path.read_text("utf8") for path in sorted(folder.iterdir())]
    return [json.loads(line) for content in contents for line in content.splitlines()]


def loop(service, corpus, output, *given):
    return run(
        "embed_corpus", "--runner=loop", f"--model={service}", f"--files={corpus}",
        f"--output={output}", "--block_lines=3", "--longest_line=40", *given,
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_lines_do_not_depend_on_how_a_file_is_read(chunk, example, monkeypatch):
    monkeypatch.setattr(example, "CHUNK", chunk)
    for content in (CORPUS, CORPUS + b"\n", b"", b"\n", b"\n\nx", b"x" * 41, b"x" * 40):
        lines = content.removesuffix(b"\n").split(b"\n") if content else []
        starts = np.cumsum([0, *(len(line) + 1 for line in lines)])[: len(lines)]
        expected = [(at, line if len(line) <= 40 else None) for at, line in zip(starts, lines)]
        assert list(example.lines_of(io.BytesIO(content), 40)) == expected


def test_a_line_without_an_end_takes_no_memory(example, monkeypatch):
    monkeypatch.setattr(example, "CHUNK", 2**12)
    chunks = iter([b"x" * 2**12] * 499)
    endless = types.SimpleNamespace(read=lambda size: next(chunks, b""))
    tracemalloc.start()
    assert list(example.lines_of(endless, 40)) == [(0, None)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**15


def test_a_block_has_the_same_lines_wherever_its_reader_begins(example, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "BLOCK_BYTES", 14)
    (tmp_path / "a").write_bytes(CORPUS * 7)
    whole = list(example.blocks_of(io.BytesIO(CORPUS * 7), settings()))
    assert {len(held) for _, _, held in whole} == {1, 2, 3}  # by bytes, the rest, by lines
    works = list(example.divide((5, str(tmp_path / "a")), settings()))
    assert [work[2] for work in works] == list(range(len(whole)))
    for (_, path, block, line, offset, most), expected in zip(works, whole):
        with example.opened(path, offset) as file:
            found = list(example.blocks_of(file, settings(), block, line, offset))
        assert most == 1 and found[0] == expected


def test_lines_that_are_no_texts_have_a_reason(example, tmp_path):
    held = list(example.lines_of(io.BytesIO(CORPUS), 40))
    texts, bad, blank = example.parse("a", 1, held)
    assert blank == 2 and len(texts) + len(bad) + blank == len(held)
    known = [(where["line"], text.decode()) for where, text in texts]
    assert known[:3] == [(1, "one"), (4, "two words"), (8, "한")]
    assert [(one["line"], one["reason"]) for one in bad] == [
        (5, "not UTF-8 at byte 1: invalid continuation byte"),
        (6, "NUL at byte 2"),
        (7, "longer than --longest_line"),
    ]
    for one in bad[:2]:
        content = base64.b64decode(one["bytes"])
        assert CORPUS[one["offset"] :].startswith(content + b"\n")


@pytest.mark.parametrize("packed", [False, True])
def test_the_loop_writes_a_row_or_a_reason(packed, service, tmp_path):
    corpus = tmp_path / "corpus"
    content = CORPUS + b"\n\xfe"
    corpus.write_bytes(gzip.compress(content) if packed else content)
    printed = loop(service, corpus, tmp_path / "out", "--batch_size=2")
    assert "12 lines in 4 blocks: 4 rows, 0 of an earlier run, 2 blank, 6 bad" in printed
    rows, bad = read(tmp_path / "out" / "rows"), read(tmp_path / "out" / "bad")
    assert [row["line"] for row in rows] == [1, 4, 8, 11]
    assert rows[1] == {
        "file": str(corpus), "line": 4, "offset": CORPUS.index(b"two"), "label": "long",
        "vector": [9.0, 3.0],
    }  # fmt: skip
    assert np.float32(rows[2]["vector"][0] / 3) == np.float32(rows[2]["vector"][1])
    assert [one["line"] for one in bad] == [5, 6, 7, 9, 10, 12]
    assert bad[3]["reason"] == "the model refuses it: assertion failed: [A wrong text.]"
    assert "not finite" in bad[4]["reason"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "rows", "bad", "job.json", "done.json"
    }  # fmt: skip


def test_a_damaged_file_has_the_rows_before_the_damage_and_a_reason(service, tmp_path):
    lines = b"".join(b"line %d, %d\n" % (i, i * i * 7919 % 10007) for i in range(5003))
    packed = gzip.compress(lines)
    (tmp_path / "a.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "b").write_bytes(b"the next file")
    printed = loop(service, tmp_path / "*", tmp_path / "out", "--block_lines=1000")
    rows, (bad,) = read(tmp_path / "out" / "rows"), read(tmp_path / "out" / "bad")
    count = len(rows) - 1
    assert 2000 < count < 3003 and f"{count + 2:,} lines" in printed and " 1 bad" in printed
    assert [row["line"] for row in rows] == [*range(1, count + 1), 1]
    assert rows[-1]["file"] == str(tmp_path / "b")
    assert (bad["file"], bad["line"]) == (str(tmp_path / "a.gz"), count + 1)
    assert bad["offset"] == lines.index(b"line %d," % count)
    assert bad["reason"].startswith("the file is packed by gzip, and damaged from here on: ")


def test_lines_that_end_with_carriage_returns_alone_are_refused(example):
    assert example.why_bad(b"one\rtwo\r") == "carriage return at byte 3"
    assert example.why_bad(b"one\r") is None  # of CRLF


def test_a_job_that_fails_goes_on_and_writes_the_same(service, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus"
    corpus.write_bytes(CORPUS * 5)
    loop(service, corpus, tmp_path / "whole")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole/rows").iterdir()}
    import tensorflow as tf

    rename = tf.io.gfile.rename

    def fails(source, target, overwrite):
        if target.endswith("rows/00000-000007.jsonl"):
            raise OSError("The disk is full.")
        rename(source, target, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", fails)
        with pytest.raises(OSError, match="disk is full"):
            loop(service, corpus, tmp_path / "out")
    there = {path.name: path.read_bytes() for path in (tmp_path / "out/rows").iterdir()}
    assert len(there) == 7 and there.items() <= expected.items()
    (aside,) = (tmp_path / "out").glob("aside-*")
    assert list(aside.iterdir())
    (tmp_path / "out/rows/00000-000002.jsonl").unlink()
    printed = loop(service, corpus, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/rows").iterdir()} == expected
    kept = sum(there[name].count(b"\n") for name in there if name != "00000-000002.jsonl")
    assert f" {16 - kept} rows, {kept} of an earlier run, 10 blank, 25 bad" in printed
    assert read(tmp_path / "out/bad") == read(tmp_path / "whole/bad")
    assert not aside.exists()


def test_a_folder_knows_its_job(service, tmp_path):
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    corpus.write_bytes(CORPUS)
    loop(service, corpus, output)
    assert "done by an earlier run" in loop(service, corpus, output, "--batch_size=1")
    with pytest.raises(app.UsageError, match="another job: its outputs differ"):
        loop(service, corpus, output, "--outputs=label")
    corpus.write_bytes(CORPUS + b"more")
    with pytest.raises(app.UsageError, match="another job: its files differ"):
        loop(service, corpus, output)
    (output / "job.json").unlink()
    with pytest.raises(app.UsageError, match="has .*rows.* of others"):
        loop(service, corpus, output)


def test_a_process_of_another_job_cannot_write(example, tmp_path):
    (tmp_path / "rows").mkdir()
    left_behind = settings(output=str(tmp_path), aside=str(tmp_path / "aside-0"))
    with pytest.raises(Exception, match="aside-0"):
        example.write_whole(left_behind, "rows/a.jsonl", [{}])
    assert not list((tmp_path / "rows").iterdir())


def test_what_cannot_be_read_is_refused(service, tmp_path):
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    with pytest.raises(app.UsageError, match="corpus, which names none"):
        loop(service, corpus, output)
    corpus.write_bytes(CORPUS)
    with pytest.raises(app.UsageError, match="--model of a SavedModel"):
        loop(tmp_path, corpus, output)
    with pytest.raises(ValueError, match="--outputs of label, scores, vector. Received: labels"):
        loop(service, corpus, tmp_path / "new", "--outputs=labels")


def test_flags_of_beam_need_beam(service, tmp_path, monkeypatch):
    (tmp_path / "corpus").write_bytes(CORPUS)
    given = f"--model={service}", f"--files={tmp_path / 'corpus'}", f"--output={tmp_path / 'out'}"
    with imported("embed_corpus") as example:
        flags.FLAGS(["embed_corpus", *given, "--runner=loop"])
        with pytest.raises(app.UsageError, match="The loop has no flag --direct_num_workers=2"):
            example.main(["embed_corpus", "--direct_num_workers=2"])
        flags.FLAGS(["embed_corpus", "--runner=direct"])
        monkeypatch.setitem(sys.modules, "apache_beam", None)
        monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
        with pytest.raises(app.UsageError, match=r"extra `beam` .* pip install -e '\.\[beam\]'"):
            example.main(["embed_corpus"])
    assert not (tmp_path / "out").exists()


def test_a_runner_may_count_nothing_as_none(example, capsys):
    names = types.SimpleNamespace
    counters = [
        names(key=names(metric=names(name=name)), result=count)
        for name, count in {"lines": 7, "rows": 7, "bad": None, "blank": None}.items()
    ]
    example.corpus_job.report(example.corpus_job.totals(counters), 2.0, "out")
    assert "7 rows, 0 of an earlier run, 0 blank, 0 bad\n4 sentences/s" in capsys.readouterr().out


def test_a_worker_needs_no_keras_xfmr():
    for name in ("embed_corpus", "corpus_job", "command_line"):
        tree = ast.parse((ROOT / "examples" / f"{name}.py").read_text("utf8"))
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        for node in ast.walk(tree):
            modules += [one.name for one in node.names] if isinstance(node, ast.Import) else []
        assert modules and not [one for one in modules if one.startswith("keras")], name


# ---- on Apache Beam


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An embedder and a classifier as `export_encoder` writes them, and a corpus of two files."""
    from keras_xfmr import models, serving, text

    folder, words = tmp_path_factory.mktemp("exported"), ["[PAD]", "[UNK]", "[START]", "[END]"]
    rng, known = np.random.default_rng(5), [f"w{i}" for i in range(23)]
    lines = [" ".join(rng.choice(known, rng.integers(1, 17))).encode() for _ in range(211)]
    lines[7], lines[100], lines[150] = b"", b"\xff", b"w1\0"
    (folder / "a.txt").write_bytes(b"\n".join(lines[:101]))
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"\n".join(lines[101:])))
    packer = text.SentencePacker(text.WordPieceTokenizer([*words, *known]), 11)
    bert = models.Bert.from_preset("tiny", vocab_size=27, num_layers=1)
    serving.export_encoder(models.BertEmbedder(bert), packer, folder / "vectors")
    classifier = models.BertClassifier(bert, num_classes=2, labels=["no", "yes"])
    serving.export_encoder(classifier, packer, folder / "labels")
    return folder


def command(model, folder, output, *given):
    return (
        ROOT / "examples/embed_corpus.py", f"--model={folder / model}", "--block_lines=13",
        f"--files={folder}/*.txt*", f"--output={output}", *given,
    )  # fmt: skip


TWO = "--direct_num_workers=2", "--direct_running_mode=multi_processing", "--threads=1"
PORTABLE = "--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vectors", "labels"])
def test_beam_gives_what_the_loop_gives(model, exported, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    jobs = {"loop": ["--runner=loop"], "one": [], "two": TWO, "portable": PORTABLE}
    for name, given in jobs.items():
        printed = run_as_command(*command(model, exported, tmp_path / name, *given))
        assert "211 lines in 17 blocks: 208 rows, 0 of an earlier run, 1 blank, 2 bad" in printed
    loop, *others = (read(tmp_path / name / "rows") for name in jobs)
    for rows in others:
        assert read(tmp_path / "loop" / "bad") == read(tmp_path / "one" / "bad")
        for name in ("file", "line", "offset", "truncated", *({"label"} & set(loop[0]))):
            assert [row[name] for row in rows] == [row[name] for row in loop], name
        number = "vector" if model == "vectors" else "score"
        ours, theirs = ([row[number] for row in some] for some in (rows, loop))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert len({(row["file"], row["line"]) for row in loop}) == 208
    assert any(row["truncated"] for row in loop)
    assert set(loop[0]) == {"file", "line", "offset", "truncated"} | (
        {"vector"} if model == "vectors" else {"label", "score"}
    )


def begun(job, rows):
    """The process of a job that has written a few of its blocks."""
    with open(rows.parent.parent / "errors", "wb") as errors:
        process = subprocess.Popen([sys.executable, *map(str, job)], stdout=errors, stderr=errors)
    while process.poll() is None and not (rows.is_dir() and len(list(rows.iterdir())) > 2):
        time.sleep(0.005)
    return process


def children(pid):
    """The processes that a process began, and those that they began."""
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(child) for task in tasks for child in task.read_text().split()]
    return own + [one for child in own for one in children(child)]


@pytest.mark.slow
@pytest.mark.parametrize("given", [("--threads=1",), TWO], ids=["one", "two"])
def test_a_killed_job_goes_on(given, exported, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    rows = tmp_path / "out" / "rows"
    job = command("vectors", exported, tmp_path / "out", "--block_lines=1", *given)
    killed = begun(job, rows)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    there = {path: path.read_bytes() for path in rows.iterdir()}
    assert 2 < len(there) < 211 and not (tmp_path / "out" / "done.json").exists()
    for content in there.values():  # each is whole
        assert not content or (content.endswith(b"\n") and json.loads(content))
    printed = run_as_command(*job)
    assert "211 lines in 211 blocks: " in printed and ", 1 blank, 2 bad" in printed
    assert ", 0 of an earlier run" not in printed
    assert {path: path.read_bytes() for path in there} == there
    places = [(row["file"], row["line"]) for row in read(rows)]
    assert len(places) == len(set(places)) == 208
    assert len(read(tmp_path / "out" / "bad")) == 2
    assert "done by an earlier run" in run_as_command(*job)


@pytest.mark.slow
def test_a_job_ends_when_one_of_its_processes_dies(exported, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    job = command("vectors", exported, tmp_path / "out", "--block_lines=1", *TWO)
    process = begun(job, tmp_path / "out" / "rows")
    others = children(process.pid)
    os.kill(max(others), signal.SIGKILL)
    try:
        assert process.wait(timeout=120) == 1  # it would wait without end
    finally:
        process.kill()
        process.wait()
    assert b"direct runner has died" in (tmp_path / "errors").read_bytes()
    assert not (tmp_path / "out" / "done.json").exists()


@pytest.mark.slow
def test_a_flag_that_nobody_has_is_refused(exported, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    with pytest.raises(AssertionError, match="nor Beam has a flag direct_num_worker"):
        run_as_command(*command("vectors", exported, tmp_path / "out", "--direct_num_worker=2"))
