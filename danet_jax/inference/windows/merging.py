"""Merging the logits of many windows into the scores of an image, a tile at a time.

Windows are kept at the backbone's resolution, 64 times fewer pixels than the image's, and up-sampled only
where and when a tile needs them, so that nothing of the size of a scaled image ever exists. All of this is a
chain of linear maps, except for `exp`, which the authors apply between up-sampling a window and resizing the
scaled image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from danet_jax.inference.scores import Sums
from danet_jax.inference.windows.placement import Window
from danet_jax.ops.resize import Taps, bilinear_taps, dense


class Grid(NamedTuple):
    """`placement.Axis` of windows, and where each starts: int32 `[n]` each."""

    image: jax.Array
    scaled: jax.Array
    window: jax.Array
    stride: jax.Array
    grids: jax.Array
    last: jax.Array
    start: jax.Array


class Windows(NamedTuple):
    """Windows whose logits are kept, int32 `[n]`."""

    rows: Grid
    columns: Grid
    flip: jax.Array


class Tile(NamedTuple):
    """A part of an image: its first row and column there, and the windows that it depends on.

    Attributes:
      top, left: int32 `()`.
      slots: int32 `[L]`, indices of windows, ordered by view.
      last: bool `[L]`, whether a window is the last of its view.
      length: int32 `()`, how many of `slots` there are.
      truth: uint8 `[T, S]`, its labels, 255 past the image or where there are none.
    """

    top: Any
    left: Any
    slots: Any
    last: Any
    length: Any
    truth: Any


class Merging(NamedTuple):
    """How windows are merged, all of it known when compiling.

    Attributes:
      merge: the protocol's.
      align_corners: of resizing from the scaled image to the image: the protocol's.
      upsampling_align_corners: of up-sampling a window's logits: the network's.
      output_stride: of the network.
      views: number of scales and flips.
      span: rows and columns of a window's logits that a tile may come from, see `span_of`.
      same: whether all scaled images are as large as the image, so that no pixels are mixed.
    """

    merge: str
    align_corners: bool
    upsampling_align_corners: bool
    output_stride: int
    views: int
    span: tuple[int, int]
    same: bool


def table_of(windows: Sequence[Window], capacity: int) -> Windows:
    """Windows as numpy arrays, filled up to `capacity`."""
    table = np.ones((15, capacity), np.int32)
    for column, window in enumerate(windows):
        axes = ((window.rows, window.top), (window.columns, window.left))
        numbers = [(a.image, a.scaled, a.window, a.stride, a.grids, a.last, start) for a, start in axes]
        table[:, column] = *numbers[0], *numbers[1], window.flip
    return Windows(Grid(*table[:7]), Grid(*table[7:14]), table[14])


def span_of(pixels: int, enlargement: float, output_stride: int) -> int:
    """Samples at the output stride that so many neighbouring pixels of an image come from, rounded up to 8.

    They come from pixels * enlargement + 2 of a window, and those from a few samples more than their share.
    """
    return -(-(int(pixels * enlargement + 2) // output_stride + 6) // 8) * 8


def merged(logits: jax.Array, windows: Windows, tile: Tile, how: Merging, *, ranking: bool) -> jax.Array:
    """Scores of a tile, float32 `[T, K, S]`.

    Args:
      logits: float32 `[n, h', K, w']` of all windows, at the network's output stride.
      windows: `[n]`, of `logits`.
      tile: which of them, and where.
      how: see `Merging`.
      ranking: whether only the order of the classes matters.
    """
    (height, width), classes = tile.truth.shape, logits.shape[2]
    rows = tile.top + jnp.arange(height, dtype=jnp.int32)
    columns = tile.left + jnp.arange(width, dtype=jnp.int32)

    def add(index: jax.Array, so_far: tuple[Sums, jax.Array]) -> tuple[Sums, jax.Array]:
        sums, view = so_far
        slot = tile.slots[index]
        window = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, slot, keepdims=False), windows)
        low = lax.dynamic_index_in_dim(logits, slot, keepdims=False)
        extents = low.shape[0], low.shape[2]
        down, of_rows, top = _way(rows, window.rows, jnp.zeros((), bool), 0, extents, how)
        along, of_columns, left = _way(columns, window.columns, window.flip > 0, 1, extents, how)
        low = lax.dynamic_slice(
            low, (top, jnp.zeros((), jnp.int32), left), (down[0].shape[1], classes, along[0].shape[1])
        )
        wide = [jnp.einsum("hkw,sw->hks", low, m, precision=lax.Precision.HIGHEST) for m in along]
        parts = [
            [jnp.einsum("th,hks->tks", m, x, precision=lax.Precision.HIGHEST) for x in wide] for m in down
        ]
        if how.merge == "exp":
            weights = [[r[:, None, None] * c[None, None, :] for c in of_columns] for r in of_rows]
            return sums.add_exponentials([*chain(*parts)], [*chain(*weights)]), view
        [[mean]] = parts
        if how.merge == "logits":
            return sums._replace(scores=sums.scores + mean / how.views), view
        view = view + mean
        return lax.cond(
            tile.last[index],
            lambda: (
                sums._replace(scores=sums.scores + jax.nn.softmax(view, axis=1) / how.views),
                jnp.zeros_like(view),
            ),
            lambda: (sums, view),
        )

    nothing = Sums.nothing(height, classes, width)
    view = nothing.scores if how.merge == "softmax" else jnp.zeros(())
    sums, _ = lax.fori_loop(0, tile.length, add, (nothing, view))
    return sums.scores if ranking or how.merge != "exp" else sums.in_range()


def _way(
    index: jax.Array, grid: Grid, mirrored: jax.Array, axis: int, extents: tuple[int, int], how: Merging
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """From a window's logits to pixels `index` of the image, int32 `[n]`, along one axis.

    Returns:
      Matrices float32 `[n, span]`, one for each pixel of the scaled image whose exponentials are mixed, or one
      for all of it; of the former the weights `[m, n]`, 0 where the window does not reach, divided by the number
      of windows that do; and the first of the `span` of `extent` samples.
    """
    extent = extents[axis]
    span = min(how.span[axis], extent)
    if how.same:
        place = jnp.clip(index, 0, grid.scaled - 1)[None]
        mix = jnp.ones(place.shape, jnp.float32)
    else:
        place, mix = bilinear_taps(index, grid.scaled, grid.image, align_corners=how.align_corners)
    place = jnp.where(mirrored, grid.scaled - 1 - place, place)
    pixels = place - grid.start
    reached = (pixels >= 0) & (pixels < grid.window)
    mix = jnp.where(reached, mix / _windows_over(place, grid).astype(jnp.float32), 0.0)
    size = -(-grid.window // how.output_stride)
    taps = bilinear_taps(
        jnp.clip(pixels, 0, grid.window - 1), size, grid.window, align_corners=how.upsampling_align_corners
    )  # [2, m, n]
    start = jnp.clip(taps.index.min(), 0, extent - span)
    taps = Taps(taps.index - start, taps.weight)
    if how.merge == "exp":
        return list(dense(taps, span)), mix, start
    flat = (-1, taps.index.shape[-1])
    linear = Taps(taps.index.reshape(flat), (taps.weight * mix[None]).reshape(flat))
    return [dense(linear, span)], mix, start


def _windows_over(sample: jax.Array, grid: Grid) -> jax.Array:
    """How many windows of an axis reach over a pixel of the scaled image, at least 1."""
    first = jnp.maximum((sample - grid.window) // grid.stride + 1, 0)
    last = jnp.minimum(sample // grid.stride, grid.grids - 2)
    final = (sample >= grid.last) & (sample < grid.last + grid.window)
    return jnp.maximum(jnp.maximum(last - first + 1, 0) + final.astype(jnp.int32), 1)
