"""Published datasets from small archives in the publisher's layout: every example against the original."""

import io
import pathlib
import unicodedata

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.dataset import open_dataset
from tests.reference import publishers

FORMS = pytest.mark.parametrize("form", ["archive", "folder"])

# Written from the publisher's pages, independently of danet_jax.data.labels.
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
CONTEXT_IDS = {  # of the names in alphabetical order of labels.txt
    **{"aeroplane": 2, "bag": 9, "bed": 18, "bedclothes": 19, "bench": 22, "bicycle": 23, "bird": 25},
    **{"boat": 31, "book": 33, "bottle": 34, "building": 44, "bus": 45, "cabinet": 46, "car": 59, "cat": 65},
    **{"ceiling": 68, "chair": 72, "cloth": 80, "computer": 85, "cow": 98, "cup": 104, "curtain": 105},
    **{"dog": 113, "door": 115, "fence": 144, "floor": 158, "flower": 159, "food": 162, "grass": 187},
    **{"ground": 189, "horse": 207, "keyboard": 220, "light": 232, "motorbike": 258, "mountain": 259},
    **{"mouse": 260, "person": 284, "plate": 295, "platform": 296, "pottedplant": 308, "road": 324},
    **{"rock": 326, "sheep": 347, "shelves": 349, "sidewalk": 354, "sign": 355, "sky": 360, "snow": 366},
    **{"sofa": 368, "table": 397, "track": 415, "train": 416, "tree": 420, "truck": 424, "tvmonitor": 427},
    **{"wall": 440, "water": 445, "window": 454, "wood": 458},
}
COCO_ABSENT = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}


def stored(dataset, split):
    """Name -> (image bytes, label map or None), in stored order."""
    examples = {}
    for example in dataset.source(split):
        label = example["label"]
        examples[example["name"]] = (
            example["image"],
            None if label is None else np.array(Image.open(io.BytesIO(label))),
        )
    return examples


def lookup(ids, by_id, default=255):
    """The label map by a dictionary, pixel by pixel."""
    return np.vectorize(lambda value: by_id.get(int(value), default))(ids)


def prepare(name, root, tmp_path, **options):
    options = {"allow_partial": True, **options}
    return open_dataset(name, root=root, data_dir=tmp_path / "data", options=options)


@FORMS
@pytest.mark.parametrize("coarse", [False, True])
def test_cityscapes(rng, tmp_path, form, coarse):
    tree, truth = publishers.cityscapes(rng, coarse)
    dataset = prepare("cityscapes", publishers.write(tree, tmp_path / "in", form), tmp_path, coarse=coarse)
    by_id = {label_id: train_id for train_id, label_id in enumerate(CITYSCAPES_IDS)}
    assert dict(dataset.splits) == {"train": 6, "val": 4, "test": 2, **({"train_extra": 2} if coarse else {})}
    images = {
        path.rpartition("/")[2].removesuffix("_leftImg8bit.png"): content
        for files in tree.values()
        for path, content in files.items()
        if path.endswith("_leftImg8bit.png")
    }
    for split in dataset.splits:
        examples = stored(dataset, split)
        assert len(examples) == dataset.splits[split]
        for name, (image, label) in examples.items():
            assert image == images[name]
            if split == "test":
                assert label is None
            else:
                np.testing.assert_array_equal(label, lookup(truth[name], by_id))


@FORMS
@pytest.mark.parametrize("test", [False, True])
def test_pascal_voc_aug(rng, tmp_path, form, test):
    tree, lists, truth = publishers.pascal_voc_aug(rng)
    dataset = prepare("pascal_voc_aug", publishers.write(tree, tmp_path / "in", form), tmp_path, test=test)
    train = (set(lists["voc_train"]) | set(lists["sbd_train"]) | set(lists["sbd_val"])) - set(
        lists["voc_val"]
    )
    expected = {"train": sorted(train), "val": sorted(lists["voc_val"])}
    if test:
        expected["test"] = sorted(lists["test"])
    assert set(dataset.splits) == set(expected)
    files = {path: content for archive in tree.values() for path, content in archive.items()}
    for split, names in expected.items():
        examples = stored(dataset, split)
        assert list(examples) == names
        for name, (image, label) in examples.items():
            assert image == files[f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg"]
            if split == "test":
                assert label is None
            else:  # VOC's own labels, with their void border, where there are any
                np.testing.assert_array_equal(label, truth[name])
    for example in dataset.source("val"):  # passed through, palette and all
        assert example["label"] == files[f"VOCdevkit/VOC2012/SegmentationClass/{example['name']}.png"]


@FORMS
@pytest.mark.parametrize("background", [False, True])
def test_pascal_context(rng, tmp_path, form, background):
    tree, splits, truth = publishers.pascal_context(rng)
    root = publishers.write(tree, tmp_path / "in", form)
    dataset = prepare("pascal_context", root, tmp_path, background=background)
    names = list(dataset.classes.names)
    assert len(names) == 59 + background
    other = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
    by_id = {
        CONTEXT_IDS[other.get(name, name)]: index for index, name in enumerate(names) if name != "background"
    }
    assert len(by_id) == 59
    for split, expected in splits.items():
        examples = stored(dataset, split)
        assert list(examples) == sorted(expected)
        for name, (image, label) in examples.items():
            assert image == tree["VOCtrainval_03-May-2010.tar"][f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg"]
            np.testing.assert_array_equal(label, lookup(truth[name], by_id, 0 if background else 255))


@pytest.mark.parametrize("background", [False, True])
def test_pascal_context_by_category(rng, tmp_path, background):
    """As the authors' code and mmsegmentation number it: ranks among the sorted ids, background 0, less one without."""
    tree, splits, truth = publishers.pascal_context(rng)
    root = publishers.write(tree, tmp_path / "in", "archive")
    dataset = prepare("pascal_context", root, tmp_path, background=background, by_category=True)
    sorted_ids = sorted([0, *CONTEXT_IDS.values()])
    for split in splits:
        for name, (_, label) in stored(dataset, split).items():
            known = np.isin(truth[name], sorted_ids)
            rank = np.where(known, np.searchsorted(sorted_ids, truth[name]), 0)
            expected = rank if background else np.where(rank == 0, 255, rank - 1)
            np.testing.assert_array_equal(label, expected)
    first = dataset.classes.names[background : background + 6]
    assert first == ("aeroplane", "bag", "bed", "bedcloth", "bench", "bicycle")


@FORMS
def test_coco_stuff10k(rng, tmp_path, form):
    tree, lists, truth = publishers.coco_stuff10k(rng)
    dataset = prepare("coco_stuff10k", publishers.write(tree, tmp_path / "in", form), tmp_path)
    by_id, next_id = {}, 0
    for label_id in range(1, 183):
        if label_id not in COCO_ABSENT:
            by_id[label_id] = next_id
            next_id += 1
    assert len(dataset.classes) == next_id == 171
    for split, published in {"train": "train", "val": "test"}.items():
        examples = stored(dataset, split)
        assert list(examples) == sorted(lists[published])
        for name, (image, label) in examples.items():
            assert image == tree["cocostuff-10k-v1.1.zip"][f"images/{name}.jpg"]
            np.testing.assert_array_equal(label, lookup(truth[name], by_id))


@FORMS
@pytest.mark.parametrize("test", [False, True])
def test_ade20k(rng, tmp_path, form, test):
    tree, truth = publishers.ade20k(rng)
    dataset = prepare("ade20k", publishers.write(tree, tmp_path / "in", form), tmp_path, test=test)
    assert dict(dataset.splits) == {"train": 4, "val": 2, **({"test": 2} if test else {})}
    files = {
        path.rpartition("/")[2]: content for archive in tree.values() for path, content in archive.items()
    }
    for split in dataset.splits:
        for name, (image, label) in stored(dataset, split).items():
            assert image == files[f"{name}.jpg"]
            if split == "test":
                assert label is None
            else:
                expected = truth[name].astype(int) - 1
                np.testing.assert_array_equal(label, np.where(expected < 0, 255, expected))


@pytest.mark.parametrize("way", ["not declared", "decomposed"])
def test_names_as_macos_writes_them(rng, tmp_path, way):
    """Zips made there hold UTF-8 without saying so, or letters and their accents apart."""
    tree, truth = publishers.cityscapes(rng)
    if way == "decomposed":
        fine = tree["gtFine_trainvaltest.zip"]
        tree["gtFine_trainvaltest.zip"] = {
            unicodedata.normalize("NFD", path): content for path, content in fine.items()
        }
    root = publishers.write(tree, tmp_path / "in", "archive")
    path = root / "leftImg8bit_trainvaltest.zip"
    if way == "not declared":
        content = path.read_bytes()
        declared = content.count(b"PK\x01\x02\x14\x03\x14\x00\x00\x08")
        assert declared
        for start in (b"PK\x03\x04\x14\x00", b"PK\x01\x02\x14\x03\x14\x00"):
            content = content.replace(start + b"\x00\x08", start + b"\x00\x00")
        path.write_bytes(content)
    dataset = prepare("cityscapes", root, tmp_path)
    names = {example["name"] for split in dataset.splits for example in dataset.source(split)}
    assert names == set(truth)
    assert any("zürich (alt)" in name for name in names)


def test_ade20k_real_pairs(ade20k_sample, tmp_path):
    top = tmp_path / "in" / "ADEChallengeData2016"
    for folder in ("training", "validation"):
        for kind in ("images", "annotations"):
            (top / kind / folder).mkdir(parents=True)
            for path in (ade20k_sample / kind).iterdir():
                (top / kind / folder / path.name).write_bytes(path.read_bytes())
    dataset = prepare("ade20k", tmp_path / "in", tmp_path)
    examples = stored(dataset, "val")
    assert len(examples) == 3
    for name, (_, label) in examples.items():
        original = np.array(Image.open(ade20k_sample / "annotations" / f"{name}.png")).astype(int)
        np.testing.assert_array_equal(label, np.where(original == 0, 255, original - 1))


def test_the_same_from_archives_and_folders(rng, tmp_path):
    tree, _, _ = publishers.pascal_voc_aug(rng)
    one = prepare("pascal_voc_aug", publishers.write(tree, tmp_path / "a", "archive"), tmp_path)
    two = prepare("pascal_voc_aug", publishers.write(tree, tmp_path / "b", "folder"), tmp_path)
    for split in ("train", "val"):
        assert list(one.source(split)) == list(two.source(split))


def test_prepared_data_need_no_sources(rng, tmp_path, monkeypatch):
    from danet_jax.data.builders.coco_stuff10k import CocoStuff10k

    monkeypatch.setattr(CocoStuff10k, "COUNTS", {"train": 3, "val": 2})
    tree, _, _ = publishers.coco_stuff10k(rng)
    root = publishers.write(tree, tmp_path / "data" / "downloads" / "manual", "archive")
    first = open_dataset("coco_stuff10k", data_dir=tmp_path / "data")
    (root / "cocostuff-10k-v1.1.zip").unlink()
    again = open_dataset("coco_stuff10k", data_dir=tmp_path / "data")
    assert list(first.source("val")) == list(again.source("val"))


def test_dataset_info_names_licence_and_citation(rng, tmp_path):
    import tensorflow_datasets as tfds

    tree, _ = publishers.ade20k(rng)
    prepare("ade20k", publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    [directory] = pathlib.Path(tmp_path / "data" / "ade20k").glob("*/*")
    info = tfds.builder_from_directory(directory).info
    assert "Zhou" in info.citation
    assert info.homepage == "http://sceneparsing.csail.mit.edu"
    assert "BSD" in info.redistribution_info.license
    assert info.metadata["names"][:3] == ["wall", "building", "sky"]
