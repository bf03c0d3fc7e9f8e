"""Published datasets that are damaged or incomplete: one clear line, and nothing left behind."""

import re
import zipfile

import numpy as np
import pytest

from danet_jax.data.dataset import dataset_builder, open_dataset
from tests.reference import publishers
from tests.reference.refusal import refused


def refuse(name, root, tmp_path, **options):
    """The error of a refused preparation, which has left nothing behind."""
    options = {"allow_partial": True, **options}
    with refused() as caught:
        open_dataset(name, root=root, data_dir=tmp_path / "data", options=options)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    return caught.value


def test_missing_archives_are_named_with_where_to_get_them(rng, tmp_path):
    tree, _ = publishers.cityscapes(rng)
    del tree["gtFine_trainvaltest.zip"]
    root = publishers.write(tree, tmp_path / "in", "archive")
    error = refuse("cityscapes", root, tmp_path)
    assert error.what == str(root)
    for name, missing in {"gtFine_trainvaltest.zip": True, "leftImg8bit_trainvaltest.zip": False}.items():
        assert (name in str(error)) is missing
    assert "https://www.cityscapes-dataset.com/downloads" in str(error)


def test_a_missing_root_is_an_empty_one(tmp_path):
    error = refuse("pascal_voc_aug", tmp_path / "nowhere", tmp_path)
    assert error.what == str(tmp_path / "nowhere")
    for name in ("VOCtrainval_11-May-2012.tar", "benchmark.tgz", "dataset.options.download=True"):
        assert name in str(error)


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("cityscapes", "leftImg8bit_trainvaltest.zip"),
        ("pascal_voc_aug", "VOCtrainval_11-May-2012.tar"),
        ("pascal_voc_aug", "benchmark.tgz"),
        ("pascal_context", "trainval.tar.gz"),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_archive(rng, tmp_path, name, archive, share):
    root = publishers.write(getattr(publishers, name)(rng)[0], tmp_path / "in", "archive")
    content = (root / archive).read_bytes().rstrip(b"\0")  # a tar ends in some KiB of them
    (root / archive).write_bytes(content[: int(share * len(content))])
    assert archive in refuse(name, root, tmp_path).what


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><title>Login</title>", b"\x00" * 2000])
def test_what_is_no_archive(rng, tmp_path, content):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    (root / "ADEChallengeData2016.zip").write_bytes(content)
    assert refuse("ade20k", root, tmp_path).what == str(root / "ADEChallengeData2016.zip")


def test_flipped_bits_in_a_zip(rng, tmp_path):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    path = root / "ADEChallengeData2016.zip"
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("ADEChallengeData2016/images/training/ADE_train_00000002.jpg")
    content = bytearray(path.read_bytes())
    middle = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    content[middle] ^= 0xFF
    path.write_bytes(content)
    assert refuse("ade20k", root, tmp_path).what.endswith("ADE_train_00000002.jpg")


@pytest.mark.parametrize("form", ["archive", "folder"])
@pytest.mark.parametrize(
    ("name", "archive", "path", "missing"),
    [
        (
            "cityscapes",
            "gtFine_trainvaltest.zip",
            r"gtFine/train/.*_gtFine_labelIds.png",
            "_gtFine_labelIds.png",
        ),
        # A label without its image:
        (
            "cityscapes",
            "leftImg8bit_trainvaltest.zip",
            r"leftImg8bit/val/.*_leftImg8bit.png",
            "_labelIds.png",
        ),
        ("pascal_voc_aug", "VOCtrainval_11-May-2012.tar", r".*/SegmentationClass/.*", ".png"),
        ("pascal_voc_aug", "benchmark.tgz", r".*/cls/.*6.mat", ".mat"),
        ("pascal_voc_aug", "benchmark.tgz", r".*/dataset/val.txt", "val.txt"),
        (
            "pascal_context",
            "VOCtrainval_03-May-2010.tar",
            r".*/JPEGImages/2008_000003.jpg",
            "2008_000003.jpg",
        ),
        ("coco_stuff10k", "cocostuff-10k-v1.1.zip", r"annotations/.*", ".mat"),
        ("ade20k", "ADEChallengeData2016.zip", r".*/annotations/validation/.*1.png", "ADE_val_00000001.png"),
    ],
)
def test_missing_file(rng, tmp_path, form, name, archive, path, missing):
    tree = getattr(publishers, name)(rng)[0]
    gone = next(file for file in tree[archive] if re.fullmatch(path, file))
    del tree[archive][gone]
    assert refuse(name, publishers.write(tree, tmp_path / "in", form), tmp_path).what.endswith(missing)


def test_a_list_that_names_an_example_twice(rng, tmp_path):
    tree, lists, _ = publishers.coco_stuff10k(rng)
    files = tree["cocostuff-10k-v1.1.zip"]
    files["imageLists/train.txt"] += lists["train"][1].encode() + b"\n"
    error = refuse("coco_stuff10k", publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    assert error.what.endswith("imageLists/train.txt")
    assert lists["train"][1] in str(error)


def test_an_archive_that_holds_a_file_twice(rng, tmp_path):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    name = "ADEChallengeData2016/annotations/training/ADE_train_00000001.png"
    with zipfile.ZipFile(root / "ADEChallengeData2016.zip", "a") as archive, pytest.warns(match="Duplicate"):
        archive.writestr(name, b"another")
    error = refuse("ade20k", root, tmp_path)
    assert error.what == str(root / "ADEChallengeData2016.zip")
    assert name in str(error)


VOC, SBD = "VOCtrainval_11-May-2012.tar", "benchmark.tgz"
FULL = {
    size: np.full(size, 1, np.uint8) for size in ((12, 24), (12, 23), (10, 14), (14, 10), (16, 24), (9, 9))
}


@pytest.mark.parametrize(
    ("name", "archive", "pattern", "content", "value"),
    [
        (
            *("cityscapes", "gtFine_trainvaltest.zip", "gtFine/train/.*labelIds.png"),
            *(publishers.encoded(34 * FULL[12, 24]), 34),
        ),
        (
            *("cityscapes", "gtFine_trainvaltest.zip", "gtFine/train/.*labelIds.png"),
            *(publishers.encoded(0 * FULL[12, 23]), (12, 23)),
        ),
        ("pascal_voc_aug", VOC, ".*SegmentationClass/.*1.png", publishers.palette_png(21 * FULL[10, 14]), 21),
        (
            "pascal_voc_aug",
            SBD,
            ".*/cls/.*6.mat",
            publishers.mat(GTcls={"Segmentation": 254 * FULL[14, 10]}),
            254,
        ),
        (
            "pascal_voc_aug",
            SBD,
            ".*/cls/.*6.mat",
            publishers.mat(GTinst={"Segmentation": FULL[14, 10]}),
            None,
        ),
        (
            *("pascal_context", "trainval.tar.gz", ".*2008_000002.mat"),
            *(publishers.mat(LabelMap=np.full((20, 30), 460, np.uint16)), 460),
        ),
        (
            *("pascal_context", "trainval.tar.gz", ".*2008_000002.mat"),
            *(publishers.mat(LabelMap=np.zeros((20, 30), np.uint16))[:150], None),
        ),
        (
            "coco_stuff10k",
            "cocostuff-10k-v1.1.zip",
            "annotations/.*",
            publishers.mat(S=91 * FULL[16, 24]),
            91,
        ),
        ("coco_stuff10k", "cocostuff-10k-v1.1.zip", "images/.*", b"\xff\xd8\xff\xe0 no image", None),
        (
            *("ade20k", "ADEChallengeData2016.zip", ".*/annotations/training/.*"),
            *(publishers.encoded(151 * FULL[9, 9]), 151),
        ),
    ],
)
def test_bad_file(rng, tmp_path, name, archive, pattern, content, value):
    tree = getattr(publishers, name)(rng)[0]
    bad = next(file for file in tree[archive] if re.fullmatch(pattern, file))
    tree[archive][bad] = content
    error = refuse(name, publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    assert bad in str(error)
    if value is not None:
        assert error.value == value


def test_another_numbering_of_the_459_categories(rng, tmp_path):
    tree, _, _ = publishers.pascal_context(rng)
    tree["trainval.tar.gz"]["labels.txt"] = b"1: accordion\n2: air conditioner\n3: aeroplane\n"
    error = refuse("pascal_context", publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    assert error.what.endswith("labels.txt")
    assert "aeroplane" in str(error)


def test_fewer_examples_than_published(rng, tmp_path):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    error = refuse("ade20k", root, tmp_path, allow_partial=False)
    assert (error.what, error.value, error.allowed) == (str(root), 4, 20210)
    assert "allow_partial=True" in str(error)


def test_unknown_options_and_class_names(tmp_path):
    error = refuse("cityscapes", tmp_path, tmp_path, curse=True)
    assert error.what == "dataset.options.curse"
    assert error.allowed == ("coarse", "download", "allow_partial", "uncompressed")
    with refused(what="dataset.options.coarse", value=1):
        open_dataset("cityscapes", data_dir=tmp_path, options={"coarse": 1})
    with refused(what="dataset.class_names"):
        open_dataset("ade20k", data_dir=tmp_path, class_names=("a",))


def test_source_report_says_what_is_there(rng, tmp_path):
    tree, _ = publishers.cityscapes(rng)
    del tree["leftImg8bit_trainvaltest.zip"]
    root = publishers.write(tree, tmp_path / "in", "folder")
    report = dataset_builder("cityscapes", root=root, data_dir=tmp_path / "data").source_report()
    assert "missing; from https://" in report[0]
    assert f"found {root / 'gtFine'}" in report[1]
