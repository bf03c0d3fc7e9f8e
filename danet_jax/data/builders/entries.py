"""Pairs the images of a user's own data set with their labels by name, and reads the lists of splits."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import NamedTuple

from danet_jax.data.builders.shapes import Drawing, read_labelme, read_yolo
from danet_jax.data.files import (
    IMAGE_SUFFIXES,
    USUAL_SPLITS,
    is_stray,
    read_text,
    split_name,
    walk,
)
from danet_jax.errors import InputError

_OTHER_IMAGES = ".gif .heic .heif .jp2 .ppm .pgm .psd .svg .avif .jfif .jpe .jxl .tga"
_OTHER_IMAGES += " .exr .hdr .dng .cr2 .cr3 .nef .arw .raf .orf .rw2"
LABELLED = ("train", "val")
"""Splits whose names begin with one of these must have labels."""

_NO_FILE = "have no label file, which in YOLO's format says that they show none of the classes"
_SHAPE_READERS = {".txt": read_yolo, ".json": read_labelme}
_NOT_LABELS = ("classes", "labels", "notes", "readme")
"""Names of files that tools write next to their labels."""

FilesByName = dict[str, pathlib.Path]
"""Files by their relative path without suffix, which is the name of their example."""


class Entry(NamedTuple):
    """One example.

    Attributes:
      name: The example's name, unique in its split.
      image: The image file; None if it is missing.
      label: The label file; None if it is missing.
      expected: The path, without suffix, where a missing file was expected.
      unlabelled: Whether the example is in a split without labels.
      drawing: Returns the shapes of the label; None if the label consists of pixels.
    """

    name: str
    image: pathlib.Path | None
    label: pathlib.Path | None
    expected: pathlib.Path
    unlabelled: bool = False
    drawing: Callable[[], Drawing] | None = None


Splits = dict[str, list[Entry]]


def pair_folders(split: str, images: pathlib.Path, labels: pathlib.Path) -> list[Entry]:
    """Returns the images of one split with the labels of the same names, in another folder or in the same one.

    Raises:
      InputError: There are no images, or there are files that cannot be used.
    """
    by_name = _files_by_name(images, IMAGE_SUFFIXES)
    if not by_name:
        raise InputError.for_file(images, "contains no images; put JPEG or PNG files there")
    label_by_name = _labels(labels, by_name, beside=labels == images)
    unlabelled = not label_by_name and not split.startswith(LABELLED)
    return [
        Entry(
            name,
            by_name.get(name),
            label_by_name.get(name),
            (labels if name in by_name else images) / name,
            unlabelled,
            _drawing(name, label_by_name),
        )
        for name in sorted(by_name.keys() | label_by_name.keys())
    ]


def read_list(
    split: str, path: pathlib.Path, root: pathlib.Path, images: pathlib.Path, labels: pathlib.Path
) -> list[Entry]:
    """Returns the examples in the list of a split, sorted by name; a line may name the label of an image as well.

    Raises:
      InputError: The list is empty or not text, or a line names no image or a repeated one.
    """
    by_name = _files_by_name(images, IMAGE_SUFFIXES)
    label_by_name = _labels(labels, by_name, beside=labels == images)
    entries: dict[str, Entry] = {}
    for number, line in enumerate(read_text(path, "a list of names").splitlines(), 1):
        if not (line := line.strip()):
            continue
        name, label = _image_and_label(line, root, images, by_name)
        if name in entries:
            raise InputError.for_file(path, f"line {number}: lists {line!r} twice; remove one", value=line)
        if name not in by_name:
            problem = f"{line!r} is not an image in {images} ({_nearest_name(name, by_name)})"
            raise InputError.for_file(path, f"line {number}: {problem}", value=line)
        if label:
            label_by_name[name] = label
        drawing = _drawing(name, label_by_name)
        entries[name] = Entry(name, by_name[name], label_by_name.get(name), labels / name, drawing=drawing)
    if not entries:
        raise InputError.for_file(path, "the list is empty; write the name of one image in each line")
    unlabelled = not split.startswith(LABELLED) and not any(entry.label for entry in entries.values())
    return [entries[name]._replace(unlabelled=unlabelled) for name in sorted(entries)]


def _labels(folder: pathlib.Path, images: FilesByName, *, beside: bool) -> FilesByName:
    """Returns the label files below `folder` by the names of their images: PNG or, if there are none, shapes.

    `photo_mask.png` is the label of `photo`. If labels are next to the images, such files are removed from `images`.
    """
    masks = _files_by_name(folder, (".png",)) if folder.is_dir() and not beside else {}
    pool = images if beside else masks
    for name in [name for name in pool if name.endswith("_mask")]:
        photo = name.removesuffix("_mask")
        if photo in images and photo not in masks and beside == (name in images):
            masks[photo] = pool.pop(name)
    if masks or not folder.is_dir():
        return masks
    for suffix in _SHAPE_READERS:
        files = {_name_below(folder, path): path for path in walk(folder) if path.suffix.lower() == suffix}
        if files.keys() & images.keys():
            return {
                name: path
                for name, path in files.items()
                if name in images or not (beside or name.casefold() in _NOT_LABELS)
            }
    return {}


def _drawing(name: str, labels: FilesByName) -> Callable[[], Drawing] | None:
    """Returns the function that reads the shapes of an image, or None if the labels, all of one kind, are PNG."""
    kind = next(iter(labels.values())).suffix.lower() if labels else ""
    if name in labels and kind in _SHAPE_READERS:
        return functools.partial(_SHAPE_READERS[kind], labels[name])
    # YOLO writes no file for an image that shows none of the classes.
    return functools.partial(Drawing, (), remark=_NO_FILE) if kind == ".txt" else None


def split_in(text: str) -> str:
    """Returns the split in the name of a file or folder, such as `train` in `instances_train2017`."""
    words = map(split_name, re.findall("[a-z]+", text.casefold()))
    return next((word for word in words if word in USUAL_SPLITS), "")


def _files_by_name(folder: pathlib.Path, suffixes: tuple[str, ...]) -> FilesByName:
    """Returns the image files below `folder`; refuses other kinds of images, and two images of the same name."""
    files: FilesByName = {}
    for path in walk(folder):
        suffix = path.suffix.lower()
        if suffix in suffixes:
            name = _name_below(folder, path)
            if name in files:
                raise InputError.for_file(
                    path, f"has the same name as {files[name]}; rename or remove one of them"
                )
            files[name] = path
        elif suffix in (*IMAGE_SUFFIXES, *_OTHER_IMAGES.split()):
            problem = f"only {', '.join(suffixes)} can be used here; convert or remove it"
            raise InputError.for_file(path, problem, value=suffix, allowed=suffixes)
    return files


def is_image(path: pathlib.Path) -> bool:
    """Returns whether a path is an image file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_stray(path.name) and path.is_file()


def compose(name: str) -> str:
    """Returns the name with letters and their accents composed into one character; macOS separates them."""
    return unicodedata.normalize("NFC", name)


def _name_below(folder: pathlib.Path, path: pathlib.Path) -> str:
    return compose(path.relative_to(folder).with_suffix("").as_posix())


def check_split_name(path: pathlib.Path, split: str) -> None:
    """Raises InputError unless `split`, in the name of `path`, is a valid name of a split."""
    if not re.fullmatch(r"\w+", split) or split == "all":
        problem = "the name of a split may contain only letters, digits and _, and must not be 'all'"
        raise InputError.for_file(path, problem, value=split)


def split_lists(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the lists of splits from the first folder that contains any."""
    for folder in ("ImageSets/Segmentation", "ImageSets", "splits", "."):
        prefixes = USUAL_SPLITS if folder == "." else ("",)
        found = [path for path in sorted((root / folder).glob("*.txt")) if not is_stray(path.name)]
        if found := [path for path in found if path.stem.startswith(prefixes)]:
            return found
    return []


def _image_and_label(
    line: str, root: pathlib.Path, images: pathlib.Path, by_name: Mapping[str, pathlib.Path]
) -> tuple[str, pathlib.Path | None]:
    """Returns the name of the image in a line of a list, and its label if the line names that as well."""
    name = _image_name(line, root, images, by_name)
    if name not in by_name:
        for separator in re.finditer(r"[\s,;]+", line):
            first, label = line[: separator.start()], root / line[separator.end() :].lstrip("/")
            if (other := _image_name(first, root, images, by_name)) in by_name and label.is_file():
                return other, label
    return name, None


def _image_name(
    word: str, root: pathlib.Path, images: pathlib.Path, by_name: Mapping[str, pathlib.Path]
) -> str:
    word = compose(word.replace("\\", "/").removeprefix("./"))
    if word.startswith(("/", "..")):
        with contextlib.suppress(ValueError, OSError):  # The path may lead elsewhere.
            word = (root / word).resolve().relative_to(images.resolve()).as_posix()
    word = word.lstrip("/").removeprefix(f"{images.relative_to(root).as_posix()}/")
    suffix = pathlib.PurePosixPath(word).suffix
    return word[: -len(suffix)] if word not in by_name and suffix.lower() in IMAGE_SUFFIXES else word


def _nearest_name(name: str, by_name: Mapping[str, pathlib.Path]) -> str:
    """Describes the image with the most similar name, for a message."""
    last = name.rpartition("/")[2].casefold()
    nearest = (path for other, path in by_name.items() if other.rpartition("/")[2].casefold() == last)
    return next((f"the nearest is {path}" for path in nearest), f"that folder contains {len(by_name)} images")
