"""The examples run as a user runs them, with small settings; README's commands are what runs."""

import configparser
import re
import types

import numpy as np
import pytest
from absl import app, flags
from pages import read_page
from scripts import ROOT, imported, run, run_as_command

from keras_xfmr.models import BertClassifier


@pytest.fixture
def korean_pairs(tmp_path):
    """A little parallel corpus: numbers spelled in English and in Korean."""
    english = ("zero one two three four five six seven eight nine").split()
    korean = ("영 일 이 삼 사 오 육 칠 팔 구").split()
    path = tmp_path / "pairs.tsv"
    with open(path, "w", encoding="utf8") as file:
        for number in range(100, 700):
            digits = [int(d) for d in str(number)]
            source = " ".join(english[d] for d in digits)
            target = " ".join(korean[d] for d in digits)
            file.write(f"{source}\t{target}\n")
        file.write("a row without a target\n")
    return path


@pytest.mark.slow
def test_translate_trains_on_dates_and_leaves_a_model_that_answers(tmp_path):
    small = ("--train_size=256", "--held_out=24", "--epochs=1", "--d_model=16", "--num_layers=1")
    command = (ROOT / "examples/translate.py", f"--output={tmp_path}", "--nojit_compile")
    printed = run_as_command(*command, *small)
    assert re.search(r"held-out exact match: \d+\.\d\d% of 24", printed)
    assert "answered in a fresh process" in printed
    assert "━" in printed  # the progress bar
    for name in ("learning_curve.png", "cross_attention.png", "model.keras", "attention.html"):
        assert (tmp_path / name).stat().st_size > 5000
    page = read_page(tmp_path, "Measured", "Samples", "Attention", "Serve", "exact match")
    assert page.texts.count("--epochs") == 1 and "docker" in "".join(page.texts)
    assert (tmp_path / "saved_model" / "1" / "saved_model.pb").is_file()
    assert not (tmp_path / "backup").exists()


def test_a_killed_run_is_not_gone_on_with_for_another_corpus(tmp_path, korean_pairs):
    backup = tmp_path / "out" / "backup" / "backup-000001-000000000"
    backup.mkdir(parents=True)
    (backup / "training_metadata.json").write_text("{}")
    (tmp_path / "out" / "flags.json").write_text('{"data": "others.tsv"}')
    (tmp_path / "out" / ".written_by_example").write_text("translate")
    with pytest.raises(app.UsageError, match="begun with other flags .*--data=others.tsv"):
        run("translate", f"--data={korean_pairs}", f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out" / "train.tsv").exists()


@pytest.mark.slow
def test_translate_takes_any_corpus_and_reports_bleu_and_chrf(tmp_path, korean_pairs):
    small = ("--held_out=40", "--epochs=1", "--d_model=16", "--vocab_size=60", "--num_layers=1")
    given = (f"--data={korean_pairs}", f"--output={tmp_path / 'out'}", "--nojit_compile")
    printed = run("translate", *given, *small)
    assert re.search(r"held-out BLEU = \d+\.\d+", printed)
    assert re.search(r"held-out chrF2 = \d+\.\d+", printed)
    assert "BLEU" in read_page(tmp_path / "out", "Attention").texts
    assert "'fields': 1" in printed  # the malformed row is counted, not lost
    assert (tmp_path / "out" / "target_tokenizer" / "sentencepiece.model").is_file()


@pytest.mark.slow
def test_two_files_are_the_corpus_that_one_is(tmp_path):
    pairs = [(f"source {n}", f"대상 {n}") for n in range(99)]
    whole, source, target = (tmp_path / name for name in ("pairs.tsv", "a.en", "a.ko"))
    whole.write_text("".join(f"{a}\t{b}\n" for a, b in pairs), "utf8")
    for path, lines in zip((source, target), zip(*pairs)):
        path.write_text("".join(f"{line}\n" for line in lines), "utf8")
    contents = []
    for given in ([f"--data={whole}"], [f"--source={source}", f"--target={target}"]):
        with imported("translate") as example:
            flags.FLAGS(["translate", *given, "--held_out=20", "--vocab_size=60"])
            clock = types.SimpleNamespace(step=lambda message: None)
            files, _ = example.prepare_corpus(tmp_path, clock)
            contents.append([path.read_text("utf8") for path in files])
    assert contents[0] == contents[1]
    assert [content.count("\n") for content in contents[0]] == [79, 20]


def test_as_many_pairs_are_held_out_as_asked_and_no_source_is_on_both_sides(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import seq2seq

    pairs = [(f"source {n // 3}", f"target {n}") for n in range(300)]  # three translations each
    files = seq2seq.split(lambda: iter(pairs), tmp_path, 20, seed=3)
    train, held = (seq2seq.read_pairs(file) for file in files)
    assert len(held) == 20 and set(train) | set(held) < set(pairs)
    held_sources = {source for source, _ in held}
    assert not held_sources & {source for source, _ in train}
    assert len(train) == 300 - 3 * len(held_sources)
    left_out = 3 * len(held_sources) - 20
    assert f"20 pairs held out; other translations of their sources, left out: {left_out}" in (
        capsys.readouterr().out
    )


EXAMPLES = sorted(p.stem for p in ROOT.glob("examples/*.py") if ".run(main)" in p.read_text("utf8"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_no_flag_is_refused(name):
    with imported(name) as example, pytest.raises(app.UsageError, match="Received: b.txt False"):
        example.main([name, "b.txt", "False"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_has_the_flags_of_an_example_before_others_and_marks_the_required_ones(
    name, monkeypatch, capsys
):
    monkeypatch.setattr("sys.argv", [name])
    with imported(name):
        own = flags.FLAGS.get_key_flags_for_module(name)
        for flag in own:
            required = any("other than None" in one.message for one in flag.validators)
            assert flag.help.startswith("Required. ") == required, flag.name
        with pytest.raises(SystemExit):
            flags.FLAGS([name, "--helpfull"])
        printed = capsys.readouterr().out
        first, others = printed.split("Flags of libraries:\n")
        assert all(f"--{flag.name}" in first.replace("[no]", "") for flag in own)
        assert "absl.logging:" in others and "--output:" not in others


def test_learning_a_vocabulary_is_told_before(monkeypatch, capsys):
    with imported("fine_tuning") as fine_tuning:
        monkeypatch.setitem(fine_tuning.LEARN["bert"], "word_piece", lambda *_: None)
        with pytest.raises(AttributeError):  # of what is no tokenizer
            fine_tuning.prepare(
                BertClassifier, ["a", "b"], ["x"], dropout=0.0, preset="tiny",
                vocabulary="word_piece", vocab_size=1237, max_length=7,
            )  # fmt: skip
    assert "learning a vocabulary of 1,237 pieces" in capsys.readouterr().out


def test_a_search_over_no_sentences_is_refused(tmp_path):
    (tmp_path / "blank.txt").write_text(" \n\n")
    with imported("bert_similarity") as example:
        with pytest.raises(app.UsageError, match="blank.txt, which has none"):
            example.read(tmp_path / "blank.txt")


@pytest.mark.parametrize("rows", ["", "good\t1\n" * 9])
def test_texts_of_fewer_than_two_classes_are_refused(rows, tmp_path):
    (tmp_path / "train.tsv").write_text(f"document\tlabel\n{rows}")
    arguments = [f"--{name}={tmp_path / 'train.tsv'}" for name in ("train", "test")]
    with imported("bert_classify") as example:
        flags.FLAGS(["bert_classify", *arguments, f"--output={tmp_path / 'out'}"])
        with pytest.raises(app.UsageError, match="two classes or more"):
            example.main(["bert_classify"])


def test_a_sentence_is_a_line_whatever_else_parts_it(tmp_path):
    content = "It rains.\r\nSun\u2028shine.\nA\x0cform feed.\n"
    (tmp_path / "a.txt").write_bytes(content.encode())
    with imported("bert_similarity") as example:
        expected = ["It rains.", "Sun\u2028shine.", "A\x0cform feed."]
        assert example.read(tmp_path / "a.txt") == expected


@pytest.mark.parametrize("name", ["classifying", "conll", "bert_similarity"])
def test_a_file_in_another_encoding_is_named_with_its_line(name, tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"document\tlabel\n" + "좋다\t1\n".encode("cp949"))
    with imported(name) as example:
        with pytest.raises(app.UsageError, match="a.tsv, line 2: not UTF-8.*iconv"):
            example.read(tmp_path / "a.tsv")


def test_rows_longer_than_the_positions_of_a_published_model_are_refused():
    from keras_xfmr import models

    sizes = {"d_model": 6, "num_heads": 1, "ffn_dim": 7, "num_layers": 0, "max_length": 32}
    model = models.BertClassifier(models.Bert(11, **sizes), 2)
    with imported("fine_tuning") as fine_tuning:
        fine_tuning.check_length(model, 32)
        with pytest.raises(app.UsageError, match="at most 32.*Received: --max_length=48"):
            fine_tuning.check_length(model, 48)


def test_a_published_encoder_may_stay_as_it_is(tmp_path):
    from keras_xfmr import models

    sizes = {"d_model": 6, "num_heads": 1, "ffn_dim": 7, "num_layers": 1, "max_length": 32}
    models.Bert(6, **sizes).save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    given = dict(dropout=0.0, preset="nano", vocabulary="word_piece", vocab_size=9, max_length=32)
    given["train_encoder"] = False
    with imported("fine_tuning") as fine_tuning:
        kind = models.BertTokenClassifier
        _, model = fine_tuning.prepare(kind, ["O", "B"], [], pretrained=tmp_path, **given)
        with pytest.raises(app.UsageError, match="--notrain_encoder needs --pretrained"):
            fine_tuning.prepare(kind, ["O", "B"], ["rain"], **given)
    assert [weight.path for weight in model.trainable_weights] == [
        "classifier/kernel", "classifier/bias"
    ]  # fmt: skip


def test_packed_rows_are_not_divided_and_have_no_label_of_their_own(tmp_path):
    (tmp_path / "train.tsv").write_text("document\tlabel\ngood\t1\nbad\t0\n")
    arguments = [f"--{name}={tmp_path / 'train.tsv'}" for name in ("train", "test")]
    with imported("bert_classify") as example:
        flags.FLAGS(["bert_classify", *arguments, "--packed", "--distribute=workers"])
        with pytest.raises(app.UsageError, match="one device.*Received: --distribute=workers"):
            example.main(["bert_classify"])
    with imported("bert_pretrain") as example:
        flags.FLAGS(["bert_pretrain", f"--files={tmp_path / 'train.tsv'}", "--packed"])
        flags.FLAGS.output = str(tmp_path / "out")
        with pytest.raises(app.UsageError, match="use --objective=none. Received: .*=nsp"):
            example.main(["bert_pretrain"])


@pytest.mark.parametrize("held_out", ["long", "short"])
def test_a_corpus_of_which_nothing_fits_is_said_to_be_so(held_out, tmp_path):
    rows = {"long": f"{'a ' * 99}\t{'b ' * 99}\n", "short": "a\tb\n"}
    (tmp_path / "train.tsv").write_text(rows["short" if held_out == "long" else "long"] * 9)
    (tmp_path / "held_out.tsv").write_text(rows[held_out] * 9)
    files = [tmp_path / "train.tsv", tmp_path / "held_out.tsv"]
    settings = {"epochs": 1, "batch_size": 2, "buckets": ((7, 7),)}
    part = "measure" if held_out == "long" else "train"
    with imported("seq2seq") as seq2seq:
        tokenizers = (seq2seq.text.ByteTokenizer(),) * 2
        message = rf"pairs to {part} on of at most \(7, 7\) ids.*none, left out: .*'too_long': 9"
        with pytest.raises(app.UsageError, match=message):
            seq2seq.fit(files, tokenizers, tmp_path, settings)


def test_no_texts_to_test_on_are_refused(tmp_path):
    (tmp_path / "train.tsv").write_text("document\tlabel\ngood\t1\nbad\t0\n")
    (tmp_path / "test.tsv").write_text("document\tlabel\n")
    arguments = [f"--{name}={tmp_path / f'{name}.tsv'}" for name in ("train", "test")]
    with imported("bert_classify") as example:
        flags.FLAGS(["bert_classify", *arguments, f"--output={tmp_path / 'out'}"])
        with pytest.raises(app.UsageError, match="Expected texts to test on.*test.tsv"):
            example.main(["bert_classify"])


@pytest.mark.parametrize("name", ["train.tsv", "held_out.tsv"])
@pytest.mark.parametrize("example", ["translate", "chatbot"])
def test_a_corpus_is_not_written_over(example, name, tmp_path):
    corpus = tmp_path / name
    corpus.write_text("".join(f"a {n}\tb {n}\n" for n in range(50)))
    before = corpus.read_bytes()
    with imported(example) as module:
        flags.FLAGS([example, f"--data={corpus}", "--held_out=5", f"--output={tmp_path}"])
        with pytest.raises(app.UsageError, match="would overwrite.*another --output"):
            module.main([example])
    assert corpus.read_bytes() == before


def test_one_tokenizer_for_both_sides_takes_the_place_of_two(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import seq2seq

    from keras_xfmr import text

    special = ["[PAD]", "[UNK]", "[START]", "[END]"]
    tokenizers = [text.CharacterTokenizer([*special, *letters]) for letters in ("ab", "abc")]
    seq2seq.save_tokenizers(tokenizers, tmp_path)
    (tmp_path / "target_tokenizer" / "thesis.txt").write_text("years of work")
    assert [t.vocab_size for t in seq2seq.load_tokenizers(tmp_path, shared=False)] == [6, 7]
    seq2seq.save_tokenizers((tokenizers[1], tokenizers[1]), tmp_path)
    source, target = seq2seq.load_tokenizers(tmp_path, shared=True)
    assert source is target and source.vocab_size == 7
    assert [t.vocab_size for t in seq2seq.load_tokenizers(tmp_path, shared=False)] == [7, 7]
    assert (tmp_path / "target_tokenizer" / "thesis.txt").is_file()


@pytest.mark.parametrize(
    "name, required, names",
    [
        ("translate", (), ["held_out.tsv", "target_tokenizer"]),
        ("chatbot", ("data",), ["backup", "cross_attention.png"]),
        ("bert_classify", ("train", "test"), ["hub", "saved_model"]),
        ("gpt_classify", ("train", "test"), ["learning_curve.png", "model.keras"]),
        ("bert_ner", ("train", "test"), ["learning_curve.png", "model.keras"]),
        ("elmo_classify", ("train", "test"), ["learning_curve.png", "mix.png"]),
        ("elmo_lm", ("files", "validation_files"), ["elmo.keras", "senses.png"]),
        ("elmo_ner", ("train", "test"), ["mix.png", "model.keras"]),
        ("bert_pretrain", ("files",), ["flags.json", "tensorboard", "tokenizer"]),
        ("bert_similarity", ("pretrained",), ["model.keras", "saved_model"]),
    ],
)
def test_files_that_no_run_wrote_are_not_written_over(name, required, names, tmp_path):
    for file in (*names, "thesis.txt"):
        (tmp_path / file).write_text("years of work")
    given = [f"--{flag}={tmp_path / 'thesis.txt'}" for flag in required]
    message = f"holds {', '.join(names)}, which .*Give another --output"
    with pytest.raises(app.UsageError, match=message):
        run(name, *given, f"--output={tmp_path}")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(
        (*names, "thesis.txt"), "years of work"
    )


def test_a_run_replaces_what_the_same_example_wrote(tmp_path):
    with imported("command_line") as command_line:
        for _ in range(2):
            command_line.output_folder(tmp_path / "out", "examples/a.py", ("hub", "model.keras"))
            (tmp_path / "out" / "model.keras").write_text("of a.py")
        with pytest.raises(app.UsageError, match="out holds model.keras, which this example did"):
            command_line.output_folder(tmp_path / "out", "examples/b.py", ("model.keras",))
        command_line.output_folder(tmp_path / "out", "examples/b.py", ("b.txt",))
        command_line.output_folder(tmp_path / "out", "examples/a.py", ("model.keras",))
        with pytest.raises(app.UsageError, match="--output must name a folder. Received: nothing"):
            command_line.output_folder("", "examples/a.py", ())


@pytest.mark.slow
def test_a_run_killed_after_its_training_goes_on_with_the_trained_model(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import resuming
    import seq2seq

    from keras_xfmr import text

    for name in ("train.tsv", "held_out.tsv"):
        (tmp_path / name).write_text("".join(f"{n}\t{n}\n" for n in range(7)))
    settings = {
        "epochs": 1, "batch_size": 7, "buckets": (3,), "d_model": 6, "num_heads": 2,
        "num_layers": 1, "dropout": 0.1, "learning_rate": 1e-2, "label_smoothing": 0.0,
    }  # fmt: skip

    def run():
        files = tmp_path / "train.tsv", tmp_path / "held_out.tsv"
        tokenizers = [text.ByteTokenizer()] * 2
        model, measures = seq2seq.fit(files, tokenizers, tmp_path, settings, jit_compile=False)
        assert all(value == float(f"{value:.4g}") for value in measures.values())  # for people
        return model

    trained = run().get_weights()
    assert (tmp_path / "backup").exists()  # the job is not done
    (tmp_path / "learning_curve.png").unlink()
    capsys.readouterr()
    for found, expected in zip(run().get_weights(), trained, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert "Epoch" not in capsys.readouterr().out
    assert (tmp_path / "learning_curve.png").stat().st_size > 5000
    resuming.finish(tmp_path)
    assert not list(tmp_path.glob("backup*"))


def test_a_tab_inside_a_text_is_no_further_field(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import seq2seq

    pairs = [(f"a\t{n}", f"b\u2028{n}\r") for n in range(9)]
    files = seq2seq.split(lambda: iter(pairs), tmp_path, 2)
    found = [pair for file in files for pair in seq2seq.read_pairs(file)]
    assert sorted(found) == [(f"a {n}", f"b {n}") for n in range(9)]
    for held_out, message in ((0, "--held_out must be at least 1. Received: 0"), (5, "too few")):
        with pytest.raises(app.UsageError, match=message):
            seq2seq.split(lambda: iter(pairs), tmp_path, held_out)


def test_sources_that_differ_in_white_space_are_one_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import seq2seq

    blanks = (" ", "  ", "\t")
    pairs = [(f"source{blanks[n % 3]}{n // 3}", f"target {n}") for n in range(300)]
    train, held = (
        seq2seq.read_pairs(file) for file in seq2seq.split(lambda: iter(pairs), tmp_path, 20)
    )
    assert not {source for source, _ in train} & {source for source, _ in held}


@pytest.mark.parametrize("row", ["only a question", "a question,"])
def test_a_row_without_a_reply_is_named(row, tmp_path):
    path = tmp_path / "chat.csv"
    path.write_text(f"Q,A,label\nfine,yes,0\n{row}\n")
    with imported("chatbot") as chatbot:
        with pytest.raises(app.UsageError, match=r"chat.csv:3: expected a question and a reply"):
            list(chatbot.read(path))


@pytest.mark.parametrize("row", ["hello,hi, nice to meet you,0", "hello,hi", 'hello,"hi,0\n"'])
def test_a_row_of_another_number_of_fields_than_the_header_is_named(row, tmp_path):
    path = tmp_path / "chat.csv"
    path.write_text(f'Q,A,label\n"fine, thanks",yes,0\n\n{row}\n')
    line = 4 + row.count("\n")
    message = rf"chat.csv:{line}: expected a question and a reply in a row of 3 fields.*quotation"
    with imported("chatbot") as chatbot:
        rows = chatbot.read(path)
        assert next(rows) == ("fine, thanks", "yes")
        with pytest.raises(app.UsageError, match=message):
            next(rows)


def test_a_field_that_is_too_long_is_named_with_its_line(tmp_path):
    long = "x" * 131_073
    (tmp_path / "a.csv").write_text(f"Q,A\nfine,yes\n\n{long},yes\n")
    (tmp_path / "a.tsv").write_text(f"document\tlabel\nfine\t0\n\n{long}\t0\n")
    with imported("chatbot") as chatbot:
        with pytest.raises(app.UsageError, match="a.csv:4: field larger than field limit"):
            list(chatbot.read(tmp_path / "a.csv"))
    with imported("classifying") as classifying:
        flags.FLAGS(["classifying.py", "--train=a.tsv", "--test=a.tsv"])
        with pytest.raises(app.UsageError, match="a.tsv:4: field larger than field limit"):
            classifying.read(tmp_path / "a.tsv")


def test_the_attention_of_the_pages_decodes_with_a_cache_as_without():
    import keras
    import numpy as np

    import keras_xfmr

    page = (ROOT / "docs" / "tasks" / "subclass.md").read_text("utf8")
    code = re.search(r"(class SinkAttention.*?)\n\n\nblock = ", page, re.S)[1]
    names = {"keras": keras, "functional": keras_xfmr.functional, "layers": keras_xfmr.layers}
    exec(code.replace("window=128", "window=2").replace("< 4", "< 1"), names)
    layer = names["SinkAttention"](2, 4, bias_initializer="normal")
    x = keras.random.normal((2, 6, 8), seed=1)
    expected = keras.ops.convert_to_numpy(layer(x, x, use_causal_mask=True))
    cache = layer.init_cache(2, 6)
    for i in range(6):
        step = x[:, i : i + 1]
        output, cache = layer(step, step, use_causal_mask=True, cache=cache, cache_index=i)
        np.testing.assert_allclose(output[:, 0], expected[:, i], rtol=1e-4, atol=1e-5)
    _, scores = layer(x, x, use_causal_mask=True, return_attention_scores=True)
    seen = np.asarray(scores[0, 0]) > 0
    assert seen.astype(int).tolist()[3:5] == [[1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0]]


@pytest.mark.slow
def test_sources_longer_than_trained_for_are_answered_too(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import seq2seq

    from keras_xfmr import models, text

    tokenizer = text.ByteTokenizer()
    model = models.Transformer(
        tokenizer.vocab_size, d_model=16, num_heads=2, ffn_dim=32, num_layers=1,
        pad_id=tokenizer.pad_id, start_id=tokenizer.start_id, end_id=tokenizer.end_id,
    )  # fmt: skip
    sources = ["ab", "a source beyond the bucket", "c", "another beyond it"]
    options = {"search": "greedy", "max_length": 6, "jit_compile": False}
    answers = seq2seq.answer(
        model, [tokenizer] * 2, sources, length=8, batch_size=2, **options
    )
    for source, answer in zip(sources, answers, strict=True):
        long = len(source) > 8
        ids = tokenizer.encode([source]).to_tensor()
        found = model.generate(ids, **options | ({"max_length": len(ids[0]) + 50} if long else {}))
        expected = tokenizer.detokenize(found["token_ids"]).numpy()[0].decode("utf8")
        assert answer[: len(expected)] == expected and len(expected) > 0


def test_a_long_source_is_not_answered_beside_rows_of_padding(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import seq2seq

    from keras_xfmr import text

    tokenizer, shapes = text.ByteTokenizer(), []

    class Echo:
        pad_id = tokenizer.pad_id

        def generate(self, ids, max_length):
            shapes.append((*ids.shape, max_length))
            return {"token_ids": ids.numpy()}

    monkeypatch.setattr(seq2seq, "LONGEST", 1000)
    lengths = [3] * 9 + [1009, 7] + [40] * 5 + [999] + [15] * 3
    sources = [chr(97 + i) * n for i, n in enumerate(lengths)]
    answers = seq2seq.answer(
        Echo(), [tokenizer] * 2, sources, length=8, batch_size=7, max_length=6
    )
    assert answers == [source if len(source) < 1000 else "" for source in sources]
    # Full batches of the usual length, then fewer rows the longer they are, none of them empty.
    assert shapes == [(7, 8, 6)] * 2 + [(3, 16, None)] + [(1, 64, None)] * 5 + [(1, 1024, None)]
    assert "sources of more than 1000 ids, not answered: 1" in capsys.readouterr().out


@pytest.mark.slow
def test_questions_of_any_length_are_asked_in_a_fresh_process(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import fresh_process
    import tensorflow as tf

    class Echo(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(self, text):
            return {"output_text": text, "score": tf.strings.length(text)}

    echo, folder = Echo(), str(tmp_path)
    tf.saved_model.save(echo, folder, signatures={"serving_default": echo.serve})
    questions = ["가나 \u2028\\", "x" * 140_009]  # more than an argument of a process may have
    lengths = [len(question.encode()) for question in questions]
    answer = fresh_process.ask(folder, text=questions)
    assert answer == {"output_text": questions, "score": lengths}


@pytest.mark.slow
def test_no_held_out_date_is_trained_on_in_any_form(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import cldr_dates

    train, held = cldr_dates.make_pairs(3000, 500, seed=5)
    meaning = {s: date for date, strings in cldr_dates.readings().items() for s in strings}
    seen, kept_back = (
        {meaning[source.split("> ", 1)[1]] for source, _ in pairs} for pairs in (train, held)
    )
    assert kept_back and not seen & kept_back


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No installed font")  # for Hangul, where there is none
def test_chatbot_answers_ten_questions(tmp_path):
    data = tmp_path / "chat.csv"
    rows = [f'"질문 {n} 번은 뭐야?",대답은 {n} 입니다.,0' for n in range(100, 300)]
    data.write_text("Q,A,label\n" + "\n".join(rows) + "\n", "utf8")
    small = ("--held_out=20", "--epochs=1", "--d_model=16", "--vocab_size=80", "--num_layers=1")
    given = (f"--data={data}", f"--output={tmp_path / 'out'}", "--nojit_compile")
    printed = run("chatbot", *given, *small)
    assert re.search(r"held-out perplexity of a subword: \d+\.\d", printed)
    assert printed.count("(a person:") == 10
    page = read_page(tmp_path / "out", "Attention", "Serve", "perplexity")
    assert sum(text.startswith("질문") for text in page.texts) == 10
    assert "answered in a fresh process" in printed


def test_readme_commands_name_what_is_there():
    readme = (ROOT / "README.md").read_text("utf8")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf8")
    extras = set(re.findall(r"-e \"\.\[(\w+)\]\"", readme))
    assert extras == {"beam", "docs", "examples", "test"} <= set(setup["options.extras_require"])
    scripts = set(re.findall(r"\w+\.py", readme))
    assert all((ROOT / "examples" / script).is_file() for script in scripts)
    for page in ("README.md", "README.ko.md", "BUILD.md", "CONTRIBUTING.md"):
        content = (ROOT / page).read_text("utf8")
        for link in re.findall(r"\]\(([\w/.]+\.(?:md|png))(?:#[\w-]+)?\)", content):
            assert ((ROOT / page).parent / link).is_file(), f"{page}: {link}"


def test_the_source_distribution_has_all_pages_that_tests_read():
    listed = (ROOT / "MANIFEST.in").read_text("utf8").split()
    pages = {page.name for page in ROOT.glob("*.md")} - {"README.md"}  # which setuptools adds
    assert pages and pages <= set(listed)


@pytest.mark.slow
def test_readme_code_learns_to_sort(capsys):
    readme = (ROOT / "README.md").read_text("utf8")
    code, output = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", readme, re.S).groups()
    import keras

    keras.utils.set_random_seed(0)
    exec(code, {})
    assert capsys.readouterr().out.splitlines()[-1] == output.splitlines()[-1]


def test_similarity_searches_and_serves_raw_text(tmp_path):
    import keras

    from keras_xfmr import models

    keras.utils.set_random_seed(1)
    published = tmp_path / "published"
    models.Bert(
        9, d_model=12, num_heads=3, ffn_dim=17, num_layers=1, max_length=11
    ).save_pretrained(published)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "sun", "wind", "##y"]
    (published / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("rain and wind\nsun\nwindy sun\n")
    given = (f"--pretrained={published}", f"--corpus={corpus}", "--query=sun", "--max_length=11")
    printed = run("bert_similarity", *given, f"--output={tmp_path / 'run'}")
    assert "1.0000  sun" in printed  # the query itself is the nearest
    difference = re.search(r"largest difference to the model ([\d.e+-]+)", printed)
    assert float(difference[1]) < 1e-5
    assert (tmp_path / "run" / "model.keras").is_file()
    assert (tmp_path / "run" / "saved_model" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_pretraining_then_fine_tuning_from_it(tmp_path):
    from keras_xfmr import models, text

    corpus = tmp_path / "corpus.txt"
    animals = ("cat", "dog", "bird", "fish", "horse", "mouse")
    documents = [
        "\n".join(f"the {animal} number {i} sees a {other}." for i in range(9))
        for animal in animals
        for other in animals
    ]
    corpus.write_text("\n\n".join(documents))
    small = ("--vocab_size=60", "--max_length=32", "--batch_size=16", "--epochs=1")
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("\n\n".join(document.replace("sees", "is") for document in documents[:9]))
    given = (f"--files={corpus}", f"--validation_files={unseen}", *small, "--nojit_compile")
    printed = run("bert_pretrain", *given, f"--output={tmp_path / 'bert'}")
    names = ("mlm_accuracy", "nsp_accuracy", "mlm_loss", "nsp_loss", "tokens/s")
    for name in (*names, "val_mlm_loss", "val_nsp_accuracy"):
        assert name in printed
    assert re.search(r"the most frequent word is \d+\.\d\d% of the masked ones", printed)
    assert (tmp_path / "bert" / "learning_curve.png").stat().st_size > 5000
    read_page(tmp_path / "bert", "Samples", "Attention", "Next", "mlm_accuracy")
    assert not (tmp_path / "bert" / "backup").exists()

    rows = [f"it runs\ta {animal}\t{animal in ('cat', 'dog'):d}" for animal in animals] * 40
    for name in ("train.tsv", "test.tsv"):
        content = "\n".join(["document\twho\tlabel", *rows, "\ta cat\t1"]) + "\n"
        (tmp_path / name).write_text(content)
    given = (f"--train={tmp_path / 'train.tsv'}", f"--test={tmp_path / 'test.tsv'}")
    given += ("--text_pair=who",)
    given += (f"--pretrained={tmp_path / 'bert'}", "--max_length=16", "--nojit_compile")
    given += ("--batch_size=16", "--epochs=6", "--learning_rate=3e-3")
    printed = run("bert_classify", *given, "--packed", f"--output={tmp_path / 'packed'}")
    assert re.search(r"\d\d\.\d% of the positions are padding.*; \d+ rows a batch", printed)
    assert float(re.search(r"test accuracy (\d+\.\d\d)%", printed)[1]) > 90
    assert "answered in a fresh process" in printed
    read_page(tmp_path / "packed", "Attention")
    printed = run("bert_classify", *given, f"--output={tmp_path / 'classify'}")
    read_page(tmp_path / "classify", "Samples", "Attention", "Serve", "test accuracy")
    assert "1 left out" in printed and "2 missing: classifier.weight, classifier.bias" in printed
    accuracy = re.search(r"test accuracy (\d+\.\d\d)%", printed)
    assert float(accuracy[1]) > 90
    assert "answered in a fresh process" in printed
    again = models.BertClassifier.from_pretrained(tmp_path / "classify" / "hub")
    assert again.labels == ["0", "1"] and not again.load_report.missing
    tokenizer = text.load_pretrained_tokenizer(tmp_path / "classify" / "hub")
    assert tokenizer.vocab_size == again.bert.token_embedding.input_dim
