"""Examples on several devices and workers, and the files that start a cluster."""

import json
import os
import re

import pytest
from absl import app, flags
from scripts import ROOT, imported, run_as_command

DISTRIBUTE = ROOT / "examples" / "distribute"


@pytest.fixture
def distributing():
    with imported("gpt_lm"), imported("distributing") as module:
        flags.FLAGS(["gpt_lm", "--files=a", "--validation_files=b", "--distribute=workers"])
        yield module


def test_workers_without_a_cluster_are_refused(distributing, monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(app.UsageError, match="needs a cluster.*Received: neither"):
        distributing.make_strategy()


def test_a_step_of_slurm_is_a_cluster_without_gpus(distributing, monkeypatch):
    step = {"STEP_NODELIST": "node[07-08]", "STEP_NUM_TASKS": "4", "STEP_TASKS_PER_NODE": "2(x2)"}
    for name, value in {**step, "PROCID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    resolver = distributing.slurm_cluster()
    addresses = [f"node{node}:{port}" for node in ("07", "08") for port in (8888, 8889)]
    assert resolver.cluster_spec().as_dict() == {"worker": addresses}
    assert resolver.get_task_info() == ("worker", 3)


def test_a_task_of_slurm_sees_its_own_gpu(distributing, monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: H'\necho 'GPU 1: H'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # is restored
    step = {"STEP_NODELIST": "node[07-08]", "STEP_NUM_TASKS": "4", "STEP_TASKS_PER_NODE": "2(x2)"}
    for name, value in {**step, "PROCID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert distributing.slurm_cluster().num_accelerators() == {"GPU": 1}  # they are hidden
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert distributing.slurm_cluster().num_accelerators() == {"GPU": 1}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"  # before TensorFlow looks for GPUs


@pytest.mark.parametrize("name", ["gpt_lm.sbatch", "gpt_lm_kubeflow.yaml"])
def test_the_flags_of_a_cluster_file_are_those_of_the_example(name, distributing):
    content = (DISTRIBUTE / name).read_text("utf8")
    given = re.findall(r"--(\w+)=(\S+)", content.split("examples/gpt_lm.py")[-1])
    assert len(given) >= 5 and dict(given)["distribute"] == "workers"
    flags.FLAGS(["gpt_lm", *(f"--{flag}={value}" for flag, value in given)])


@pytest.mark.slow
def test_two_workers_learn_what_one_process_does(tmp_path):
    lines = [f"the {a} dog sees {b} birds" for a in ("old", "young", "red") for b in range(30)]
    (tmp_path / "train.txt").write_text("\n".join(lines), "utf8")
    (tmp_path / "held.txt").write_text("\n".join(lines[::9]), "utf8")
    printed = run_as_command(
        "examples/distribute/two_workers.py", tmp_path / "runs", "examples/gpt_lm.py",
        f"--files={tmp_path / 'train.txt'}", f"--validation_files={tmp_path / 'held.txt'}",
        "--line_documents", "--vocab_size=280", "--preset=tiny", "--block_length=16",
        "--batch_size=8", "--epochs=2", "--dropout=0", "--order=0",
    )  # fmt: skip
    apart = float(re.search(r"greatest difference of their weights: (\S+)", printed)[1])
    assert apart < 1e-3  # Adam divides gradients that are near to zero by their size
    flags_of_chief = json.loads((tmp_path / "runs" / "2" / "flags.json").read_text("utf8"))
    assert flags_of_chief["distribute"] == "workers"
    assert not (tmp_path / "runs" / "2" / "backup").exists()
