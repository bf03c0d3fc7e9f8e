"""Merging the logits of many windows into the scores of an image, a tile at a time.

Windows are kept at the backbone's resolution, 64 times fewer pixels than the image's, and up-sampled only
where and when a tile needs them, so that nothing of the size of a scaled image ever exists. All of this is a
chain of linear maps, except for `exp`, which the authors apply between up-sampling a window and resizing the
scaled image: there every pixel carries its own exponent, so that nothing overflows.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.inference.windows.cutting import Grid, Windows, samples

NOTHING = -1e30
"""The exponent of a pixel to which no window has contributed yet."""

RATIOS = (1, 2, 4)
"""Enlargements of a scaled image up to which a tile needs a part of a window only, each of another size."""

REPRESENTABLE = (-60.0, 80.0)
"""Logarithms of a pixel's largest score between which all its scores fit in float32: exp(-87) to exp(88)."""


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
    """Sums so far, over the `T` x `S` pixels of a tile; S is innermost, so that no product needs a transposition.

    Attributes:
      scores: float32 `[T, K, S]`; of "exp", the true scores divided by exp(shift).
      view: float32 `[T, K, S]`, mean logits of the view that is being summed up; used by "softmax" only.
      shift: float32 `[T, 1, S]`, used by "exp" only.
    """

    scores: jax.Array
    view: jax.Array
    shift: jax.Array


class Taps(NamedTuple):
    """Of `n` pixels of a tile along one axis, the two pixels of a window that are mixed.

    Attributes:
      pixels: int32 `[2, n]`, in the window.
      weights: float32 `[2, n]`; 0 where the window does not reach, divided by the number of windows that do.
    """

    pixels: jax.Array
    weights: jax.Array


def nothing_merged(shape: tuple[int, int], num_classes: int, merge: str) -> Merged:
    """The sums over a tile before the first window."""
    height, width = shape
    zeros = jnp.zeros((height, num_classes, width), jnp.float32)
    shift = jnp.full((height, 1, width), NOTHING, jnp.float32)
    return Merged(zeros, zeros if merge == "softmax" else jnp.zeros(()), shift)


def merge_windows(merged: Merged, logits: jax.Array, windows: Windows, tile: Tile, how: Merging) -> Merged:
    """Adds the windows of `tile` to `merged`.

    Args:
      merged: sums over the tile.
      logits: float32 `[n, h', K, w']` of all windows, at the network's output stride.
      windows: `[n]`, of `logits`.
      tile: which of them, and where.
      how: see `Merging`.
    """
    height, _, width = merged.scores.shape
    rows = tile.top + jnp.arange(height, dtype=jnp.int32)
    columns = tile.left + jnp.arange(width, dtype=jnp.int32)

    def add(index: jax.Array, merged: Merged) -> Merged:
        slot = tile.slots[index]
        window = jax.tree.map(lambda x: x[slot], windows)
        low = lax.dynamic_index_in_dim(logits, slot, keepdims=False)
        vertical = _taps(rows, window.rows, jnp.zeros((), bool), how)
        horizontal = _taps(columns, window.columns, window.flip > 0, how)
        if how.merge == "exp":
            return _add_exp(merged, low, window, vertical, horizontal, how)
        mean = _mixed_logits(low, window, vertical, horizontal, how)
        if how.merge == "logits":
            return merged._replace(scores=merged.scores + mean / how.views)
        view = merged.view + mean
        return lax.cond(
            tile.last[index],
            lambda: merged._replace(
                scores=merged.scores + jax.nn.softmax(view, axis=1) / how.views, view=jnp.zeros_like(view)
            ),
            lambda: merged._replace(view=view),
        )

    return lax.fori_loop(0, tile.length, add, merged)


def scores_of(merged: Merged, merge: str) -> jax.Array:
    """Scores `[T, K, S]` that fit in float32, from sums.

    Those of "exp" are sums of exponentials and may be of any magnitude. Where the largest of a pixel lies between
    exp(-60) and exp(80) they are given as they are; elsewhere the scores of that pixel are divided by one
    common factor that brings the largest there.
    """
    if merge != "exp":
        return merged.scores
    largest = jnp.max(merged.scores, 1, keepdims=True)
    peak = jnp.where(largest > 0, jnp.log(jnp.maximum(largest, 1e-37)), 0.0) + merged.shift
    # In two steps, since a score may be small because its weights are, and the factor alone overflow.
    root = jnp.exp((merged.shift + (jnp.clip(peak, *REPRESENTABLE) - peak)) / 2)
    return merged.scores * root * root


def _taps(index: jax.Array, grid: Grid, mirrored: jax.Array, how: Merging) -> Taps:
    """Where pixels `index` of the image, int32 `[n]`, come from."""
    low, high, fraction = samples(index, grid.scaled, grid.image, align_corners=how.align_corners)
    sample = jnp.stack([low, high])
    sample = jnp.where(mirrored, grid.scaled - 1 - sample, sample)
    pixels = sample - grid.start
    reached = (pixels >= 0) & (pixels < grid.window)
    weights = jnp.stack([1.0 - fraction, fraction]) / _windows_over(sample, grid).astype(jnp.float32)
    return Taps(jnp.clip(pixels, 0, grid.window - 1), jnp.where(reached, weights, 0.0))


def _windows_over(sample: jax.Array, grid: Grid) -> jax.Array:
    """How many windows of an axis reach over a pixel of the scaled image, at least 1."""
    first = jnp.maximum((sample - grid.window) // grid.stride + 1, 0)
    last = jnp.minimum(sample // grid.stride, grid.grids - 2)
    final = (sample >= grid.last) & (sample < grid.last + grid.window)
    return jnp.maximum(jnp.maximum(last - first + 1, 0) + final.astype(jnp.int32), 1)


def _mixed_logits(
    low: jax.Array, window: Windows, vertical: Taps, horizontal: Taps, how: Merging
) -> jax.Array:
    """A window's share in the mean logits of its view, `[T, K, S]`: a linear map of its logits."""

    def mixed(taps: Taps, grid: Grid, extent: int, ratio: int | None) -> tuple[jax.Array, jax.Array]:
        weights, start = _upsampling(taps.pixels, grid, extent, ratio, how)
        return (taps.weights[..., None] * weights).sum(0), start

    def within(ratio: int | None) -> jax.Array:
        return _product(
            low,
            *mixed(vertical, window.rows, low.shape[0], ratio),
            *mixed(horizontal, window.columns, low.shape[2], ratio),
        )

    ratios = _useful_ratios(vertical, horizontal, low, how)
    return lax.switch(_case(window, ratios), [partial(within, ratio) for ratio in (*ratios, None)])


def _add_exp(
    merged: Merged, low: jax.Array, window: Windows, vertical: Taps, horizontal: Taps, how: Merging
) -> Merged:
    """Adds exp(logits) of a window: the exponentials are mixed by the resizing, not the logits."""

    def add(ratio: int | None, taps: int) -> Merged:
        def upsampling(pixels: jax.Array, grid: Grid, extent: int) -> tuple[jax.Array, jax.Array]:
            weights, start = _upsampling(pixels[:taps], grid, extent, ratio, how)
            return weights.reshape(-1, weights.shape[-1]), start

        logits = _product(
            low,
            *upsampling(vertical.pixels, window.rows, low.shape[0]),
            *upsampling(horizontal.pixels, window.columns, low.shape[2]),
        )
        height, classes, width = merged.scores.shape
        logits = logits.reshape(taps, height, classes, taps, width)
        weights = vertical.weights[:taps].reshape(taps, height, 1, 1, 1) * horizontal.weights[:taps].reshape(
            1, 1, 1, taps, width
        )
        reached = weights > 0
        peak = jnp.where(reached, logits.max(2, keepdims=True), NOTHING).max((0, 3))
        shift = jnp.maximum(merged.shift, peak)
        mixed = weights * jnp.exp(logits - shift[None, :, :, None, :])
        # Where a window does not reach, the exponential may be infinite, and 0 times infinity is no number.
        mixed = jnp.where(reached, mixed, 0.0).sum((0, 3))
        return merged._replace(scores=merged.scores * jnp.exp(merged.shift - shift) + mixed, shift=shift)

    # At scale 1 there is one pixel to take, not four to mix.
    same = (window.rows.image == window.rows.scaled) & (window.columns.image == window.columns.scaled)
    ratios = _useful_ratios(vertical, horizontal, low, how)
    cases = [partial(add, 1, 1), *(partial(add, ratio, 2) for ratio in (*ratios, None))]
    return lax.switch(jnp.where(same, 0, 1 + _case(window, ratios)), cases)


def _useful_ratios(vertical: Taps, horizontal: Taps, low: jax.Array, how: Merging) -> list[int]:
    """Those of `RATIOS` for which less than all of a window is needed."""
    axes = ((vertical, low.shape[0]), (horizontal, low.shape[2]))
    return [
        ratio
        for ratio in RATIOS
        if any(_span(taps.pixels.shape[1], ratio, how) < extent for taps, extent in axes)
    ]


def _case(window: Windows, ratios: list[int]) -> jax.Array:
    """Index of the first of `ratios` (or past the last) by which the image is not enlarged more."""

    def exceeds(grid: Grid, ratio: int) -> jax.Array:
        return (grid.scaled > ratio * grid.image) | (grid.scaled - 1 > ratio * (grid.image - 1))

    larger = [exceeds(window.rows, ratio) | exceeds(window.columns, ratio) for ratio in ratios]
    return sum((case.astype(jnp.int32) for case in larger), jnp.zeros((), jnp.int32))


def _span(pixels: int, ratio: int, how: Merging) -> int:
    """Samples, at the network's output stride, that so many neighbouring pixels of the image may come from.

    They come from pixels * ratio + 2 of the window, and those from a few samples more than their share.
    """
    return (pixels * ratio + 2) // how.output_stride + 5


def _upsampling(
    pixels: jax.Array, grid: Grid, extent: int, ratio: int | None, how: Merging
) -> tuple[jax.Array, jax.Array]:
    """The weights that take a window's logits to its `pixels`, `[..., m]`, and the first of the m samples.

    Args:
      pixels: int32 `[..., n]`, in the window: of n neighbouring pixels of the image.
      grid: of the window.
      extent: of the array of logits.
      ratio: by how much the scaled image is at most larger than the image, so that m can be less than `extent`.
      how: see `Merging`.
    """
    size = grid.window
    for _ in range(how.output_stride.bit_length() - 1):
        size = (size + 1) // 2
    low, high, fraction = samples(pixels, size, grid.window, align_corners=how.upsampling_align_corners)
    count, start = extent, jnp.zeros((), jnp.int32)
    if ratio is not None:
        count = min(extent, _span(pixels.shape[-1], ratio, how))
        start = jnp.clip(low.min(), 0, extent - count)
    place = start + jnp.arange(count, dtype=jnp.int32).reshape((1,) * pixels.ndim + (count,))
    weights = jnp.where(place == low[..., None], (1.0 - fraction)[..., None], 0.0)
    return weights + jnp.where(place == high[..., None], fraction[..., None], 0.0), start


def _product(
    low: jax.Array, rows: jax.Array, top: jax.Array, columns: jax.Array, left: jax.Array
) -> jax.Array:
    """`[T, h] x [h, K, w] x [S, w]` to `[T, K, S]`, from the part of `low` that begins at `top` and `left`."""
    part = lax.dynamic_slice(
        low, (top, jnp.zeros((), jnp.int32), left), (rows.shape[1], low.shape[1], columns.shape[1])
    )
    part = jnp.einsum("hkw,sw->hks", part, columns, precision=lax.Precision.HIGHEST)
    return jnp.einsum("th,hks->tks", rows, part, precision=lax.Precision.HIGHEST)
