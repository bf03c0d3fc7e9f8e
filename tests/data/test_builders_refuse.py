"""Published datasets that are damaged or incomplete: one clear line, and nothing left behind."""

import re
import zipfile

import numpy as np
import pytest

from danet_jax.data.dataset import dataset_builder, open_dataset
from danet_jax.errors import InputError
from tests.reference import publishers


def refuse(name, root, tmp_path, **options):
    """The one line of a refused preparation, which has left nothing behind."""
    options = {"allow_partial": True, **options}
    with pytest.raises(InputError) as caught:
        open_dataset(name, root=root, data_dir=tmp_path / "data", options=options)
    message = str(caught.value)
    assert "\n" not in message
    left = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.name != ".lock"]
    assert not left
    return message


def test_missing_archives_are_named_with_where_to_get_them(rng, tmp_path):
    tree, _ = publishers.cityscapes(rng)
    del tree["gtFine_trainvaltest.zip"]
    root = publishers.write(tree, tmp_path / "in", "archive")
    message = refuse("cityscapes", root, tmp_path)
    assert "gtFine_trainvaltest.zip" in message
    assert "leftImg8bit_trainvaltest.zip" not in message
    assert "https://www.cityscapes-dataset.com/downloads" in message
    assert str(root) in message
    assert "GB" in message


def test_a_missing_root_is_an_empty_one(tmp_path):
    message = refuse("pascal_voc_aug", tmp_path / "nowhere", tmp_path)
    assert "VOCtrainval_11-May-2012.tar" in message
    assert "benchmark.tgz" in message
    assert "dataset.options.download=True" in message


@pytest.mark.parametrize(
    ("name", "make", "archive"),
    [
        ("cityscapes", publishers.cityscapes, "leftImg8bit_trainvaltest.zip"),
        ("pascal_voc_aug", publishers.pascal_voc_aug, "VOCtrainval_11-May-2012.tar"),
        ("pascal_voc_aug", publishers.pascal_voc_aug, "benchmark.tgz"),
        ("pascal_context", publishers.pascal_context, "trainval.tar.gz"),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_archive(rng, tmp_path, name, make, archive, share):
    root = publishers.write(make(rng)[0], tmp_path / "in", "archive")
    content = (root / archive).read_bytes().rstrip(b"\0")  # a tar ends in some KiB of them
    (root / archive).write_bytes(content[: int(share * len(content))])
    message = refuse(name, root, tmp_path)
    assert archive in message
    assert re.search("damaged or cut short|missing", message)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><title>Login</title>", b"\x00" * 2000])
def test_what_is_no_archive(rng, tmp_path, content):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    (root / "ADEChallengeData2016.zip").write_bytes(content)
    message = refuse("ade20k", root, tmp_path)
    assert message.startswith(str(root / "ADEChallengeData2016.zip"))
    assert "download it again" in message


def test_flipped_bits_in_a_zip(rng, tmp_path):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    path = root / "ADEChallengeData2016.zip"
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("ADEChallengeData2016/images/training/ADE_train_00000002.jpg")
    content = bytearray(path.read_bytes())
    middle = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    content[middle] ^= 0xFF
    path.write_bytes(content)
    message = refuse("ade20k", root, tmp_path)
    assert "ADE_train_00000002.jpg: damaged" in message


@pytest.mark.parametrize("form", ["archive", "folder"])
@pytest.mark.parametrize(
    ("name", "make", "archive", "path", "expected"),
    [
        (
            "cityscapes",
            publishers.cityscapes,
            "gtFine_trainvaltest.zip",
            r"gtFine/train/.*_gtFine_labelIds.png",
            "_gtFine_labelIds.png: missing, the label of",
        ),
        (
            "cityscapes",
            publishers.cityscapes,
            "leftImg8bit_trainvaltest.zip",
            r"leftImg8bit/val/.*_leftImg8bit.png",
            "_gtFine_labelIds.png: a label without its image",
        ),
        (
            "pascal_voc_aug",
            publishers.pascal_voc_aug,
            "VOCtrainval_11-May-2012.tar",
            r".*/SegmentationClass/.*",
            ".png: missing, the label of",
        ),
        ("pascal_voc_aug", publishers.pascal_voc_aug, "benchmark.tgz", r".*/cls/.*6.mat", ".mat: missing"),
        (
            "pascal_voc_aug",
            publishers.pascal_voc_aug,
            "benchmark.tgz",
            r".*/dataset/val.txt",
            "val.txt: missing",
        ),
        (
            "pascal_context",
            publishers.pascal_context,
            "VOCtrainval_03-May-2010.tar",
            r".*/JPEGImages/2008_000003.jpg",
            "2008_000003.jpg: missing, the image of",
        ),
        (
            "coco_stuff10k",
            publishers.coco_stuff10k,
            "cocostuff-10k-v1.1.zip",
            r"annotations/.*",
            ".mat: missing, the label of",
        ),
        (
            "ade20k",
            publishers.ade20k,
            "ADEChallengeData2016.zip",
            r".*/annotations/validation/.*1.png",
            "ADE_val_00000001.png: missing, the label of",
        ),
    ],
)
def test_missing_file(rng, tmp_path, form, name, make, archive, path, expected):
    tree = make(rng)[0]
    gone = next(file for file in tree[archive] if re.fullmatch(path, file))
    del tree[archive][gone]
    assert expected in refuse(name, publishers.write(tree, tmp_path / "in", form), tmp_path)


def test_a_list_that_names_an_example_twice(rng, tmp_path):
    tree, lists, _ = publishers.coco_stuff10k(rng)
    files = tree["cocostuff-10k-v1.1.zip"]
    files["imageLists/train.txt"] += lists["train"][1].encode() + b"\n"
    message = refuse("coco_stuff10k", publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    assert f"imageLists/train.txt: lists '{lists['train'][1]}' twice" in message


def test_an_archive_that_holds_a_file_twice(rng, tmp_path):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    name = "ADEChallengeData2016/annotations/training/ADE_train_00000001.png"
    with zipfile.ZipFile(root / "ADEChallengeData2016.zip", "a") as archive, pytest.warns(match="Duplicate"):
        archive.writestr(name, b"another")
    assert f"holds {name} twice" in refuse("ade20k", root, tmp_path)


@pytest.mark.parametrize(
    ("name", "make", "archive", "pattern", "content", "expected"),
    [
        (
            "cityscapes",
            publishers.cityscapes,
            "gtFine_trainvaltest.zip",
            "gtFine/train/.*labelIds.png",
            publishers.encoded(np.full((12, 24), 34, np.uint8)),
            "labelIds.png: label id 34 does not exist",
        ),
        (
            "cityscapes",
            publishers.cityscapes,
            "gtFine_trainvaltest.zip",
            "gtFine/train/.*labelIds.png",
            publishers.encoded(np.zeros((12, 23), np.uint8)),
            "the label is 23x12 but its image",
        ),
        (
            "pascal_voc_aug",
            publishers.pascal_voc_aug,
            "VOCtrainval_11-May-2012.tar",
            ".*SegmentationClass/.*1.png",
            publishers.palette_png(np.full((10, 14), 21, np.uint8)),
            "label value 21 (140 pixels) is neither a class",
        ),
        (
            "pascal_voc_aug",
            publishers.pascal_voc_aug,
            "benchmark.tgz",
            ".*/cls/.*6.mat",
            publishers.mat(GTcls={"Segmentation": np.full((14, 10), 255, np.uint8) - 1}),
            "label id 254 does not exist",
        ),
        (
            "pascal_voc_aug",
            publishers.pascal_voc_aug,
            "benchmark.tgz",
            ".*/cls/.*6.mat",
            publishers.mat(GTinst={"Segmentation": np.zeros((14, 10), np.uint8)}),
            "no GTcls.Segmentation",
        ),
        (
            "pascal_context",
            publishers.pascal_context,
            "trainval.tar.gz",
            ".*2008_000002.mat",
            publishers.mat(LabelMap=np.full((20, 30), 460, np.uint16)),
            "label id 460 does not exist",
        ),
        (
            "pascal_context",
            publishers.pascal_context,
            "trainval.tar.gz",
            ".*2008_000002.mat",
            publishers.mat(LabelMap=np.zeros((20, 30), np.uint16))[:150],
            "2008_000002.mat: cannot be read as this dataset's .mat",
        ),
        (
            "coco_stuff10k",
            publishers.coco_stuff10k,
            "cocostuff-10k-v1.1.zip",
            "annotations/.*",
            publishers.mat(S=np.full((16, 24), 91, np.uint8)),
            "label id 91 does not exist",
        ),
        (
            "coco_stuff10k",
            publishers.coco_stuff10k,
            "cocostuff-10k-v1.1.zip",
            "images/.*",
            b"\xff\xd8\xff\xe0 no picture",
            ".jpg:",
        ),
        (
            "ade20k",
            publishers.ade20k,
            "ADEChallengeData2016.zip",
            ".*/annotations/training/.*",
            publishers.encoded(np.full((9, 9), 151, np.uint8)),
            "label id 151 does not exist",
        ),
    ],
)
def test_bad_file(rng, tmp_path, name, make, archive, pattern, content, expected):
    tree = make(rng)[0]
    bad = next(file for file in tree[archive] if re.fullmatch(pattern, file))
    tree[archive][bad] = content
    message = refuse(name, publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    assert expected in message
    assert bad in message


def test_another_numbering_of_the_459_categories(rng, tmp_path):
    tree, _, _ = publishers.pascal_context(rng)
    tree["trainval.tar.gz"]["labels.txt"] = b"1: accordion\n2: air conditioner\n3: aeroplane\n"
    message = refuse("pascal_context", publishers.write(tree, tmp_path / "in", "archive"), tmp_path)
    assert "labels.txt: category 2 is 'airconditioner' where 'aeroplane' was published" in message


def test_fewer_examples_than_published(rng, tmp_path):
    root = publishers.write(publishers.ade20k(rng)[0], tmp_path / "in", "archive")
    message = refuse("ade20k", root, tmp_path, allow_partial=False)
    assert "4 examples in train where 20210 were published" in message
    assert "allow_partial=True" in message


def test_unknown_options_and_class_names(tmp_path):
    assert "its options are: coarse, download, allow_partial" in refuse(
        "cityscapes", tmp_path, tmp_path, curse=True
    )
    with pytest.raises(InputError, match="must be of type bool"):
        open_dataset("cityscapes", data_dir=tmp_path, options={"coarse": 1})
    with pytest.raises(InputError, match=r"dataset\.class_names"):
        open_dataset("ade20k", data_dir=tmp_path, class_names=("a",))


def test_source_report_says_what_is_there(rng, tmp_path):
    tree, _ = publishers.cityscapes(rng)
    del tree["leftImg8bit_trainvaltest.zip"]
    root = publishers.write(tree, tmp_path / "in", "folder")
    report = dataset_builder("cityscapes", root=root, data_dir=tmp_path / "data").source_report()
    assert "missing; from https://" in report[0]
    assert f"found {root / 'gtFine'}" in report[1]
