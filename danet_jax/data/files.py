"""Which files of a folder are meant: links are followed, what programs hide or leave behind is passed over."""

from __future__ import annotations

import codecs
import os
import pathlib
from collections.abc import Iterator

from danet_jax.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Of the pictures that are read, in lower case."""

_LEFT_BEHIND = {"__MACOSX", "@eaDir", "#recycle", "lost+found", "Thumbs.db", "desktop.ini"}
"""What operating systems and storage servers put beside people's files; `.DS_Store` and the like are hidden."""


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name is nobody's data: hidden (`.ipynb_checkpoints`), or left behind."""
    return name.startswith((".", "$RECYCLE.BIN")) or name in _LEFT_BEHIND


def read_text(path: pathlib.Path, what: str) -> str:
    """Return the content of a list that a person or a program wrote: UTF-8, UTF-16 or Windows' code page 1252.

    Raises:
      InputError: It cannot be read as `what`.
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
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as {what} ({error}); save it as UTF-8") from None
    if any(ord(character) < 32 and character not in "\t\r\n" for character in text):
        raise InputError(f"{path}: cannot be read as {what} (it holds control characters)")
    return text


def walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield all files below `folder`, sorted by path in each folder, those of linked folders, too.

    Raises:
      InputError: A link leads back to a folder that it is in, or to nothing, a folder cannot be read, something is
        neither a file nor a folder, or a name is no text.
    """
    yield from _walk(folder, (os.path.realpath(folder),))


def _walk(folder: pathlib.Path, above: tuple[str, ...]) -> Iterator[pathlib.Path]:
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not is_stray(entry.name)), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    for entry in entries:
        path = folder / entry.name
        if entry.name.encode(errors="surrogateescape") != entry.name.encode(errors="replace"):
            raise InputError(f"{folder}: {entry.name!a} is no name in UTF-8; rename it")
        try:
            folder_there, file_there = entry.is_dir(), entry.is_file()
        except OSError as error:  # links in a circle
            raise InputError(f"{path}: cannot be read ({error.strerror}); remove it") from None
        if folder_there:
            real = os.path.realpath(path)
            if real in above:
                raise InputError(f"{path}: a link to a folder that it is in ({real}); remove it")
            yield from _walk(path, (*above, real))
        elif file_there:
            yield path
        elif entry.is_symlink() and not path.exists():
            raise InputError(
                f"{path}: a link to {os.readlink(path)}, which does not exist; mend or remove it"
            )
        else:
            raise InputError(f"{path}: neither a file nor a folder (a pipe, a socket or a device); remove it")
