"""Lists that say which pictures are in which split, a name, or a picture's path and its label's, in each line."""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Mapping

from danet_jax.data.builders.entries import composed
from danet_jax.data.files import IMAGE_SUFFIXES, is_stray, read_text
from danet_jax.errors import InputError


def split_lists(root: pathlib.Path) -> list[pathlib.Path]:
    """The lists of splits, from the first folder that has any."""
    for folder in ("ImageSets/Segmentation", "ImageSets", "splits", "."):
        found = sorted((root / folder).glob("*.txt")) if (root / folder).is_dir() else []
        found = [path for path in found if not is_stray(path.name)]
        if folder == ".":
            found = [path for path in found if path.stem.startswith(("train", "val", "test"))]
        if found:
            return found
    return []


def list_lines(path: pathlib.Path) -> list[tuple[int, str]]:
    """Return number and content of the lines of a list that are not empty.

    Raises:
      InputError: It is no text, or there are none.
    """
    lines = read_text(path, "a list of names").splitlines()
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f"{path}: the list is empty; write the name of one picture in each line")
    return found


def picture_and_label(
    line: str, root: pathlib.Path, images: pathlib.Path, by_name: Mapping[str, pathlib.Path]
) -> tuple[str, pathlib.Path | None]:
    """The picture's name in a line of a list, and its label if the line gives that as well."""
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
    """What there is of a name that is nearly the same, for a message."""
    last = name.rpartition("/")[2]
    for other in by_name:
        if other.rpartition("/")[2].casefold() == last.casefold():
            return f"the nearest is {by_name[other]}"
    return f"it has {len(by_name)} others"
