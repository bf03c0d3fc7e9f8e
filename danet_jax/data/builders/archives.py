"""Published files, read the same way from a zip, a tar, a tgz or the folder that was extracted from it.

Nothing is extracted: a zip and a tar are read in place, the wanted part of a tgz, which can only be read from
its beginning, is unpacked once into a temporary file that the system deletes by itself. Files may be read from
several threads at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import os
import pathlib
import tarfile
import tempfile
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from danet_jax.data.files import is_stray, walk
from danet_jax.errors import InputError, one_line

_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)
"""What the standard library raises on damaged archives; RuntimeError is for encrypted ones, NotImplementedError for
ways of compression that Python does not know (Deflate64)."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One archive of a publisher, or the folder that it extracts to.

    Attributes:
      archive: File name as published.
      folder: The folder in the archive that holds `parts`, without the folders above it; may be empty.
      parts: The files and folders in `folder` that are wanted. The first is what the folder is known by.
      gigabytes: Size of the archive.
      url: The file itself if `direct`, else the page to get it from.
      direct: Whether anybody may download `url`.
      digest: `ALGORITHM:HEX` of the published archive, if known.
      also: What other people's tools call `folder`.
      any_part: Whether any of `parts` will do to know `folder` by.
    """

    archive: str
    folder: str
    parts: tuple[str, ...]
    gigabytes: float
    url: str
    direct: bool = False
    digest: str = ""
    also: tuple[str, ...] = ()
    any_part: bool = False

    def __str__(self) -> str:
        return f"{self.archive} ({self.gigabytes:g} GB)"


class _Member(NamedTuple):
    name: str  # below the source's folder
    path: str  # as in the archive, or on disk
    size: int
    read: Callable[[], bytes]


class Files:
    """The wanted files of one source by their path below `Source.folder`; to be closed after use.

    Attributes:
      place: The archive or folder that they are in.
      names: All paths, sorted.
    """

    def __init__(self, place: pathlib.Path, source: Source, scratch: pathlib.Path):
        """List the files.

        Args:
          place: Where `find` found the source.
          source: What it should hold.
          scratch: A directory for temporary files.

        Raises:
          InputError: The archive is damaged, cut short or no archive, or holds a file twice.
        """
        self.place = place
        self._members: dict[str, _Member] = {}
        self._open = contextlib.ExitStack()
        try:
            for member in _members(place, source, scratch, self._open):
                if member.name in self._members:
                    raise InputError(f"{place}: holds {member.path} twice; {_get_again(place)}")
                self._members[member.name] = member
        except _DAMAGE as error:
            self.close()
            raise InputError(f"{place}: {_reason(error)}; {_get_again(place)}") from None
        except InputError:
            self.close()
            raise
        self.names = tuple(sorted(self._members))

    def close(self) -> None:
        """Close the archive; nothing can be read any more."""
        self._open.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return self._members[name].size

    def where(self, name: str) -> str:
        """Return how an error message should call a file, which need not exist."""
        if self.place.is_dir():
            return self._members[name].path if name in self else f"{self.place}/{name}"
        return f"{self.place}: {self._members[name].path if name in self else name}"

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
          InputError: It does not exist or is damaged.
        """
        if name not in self:
            raise InputError(f"{self.where(name)}: missing; {_get_again(self.place)}")
        try:
            return self._members[name].read()
        except _DAMAGE as error:
            raise InputError(f"{self.where(name)}: {_reason(error)}; {_get_again(self.place)}") from None

    def lines(self, name: str) -> list[str]:
        """Return the lines of a list, stripped, without empty ones.

        Raises:
          InputError: The list does not exist, is no text, is empty or has a line twice.
        """
        try:
            lines = [line.strip() for line in self.read(name).decode("utf-8-sig").splitlines()]
        except UnicodeDecodeError:
            raise InputError(f"{self.where(name)}: is no text; {_get_again(self.place)}") from None
        lines = [line for line in lines if line]
        if not lines:
            raise InputError(f"{self.where(name)}: the list is empty; {_get_again(self.place)}")
        seen: set[str] = set()
        for line in lines:
            if line in seen:
                raise InputError(f"{self.where(name)}: lists {line!r} twice; {_get_again(self.place)}")
            seen.add(line)
        return lines


def _members(
    place: pathlib.Path, source: Source, scratch: pathlib.Path, opened: contextlib.ExitStack
) -> Iterator[_Member]:
    if place.is_dir():
        return _of_folder(place, source)
    with place.open("rb") as file:
        start = file.read(512)
    if start[:2] == b"PK":
        return _of_zip(place, source, opened)
    if start[:2] == b"\x1f\x8b":
        return _of_tgz(place, source, opened.enter_context(tempfile.TemporaryFile(dir=scratch)))
    if start[257:262] == b"ustar":
        return _of_tar(place, source)
    kind = "a web page" if start.lstrip()[:1] == b"<" else "empty" if not start else "no zip, tar or tgz"
    raise InputError(f"{place}: is {kind}; {_get_again(place)}")


def _of_folder(folder: pathlib.Path, source: Source) -> Iterator[_Member]:
    for part in source.parts:
        paths = [folder / part] if (folder / part).is_file() else []
        if (folder / part).is_dir():
            paths += walk(folder / part)
        for path in paths:
            name = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
            yield _Member(name, str(path), path.stat().st_size, path.read_bytes)


def _of_zip(place: pathlib.Path, source: Source, opened: contextlib.ExitStack) -> Iterator[_Member]:
    try:
        archive = zipfile.ZipFile(place, metadata_encoding="utf-8")
    except UnicodeDecodeError:  # names in an old code page
        archive = zipfile.ZipFile(place)
    opened.enter_context(archive)
    lock = threading.Lock()
    infos = [info for info in archive.infolist() if not info.is_dir()]
    names = [info.filename.replace("\\", "/") for info in infos]  # some programs of Windows' write those
    below = [_name_below(name, source) for name in names]
    if source.folder and not any(below):  # packed without the folder around it
        bare = dataclasses.replace(source, folder="")
        below = [_name_below(name, bare) for name in names]
    for info, name in zip(infos, below, strict=True):
        if name:
            yield _Member(
                name, info.filename, info.file_size, functools.partial(_read_zip, archive, info, lock)
            )


def _read_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, lock: threading.Lock) -> bytes:
    with lock:  # opening and closing count the users of the file, which is not safe among threads
        member = archive.open(info)
    try:
        return member.read()
    finally:
        with lock:
            member.close()


def _of_tar(place: pathlib.Path, source: Source) -> Iterator[_Member]:
    end = 0
    places: dict[str, tuple[int, int]] = {}  # of every file, for the hard links to it
    with tarfile.open(place, "r:") as archive:
        for info in archive:
            end = info.offset_data + (-(-info.size // 512) * 512 if info.isreg() else 0)
            name = _name_below(info.name, source)
            if info.isreg():
                places[info.name] = (info.offset_data, info.size)
            if name and (info.isreg() or (info.islnk() and info.linkname in places)):
                offset, size = places[info.linkname if info.islnk() else info.name]
                read = functools.partial(_read_range_of, place, offset, size)
                yield _Member(name, info.name, size, read)
    if any(_read_range_of(place, end, 512)):  # tarfile does not mind if the empty block at the end is missing
        raise tarfile.ReadError("unexpected end of data")


def _of_tgz(place: pathlib.Path, source: Source, spool: IO[bytes]) -> Iterator[_Member]:
    with gzip.open(place) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
        for info in archive:
            name = _name_below(info.name, source)
            if not name or not info.isreg():
                continue
            content = archive.extractfile(info)
            assert content is not None  # it is a regular file
            offset = spool.tell()
            spool.write(content.read())
            yield _Member(
                name, info.name, info.size, functools.partial(_read_range, spool, offset, info.size)
            )
        while unpacked.read(2**20):  # to its end, where the checksum is
            pass
    spool.flush()


def _read_range_of(path: pathlib.Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        return _read_range(file, offset, size)


def _read_range(file: IO[bytes], offset: int, size: int) -> bytes:
    data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise EOFError("it ends early")
    return data


def _stray(path: str) -> bool:
    """Whether a file is not the publisher's but an operating system's."""
    return any(is_stray(part) for part in path.removeprefix("./").split("/"))


def _name_below(path: str, source: Source) -> str | None:
    """Return the part of `path` below `source.folder` if it is in one of `source.parts`, else None."""
    if _stray(path):
        return None
    path = "/" + unicodedata.normalize("NFC", path).removeprefix("./")
    folder = f"/{source.folder}/" if source.folder else "/"
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


def _get_again(place: pathlib.Path) -> str:
    return "extract the archive again" if place.is_dir() else "download it again"
