"""Tests that damaged or incomplete published data sets give one clear line and leave nothing behind."""

import re
import zipfile

import numpy as np
import pytest

from danet_jax.data.builders import published
from danet_jax.data.dataset import dataset_builder, open_dataset
from tests.reference import publishers
from tests.reference.images import encode
from tests.reference.refusal import refused

VOC, SBD, COCO = "VOCtrainval_11-May-2012.tar", "benchmark.tgz", "cocostuff-10k-v1.1.zip"
ADE, FINE = "ADEChallengeData2016.zip", "gtFine_trainvaltest.zip"


def refuse(name, root, tmp_path, **options):
    """Returns the error of a refused preparation and checks that nothing was left behind."""
    with refused() as caught:
        publishers.prepare(name, root, tmp_path, **options)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    return caught.value


def test_missing_archives_are_named_with_where_to_get_them(rng, tmp_path):
    tree, _ = publishers.cityscapes(rng)
    del tree[FINE]
    root = publishers.write(tree, tmp_path / "in", "archive")
    error = refuse("cityscapes", root, tmp_path)
    assert error.what == str(root)
    assert FINE in str(error)
    assert "https://www.cityscapes-dataset.com/downloads" in str(error)
    assert f"{root}/leftImg8bit_trainvaltest.zip" not in str(error)
    report = dataset_builder("cityscapes", root=root, data_dir=tmp_path / "data").source_report()
    assert f"found {root / 'leftImg8bit_trainvaltest.zip'}" in report[0]
    assert "missing; from https://" in report[1]


def test_a_missing_root_is_refused_like_an_empty_one(tmp_path):
    error = refuse("pascal_voc_aug", tmp_path / "nowhere", tmp_path)
    assert error.what == str(tmp_path / "nowhere")
    for name in (VOC, SBD, "dataset.options.download=True"):
        assert name in str(error)


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("cityscapes", "leftImg8bit_trainvaltest.zip"),
        ("pascal_voc_aug", VOC),
        ("pascal_voc_aug", SBD),
        ("pascal_context", "trainval.tar.gz"),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_archives_are_refused(rng, tmp_path, name, archive, share):
    root = publishers.write(getattr(publishers, name)(rng)[0], tmp_path / "in", "archive")
    content = (root / archive).read_bytes().rstrip(b"\0")  # A tar ends with some KiB of zeros.
    (root / archive).write_bytes(content[: int(share * len(content))])
    assert archive in refuse(name, root, tmp_path).what


@pytest.mark.parametrize("position", [-8, -1])
def test_a_tgz_with_an_incorrect_trailer_is_refused(rng, tmp_path, position):
    root = publishers.write(publishers.pascal_voc_aug(rng)[0], tmp_path / "in", "archive")
    content = bytearray((root / SBD).read_bytes())
    content[position] ^= 1
    (root / SBD).write_bytes(content)
    assert refuse("pascal_voc_aug", root, tmp_path).what == str(root / SBD)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><title>Login</title>", b"\x00" * 2000])
def test_files_that_are_not_archives_are_refused(rng, tmp_path, content):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    (root / ADE).write_bytes(content)
    assert refuse("ade20k", root, tmp_path).what == str(root / ADE)


@pytest.mark.parametrize("part", ["content", "name"])
def test_damaged_data_in_a_zip_are_refused(rng, tmp_path, part):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    with zipfile.ZipFile(root / ADE) as archive:
        info = archive.getinfo("ADEChallengeData2016/images/training/ADE_train_00000002.jpg")
    content = bytearray((root / ADE).read_bytes())
    offset = len(info.filename) + info.compress_size // 2 if part == "content" else 0
    content[info.header_offset + 30 + offset] ^= 0xFF
    (root / ADE).write_bytes(content)
    assert refuse("ade20k", root, tmp_path).what.endswith("ADE_train_00000002.jpg")


@pytest.mark.parametrize("form", ["archive", "folder"])
@pytest.mark.parametrize(
    ("name", "archive", "path", "missing"),
    [
        ("cityscapes", FINE, r"gtFine/train/.*_gtFine_labelIds.png", "_gtFine_labelIds.png"),
        ("pascal_voc_aug", VOC, r".*/SegmentationClass/.*", ".png"),
        ("pascal_voc_aug", SBD, r".*/cls/.*6.mat", ".mat"),
        ("pascal_voc_aug", SBD, r".*/dataset/val.txt", "val.txt"),
        ("pascal_context", "trainval.tar.gz", r"trainval/2008_000003.mat", "2008_000003.mat"),
        ("coco_stuff10k", COCO, r"annotations/.*", ".mat"),
        ("ade20k", ADE, r".*/annotations/validation/.*1.png", "ADE_val_00000001.png"),
    ],
)
def test_missing_files_are_refused(rng, tmp_path, form, name, archive, path, missing):
    tree = getattr(publishers, name)(rng)[0]
    del tree[archive][next(file for file in tree[archive] if re.fullmatch(path, file))]
    assert refuse(name, publishers.write(tree, tmp_path / "in", form), tmp_path).what.endswith(missing)


def test_a_missing_image_is_named_with_its_label(rng, tmp_path, monkeypatch):
    monkeypatch.setitem(published.PUBLISHED["ade20k"], "counts", {"train": 4, "val": 2})
    tree, _ = publishers.ade20k(rng)
    del tree[ADE]["ADEChallengeData2016/images/training/ADE_train_00000003.jpg"]
    root = publishers.write(tree, tmp_path / "in", "folder")
    error = refuse("ade20k", root, tmp_path, allow_partial=False)
    assert error.what == str(root / "ADEChallengeData2016/images/training/ADE_train_00000003.jpg")
    assert str(root / "ADEChallengeData2016/annotations/training/ADE_train_00000003.png") in str(error)


def test_a_list_that_names_an_example_twice_is_refused(rng, tmp_path):
    tree, lists, _ = publishers.coco_stuff10k(rng)
    tree[COCO]["imageLists/train.txt"] += lists["train"][1].encode() + b"\n"
    error = refuse("coco_stuff10k", publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    assert error.what.endswith("imageLists/train.txt")
    assert lists["train"][1] in str(error)


def test_an_archive_that_contains_a_file_twice_is_refused(rng, tmp_path):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    name = "ADEChallengeData2016/annotations/training/ADE_train_00000001.png"
    with zipfile.ZipFile(root / ADE, "a") as archive, pytest.warns(match="Duplicate"):
        archive.writestr(name, b"another")
    error = refuse("ade20k", root, tmp_path)
    assert error.what == str(root / ADE)
    assert name in str(error)


def full(value, height, width, kind=np.uint8):
    return np.full((height, width), value, kind)


LABEL_IDS = "gtFine/train/.*labelIds.png"
CONTEXT = ("pascal_context", "trainval.tar.gz", ".*2008_000002.mat")


@pytest.mark.parametrize(
    ("name", "archive", "pattern", "content", "value"),
    [
        ("cityscapes", FINE, LABEL_IDS, encode(full(34, 12, 24)), 34),
        ("cityscapes", FINE, LABEL_IDS, encode(full(0, 12, 23)), (12, 23)),
        ("pascal_voc_aug", VOC, ".*SegmentationClass/.*1.png", publishers.palette_png(full(21, 10, 14)), 21),
        ("pascal_voc_aug", SBD, ".*6.mat", publishers.mat(GTcls={"Segmentation": full(254, 14, 10)}), 254),
        ("pascal_voc_aug", SBD, ".*6.mat", publishers.mat(GTinst={"Segmentation": full(1, 14, 10)}), None),
        (*CONTEXT, publishers.mat(LabelMap=full(460, 20, 30, np.uint16)), 460),
        (*CONTEXT, publishers.mat(LabelMap=full(0, 20, 30, np.uint16))[:150], None),
        ("coco_stuff10k", COCO, "annotations/.*", publishers.mat(S=full(91, 16, 24)), 91),
        ("coco_stuff10k", COCO, "images/.*", b"\xff\xd8\xff\xe0 no image", None),
        ("ade20k", ADE, ".*/annotations/training/.*", encode(full(151, 9, 9)), 151),
    ],
)
def test_invalid_files_are_refused(rng, tmp_path, name, archive, pattern, content, value):
    tree = getattr(publishers, name)(rng)[0]
    bad = next(file for file in tree[archive] if re.fullmatch(pattern, file))
    tree[archive][bad] = content
    error = refuse(name, publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    assert bad in str(error)
    if value is not None:
        assert error.value == value


def test_another_numbering_of_the_459_categories_is_refused(rng, tmp_path):
    tree, _, _ = publishers.pascal_context(rng)
    tree["trainval.tar.gz"]["labels.txt"] = b"1: accordion\n2: air conditioner\n3: aeroplane\n"
    error = refuse("pascal_context", publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    assert error.what.endswith("labels.txt")
    assert "aeroplane" in str(error)


def test_fewer_examples_than_published_are_refused(rng, tmp_path):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    error = refuse("ade20k", root, tmp_path, allow_partial=False)
    assert (error.what, error.value, error.allowed) == (str(root), 4, 20210)
    assert "allow_partial=True" in str(error)


def test_unknown_options_and_class_names_are_refused(tmp_path):
    error = refuse("cityscapes", tmp_path, tmp_path, curse=True)
    assert error.what == "dataset.options.curse"
    assert error.allowed == ("coarse", "download", "allow_partial", "uncompressed")
    with refused(what="dataset.options.coarse", value=1):
        open_dataset("cityscapes", data_dir=tmp_path, options={"coarse": 1})
    with refused(what="dataset.class_names"):
        open_dataset("ade20k", data_dir=tmp_path, class_names=("a",))
