"""Tests preparation: shards of about equal size, one process at a time, and no use of incomplete or damaged data."""

import collections
import errno
import fcntl
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from danet_jax.data.builders import base, shards
from danet_jax.data.dataset import dataset_builder, open_dataset
from danet_jax.errors import InputError
from tests.reference import publishers
from tests.reference.refusal import refused


def test_ranges_cover_every_example_once_in_about_equal_shards(rng):
    for _ in range(50):
        sizes = rng.integers(0, 5_000_000, rng.integers(1, 2000)).tolist()
        ranges = shards.shard_ranges(sizes)
        assert [index for part in ranges for index in part] == list(range(len(sizes)))
        totals = [sum(sizes[index] for index in part) for part in ranges]
        assert len(ranges) == max(1, round(sum(sizes) / 2**28))
        assert max(totals) < 1.5 * 2**28 + max(sizes)
        if len(ranges) > 1:
            assert min(totals) > 0.5 * 2**28
    assert shards.shard_ranges([10**12, 1]) == [range(0, 1), range(1, 2)]


def test_many_shards_contain_the_same_as_one(rng, tmp_path, monkeypatch):
    root = publishers.write(publishers.coco_stuff10k(rng)[0], tmp_path / "in", "archive")
    options = {"allow_partial": True}
    one = open_dataset("coco_stuff10k", root=root, data_dir=tmp_path / "one", options=options)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    many = open_dataset("coco_stuff10k", root=root, data_dir=tmp_path / "many", options=options)
    assert len(list((tmp_path / "many").rglob("*-train.array_record*"))) > 1
    for split in one.splits:
        assert list(one.source(split)) == list(many.source(split))
        assert one.summaries[split].as_json() == many.summaries[split].as_json()


def test_a_full_disk_is_refused_before_anything_is_written(rng, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(base.shutil, "disk_usage", lambda _: usage(1000, 900, 100))
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    with refused(what=tmp_path / "data", value=100):
        open_dataset("ade20k", root=root, data_dir=tmp_path / "data", options={"allow_partial": True})
    assert not list((tmp_path / "data").rglob("*.array_record*"))


def test_data_that_another_process_prepared_meanwhile_are_used(own, tmp_path):
    """A builder that was created before the data existed must not overwrite them while others read."""
    own.standard()
    late = dataset_builder("folder", root=own.root, data_dir=tmp_path / "data")
    assert not late.is_prepared()
    dataset = own.open()
    before = {path: path.stat().st_ino for path in pathlib.Path(dataset.directory).iterdir()}
    late.prepare()
    assert {path: path.stat().st_ino for path in pathlib.Path(dataset.directory).iterdir()} == before


@pytest.mark.parametrize("has_locks", [True, False])
def test_one_process_prepares_and_the_others_report_that_they_wait(tmp_path, monkeypatch, capsys, has_locks):
    if not has_locks:

        def refuse(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(base, "_SILENT_WAIT", 0.05)
    inside, most = 0, 0

    def prepare():
        nonlocal inside, most
        with base._lock(tmp_path / "data", "street"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.3)
            inside -= 1

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert str(tmp_path / "data") in capsys.readouterr().err
    assert not list(tmp_path.rglob(".preparing"))


def test_the_lock_of_a_killed_process_is_ignored(own, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    code = (
        "import errno, fcntl, os, sys, pathlib\n"
        "def refuse(*_): raise OSError(errno.ENOTSUP, 'Not supported')\n"
        "fcntl.flock = refuse\n"
        "from danet_jax.data.builders import base\n"
        "with base._lock(pathlib.Path(sys.argv[1]), 'street'): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "data")], check=False)
    assert list((tmp_path / "data").iterdir())
    own.standard()
    assert own.open().splits == {"train": 1, "val": 1}


def damaged(rng, content):
    """Yields the content emptied, cut short and with flipped bits."""
    yield from (b"", content[: len(content) // 2])
    for _ in range(15):
        flipped = bytearray(content)
        flipped[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)


@pytest.mark.parametrize("name", ["metadata.json", "dataset_info.json", "features.json"])
@pytest.mark.parametrize("digests", [True, False])
def test_a_damaged_description_is_refused_by_name(rng, own, name, digests):
    """Without digests, as in version 0.2.0, unreadable descriptions are refused and never give a traceback."""

    def examples():
        return list(own.open().source("train"))

    own.standard()
    path = pathlib.Path(own.open().directory) / name
    expected, intact, refusals = examples(), path.read_bytes(), []
    if not digests:
        (path.parent / "digests.json").unlink()
    for content in damaged(rng, intact):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if digests:
            with refused(what=path):
                examples()
            continue
        try:
            assert examples() == expected
        except InputError as error:
            refusals.append(str(error))
    assert digests or refusals
    assert all(str(path.parent) in line for line in refusals)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(intact)
    assert examples() == expected
