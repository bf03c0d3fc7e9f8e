"""Merging the logits of many windows into the scores of an image, a tile at a time.

Windows are kept at the backbone's resolution, 64 times fewer pixels than the image's, and up-sampled only
where and when a tile needs them, so that nothing of the size of a scaled image ever exists. All of this is a
chain of linear maps, except for `exp`, which the authors apply between up-sampling a window and resizing the
scaled image: there every pixel carries its own exponent, so that nothing overflows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.inference.cutting import Grid, Windows, samples

NOTHING = -1e30
"""The exponent of a pixel to which no window has contributed yet."""

LARGEST = 80.0
"""Scores up to exp(80) fit in float32, with room for what is added up."""


class Merging(NamedTuple):
    """How windows are merged, all of it known when compiling.

    Attributes:
      merge: the protocol's.
      align_corners: of resizing from the scaled image to the image: the protocol's.
      upsampling_align_corners: of up-sampling a window's logits: the network's.
      output_stride: of the network.
      views: number of scales and flips.
    """

    merge: str
    align_corners: bool
    upsampling_align_corners: bool
    output_stride: int
    views: int


class Tile(NamedTuple):
    """A part of an image: its first row and column in the image, and the windows that it depends on.

    Attributes:
      top, left: int32 `()`.
      slots: int32 `[L]`, indices of windows, ordered by view.
      last: bool `[L]`, whether a window is the last of its view.
      length: int32 `()`, how many of `slots` there are.
    """

    top: jax.Array
    left: jax.Array
    slots: jax.Array
    last: jax.Array
    length: jax.Array


class Merged(NamedTuple):
    """Sums so far, over the pixels `[T, S]` of a tile.

    Attributes:
      scores: float32 `[T, S, K]`; of "exp", the true scores divided by exp(shift).
      view: float32 `[T, S, K]`, mean logits of the view that is being summed up; unused by "exp".
      shift: float32 `[T, S]`, used by "exp" only.
    """

    scores: jax.Array
    view: jax.Array
    shift: jax.Array


def nothing_merged(shape: tuple[int, int], num_classes: int, merge: str) -> Merged:
    """The sums over a tile before the first window."""
    zeros = jnp.zeros((*shape, num_classes), jnp.float32)
    return Merged(
        zeros, zeros if merge == "softmax" else jnp.zeros(()), jnp.full(shape, NOTHING, jnp.float32)
    )


def merge_windows(merged: Merged, logits: jax.Array, windows: Windows, tile: Tile, how: Merging) -> Merged:
    """Adds the windows of `tile` to `merged`.

    Args:
      merged: sums over the tile.
      logits: float32 `[n, h', w', K]` of all windows, at the network's output stride.
      windows: `[n]`, of `logits`.
      tile: which of them, and where.
      how: see `Merging`.
    """
    rows = tile.top + jnp.arange(merged.scores.shape[0], dtype=jnp.int32)
    columns = tile.left + jnp.arange(merged.scores.shape[1], dtype=jnp.int32)

    def add(index: jax.Array, merged: Merged) -> Merged:
        slot = tile.slots[index]
        window = jax.tree.map(lambda x: x[slot], windows)
        low = lax.dynamic_index_in_dim(logits, slot, keepdims=False)
        if how.merge == "exp":
            return _add_exp(merged, low, window, rows, columns, how)
        resized = _resized(low, window, rows, columns, how)
        if how.merge == "logits":
            return merged._replace(scores=merged.scores + resized / how.views)
        view = merged.view + resized
        return lax.cond(
            tile.last[index],
            lambda: merged._replace(
                scores=merged.scores + jax.nn.softmax(view) / how.views, view=jnp.zeros_like(view)
            ),
            lambda: merged._replace(view=view),
        )

    return lax.fori_loop(0, tile.length, add, merged)


def scores_of(merged: Merged, merge: str) -> jax.Array:
    """Scores `[T, S, K]` that fit in float32, from sums.

    Those of "exp" are sums of exponentials and may be of any magnitude. Where the largest of a pixel lies between
    exp(-80) and exp(80) they are given as they are; elsewhere the scores of that pixel are divided by one
    common factor that brings the largest to exp(80), or exp(-80).
    """
    if merge != "exp":
        return merged.scores
    largest = jnp.max(merged.scores, -1)
    peak = jnp.where(largest > 0, jnp.log(jnp.maximum(largest, 1e-37)), 0.0) + merged.shift
    exponent = merged.shift + (jnp.clip(peak, -LARGEST, LARGEST) - peak)
    return merged.scores * jnp.exp(exponent)[..., None]


def _weights(
    index: jax.Array, grid: Grid, *, align_corners: bool, mirrored: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Of pixels `index` of the image: the two pixels of the window that are mixed, and their weights.

    A weight is 0 where the window does not reach, and divided by the number of windows that do.
    """
    low, high, fraction = samples(index, grid.scaled, grid.image, align_corners=align_corners)

    def one(sample: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        sample = jnp.where(mirrored, grid.scaled - 1 - sample, sample)
        inside = sample - grid.start
        reached = (inside >= 0) & (inside < grid.window)
        weight = jnp.where(reached, weight / _windows_over(sample, grid).astype(jnp.float32), 0.0)
        return jnp.clip(inside, 0, grid.window - 1), weight

    return *one(low, 1.0 - fraction), *one(high, fraction)


def _windows_over(sample: jax.Array, grid: Grid) -> jax.Array:
    """How many windows of an axis reach over a pixel of the scaled image, at least 1."""
    first = jnp.maximum((sample - grid.window) // grid.stride + 1, 0)
    last = jnp.minimum(sample // grid.stride, grid.grids - 2)
    final = (sample >= grid.last) & (sample < grid.last + grid.window)
    return jnp.maximum(jnp.maximum(last - first + 1, 0) + final.astype(jnp.int32), 1)


def _upsampling(index: jax.Array, window: jax.Array, extent: int, how: Merging) -> jax.Array:
    """Float32 `[n, extent]`: the weights that take a window's logits to its pixels `index`."""
    low_size = window
    for _ in range(how.output_stride.bit_length() - 1):
        low_size = (low_size + 1) // 2
    low, high, fraction = samples(index, low_size, window, align_corners=how.upsampling_align_corners)
    place = jnp.arange(extent, dtype=jnp.int32)[None, :]
    weights = jnp.where(place == low[:, None], (1.0 - fraction)[:, None], 0.0)
    return weights + jnp.where(place == high[:, None], fraction[:, None], 0.0)


def _product(rows: jax.Array, low: jax.Array, columns: jax.Array) -> jax.Array:
    """`[T, h'] x [h', w', K] x [S, w']` to `[T, S, K]`."""
    x = jnp.einsum("th,hwk->twk", rows, low, precision=lax.Precision.HIGHEST)
    return jnp.einsum("sw,twk->tsk", columns, x, precision=lax.Precision.HIGHEST)


def _resized(low: jax.Array, window: Windows, rows: jax.Array, columns: jax.Array, how: Merging) -> jax.Array:
    """A window's share of the mean logits of a view, at the pixels of a tile."""

    def weights(index: jax.Array, grid: Grid, extent: int, mirrored: jax.Array) -> jax.Array:
        first, a, second, b = _weights(index, grid, align_corners=how.align_corners, mirrored=mirrored)
        return a[:, None] * _upsampling(first, grid.window, extent, how) + b[:, None] * _upsampling(
            second, grid.window, extent, how
        )

    upright = jnp.zeros((), bool)
    return _product(
        weights(rows, window.rows, low.shape[0], upright),
        low,
        weights(columns, window.columns, low.shape[1], window.flip > 0),
    )


def _add_exp(
    merged: Merged, low: jax.Array, window: Windows, rows: jax.Array, columns: jax.Array, how: Merging
) -> Merged:
    """Adds exp(logits) of a window: the exponentials are mixed by the resizing, not the logits."""
    upright = jnp.zeros((), bool)
    top, a, bottom, b = _weights(rows, window.rows, align_corners=how.align_corners, mirrored=upright)
    left, c, right, d = _weights(
        columns, window.columns, align_corners=how.align_corners, mirrored=window.flip > 0
    )

    def add(row_samples: list[jax.Array], row_weights: list[jax.Array], *column: list[jax.Array]) -> Merged:
        column_samples, column_weights = column
        logits = _product(
            _upsampling(jnp.concatenate(row_samples), window.rows.window, low.shape[0], how),
            low,
            _upsampling(jnp.concatenate(column_samples), window.columns.window, low.shape[1], how),
        )
        weights = jnp.concatenate(row_weights)[:, None] * jnp.concatenate(column_weights)[None, :]
        n, m = len(row_samples), len(column_samples)
        logits = logits.reshape(n, len(rows), m, len(columns), -1)
        weights = weights.reshape(n, len(rows), m, len(columns))
        peak = jnp.where(weights > 0, logits.max(-1), NOTHING).max((0, 2))
        shift = jnp.maximum(merged.shift, peak)
        mixed = weights[..., None] * jnp.exp(logits - shift[None, :, None, :, None])
        # Where nothing has weight the exponential may be infinite, and 0 times infinity is no number.
        mixed = jnp.where(weights[..., None] > 0, mixed, 0.0).sum((0, 2))
        scores = merged.scores * jnp.exp(merged.shift - shift)[..., None] + mixed
        return merged._replace(scores=scores, shift=shift)

    same = (window.rows.image == window.rows.scaled) & (window.columns.image == window.columns.scaled)
    return lax.cond(
        same,
        lambda: add([top], [a], [left], [c]),
        lambda: add([top, bottom], [a, b], [left, right], [c, d]),
    )
