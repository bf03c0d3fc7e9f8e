"""What is put in place of parts of TFDS, which would print, warn, keep or create what nobody wants."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging


class WithoutDownloads:
    """What a builder does that has its own way to files."""

    def _make_download_manager(self, *args: Any, **kwargs: Any) -> Any:
        """Return nothing that downloads: TFDS would create folders for it."""
        del args, kwargs
        return types.SimpleNamespace(downloaded_size=0)

    def _log_download_bytes(self) -> None:
        """Say nothing: TFDS would print that it downloads, which it does not."""

    def _log_download_done(self) -> None:
        """Say nothing, for the same reason."""


class Info(tfds.core.DatasetInfo):
    """The description of a data set, which is looked for nowhere else."""

    def initialize_from_bucket(self) -> None:
        """Do nothing: TFDS would leave an empty folder among the temporary files."""


class ReadOnce:
    """A file for TFDS that forgets its bytes once read: TFDS keeps the examples of a whole shard."""

    def __init__(self, data: bytes):
        self._data = data

    def read(self) -> bytes:
        """Return the content."""
        data, self._data = self._data, b""
        return data


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep TFDS from warning of what is meant to be so, and from drawing bars into log files."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
