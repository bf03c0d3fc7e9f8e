"""Shards of about equal size, and a disk that is too small."""

import collections

import pytest

from danet_jax.data.builders import base, shards
from danet_jax.data.dataset import open_dataset
from danet_jax.errors import InputError
from tests.reference import publishers


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


def test_no_examples_no_shards():
    assert shards.shard_ranges([]) == []
    assert shards.shard_ranges([10**12, 1]) == [range(0, 1), range(1, 2)]


def test_many_shards_hold_what_one_does(rng, tmp_path, monkeypatch):
    root = publishers.write(publishers.coco_stuff10k(rng)[0], tmp_path / "in", "archive")
    options = {"allow_partial": True}
    whole = open_dataset("coco_stuff10k", root=root, data_dir=tmp_path / "whole", options=options)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    parts = open_dataset("coco_stuff10k", root=root, data_dir=tmp_path / "parts", options=options)
    assert len(list((tmp_path / "parts").rglob("*-train.array_record*"))) > 1
    for split in whole.splits:
        assert list(whole.source(split)) == list(parts.source(split))


def test_a_file_system_without_links(rng, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(shards.os, "link", refuse)
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    dataset = open_dataset("ade20k", root=root, data_dir=tmp_path / "data", options={"allow_partial": True})
    assert len(list(dataset.source("train"))) == 4


def test_a_full_disk_is_named_before_anything_is_written(rng, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(base.shutil, "disk_usage", lambda _: usage(1000, 900, 100))
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    with pytest.raises(InputError, match=r"ade20k: needs .* GB in .* make room or set dataset\.data_dir"):
        open_dataset("ade20k", root=root, data_dir=tmp_path / "data", options={"allow_partial": True})
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    assert not list((tmp_path / "data").rglob("unfinished*"))
