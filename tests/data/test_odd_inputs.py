"""What people and programs leave in folders, lists and tables: read right, said, or refused in one line."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.dataset import open_dataset
from danet_jax.data.decode import decode_label
from tests.reference.refusal import refused

NAMES = "id,name\n0,a\n1,b\n2,c\n"


class Own:
    """A good data set of own pictures, to be spoilt."""

    def __init__(self, rng, root):
        self.rng, self.root = rng, root
        for split, count in (("train", 3), ("val", 2)):
            for index in range(count):
                self.save(self.picture(3), f"images/{split}/{index}.png")
                self.save(self.picture(1), f"labels/{split}/{index}.png")
        self.write("classes.csv", NAMES)

    def picture(self, channels):
        pixels = self.rng.integers(0, 256 if channels == 3 else 3, (8, 10, channels), dtype=np.uint8)
        return Image.fromarray(pixels.squeeze())

    def save(self, picture, path, **options):
        file = io.BytesIO()
        picture.save(file, "PNG", **options)
        self.write(path, file.getvalue())

    def write(self, path, content):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    def remove(self, path):
        (self.root / path).unlink()

    def listed(self, train, val="train/1\n"):
        self.write("train.txt", train)
        self.write("val.txt", val)

    def open(self, root="", **options):
        return open_dataset(
            "folder", root=self.root / root, data_dir=self.root.parent / "data", options=options
        )


@pytest.fixture
def own(rng, tmp_path):
    return Own(rng, tmp_path / "own")


def animated(own, path):
    own.save(own.picture(1), path, save_all=True, append_images=[own.picture(1)])


def two_classes_of_a_colour(own):
    own.write("classes.csv", "id,name,red,green,blue\n0,a,1,1,1\n1,b,1,1,1\n2,c,2,2,2\n")
    own.save(own.picture(3), "labels/train/0.png")


def a_list_that_is_no_text(own):
    own.listed("train/0")
    own.write("val.txt", b"\x81")


REFUSED = {
    "a pipe": (lambda own: os.mkfifo(own.root / "labels/train/9.png"), "9.png"),
    "a device": (lambda own: (own.root / "images/train/9.png").symlink_to("/dev/zero"), "9.png"),
    "a link to itself": (lambda own: (own.root / "images/train/9.png").symlink_to("9.png"), "9.png"),
    "a name that is no text": (
        lambda own: open(os.fsencode(own.root / "images/train") + b"/\xff.png", "wb").close(),
        "images/train: '\\udcff.png'",
    ),
    "an image beside the splits": (lambda own: own.save(own.picture(3), "images/7.png"), "7.png"),
    "a raw picture": (lambda own: own.write("images/train/z.dng", "x"), "z.dng"),
    "a label of several frames": (lambda own: animated(own, "labels/train/0.png"), "labels/train/0.png"),
    "a line break in a name": (lambda own: own.write("images/train/x\ny.png", "x"), "x\\ny.png"),
    "EPS": (
        lambda own: own.write("images/train/0.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "0.png",
    ),
    "two classes of a colour": (two_classes_of_a_colour, "labels/train/0.png"),
    "no list": (a_list_that_is_no_text, "val.txt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(own, case):
    spoil, named = REFUSED[case]
    spoil(own)
    with refused() as error:
        own.open()
    assert named in str(error.value)
    assert not list((own.root.parent / "data").rglob("*"))


YAML = "train: images/train\nval: images/val\nmasks_dir: labels\n"
REFUSED_YAML = {
    "ids of two kinds": "names: {0: a, x: b}\n",
    "a boolean": "names: [no, b, c]\n",
    "another count": "names: [a, b, c]\nnc: 7\n",
    "a key twice": "names: [a, b, c]\nnames: [x, y, z]\n",
    "too deep": "names: " + "[" * 3000,
    "a folder twice": "names: [a, b, c]\ntest: [images/val, images/val]\n",
    "no such folder": "names: [a, b, c]\ntest: images/none\n",
    "no list": "names: 3\n",
}


@pytest.mark.parametrize("case", REFUSED_YAML)
def test_data_yaml_refused_in_one_line(own, case):
    own.remove("classes.csv")
    own.write("data.yaml", YAML + REFUSED_YAML[case])
    with refused(what=own.root / "data.yaml"):
        own.open()


@pytest.mark.parametrize(
    ("place", "what"), [(".", "images"), ("own/classes.csv", "own/classes.csv"), ("zipped", "zipped/images")]
)
def test_roots_that_are_not_the_folder(own, place, what):
    (own.root.parent / "zipped").mkdir()
    (own.root.parent / "zipped/all.zip").write_bytes(b"PK")
    with refused(what=own.root.parent / what):
        own.open(root=own.root.parent / place)


def test_lists_of_other_programs(own):
    """In UTF-16, with absolute paths, and with those that go round."""
    own.listed(
        "train/0\ntrain/2\n".encode("utf-16"), f"{own.root}/images/train/1.png\n../own/images/val/0.png\n"
    )
    dataset = own.open()
    own.listed("/images/train/0.png /labels/train/0.png\n/images/train/2.png /labels/train/1.png\n")
    label = decode_label(own.open().source("train")[1]["label"], "")
    np.testing.assert_array_equal(label, np.asarray(Image.open(own.root / "labels/train/1.png")))
    assert [e["name"] for e in dataset.source("train")] == ["train/0", "train/2"]
    assert [e["name"] for e in dataset.source("val")] == ["train/1", "val/0"]


def test_colours_in_one_column(own):
    own.remove("classes.csv")
    own.write("Classes.CSV", 'id,name,rgb\n0,a,#0A0b0c\n1,b,"1, 2, 3"\n2,c,(4 5 6)\n')
    assert own.open().classes.colours == ((10, 11, 12), (1, 2, 3), (4, 5, 6))


def test_pictures_that_are_in_train_and_val_are_said(own):
    own.listed("train/0\ntrain/2\n", "val/0\ntrain/2\n")
    [line] = own.open().warnings()
    assert line.startswith("val: 1 of 2 pictures, train/2 first, are in train, too")


def test_pictures_of_several_frames_are_said(own):
    own.save(own.picture(3), "images/val/0.png", save_all=True, append_images=[own.picture(3)])
    [line] = own.open().warnings()
    assert line.startswith("val: 1 of 2 pictures, 0 first, have several frames")


def test_folders_of_one_split_in_data_yaml(own):
    """Their pictures may have the same names."""
    own.remove("classes.csv")
    own.write(
        "data.yaml",
        YAML.replace("train: images/train", "train: [images/train, images/val]") + "names: [a, b, c]",
    )
    names = [example["name"] for example in own.open().source("train")]
    assert names == ["train/0", "train/1", "train/2", "val/0", "val/1"]
