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
from tests.reference.refusal import refused

ROOT = pathlib.Path(__file__).parents[2]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
CLASSES = "id,name,red,green,blue\n0,sky,1,2,3\n1,road,4,5,6\n2,tree,7,8,9\n"


@pytest.fixture
def folder(tmp_path, rng):
    """Returns a folder of five training and two validation pairs with three classes, and various sizes and formats."""
    root = tmp_path / "street"
    kinds = [".png", ".jpg", ".JPEG", ".png", ".jpg"]
    # One palette for all labels, for viewing only.
    palette = rng.integers(0, 256, 768, dtype=np.uint8).tobytes()
    for split, count in (("train", 5), ("val", 2)):
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True)
        for index in range(count):
            size = tuple(rng.integers(8, 20, 2))
            image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            image.save(root / "images" / split / f"f{index}{kinds[index]}")
            values = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
            label = Image.fromarray(values)
            if index % 2:
                label.putpalette(palette)
            label.save(root / "labels" / split / f"f{index}.png")
    (root / "classes.csv").write_text(CLASSES)
    return root


def prepare(root, **options):
    return open_dataset("folder", root=root, data_dir=root.parent / "data", **options)


def prepared_files(root):
    data = root.parent / "data"
    return sorted(path for path in data.rglob("*") if path.name != ".lock") if data.exists() else []


def test_what_is_stored_is_what_was_there(folder, monkeypatch):
    temporary = folder.parent / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    dataset = prepare(folder)
    assert not list(temporary.iterdir())
    assert dict(dataset.splits) == {"train": 5, "val": 2}
    assert dataset.classes.names == ("sky", "road", "tree")
    assert dataset.classes.colours == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    for split in dataset.splits:
        source = dataset.source(split)
        assert [example["name"] for example in source] == [f"f{index}" for index in range(len(source))]
        for example in source:
            (image,) = (folder / "images" / split).glob(example["name"] + ".*")
            assert example["image"] == image.read_bytes()
            values = np.array(Image.open(folder / "labels" / split / f"{example['name']}.png"))
            np.testing.assert_array_equal(decode_label(example["label"], ""), values)
            assert Image.open(io.BytesIO(example["label"])).mode == "L"  # Palettes are not stored.
    # The prepared directory is self-describing, so TFDS alone reads the same data.
    plain = tfds.builder_from_directory(dataset.directory).as_data_source("val")
    example = dataset.source("val")[1]
    np.testing.assert_array_equal(plain[1]["image"], decode_image(example["image"], ""))
    np.testing.assert_array_equal(plain[1]["label"][..., 0], decode_label(example["label"], ""))
    assert "tensorflow" not in sys.modules


def test_prepared_once_and_again_when_a_file_changes(folder):
    first = prepare(folder)
    stamp = {path: path.stat().st_mtime_ns for path in prepared_files(folder)}
    assert prepare(folder) == first
    assert {path: path.stat().st_mtime_ns for path in prepared_files(folder)} == stamp

    image = Image.new("RGB", (9, 9), (200, 10, 10))
    image.save(folder / "images/val/f0.png")
    Image.new("L", (9, 9), 2).save(folder / "labels/val/f0.png")
    changed = prepare(folder)
    assert changed.directory != first.directory
    assert decode_image(changed.source("val")[0]["image"], "").shape == (9, 9, 3)
    assert decode_label(changed.source("val")[0]["label"], "").max() == 2

    (folder / "classes.csv").write_text(CLASSES.replace("tree", "bush"))
    assert prepare(folder).directory != changed.directory


def test_lost_shards_are_prepared_again(folder):
    dataset = prepare(folder)
    for path in pathlib.Path(dataset.directory).glob("*val*array_record*"):
        path.unlink()
    assert len(list(prepare(folder).source("val"))) == 2


def test_splits_and_names_are_free(folder):
    (folder / "images/val").rename(folder / "images/night_2")
    (folder / "labels/val").rename(folder / "labels/night_2")
    for part in ("images", "labels"):
        (folder / part / "night_2/rain").mkdir()
        (path,) = (folder / part / "night_2").glob("f1.*")
        path.rename(folder / part / "night_2/rain" / f"f1.v2{path.suffix}")
    (folder / "images/night_2/.DS_Store").write_text("")
    (folder / "images/notes.txt").write_text("")
    dataset = prepare(folder)
    assert dict(dataset.splits) == {"night_2": 2, "train": 5}
    assert [example["name"] for example in dataset.source("night_2")] == ["f0", "rain/f1.v2"]
    with refused(value="val", allowed=("night_2", "train")):
        dataset.source("val")


def test_class_names_from_the_config(folder):
    (folder / "classes.csv").unlink()
    dataset = prepare(folder, class_names=["a", "b", "c"])
    assert dataset.classes.names == ("a", "b", "c")
    (folder / "classes.csv").write_text("\ufeffid, name\n0, sky\n1, road\n2, tree\n", encoding="utf-8")
    assert prepare(folder).classes.names == ("sky", "road", "tree")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def new_label(root, values):
    Image.fromarray(np.asarray(values)).save(root / "labels/train/f1.png")


def like_image(root, value, dtype=np.uint8):
    with Image.open(root / "images/train/f1.jpg") as image:
        return np.full(image.size[::-1], value, dtype)


BROKEN = {
    "no root": (shutil.rmtree, ""),
    "no images": (lambda root: shutil.rmtree(root / "images"), "images"),
    "no labels": (lambda root: shutil.rmtree(root / "labels"), "labels"),
    "no split": (lambda root: [shutil.rmtree(path) for path in (root / "images").iterdir()], "images"),
    "empty split": (lambda root: [path.unlink() for path in (root / "images/val").iterdir()], "images/val"),
    "label split missing": (lambda root: shutil.rmtree(root / "labels/val"), "images/val/f0.png"),
    "image split missing": (lambda root: shutil.rmtree(root / "images/val"), "labels/val"),
    "image without label": (lambda root: (root / "labels/train/f3.png").unlink(), "images/train/f3.png"),
    "label without image": (lambda root: (root / "images/train/f3.png").unlink(), "labels/train/f3.png"),
    "two images of one name": (
        lambda root: shutil.copy(root / "images/train/f1.jpg", root / "images/train/f1.png"),
        "images/train/f1.png",
    ),
    "unreadable kind": (
        lambda root: (root / "images/train/f9.heic").write_bytes(b""),
        "images/train/f9.heic",
    ),
    "strange split name": (
        lambda root: [(root / part / "val").rename(root / part / "my val") for part in ("images", "labels")],
        "images/my val",
    ),
    "sizes differ": (lambda root: new_label(root, np.zeros((3, 5), np.uint8)), "labels/train/f1.png"),
    "strange label value": (lambda root: new_label(root, like_image(root, 7)), "labels/train/f1.png"),
    "colour label": (lambda root: new_label(root, np.zeros((3, 5, 3), np.uint8)), "labels/train/f1.png"),
    "16-bit label": (lambda root: new_label(root, like_image(root, 1, np.uint16)), "labels/train/f1.png"),
    "truncated jpeg": (lambda root: truncate(root / "images/train/f4.jpg"), "images/train/f4.jpg"),
    "truncated png": (lambda root: truncate(root / "images/val/f0.png"), "images/val/f0.png"),
    "truncated label": (lambda root: truncate(root / "labels/train/f4.png"), "labels/train/f4.png"),
    "empty file": (lambda root: (root / "images/train/f0.png").write_bytes(b""), "images/train/f0.png"),
    "no classes": (lambda root: (root / "classes.csv").unlink(), "classes.csv"),
    "empty classes": (lambda root: (root / "classes.csv").write_text("id,name\n"), "classes.csv"),
    "gap in ids": (lambda root: (root / "classes.csv").write_text("id,name\n0,a\n2,b\n"), "classes.csv"),
    "class without name": (
        lambda root: (root / "classes.csv").write_text("id,name\n0,a\n1,\n"),
        "classes.csv",
    ),
    "name twice": (lambda root: (root / "classes.csv").write_text("id,name\n0,a\n1,a\n"), "classes.csv"),
    "colour out of range": (
        lambda root: (root / "classes.csv").write_text("id,name,red,green,blue\n0,a,0,0,256\n"),
        "classes.csv",
    ),
    "colour missing": (
        lambda root: (root / "classes.csv").write_text("id,name,red,green,blue\n0,a,0,0\n"),
        "classes.csv",
    ),
    "a pipe": (lambda root: os.mkfifo(root / "labels/train/9.png"), "labels/train/9.png"),
    "a device": (lambda root: (root / "images/train/9.png").symlink_to("/dev/zero"), "images/train/9.png"),
    "a link to itself": (
        lambda root: (root / "images/train/9.png").symlink_to("9.png"),
        "images/train/9.png",
    ),
    "a name that is not text": (
        lambda root: open(os.fsencode(root / "images/train") + b"/\xff.png", "wb").close(),
        "images/train: '\\udcff.png'",
    ),
    "a line break in a name": (
        lambda root: (root / "images/train/x\ny.png").write_bytes(b""),
        "images/train/x\\ny.png",
    ),
    "an image outside the splits": (
        lambda root: Image.new("RGB", (3, 3)).save(root / "images/7.png"),
        "images/7.png",
    ),
    "EPS": (lambda root: (root / "images/train/f0.png").write_bytes(EPS), "images/train/f0.png"),
    "a label of several frames": (
        lambda root: Image.new("L", (3, 3)).save(
            root / "labels/train/f0.png", save_all=True, append_images=[Image.new("L", (3, 3), 1)]
        ),
        "labels/train/f0.png",
    ),
    "two classes of one colour": (
        lambda root: (
            (root / "classes.csv").write_text(CLASSES.replace("4,5,6", "1,2,3")),
            new_label(root, np.full((*like_image(root, 0).shape, 3), (1, 2, 3), np.uint8)),
        ),
        "labels/train/f1.png",
    ),
    "a list that is not text": (
        lambda root: ((root / "train.txt").write_text("train/f0"), (root / "val.txt").write_bytes(b"\x81")),
        "val.txt",
    ),
    "no table": (lambda root: (root / "classes.csv").write_bytes(b"\xff\xfe\x00"), "classes.csv"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_folders_are_refused_in_one_line_and_leave_nothing(case, folder, capfd):
    break_it, path = BROKEN[case]
    break_it(folder)
    with refused() as error:
        prepare(folder)
    assert str(folder / path) in str(error.value)
    assert prepared_files(folder) == []
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out


def test_a_mended_folder_is_accepted(folder):
    new_label(folder, like_image(folder, 9))
    with refused(what=folder / "labels/train/f1.png", value=9):
        prepare(folder)
    new_label(folder, like_image(folder, 2))
    assert decode_label(prepare(folder).source("train")[1]["label"], "").min() == 2


def test_wrong_arguments(folder, tmp_path):
    with refused(what="dataset.name", value="camvid", allowed=DATASET_NAMES):
        open_dataset("camvid")
    with refused(what="dataset.root"):
        open_dataset("folder", data_dir=tmp_path)
    with refused(what="dataset.options.sizes", value=3):
        prepare(folder, options={"sizes": 3})
    with refused(what="dataset.class_names"):
        prepare(folder, class_names=["a", "a"])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with refused(what=blocked):
        open_dataset("folder", root=folder, data_dir=blocked)


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
    command = [sys.executable, "-c", SLOW_PREPARATION, str(folder), str(folder.parent / "data"), str(seconds)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_killed_preparation_is_not_taken_for_whole(folder):
    process = start_slow(folder, 0.5)
    deadline = time.monotonic() + 60
    while not any("incomplete" in str(path) for path in prepared_files(folder)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not any(path.name == "dataset_info.json" for path in prepared_files(folder))
    dataset = prepare(folder)
    assert len(list(dataset.source("train"))) == 5
    assert not [path for path in prepared_files(folder) if "incomplete" in str(path)]


def test_two_processes_prepare_at_once(folder):
    processes = [start_slow(folder, 0.05) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs == ["{'train': 5, 'val': 2}\n"] * 2


def test_camvid(camvid, tmp_path):
    root = tmp_path / "camvid"
    for part in ("images", "labels"):  # The smaller split takes a quarter of the time.
        (root / part).mkdir(parents=True)
        (root / part / "val").symlink_to(camvid / part / "val")
    shutil.copy(camvid / "classes.csv", root)
    dataset = open_dataset("folder", root=root, data_dir=tmp_path / "data")
    assert dict(dataset.splits) == {"val": 101}
    assert dataset.classes.names[:2] == ("sky", "building")
    assert len(dataset.classes) == 11
    example = dataset.source("val")[50]
    by_pillow = np.array(Image.open(io.BytesIO(example["image"])).convert("RGB"))
    np.testing.assert_array_equal(decode_image(example["image"], ""), by_pillow)
    assert by_pillow.shape == (360, 480, 3)
