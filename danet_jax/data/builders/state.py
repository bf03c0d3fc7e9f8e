"""Detects changed source files by their size and times and, if these differ, by their content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from danet_jax.data.inspection import map_in_order
from danet_jax.errors import InputError
from danet_jax.runs.files import write_json

_in_this_process: dict[str, str] = {}
"""Digests that are not stored yet; a program creates more than one builder before data are prepared."""


def fingerprint(*parts: Any) -> str:
    """Returns a digest of `parts` (JSON values) as 12 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class SourceFiles:
    """Digests of source files, which are cached as long as size, mtime and ctime are the same.

    A file that was rewritten with the same size and mtime (`cp -p`, `rsync -t`) has another ctime and is read again. A
    copy with other times is also read again, but has the same digest.

    Digests are stored in a JSON file next to the prepared data, which may be missing or damaged.

    Args:
      data_dir: The directory of all prepared data.
      name: The data set's name.
      root: The folder or file that contains the sources.

    Attributes:
      stem: The name of the root, in a form that can be part of a file name.
    """

    def __init__(self, data_dir: str | pathlib.Path, name: str, root: pathlib.Path):
        root = root.resolve()
        self.stem = re.sub(r"\W+", "_", root.parent.name if root.is_file() else root.name)[:40]
        self._path = pathlib.Path(data_dir, name, f"{self.stem}-{fingerprint(str(root))}.json")
        self._stored = self._read()
        self._values: dict[str, dict[str, str]] = {"files": {}, "adopted": dict(self._stored["adopted"])}
        self._sizes_and_times: dict[pathlib.Path, tuple[int, int]] = {}

    def digests(self, paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, str]:
        """Returns the digest of each file, reading changed files on all cores."""
        remembered = {**self._stored["files"], **_in_this_process}
        digests, unknown, states = {}, [], {}
        for path in paths:
            with _name_file(path):
                found = path.stat()
            self._sizes_and_times[path] = found.st_size, found.st_mtime_ns
            states[path] = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
            state, _, digest = remembered.get(str(path), "").rpartition(" ")
            if state == states[path]:
                digests[path] = digest
            else:
                unknown.append(path)
        digests.update(zip(unknown, map_in_order(_content_digest, unknown), strict=True))
        entries = {str(path): f"{states[path]} {digest}" for path, digest in digests.items()}
        self._values["files"].update(entries)
        _in_this_process.update((str(path), entries[str(path)]) for path in unknown)
        return digests

    def size_and_time(self, path: pathlib.Path) -> tuple[int, int]:
        """Returns the size and mtime, as version 0.2.0 compared them, of a file that was passed to `digests`."""
        return self._sizes_and_times[path]

    def adopts(self, former: str, variant: str) -> bool:
        """Returns whether data that version 0.2.0 prepared as `former` are the same as `variant`.

        Version 0.2.0 did not record the content, so it is assumed to be unchanged at first and remembered from then on.
        """
        return self._values["adopted"].setdefault(former, variant) == variant

    def remember(self) -> None:
        """Stores new digests if the folder is writable; call this once data are prepared."""
        if self._path.parent.is_dir() and self._values != self._stored:
            try:
                write_json(self._path, self._values)
            except (OSError, InputError):  # A read-only folder means that files are read again next time.
                return
        for path in self._values["files"]:
            _in_this_process.pop(path, None)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            values = json.loads(self._path.read_bytes())
            return {
                key: {str(name): str(value) for name, value in values[key].items()}
                for key in ("files", "adopted")
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {"files": {}, "adopted": {}}


def _content_digest(path: pathlib.Path) -> str:
    with _name_file(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


@contextlib.contextmanager
def _name_file(path: pathlib.Path) -> Iterator[None]:
    """Replaces an error of the operating system by one that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError.for_file(path, f"cannot be read ({error.strerror})") from None
