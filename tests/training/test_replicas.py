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


def test_what_keras_cannot_do_on_replicas_is_refused():
    found = ask("refused")["refused"]
    for name in ("fit", "evaluate"):
        message = found.pop(name)
        assert "its rows must be a multiple of the 2 replicas. Use keras_xfmr" in message
        assert message.endswith("Received: parts of shapes [3,7] and [2,7].")
    assert len(found) == 4
    for name, message in found.items():
        assert message.startswith(f"Keras cannot use `{name.split()[1]}` under a `tf.distribute`")


def test_devices_take_a_first_batch_whose_rows_do_not_divide():
    found = ask("uneven_mirrored")["uneven_mirrored"]
    assert found.keys() == {"5 rows", "1 rows"} and max(found.values()) < 1e-5


def test_losses_are_those_of_one_device():
    found = ask("losses")["losses"]
    assert len(found) == 4 and max(found.values()) < 1e-5, found
