"""The pictures of a user's own data set and their labels, by name."""

from __future__ import annotations

import pathlib
import re
import unicodedata
from typing import NamedTuple

from danet_jax.data.files import IMAGE_SUFFIXES, is_stray, walk
from danet_jax.errors import InputError

_OTHER_PICTURES = (
    *(
        ".gif",
        ".heic",
        ".heif",
        ".jp2",
        ".ppm",
        ".pgm",
        ".psd",
        ".svg",
        ".avif",
        ".jfif",
        ".jpe",
        ".jxl",
        ".tga",
    ),
    *(".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
LABELLED = ("train", "val")
"""Splits whose names begin so are of no use without labels."""


class Entry(NamedTuple):
    """One example: its name, unique in its split, and its files; None is what is missing.

    `expected` is where the missing file was looked for, without its suffix.
    """

    name: str
    image: pathlib.Path | None
    label: pathlib.Path | None
    expected: pathlib.Path
    unlabelled: bool = False


Splits = dict[str, list[Entry]]


def paired(split: str, images: pathlib.Path, labels: pathlib.Path) -> list[Entry]:
    """Return the pictures of one split with the labels of their names.

    Raises:
      InputError: There are no pictures, or files that cannot be used.
    """
    by_name = files_by_name(images, IMAGE_SUFFIXES)
    if not by_name:
        raise InputError(f"{images}: no images in it; put JPEG or PNG files there")
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
    """Return the picture files below `folder` by their path from there without suffix.

    Raises:
      InputError: A picture has another suffix, or two have one name.
    """
    files: dict[str, pathlib.Path] = {}
    for path in walk(folder):
        suffix = path.suffix.lower()
        if suffix not in suffixes:
            if suffix in IMAGE_SUFFIXES + _OTHER_PICTURES:
                raise InputError(f"{path}: only {', '.join(suffixes)} can be used here; convert or remove it")
            continue
        name = composed(path.relative_to(folder).with_suffix("").as_posix())
        if name in files:
            raise InputError(f"{path}: has the same name as {files[name]}; rename or remove one of them")
        files[name] = path
    return files


def is_picture(path: pathlib.Path) -> bool:
    """Whether a path is that of a picture file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_stray(path.name) and path.is_file()


def composed(name: str) -> str:
    """The name with letters and their accents as one: macOS writes them apart."""
    return unicodedata.normalize("NFC", name)


def nearest(root: pathlib.Path) -> str:
    """What is there instead, for a message."""
    for path in sorted(root.iterdir()):
        if path.is_dir() and ((path / "images").is_dir() or (path / "JPEGImages").is_dir()):
            return f"; found {path}: set dataset.root={path}"
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not is_stray(path.name)]
    folders += [f"{path.name} (extract it)" for path in sorted(root.iterdir()) if path.suffix in _ARCHIVES]
    return f"; found {', '.join(folders[:5])} in {root}" if folders else ""


def refuse_name(where: pathlib.Path, split: str) -> None:
    """Raise InputError if no split may be called so."""
    if not re.fullmatch(r"\w+", split) or split == "all":
        raise InputError(f"{where}: a split's name is made of letters, digits and _, and is not 'all'")
