"""Cutting windows out of scaled images, without ever making the scaled image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.inference.windows.placement import Window
from danet_jax.ops.normalize import MEAN, STD, normalize


class Grid(NamedTuple):
    """`windows.Axis` of n windows, and where each starts: int32 `[n]` each, on the device."""

    image: jax.Array
    stored: jax.Array
    scaled: jax.Array
    window: jax.Array
    stride: jax.Array
    grids: jax.Array
    last: jax.Array
    start: jax.Array


class Windows(NamedTuple):
    """Windows as arrays: `offset` is where the image begins among all pixels, `pitch` the pixels per row."""

    rows: Grid
    columns: Grid
    flip: jax.Array
    offset: jax.Array
    pitch: jax.Array


def as_arrays(windows: Sequence[Window | None], images: Sequence[tuple[int, int, int, int]]) -> Windows:
    """Windows as numpy arrays; None stands for a window that nobody asks for.

    Args:
      windows: n windows.
      images: of each window, the (offset, pitch, height, width) of the image that it is cut from: at the
        window's own scale, or at its original size.
    """
    columns = []
    for window, (offset, pitch, height, width) in zip(windows, images, strict=True):
        if window is None:
            columns.append((1,) * 7 + (0,) + (1,) * 7 + (0, 0, 0, 1))
            continue
        grids = [
            (axis.image, stored, axis.scaled, axis.window, axis.stride, axis.grids, axis.last, start)
            for axis, stored, start in (
                (window.rows, height, window.top),
                (window.columns, width, window.left),
            )
        ]
        columns.append((*grids[0], *grids[1], int(window.flip), offset, pitch))
    table = np.asarray(columns, np.int32).T
    return Windows(Grid(*table[:8]), Grid(*table[8:16]), table[16], table[17], table[18])


def samples(
    index: jax.Array, size: jax.Array, new_size: jax.Array, *, align_corners: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which two samples of an axis of `size` are mixed into sample `index` of one of `new_size`.

    Bilinear, without antialiasing, as torch's `interpolate`; positions are exact fractions of integers.

    Returns:
      Lower and upper sample (int32), and the weight of the upper one (float32), of the shape of `index`.
    """
    index = jnp.clip(index, 0, new_size - 1)
    if align_corners:
        denominator = jnp.maximum(new_size - 1, 1)
        numerator = index * (size - 1)
    else:
        denominator = 2 * new_size
        numerator = jnp.maximum((2 * index + 1) * size - new_size, 0)
    low = jnp.minimum(numerator // denominator, size - 1)
    fraction = (numerator - low * denominator).astype(jnp.float32) / denominator.astype(jnp.float32)
    return low, jnp.minimum(low + 1, size - 1), fraction


def cut(
    pixels: jax.Array,
    window: Windows,
    shape: tuple[int, int],
    *,
    align_corners: bool,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> jax.Array:
    """One window of a scaled image, normalised, float32 `[h, w, 3]` with `(h, w) = shape`.

    Args:
      pixels: uint8 `[P, 3]`, the pixels of one or more images, row by row.
      window: scalars; its size may be smaller than `shape`.
      shape: of the result.
      align_corners: of the resizing, which is bilinear in float32 on normalised pixels.
      mean: of the normalisation, see `normalize`.
      std: likewise.

    Returns:
      Where the window reaches past the scaled image it is black (0 before normalisation), and past the
      window's own size 0 after normalisation.
    """
    y = window.rows.start + jnp.arange(shape[0], dtype=jnp.int32)
    x = window.columns.start + jnp.arange(shape[1], dtype=jnp.int32)
    x = jnp.where(window.flip > 0, window.columns.scaled - 1 - x, x)

    def at(row: jax.Array, column: jax.Array) -> jax.Array:
        place = window.offset + row[:, None] * window.pitch + column[None, :]
        return normalize(pixels.at[place].get(mode="clip"), mean, std)

    def identity() -> jax.Array:
        return at(jnp.clip(y, 0, window.rows.scaled - 1), jnp.clip(x, 0, window.columns.scaled - 1))

    def bilinear() -> jax.Array:
        top, bottom, down = samples(y, window.rows.stored, window.rows.scaled, align_corners=align_corners)
        left, right, along = samples(
            x, window.columns.stored, window.columns.scaled, align_corners=align_corners
        )
        down, along = down[:, None, None], along[None, :, None]
        upper = at(top, left) * (1 - along) + at(top, right) * along
        lower = at(bottom, left) * (1 - along) + at(bottom, right) * along
        return upper * (1 - down) + lower * down

    same = (window.rows.stored == window.rows.scaled) & (window.columns.stored == window.columns.scaled)
    image = jax.lax.cond(same, identity, bilinear)
    black = normalize(jnp.zeros((1, 1, 3), jnp.uint8), mean, std)
    in_image = (y >= 0) & (y < window.rows.scaled), (x >= 0) & (x < window.columns.scaled)
    in_window = (y - window.rows.start < window.rows.window), (jnp.arange(shape[1]) < window.columns.window)
    image = jnp.where(_outer(*in_image), image, black)
    return jnp.where(_outer(*in_window), image, 0.0)


def _outer(rows: jax.Array, columns: jax.Array) -> jax.Array:
    return (rows[:, None] & columns[None, :])[..., None]
