"""Sliding windows over images of any size: scored in batches of one shape, then merged tile by tile.

Two functions are compiled, and they serve images of every size. One scores a batch of windows and keeps their
logits, at the backbone's resolution; the other merges whatever the tiles of an image need. Windows and tiles are
spread over the devices. An image whose logits take too much room is gone through in bands, from top to bottom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import flipped
from danet_jax.inference.scores import Region, Wanted
from danet_jax.inference.windows import merging
from danet_jax.inference.windows.cutting import Cuts, by_window, cuts, stored_images, window_images
from danet_jax.inference.windows.merging import Merging, Tile, Windows
from danet_jax.inference.windows.placement import Window, image_flips, windows_of

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

TILES_AT_ONCE = 16
"""Tiles per device that one call merges."""

LOGITS_BYTES = 1 << 30
"""Of the logits that are kept at a time, on each device; those of one row of tiles are kept, whatever they take."""

FEWEST_SLOTS = 16
"""For logits of windows: enough for most images at one scale, so that larger ones among them compile nothing anew."""

Job = tuple[Window, np.ndarray]
"""A window, and the image that it is cut from."""


class SlidingWindows:
    """Applies a network in windows.

    Args:
      model: the network.
      protocol: one with a window.
      mesh: on this host; windows and tiles are divided over all of its devices.
    """

    def __init__(self, model: DANet, protocol: Protocol, mesh: Mesh) -> None:
        if protocol.window is None:
            raise ValueError("a protocol with a window is needed")
        self._model, self._protocol, self._shape = model, protocol, protocol.window
        self._mesh = mesh = Mesh(mesh.devices.reshape(-1), ("data",))
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        # Small enough for a CPU's cache, large enough for an accelerator's many cores.
        self._tile = (64, 128) if on_cpu else (256, 512)
        at_once = 1 if on_cpu else max(1, min(8, (1 << 21) // (self._shape[0] * self._shape[1])))
        self._windows_at_once, self._tiles_at_once = at_once * mesh.size, TILES_AT_ONCE * mesh.size
        # All of these only grow, so that other sizes seldom compile anything anew.
        self._capacity, self._block, self._span = 0, (0, 0), (0, 0)
        self._score = jax.jit(self._score_windows, static_argnames="masked", donate_argnums=1)
        self._merge = jax.jit(self._merge_tiles, static_argnames=("wanted", "how"))

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
        jobs, rows = self._jobs_and_tiles(images)
        how = self._merging([window for window, _ in jobs], wanted)
        for band, needed in self._bands(variables, rows):
            slots = dict(zip(needed, range(len(needed)), strict=True))
            logits = self._logits_of(variables, [jobs[job] for job in needed])
            table = merging.table_of([jobs[job][0] for job in needed], self._capacity)
            for start in range(0, len(band), self._tiles_at_once):
                part = band[start : start + self._tiles_at_once]
                tiles = [
                    self._tile_at(region, of_tile, jobs, slots, truths[region.image] if truths else None)
                    for region, of_tile in part
                ]
                tiles += [self._tile_at(Region(0, 0, 0), (), jobs, slots, None)] * (
                    self._tiles_at_once - len(part)
                )
                arrays = jax.tree.map(lambda *x: np.stack(x), *tiles)
                arrays = jax.device_put(arrays, NamedSharding(self._mesh, PartitionSpec("data")))
                result = self._merge(logits, table, arrays, wanted=wanted, how=how)
                yield [region for region, _ in part], result

    def _jobs_and_tiles(
        self, images: Sequence[np.ndarray]
    ) -> tuple[list[Job], list[list[tuple[Region, tuple[int, ...]]]]]:
        """Every window, and all rows of tiles, each with the windows that it depends on, ordered by view."""
        jobs: list[Job] = []
        rows = []
        align_corners = bool(self._protocol.align_corners)
        for number, image in enumerate(images):
            first, stored = len(jobs), stored_images(self._protocol, image)
            jobs += [
                (window, stored[window.scale]) for window in windows_of(self._protocol, *image.shape[:2])
            ]
            down = np.array([window.output_rows(align_corners) for window, _ in jobs[first:]])
            along = np.array([window.output_columns(align_corners) for window, _ in jobs[first:]])
            for top in range(0, image.shape[0], self._tile[0]):
                in_row = (down[:, 0] < top + self._tile[0]) & (down[:, 1] > top)
                row = []
                for left in range(0, image.shape[1], self._tile[1]):
                    needed = in_row & (along[:, 0] < left + self._tile[1]) & (along[:, 1] > left)
                    row.append((Region(number, top, left), tuple((first + np.flatnonzero(needed)).tolist())))
                rows.append(row)
        return jobs, rows

    def _bands(
        self, variables: Mapping[str, Any], rows: Sequence[list[tuple[Region, tuple[int, ...]]]]
    ) -> list[tuple[list[tuple[Region, tuple[int, ...]]], list[int]]]:
        """Tiles of as many rows as there is room for the logits that they depend on; and makes that room."""
        of_row = [set().union(*(of_tile for _, of_tile in row)) for row in rows]
        images = jax.ShapeDtypeStruct((1, *self._shape, 3), jnp.float32)
        logits: Any = jax.eval_shape(partial(self._model.apply, upsample=False), variables, images)
        fitting = max(LOGITS_BYTES // (4 * logits.fusion.size), *map(len, of_row), self._windows_at_once)
        bands: list[tuple[list[Any], set[int]]] = [([], set())]
        for row, needed in zip(rows, of_row, strict=True):
            if bands[-1][0] and len(bands[-1][1] | needed) > fitting:
                bands.append(([], set()))
            bands[-1] = [*bands[-1][0], *row], bands[-1][1] | needed
        most = max(self._windows_at_once, FEWEST_SLOTS, *(len(needed) for _, needed in bands))
        self._capacity = max(self._capacity, min(1 << (most - 1).bit_length(), fitting))
        return [(tiles, sorted(needed)) for tiles, needed in bands]

    def _merging(self, windows: Sequence[Window], wanted: Wanted) -> Merging:
        axes = [[window.rows for window in windows], [window.columns for window in windows]]
        larger = [
            max(max(a.scaled / a.image, (a.scaled - 1) / max(a.image - 1, 1)) for a in of_axis)
            for of_axis in axes
        ]
        stride = self._model.output_stride
        spans = [merging.span_of(n, x, stride) for n, x in zip(self._tile, larger, strict=True)]
        self._span = max(self._span[0], spans[0]), max(self._span[1], spans[1])
        return Merging(
            wanted.merge(self._protocol),
            bool(self._protocol.align_corners),
            self._model.align_corners,
            stride,
            len(self._protocol.scales) * len(image_flips(self._protocol)),
            self._span,
            all(axis.scaled == axis.image for of_axis in axes for axis in of_axis),
        )

    def _logits_of(self, variables: Mapping[str, Any], jobs: Sequence[Job]) -> jax.Array:
        """Logits of windows at the output stride, float32 `[n, h', K, w']` with room for more, on every device."""
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        divided = NamedSharding(self._mesh, PartitionSpec("data"))
        at_once = self._windows_at_once
        images = jax.ShapeDtypeStruct((1, *self._shape, 3), jnp.float32)
        logits: Any = jax.eval_shape(partial(self._model.apply, upsample=False), variables, images)
        _, height, width, classes = logits.fusion.shape
        kept = jnp.zeros((self._capacity + 1, height, classes, width), jnp.float32, device=everywhere)
        small = [(w.rows.window, w.columns.window) != self._shape for w, _ in jobs]
        # A window that is smaller than the others needs masks; the others do without, whatever else is scored.
        for masked in (False, True):
            chosen = [slot for slot, is_small in enumerate(small) if is_small == masked]
            for start in range(0, len(chosen), at_once):
                part = chosen[start : start + at_once]
                what = cuts(
                    [jobs[slot] for slot in part],
                    at_once,
                    self._shape,
                    self._block,
                    align_corners=bool(self._protocol.align_corners),
                )
                self._block = what.blocks.shape[1], what.blocks.shape[2]
                # The windows that fill up a batch go to the one slot more.
                slots = np.array([*part, *[self._capacity] * (at_once - len(part))], np.int32)
                arrays = jax.device_put((by_window(what), slots), divided)
                kept = self._score(variables, kept, *arrays, masked=masked)
        return kept

    def _score_windows(
        self, variables: Mapping[str, Any], kept: jax.Array, what: Cuts, slots: jax.Array, *, masked: bool
    ) -> jax.Array:
        model, protocol = self._model, self._protocol

        def on_a_device(variables: Any, kept: jax.Array, what: Cuts, slots: jax.Array) -> jax.Array:
            what = by_window(what)
            images = window_images(protocol, what)
            sizes: Any = what.sizes if masked else None
            # With "exp" logits of a window and of its flip are added up: up-sampling is the same from both sides.
            both = protocol.flip and protocol.merge == "exp"
            if both:
                images = jnp.concatenate([images, flipped(images, sizes)])
                sizes = None if sizes is None else jnp.tile(sizes, (2, 1))
            applied: Any = model.apply(variables, images, sizes=sizes, upsample=False)
            logits = applied.fusion
            if both:
                upright, mirrored = jnp.split(logits, 2)
                low_sizes = None if sizes is None else -(-what.sizes // model.output_stride)
                logits = upright + flipped(mirrored, low_sizes)
            logits, slots = lax.all_gather((jnp.swapaxes(logits, 2, 3), slots), "data", tiled=True)

            def keep(index: jax.Array, kept: jax.Array) -> jax.Array:
                return lax.dynamic_update_index_in_dim(kept, logits[index], slots[index], 0)

            return lax.fori_loop(0, len(slots), keep, kept)

        return self._on_every_device(on_a_device, "--dd", "-")(variables, kept, what, slots)

    def _merge_tiles(
        self, logits: jax.Array, windows: Windows, tiles: Tile, *, wanted: Wanted, how: Merging
    ) -> jax.Array:
        def on_a_device(logits: jax.Array, windows: Windows, tiles: Tile) -> jax.Array:
            def one(tile: Tile) -> jax.Array:
                scores = merging.merged(logits, windows, tile, how, ranking=wanted.ranking)
                return wanted.function(scores, tile.truth)

            results = lax.map(one, tiles)
            return lax.psum(results.sum(0, dtype=results.dtype), "data") if wanted.summed else results

        place = self._on_every_device(on_a_device, "--d", "-" if wanted.summed else "d")
        return place(logits, windows, tiles)

    def _on_every_device(self, function: Any, inputs: str, output: str) -> Any:
        """`function` on each device; an input marked `d` is split over them, one marked `-` is on all."""
        spec = {"d": PartitionSpec("data"), "-": PartitionSpec()}
        return jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=tuple(spec[mark] for mark in inputs),
            out_specs=spec[output],
            check_vma=False,
        )

    def _tile_at(
        self,
        region: Region,
        needed: Sequence[int],
        jobs: Sequence[Job],
        slots: Mapping[int, int],
        truth: np.ndarray | None,
    ) -> Tile:
        slot_of, last = np.zeros(self._capacity, np.int32), np.zeros(self._capacity, bool)
        slot_of[: len(needed)] = [slots[job] for job in needed]
        last[: len(needed)] = np.diff([jobs[job][0].view for job in needed], append=-1) != 0
        labels = np.full(self._tile, IGNORE_LABEL, np.uint8)
        if truth is not None:
            part = truth[region.top :, region.left :][: labels.shape[0], : labels.shape[1]]
            labels[: part.shape[0], : part.shape[1]] = part
        top, left, length = (np.int32(n) for n in (region.top, region.left, len(needed)))
        return Tile(top, left, slot_of, last, length, labels)
