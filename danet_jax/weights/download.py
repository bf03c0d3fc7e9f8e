"""Downloads weights and archives of data sets. Downloads can be resumed, are verified, and appear once complete."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock

from danet_jax.errors import InputError, one_line
from danet_jax.runs.files import as_path
from danet_jax.runs.terminal import shown

_BLOCK = 1 << 20
_TIMEOUT = 30.0  # Seconds without receiving a byte.
_ATTEMPTS = 4  # Consecutive attempts without progress.

# The keys with which file systems describe the version of a file in `info`. The cache stores each version separately.
_STATE = ("size", "ETag", "Last-Modified", "generation", "md5Hash", "blob_id", "mtime", "created")


def cache_directory() -> Path:
    """Returns `$DANET_JAX_CACHE`, else `danet_jax` in `$XDG_CACHE_HOME`, else `~/.cache/danet_jax`."""
    own = os.environ.get("DANET_JAX_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "danet_jax")


def cached_path(url: str) -> Path:
    """Returns the path in the cache of the file at `url`, whose file name is unique."""
    return cache_directory() / url.rsplit("/", 1)[-1]


def download(address: str, path: Path | None = None, digest: str = "") -> Path:
    """Downloads the file at `address`, unless it has been downloaded already, and returns its path.

    The file is written to `NAME.part`, which a later call resumes, and renamed once its size and digest are verified.
    If another process is downloading the same file, this one waits for it.

    Args:
      address: any address that fsspec supports: `https://`, `gs://`, `hf://OWNER/NAME/FILE` (needs huggingface_hub),
        `memory://`. The path of a `file://` address is returned without copying the file.
      path: the path of the download. By default, a path in the cache that differs for each version of the file.
      digest: `ALGORITHM:HEXADECIMAL`, such as `sha256:f37072fd`; a prefix of the digest is sufficient. By default, the
        digest that Hugging Face and Google Cloud Storage publish is verified.

    Raises:
      InputError: the address does not exist or cannot be reached, the disk is full, or the content does not match the
        digest. `what` is the address, or the file that cannot be written.
    """
    if path is not None and path.exists():
        return path
    source = _Source.at(address)
    if source.protocol == "file" and path is None:
        return Path(source.path)
    digest = digest or source.digest
    path = path or source.cached
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        with FileLock(lock):
            if not path.exists():
                _transfer(source, part)
                _check(part, address, digest)
                part.replace(path)
            _delete(lock)  # Processes that wait for the lock find that `path` exists.
    except OSError as error:
        _delete(part)
        raise InputError(f"{part} cannot be written: {error.strerror or error}", what=str(part)) from error
    return path


class _Source(NamedTuple):
    """A file in an fsspec file system, with the file system's information about it."""

    address: str
    fs: Any
    path: str
    info: Mapping[str, Any]

    @classmethod
    def at(cls, address: str) -> _Source:
        import fsspec

        scheme = urlsplit(address).scheme
        options: dict[str, Any] = {}
        if scheme == "gs":
            as_path(address)  # This sets timeouts, and raises an error if gcsfs is not installed.
        elif scheme in ("http", "https"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(sock_connect=_TIMEOUT, sock_read=_TIMEOUT)
            # `trust_env` uses the proxies in the environment variables.
            options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
        try:
            fs, path = fsspec.url_to_fs(address, **options)
            return cls(address, fs, path, fs.info(path))
        except Exception as error:  # fsspec's file systems raise many types of errors.
            raise InputError(f"{address} cannot be downloaded: {_reason(error)}", what=address) from error

    @property
    def protocol(self) -> str:
        """The first protocol name of the file system."""
        return self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]

    @property
    def size(self) -> int | None:
        return self.info.get("size")

    @property
    def name(self) -> str:
        """The last part of the path in the address."""
        return urlsplit(self.address).path.rsplit("/", 1)[-1]

    @property
    def digest(self) -> str:
        """The digest that the file system publishes, or "" if it publishes none."""
        if lfs := self.info.get("lfs"):
            return f"sha256:{lfs['sha256']}"
        md5 = self.info.get("md5Hash") or self.info.get("Content-MD5")
        return f"md5:{base64.b64decode(md5).hex()}" if md5 else ""

    @property
    def cached(self) -> Path:
        """The path in the cache of this version of the file, in a folder of its own so that it keeps its name."""
        state = [self.address, *(str(self.info.get(name)) for name in _STATE)]
        key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
        return cache_directory() / key / (self.name[-100:] or "file")

    def open(self, start: int) -> tuple[IO[bytes], int]:
        """Returns the file opened at `start`, or at 0 if the server sends the complete file, and the position."""
        if self.protocol not in ("http", "https"):
            file = self.fs.open(self.path, "rb", block_size=16 * _BLOCK)
            file.seek(start)
            return file, start
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        file = self.fs.open(self.path, "rb", block_size=0, size=self.size, headers=headers)
        resumed = file.r.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        return file, start if resumed else 0


class _BrokenOffError(Exception):
    """Raised when the connection ends before the file is complete; `__cause__` is the reason."""


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _transfer(source: _Source, part: Path) -> None:
    """Appends the missing bytes to `part`, shows the progress, and retries when the connection breaks."""
    import aiohttp

    # The server would repeat these answers, so there is no point in retrying.
    answers = FileNotFoundError, PermissionError, aiohttp.ClientResponseError
    text, total = f"downloading {source.name}", None if source.size is None else source.size / 1e6
    try:
        with (
            part.open("ab") as file,
            shown(text, total, start=file.tell() // 1_000_000, unit="MB") as update,
        ):
            furthest = failures = 0
            while True:
                try:
                    _append(source, file, lambda: update(file.tell() / 1e6))
                    return
                except _BrokenOffError as error:
                    failures = failures + 1 if file.tell() <= furthest else 1
                    furthest = max(furthest, file.tell())
                    if failures < _ATTEMPTS and file.tell() and not isinstance(error.__cause__, answers):
                        continue
                    kept = f"; {file.tell():,} bytes are kept, and the next attempt resumes there"
                    raise InputError(
                        f"{source.address} cannot be downloaded: {_reason(error)}{kept if file.tell() else ''}",
                        what=source.address,
                    ) from error
    finally:
        if part.exists() and part.stat().st_size == 0:
            _delete(part)


def _append(source: _Source, file: IO[bytes], report: Callable[[], None]) -> None:
    if file.tell() == source.size:
        return
    resumable = source.size is not None and file.tell() < source.size
    with contextlib.ExitStack() as stack:
        with _reading():
            stream, start = source.open(file.tell() if resumable else 0)
            stack.enter_context(stream)
        file.truncate(start)
        file.seek(start)
        while True:
            with _reading():
                block = stream.read(_BLOCK)
            if not block:
                break
            file.write(block)
            report()
        file.flush()
    if source.size is not None and file.tell() < source.size:
        raise _BrokenOffError(f"the connection closed after {file.tell():,} of {source.size:,} bytes")


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Raises network errors as `_BrokenOffError`, to distinguish them from disk errors, which are OSErrors too."""
    try:
        yield
    except Exception as error:
        raise _BrokenOffError from error


def _reason(error: BaseException) -> str:
    import aiohttp

    while error.__cause__ is not None:  # fsspec raises FileNotFoundError for every failed request.
        error = error.__cause__
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the server answered {error.status} {error.message}"
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    return one_line(error)


def _check(part: Path, address: str, digest: str) -> None:
    if not digest:
        return
    algorithm, _, expected = digest.partition(":")
    with part.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if not found.startswith(expected):
        _delete(part)
        raise InputError(
            f"{address}: the downloaded file has the {algorithm.upper()} {found[: len(expected)]} instead of "
            f"{expected}, so it was changed or damaged; it has been deleted, try again",
            what=address,
            value=found,
            allowed=expected,
        )
