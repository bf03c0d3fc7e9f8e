"""Scores images of any size in sliding windows: in batches of one shape, whose logits are merged tile by tile.

Two functions are compiled for images of all sizes. One scores a batch of windows and keeps their logits at the output
stride; the other merges the logits that each tile of an image depends on. Windows and tiles are sharded over the
devices. An image whose logits take too much memory is processed in bands, from top to bottom.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL
from danet_jax.inference.merging import Axis, Merging, Sums, accepts_sizes, resize_columns, resize_rows
from danet_jax.inference.predictor import SCORES, Group, Part, Reduction, Region
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import Scaling, resize_taps, scale_images
from danet_jax.ops.resize import Taps, bilinear_taps

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

TILE_BATCH = 16
"""The number of tiles that one call merges on each device."""

LOGITS_BYTES = 1 << 30
"""The number of bytes on each device for the logits that are kept. Those of one row of tiles are kept even if they take
more."""

FEWEST_SLOTS = 16
"""The least number of windows whose logits are kept: enough for most images at one scale, to avoid recompilations."""

BLOCK = 256
"""The sides of the parts of images that are sent to the devices are multiples of this many pixels, so that few shapes
are compiled."""

Job = tuple["Window", np.ndarray]
"""A window, and the image that it is cut from."""

Row = list[tuple[Region, np.ndarray]]
"""A row of tiles: the region of each, and the windows that it depends on, ordered by view."""


class Window(NamedTuple):
    """One window of one view, in pixels of the scaled (and, if `flip`, flipped) image; ints, or int32 arrays `[n]`.

    Attributes:
      view: the index of its scale and flip; the windows of one view cover the image.
      flip: whether the whole scaled image was flipped before the window was cut.
      rows, columns: the position of the window along each axis.
    """

    view: Any
    flip: Any
    rows: Axis
    columns: Axis


class Tile(NamedTuple):
    """A part of an image, and the windows that it depends on.

    Attributes:
      top, left: int32 `()`, the tile's first row and column in the image.
      slots: int32 `[L]`, indices of windows, ordered by view.
      length: int32 `()`, how many of `slots` are used.
      labels: uint8 `[T, W]`, 255 past the image and where there is none.
    """

    top: Any
    left: Any
    slots: Any
    length: Any
    labels: Any


class SlidingWindows:
    """Applies a network in sliding windows; see `Predictor`.

    Args:
      model: the network.
      protocol: a protocol with a window and without open fields.
      mesh: devices of this host; windows and tiles are sharded over all of them.
    """

    def __init__(self, model: DANet, protocol: Protocol, mesh: Mesh) -> None:
        if protocol.window is None:
            raise ValueError("a protocol with a window is needed")
        self._model, self.protocol, self._shape = model, protocol, protocol.window
        self._masks = accepts_sizes(model)
        self.mesh = mesh = Mesh(mesh.devices.reshape(-1), ("data",))
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        # Small enough for a CPU's cache, large enough for an accelerator's many cores.
        self._tile_size = (64, 128) if on_cpu else (256, 512)
        batch_size = 1 if on_cpu else max(1, min(8, (1 << 21) // (self._shape[0] * self._shape[1])))
        self._window_batch, self._tile_batch = batch_size * mesh.size, TILE_BATCH * mesh.size
        height, width = (-(-n // model.output_stride) for n in self._shape)
        self._logits = height, model.num_classes, width  # the shape of one window's logits
        # Both only grow, so that images of other sizes seldom cause a recompilation.
        self._capacity, self._block = 0, (0, 0)
        self._sharded, self._replicated = (
            NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ())
        )
        self._score = jax.jit(self._score_windows, donate_argnums=1, out_shardings=self._replicated)
        self._merge = jax.jit(self._merge_tiles, static_argnames=("reduction", "same"))

    def group(self, height: int, width: int) -> Group:
        """Returns the only group, since images of any size are processed together."""
        return Group((), False)

    def is_full(self, group: Group, sizes: Sequence[tuple[int, int]]) -> bool:
        """Returns whether images of these sizes keep all devices busy."""
        return sum(len([*list_windows(self.protocol, *size)]) for size in sizes) >= self._window_batch

    def run(
        self,
        variables: Mapping[str, Any],
        group: Group,
        images: Sequence[np.ndarray],
        reduction: Reduction,
        labels: Sequence[np.ndarray] = (),
        *,
        exact: bool = False,
    ) -> Iterator[Part]:
        """Scores images of any sizes and yields the results; see `Predictor.run`.

        Batches of windows are padded even if `exact` is True.
        """
        jobs, rows = self._jobs_and_tiles(images)
        same = all(axis.scaled == axis.image for window, _ in jobs for axis in (window.rows, window.columns))
        for band, needed in self._bands(rows):
            band_jobs = [jobs[job] for job in needed]
            logits = self._window_logits(variables, band_jobs)
            table = _stack_windows([window for window, _ in band_jobs], self._capacity)
            for start in range(0, len(band), self._tile_batch):
                part = band[start : start + self._tile_batch]
                tiles = [self._tile(needed, labels, *tile) for tile in part]
                unused = tiles[0]._replace(
                    length=np.int32(0), labels=np.full_like(tiles[0].labels, IGNORE_LABEL)
                )
                tiles += [unused] * (self._tile_batch - len(part))
                arrays = jax.device_put(jax.tree.map(lambda *x: np.stack(x), *tiles), self._sharded)
                results = self._merge(logits, table, arrays, reduction=reduction, same=same)
                yield Part([region for region, _ in part], results)

    def _jobs_and_tiles(self, images: Sequence[np.ndarray]) -> tuple[list[Job], list[Row]]:
        """Returns every window of the images, and their tiles."""
        jobs: list[Job] = []
        rows = []
        align_corners = bool(self.protocol.align_corners)
        for number, image in enumerate(images):
            first, windows = len(jobs), list(list_windows(self.protocol, *image.shape[:2]))
            jobs += [(window, image) for window in windows]
            down = np.array([dependent_range(window.rows, False, align_corners) for window in windows])
            along = np.array(
                [dependent_range(window.columns, window.flip, align_corners) for window in windows]
            )
            for top in range(0, image.shape[0], self._tile_size[0]):
                in_row = (down[:, 0] < top + self._tile_size[0]) & (down[:, 1] > top)
                row = []
                for left in range(0, image.shape[1], self._tile_size[1]):
                    needed = in_row & (along[:, 0] < left + self._tile_size[1]) & (along[:, 1] > left)
                    row.append((Region(number, top, left), first + np.flatnonzero(needed)))
                rows.append(row)
        return jobs, rows

    def _bands(self, rows: Sequence[Row]) -> list[tuple[Row, list[int]]]:
        """Divides rows of tiles into bands whose logits fit in memory, and adapts the capacity to them.

        Returns:
          The tiles of each band, and the windows that they depend on.
        """
        needed_by_row = [
            set(np.concatenate([tile_windows for _, tile_windows in row]).tolist()) for row in rows
        ]
        fitting = max(
            LOGITS_BYTES // (4 * math.prod(self._logits)), *map(len, needed_by_row), self._window_batch
        )
        bands: list[tuple[Row, set[int]]] = [([], set())]
        for row, needed in zip(rows, needed_by_row, strict=True):
            if bands[-1][0] and len(bands[-1][1] | needed) > fitting:
                bands.append(([], set()))
            bands[-1] = [*bands[-1][0], *row], bands[-1][1] | needed
        most = max(self._window_batch, FEWEST_SLOTS, *(len(needed) for _, needed in bands))
        self._capacity = max(self._capacity, min(1 << (most - 1).bit_length(), fitting))
        return [(tiles, sorted(needed)) for tiles, needed in bands]

    def _window_logits(self, variables: Mapping[str, Any], jobs: Sequence[Job]) -> jax.Array:
        """Returns logits of windows, float32 `[capacity + 1, h, K, w]` at the output stride, on every device."""
        batch_size, capacity = self._window_batch, self._capacity
        buffer = jnp.zeros((capacity + 1, *self._logits), jnp.float32, device=self._replicated)
        # Only windows that are smaller than the others need masks. If the network takes no masks, they are processed
        # at their own size.
        own_sizes = [(window.rows.window, window.columns.window) for window, _ in jobs]
        kinds = [(self._shape, size != self._shape) if self._masks else (size, False) for size in own_sizes]
        for shape, masked in sorted(set(kinds)):
            chosen = np.array([slot for slot, kind in enumerate(kinds) if kind == (shape, masked)])
            for part in np.split(chosen, range(batch_size, len(chosen), batch_size)):
                windows = [jobs[slot] for slot in part]
                blocks, scaling = cut_windows(self.protocol, windows, shape, batch_size, self._block)
                self._block = blocks.shape[1], blocks.shape[2]
                # The windows that pad a batch go to the last slot, which is not used.
                slots = np.pad(part, (0, batch_size - len(part)), constant_values=capacity).astype(np.int32)
                scaling = scaling if masked else scaling._replace(sizes=None)
                blocks = jax.device_put(blocks, self._sharded)
                buffer = self._score(variables, buffer, blocks, scaling, slots)
        return buffer

    def _score_windows(
        self,
        variables: Mapping[str, Any],
        buffer: jax.Array,
        blocks: jax.Array,
        scaling: Scaling,
        slots: jax.Array,
    ) -> jax.Array:
        x = lax.with_sharding_constraint(scale_images(self.protocol, blocks, scaling), self._sharded)
        merging = Merging(self._model, self.protocol, SCORES, same=False)
        flip = self.protocol.flip and merging.merge == "exp"
        [logits] = merging.logits(variables, x, scaling.sizes, flip=flip)
        padding = [(0, largest - size) for largest, size in zip(self._logits, logits.shape[1:], strict=True)]
        logits = lax.with_sharding_constraint(jnp.pad(logits, [(0, 0), *padding]), self._replicated)

        def keep(index: jax.Array, buffer: jax.Array) -> jax.Array:
            return lax.dynamic_update_index_in_dim(buffer, logits[index], slots[index], 0)

        return lax.fori_loop(0, len(slots), keep, buffer)

    def _merge_tiles(
        self, logits: jax.Array, windows: Window, tiles: Tile, *, reduction: Reduction, same: bool
    ) -> jax.Array:
        merging = Merging(self._model, self.protocol, reduction, same=same)

        def on_a_device(logits: jax.Array, windows: Window, tiles: Tile) -> jax.Array:
            def one(tile: Tile) -> jax.Array:
                return reduction.function(_tile_scores(merging, logits, windows, tile), tile.labels[None])

            results = lax.map(one, tiles)
            if reduction.summed:
                return lax.psum(results.sum(0, dtype=results.dtype), "data")
            return results[:, 0]

        replicated, by_data = PartitionSpec(), PartitionSpec("data")
        sharded = jax.shard_map(
            on_a_device,
            mesh=self.mesh,
            in_specs=(replicated, replicated, by_data),
            out_specs=replicated if reduction.summed else by_data,
            check_vma=False,
        )
        return sharded(logits, windows, tiles)

    def _tile(
        self, jobs: Sequence[int], labels: Sequence[np.ndarray], region: Region, tile_windows: np.ndarray
    ) -> Tile:
        """Returns the tile of a region that depends on the jobs `tile_windows` among all `jobs` of a band."""
        slots = np.zeros(self._capacity, np.int32)
        slots[: len(tile_windows)] = np.searchsorted(jobs, tile_windows)
        padded = np.full(self._tile_size, IGNORE_LABEL, np.uint8)
        if labels:
            height, width = self._tile_size
            cropped = labels[region.image][region.top :, region.left :][:height, :width]
            padded[: cropped.shape[0], : cropped.shape[1]] = cropped
        return Tile(np.int32(region.top), np.int32(region.left), slots, np.int32(len(tile_windows)), padded)


def _stack_windows(windows: Sequence[Window], capacity: int) -> Window:
    """Returns windows as arrays, padded to `capacity`."""
    return jax.tree.map(
        lambda *x: np.pad(np.asarray(x, np.int32), (0, capacity - len(x)), constant_values=1), *windows
    )


def _tile_scores(merging: Merging, logits: jax.Array, windows: Window, tile: Tile) -> jax.Array:
    """Returns the scores of a tile, float32 `[1, T, K, W]`, from logits `[n, h, K, w]` of all windows."""
    (height, width), (_, low_height, classes, low_width) = tile.labels.shape, logits.shape
    rows = tile.top + jnp.arange(height, dtype=jnp.int32)
    columns = tile.left + jnp.arange(width, dtype=jnp.int32)

    def add(index: jax.Array, carry: tuple[Sums, jax.Array]) -> tuple[Sums, jax.Array]:
        sums, view = carry
        low, window = jax.tree.map(
            lambda x: lax.dynamic_slice_in_dim(x, tile.slots[index], 1), (logits, windows)
        )
        window = jax.tree.map(lambda x: x[:, None], window)
        flip = window.flip > 0
        by_column = resize_columns(
            merging.swap_sides(low, flip), merging.resize_weights(columns, window.columns, low_width, flip)
        )
        parts = resize_rows(by_column, merging.resize_weights(rows, window.rows, low_height))
        if merging.merge != "softmax":
            return merging.add(sums, parts), view
        # The mean over the windows of a view is complete after the last of them.
        [(mean, weight)] = parts
        view = view + mean
        following = windows.view[tile.slots[index + 1]]
        return lax.cond(
            (index + 1 == tile.length) | (windows.view[tile.slots[index]] != following),
            lambda: (merging.add(sums, [(view, weight)]), jnp.zeros_like(view)),
            lambda: (sums, view),
        )

    zeros = merging.zeros(1, height, classes, width)
    view = zeros.scores if merging.merge == "softmax" else jnp.zeros(())
    sums, _ = lax.fori_loop(0, tile.length, add, (zeros, view))
    return merging.scores(sums)


def list_windows(protocol: Protocol, height: int, width: int) -> Iterator[Window]:
    """Yields all windows of an image, ordered by view."""
    window = protocol.window or (height, width)
    stride = protocol.stride or window
    # For "exp", each window is flipped individually.
    flips = protocol.flips if protocol.merge != "exp" else (False,)
    views = [(scale, flip) for scale in protocol.scales for flip in flips]
    for view, (scale, flip) in enumerate(views):
        sizes = zip((height, width), protocol.scaled_size(scale, height, width), window, stride, strict=True)
        rows, columns = (_axis_windows(*numbers, protocol.edge) for numbers in sizes)
        yield from (Window(view, flip, row, column) for row in rows for column in columns)


def _axis_windows(image: int, scaled: int, window: int, stride: int, edge: str) -> list[Axis]:
    """Returns the windows that cover an axis."""
    count = -(-max(scaled - window, 0) // stride) + 1
    last = (count - 1) * stride if edge == "pad" else max(scaled - window, 0)
    window = window if edge == "pad" else min(window, scaled)
    starts = [*range(0, (count - 1) * stride, stride), last]
    return [Axis(image, scaled, window, stride, count, last, start) for start in starts]


@functools.lru_cache(1 << 12)
def dependent_range(axis: Axis, mirrored: bool, align_corners: bool) -> tuple[int, int]:
    """Returns the range of an image's rows or columns that depend on a window, as first and last + 1."""
    pixels = np.arange(axis.image)
    sources = bilinear_taps(pixels, axis.scaled, axis.image, align_corners=align_corners).index
    at = (axis.scaled - 1 - sources if mirrored else sources) - axis.start
    dependent = pixels[((at >= 0) & (at < axis.window)).any(0)]
    return (int(dependent[0]), int(dependent[-1]) + 1) if len(dependent) else (0, 0)


def cut_windows(
    protocol: Protocol,
    windows: Sequence[tuple[Window, np.ndarray]],
    shape: tuple[int, int],
    batch_size: int,
    least: tuple[int, int],
) -> tuple[np.ndarray, Scaling]:
    """Cuts out the parts of images that windows are computed from, `[n, H, W, 3]`; also returns their scaling.

    Args:
      protocol: how images are resized.
      windows: windows, each with its image `[h, w, 3]`.
      shape: height and width of the network's input, at least those of the windows.
      batch_size: n, the number to which the windows are padded.
      least: the smallest H and W.
    """
    taps = [
        Taps(np.zeros((2, batch_size, n), np.int32), np.zeros((2, batch_size, n), np.float32)) for n in shape
    ]
    ranges = np.zeros((2, len(windows), 2), np.int64)  # axis, window, (first, last + 1)
    sizes = np.full((batch_size, 2), shape, np.int32)
    for number, (window, _) in enumerate(windows):
        sizes[number] = window.rows.window, window.columns.window
        for axis_index, axis in enumerate((window.rows, window.columns)):
            pixels = axis.start + np.arange(axis.window)
            if axis_index == 1 and window.flip:
                pixels = axis.scaled - 1 - pixels
            index, weight = resize_taps(protocol, axis_index, pixels, axis.image, axis.scaled)
            weight = np.where((pixels >= 0) & (pixels < axis.scaled), weight, np.float32(0))
            first, last = index[weight > 0].min(), index[weight > 0].max()
            ranges[axis_index, number] = first, last + 1
            taps[axis_index].index[:, number, : axis.window] = np.clip(index, first, last) - first
            taps[axis_index].weight[:, number, : axis.window] = weight
    extents = np.maximum(-(-np.diff(ranges)[..., 0].max(1) // BLOCK) * BLOCK, least)
    blocks = np.zeros((batch_size, *extents, 3), protocol.pixel_type)
    for block, (_, image), (top, bottom), (left, right) in zip(blocks, windows, *ranges, strict=False):
        block[: bottom - top, : right - left] = image[top:bottom, left:right]
    rows, columns = taps
    return blocks, Scaling(rows, columns, sizes)
