"""The names of output files: which files of a folder this program wrote, and for which input.

Two inputs never share a file. A hidden manifest in the folder, one JSON object per line, records what was written:
only that is replaced, and only if it has not been changed since. Outputs of version 0.2.0 are not recorded; they are
replaced only on request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock

from danet_jax.errors import InputError
from danet_jax.runs.files import is_bucket, write_text

MANIFEST = ".outputs.jsonl"

_ABSENT = ""
"""The digest of a file that was not written, or was removed: one that appears later is somebody else's."""


class Outputs:
    """The files that are written into one folder.

    Args:
      folder: a directory, or one in a bucket; it is created when the first file is written.
      overwrite: replace files that the manifest does not record.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.folder, self._overwrite = folder, overwrite
        self._sources: dict[str, str] = {}  # by stem
        self._digests: dict[str, str | None] = {}  # of files; None while they are written, and for folders
        self._position = 0  # in the manifest, up to which it was read
        self._read()

    def stem_of(self, source: str) -> str | None:
        """Returns what the names of the files of an input begin with; None if nothing was written for it."""
        return next((stem for stem, other in self._sources.items() if other == source), None)

    @contextlib.contextmanager
    def writing(self, source: str, stem: str, suffixes: Sequence[str]) -> Iterator[list[Path]]:
        """Yields the paths to write the results of an input to, and records them.

        Args:
          source: identifies the input, such as its absolute path; the same one gets the same files again.
          stem: what the names of the files begin with; if another input has it already, a number is added.
          suffixes: what is added to the stem for each file or folder.

        Raises:
          InputError: a file of that name is there that the manifest does not record, or that was changed since.
        """
        with self._locked():
            self._read()
            stem = self.stem_of(source) or self._free(stem)
            paths = [self.folder / f"{stem}{suffix}" for suffix in suffixes]
            for path in paths:
                if not self._overwrite and path.exists() and not self._is_ours(path):
                    raise InputError(
                        f"{path}: is there already and was not written by this program, or was changed since; move it, "
                        "or replace it with --overwrite",
                        what=str(path),
                    )
            self._record(stem, source, {path.name: None for path in paths})
        try:
            yield paths
        finally:
            written = {path.name: _digest(path) if path.exists() else _ABSENT for path in paths}
            with self._locked():
                self._record(stem, source, written)

    def _free(self, stem: str) -> str:
        found, count = stem, 1
        while found in self._sources:
            count += 1
            found = f"{stem}_{count}"
        return found

    def _is_ours(self, path: Path) -> bool:
        digest = self._digests.get(path.name, _ABSENT)
        return digest is None or digest == _digest(path)

    def _read(self) -> None:
        """Reads what this or another process has recorded since the last call."""
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
        # The line break comes first: the line before may have been cut short.
        line = "\n" + json.dumps({"stem": stem, "source": source, "files": files})
        if is_bucket(manifest):  # objects cannot be appended to
            write_text(manifest, (manifest.read_text() if manifest.exists() else "") + line)
        else:
            try:
                with manifest.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise InputError(
                    f"{manifest}: cannot be written: {error.strerror or error}", what=str(manifest)
                ) from error
        self._read()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps another process from taking the same name."""
        if is_bucket(self.folder):
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(str(self.folder / ".outputs.lock")):
                yield
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be written to: {error.strerror or error}", what=str(self.folder)
            ) from error


def _digest(path: Path) -> str | None:
    """Returns the SHA-256 of a file's content; None of a folder."""
    if path.is_dir():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
