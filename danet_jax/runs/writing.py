"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danet_jax.errors import InputError, first_line
from danet_jax.runs.buckets import is_bucket


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name on disk to write to; what is there in the end becomes `path`, and after an error nothing does.

    Raises:
      InputError: it cannot be written; the message names `path`.
    """
    if is_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder, path.name)
            yield partial
            try:
                path.write_bytes(partial.read_bytes())  # an object comes into being whole
            except Exception as error:  # whatever a network or a permission make fsspec raise
                raise InputError(f"{path}: cannot be written: {first_line(error)}") from error
        return
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_text(path: Path, content: str) -> None:
    """Writes `content` to `path` in UTF-8, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes `content` to `path` as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
