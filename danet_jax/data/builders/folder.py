"""Any user's own pictures: a folder of images and label maps.

    images/SPLIT/NAME.jpg (or .jpeg, .png)    labels/SPLIT/NAME.png    classes.csv

Splits may have any names and folders inside them; NAME then includes the path below the split.
`classes.csv` has the columns `id,name` and, if wanted, `red,green,blue`; ids count from 0.
"""

from __future__ import annotations

import csv
import functools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from danet_jax.classes import MAX_CLASSES, Classes
from danet_jax.data.builders import base
from danet_jax.data.decode import plain_label
from danet_jax.errors import InputError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_OTHER_PICTURES = (".bmp", ".gif", ".heic", ".ppm", ".tif", ".tiff", ".webp")


class Folder(base.PairsBuilder):
    """The images and label maps below `root`, prepared anew whenever a file there changes."""

    VERSION = tfds.core.Version("1.0.0")
    name = "folder"

    def __init__(
        self,
        *,
        data_dir: str | pathlib.Path,
        root: str | pathlib.Path | None = None,
        class_names: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ):
        """List the files.

        Args:
          data_dir: The directory of all prepared data.
          root: The folder that holds `images` and `labels`.
          class_names: The classes in the order of their ids; if empty, `root/classes.csv` names them.
          options: None exist.

        Raises:
          InputError: The folder, a split or the classes are missing.
        """
        base.checked_options("folder", options, {})
        if not root:
            raise InputError("dataset.root: name the folder that holds images/SPLIT and labels/SPLIT")
        self._root = pathlib.Path(root)
        classes = _classes(self._root, tuple(class_names))
        self._files = _find_pairs(self._root)
        state = [
            (split, name, *(path and base.file_state(path) for path in paths))
            for split, files in self._files.items()
            for name, *paths in files
        ]
        stem = re.sub(r"\W+", "_", self._root.resolve().name)[:40]
        variant = (
            f"{stem}-{base.fingerprint(str(self._root.resolve()), state, classes.names, classes.colours)}"
        )
        super().__init__(data_dir=data_dir, variant=variant, classes=classes)

    def pairs(self) -> dict[str, list[base.PairReader]]:
        """Return readers of the files found."""
        return {
            split: [self._reader(split, *files) for files in found] for split, found in self._files.items()
        }

    def _reader(
        self, split: str, name: str, image: pathlib.Path | None, label: pathlib.Path | None
    ) -> base.PairReader:
        expected = {part: self._root / part / split / name for part in ("images", "labels")}
        if label is None:
            return base.Missing(f"{image}: image without label; expected {expected['labels']}.png")
        if image is None:
            return base.Missing(
                f"{label}: label without image; expected {expected['images']}.jpg, .jpeg or .png"
            )
        size = image.stat().st_size + label.stat().st_size
        return base.Reader(functools.partial(_read, name, image, label), size)


def _read(name: str, image: pathlib.Path, label: pathlib.Path) -> base.Pair:
    try:
        data, label_data = image.read_bytes(), label.read_bytes()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return base.Pair(name, data, plain_label(label_data, str(label)), str(image), str(label))


def _find_pairs(
    root: pathlib.Path,
) -> dict[str, list[tuple[str, pathlib.Path | None, pathlib.Path | None]]]:
    """Return (name, image, label) of every example, by split, sorted by name; None is what is missing."""
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; set dataset.root to the one that holds images/ and labels/"
        )
    for part in ("images", "labels"):
        if not (root / part).is_dir():
            raise InputError(
                f"{root / part}: missing; put the {part} of each split into {root / part}/SPLIT/"
            )
    splits = sorted(
        path.name for path in (root / "images").iterdir() if path.is_dir() and path.name[0] != "."
    )
    if not splits:
        raise InputError(
            f"{root / 'images'}: no split in it; put images into {root / 'images'}/train/ and /val/"
        )
    for path in sorted((root / "labels").iterdir()):
        if path.is_dir() and path.name[0] != "." and path.name not in splits:
            raise InputError(
                f"{path}: labels of a split without images; put them into {root / 'images' / path.name}/"
            )
    found = {}
    for split in splits:
        if not re.fullmatch(r"\w+", split) or split == "all":
            raise InputError(
                f"{root / 'images' / split}: a split's name is made of letters, digits and _, and is not 'all'"
            )
        images = _by_name(root / "images" / split, _IMAGE_SUFFIXES)
        labels = _by_name(root / "labels" / split, (".png",)) if (root / "labels" / split).is_dir() else {}
        if not images:
            raise InputError(f"{root / 'images' / split}: no images in it; put JPEG or PNG files there")
        names = sorted(images.keys() | labels.keys())
        found[split] = [(name, images.get(name), labels.get(name)) for name in names]
    return found


def _by_name(folder: pathlib.Path, suffixes: tuple[str, ...]) -> dict[str, pathlib.Path]:
    """Return the picture files below `folder` by their path from there without suffix."""
    files: dict[str, pathlib.Path] = {}
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if path.name[0] == "." or not path.is_file():
            continue
        if suffix not in suffixes:
            if suffix in _IMAGE_SUFFIXES + _OTHER_PICTURES:
                raise InputError(f"{path}: only {', '.join(suffixes)} can be used here; convert or remove it")
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise InputError(f"{path}: has the same name as {files[name]}; rename or remove one of them")
        files[name] = path
    return files


def _classes(root: pathlib.Path, class_names: tuple[str, ...]) -> Classes:
    """Return the classes named in the config or in `root/classes.csv`."""
    path = root / "classes.csv"
    try:
        if class_names:
            return Classes.named(class_names)
        if not path.is_file():
            if not root.is_dir():
                raise InputError(
                    f"{root}: no such folder; set dataset.root to the one that holds images/ and labels/"
                )
            raise InputError(f"{path}: missing; write it (id,name,red,green,blue) or set dataset.class_names")
        return _read_classes(path)
    except InputError:
        raise
    except ValueError as error:  # of Classes: too many, or a name twice
        raise InputError(f"{'dataset.class_names' if class_names else path}: {error}") from None


def _read_classes(path: pathlib.Path) -> Classes:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from None
    if not rows:
        raise InputError(f"{path}: no classes in it; write one line per class below id,name,red,green,blue")
    names, colours = [], []
    for index, row in enumerate(rows):
        line = f"{path}, line {index + 2}"
        if (row.get("id") or "").strip() != str(index):
            raise InputError(f"{line}: id {row.get('id')!r} where {index} is due; ids count from 0 in order")
        if not (row.get("name") or "").strip():
            raise InputError(f"{line}: the class has no name; the columns are id,name,red,green,blue")
        names.append(row["name"].strip())
        if "red" in row:
            try:
                colour = tuple(int(row[channel]) for channel in ("red", "green", "blue"))
            except (KeyError, TypeError, ValueError):
                raise InputError(f"{line}: red, green and blue must be whole numbers") from None
            if not all(0 <= value <= 255 for value in colour):
                raise InputError(f"{line}: the colour {colour} is outside 0 to 255")
            colours.append(colour)
    if len(names) > MAX_CLASSES:
        raise InputError(f"{path}: {len(names)} classes; 8-bit labels allow at most {MAX_CLASSES}")
    return Classes(tuple(names), tuple(colours)) if colours else Classes.named(names)  # type: ignore[arg-type]
