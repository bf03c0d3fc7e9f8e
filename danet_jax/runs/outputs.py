"""Names output files, and records which files of a folder this program wrote for which input.

Two inputs never share a file. A hidden manifest in the folder, with one JSON object per line, records the files that
were written. Only these are replaced, and only if they have not been changed since. Version 0.2.0 did not record its
outputs; they are replaced only on request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import filelock

from danet_jax.errors import InputError
from danet_jax.runs.files import is_bucket, write_text

MANIFEST = ".outputs.jsonl"

_ABSENT = ""
"""The digest of a file that was not written or was removed. If it appears later, another program wrote it."""


class Outputs:
    """The output files in a folder.

    Args:
      folder: a directory, or a folder in a bucket. It is created when the first file is written.
      overwrite: whether to replace files that the manifest does not record or that were changed since.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.folder, self._overwrite = folder, overwrite
        self._sources: dict[str, str] = {}  # The input of each stem.
        # The digest of each file; None for folders and for files that are being written.
        self._digests: dict[str, str | None] = {}
        self._position = 0  # The manifest has been read up to here, in bytes.
        self._read()

    def stem_of(self, source: str) -> str | None:
        """Returns the stem that the names of an input's files begin with, or None if it has no files."""
        return next((stem for stem, other in self._sources.items() if other == source), None)

    @contextlib.contextmanager
    def writing(self, source: str, stem: str, suffixes: Sequence[str]) -> Iterator[list[Path]]:
        """Yields the paths to write the results of an input to, and records them in the manifest.

        Args:
          source: identifies the input, for example by its absolute path. The same input gets the same files again.
          stem: the stem that the names of the files begin with. If another input uses it already, a number is added.
          suffixes: the suffix that is added to the stem for each file or folder.

        Raises:
          InputError: a file of that name exists that the manifest does not record or that was changed since.
        """
        with self._locked():
            self._read()
            stem = self.stem_of(source) or free_name(stem, self._sources)
            paths = [self.folder / f"{stem}{suffix}" for suffix in suffixes]
            for path in paths:
                if not self._overwrite and path.exists() and not self._may_replace(path):
                    raise InputError.for_file(
                        path,
                        "already exists, and was not written by this program or was changed since; move it, "
                        "or replace it with --overwrite",
                    )
            self._record(stem, source, {path.name: None for path in paths})
        try:
            yield paths
        finally:
            written = {path.name: _digest(path) if path.exists() else _ABSENT for path in paths}
            with self._locked():
                self._record(stem, source, written)

    def _may_replace(self, path: Path) -> bool:
        digest = self._digests.get(path.name, _ABSENT)
        return digest is None or digest == _digest(path)

    def _read(self) -> None:
        """Reads the entries that this or another process has recorded since the last call."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            return
        with manifest.open("rb") as file:
            file.seek(self._position)
            lines = file.read().splitlines()
            self._position = file.tell()
        for line in lines:
            # A line may have been cut short, or come from another program.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                entry = json.loads(line)
                self._digests.update(entry["files"])
                self._sources[entry["stem"]] = entry["source"]

    def _record(self, stem: str, source: str, files: dict[str, str | None]) -> None:
        manifest = self.folder / MANIFEST
        # The line break comes first because the previous line may have been cut short.
        line = "\n" + json.dumps({"stem": stem, "source": source, "files": files})
        if is_bucket(manifest):  # Objects in a bucket cannot be appended to.
            write_text(manifest, (manifest.read_text() if manifest.exists() else "") + line)
        else:
            try:
                with manifest.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise InputError.for_file(
                    manifest, f"cannot be written: {error.strerror or error}"
                ) from error
        self._read()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Prevents other processes from using the manifest within this context. Has no effect in a bucket."""
        if is_bucket(self.folder):
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(str(self.folder / ".outputs.lock")):
                yield
        except OSError as error:
            raise InputError.for_file(
                self.folder, f"cannot be written to: {error.strerror or error}"
            ) from error


def free_name(name: str, taken: Container[str]) -> str:
    """Returns `name`, with a number added to it if it is taken: `name_2`, `name_3`, ..."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found


def _digest(path: Path) -> str | None:
    """Returns the SHA-256 of a file, or None for a folder."""
    if path.is_dir():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
