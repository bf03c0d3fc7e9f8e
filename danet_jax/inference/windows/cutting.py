"""Cutting windows out of scaled images, without ever making the scaled image.

The host slices out of the image what a window is made of, and the device resizes that: two products of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.inference.protocol import Protocol
from danet_jax.inference.windows.placement import Axis, Window
from danet_jax.models.layers import inside, masked
from danet_jax.ops.normalize import normalize
from danet_jax.ops.resize import Taps, along_columns, along_rows, bilinear_taps, dense

BLOCK = 256
"""Blocks are multiples of so many pixels, so that few shapes are compiled."""


class Cuts(NamedTuple):
    """What n windows are made of.

    Attributes:
      blocks: uint8 `[n, H, W, 3]`, of the images that they are cut from.
      rows: taps `[2, n, h]` of the blocks; weights are 0 past the scaled image.
      columns: taps `[2, n, w]`.
      sizes: int32 `[n, 2]`, the windows' own sizes within h x w.
    """

    blocks: np.ndarray
    rows: Taps
    columns: Taps
    sizes: np.ndarray


def stored_images(protocol: Protocol, image: np.ndarray) -> list[np.ndarray]:
    """The image as windows are cut from it, uint8 `[h, w, 3]` for each scale.

    One and the same array for all scales where the device resizes ("float"), else resized by OpenCV.
    """
    if protocol.image_resize == "float":
        return [image] * len(protocol.scales)
    images = []
    for scale in protocol.scales:
        height, width = protocol.scaled_size(scale, *image.shape[:2])
        if (height, width) == image.shape[:2]:
            images.append(image)
        else:
            import cv2

            images.append(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    return images


def cuts(
    windows: Sequence[tuple[Window, np.ndarray]],
    at_once: int,
    shape: tuple[int, int],
    least: tuple[int, int],
    *,
    align_corners: bool,
) -> Cuts:
    """What `windows` are made of, filled up to `at_once`, in blocks of at least `least` rows and columns.

    Args:
      windows: each with the uint8 `[h, w, 3]` that it is cut from: the image at the window's own scale, or as it is.
      at_once: n of the result.
      shape: (h, w) of the windows.
      least: rows and columns of blocks.
      align_corners: of the resizing, which is bilinear.
    """
    index = np.zeros((2, 2, at_once, max(shape)), np.int32)  # axis, tap, window, pixel
    weight: np.ndarray = np.zeros(index.shape, np.float32)
    starts: np.ndarray = np.zeros((len(windows), 2), np.int64)
    ends: np.ndarray = np.ones((len(windows), 2), np.int64)
    sizes = np.full((at_once, 2), shape, np.int32)
    for number, (window, image) in enumerate(windows):
        sizes[number] = window.rows.window, window.columns.window
        for which, axis in enumerate((window.rows, window.columns)):
            start = window.left if which else window.top
            taps = _taps(axis, start, image.shape[which], align_corners, mirrored=window.flip and which == 1)
            used = taps.index[taps.weight > 0]
            starts[number, which], ends[number, which] = used.min(), used.max() + 1
            here = (which, slice(taps.index.shape[0]), number, slice(taps.index.shape[1]))
            index[here] = np.clip(taps.index, used.min(), used.max()) - used.min()
            weight[here] = taps.weight
    extents = np.maximum(-(-(ends - starts).max(0) // BLOCK) * BLOCK, least)
    blocks = np.zeros((at_once, *extents, 3), np.uint8)
    for block, (_, image), (top, left), (bottom, right) in zip(blocks, windows, starts, ends, strict=False):
        block[: bottom - top, : right - left] = image[top:bottom, left:right]
    rows, columns = (Taps(index[axis, ..., :n], weight[axis, ..., :n]) for axis, n in enumerate(shape))
    return Cuts(blocks, rows, columns, sizes)


def by_window(cuts: Cuts) -> Cuts:
    """The same with windows and taps in each other's places, so that all arrays are divided along the first axis."""
    rows, columns = (Taps(*(x.swapaxes(0, 1) for x in taps)) for taps in (cuts.rows, cuts.columns))
    return cuts._replace(rows=rows, columns=columns)


def window_images(protocol: Protocol, cuts: Cuts) -> jax.Array:
    """Windows, normalised, float32 `[n, h, w, 3]`.

    Where a window reaches past the scaled image it is black (0 before normalisation), and past the window's own
    size 0 after normalisation.
    """
    x = normalize(jnp.asarray(cuts.blocks), *protocol.normalisation)
    x = along_columns(dense(cuts.columns, x.shape[2]), x)
    x = along_rows(dense(cuts.rows, x.shape[1]), x)
    rows, columns = (jnp.asarray(taps.weight).sum(0) > 0 for taps in (cuts.rows, cuts.columns))
    black = normalize(jnp.zeros((1, 1, 1, 3), jnp.uint8), *protocol.normalisation)
    x = jnp.where(rows[:, :, None, None] & columns[:, None, :, None], x, black)
    return masked(x, inside(x, jnp.asarray(cuts.sizes)))


def _taps(axis: Axis, start: int, stored: int, align_corners: bool, *, mirrored: bool) -> Taps:
    """Of the window's pixels along one axis, those of an image of `stored` pixels; weight 0 past the image."""
    pixel = start + np.arange(axis.window)
    inside = (pixel < axis.scaled)[None]
    place = axis.scaled - 1 - pixel if mirrored else pixel
    if stored == axis.scaled:
        return Taps(place[None].clip(0, stored - 1), inside.astype(np.float32))
    taps = bilinear_taps(place, stored, axis.scaled, align_corners=align_corners)
    return Taps(taps.index, np.where(inside, taps.weight, np.float32(0)))
