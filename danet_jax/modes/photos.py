"""The picture files that a user names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from danet_jax.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def pictures_of(arguments: list[str]) -> Iterator[Path]:
    """The files among `arguments`, and those in its folders that look like pictures; a folder without any as itself.

    Raises:
      InputError: an argument is empty, which would stand for the current folder.
    """
    for argument in arguments:
        if not argument.strip():
            raise InputError(
                f"{argument!r}: an empty argument names no picture; give a file, a folder, or . for this one"
            )
        path = Path(argument)
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if _is_picture(p)) or [path]
        else:
            yield path


def read_picture(path: Path) -> bytes:
    """The content of a file.

    Raises:
      InputError: it cannot be read, or is a folder.
    """
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise InputError(f"{path}: no pictures in this folder ({', '.join(SUFFIXES)})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _is_picture(path: Path) -> bool:
    # macOS leaves ._NAME.jpg beside NAME.jpg on foreign disks.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
