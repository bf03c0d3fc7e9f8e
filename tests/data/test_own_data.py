"""Tests that a user's own data from many tools are read correctly, with assumptions reported, or refused."""

import json
import os
import pathlib
import unicodedata

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.decode import decode_label
from danet_jax.recipe import read_recipe
from tests.reference.own_data import CLASSES
from tests.reference.refusal import refused

BLACK_AND_WHITE = "id,name,red,green,blue\n0,ground,0,0,0\n1,thing,255,255,255\n"


def test_segmentation_masks_of_cvat(own):
    """The layout is "Segmentation mask 1.1" from CVAT's documentation."""
    for name in ("a", "b", "c"):
        own.image(f"JPEGImages/{name}.png")
        own.label(f"SegmentationObject/{name}.png", form="rgb")
        own.label(f"SegmentationClass/{name}.png", form="rgb")
    own.write("ImageSets/Segmentation/train.txt", "a\nc\n")
    own.write("ImageSets/Segmentation/val.txt", "b\n")
    own.write(
        "labelmap.txt",
        "# label:color_rgb:parts:actions\nground:0,0,0::\nroad:128,64,0::\ntree:0,200,30::\n",
    )
    dataset = own.open()
    assert dataset.classes.names == ("ground", "road", "tree")
    own.check(dataset, {"train": ["a", "c"], "val": ["b"]})


def test_label_maps_of_labelme(own):
    """Like labelme2voc.py, this writes palette PNGs with 255 for unlabelled pixels, and no lists of splits."""
    for index in range(10):
        own.image(f"JPEGImages/n{index}.png")
        own.label(f"SegmentationClass/n{index}.png", form="voc", values=(0, 1, 2, 255))
        own.write(f"SegmentationClassNpy/n{index}.npy", b"")
    own.write("class_names.txt", "_background_\nroad\ntree\n")
    with refused(what=own.root):
        own.open()
    dataset = own.open(validation=0.2)
    assert dict(dataset.splits) == {"train": 8, "val": 2}
    names = {split: sorted(e["name"] for e in dataset.source(split)) for split in dataset.splits}
    assert sorted(names["train"] + names["val"]) == [f"n{index}" for index in range(10)]
    own.check(dataset, names)
    assert [e["name"] for e in own.open(validation=0.2).source("val")] == names["val"]
    others = {
        tuple(e["name"] for e in own.open(validation=0.2, split_seed=s).source("val")) for s in range(5)
    }
    assert len(others) > 1


def test_masks_of_ultralytics(own):
    for split, name in (("train", "a"), ("val", "b")):
        own.image(f"images/{split}/{name}.png")
        own.label(f"masks/{split}/{name}.png")
    own.image("images/test/t.png")
    own.write(
        "data.yaml",
        "path: ../elsewhere\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n"
        "  0: ground\n  1: road\n  2: tree\n",
    )
    for root in (own.root, own.root / "data.yaml"):
        dataset = own.open(root)
        assert dataset.classes.names == ("ground", "road", "tree")
        own.check(dataset, {"train": ["a"], "val": ["b"], "test": ["t"]})
    (own.root / "masks").rename(own.root / "gt")
    with refused(what=own.root / "masks/train"):
        own.open()
    own.check(own.open(masks_dir="gt"), {"train": ["a"], "val": ["b"], "test": ["t"]})


@pytest.mark.parametrize("line", ["{}", "{}.png", "images/{}.png", "images/{}.png labels/{}.png"])
def test_split_lists(own, line):
    for name in ("a", "b c", "d"):
        own.image(f"images/{name}.png")
        own.label(f"labels/{name}.png")
    own.write("classes.csv", CLASSES)
    own.write("train.txt", "".join(line.replace("{}", name) + "\n" for name in ("d", "a")))
    own.write("val.txt", line.replace("{}", "b c"))
    own.check(own.open(), {"train": ["a", "d"], "val": ["b c"]})
    own.write("val.txt", "B c\n")
    with refused(what=own.root / "val.txt", value="B c"):
        own.open()


def test_ids_that_begin_with_one(own):
    own.standard()
    for name, split in (("a", "train"), ("b", "val")):
        stored = own.label(f"labels/{split}/{name}.png", values=(0, 1, 2, 3, 200))
        own.labels[name] = np.where((stored == 0) | (stored == 200), 255, stored - 1).astype(np.uint8)
    own.check(label_offset=1, ignore_label=200)
    with refused(what=own.root / "labels/train/a.png", value=200):
        own.open(label_offset=1)
    with refused(what="dataset.options.ignore_label", value=1):
        own.open(ignore_label=1)


@pytest.mark.parametrize("content", ["id,name\n0,ground\n1,thing\n", BLACK_AND_WHITE])
def test_masks_of_0_and_255_are_refused_until_an_option_says_what_255_means(own, content):
    own.standard(values=(0, 255))
    own.write("classes.csv", content)
    with refused(what="folder") as error:
        own.open()
    for option in ("labels=colours", "labels=ids"):
        assert f"dataset.options.{option}" in str(error.value)
    assert len(own.check(labels="ids").warnings()) == 2
    for label in own.labels.values():
        label[label == 255] = 1
    assert own.check(labels="colours").warnings() == []


def test_a_split_of_one_class_and_classes_that_train_lacks(own):
    own.standard(values=(0, 1))
    own.label("labels/val/b.png", values=(2, 255))
    one, unseen = own.open().warnings()
    assert one.startswith("val: 'tree'")
    assert unseen.startswith("val: 1 of its classes")


def test_a_validation_split_in_which_all_pixels_are_ignored(own):
    own.standard()
    own.label("labels/val/b.png", values=(255,))
    assert any(line.startswith("val: all 1 labels are 255 (ignored)") for line in own.open().warnings())


def test_hidden_folders_are_skipped_and_links_followed(own):
    own.standard()
    for part in ("images", "labels"):
        for hidden in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
            own.write(f"{part}/train/{hidden}/a-checkpoint.png", b"not an image")
        own.write(f"{part}/@eaDir/x.png", b"")
    own.image("elsewhere/images/deep/c.png")
    own.label("elsewhere/labels/deep/c.png")
    for part in ("images", "labels"):
        (own.root / part / "train/linked").symlink_to(own.root / "elsewhere" / part)
    own.check(splits={"train": ["a", "linked/deep/c"], "val": ["b"]})
    (own.root / "elsewhere/images/deep/round").symlink_to(own.root / "elsewhere/images")
    with refused(what=own.root / "images/train/linked/deep/round"):
        own.open()
    (own.root / "elsewhere/images/deep/round").unlink()
    (own.root / "images/val/gone.png").symlink_to(own.root / "nothing")
    with refused(what=own.root / "images/val/gone.png"):
        own.open()


def test_labels_called_mask(own):
    own.standard()
    (own.root / "labels").rename(own.root / "masks")
    for path in ("train/a", "val/b"):
        (own.root / f"masks/{path}.png").rename(own.root / f"masks/{path}_mask.png")
    own.check()


def test_names_composed_and_decomposed(own):
    own.standard(names=("allée", "b"))
    for part, form in (("images", "NFC"), ("labels", "NFD")):
        path = own.root / part / "train/allée.png"
        path.rename(path.with_name(unicodedata.normalize(form, "allée.png")))
    own.check(splits={"train": ["allée"], "val": ["b"]})


def test_root_is_never_written_to(own):
    own.standard()
    before = {path: path.stat().st_mtime_ns for path in [own.root, *own.root.rglob("*")]}
    own.open()
    os.chmod(own.root, 0o555)
    own.open()
    assert {path: path.stat().st_mtime_ns for path in [own.root, *own.root.rglob("*")]} == before


def test_prepared_data_describe_themselves(own):
    own.standard()
    dataset = own.open()
    metadata = json.loads((pathlib.Path(dataset.directory) / "metadata.json").read_text())
    assert sum(shard["summary"]["examples"] for shard in metadata["shards"].values()) == 2
    counts = np.bincount(own.labels["a"].ravel(), minlength=256)
    np.testing.assert_array_equal(dataset.summaries["train"].pixels, counts)


@pytest.mark.parametrize(
    ("name", "value"),
    [("labels", "colour"), ("bits", 4), ("validation", 0.5), ("masks_dir", "gt"), ("unlabelled", "ignore")],
)
def test_invalid_options_are_refused(own, name, value):
    own.standard()
    with refused(what=f"dataset.options.{name}", value=value):
        own.open(**{name: value})


def test_images_without_labels_and_without_compression(own):
    own.standard(values=(0, 1, 2, 255))
    own.image("images/test/t.png")
    splits = {"train": ["a"], "val": ["b"], "test": ["t"]}
    compressed, plain = (own.check(splits=splits, uncompressed=option) for option in (False, True))
    assert plain.directory != compressed.directory
    assert plain.source("train")[0]["image"].startswith(b"BM")
    assert compressed.source("test")[0]["label"] is plain.source("test")[0]["label"] is None


YAML = "train: images/train\nval: images/val\nmasks_dir: labels\n"


@pytest.mark.parametrize(
    "content",
    [
        "names: {0: a, x: b}\n",
        "names: [no, b, c]\n",
        "names: [a, b, c]\nnc: 7\n",
        "names: [a, b, c]\nnames: [x, y, z]\n",
        "names: " + "[" * 600,
        "names: [a, b, c]\ntest: [images/val, images/val]\n",
        "names: [a, b, c]\ntest: [images, images/val]\n",
        "names: [a, b, c]\ntest: images/none\n",
        "names: 3\n",
    ],
    ids=range(9),
)
def test_invalid_data_yaml_is_refused(own, content):
    own.standard()
    (own.root / "classes.csv").unlink()
    own.write("data.yaml", YAML + content)
    with refused(what=own.root / "data.yaml"):
        own.open()


def test_folders_of_one_split_in_data_yaml(own):
    """Images in different folders may have the same names."""
    own.standard(names=("a", "b"))
    (own.root / "classes.csv").unlink()
    own.write(
        "data.yaml",
        YAML.replace("train: images/train", "train: [images/train, images/val]") + "names: [a, b, c]",
    )
    assert [example["name"] for example in own.open().source("train")] == ["train/a", "val/b"]


@pytest.mark.parametrize(
    ("root", "what"), [(".", "images"), ("own/classes.csv", "own/classes.csv"), ("zipped", "zipped/images")]
)
def test_roots_without_the_expected_folders(own, root, what):
    own.standard()
    above = own.root.parent
    (above / "zipped").mkdir()
    (above / "zipped/all.zip").write_bytes(b"PK")
    with refused(what=above / what):
        own.open(root=above / root)


def test_lists_of_other_programs(own):
    """The lists are in UTF-16, with absolute paths, or with paths through other folders."""
    own.standard()
    own.write("train.txt", "train/a\n".encode("utf-16"))
    own.write("val.txt", f"{own.root}/images/train/a.png\n../own/images/val/b.png\n")
    dataset = own.check(splits={"train": ["train/a"], "val": ["train/a", "val/b"]})
    [line] = dataset.warnings()
    assert line.startswith("val: 1 of 2 images, train/a first, are in train, too")
    own.write("train.txt", "/images/train/a.png /labels/val/b.png\n")
    label = decode_label(own.open().source("train")[0]["label"], "")
    np.testing.assert_array_equal(label, own.labels["b"])


def test_images_of_several_frames_are_reported(own):
    own.standard()
    own.image("images/val/b.png", save_all=True, append_images=[Image.new("RGB", (12, 8))])
    [line] = own.open().warnings()
    assert line.startswith("val: 1 of 1 images, b first, have several frames")


def test_folders_called_training_and_validation(own):
    own.standard()
    for part in ("images", "labels"):
        (own.root / part / "train").rename(own.root / part / "training")
        (own.root / part / "val").rename(own.root / part / "Validation")
    own.check()
    recipe = read_recipe({"dataset": {"train_split": "training", "validation_split": "validation"}})
    assert (recipe.dataset.train_split, recipe.dataset.validation_split) == ("train", "val")
    own.image("images/train/c.png")
    with refused(what=own.root / "images/training"):
        own.open()
