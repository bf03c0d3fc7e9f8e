"""Downloads into a cache: resumed where they broke off, checked, and there only when they are whole."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from danet_jax.errors import InputError

_BLOCK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 4  # in a row without progress


class _BrokenOffError(Exception):
    """The connection ended before the file did."""


_CONNECTION_ERRORS = (
    _BrokenOffError,
    ConnectionError,
    TimeoutError,
    http.client.HTTPException,
    urllib.error.URLError,
)


def cache_directory() -> Path:
    """`$DANET_JAX_CACHE`, else `danet_jax` in `$XDG_CACHE_HOME`, else `~/.cache/danet_jax`."""
    own = os.environ.get("DANET_JAX_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "danet_jax")


def cached_path(url: str) -> Path:
    """Where the file at `url` is, once it is downloaded."""
    return cache_directory() / url.rsplit("/", 1)[-1]


def fetch(url: str, sha256: str) -> Path:
    """The file at `url`, from the cache or downloaded into it.

    It is written to `NAME.part`, which a later call goes on with, and renamed when its hash is right.

    Args:
      url: where it is; its last part is the file's name in the cache.
      sha256: the beginning of its SHA-256 in hexadecimal.

    Raises:
      InputError: no connection, an error of the server, no space left, or another content than expected.
    """
    path = cached_path(url)
    if path.exists():
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file:
            if not path.exists():
                _download(url, file)
                _check(part, url, sha256)
                part.replace(path)
    except OSError as error:
        _delete(part)
        raise InputError(f"{part}: cannot be written: {error.strerror or error}") from error
    return path


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """`part` opened to append to; a second process waits here until the first is done. Never left empty."""
    while True:
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(part, file):  # renamed or deleted by the one that was waited for
                continue
            file.seek(0, os.SEEK_END)  # what that one left
            try:
                yield file
            finally:
                if _is_at(part, file) and part.stat().st_size == 0:
                    _delete(part)
            return


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _download(url: str, file: IO[bytes]) -> None:
    """Appends to `file` what it lacks, trying again when the connection breaks off."""
    failures = 0
    while True:
        before = file.tell()
        try:
            _append(url, file)
            return
        except urllib.error.HTTPError as error:
            error.close()
            raise InputError(f"{url}: the server answers {error.code} {error.reason}") from error
        except _CONNECTION_ERRORS as error:
            failures = failures + 1 if file.tell() == before else 1
            if failures >= _ATTEMPTS or (before == file.tell() == 0):
                reason = getattr(error, "reason", None) or error
                kept = (
                    f"; {file.tell():,} bytes are kept, and the next try goes on there" if file.tell() else ""
                )
                raise InputError(f"{url}: cannot be downloaded: {reason}{kept}") from error


def _append(url: str, file: IO[bytes]) -> None:
    start = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if (
            error.code != 416
        ):  # nothing lies beyond `start`: it is whole, or not this file; the hash will tell
            raise
        error.close()
        return
    with response:
        if start and not _continues(response, start):
            file.truncate(start := 0)
            file.seek(0)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with _progress(url, start, total) as progress:
            while block := _read(response):
                file.write(block)
                progress(len(block))
        file.flush()
        if total is not None and file.tell() < total:
            raise _BrokenOffError(f"the connection broke off at {file.tell():,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except OSError as error:  # of TLS or the network, not of the disk
        raise _BrokenOffError(str(error)) from error


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    """Whether the server sends the rest from `start`, and not, as it may, the whole file again."""
    sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    return response.status == 206 and sent is not None and int(sent[1]) == start


def _check(part: Path, url: str, sha256: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        _delete(part)
        raise InputError(
            f"{url}: the download has SHA-256 {found[: len(sha256)]}... and not {sha256}...: changed or damaged; "
            "it is deleted, try again"
        )


@contextlib.contextmanager
def _progress(url: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, moved on by the number of bytes; none where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(url.rsplit("/", 1)[-1], total=total, completed=start)
        yield lambda count: progress.advance(task, count)
