"""The picture files that a user names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from danet_jax.data.files import IMAGE_SUFFIXES, walk
from danet_jax.errors import InputError


def pictures_of(arguments: list[str]) -> Iterator[Path]:
    """The files among `arguments`, and those in its folders that look like pictures; a folder without any as itself.

    Linked folders are followed, hidden ones passed over.

    Raises:
      InputError: an argument is empty, which would stand for the current folder; or see `walk`.
    """
    for argument in arguments:
        if not argument.strip():
            raise InputError(
                f"{argument!r}: an empty argument names no picture; give a file, a folder, or . for this one"
            )
        path = Path(argument)
        if path.is_dir():
            yield from [found for found in walk(path) if found.suffix.lower() in IMAGE_SUFFIXES] or [path]
        else:
            yield path


def read_picture(path: Path) -> bytes:
    """The content of a file.

    Raises:
      InputError: it cannot be read, or is a folder.
    """
    # These tell no from what cannot be: a name with NUL, a folder that must not be entered.
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{path}: neither a file nor a folder (a pipe, a socket or a device)")
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise InputError(f"{path}: no pictures in this folder ({', '.join(IMAGE_SUFFIXES)})") from None
    except (OSError, ValueError) as error:  # a name with NUL is a ValueError
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
