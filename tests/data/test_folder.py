"""Tests a user's own folder: the stored data, when they are prepared again, and the folders that are refused."""

import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from danet_jax.data.dataset import DATASET_NAMES, open_dataset
from danet_jax.data.decode import decode_image, decode_label
from tests.reference.own_data import CLASSES, COLOURS
from tests.reference.refusal import refused

ROOT = pathlib.Path(__file__).parents[2]
SUFFIXES = [".png", ".jpg", ".JPEG", ".png", ".jpg"]


@pytest.fixture
def folder(own):
    """Returns a folder of five training and two validation pairs with three classes, and various sizes and formats."""
    for split, count in (("train", 5), ("val", 2)):
        for index in range(count):
            size = tuple(own.rng.integers(8, 20, 2))
            own.image(f"images/{split}/f{index}{SUFFIXES[index]}", size)
            form = "voc" if index % 2 else "ids"  # The palette is for viewing only.
            own.label(f"labels/{split}/f{index}.png", size, form, (0, 1, 2, 255))
    own.write("classes.csv", CLASSES)
    return own


def prepared_files(folder):
    return sorted(path for path in (folder.root.parent / "data").rglob("*") if path.name != ".lock")


def test_examples_are_stored_as_they_are(folder, monkeypatch):
    temporary = folder.root.parent / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    dataset = folder.open()
    assert not list(temporary.iterdir())
    assert dict(dataset.splits) == {"train": 5, "val": 2}
    assert dataset.classes.names == ("ground", "road", "tree")
    assert list(dataset.classes.colours) == COLOURS
    for split in dataset.splits:
        source = dataset.source(split)
        assert [example["name"] for example in source] == [f"f{index}" for index in range(len(source))]
        for example in source:
            (image,) = (folder.root / "images" / split).glob(example["name"] + ".*")
            assert example["image"] == image.read_bytes()
            values = np.array(Image.open(folder.root / "labels" / split / f"{example['name']}.png"))
            np.testing.assert_array_equal(decode_label(example["label"], ""), values)
            assert Image.open(io.BytesIO(example["label"])).mode == "L"  # Palettes are not stored.
    # The prepared directory is self-describing, so TFDS alone reads the same data.
    plain = tfds.builder_from_directory(dataset.directory).as_data_source("val")
    example = dataset.source("val")[1]
    np.testing.assert_array_equal(plain[1]["image"], decode_image(example["image"], ""))
    np.testing.assert_array_equal(plain[1]["label"][..., 0], decode_label(example["label"], ""))
    assert "tensorflow" not in sys.modules


def test_prepared_once_and_again_when_a_file_changes(folder):
    first = folder.open()
    stamp = {path: path.stat().st_mtime_ns for path in prepared_files(folder)}
    assert folder.open() == first
    assert {path: path.stat().st_mtime_ns for path in prepared_files(folder)} == stamp

    folder.image("images/val/f0.png", (9, 9))
    folder.label("labels/val/f0.png", (9, 9), values=(2,))
    changed = folder.open()
    assert changed.directory != first.directory
    assert decode_image(changed.source("val")[0]["image"], "").shape == (9, 9, 3)
    assert decode_label(changed.source("val")[0]["label"], "").min() == 2

    folder.write("classes.csv", CLASSES.replace("tree", "bush"))
    assert folder.open().directory != changed.directory


def test_lost_shards_are_prepared_again(folder):
    for path in pathlib.Path(folder.open().directory).glob("*val*array_record*"):
        path.unlink()
    assert len(list(folder.open().source("val"))) == 2


def test_names_of_splits_and_images_are_free(folder):
    for part in ("images", "labels"):
        split = folder.root / part / "night_2"
        (folder.root / part / "val").rename(split)
        (split / "rain").mkdir()
        (path,) = split.glob("f1.*")
        path.rename(split / "rain" / f"f1.v2{path.suffix}")
    folder.write("images/night_2/.DS_Store", "")
    folder.write("images/notes.txt", "")
    dataset = folder.open()
    assert dict(dataset.splits) == {"night_2": 2, "train": 5}
    assert [example["name"] for example in dataset.source("night_2")] == ["f0", "rain/f1.v2"]
    with refused(value="val", allowed=("night_2", "train")):
        dataset.source("val")


def test_class_names_from_the_config(folder):
    (folder.root / "classes.csv").unlink()
    assert folder.open(class_names=["a", "b", "c"]).classes.names == ("a", "b", "c")
    folder.write("classes.csv", "\ufeffid, name\n0, sky\n1, road\n2, tree\n")
    assert folder.open().classes.names == ("sky", "road", "tree")


def remove(*patterns):
    def act(root):
        for path in [path for pattern in patterns for path in root.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def write(path, content=b""):
    return lambda root: (root / path).write_bytes(content)


def truncate(path):
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:-40])


def link(path, target):
    return lambda root: (root / path).symlink_to(target)


def relabel(*shape, value=0, dtype=np.uint8):
    """Replaces the label of f1 by a constant one, of its image's size if no `shape` is given."""

    def act(root):
        with Image.open(root / "images/train/f1.jpg") as image:
            label = np.full(shape or image.size[::-1], value, dtype)
        Image.fromarray(label).save(root / "labels/train/f1.png")

    return act


def several_frames(root):
    frames = [Image.new("L", (3, 3), value) for value in (0, 1)]
    frames[0].save(root / "labels/train/f0.png", save_all=True, append_images=frames[1:])


def two_classes_of_one_colour(root):
    (root / "classes.csv").write_text(CLASSES.replace("128,64,0", "0,0,0"))
    relabel(9, 9, 3)(root)


def text_and_binary_lists(root):
    (root / "train.txt").write_text("train/f0")
    (root / "val.txt").write_bytes(b"\x81")


def rename_split(root):
    for part in ("images", "labels"):
        (root / part / "val").rename(root / part / "my val")


INVALID = {
    "no root": (shutil.rmtree, ""),
    "no images": (remove("images"), "images"),
    "no labels": (remove("labels"), "labels"),
    "no split": (remove("images/*"), "images"),
    "empty split": (remove("images/val/*"), "images/val"),
    "label split missing": (remove("labels/val"), "images/val/f0.png"),
    "image split missing": (remove("images/val"), "labels/val"),
    "image without label": (remove("labels/train/f3.png"), "images/train/f3.png"),
    "label without image": (remove("images/train/f3.png"), "labels/train/f3.png"),
    "two images of one name": (write("images/train/f1.png"), "images/train/f1.png"),
    "unreadable kind": (write("images/train/f9.heic"), "images/train/f9.heic"),
    "name of a split": (rename_split, "images/my val"),
    "sizes differ": (relabel(3, 5), "labels/train/f1.png"),
    "unknown label value": (relabel(value=7), "labels/train/f1.png"),
    "colour label": (relabel(3, 5, 3, value=1), "labels/train/f1.png"),
    "16-bit label": (relabel(value=1, dtype=np.uint16), "labels/train/f1.png"),
    "truncated jpeg": (truncate("images/train/f4.jpg"), "images/train/f4.jpg"),
    "truncated png": (truncate("images/val/f0.png"), "images/val/f0.png"),
    "truncated label": (truncate("labels/train/f4.png"), "labels/train/f4.png"),
    "empty file": (write("images/train/f0.png"), "images/train/f0.png"),
    "no classes": (remove("classes.csv"), "classes.csv"),
    "a pipe": (lambda root: os.mkfifo(root / "labels/train/9.png"), "labels/train/9.png"),
    "a device": (link("images/train/9.png", "/dev/zero"), "images/train/9.png"),
    "a link to itself": (link("images/train/9.png", "9.png"), "images/train/9.png"),
    "a name that is not text": (write(os.fsdecode(b"images/train/\xff.png")), "images/train"),
    "a line break in a name": (write("images/train/x\ny.png"), "images/train/x\\ny.png"),
    "an image outside the splits": (write("images/7.png"), "images/7.png"),
    "EPS": (write("images/train/f0.png", b"%!PS-Adobe-3.0 EPSF-3.0\n"), "images/train/f0.png"),
    "a label of several frames": (several_frames, "labels/train/f0.png"),
    "two classes of one colour": (two_classes_of_one_colour, "labels/train/f1.png"),
    "a list that is not text": (text_and_binary_lists, "val.txt"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_folders_are_refused_in_one_line_and_leave_nothing(case, folder, capfd):
    make_invalid, path = INVALID[case]
    make_invalid(folder.root)
    with refused() as error:
        folder.open()
    assert str(folder.root / path) in str(error.value)
    assert prepared_files(folder) == []
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out


def test_a_corrected_folder_is_accepted(folder):
    relabel(value=9)(folder.root)
    with refused(what=folder.root / "labels/train/f1.png", value=9):
        folder.open()
    relabel(value=2)(folder.root)
    assert decode_label(folder.open().source("train")[1]["label"], "").min() == 2


def test_invalid_arguments_are_refused(folder, tmp_path):
    with refused(what="dataset.name", value="camvid", allowed=DATASET_NAMES):
        open_dataset("camvid")
    with refused(what="dataset.root"):
        open_dataset("folder", data_dir=tmp_path)
    with refused(what="dataset.options.sizes", value=3):
        folder.open(sizes=3)
    with refused(what="dataset.class_names"):
        folder.open(class_names=["a", "a"])
    (tmp_path / "file").write_text("")
    with refused(what=tmp_path / "file"):
        folder.open(data="file")


SLOW_PREPARATION = textwrap.dedent(
    """
    import sys, time
    from danet_jax.data import decode
    from danet_jax.data.dataset import open_dataset

    plain = decode.decode_label
    decode.decode_label = lambda *arguments: (time.sleep(float(sys.argv[3])), plain(*arguments))[1]
    dataset = open_dataset("folder", root=sys.argv[1], data_dir=sys.argv[2])
    print(dict(dataset.splits))
    """
)


def start_slow(folder, seconds):
    command = [
        sys.executable,
        "-c",
        SLOW_PREPARATION,
        str(folder.root),
        str(folder.root.parent / "data"),
        str(seconds),
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_killed_preparation_is_not_taken_for_a_complete_one(folder):
    process = start_slow(folder, 0.5)
    deadline = time.monotonic() + 60
    while not any("incomplete" in str(path) for path in prepared_files(folder)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not any(path.name == "dataset_info.json" for path in prepared_files(folder))
    assert len(list(folder.open().source("train"))) == 5
    assert not [path for path in prepared_files(folder) if "incomplete" in str(path)]


def test_two_processes_prepare_at_once(folder):
    processes = [start_slow(folder, 0.05) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs == ["{'train': 5, 'val': 2}\n"] * 2
