"""Which files of a folder are meant: links are followed, what programs hide or leave behind is passed over."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

from danet_jax.errors import InputError

_LEFT_BEHIND = {"__MACOSX", "@eaDir", "#recycle", "lost+found", "Thumbs.db", "desktop.ini"}
"""What operating systems and storage servers put beside people's files; `.DS_Store` and the like are hidden."""


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name is nobody's data: hidden (`.ipynb_checkpoints`), or left behind."""
    return name.startswith((".", "$RECYCLE.BIN")) or name in _LEFT_BEHIND


def walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield all files below `folder`, sorted by path in each folder, those of linked folders, too.

    Raises:
      InputError: A link leads back to a folder that it is in, to nothing, or a folder cannot be read.
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
        if entry.is_dir():
            real = os.path.realpath(path)
            if real in above:
                raise InputError(f"{path}: a link to a folder that it is in ({real}); remove it")
            yield from _walk(path, (*above, real))
        elif entry.is_file():
            yield path
        elif entry.is_symlink():
            raise InputError(
                f"{path}: a link to {os.readlink(path)}, which does not exist; mend or remove it"
            )
