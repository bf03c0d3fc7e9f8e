"""Writes prepared data as shards of about equal size, with digests of all files.

*.array_record*                     shards
dataset_info.json, features.json    the description by TFDS
metadata.json                       the classes, and bytes, digest and summary of each shard
digests.json                        digests of the descriptions, which version 0.2.0 did not write
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from danet_jax.data.summary import Summary
from danet_jax.errors import InputError, first_line

SHARD_BYTES = 256 * 2**20
_METADATA, _DIGESTS = "metadata.json", "digests.json"
_DESCRIPTIONS = ("dataset_info.json", "features.json", _METADATA)


def shard_ranges(sizes: Sequence[int]) -> list[range]:
    """Divides examples of the given sizes in bytes into ranges of about equal size, close to `SHARD_BYTES` each."""
    ends = np.cumsum(np.maximum(sizes, 1))
    count = min(len(sizes), round(int(ends[-1]) / SHARD_BYTES) or 1)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count)
    edges = sorted({0, *(int(cut) + 1 for cut in cuts), len(sizes)})
    return [range(*pair) for pair in itertools.pairwise(edges)]


class ShardWriter(tfds.core.ExampleWriter):
    """Writes shards and describes them."""

    def __init__(self) -> None:
        super().__init__(tfds.core.FileFormat.ARRAY_RECORD)
        self.summary = Summary()
        """Summary of the shard that is being written; the generator of its examples fills it."""
        self.described: dict[str, dict[str, Any]] = {}
        """`bytes`, `digest` and `summary` of each finished shard by file name, as JSON values."""

    def write(self, path: Any, examples: Any) -> None:
        """Writes the examples to `path`."""
        super().write(path, examples)
        written = pathlib.Path(path)
        self.described[written.name] = {
            "bytes": written.stat().st_size,
            "digest": _digest(written),
            "summary": self.summary.as_json(),
        }


class Info(tfds.core.DatasetInfo):
    """The description of a data set with digests, which is stored only in the directory of the data set.

    Args:
      describe_shards: Called before anything is written; returns `ShardWriter.described`, or raises if the data are
        invalid.
      values: Passed to `tfds.core.DatasetInfo`.
    """

    def __init__(self, describe_shards: Callable[[], dict[str, dict[str, Any]]], **values: Any):
        super().__init__(**values)
        self._describe_shards = describe_shards

    def initialize_from_bucket(self) -> None:
        """Does nothing, because TFDS would leave an empty folder among the temporary files."""

    def write_to_directory(self, dataset_info_dir: Any, all_metadata: bool = True) -> None:
        """Writes the description and its digests."""
        self.metadata["shards"] = self._describe_shards()
        super().write_to_directory(dataset_info_dir, all_metadata)
        directory = pathlib.Path(dataset_info_dir)
        digests = {name: _digest(directory / name) for name in _DESCRIPTIONS}
        (directory / _DIGESTS).write_text(json.dumps(digests), encoding="utf-8")


def refuse_damaged_descriptions(directory: pathlib.Path) -> None:
    """Raises InputError if a description of prepared data has changed since it was written."""
    path = directory / _DIGESTS
    try:
        digests = json.loads(path.read_bytes())
        if digests.keys() != set(_DESCRIPTIONS):
            raise ValueError("changed since it was written")
        for path, digest in ((directory / name, digest) for name, digest in digests.items()):
            if _digest(path) != digest:
                raise ValueError("changed since it was written")
    except (OSError, ValueError, AttributeError) as error:
        if path.name != _DIGESTS or path.exists():  # Version 0.2.0 wrote no digests.
            raise damaged_description(path, error) from None


def described_shards(directory: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns `ShardWriter.described` of prepared data; empty if the version that prepared them wrote none."""
    path = directory / _METADATA
    try:
        shards = json.loads(path.read_bytes()).get("shards", {})
        for shard in shards.values():
            int(shard["bytes"]), str(shard["digest"]), Summary.from_json(shard["summary"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise damaged_description(path, error) from None
    return dict(shards)


def damaged_description(path: pathlib.Path, error: Exception) -> InputError:
    """Returns the error for a description of prepared data that cannot be read."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return InputError.for_file(path, f"damaged ({reason}); {_prepare_again(path.parent)}")


def damaged_shards(directory: pathlib.Path) -> list[str]:
    """Reads all shards and returns a line for each that has changed since it was written."""
    lines = []
    for path, shard in ((directory / name, shard) for name, shard in described_shards(directory).items()):
        if not path.exists():
            lines.append(f"{path}: missing; {_prepare_again(directory)}")
        elif path.stat().st_size != shard["bytes"] or _digest(path) != shard["digest"]:
            sizes = f"{path.stat().st_size} bytes, {shard['bytes']} were written"
            lines.append(f"{path}: changed since it was written ({sizes}); {_prepare_again(directory)}")
    return lines


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return "blake2b:" + hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _prepare_again(directory: pathlib.Path) -> str:
    return f"delete {directory} and run --mode=prepare"


class ReadOnce:
    """A file for TFDS that discards its bytes once read, because TFDS keeps all examples of a shard in memory."""

    def __init__(self, data: bytes):
        self._data = data

    def read(self) -> bytes:
        """Returns the content."""
        data, self._data = self._data, b""
        return data


@contextlib.contextmanager
def silence_tfds() -> Iterator[None]:
    """Suppresses TFDS's warnings about intended behaviour, and its progress bars."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
