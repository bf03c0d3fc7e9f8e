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
from tests.reference.own_data import CLASSES, COLOURS, standard
from tests.reference.refusal import refused

BLACK_AND_WHITE = "id,name,red,green,blue\n0,ground,0,0,0\n1,thing,255,255,255\n"


def test_rgb_masks_in_the_colours_of_classes_csv(drawn):
    standard(drawn, form="rgb")
    drawn.check(drawn.open(), {"train": ["a"], "val": ["b"]})


def test_cvat(drawn):
    """The layout is "Segmentation mask 1.1" from CVAT's documentation."""
    for name in ("a", "b", "c"):
        drawn.image(f"JPEGImages/{name}.png")
        drawn.label(f"SegmentationClass/{name}.png", form="rgb")
        drawn.label(f"SegmentationObject/{name}.png", form="rgb")
        drawn.labels[name] = by_colour(drawn.root / f"SegmentationClass/{name}.png")
    drawn.write("ImageSets/Segmentation/train.txt", "a\nc\n")
    drawn.write("ImageSets/Segmentation/val.txt", "b\n")
    drawn.write(
        "labelmap.txt",
        "# label:color_rgb:parts:actions\nground:0,0,0::\nroad:128,64,0::\ntree:0,200,30::\n",
    )
    dataset = drawn.open()
    assert dataset.classes.names == ("ground", "road", "tree")
    drawn.check(dataset, {"train": ["a", "c"], "val": ["b"]})


def by_colour(path):
    pixels = np.array(Image.open(path).convert("RGB"))
    return np.array([[COLOURS.index(tuple(pixel)) for pixel in row] for row in pixels.tolist()], np.uint8)


def test_labelme(drawn):
    """Like labelme2voc.py, this writes palette PNGs with 255 for unlabelled pixels, and no lists of splits."""
    for index in range(10):
        drawn.image(f"JPEGImages/n{index}.png")
        drawn.label(f"SegmentationClass/n{index}.png", form="voc", values=(0, 1, 2, 255))
        drawn.write(f"SegmentationClassNpy/n{index}.npy", b"")
    drawn.write("class_names.txt", "_background_\nroad\ntree\n")
    with refused(what=drawn.root):
        drawn.open()
    dataset = drawn.open(validation=0.2)
    assert dict(dataset.splits) == {"train": 8, "val": 2}
    names = {split: sorted(e["name"] for e in dataset.source(split)) for split in dataset.splits}
    assert sorted(names["train"] + names["val"]) == [f"n{index}" for index in range(10)]
    drawn.check(dataset, names)
    assert [e["name"] for e in drawn.open(validation=0.2).source("val")] == names["val"]
    others = {
        tuple(e["name"] for e in drawn.open(validation=0.2, split_seed=s).source("val")) for s in range(5)
    }
    assert len(others) > 1


def test_ultralytics(drawn):
    for split, name in (("train", "a"), ("val", "b")):
        drawn.image(f"images/{split}/{name}.png")
        drawn.label(f"masks/{split}/{name}.png")
    drawn.image("images/test/t.png")
    drawn.write(
        "data.yaml",
        "path: ../elsewhere\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n"
        "  0: ground\n  1: road\n  2: tree\n",
    )
    for root in (drawn.root, drawn.root / "data.yaml"):
        dataset = drawn.open(root)
        assert dataset.classes.names == ("ground", "road", "tree")
        drawn.check(dataset, {"train": ["a"], "val": ["b"], "test": ["t"]})
    (drawn.root / "masks").rename(drawn.root / "gt")
    with refused(what=drawn.root / "masks/train"):
        drawn.open()
    drawn.check(drawn.open(masks_dir="gt"), {"train": ["a"], "val": ["b"], "test": ["t"]})


@pytest.mark.parametrize("line", ["{}", "{}.png", "images/{}.png", "images/{}.png labels/{}.png"])
def test_split_lists(drawn, line):
    for name in ("a", "b c", "d"):
        drawn.image(f"images/{name}.png")
        drawn.label(f"labels/{name}.png")
    drawn.write("classes.csv", CLASSES)
    drawn.write("train.txt", "".join(line.replace("{}", name) + "\n" for name in ("d", "a")))
    drawn.write("val.txt", line.replace("{}", "b c"))
    drawn.check(drawn.open(), {"train": ["a", "d"], "val": ["b c"]})
    drawn.write("val.txt", "B c\n")
    with refused(what=drawn.root / "val.txt", value="B c"):
        drawn.open()


def test_labels_from_one_with_nothing_below(drawn):
    standard(drawn)
    for name, split in (("a", "train"), ("b", "val")):
        stored = drawn.label(f"labels/{split}/{name}.png", values=(0, 1, 2, 3, 200))
        drawn.labels[name] = np.where((stored == 0) | (stored == 200), 255, stored - 1).astype(np.uint8)
    drawn.check(drawn.open(label_offset=1, ignore_label=200), {"train": ["a"], "val": ["b"]})
    with refused() as error:
        drawn.open(label_offset=1)
    assert "labels/" in str(error.value)
    with refused() as error:
        drawn.open(ignore_label=1)
    assert "dataset.options.ignore_label" in str(error.value)


@pytest.mark.parametrize("content", ["id,name\n0,ground\n1,thing\n", BLACK_AND_WHITE])
def test_masks_of_0_and_255_are_refused_until_an_option_says_what_255_means(drawn, content):
    standard(drawn, values=(0, 255))
    drawn.write("classes.csv", content)
    with refused(what="folder") as error:
        drawn.open()
    for option in ("labels=colours", "labels=ids"):
        assert f"dataset.options.{option}" in str(error.value)
    ignored = drawn.open(labels="ids")
    drawn.check(ignored, {"train": ["a"], "val": ["b"]})
    assert len(ignored.warnings()) == 2
    for label in drawn.labels.values():
        label[label == 255] = 1
    by_colour = drawn.open(labels="colours")
    drawn.check(by_colour, {"train": ["a"], "val": ["b"]})
    assert by_colour.warnings() == []


def test_a_split_of_one_class_and_classes_that_train_lacks(drawn):
    standard(drawn, values=(0, 1))
    drawn.label("labels/val/b.png", values=(2, 255))
    one, unseen = drawn.open().warnings()
    assert one == "val: 'tree' is the only class that occurs in it"
    assert unseen == "val: 1 of its classes never occur in train: tree"


def test_validation_of_nothing_but_ignored(drawn):
    standard(drawn)
    drawn.label("labels/val/b.png", values=(255,))
    assert any(line.startswith("val: all 1 labels are 255 (ignored)") for line in drawn.open().warnings())


def test_hidden_folders_are_skipped_and_links_followed(drawn):
    standard(drawn)
    for part in ("images", "labels"):
        for hidden in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
            drawn.write(f"{part}/train/{hidden}/a-checkpoint.png", b"no picture")
        drawn.write(f"{part}/@eaDir/x.png", b"")
    drawn.image("elsewhere/images/deep/c.png")
    drawn.label("elsewhere/labels/deep/c.png")
    for part in ("images", "labels"):
        (drawn.root / part / "train/linked").symlink_to(drawn.root / "elsewhere" / part)
    drawn.check(drawn.open(), {"train": ["a", "linked/deep/c"], "val": ["b"]})
    (drawn.root / "elsewhere/images/deep/round").symlink_to(drawn.root / "elsewhere/images")
    with refused() as error:
        drawn.open()
    assert "deep/round: " in str(error.value)
    (drawn.root / "elsewhere/images/deep/round").unlink()
    (drawn.root / "images/val/gone.png").symlink_to(drawn.root / "nothing")
    with refused() as error:
        drawn.open()
    assert "images/val/gone.png: " in str(error.value)


def test_labels_called_mask(drawn):
    standard(drawn)
    (drawn.root / "labels").rename(drawn.root / "masks")
    for path in ("train/a", "val/b"):
        (drawn.root / f"masks/{path}.png").rename(drawn.root / f"masks/{path}_mask.png")
    drawn.check(drawn.open(), {"train": ["a"], "val": ["b"]})


def test_pictures_without_labels_only_for_tests(drawn):
    standard(drawn)
    drawn.image("images/test/t.png")
    dataset = drawn.open()
    drawn.check(dataset, {"train": ["a"], "val": ["b"], "test": ["t"]})
    assert dataset.source("test")[0]["label"] is None


def test_names_composed_and_decomposed(drawn):
    standard(drawn, names=("allée", "b"))
    for part, form in (("images", "NFC"), ("labels", "NFD")):
        path = drawn.root / part / "train/allée.png"
        path.rename(path.with_name(unicodedata.normalize(form, "allée.png")))
    drawn.check(drawn.open(), {"train": ["allée"], "val": ["b"]})


def test_root_is_never_written_to(drawn):
    standard(drawn)
    before = {path: path.stat().st_mtime_ns for path in [drawn.root, *drawn.root.rglob("*")]}
    drawn.open()
    os.chmod(drawn.root, 0o555)
    drawn.open()
    assert {path: path.stat().st_mtime_ns for path in [drawn.root, *drawn.root.rglob("*")]} == before


def test_what_is_prepared_describes_itself(drawn):
    standard(drawn)
    dataset = drawn.open()
    metadata = json.loads((pathlib.Path(dataset.directory) / "metadata.json").read_text())
    assert sum(shard["summary"]["examples"] for shard in metadata["shards"].values()) == 2
    counts = np.bincount(drawn.labels["a"].ravel(), minlength=256)
    np.testing.assert_array_equal(dataset.summaries["train"].pixels, counts)


@pytest.mark.parametrize(
    ("name", "value"),
    [("labels", "colour"), ("bits", 4), ("validation", 0.5), ("masks_dir", "gt"), ("unlabelled", "ignore")],
)
def test_options_that_make_no_sense(drawn, name, value):
    standard(drawn)
    with refused(what=f"dataset.options.{name}", value=value):
        drawn.open(**{name: value})


def test_stored_without_compression(drawn):
    standard(drawn, values=(0, 1, 2, 255))
    drawn.image("images/test/t.png")
    plain, large = drawn.open(), drawn.open(uncompressed=True)
    assert large.directory != plain.directory
    assert large.source("train")[0]["image"].startswith(b"BM")
    drawn.check(large, {"train": ["a"], "val": ["b"], "test": ["t"]})


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
        "names: [a, b, c]\ntest: images/none\n",
        "names: 3\n",
    ],
    ids=range(8),
)
def test_data_yaml_that_is_refused(drawn, content):
    standard(drawn)
    (drawn.root / "classes.csv").unlink()
    drawn.write("data.yaml", YAML + content)
    with refused(what=drawn.root / "data.yaml"):
        drawn.open()


def test_folders_of_one_split_in_data_yaml(drawn):
    """Images in different folders may have the same names."""
    standard(drawn, names=("a", "b"))
    (drawn.root / "classes.csv").unlink()
    drawn.write(
        "data.yaml",
        YAML.replace("train: images/train", "train: [images/train, images/val]") + "names: [a, b, c]",
    )
    assert [example["name"] for example in drawn.open().source("train")] == ["train/a", "val/b"]


@pytest.mark.parametrize(
    ("place", "what"), [(".", "images"), ("own/classes.csv", "own/classes.csv"), ("zipped", "zipped/images")]
)
def test_roots_that_are_not_the_folder(drawn, place, what):
    standard(drawn)
    above = drawn.root.parent
    (above / "zipped").mkdir()
    (above / "zipped/all.zip").write_bytes(b"PK")
    with refused(what=above / what):
        drawn.open(root=above / place)


def test_lists_of_other_programs(drawn):
    """The lists are in UTF-16, with absolute paths, or with paths through other folders."""
    standard(drawn)
    drawn.write("train.txt", "train/a\n".encode("utf-16"))
    drawn.write("val.txt", f"{drawn.root}/images/train/a.png\n../own/images/val/b.png\n")
    dataset = drawn.open()
    assert {split: [e["name"] for e in dataset.source(split)] for split in dataset.splits} == {
        "train": ["train/a"],
        "val": ["train/a", "val/b"],
    }
    [line] = dataset.warnings()
    assert line.startswith("val: 1 of 2 images, train/a first, are in train, too")
    drawn.write("train.txt", "/images/train/a.png /labels/val/b.png\n")
    label = decode_label(drawn.open().source("train")[0]["label"], "")
    np.testing.assert_array_equal(label, drawn.labels["b"])


def test_images_of_several_frames_are_reported(drawn):
    standard(drawn)
    drawn.image("images/val/b.png", save_all=True, append_images=[Image.new("RGB", (12, 8))])
    [line] = drawn.open().warnings()
    assert line.startswith("val: 1 of 1 images, b first, have several frames")


def test_folders_called_training_and_validation(drawn):
    standard(drawn)
    for part in ("images", "labels"):
        (drawn.root / part / "train").rename(drawn.root / part / "training")
        (drawn.root / part / "val").rename(drawn.root / part / "Validation")
    drawn.check(drawn.open(), {"train": ["a"], "val": ["b"]})
    recipe = read_recipe({"dataset": {"train_split": "training", "validation_split": "validation"}})
    assert (recipe.dataset.train_split, recipe.dataset.validation_split) == ("train", "val")
    drawn.image("images/train/c.png")
    with refused(what=drawn.root / "images/training"):
        drawn.open()
