"""Tests that changed sources are recognised by their content, which is read when size or times differ."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.builders import state
from danet_jax.data.dataset import open_dataset
from danet_jax.data.decode import decode_label
from tests.reference import publishers


@pytest.fixture
def folder(rng, tmp_path):
    root = tmp_path / "street"
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True)
        for name in "abc":
            Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).save(
                root / "images" / split / f"{name}.png"
            )
            write_label(root / "labels" / split / f"{name}.png", int(rng.integers(2)))
    (root / "classes.csv").write_text("id,name\n0,a\n1,b\n")
    return root


def write_label(path, value):
    """Writes a label file whose size is the same for every value."""
    Image.fromarray(np.full((7, 9), value, np.uint8)).save(path, compress_level=0)


def prepare(root, **options):
    return open_dataset("folder", root=root, data_dir=root.parent / "data", options=options)


def labels(dataset, split="train"):
    return [int(decode_label(example["label"], "")[0, 0]) for example in dataset.source(split)]


def read_files(monkeypatch):
    """Returns a list to which the name of each source file is added when its content is read for comparison."""
    read, digest = [], state._content_digest
    monkeypatch.setattr(state, "_content_digest", lambda path: (read.append(path.name), digest(path))[1])
    return read


def test_a_label_rewritten_with_the_same_size_and_time(folder):
    path = folder / "labels/train/b.png"
    before = labels(prepare(folder))
    status = path.stat()
    write_label(path, 1 - before[1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert labels(prepare(folder)) == [before[0], 1 - before[1], before[2]]


def test_unchanged_files_are_not_read_and_files_with_other_times_are_not_prepared_again(folder, monkeypatch):
    first = prepare(folder)
    read = read_files(monkeypatch)
    assert prepare(folder) == first
    assert read == []
    os.utime(folder / "labels/train/b.png", ns=(10**18, 10**18))
    copy = folder / "images/val/c.png"
    shutil.copy(copy, folder / "copy")
    (folder / "copy").replace(copy)
    assert prepare(folder) == first
    assert sorted(read) == ["b.png", "c.png"]
    assert prepare(folder) == first
    assert len(read) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b'{"files": {"x": 1}}', b'{"files": [], "adopted": {}}'])
def test_a_damaged_memory_only_costs_time(folder, content, monkeypatch):
    first = prepare(folder)
    [path] = (folder.parent / "data/folder").glob("*.json")
    path.write_bytes(content)
    read = read_files(monkeypatch)
    assert prepare(folder) == first
    assert len(read) == 12
    assert prepare(folder) == first
    assert len(read) == 12


def test_nothing_is_remembered_of_data_that_are_refused(folder):
    write_label(folder / "labels/train/b.png", 7)
    with pytest.raises(ValueError, match=r"b\.png"):
        prepare(folder)
    assert not list((folder.parent / "data").rglob("*.json"))


def as_version_0_2_0(folder, dataset, former):
    """Converts prepared data to the form of version 0.2.0: another name, palettes, and no digests."""
    directory = pathlib.Path(dataset.directory)
    (directory / "digests.json").unlink()
    values = json.loads((directory / "metadata.json").read_text())
    for shard in values["shards"].values():
        shard["palettes"] = {"first": "", "colours": []}
        del shard["summary"]["images_digest"], shard["summary"]["labels_digest"]
    (directory / "metadata.json").write_text(json.dumps(values))
    [memory] = directory.parent.parent.glob("*.json")
    memory.unlink()
    directory.parent.rename(directory.parent.with_name(former))


def test_data_prepared_by_version_0_2_0_are_used_until_a_source_changes(folder):
    files = [
        (split, name, *(stat(folder / part / split / f"{name}.png") for part in ("images", "labels")))
        for split in ("train", "val")
        for name in "abc"
    ]
    dataset = prepare(folder)
    listed = [["a", "b"], dataset.classes.colours, []]
    examples = {split: list(dataset.source(split)) for split in dataset.splits}
    former = f"street-{state.fingerprint(str(folder.resolve()), files, listed, {})}"
    as_version_0_2_0(folder, dataset, former)
    for _ in range(2):
        used = prepare(folder)
        assert pathlib.Path(used.directory).parent.name == former
        assert {split: list(used.source(split)) for split in used.splits} == examples
        assert used.class_pixels("train") == dataset.class_pixels("train")
        digest = used.digest("train")["train"]
        assert digest["images"] is digest["labels"] is None
        assert digest["examples"] == 3
        assert len(digest["shards"]) == 32
    before = labels(used)
    path = folder / "labels/train/b.png"
    status = path.stat()
    write_label(path, 1 - before[1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = prepare(folder)
    assert pathlib.Path(changed.directory).parent.name != former
    assert labels(changed) == [before[0], 1 - before[1], before[2]]


def stat(path):
    return path.stat().st_size, path.stat().st_mtime_ns


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
