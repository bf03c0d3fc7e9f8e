"""Sliding windows over images of any size: scored in batches of one shape, then merged tile by tile.

Two functions are compiled, and they serve images of every size. One scores a batch of windows and keeps their
logits, at the backbone's resolution, in slots of one array; the other merges whatever the tiles of an image
need. Windows and tiles are spread over the devices. An image whose windows do not all fit in the slots is gone
through in bands, from top to bottom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scores import Region, Wanted
from danet_jax.inference.scoring import (
    merging_of,
    on_every_device,
    stored_images,
    window_logits,
)
from danet_jax.inference.windows import merging, schedule
from danet_jax.inference.windows.cutting import Windows, as_arrays
from danet_jax.inference.windows.placement import windows_of
from danet_jax.inference.windows.schedule import Job

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

TILES_AT_ONCE = 16
"""Tiles per device that one call merges."""

LOGITS_BYTES = 1 << 30
"""Of the logits that are kept at a time, on each device; those of one row of tiles are kept, whatever they take."""

FEWEST_SLOTS = 16
"""For logits of windows: enough for most images at one scale, so that larger ones among them compile nothing anew."""

FEWEST_PIXELS = 1 << 20
"""For images to cut windows from, likewise: three MiB."""


class TileArrays(NamedTuple):
    """Tiles on the device: what each is merged from, and where its labels are among those of all images."""

    merged_from: merging.Tile
    offset: jax.Array
    height: jax.Array
    width: jax.Array


class SlidingWindows:
    """Applies a network in windows.

    Args:
      model: the network.
      protocol: one with a window.
      mesh: on this host; windows are divided over all of its devices.
    """

    def __init__(self, model: DANet, protocol: Protocol, mesh: Mesh) -> None:
        if protocol.window is None:
            raise ValueError("a protocol with a window is needed")
        mesh = Mesh(mesh.devices.reshape(-1), ("data",))
        self._model, self._protocol, self._mesh = model, protocol, mesh
        self._shape = protocol.window
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        # Small enough for a CPU's cache, large enough for an accelerator's many cores.
        self._tile = (64, 128) if on_cpu else (256, 512)
        at_once = 1 if on_cpu else max(1, min(8, (1 << 21) // (self._shape[0] * self._shape[1])))
        self._windows_at_once, self._tiles_at_once = at_once * mesh.size, TILES_AT_ONCE * mesh.size
        self._logits: jax.Array | None = None
        self._capacity = 0
        self._pixels = _Store(mesh, 3, 0)
        self._labels = _Store(mesh, 1, IGNORE_LABEL)
        self._score = jax.jit(self._score_windows, static_argnames="masked", donate_argnums=1)
        self._merge = jax.jit(self._merge_tiles, static_argnames="wanted")

    def group(self, height: int, width: int) -> None:
        """Images of any sizes go through together."""

    def enough(self, group: None, sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether images of these sizes keep all devices busy."""
        windows = sum(sum(1 for _ in windows_of(self._protocol, *size)) for size in sizes)
        return windows >= self._windows_at_once

    def run(
        self,
        variables: Mapping[str, Any],
        group: None,
        images: Sequence[np.ndarray],
        wanted: Wanted,
        truths: Sequence[np.ndarray] = (),
    ) -> Iterator[tuple[list[Region], jax.Array]]:
        """Scores images, and yields what is wanted part by part.

        Args:
          variables: of the network, on every device of the mesh.
          group: of the images.
          images: uint8 `[H, W, 3]`, of any sizes.
          wanted: see `Wanted`.
          truths: uint8 `[H, W]` of each image, where `wanted` asks for it.

        Yields:
          Where results belong, and the results on the device, `[n, ...]` with n at least as many; or their sum.
        """
        jobs, stored = self._jobs(images)
        pixels = self._pixels.put(stored)
        labels, label_offsets = self._labels.put(truths), _offsets(truths)
        sizes = [image.shape[:2] for image in images]
        rows = list(
            schedule.tile_rows(jobs, sizes, self._tile, align_corners=bool(self._protocol.align_corners))
        )
        self._reserve(variables, len(jobs), max(len(row.jobs) for row in rows))
        slots = schedule.Slots(self._capacity)
        for band, needed in schedule.bands(rows, self._capacity):
            missing = slots.keep(needed)
            self._score_jobs(variables, pixels, [(jobs[job], slots.of[job]) for job in missing])
            table: list[Job | None] = [None] * (self._capacity + 1)
            for job, slot in slots.of.items():
                table[slot] = jobs[job]
            windows = jax.device_put(_arrays(table), NamedSharding(self._mesh, PartitionSpec()))
            tiles = [tile for row in band for tile in row.tiles]
            for start in range(0, len(tiles), self._tiles_at_once):
                part = tiles[start : start + self._tiles_at_once]
                arrays = self._tile_arrays(part, jobs, slots.of, sizes, label_offsets)
                result = self._merge(self._logits, windows, arrays, labels, wanted=wanted)
                yield [Region(tile.image, tile.top, tile.left) for tile in part], result

    def _jobs(self, images: Sequence[np.ndarray]) -> tuple[list[Job], list[np.ndarray]]:
        """Every window, and the images that they are cut from."""
        jobs, stored = [], []
        offset = 0
        for index, image in enumerate(images):
            at_scale: dict[int, tuple[int, int, int, int]] = {}
            same: dict[int, int] = {}
            for scale, array in enumerate(stored_images(self._protocol, image)):
                if id(array) not in same:
                    same[id(array)] = offset
                    stored.append(array)
                    offset += array.shape[0] * array.shape[1]
                height, width = array.shape[:2]
                at_scale[scale] = (same[id(array)], width, height, width)
            for window in windows_of(self._protocol, *image.shape[:2]):
                jobs.append(Job(index, window, at_scale[window.scale]))
        return jobs, stored

    def _reserve(self, variables: Mapping[str, Any], jobs: int, jobs_of_a_row: int) -> None:
        """Makes room for logits; slots only become more, so that other sizes seldom compile anything anew."""
        images = jax.ShapeDtypeStruct((1, *self._shape, 3), jnp.float32)
        logits: Any = jax.eval_shape(partial(self._model.apply, upsample=False), variables, images)
        low = logits.fusion
        fitting = max(LOGITS_BYTES // (4 * low.size), jobs_of_a_row, self._windows_at_once)
        capacity = min(1 << (max(jobs, self._windows_at_once, FEWEST_SLOTS) - 1).bit_length(), fitting)
        if self._logits is None or capacity > self._capacity:
            self._capacity = max(capacity, self._capacity)
            # One slot more, for the windows that fill up a batch.
            _, height, width, classes = low.shape
            shape = (self._capacity + 1, height, classes, width)
            self._logits = None
            self._logits = jnp.zeros(shape, jnp.float32, device=NamedSharding(self._mesh, PartitionSpec()))

    def _score_jobs(
        self, variables: Mapping[str, Any], pixels: jax.Array, jobs: Sequence[tuple[Job, int]]
    ) -> None:
        sharding = NamedSharding(self._mesh, PartitionSpec("data"))
        # A window that is smaller than the others needs masks; the others do without, whatever else is scored.
        for masked in (False, True):
            chosen = [(job, slot) for job, slot in jobs if self._is_small(job) == masked]
            for start in range(0, len(chosen), self._windows_at_once):
                part = chosen[start : start + self._windows_at_once]
                filling = self._windows_at_once - len(part)
                windows = _arrays([*(job for job, _ in part), *[None] * filling])
                slots = np.array([*(slot for _, slot in part), *[self._capacity] * filling], np.int32)
                arrays = jax.device_put((windows, slots), sharding)
                self._logits = self._score(variables, self._logits, pixels, *arrays, masked=masked)

    def _is_small(self, job: Job) -> bool:
        return (job.window.rows.window, job.window.columns.window) != self._shape

    def _score_windows(
        self,
        variables: Mapping[str, Any],
        kept: jax.Array,
        pixels: jax.Array,
        windows: Windows,
        slots: jax.Array,
        *,
        masked: bool,
    ) -> jax.Array:
        def on_a_device(
            variables: Any, kept: jax.Array, pixels: jax.Array, windows: Windows, slots: jax.Array
        ) -> jax.Array:
            logits = window_logits(
                self._model, self._protocol, variables, pixels, windows, self._shape, masked=masked
            )
            logits, slots = lax.all_gather((logits, slots), "data", tiled=True)

            def keep(index: jax.Array, kept: jax.Array) -> jax.Array:
                return lax.dynamic_update_index_in_dim(kept, logits[index], slots[index], 0)

            return lax.fori_loop(0, len(slots), keep, kept)

        return on_every_device(self._mesh, on_a_device, "---dd", "-")(variables, kept, pixels, windows, slots)

    def _merge_tiles(
        self,
        logits: jax.Array,
        windows: Windows,
        tiles: TileArrays,
        labels: jax.Array,
        *,
        wanted: Wanted,
    ) -> jax.Array:
        how = merging_of(self._model, self._protocol, wanted)

        def one(logits: jax.Array, windows: Windows, tile: TileArrays, labels: jax.Array) -> jax.Array:
            merged = merging.nothing_merged(self._tile, self._model.num_classes, how.merge)
            merged = merging.merge_windows(merged, logits, windows, tile.merged_from, how)
            scores = merged.scores if wanted.ranking else merging.scores_of(merged, how.merge)
            return wanted.function(scores, _truth(tile, labels, self._tile))

        def on_a_device(
            logits: jax.Array, windows: Windows, tiles: TileArrays, labels: jax.Array
        ) -> jax.Array:
            results = lax.map(lambda tile: one(logits, windows, tile, labels), tiles)
            return lax.psum(results.sum(0, dtype=results.dtype), "data") if wanted.summed else results

        place = on_every_device(self._mesh, on_a_device, "--d-", "-" if wanted.summed else "d")
        return place(logits, windows, tiles, labels)

    def _tile_arrays(
        self,
        tiles: Sequence[schedule.Tile],
        jobs: Sequence[Job],
        slots: Mapping[int, int],
        sizes: Sequence[tuple[int, int]],
        label_offsets: Sequence[int],
    ) -> TileArrays:
        shape = (self._tiles_at_once, self._capacity)
        numbers: Any = np.zeros((6, shape[0]), np.int32)
        slot_table: Any = np.zeros(shape, np.int32)
        last: Any = np.zeros(shape, bool)
        for index, tile in enumerate(tiles):
            views = [jobs[job].window.view for job in tile.jobs]
            slot_table[index, : len(views)] = [slots[job] for job in tile.jobs]
            last[index, : len(views)] = np.diff(views, append=-1) != 0
            offset = label_offsets[tile.image] if label_offsets else 0
            numbers[:, index] = tile.top, tile.left, len(views), offset, *sizes[tile.image]
        top, left, length, *truth = numbers
        arrays = TileArrays(merging.Tile(top, left, slot_table, last, length), *truth)
        return jax.device_put(arrays, NamedSharding(self._mesh, PartitionSpec("data")))


class _Store:
    """Pixels of several images in one array on every device, which only grows: sizes come and go."""

    def __init__(self, mesh: Mesh, channels: int, filling: int) -> None:
        self._sharding = NamedSharding(mesh, PartitionSpec())
        self._channels, self._filling = channels, filling
        self._capacity = 0

    def put(self, images: Sequence[np.ndarray]) -> jax.Array:
        """Uint8 `[P, channels]`."""
        pixels = sum(image.shape[0] * image.shape[1] for image in images)
        self._capacity = max(self._capacity, 1 << (max(pixels, FEWEST_PIXELS) - 1).bit_length())
        array = np.full((self._capacity, self._channels), self._filling, np.uint8)
        position = 0
        for image in images:
            end = position + image.shape[0] * image.shape[1]
            array[position:end] = image.reshape(-1, self._channels)
            position = end
        return jax.device_put(array, self._sharding)


def _offsets(images: Sequence[np.ndarray]) -> list[int]:
    return np.cumsum([0, *(image.size for image in images)])[:-1].tolist()


def _arrays(jobs: Sequence[Job | None]) -> Windows:
    return as_arrays(
        [job and job.window for job in jobs], [job.stored if job else (0, 1, 1, 1) for job in jobs]
    )


def _truth(tile: TileArrays, labels: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """The labels of a tile, uint8 `[T, S]`, 255 past the image."""
    rows = (tile.merged_from.top + jnp.arange(shape[0], dtype=jnp.int32))[:, None]
    columns = (tile.merged_from.left + jnp.arange(shape[1], dtype=jnp.int32))[None, :]
    inside = (rows < tile.height) & (columns < tile.width)
    place = tile.offset + rows * tile.width + columns
    return jnp.where(inside, labels.at[place, 0].get(mode="clip"), jnp.uint8(IGNORE_LABEL))
