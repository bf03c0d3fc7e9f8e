"""In which order windows are scored and tiles are merged, so that few logits are kept at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from danet_jax.inference.windows.placement import Window


class Job(NamedTuple):
    """A window to be scored: of which image, and the (offset, pitch, height, width) of what it is cut from."""

    image: int
    window: Window
    stored: tuple[int, int, int, int]


class Tile(NamedTuple):
    """A tile of an image, and the jobs that it depends on, ordered by view."""

    image: int
    top: int
    left: int
    jobs: tuple[int, ...]


class TileRow(NamedTuple):
    """The tiles side by side, and all jobs that they depend on."""

    tiles: tuple[Tile, ...]
    jobs: tuple[int, ...]


def tile_rows(
    jobs: Sequence[Job], sizes: Sequence[tuple[int, int]], tile: tuple[int, int], *, align_corners: bool
) -> Iterator[TileRow]:
    """All tiles (of `tile` rows and columns) of images of `sizes`, from top to bottom, image by image."""
    image_of = np.array([job.image for job in jobs])
    rows = np.array([job.window.output_rows(align_corners) for job in jobs])
    columns = np.array([job.window.output_columns(align_corners) for job in jobs])
    for image, (height, width) in enumerate(sizes):
        for top in range(0, height, tile[0]):
            in_row = (image_of == image) & (rows[:, 0] < top + tile[0]) & (rows[:, 1] > top)
            tiles = []
            for left in range(0, width, tile[1]):
                needed = in_row & (columns[:, 0] < left + tile[1]) & (columns[:, 1] > left)
                tiles.append(Tile(image, top, left, tuple(np.flatnonzero(needed).tolist())))
            yield TileRow(tuple(tiles), tuple(np.flatnonzero(in_row).tolist()))


def bands(rows: Sequence[TileRow], capacity: int) -> Iterator[tuple[list[TileRow], set[int]]]:
    """Rows of tiles that together depend on at most `capacity` jobs, and those jobs."""
    band: list[TileRow] = []
    needed: set[int] = set()
    for row in rows:
        if band and len(needed.union(row.jobs)) > capacity:
            yield band, needed
            band, needed = [], set()
        band.append(row)
        needed = needed.union(row.jobs)
    yield band, needed


class Slots:
    """Which job's logits are in which slot."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.of: dict[int, int] = {}

    def keep(self, needed: set[int]) -> list[int]:
        """Forgets all jobs but `needed`, gives each of them a slot, and returns those that were not there."""
        self.of = {job: slot for job, slot in self.of.items() if job in needed}
        missing = sorted(needed - self.of.keys())
        free = sorted(set(range(self._capacity)) - set(self.of.values()))
        self.of |= dict(zip(missing, free[: len(missing)], strict=True))
        return missing
