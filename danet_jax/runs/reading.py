"""JSON files of a run's directory, which may be a stranger's: read as data, of a bounded size, or refused by name."""

from __future__ import annotations

import json
import os
from typing import Any, Protocol

from danet_jax.errors import InputError

LARGEST = 1 << 25
"""Bytes of a JSON file; the largest that a run writes are digests of some thousand files."""


class Readable(Protocol):
    """A `pathlib.Path`, or one of `etils.epath`."""

    def __fspath__(self) -> str:
        """Return the path as text."""

    def open(self, mode: str) -> Any:
        """Open the file."""


def read_json(file: Readable) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Raises:
      FileNotFoundError: there is no such file.
      InputError: it cannot be read, is too large, or holds something else; the message names it.
    """
    try:
        if os.path.exists(file) and not os.path.isfile(file):
            raise InputError(f"{os.fspath(file)}: is no file")  # a pipe would be waited for
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{os.fspath(file)}: cannot be read: {error.strerror or error}") from error
    if len(content) > LARGEST:
        raise InputError(
            f"{os.fspath(file)}: is larger than {LARGEST >> 20} MiB, which no file of a run's is"
        )
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{os.fspath(file)}: is damaged, no JSON can be read from it: {reason}") from error
    if not isinstance(value, dict):
        raise InputError(f"{os.fspath(file)}: is not a run's: it holds {type(value).__name__}, not an object")
    return value
