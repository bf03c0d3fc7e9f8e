"""Tests that changed sources are recognised by their content, which is read when size or times differ."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.builders import state
from danet_jax.data.decode import decode_label
from tests.reference import publishers
from tests.reference.refusal import refused


@pytest.fixture
def street(own):
    """Returns a folder of three examples in each of two splits; the size of a label file does not depend on it."""
    own.root = own.root.with_name("street")
    for split in ("train", "val"):
        for name in "abc":
            own.image(f"images/{split}/{name}.png")
            write_label(own.root / f"labels/{split}/{name}.png", int(own.rng.integers(2)))
    own.write("classes.csv", "id,name\n0,a\n1,b\n")
    return own


def write_label(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 12), value, np.uint8)).save(path, compress_level=0)


def rewrite_label(path, value):
    """Writes another label file of the same size and modification time."""
    before = path.stat()
    write_label(path, value)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert size_and_time(path) == (before.st_size, before.st_mtime_ns)


def size_and_time(path):
    return path.stat().st_size, path.stat().st_mtime_ns


def labels(dataset, split="train"):
    return [int(decode_label(example["label"], "")[0, 0]) for example in dataset.source(split)]


def read_files(monkeypatch):
    """Returns a list to which the name of each source file is added when its content is read for comparison."""
    read, digest = [], state._content_digest
    monkeypatch.setattr(state, "_content_digest", lambda path: (read.append(path.name), digest(path))[1])
    return read


def test_a_label_rewritten_with_the_same_size_and_time(street):
    before = labels(street.open())
    rewrite_label(street.root / "labels/train/b.png", 1 - before[1])
    assert labels(street.open()) == [before[0], 1 - before[1], before[2]]


def test_unchanged_files_are_not_read_and_files_with_other_times_are_not_prepared_again(street, monkeypatch):
    first = street.open()
    read = read_files(monkeypatch)
    assert street.open() == first
    assert read == []
    os.utime(street.root / "labels/train/b.png", ns=(10**18, 10**18))
    original, copy = street.root / "images/val/c.png", street.root / "copy"
    shutil.copy(original, copy)
    copy.replace(original)
    for _ in range(2):
        assert street.open() == first
        assert sorted(read) == ["b.png", "c.png"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"files": {"x": 1}}', b'{"files": [], "adopted": {}}'])
def test_damaged_digests_of_sources_only_cost_time(street, content, monkeypatch):
    first = street.open()
    [path] = (street.root.parent / "data/folder").glob("*.json")
    path.write_bytes(content)
    read = read_files(monkeypatch)
    for _ in range(2):
        assert street.open() == first
        assert len(read) == 12


def test_no_digests_are_stored_for_data_that_are_refused(street):
    path = street.root / "labels/train/b.png"
    write_label(path, 7)
    with refused(what=path):
        street.open()
    assert not list((street.root.parent / "data").rglob("*.json"))


def as_version_0_2_0(dataset, former):
    """Converts prepared data to the form of version 0.2.0: another name, palettes, and no digests."""
    directory = pathlib.Path(dataset.directory)
    (directory / "digests.json").unlink()
    values = json.loads((directory / "metadata.json").read_text())
    for shard in values["shards"].values():
        shard["palettes"] = {"first": "", "colours": []}
        del shard["summary"]["images_digest"], shard["summary"]["labels_digest"]
    (directory / "metadata.json").write_text(json.dumps(values))
    [digests] = directory.parent.parent.glob("*.json")
    digests.unlink()
    directory.parent.rename(directory.parent.with_name(former))


def test_data_prepared_by_version_0_2_0_are_used_until_a_source_changes(street):
    files = [
        (split, name, *(size_and_time(street.root / f"{part}/{split}/{name}.png") for part in ("images", "labels")))
        for split in ("train", "val")
        for name in "abc"
    ]  # fmt: skip
    dataset = street.open()
    listed = [["a", "b"], dataset.classes.colours, []]
    examples = {split: list(dataset.source(split)) for split in dataset.splits}
    former = f"street-{state.fingerprint(str(street.root.resolve()), files, listed, {})}"
    as_version_0_2_0(dataset, former)
    for _ in range(2):
        used = street.open()
        assert pathlib.Path(used.directory).parent.name == former
        assert {split: list(used.source(split)) for split in used.splits} == examples
        assert used.class_pixels("train") == dataset.class_pixels("train")
        digest = used.digest("train")["train"]
        assert digest["images"] is digest["labels"] is None
        assert digest["examples"] == 3
        assert len(digest["shards"]) == 32
    before = labels(used)
    rewrite_label(street.root / "labels/train/b.png", 1 - before[1])
    changed = street.open()
    assert pathlib.Path(changed.directory).parent.name != former
    assert labels(changed) == [before[0], 1 - before[1], before[2]]


def test_parts_of_published_data_whose_files_change_within_the_same_size_and_time(rng, tmp_path):
    def prepared():
        return publishers.prepare("ade20k", tmp_path / "in", tmp_path)

    tree, _ = publishers.ade20k(rng)
    publishers.write(tree, tmp_path / "in", "folder")
    changed = tmp_path / "in/ADEChallengeData2016/annotations/training/ADE_train_00000001.png"
    label = np.array(Image.open(changed)) % 100
    Image.fromarray(label).save(changed, compress_level=0)
    first = prepared()
    assert prepared().directory == first.directory
    status = changed.stat()
    Image.fromarray(label + np.uint8(1)).save(changed, compress_level=0)
    assert changed.stat().st_size == status.st_size
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = prepared()
    assert second.directory != first.directory
    np.testing.assert_array_equal(decode_label(second.source("train")[0]["label"], ""), label)
