"""Shards of every pipeline: together they are the batches of one worker, row by row."""

import pathlib
import sys

import forked
import numpy as np
import pytest
import shards_script
import tensorflow as tf
from shards_script import PIPELINES, B, joined, same

FOLDER = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    shards_script.write_files(folder)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """Of each pipeline an instance, the batches of its epoch 1, and how many rows they have."""
    found = {}
    for name in PIPELINES:
        data = shards_script.make(name, folder)
        found[name] = data, epoch(data, 1), data.rows
    return found


def epoch(data, number, batch=0, **shard):
    data.seek(number, batch)
    return shards_script.read(data.dataset(**shard))


@pytest.mark.parametrize("count, first", [(3, 1), pytest.param(2, 0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PIPELINES)
def test_shards_joined_are_the_batches(name, count, first, whole):
    """From the beginning, and from the middle of an epoch."""
    data, batches, rows = whole[name]
    assert len(batches) > 3 and rows < len(batches) * B  # the last batch is filled
    shards, counted = [], 0
    for index in range(count):
        shards.append(epoch(data, 1, first, shard=(index, count)))
        counted += data.rows
    assert {len(value) for value in tf.nest.flatten(shards)} == {B // count}
    same(joined(shards), batches[first:])
    assert counted == rows - first * B


def test_the_epoch_after_that_of_a_shard_is_the_next(whole):
    data, batches, _ = whole["pairs"]
    data.seek(0, 2)
    shard = data.dataset(shard=(1, 2))
    epochs = [shards_script.read(shard) for _ in range(2)]
    expected = [tf.nest.map_structure(lambda rows: rows[B // 2 :], batch) for batch in batches]
    same(epochs[1], expected)


def test_shapes_of_a_shard_are_static(whole):
    data = whole["bidirectional"][0]
    inputs, labels = data.dataset(shard=(0, 3)).element_spec
    assert inputs["character_ids"].shape == (2, 5, 7) and labels["forward"].shape == (2, 5)


@pytest.mark.parametrize("count, replicas", [(1, 3), (2, 2)])
def test_an_input_context_is_a_shard(count, replicas, whole):
    """A worker has a batch for each of its replicas, one after the other."""
    data, batches, _ = whole["pairs"]
    shards = [epoch(data, 1, shard=context(index, count, replicas)) for index in range(count)]
    own = replicas // count
    parts = [shard[replica::own] for shard in shards for replica in range(own)]
    assert {len(value) for value in tf.nest.flatten(parts)} == {B // replicas}
    same(joined(parts), batches)


def context(index, count, replicas):
    return tf.distribute.InputContext(count, index, replicas)


def test_epochs_have_no_position(whole):
    data, batches, _ = whole["pairs"]
    data.seek(5, 3)
    both = data.epochs(1, 2)
    found = shards_script.read(both)
    same(found[: len(batches)], batches)
    same(shards_script.read(both), found)
    [shard] = (shards_script.read(data.epochs(2, shard=(1, 2))),)
    expected = found[len(batches) :]
    same(shard, [tf.nest.map_structure(lambda rows: rows[B // 2 :], b) for b in expected])
    same(shards_script.read(data.dataset()), epoch(data, 5, 3))


def test_a_counted_shard_knows_its_length(folder):
    data = shards_script.make("pairs", folder)
    length = data.count()
    data.seek(0, 2)
    assert data.dataset(shard=(1, 2)).cardinality() == length - 2
    assert data.dataset(shard=context(0, 1, 3)).cardinality() == 3 * (length - 2)
    assert data.epochs(0, 5).cardinality() == 5 * length


@pytest.mark.parametrize(
    "shard", [(2, 2), (-1, 2), (0, 0), (0, 1, 2), 3, "01", (0.0, 2), (True, 2), {0, 2}], ids=str
)
def test_what_is_no_shard_is_refused(shard, whole):
    for make in (whole["pairs"][0].dataset, lambda shard: whole["pairs"][0].epochs(0, shard=shard)):
        with pytest.raises(ValueError, match="`shard` must be a pair .*Received: "):
            make(shard=shard)


def test_unequal_parts_are_refused_with_the_way_out(whole):
    data = whole["mlm"][0]
    with pytest.raises(ValueError, match="multiple of 4 for 4 workers, such as 8. Received: batch"):
        data.dataset(shard=(0, 4))
    with pytest.raises(ValueError, match="multiple of 4 for 2 workers of 2 replicas, such as 8"):
        data.dataset(shard=context(0, 2, 4))
    data.dataset(shard=(np.int64(1), np.int32(3)))


# ---- processes of their own


@pytest.mark.slow
def test_a_mirrored_strategy_gives_each_replica_its_rows(folder):
    run = forked.run(FOLDER / "shards_script.py", "mirrored", folder, PYTHONPATH=shards_script.ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["equal"] * 2 * len(PIPELINES)


@pytest.mark.slow
def test_two_workers_read_every_row_once(folder, whole):
    shards_script.run_workers(folder, sys.executable)
    for name in PIPELINES:
        batches = whole[name][1]
        for way in ("fit", "context"):
            shards = [shards_script.load(folder, name, way, index) for index in range(2)]
            same(joined(shards), batches)


@pytest.mark.slow
def test_the_service_of_tf_data_runs_every_pipeline(folder):
    """A dispatcher and two workers, which take whole epochs in turn."""
    printed = shards_script.run_service(folder, sys.executable)
    assert printed.split() == ["equal"] * len(PIPELINES)
