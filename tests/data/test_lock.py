"""One data_dir and many processes: one prepares, others wait, and nothing that is whole is made again."""

import errno
import fcntl
import pathlib
import threading
import time

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.builders import lock
from danet_jax.data.dataset import dataset_builder, open_dataset


def folder(root):
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(root / "images" / split / "a.png")
        Image.fromarray((np.arange(63) % 2).astype(np.uint8).reshape(7, 9)).save(
            root / "labels" / split / "a.png"
        )
    (root / "classes.csv").write_text("id,name\n0,a\n1,b\n")
    return root


def test_what_another_process_has_prepared_meanwhile_is_taken(tmp_path):
    """A builder that looked before the data were there must not remake them under their readers."""
    root = folder(tmp_path / "in")
    late = dataset_builder("folder", root=root, data_dir=tmp_path / "data")
    assert not late.is_prepared()
    dataset = open_dataset("folder", root=root, data_dir=tmp_path / "data")
    before = {path: path.stat().st_ino for path in pathlib.Path(dataset.directory).iterdir()}
    late.prepare()
    assert {path: path.stat().st_ino for path in pathlib.Path(dataset.directory).iterdir()} == before


@pytest.fixture(params=[True, False], ids=["locks", "no locks"])
def locks(request, monkeypatch):
    if not request.param:

        def refuse(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "_QUIET", 0.05)
    monkeypatch.setattr(lock, "_BEAT", 0.02)
    return request.param


def test_one_at_a_time_and_the_others_hear_for_whom(tmp_path, locks, capsys):
    inside, most = 0, 0

    def prepare():
        nonlocal inside, most
        with lock.preparing(tmp_path, "street"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.2)
            inside -= 1

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    said = capsys.readouterr().err
    assert "waiting for street, prepared by process" in said
    assert ("no locks" in said) is not locks
    assert not (tmp_path / ".preparing").exists()


def test_what_a_killed_process_left_is_taken_over(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "_BEAT", 0.02)
    monkeypatch.setattr(lock, "_SILENCE", 0.3)
    (tmp_path / ".preparing").write_text("street, prepared by process 7 on elsewhere")
    start = time.monotonic()
    with lock.preparing(tmp_path, "street"):
        assert time.monotonic() - start > 0.25
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
