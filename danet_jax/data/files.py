"""Lists and reads the files of a folder, and builds the errors about files and options.

Links are followed. Hidden files and files that programs leave behind are skipped.
"""

from __future__ import annotations

import codecs
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from danet_jax.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes of the images that are read, in lower case."""

USUAL_SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {name: name for name in USUAL_SPLITS}
_SPLIT_NAMES |= {"training": "train", "validation": "val", "valid": "val", "testing": "test"}

_LEFT_BEHIND = {"__MACOSX", "@eaDir", "#recycle", "lost+found", "Thumbs.db", "desktop.ini"}
"""Files and folders that operating systems and storage servers create; `.DS_Store` and the like are hidden anyway."""


def damage_error(name: str, reason: str) -> InputError:
    """Returns an error about an image file that cannot be decoded completely."""
    return InputError.for_file(name, f"damaged or cut short ({reason}); replace or remove it")


def option_error(option: str, value: Any, problem: str, allowed: Any = None) -> InputError:
    """Returns an error about an option of a data set, such as `options.validation`."""
    what = f"dataset.{option}"
    return InputError(f"{what}={value!r}: {problem}", what=what, value=value, allowed=allowed)


def is_stray(name: str) -> bool:
    """Returns whether a file or folder of this name is hidden (`.ipynb_checkpoints`) or left behind by a program."""
    return name.startswith((".", "$RECYCLE.BIN")) or name in _LEFT_BEHIND


def split_name(name: str) -> str:
    """Returns the usual name of the split `name`, such as `val` for `validation`."""
    return _SPLIT_NAMES.get(name.casefold(), name)


def read_text(path: pathlib.Path, what: str) -> str:
    """Returns the content of a text file in UTF-8, UTF-16 or Windows code page 1252.

    Raises:
      InputError: The file cannot be read as `what`.
    """
    try:
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        elif len(data) > 3 and data[1::2].count(0) == len(data) // 2:
            text = data.decode("utf-16-le")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("cp1252")
    except OSError as error:
        raise InputError.for_file(path, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError.for_file(path, f"cannot be read as {what} ({error}); save it as UTF-8") from None
    if any(ord(character) < 32 and character not in "\t\r\n" for character in text):
        raise InputError.for_file(path, f"cannot be read as {what} (it contains control characters)")
    return text


def walk(folder: pathlib.Path, _parents: tuple[str, ...] = ()) -> Iterator[pathlib.Path]:
    """Yields all files below `folder`, including those in linked folders, sorted by name within each folder.

    Raises:
      InputError: A link points to a folder that contains it or to nothing, a folder cannot be read, an entry is
        neither a file nor a folder, or a name is not UTF-8.
    """
    parents = (*_parents, os.path.realpath(folder))
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not is_stray(entry.name)), key=lambda e: e.name)
    except OSError as error:
        raise InputError.for_file(folder, f"cannot be read ({error.strerror})") from None
    for entry in entries:
        path = folder / entry.name
        if entry.name.encode(errors="surrogateescape") != entry.name.encode(errors="replace"):
            raise InputError.for_file(folder, f"the name {entry.name!a} is not valid UTF-8; rename it")
        try:
            is_file, is_folder = entry.is_file(), entry.is_dir()
        except OSError as error:  # Links can form a cycle.
            raise InputError.for_file(path, f"cannot be read ({error.strerror}); remove it") from None
        if is_file:
            yield path
        elif is_folder:
            if (target := os.path.realpath(path)) in parents:
                raise InputError.for_file(path, f"links to {target}, which contains it; remove the link")
            yield from walk(path, parents)
        elif entry.is_symlink() and not path.exists():
            raise InputError.for_file(
                path, f"links to {os.readlink(path)}, which does not exist; correct or remove it"
            )
        else:
            raise InputError.for_file(
                path, "neither a file nor a folder (a pipe, a socket or a device); remove it"
            )
