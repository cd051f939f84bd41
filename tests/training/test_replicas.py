"""What two devices do is what one does."""

import json
import pathlib

import pytest
from forked import run

SCRIPT = pathlib.Path(__file__).with_name("replica_script.py")
pytestmark = [pytest.mark.slow, pytest.mark.requires_tensorflow]


def ask(*names):
    done = run(SCRIPT, *names)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_each_replica_draws_its_own_dropout():
    found = ask("dropout")["dropout"]
    assert found == dict.fromkeys(("whole", "blocks", "again", "eager"), [False, False])


def test_a_first_batch_whose_rows_do_not_divide_is_refused():
    found = ask("refused")["refused"]
    assert found.keys() == {"fit", "evaluate"}
    for message in found.values():
        assert "its rows must be a multiple of the 2 replicas" in message
        assert message.endswith("Received: parts of shapes [3,7] and [2,7].")
