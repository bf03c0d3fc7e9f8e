"""Tests that the digest of a data set does not depend on how the data are stored, and that changes are named."""

import json

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.builders import shards
from danet_jax.data.dataset import data_changes


@pytest.fixture
def street(own):
    for split in ("train", "val"):
        for name in "abc":
            write_pair(own, split, name)
    own.write("classes.csv", "id,name\n0,a\n1,b\n2,c\n")
    return own


def write_pair(street, split, name):
    street.image(f"images/{split}/{name}.png")
    street.label(f"labels/{split}/{name}.png")


def digest(street, **options):
    return json.loads(
        json.dumps(street.open(**options).digest("train", "val"))
    )  # This is how a run stores it.


def test_the_digest_does_not_depend_on_how_the_data_are_stored(street, monkeypatch):
    before = digest(street)
    assert data_changes(before, digest(street, uncompressed=True)) == []
    for part in ("images", "labels"):  # The files differ, but the pixels are the same.
        for path in (street.root / part / "train").iterdir():
            Image.fromarray(np.array(Image.open(path))).save(path, compress_level=0)
    monkeypatch.setattr(shards, "SHARD_BYTES", 500)
    stored_otherwise = digest(street)
    assert stored_otherwise["train"]["shards"] != before["train"]["shards"]
    assert data_changes(before, stored_otherwise) == []


def test_changes_are_named(street):
    before = digest(street)
    street.label("labels/val/b.png")
    assert data_changes(before, digest(street)) == ["val: labels edited"]
    write_pair(street, "train", "b")
    train, _ = data_changes(before, digest(street))
    assert train.startswith("train: images")
    write_pair(street, "train", "d")
    after = digest(street)
    train, _ = data_changes(before, after)
    assert train.startswith("train: 1 images added")
    assert data_changes(after, before)[0].startswith("train: 1 images removed")
    assert data_changes({"train": before["train"]}, {"val": after["val"]}) == []
    for part in ("images", "labels"):
        (street.root / part / "val/a.png").rename(street.root / part / "val/z.png")
    assert len(data_changes(after, digest(street))) == 1


def test_data_prepared_by_version_0_2_0_are_compared_by_their_files(street):
    before = digest(street)
    former = {split: {**values, "images": None, "labels": None} for split, values in before.items()}
    assert data_changes(former, before) == data_changes(before, former) == []
    street.label("labels/val/b.png")
    [line] = data_changes(former, digest(street))
    assert line.startswith("val: ")
    without = {split: {**values, "shards": None} for split, values in former.items()}
    assert data_changes(without, digest(street)) == []
