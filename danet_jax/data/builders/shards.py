"""How prepared examples are divided into files, and how finished files outlive an interruption."""

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer

SHARD_BYTES = 256 * 2**20


def shard_ranges(sizes: Sequence[int]) -> list[range]:
    """Return runs of examples of about equal size, as many as make `SHARD_BYTES` each."""
    if not sizes:
        return []
    ends = np.cumsum(np.maximum(sizes, 1))
    count = min(len(sizes), round(int(ends[-1]) / SHARD_BYTES) or 1)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count)
    edges = sorted({0, *(int(cut) + 1 for cut in cuts), len(sizes)})
    return [range(*pair) for pair in itertools.pairwise(edges)]


class KeepingWriter(writer.ExampleWriter):
    """Writes shards where an interruption does not reach them, then links them to where TFDS wants them.

    Attributes:
      folder: Where the shards are kept; to be set before use.
    """

    folder: pathlib.Path

    def __init__(self) -> None:
        super().__init__(tfds.core.FileFormat.ARRAY_RECORD)

    def has(self, shard: str) -> bool:
        """Whether an earlier attempt finished the shard of this file name."""
        return (self.folder / shard).exists()

    def write(self, path: Any, examples: Any) -> None:
        """Write the examples to `path`, unless the shard is there already."""
        kept = self.folder / pathlib.Path(path).name
        if not kept.exists():
            self.folder.mkdir(exist_ok=True)
            half = kept.with_name(kept.name + ".half")
            super().write(half, examples)
            half.rename(kept)
        try:
            os.link(kept, path)
        except OSError:  # a file system without links
            shutil.copyfile(kept, path)
