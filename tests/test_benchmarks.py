"""Benchmarks with small settings. What they time fails no test."""

import importlib.metadata
import importlib.util
import re
import sys
import types

import numpy as np
import pytest
from absl import app, flags
from scripts import ROOT, imported, run, run_as_command

HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))

SMALL = ("--num_layers=1", "--d_model=22", "--num_heads=2", "--ffn_dim=31", "--vocab_size=97")
PAIRS = (*SMALL, "--source_length=7", "--target_length=5", "--batch_size=2")
SIZES = (*SMALL, "--max_length=29", "--batch_size=3", "--length=23", "--short_length=7")
QUICK = ("--predictions=5", "--learning_rate=1e-2", "--rounds=2", "--warmup=1")
LEFT_OUT = "--leave_out=keras_xfmr/XLA,KerasHub/XLA,HF-PyTorch/compiled"  # slow to compile
GPT = (*SMALL[:3], "--vocab_size=97", "--max_length=31", "--batch_size=3", "--length=23")
GENERATION = ("--generated_rows=2", "--prompt=5", "--new_tokens=7")
OLD_HUB = importlib.metadata.version("keras-hub").startswith("0.25.")  # the last for Python 3.10
COMPUTING = ("training step, float32", "forward 3 x 23, float32", "forward 1 x 7, float32")


pytestmark = [
    pytest.mark.filterwarnings("default"),  # the peers' own
    pytest.mark.slow,
]


NAMES = sorted(p.stem for p in ROOT.glob("benchmarks/*.py") if "app.run(" in p.read_text("utf8"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_flag_is_refused(name):
    with imported(f"benchmarks.{name}") as benchmark:
        with pytest.raises(app.UsageError, match="Received: 20"):
            benchmark.main([name, "20"])


@pytest.fixture(scope="module")
def bert():
    """What was printed, and (case, peer, setting) -> median of all sides that were timed."""
    if OLD_HUB:
        pytest.skip("KerasHub 0.25 loads no folder of a BertModel, whose names have no prefix")
    printed = run("benchmarks.bert", *SIZES, *QUICK, "--nomemory", LEFT_OUT)
    found, case = {}, None
    for line in printed.splitlines():
        if head := re.match(r"(.+): [\d.]+ \w+ a call, 2 rounds$", line):
            case = head[1]
        elif row := re.match(r"(.+), (\w+) +([\d.]+) *[\d.]+ \.\. [\d.]+ ", line):
            found[case, row[1], row[2]] = float(row[3])
    return printed, found


def test_bert_times_the_keras_sides(bert):
    printed, found = bert
    for peer in ("keras_xfmr", "KerasHub"):
        assert all(found[case, peer, "graph"] > 0 for case in COMPUTING)
        assert found["loading", peer, "load"] > 0
    for peer in ("keras_xfmr", "file's bytes"):
        assert found["loading alone", peer, "load"] > 0
    for peer in ("keras_xfmr", "Keras' layers"):
        assert found["building", peer, "load"] > 0
    assert "XLA" not in {setting for _, _, setting in found}
    for train in ("train_ours", "train_hub"):
        losses = re.search(rf"^{train}.*losses ([\d. ]+)$", printed, re.M)[1].split()
        assert float(losses[-1]) < float(losses[0])
    ratios = re.findall(r"^best settings .*: keras_xfmr is .* as fast as KerasHub", printed, re.M)
    assert len(ratios) == len(COMPUTING) + 1


@pytest.mark.skipif(not HAS_TORCH, reason="needs torch and transformers")
def test_bert_times_pytorch(bert):
    printed, found = bert
    assert all(found[case, "HF-PyTorch", "eager"] > 0 for case in COMPUTING)
    assert found[COMPUTING[0], "HF-PyTorch", "gathered"] > 0
    for peer in ("HF-PyTorch", "HF, mapped"):
        assert found["loading", peer, "load"] > 0
    assert found["loading alone", "HF-PyTorch", "load"] > 0
    assert "keras_xfmr is" in printed and "times as fast as HF-PyTorch" in printed


@pytest.mark.skipif(OLD_HUB, reason="KerasHub 0.25 reads other names in a folder")
def test_gpt_times_sides_that_give_the_same_answers():
    quick = ("--rounds=2", "--warmup=1", "--nomemory", "--learning_rate=1e-2")
    printed = run("benchmarks.gpt", *GPT, *GENERATION, *quick, LEFT_OUT)
    cases = re.findall(r"^(.+): \d+ tokens a call, 2 rounds$", printed, re.M)
    assert cases == ["training step", "generation, batch 2"]
    settings = {"keras_xfmr": "graph", "KerasHub": "graph"}
    if HAS_TORCH:
        settings["HF-PyTorch"] = "eager"
    for peer, setting in settings.items():
        assert len(re.findall(rf"^{peer}, {setting} +[\d.]+ ", printed, re.M)) == len(cases)
    apart = re.findall(r"(?:from the first|behind the largest logit) by (\S+)", printed)
    assert len(apart) == len(cases) * len(settings) and max(map(float, apart)) < 1e-3
    assert len(re.findall(r"^best settings .* as fast as KerasHub", printed, re.M)) == len(cases)


def test_gpt_s_benchmark_refuses_tokens_that_are_not_the_most_probable(monkeypatch):
    class Counting:
        def __init__(self, folder, setting):
            pass

        def logits(self, ids):
            return np.eye(11)[ids + 1]

    with imported("benchmarks.gpt") as benchmark:
        flags.FLAGS(["gpt", "--new_tokens=3"])
        monkeypatch.setattr(benchmark.peers, "Ours", Counting)
        prompt = np.array([[5, 2], [1, 6]], "int32")
        benchmark.check_greedy("right", prompt, np.array([[3, 4, 5], [7, 8, 9]]))
        with pytest.raises(AssertionError, match="More than 0.001"):
            benchmark.check_greedy("wrong", prompt, np.array([[3, 4, 5], [7, 8, 8]]))
        with pytest.raises(AssertionError, match=r"short generated \(2, 2\)"):
            benchmark.check_greedy("short", prompt, np.array([[3, 4], [7, 8]]))


def test_lstm_times_sides_of_which_two_compute_the_same():
    sizes = ("--units=11", "--projection_dim=5", "--batch_size=3", "--length=7")
    quick = ("--calls=1", "--rounds=2", "--warmup=1", "--nomemory")
    printed = run("benchmarks.lstm", *sizes, *quick, "--leave_out=keras_xfmr/XLA,Keras/XLA")
    assert re.findall(r"^(.+): 21 tokens a call, 2 rounds$", printed, re.M) == [
        "training step", "inference"
    ]  # fmt: skip
    settings = [("keras_xfmr", "graph"), ("Keras", "graph")]
    if HAS_TORCH:
        settings += [("PyTorch", "rows first"), ("PyTorch", "time first")]
        apart = re.findall(r"LSTM differ from ours by (\S+)", printed)
        assert len(apart) == 4 and max(map(float, apart)) < 1e-5
    for peer, setting in settings:
        assert len(re.findall(rf"^{peer}, {setting} +[\d.]+ ", printed, re.M)) == 2
    assert len(re.findall("^best settings .* as fast as Keras", printed, re.M)) == 2


def test_long_rows_measures_blocks_where_all_scores_are_left_out():
    sizes = ("--num_heads=2", "--head_dim=3", "--lengths=37,401", "--limit_mb=1")
    printed = run_as_command("-m", "benchmarks.long_rows", *sizes, "--short_length=7", "--rounds=2")
    assert re.search(r"37 tokens: .* all at once: +\d+ MB .* in blocks: +\d+ MB", printed)
    assert re.search(r"401 tokens: .* all at once: left out; in blocks: +\d+ MB", printed)
    assert len(re.findall(r"^7 tokens x 8 rows, .*: [\d.]+ s$", printed, re.M)) == 2


def test_scale_compares_two_workers_with_one_process():
    sizes = ("--d_model=32", "--length=16", "--batch_size=4", "--steps=2", "--rounds=1")
    printed = run_as_command("-m", "benchmarks.scale", "--show", "workers", *sizes)
    assert re.search(r"2 process\(es\): .* gradients 1\.3 MB: [2-9]\.\d\d times", printed)


def test_rematerialize_gives_the_losses_of_kept_activations():
    sizes = ("--num_layers=1", "--d_model=64", "--batch_size=2", "--length=7", "--rounds=2")
    printed = run_as_command("-m", "benchmarks.rematerialize", *sizes)
    losses = re.findall(r"peak [\d,]+ MB, .* above a single row; loss ([\d.]+)$", printed, re.M)
    kept, computed_again = map(float, losses)
    assert computed_again == pytest.approx(kept, rel=1e-5)  # printed with six decimals
    assert re.search(r"^computed again takes [\d.]+ times as long$", printed, re.M)


@pytest.mark.parametrize("name, case", [
    ("training_step", "training step, dropout 0"),
    ("decoding", "greedy, batch 1"),
    ("decoding", "beam 4, batch 2"),
])  # fmt: skip
@pytest.mark.parametrize("peer", ["keras_xfmr", "KerasHub"])
def test_one_side_of_a_comparison_alone(name, case, peer):
    """What the parent starts to measure memory."""
    side = (f"--only_case={case}", f"--only_side={peer}/graph")
    printed = run(f"benchmarks.{name}", *PAIRS, *side)
    assert re.search(r"\d{3,}", printed.splitlines()[-1])  # MB


def test_both_parts_of_the_transformer_s_benchmark_are_given_the_flags(monkeypatch):
    commands = []

    def start(command):
        commands.append(command[1:])
        return types.SimpleNamespace(returncode=len(commands) - 1)

    monkeypatch.setattr(sys, "argv", ["transformer", "--rounds=2"])
    monkeypatch.setattr("subprocess.run", start)
    with imported("benchmarks.transformer") as script, pytest.raises(SystemExit, match="1"):
        script.main()
    names = ("benchmarks.training_step", "benchmarks.decoding")
    assert commands == [["-m", name, "--rounds=2"] for name in names]


def test_what_is_left_out_does_not_run():
    flags = (*PAIRS, "--dropout=0", "--rounds=2", "--warmup=1", "--nomemory")
    left_out = "--leave_out=KerasHub,keras_xfmr/XLA"
    printed = run("benchmarks.training_step", *flags, left_out)
    assert "keras_xfmr, graph" in printed
    assert "KerasHub" not in printed and "XLA" not in printed
    with pytest.raises(ValueError, match=r"No such sides to leave out: \['KerasHub/GPU'\]"):
        run("benchmarks.training_step", *flags, "--leave_out=KerasHub/GPU")


def test_pipelines_are_read_to_their_end(tmp_path):
    lines = [f"the {word} walks to the {other}" for word in "abcdefg" for other in "hijklmnopqr"]
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf8")
    printed = run_as_command(
        "-m", "benchmarks.pipelines", f"--files={tmp_path}/*.txt", "--lines=71", "--pieces=41",
        "--words=23", "--length=29", "--batch_size=6", "--shards=2",
    )  # fmt: skip
    found = [line for line in printed.splitlines() if " lines/s, " in line]
    assert [line.split(":")[0] for line in found] == ["pairs", "bert", "gpt", "elmo"]


def test_packing_compares_rows_of_one_text_with_rows_of_several(tmp_path):
    words = ["cats", "dogs", "sleep", "run", "far", "away", "today"]
    rows = [" ".join(words[i % 5 : i % 5 + 1 + i % 3]) + f"\t{i % 2}" for i in range(97)]
    (tmp_path / "a.tsv").write_text("\n".join(["document\tlabel", *rows]) + "\n")
    printed = run_as_command(
        "-m", "benchmarks.packing", f"--file={tmp_path / 'a.tsv'}", "--pieces=41", "--lengths=23",
        "--batch_size=5", "--num_layers=1", "--d_model=64", "--rounds=2", "--batches=2",
    )  # fmt: skip
    padding = dict(re.findall(r"^23 positions, (\w+): ([\d.]+)% padding", printed, re.M))
    assert list(padding) == ["padded", "longest", "packed"]
    assert float(padding["packed"]) < 0.5 * float(padding["padded"])
    assert len(re.findall(r"median step .* tokens/s$", printed, re.M)) == 2
    assert "packed rows train" in printed


def test_pretraining_data_compares_making_with_training(tmp_path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."]
    pieces = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    vocabulary = [*special, *pieces, *(f"##{piece}" for piece in pieces)]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    printed = run_as_command(  # it starts itself again
        "-m", "benchmarks.pretraining_data", "--preset=tiny", "--documents=43", "--vocab_size=131",
        f"--vocabulary={tmp_path}", "--max_length=31", "--batch_size=3", "--training_steps=2",
        "--warmup=1", "--nojit_compile",
    )  # fmt: skip
    assert "MB of text, 126 pieces" in printed
    made, rate = re.search(r"made ([\d,]+) instances, ([\d,]+) a second", printed).groups()
    assert int(made.replace(",", "")) > 800  # some 43 x 22 sentences of 22 words and more pieces
    taken = re.search(r"training tiny takes ([\d.,]+) a second", printed)[1].replace(",", "")
    ratio = re.search(r"feeds a step ([\d.,]+) times over", printed)[1].replace(",", "")
    assert float(ratio) == pytest.approx(int(rate.replace(",", "")) / float(taken), rel=0.1)
