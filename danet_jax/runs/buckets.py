"""Runs in a bucket: `gs://BUCKET/RUN` and `s3://BUCKET/RUN` beside directories, by etils.epath and fsspec."""

from __future__ import annotations

import importlib.util
import logging
import os
import typing
from pathlib import Path

from danet_jax.errors import InputError, first_line

# Scheme -> the module that reads it, and the extra of this package that brings it.
_SCHEMES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}


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
    if scheme not in _SCHEMES or not rest.strip("/"):
        existing = ", ".join(f"{name}://BUCKET/RUN" for name in _SCHEMES)
        raise InputError(f"{os.fspath(path)}: no such place; there are directories, and {existing}")
    module, extra = _SCHEMES[scheme]
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{os.fspath(path)}: needs {module}: pip install 'danet-jax[{extra}]'")
    from etils import epath

    logging.getLogger(module).setLevel(logging.ERROR)  # it warns that an emulator has no types of buckets
    return typing.cast(Path, epath.Path(path))


def absolute(path: Path) -> Path:
    """`path` from the root of its file system or bucket."""
    return path if is_bucket(path) else path.absolute()


def refuse_unreachable(path: Path) -> None:
    """Raises InputError unless something can be written to `path`, which is in a bucket, and taken away again."""
    probe = path / f".writable.{os.getpid()}"
    try:
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # whatever a network, a permission or a missing bucket make fsspec raise
        raise InputError(f"{path}: cannot be written to: {first_line(error)}") from error
