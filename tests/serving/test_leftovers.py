"""What killed exports leave in a model's folder, and old versions."""

import os
import signal
import subprocess
import sys
import time

import pytest

from keras_xfmr.serving import leftovers, publish


def put(path, content="x", **options):
    """Publishes a version that is a file."""
    with publish.new_version(path, **options) as place:
        place.folder.mkdir()
        (place.folder / "saved_model.pb").write_text(content)
    return place.final


def names(path):
    return {child.name for child in path.iterdir()}


WRITE = """
import pathlib, runpy, signal, sys
folder_aside = runpy.run_path(sys.argv[2])["folder_aside"]  # without TensorFlow
with folder_aside(pathlib.Path(sys.argv[1])) as aside:
    (aside / "model").mkdir()
    (aside / "model" / "saved_model.pb").write_text("half")
    print(aside.name, flush=True)
    signal.pause()
"""


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    """And not before: a folder that is written, or that somebody else made, stays."""
    (tmp_path / ".writing-7").mkdir()
    (tmp_path / ".writing-7" / "saved_model.pb").write_text("mine")
    command = [sys.executable, "-c", WRITE, str(tmp_path), leftovers.__file__]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    left = process.stdout.readline().strip()
    put(tmp_path)
    assert names(tmp_path) == {".writing-7", left, "1"}
    assert (tmp_path / left / "model" / "saved_model.pb").read_text() == "half"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    put(tmp_path)
    assert names(tmp_path) == {".writing-7", "1", "2"}
    assert os.listdir(tmp_path / ".writing-7") == ["saved_model.pb"]


def test_a_link_to_a_folder_elsewhere_is_not_followed(tmp_path):
    """Each version has the mark, also one in another place."""
    version = put(tmp_path / "other")
    (version / "variables").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".writing-link").symlink_to(version)
    put(tmp_path / "model")
    assert names(version) == {"variables", "saved_model.pb", leftovers.MARK}
    assert names(tmp_path / "model") == {".writing-link", "1"}


def test_what_was_left_before_its_mark_is_removed_after_an_hour(tmp_path):
    for number, files in enumerate(([], ["lock"], ["mine"], ["lock", "mine"])):
        for age in ("old", "new"):
            folder = tmp_path / f".writing-{age}{number:05}"
            folder.mkdir()
            for name in files:
                (folder / name).touch()
            if age == "old":
                os.utime(folder, times=(0, time.time() - 3700))
    (tmp_path / ".writing-x").mkdir()  # no name that an export gives
    os.utime(tmp_path / ".writing-x", times=(0, 0))
    before = names(tmp_path)
    put(tmp_path)
    assert before - names(tmp_path) == {".writing-old00000", ".writing-old00001"}


def test_versions_of_this_library_that_are_old_are_removed_on_request(tmp_path):
    for version in (2, 3, 5, 6, 11):
        put(tmp_path, version=version)
    (tmp_path / "4").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / publish.MARK).touch()
    (tmp_path / "04").mkdir()
    (tmp_path / "04" / publish.MARK).touch()
    (tmp_path / "1").symlink_to(tmp_path / "elsewhere")
    others = {"1", "4", "04", "elsewhere"}
    assert put(tmp_path, version=7, keep=3).name == "7"
    assert names(tmp_path) == {*others, "5", "6", "7", "11"}
    assert put(tmp_path, keep=1).name == "12"
    assert names(tmp_path) == {*others, "12"}
    put(tmp_path, keep=9)
    assert names(tmp_path) == {*others, "12", "13"}


@pytest.mark.parametrize("keep", [0, -1, 1.5, True])
def test_keep_is_a_positive_integer(keep, tmp_path):
    with pytest.raises(ValueError, match="`keep` must be a positive integer. Received"):
        put(tmp_path / "model", keep=keep)
    assert not (tmp_path / "model").exists()
