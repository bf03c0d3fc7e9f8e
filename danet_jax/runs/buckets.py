"""Runs in a bucket: `gs://BUCKET/RUN` beside directories, by etils.epath and fsspec."""

from __future__ import annotations

import importlib.util
import logging
import os
import typing
from collections.abc import Sequence
from pathlib import Path

from danet_jax.errors import InputError, first_line

LONGEST_SILENCE = 30.0
"""Seconds without an answer after which a request to a bucket is made anew; gcsfs does so six times."""


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is one in a bucket, `SCHEME://...`."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike[str]) -> Path:
    """`path` as a `pathlib.Path`, or if it is in a bucket one of `etils.epath`, which has the same methods.

    Raises:
      InputError: the scheme is not one of those that exist, or what reads it is not installed.
    """
    if not is_bucket(path):
        return Path(path)
    scheme, _, rest = os.fspath(path).partition("://")
    if scheme == "s3":  # Orbax writes arrays into a folder called `s3:`
        raise InputError(
            f"{os.fspath(path)}: checkpoints are not written to S3; mount the bucket, or use gs://"
        )
    if scheme != "gs" or not rest.strip("/"):
        raise InputError(f"{os.fspath(path)}: no such place; there are directories, and gs://BUCKET/RUN")
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{os.fspath(path)}: needs gcsfs: pip install 'danet-jax[gcs]'")
    import aiohttp
    import fsspec
    from etils import epath

    silence = aiohttp.ClientTimeout(sock_connect=LONGEST_SILENCE, sock_read=LONGEST_SILENCE)
    fsspec.config.conf.setdefault("gcs", {})["requests_timeout"] = silence
    # It warns that an emulator has no types of buckets, and traces what is raised all the same.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return typing.cast(Path, epath.Path(path))


def absolute(path: Path) -> Path:
    """`path` from the root of its file system or bucket."""
    return path if is_bucket(path) else path.absolute()


def shared_folder(folders: Sequence[Path]) -> Path:
    """The deepest folder that holds all of them.

    Raises:
      InputError: some are in other buckets, or on disks.
    """
    if not any(map(is_bucket, folders)):
        return Path(os.path.commonpath([folder.resolve() for folder in folders]))
    places = [os.fspath(folder).removeprefix("gs://") for folder in folders]
    if not all(map(is_bucket, folders)) or not (shared := os.path.commonpath(places)):
        raise InputError(f"{', '.join(map(os.fspath, folders))}: give runs of one bucket, or on disks")
    return as_path(f"gs://{shared}")


def refuse_unreachable(path: Path) -> None:
    """Raises InputError unless something can be written to `path`, which is in a bucket, and taken away again."""
    probe = path / f".writable.{os.getpid()}"
    try:
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # whatever a network, a permission or a missing bucket make fsspec raise
        raise InputError(f"{path}: cannot be written to: {first_line(error)}") from error
