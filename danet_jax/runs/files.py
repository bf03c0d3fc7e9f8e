"""The files of a run in a directory or in a bucket (`gs://BUCKET/RUN`): their paths, how they are read and written.

A run's directory may come from a stranger, so its JSON files are refused by name if they are anything else.
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
"""Seconds without an answer after which a request to a bucket is repeated; gcsfs repeats it six times."""

LARGEST = 1 << 25
"""The most bytes of a JSON file; the largest that a run writes contains the digests of some thousand files."""


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Returns whether `path` is in a bucket, `SCHEME://...`."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike[str]) -> Path:
    """Returns `path` as a `pathlib.Path` or, in a bucket, as a path of `etils.epath`, which has the same methods.

    Raises:
      InputError: the scheme does not exist or is not supported, or what reads it is not installed.
    """
    if not is_bucket(path):
        return Path(path)
    text = os.fspath(path)
    scheme, _, rest = text.partition("://")
    if scheme == "s3":  # Orbax writes arrays into a folder called `s3:`
        raise InputError(
            f"{text}: checkpoints cannot be written to S3; mount the bucket, or use gs://", what=text
        )
    if scheme != "gs" or not rest.strip("/"):
        raise InputError(
            f"{text}: no such place; use a directory or gs://BUCKET/RUN",
            what=text,
            allowed="a directory or gs://BUCKET/RUN",
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{text}: needs gcsfs: pip install gcsfs", what=text)
    import aiohttp
    import fsspec
    from etils import epath

    silence = aiohttp.ClientTimeout(sock_connect=LONGEST_SILENCE, sock_read=LONGEST_SILENCE)
    fsspec.config.conf.setdefault("gcs", {})["requests_timeout"] = silence
    # It warns that an emulator has no types of buckets, and traces errors that are raised all the same.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return typing.cast(Path, epath.Path(path))


def absolute(path: Path) -> Path:
    """Returns `path` from the root of its file system or bucket."""
    return path if is_bucket(path) else path.absolute()


def shared_folder(folders: Sequence[Path]) -> Path:
    """Returns the deepest folder that contains all of `folders`.

    Raises:
      InputError: some are in other buckets, or on disks.
    """
    if not any(map(is_bucket, folders)):
        return Path(os.path.commonpath([folder.resolve() for folder in folders]))
    places = [os.fspath(folder).removeprefix("gs://") for folder in folders]
    if not all(map(is_bucket, folders)) or not (shared := os.path.commonpath(places)):
        named = ", ".join(map(os.fspath, folders))
        raise InputError(f"{named}: give runs of one bucket, or on disks", what=named)
    return as_path(f"gs://{shared}")


def refuse_unreachable(path: Path) -> None:
    """Raises InputError unless something can be written to `path`, which is in a bucket, and removed again."""
    probe = path / f".writable.{os.getpid()}"
    try:
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # whatever a network, a permission or a missing bucket make fsspec raise
        raise InputError(f"{path}: cannot be written to: {first_line(error)}", what=str(path)) from error


def read_json(file: Path) -> dict[str, Any]:
    """Returns the content of a JSON file that contains an object.

    Raises:
      FileNotFoundError: there is no such file.
      InputError: it cannot be read, is too large, is no JSON, contains something else or a key twice; the message names
        it.
    """
    name = os.fspath(file)

    def refusal(problem: str) -> InputError:
        return InputError(f"{name}: {problem}", what=name)

    if os.path.exists(file) and not os.path.isfile(file):  # a pipe would be waited for
        raise refusal("is not a file")
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise refusal(f"cannot be read: {error.strerror or error}") from error
    if len(content) > LARGEST:
        raise refusal(f"is larger than {LARGEST >> 20} MiB, which no file of a run is")
    try:
        value = json.loads(content, object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise refusal("is damaged, its JSON is nested too deeply") from error
    except ValueError as error:
        raise refusal(f"is damaged, no JSON can be read from it: {error}") from error
    if not isinstance(value, dict):
        raise refusal(f"was not written by a run: it contains {type(value).__name__}, not an object")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path on disk to write to; what is there in the end becomes `path`, unless an error is raised.

    Raises:
      InputError: it cannot be written; the message names `path`.
    """
    if is_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder, path.name)
            yield partial
            try:
                path.write_bytes(partial.read_bytes())  # an object is written completely or not at all
            except Exception as error:  # whatever a network or a permission make fsspec raise
                raise InputError(f"{path}: cannot be written: {first_line(error)}", what=str(path)) from error
        return
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}", what=str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_text(path: Path, content: str) -> None:
    """Writes `content` to `path` in UTF-8, completely or not at all."""
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes `content` to `path` as JSON, completely or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
