"""Reads and writes the files of a run, which is a directory or a folder in a bucket (`gs://BUCKET/RUN`).

A run's directory may come from an untrusted source, so its JSON files are validated, and errors name the file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import tempfile
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from danet_jax.errors import InputError, first_line

LONGEST_SILENCE = 30.0
"""Seconds without a response after which a request to a bucket is repeated; gcsfs repeats it up to six times."""


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Returns whether `path` is in a bucket, that is, has the form `SCHEME://...`."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike[str]) -> Path:
    """Returns `path` as a `pathlib.Path` or, in a bucket, as an `etils.epath` path with the same methods.

    Raises:
      InputError: the scheme is unknown or not supported, or the library that reads it is not installed.
    """
    if not is_bucket(path):
        return Path(path)
    text = os.fspath(path)
    scheme, _, rest = text.partition("://")
    if scheme == "s3":  # Orbax would write the arrays to a local folder called `s3:`.
        raise InputError.for_file(text, "checkpoints cannot be written to S3; mount the bucket, or use gs://")
    if scheme != "gs" or not rest.strip("/"):
        raise InputError(
            f"{text}: is neither a directory nor gs://BUCKET/RUN",
            what=text,
            allowed="a directory or gs://BUCKET/RUN",
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError.for_file(text, "needs gcsfs: pip install gcsfs")
    import aiohttp
    import fsspec
    from etils import epath

    silence = aiohttp.ClientTimeout(sock_connect=LONGEST_SILENCE, sock_read=LONGEST_SILENCE)
    fsspec.config.conf.setdefault("gcs", {})["requests_timeout"] = silence
    # gcsfs warns that an emulator has no bucket types, and logs tracebacks of errors that it raises as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return typing.cast(Path, epath.Path(path))


def absolute(path: Path) -> Path:
    """Returns `path` as an absolute path. Paths in a bucket are returned unchanged."""
    return path if is_bucket(path) else path.absolute()


def shared_folder(folders: Sequence[Path]) -> Path:
    """Returns the deepest folder that contains all of `folders`.

    Raises:
      InputError: the folders are in different buckets, or only some of them are in a bucket.
    """
    if not any(map(is_bucket, folders)):
        return Path(os.path.commonpath([folder.resolve() for folder in folders]))
    names = [os.fspath(folder).removeprefix("gs://") for folder in folders]
    if not all(map(is_bucket, folders)) or not (shared := os.path.commonpath(names)):
        named = ", ".join(map(os.fspath, folders))
        raise InputError.for_file(named, "must all be in the same bucket, or all on disk")
    return as_path(f"gs://{shared}")


def refuse_unreachable(path: Path) -> None:
    """Raises InputError unless a file can be written to `path`, which is in a bucket, and removed again."""
    probe = path / f".writable.{os.getpid()}"
    try:
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # fsspec raises many types of errors, for example without a network.
        raise InputError.for_file(path, f"cannot be written to: {first_line(error)}") from error


def read_json(file: Path) -> dict[str, Any]:
    """Returns the content of a JSON file that contains an object.

    Raises:
      FileNotFoundError: the file does not exist.
      InputError: the file cannot be read, is not valid JSON, repeats a key or does not contain an object; the message
        names the file.
    """
    name = os.fspath(file)

    def refusal(problem: str) -> InputError:
        return InputError.for_file(name, problem)

    if os.path.exists(file) and not os.path.isfile(file):  # Reading a pipe would block.
        raise refusal("is not a file")
    try:
        value = json.loads(file.read_bytes(), object_pairs_hook=_without_repetition)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise refusal(f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise refusal(f"is damaged, because it is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise refusal(f"was not written by a run: it contains {type(value).__name__}, not an object")
    return value


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path on disk whose file replaces `path` at the end, unless an error is raised.

    Raises:
      InputError: `path` cannot be written; the message names it.
    """
    if is_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder, path.name)
            yield partial
            try:
                path.write_bytes(partial.read_bytes())  # Writing an object is atomic.
            except Exception as error:  # fsspec raises many types of errors.
                raise InputError.for_file(path, f"cannot be written: {first_line(error)}") from error
        return
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise InputError.for_file(path, f"cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object as a dictionary; raises ValueError where `json` would keep the last of two values."""
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is repeated")
    return content


def write_text(path: Path, content: str) -> None:
    """Writes `content` to `path` in UTF-8, atomically."""
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes `content` to `path` as JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
