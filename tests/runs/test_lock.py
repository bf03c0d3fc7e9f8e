"""One run at a time in a directory."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from danet_jax.runs import lock
from danet_jax.runs.lock import locked, refuse_locked
from tests.reference.refusal import refused


@pytest.fixture
def other():
    """Another process that lives, and ends with the test."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def hold(folder, process, **changes):
    """What `process` of this host leaves in `folder` when it holds it."""
    start = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    holder = {"host": socket.gethostname(), "process": process, "since": "noon", "start": start, **changes}
    (folder / "lock.json").write_text(json.dumps(holder))


def test_the_holder_is_named(other, tmp_path):
    hold(tmp_path, other.pid)
    with refused(what=tmp_path, value=other.pid) as caught:
        refuse_locked(tmp_path)
    assert f"on {socket.gethostname()} since noon" in str(caught.value)
    with refused(what=tmp_path, value=other.pid), locked(tmp_path):
        pass
    assert json.loads((tmp_path / "lock.json").read_text())["process"] == other.pid


def test_the_lock_of_a_dead_process_is_taken_over(other, tmp_path):
    hold(tmp_path, other.pid)
    other.kill()
    other.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", ["", "{", "[]", '{"process": "x"}', '{"process": -1}'])
def test_a_damaged_lock_is_taken_over_once_it_is_old(left, tmp_path):
    (tmp_path / "lock.json").write_text(left)
    with refused(what=tmp_path):
        refuse_locked(tmp_path)
    os.utime(tmp_path / "lock.json", (1e9, 1e9))
    with locked(tmp_path):
        pass


def test_a_reused_process_number_does_not_count(other, tmp_path):
    hold(tmp_path, other.pid, start="1")
    refuse_locked(tmp_path)


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "0.2.0"])
def test_a_lock_of_another_host_expires_without_heartbeats(other, tmp_path, seen):
    hold(tmp_path, other.pid, host="elsewhere", **{"seen": time.time() - 60} if seen else {})
    with refused(what=tmp_path, value=other.pid):
        refuse_locked(tmp_path)
    hold(tmp_path, other.pid, host="elsewhere", **{"seen": time.time() - 130} if seen else {})
    if not seen:
        os.utime(tmp_path / "lock.json", (1e9, 1e9))
    refuse_locked(tmp_path)


def test_heartbeats_are_written_and_the_lock_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_HEARTBEAT", 0.02)
    with locked(tmp_path):
        first = json.loads((tmp_path / "lock.json").read_text())["seen"]
        deadline = time.monotonic() + 60
        while json.loads((tmp_path / "lock.json").read_text())["seen"] == first:
            assert time.monotonic() < deadline
    assert not list(tmp_path.iterdir())
