"""Tests that the digest of a data set does not depend on how the data are stored, and that changes are named."""

import json

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.builders import shards
from danet_jax.data.dataset import data_changes, open_dataset


class Street:
    """A folder with two splits, and its prepared data."""

    def __init__(self, rng, root):
        self.rng, self.root = rng, root
        for split in ("train", "val"):
            for name in "abc":
                self.image(split, name)
                self.label(split, name)
        (root / "classes.csv").write_text("id,name\n0,a\n1,b\n")

    def image(self, split, name):
        self.save(self.rng.integers(0, 256, (7, 9, 3), np.uint8), "images", split, name)

    def label(self, split, name):
        self.save(self.rng.integers(0, 2, (7, 9), np.uint8), "labels", split, name)

    def save(self, pixels, part, split, name, **options):
        path = self.root / part / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)

    def digest(self, **options):
        dataset = open_dataset("folder", root=self.root, data_dir=self.root.parent / "data", options=options)
        return json.loads(json.dumps(dataset.digest("train", "val")))  # This is how a run stores it.


@pytest.fixture
def street(rng, tmp_path):
    return Street(rng, tmp_path / "street")


def test_the_same_data_have_the_same_digest_however_they_are_stored(street, monkeypatch):
    before = street.digest()
    assert data_changes(before, street.digest(uncompressed=True)) == []
    for part in ("images", "labels"):  # The files differ, but the pixels are the same.
        for path in (street.root / part / "train").iterdir():
            street.save(np.array(Image.open(path)), part, "train", path.stem, compress_level=0)
    monkeypatch.setattr(shards, "SHARD_BYTES", 500)
    stored_otherwise = street.digest()
    assert stored_otherwise["train"]["shards"] != before["train"]["shards"]
    assert data_changes(before, stored_otherwise) == []


def test_what_changed_is_named(street):
    before = street.digest()
    street.label("val", "b")
    assert data_changes(before, street.digest()) == ["val: labels edited"]
    street.image("train", "b")
    street.label("train", "b")
    train, _ = data_changes(before, street.digest())
    assert train.startswith("train: images")
    street.image("train", "d")
    street.label("train", "d")
    after = street.digest()
    train, _ = data_changes(before, after)
    assert train.startswith("train: 1 images added")
    assert data_changes(after, before)[0].startswith("train: 1 images removed")
    assert data_changes({"train": before["train"]}, {"val": after["val"]}) == []


def test_a_renamed_image_is_a_change(street):
    before = street.digest()
    for part in ("images", "labels"):
        (street.root / part / "val/a.png").rename(street.root / part / "val/z.png")
    assert len(data_changes(before, street.digest())) == 1


def test_data_prepared_by_version_0_2_0_are_compared_by_their_files(street):
    before = street.digest()
    former = {split: {**values, "images": None, "labels": None} for split, values in before.items()}
    assert data_changes(former, before) == data_changes(before, former) == []
    street.label("val", "b")
    [line] = data_changes(former, street.digest())
    assert line.startswith("val: ")
    without = {split: {**values, "shards": None} for split, values in former.items()}
    assert data_changes(without, street.digest()) == []
