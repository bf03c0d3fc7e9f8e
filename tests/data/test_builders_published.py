"""Tests published data sets, prepared from small archives in the publisher's layout, against the originals."""

import pathlib
import unicodedata

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from danet_jax.data import labels
from danet_jax.data.builders import published
from danet_jax.data.dataset import open_dataset
from tests.reference import publishers
from tests.reference.publishers import contents, prepare, read

# These ids come from the publisher's pages, independently of danet_jax.data.labels.
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
CONTEXT_IDS = {  # The ids of the names, which are in alphabetical order, in labels.txt.
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
CONTEXT_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
COCO_IDS = [i for i in range(1, 183) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)]


def lookup(ids, classes, default=255):
    """Returns the index of every pixel's id in `classes`."""
    by_id = {label_id: train_id for train_id, label_id in enumerate(classes)}
    return np.vectorize(lambda value: by_id.get(int(value), default))(ids).tolist()


def cityscapes(rng, options):
    tree, truth = publishers.cityscapes(rng, options.get("coarse", False))
    paths = [path for files in tree.values() for path in files if path.endswith("_leftImg8bit.png")]
    splits = {path.rpartition("/")[2].removesuffix("_leftImg8bit.png"): path.split("/")[1] for path in paths}
    return tree, {
        (split, name): None if split == "test" else lookup(truth[name], CITYSCAPES_IDS)
        for name, split in splits.items()
    }


def pascal_voc_aug(rng, options):
    """Expects VOC's own labels, including their void border, where they exist."""
    tree, lists, truth = publishers.pascal_voc_aug(rng)
    listed = {*lists["voc_train"], *lists["sbd_train"], *lists["sbd_val"]} - {*lists["voc_val"]}
    splits = {"train": listed, "val": lists["voc_val"], "test": lists["test"] if options else []}
    return tree, {
        (split, name): None if split == "test" else truth[name].tolist()
        for split, names in splits.items()
        for name in names
    }


def pascal_context(rng, options):
    """Expects the ranks of the sorted ids with `by_category`, as in the authors' code and mmsegmentation."""
    tree, splits, truth = publishers.pascal_context(rng)
    background = options.get("background", False)
    names = (
        sorted(CONTEXT_IDS, key=CONTEXT_IDS.get)
        if options.get("by_category")
        else [CONTEXT_NAMES.get(name, name) for name in labels.PASCAL_CONTEXT_59.classes.names]
    )
    ids = [*([-1] if background else []), *(CONTEXT_IDS[name] for name in names)]
    default = 0 if background else 255
    return tree, {
        (s, name): lookup(truth[name], ids, default) for s, names in splits.items() for name in names
    }


def coco_stuff10k(rng, options):
    tree, lists, truth = publishers.coco_stuff10k(rng)
    splits = {"train": lists["train"], "val": lists["test"]}
    return tree, {(s, name): lookup(truth[name], COCO_IDS) for s, names in splits.items() for name in names}


def coco_stuff164k(rng, options):
    tree, splits, truth = publishers.coco_stuff164k(rng)
    ids = [label_id - 1 for label_id in COCO_IDS]
    return tree, {(s, name): lookup(truth[name], ids) for s, names in splits.items() for name in names}


def ade20k(rng, options):
    tree, truth = publishers.ade20k(rng)
    test = {("test", f"ADE_test_{index:08d}"): None for index in (1, 2)} if options else {}
    return tree, {
        **{(name.split("_")[1], name): lookup(truth[name], range(1, 151)) for name in truth},
        **test,
    }


BOTH = {"background": True, "by_category": True}


@pytest.mark.parametrize("form", ["archive", "folder"])
@pytest.mark.parametrize(
    ("examples", "options"),
    [
        *((cityscapes, {}), (cityscapes, {"coarse": True})),
        *((pascal_voc_aug, {}), (pascal_voc_aug, {"test": True})),
        *((pascal_context, {}), (pascal_context, {"background": True})),
        *((pascal_context, {"by_category": True}), (pascal_context, BOTH)),
        *((coco_stuff10k, {}), (coco_stuff164k, {}), (ade20k, {}), (ade20k, {"test": True})),
    ],
    ids=lambda value: value.__name__ if callable(value) else "_".join(value) or "default",
)
def test_every_example_is_the_publishers(rng, tmp_path, form, examples, options):
    tree, expected = examples(rng, options)
    if examples is coco_stuff164k and form == "folder":
        root = publishers.mmsegmentation_coco(tree, tmp_path / "in")
    else:
        root = publishers.write(tree, tmp_path / "in", form)
    dataset = prepare(examples.__name__, root, tmp_path, **options)
    found = contents(dataset)
    assert {key: label for key, (_, label) in found.items()} == expected
    for split in dataset.splits:
        names = [name for part, name in found if part == split]
        assert names == sorted(names)
    images = {
        path.rpartition("/")[2].removesuffix("_leftImg8bit.png").removesuffix(".jpg"): content
        for files in tree.values()
        for path, content in files.items()
        if path.endswith(("_leftImg8bit.png", ".jpg")) and "/img/" not in path
    }
    assert all(image == images[name] for (_, name), (image, _) in found.items())


def test_classes_are_numbered_as_published(rng, tmp_path):
    tree, _, _ = publishers.pascal_context(rng)
    root = publishers.write(tree, tmp_path / "in", "archive")
    names = prepare("pascal_context", root, tmp_path, **BOTH).classes.names
    assert names[:7] == ("background", "aeroplane", "bag", "bed", "bedcloth", "bench", "bicycle")
    assert len(names) == 60


def test_labels_of_voc_keep_their_bytes(rng, tmp_path):
    tree, _, _ = publishers.pascal_voc_aug(rng)
    files = tree["VOCtrainval_11-May-2012.tar"]
    dataset = prepare("pascal_voc_aug", publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    for example in dataset.source("val"):
        assert example["label"] == files[f"VOCdevkit/VOC2012/SegmentationClass/{example['name']}.png"]


@pytest.mark.parametrize("form", ["not declared", "decomposed"])
def test_names_as_macos_writes_them(rng, tmp_path, form):
    """Zips from macOS contain UTF-8 without declaring it, or letters separated from their accents."""
    tree, truth = publishers.cityscapes(rng)
    if form == "decomposed":
        fine = tree["gtFine_trainvaltest.zip"]
        tree["gtFine_trainvaltest.zip"] = {
            unicodedata.normalize("NFD", path): content for path, content in fine.items()
        }
    root = publishers.write(tree, tmp_path / "in", "archive")
    path = root / "leftImg8bit_trainvaltest.zip"
    if form == "not declared":
        content = path.read_bytes()
        assert b"PK\x01\x02\x14\x03\x14\x00\x00\x08" in content
        for start in (b"PK\x03\x04\x14\x00", b"PK\x01\x02\x14\x03\x14\x00"):
            content = content.replace(start + b"\x00\x08", start + b"\x00\x00")
        path.write_bytes(content)
    names = {name for _, name in read("cityscapes", root, tmp_path)}
    assert names == set(truth)
    assert any("zürich (alt)" in name for name in names)


def test_ade20k_real_pairs(ade20k_sample, tmp_path):
    for folder in ("training", "validation"):
        for kind in ("images", "annotations"):
            folder_path = tmp_path / "in" / "ADEChallengeData2016" / kind / folder
            folder_path.mkdir(parents=True)
            for path in (ade20k_sample / kind).iterdir():
                (folder_path / path.name).write_bytes(path.read_bytes())
    found = read("ade20k", tmp_path / "in", tmp_path)
    assert len(found) == 6
    for (_, name), (_, label) in found.items():
        original = np.array(Image.open(ade20k_sample / "annotations" / f"{name}.png")).astype(int)
        np.testing.assert_array_equal(label, np.where(original == 0, 255, original - 1))


def test_prepared_data_need_no_sources(rng, tmp_path, monkeypatch):
    monkeypatch.setitem(published.PUBLISHED["coco_stuff10k"], "counts", {"train": 3, "val": 2})
    root = tmp_path / "data" / "downloads" / "manual"
    publishers.write(publishers.coco_stuff10k(rng)[0], root, "archive")
    first = open_dataset("coco_stuff10k", data_dir=tmp_path / "data")
    (root / "cocostuff-10k-v1.1.zip").unlink()
    again = open_dataset("coco_stuff10k", data_dir=tmp_path / "data")
    assert list(first.source("val")) == list(again.source("val"))


def test_the_description_names_licence_and_citation(rng, tmp_path):
    dataset = prepare(
        "ade20k", publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive"), tmp_path
    )
    info = tfds.builder_from_directory(pathlib.Path(dataset.directory)).info
    assert "Zhou" in info.citation
    assert info.homepage == "http://sceneparsing.csail.mit.edu"
    assert "BSD" in info.redistribution_info.license
    assert info.metadata["names"][:3] == ["wall", "building", "sky"]
