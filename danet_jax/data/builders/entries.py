"""The images of a user's own data set and their labels, by name, and the lists that say which split they are in."""

from __future__ import annotations

import contextlib
import pathlib
import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from danet_jax.data.files import IMAGE_SUFFIXES, is_stray, read_text, walk
from danet_jax.errors import InputError

_OTHER_IMAGES = """.gif .heic .heif .jp2 .ppm .pgm .psd .svg .avif .jfif .jpe .jxl .tga
    .exr .hdr .dng .cr2 .cr3 .nef .arw .raf .orf .rw2"""
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
LABELLED = ("train", "val")
"""A split whose name begins with one of these is useless without labels."""


class Entry(NamedTuple):
    """One example: its name, unique in its split, and its files; None stands for a missing file.

    `expected` is where the missing file was looked for, without its suffix.
    """

    name: str
    image: pathlib.Path | None
    label: pathlib.Path | None
    expected: pathlib.Path
    unlabelled: bool = False


Splits = dict[str, list[Entry]]


def paired(split: str, images: pathlib.Path, labels: pathlib.Path) -> list[Entry]:
    """Returns the images of one split with the labels of the same names.

    Raises:
      InputError: There are no images, or files that cannot be used.
    """
    by_name = files_by_name(images, IMAGE_SUFFIXES)
    if not by_name:
        raise InputError(f"{images}: no images in it; put JPEG or PNG files there", what=str(images))
    label_by_name = files_by_name(labels, (".png",)) if labels.is_dir() else {}
    unlabelled = not label_by_name and not split.startswith(LABELLED)
    return [
        Entry(
            name,
            by_name.get(name),
            label_by_name.get(name),
            (labels if name in by_name else images) / name,
            unlabelled,
        )
        for name in sorted(by_name.keys() | label_by_name.keys())
    ]


def files_by_name(folder: pathlib.Path, suffixes: tuple[str, ...]) -> dict[str, pathlib.Path]:
    """Returns the image files below `folder` by their path from there without suffix.

    Raises:
      InputError: An image has another suffix, or two have one name.
    """
    files: dict[str, pathlib.Path] = {}
    for path in walk(folder):
        suffix = path.suffix.lower()
        if suffix not in suffixes:
            if suffix in IMAGE_SUFFIXES or suffix in _OTHER_IMAGES.split():
                raise InputError(
                    f"{path}: only {', '.join(suffixes)} can be used here; convert or remove it",
                    what=str(path),
                    value=suffix,
                    allowed=suffixes,
                )
            continue
        name = composed(path.relative_to(folder).with_suffix("").as_posix())
        if name in files:
            raise InputError(
                f"{path}: has the same name as {files[name]}; rename or remove one of them", what=str(path)
            )
        files[name] = path
    return files


def is_picture(path: pathlib.Path) -> bool:
    """Returns whether a path is that of an image file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_stray(path.name) and path.is_file()


def composed(name: str) -> str:
    """Returns the name with letters and their accents as one character: macOS separates them."""
    return unicodedata.normalize("NFC", name)


def nearest(root: pathlib.Path) -> str:
    """Returns what is there instead, for a message."""
    for path in sorted(root.iterdir()):
        if path.is_dir() and ((path / "images").is_dir() or (path / "JPEGImages").is_dir()):
            return f"; found {path}: set dataset.root={path}"
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not is_stray(path.name)]
    folders += [f"{path.name} (extract it)" for path in sorted(root.iterdir()) if path.suffix in _ARCHIVES]
    return f"; found {', '.join(folders[:5])} in {root}" if folders else ""


def refuse_name(where: pathlib.Path, split: str) -> None:
    """Raises InputError unless `split` can be the name of a split."""
    if not re.fullmatch(r"\w+", split) or split == "all":
        raise InputError(
            f"{where}: a split's name is made of letters, digits and _, and is not 'all'",
            what=str(where),
            value=split,
        )


def split_lists(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the lists of splits, from the first folder that has any."""
    for folder in ("ImageSets/Segmentation", "ImageSets", "splits", "."):
        found = sorted((root / folder).glob("*.txt")) if (root / folder).is_dir() else []
        found = [path for path in found if not is_stray(path.name)]
        if folder == ".":
            found = [path for path in found if path.stem.startswith(("train", "val", "test"))]
        if found:
            return found
    return []


def list_lines(path: pathlib.Path) -> list[tuple[int, str]]:
    """Returns number and content of the lines of a list that are not empty.

    Raises:
      InputError: It is not text, or there are none.
    """
    lines = read_text(path, "a list of names").splitlines()
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(
            f"{path}: the list is empty; write the name of one image in each line", what=str(path)
        )
    return found


def picture_and_label(
    line: str, root: pathlib.Path, images: pathlib.Path, by_name: Mapping[str, pathlib.Path]
) -> tuple[str, pathlib.Path | None]:
    """Returns the image's name in a line of a list, and its label if the line names that as well."""
    name = _name_of(line, root, images, by_name)
    if name not in by_name:
        for separator in re.finditer(r"[\s,;]+", line):
            first, label = line[: separator.start()], root / line[separator.end() :].lstrip("/")
            if (other := _name_of(first, root, images, by_name)) in by_name and label.is_file():
                return other, label
    return name, None


def _name_of(word: str, root: pathlib.Path, images: pathlib.Path, by_name: Mapping[str, pathlib.Path]) -> str:
    word = composed(word.replace("\\", "/").removeprefix("./"))
    if word.startswith(("/", "..")):
        with contextlib.suppress(ValueError, OSError):  # elsewhere
            word = (root / word).resolve().relative_to(images.resolve()).as_posix()
    word = word.lstrip("/").removeprefix(f"{images.relative_to(root).as_posix()}/")
    if word in by_name:
        return word
    suffix = pathlib.PurePosixPath(word).suffix
    return word[: -len(suffix)] if suffix.lower() in IMAGE_SUFFIXES else word


def nearest_name(name: str, by_name: Mapping[str, pathlib.Path]) -> str:
    """Returns which name is nearly the same, for a message."""
    last = name.rpartition("/")[2]
    for other in by_name:
        if other.rpartition("/")[2].casefold() == last.casefold():
            return f"the nearest is {by_name[other]}"
    return f"it has {len(by_name)} others"
