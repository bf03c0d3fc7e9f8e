"""Reads published files in the same way from a zip, a tar, a tgz or the folder that was extracted from it.

A zip or tar is read in place. A tgz can only be read sequentially, so the required files are kept in memory; they are
small in all data sets that have one. Files may be read from several threads at the same time.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import gzip
import os
import pathlib
import tarfile
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from danet_jax.data.files import is_stray, walk
from danet_jax.errors import InputError, one_line

_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    UnicodeDecodeError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)
"""Exceptions that the standard library raises for damaged archives.

RuntimeError means that an archive is encrypted, and NotImplementedError that Python does not support its compression
method (Deflate64).
"""


@dataclasses.dataclass(frozen=True)
class Source:
    """One archive of a publisher, or the folder to which it extracts.

    Attributes:
      archive: File name as published.
      folder: The folder in the archive that contains `parts`, without the folders above it; may be empty.
      parts: The files and folders in `folder` that are needed. A folder that contains the first one is this source.
      gigabytes: Size of the archive in GB.
      url: URL of the archive itself if anybody may download it, otherwise of the page that offers it.
      digest: `ALGORITHM:HEX` of the published archive, if known.
      also: Other names that people or tools use for `folder`.
      any_part: Whether a folder that contains any of `parts` is this source.
      contents: Paths that together identify the folder if it has another name.
      option: The option that requires this source; empty if it is always required.
      replaces: The archives that this source, such as a folder of converted labels, replaces if any of them is missing.
    """

    archive: str
    folder: str
    parts: Sequence[str]
    gigabytes: float
    url: str
    digest: str = ""
    also: Sequence[str] = ()
    any_part: bool = False
    contents: Sequence[str] = ()
    option: str = ""
    replaces: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.archive} ({self.gigabytes:g} GB)"

    @property
    def direct(self) -> bool:
        """Whether anybody may download the archive."""
        return self.url.endswith(f"/{self.archive}")

    def paths(self, top: pathlib.Path) -> Iterator[pathlib.Path]:
        """Yields the archive `top` or, if it is a folder, its required files, including those in linked folders."""
        for path in (top / part for part in self.parts) if top.is_dir() else (top,):
            if path.is_dir():
                yield from walk(path)
            elif path.exists():
                yield path


class _Member(NamedTuple):
    path: str  # The path in the archive or on disk.
    size: int
    read: Callable[[], bytes]


class Files:
    """The required files of one source by their path below `Source.folder`; `names` lists these paths.

    Args:
      path: The archive or folder that `find_all` found.
      source: The source that it should contain.
      opened: The stack that closes the archive, after which nothing can be read any more.

    Raises:
      InputError: The archive is damaged, cut short, not an archive, or contains a file twice.
    """

    def __init__(self, path: pathlib.Path, source: Source, opened: contextlib.ExitStack):
        self._path = path
        self._members: dict[str, _Member] = {}
        try:
            for name, member in _members(path, source, opened):
                if name in self._members:
                    raise _archive_error(path, f"contains {member.path} twice")
                self._members[name] = member
        except _DAMAGE as error:
            raise _archive_error(path, _reason(error)) from None
        self.names = tuple(sorted(self._members))

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """Returns the size of a file in bytes."""
        return self._members[name].size

    def where(self, name: str) -> str:
        """Returns the name of a file in error messages; the file need not exist."""
        member = self._members.get(name)
        if self._path.is_dir():
            return member.path if member else f"{self._path}/{name}"
        return f"{self._path}: {member.path if member else name}"

    def read(self, name: str) -> bytes:
        """Returns the content of a file; refuses a missing or damaged one."""
        if name not in self:
            raise self.refusal(name, "missing")
        try:
            return self._members[name].read()
        except _DAMAGE as error:
            raise self.refusal(name, _reason(error)) from None

    def lines(self, name: str) -> list[str]:
        """Returns the lines of a list, stripped and without empty lines; refuses empty lists and repeated lines."""
        try:
            lines = [line.strip() for line in self.read(name).decode("utf-8-sig").splitlines()]
        except UnicodeDecodeError:
            raise self.refusal(name, "not text") from None
        lines = [line for line in lines if line]
        if not lines:
            raise self.refusal(name, "the list is empty")
        for line, count in collections.Counter(lines).items():
            if count > 1:
                raise self.refusal(name, f"lists {line!r} twice")
        return lines

    def refusal(self, name: str, reason: str) -> InputError:
        """Returns the error for a file that is missing or not as published."""
        return InputError.for_file(self.where(name), f"{reason}; {_remedy(self._path)}")


def _members(
    path: pathlib.Path, source: Source, opened: contextlib.ExitStack
) -> Iterator[tuple[str, _Member]]:
    if path.is_dir():
        return _folder_members(path, source)
    with path.open("rb") as file:
        start = file.read(512)
    if start[:2] == b"PK":
        return _zip_members(path, source, opened)
    if start[:2] == b"\x1f\x8b":
        return _tgz_members(path, source)
    if start[257:262] == b"ustar":
        return _tar_members(path, source)
    kind = "a web page" if start.lstrip()[:1] == b"<" else "empty" if not start else "not a zip, tar or tgz"
    raise _archive_error(path, kind)


def _folder_members(folder: pathlib.Path, source: Source) -> Iterator[tuple[str, _Member]]:
    for path in source.paths(folder):
        name = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
        yield name, _Member(str(path), path.stat().st_size, path.read_bytes)


def _zip_members(
    path: pathlib.Path, source: Source, opened: contextlib.ExitStack
) -> Iterator[tuple[str, _Member]]:
    try:
        archive = zipfile.ZipFile(path, metadata_encoding="utf-8")
    except UnicodeDecodeError:  # The names are in an old code page.
        archive = zipfile.ZipFile(path)
    opened.enter_context(archive)
    lock = threading.Lock()
    infos = [info for info in archive.infolist() if not info.is_dir()]
    names = [info.filename.replace("\\", "/") for info in infos]  # Some Windows programs write backslashes.
    below = [_name_below(name, source) for name in names]
    if not any(below):  # The archive was packed without its top folder.
        bare = dataclasses.replace(source, folder="")
        below = [_name_below(name, bare) for name in names]
    for info, name in zip(infos, below, strict=True):
        if name:
            read = functools.partial(_read_zip, archive, info, lock)
            yield name, _Member(info.filename, info.file_size, read)


def _read_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, lock: threading.Lock) -> bytes:
    with lock:  # Opening and closing update a reference count, which is not thread-safe.
        member = archive.open(info)
    try:
        return member.read()
    finally:
        with lock:
            member.close()


def _tar_members(path: pathlib.Path, source: Source) -> Iterator[tuple[str, _Member]]:
    end = 0
    ranges: dict[str, tuple[int, int]] = {}  # Offset and size of every file, for hard links.
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            if info.isreg():
                ranges[info.name] = info.offset_data, info.size
            end = info.offset_data + (-(-info.size // 512) * 512 if info.isreg() else 0)
            name, target = _name_below(info.name, source), info.linkname if info.islnk() else info.name
            if name and target in ranges:
                offset, size = ranges[target]
                yield name, _Member(info.name, size, functools.partial(_read_range, path, offset, size))
    if any(_read_range(path, end, 512)):  # tarfile does not check for the empty block at the end.
        raise tarfile.ReadError("unexpected end of data")


def _read_range(path: pathlib.Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise EOFError("it ends early")
    return data


def _tgz_members(path: pathlib.Path, source: Source) -> Iterator[tuple[str, _Member]]:
    with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
        for info in archive:
            content = archive.extractfile(info) if info.isreg() else None
            if content and (name := _name_below(info.name, source)):
                yield name, _Member(info.name, info.size, functools.partial(bytes, content.read()))
        while unpacked.read(2**20):  # Reading to the end verifies the checksum.
            pass


def _name_below(path: str, source: Source) -> str | None:
    """Returns the part of `path` below `source.folder` if it is in one of `source.parts`, otherwise None."""
    path = unicodedata.normalize("NFC", path).removeprefix("./")
    if any(map(is_stray, path.split("/"))):
        return None
    path, folder = f"/{path}", f"/{source.folder}/" if source.folder else "/"
    start = path.find(folder)
    while start >= 0:
        name = path[start + len(folder) :]
        if any(name == part or name.startswith(part + "/") for part in source.parts):
            return name
        start = path.find(folder, start + 1)
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, NotImplementedError):
        return f"packed in a way that cannot be read here ({error}); extract it, keeping the folders"
    if isinstance(error, RuntimeError):
        return "encrypted; extract it with its password, keeping the folders"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"damaged or cut short ({one_line(error)})"


def _archive_error(path: pathlib.Path, reason: str) -> InputError:
    return InputError.for_file(path, f"{reason}; {_remedy(path)}")


def _remedy(path: pathlib.Path) -> str:
    return "extract the archive again" if path.is_dir() else "download it again"
