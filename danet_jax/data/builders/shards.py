"""How prepared examples are divided into files, described, and how finished files outlive an interruption."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from danet_jax.data.builders.label_files import Palettes
from danet_jax.data.summary import Summary

SHARD_BYTES = 256 * 2**20
DESCRIPTION = ".json"
"""Ending of the file beside a kept shard that describes it; written last, so that the shard is whole if it is there."""


def shard_ranges(sizes: Sequence[int]) -> list[range]:
    """Return runs of examples of about equal size, as many as make `SHARD_BYTES` each."""
    if not sizes:
        return []
    ends = np.cumsum(np.maximum(sizes, 1))
    count = min(len(sizes), round(int(ends[-1]) / SHARD_BYTES) or 1)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count)
    edges = sorted({0, *(int(cut) + 1 for cut in cuts), len(sizes)})
    return [range(*pair) for pair in itertools.pairwise(edges)]


class KeepingWriter(tfds.core.ExampleWriter):
    """Writes shards where an interruption does not reach them, then links them to where TFDS wants them.

    Attributes:
      folder: Where the shards are kept; to be set before use.
      summaries: Of each shard by file name, what it holds; filled while its examples are read.
      described: Of each shard by file name: `bytes`, `digest`, `summary`, and the `palettes` of the label files that
        were read until it was finished, as JSON values.

    Args:
      palettes: Of the label files; those of an earlier attempt are added.
    """

    folder: pathlib.Path

    def __init__(self, palettes: Palettes) -> None:
        super().__init__(tfds.core.FileFormat.ARRAY_RECORD)
        self._palettes = palettes
        self.summaries: dict[str, Summary] = {}
        self.described: dict[str, dict[str, Any]] = {}

    def go_on(self, folder: pathlib.Path) -> None:
        """Set the folder, and learn from what an earlier attempt left there."""
        self.folder = folder
        for description in folder.glob("*" + DESCRIPTION):
            try:
                palettes = json.loads(description.read_text(encoding="utf-8"))["palettes"]
            except (ValueError, KeyError):  # damaged, or of another version
                description.unlink()
                continue
            self._palettes.take_up(palettes)

    def has(self, shard: str) -> bool:
        """Whether an earlier attempt finished the shard of this file name."""
        return (self.folder / (shard + DESCRIPTION)).exists()

    def write(self, path: Any, examples: Any) -> None:
        """Write the examples to `path`, unless the shard is there already."""
        kept = self.folder / pathlib.Path(path).name
        description = kept.with_name(kept.name + DESCRIPTION)
        if not description.exists():
            self.folder.mkdir(exist_ok=True)
            half = kept.with_name(kept.name + ".half")
            super().write(half, examples)
            half.rename(kept)
            summary = self.summaries.pop(kept.name)
            described = {
                "bytes": kept.stat().st_size,
                "digest": digest(kept),
                "summary": summary.as_json(),
                "palettes": self._palettes.as_json(),
            }
            half.write_text(json.dumps(described), encoding="utf-8")
            half.rename(description)
        self.described[kept.name] = json.loads(description.read_text(encoding="utf-8"))
        try:
            os.link(kept, path)
        except OSError:  # a file system without links
            shutil.copyfile(kept, path)


class ShardMetadata(tfds.core.MetadataDict):
    """What is written beside the shards: `shards`, as `KeepingWriter.described`, and what is given."""

    def __init__(self, writer: KeepingWriter, **values: Any):
        super().__init__(**values)
        self._writer = writer

    def save_metadata(self, data_dir: Any) -> None:
        """Write everything into `data_dir`."""
        self["shards"] = self._writer.described
        super().save_metadata(data_dir)


def digest(path: pathlib.Path) -> str:
    """Return the digest of a shard's file."""
    with path.open("rb") as file:
        return "blake2b:" + hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def damaged(directory: pathlib.Path, described: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Read all shards and return a line for each that is not as it was written."""
    lines = []
    for name, shard in described.items():
        path = directory / name
        if not path.exists():
            lines.append(f"{path}: missing; {again(directory)}")
        elif path.stat().st_size != shard["bytes"] or digest(path) != shard["digest"]:
            lines.append(
                f"{path}: not as it was written ({path.stat().st_size} bytes, {shard['bytes']} were written); "
                f"{again(directory)}"
            )
    return lines


def again(directory: pathlib.Path | str) -> str:
    """Return what to do about a damaged shard."""
    return f"delete {directory} and run --mode=prepare"
