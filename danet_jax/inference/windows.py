"""Where the windows of an image lie at each scale, and the pixels that they are made of; on the host, in NumPy."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from danet_jax.inference.merging import Axis
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import Scaling, taps_of
from danet_jax.ops.resize import Taps, bilinear_taps

BLOCK = 256
"""The sides of blocks are multiples of this many pixels, so that few shapes are compiled."""


class Window(NamedTuple):
    """One window of one view, in pixels of the scaled (and, if `flip`, flipped) image; ints, or int32 arrays `[n]`.

    Attributes:
      view: the number of its scale and flip; the windows of one view cover the image.
      flip: whether the whole scaled image was flipped before the window was cut.
      rows, columns: where the window lies.
    """

    view: Any
    flip: Any
    rows: Axis
    columns: Axis


def windows_of(protocol: Protocol, height: int, width: int) -> Iterator[Window]:
    """Yields all windows of an image, ordered by view."""
    window = protocol.window or (height, width)
    stride = protocol.stride or window
    # With "exp" each window is flipped by itself.
    flips = protocol.flips if protocol.merge != "exp" else (False,)
    views = [(scale, flip) for scale in protocol.scales for flip in flips]
    for view, (scale, flip) in enumerate(views):
        sizes = zip((height, width), protocol.scaled_size(scale, height, width), window, stride, strict=True)
        rows, columns = (_along(*numbers, protocol.edge) for numbers in sizes)
        yield from (Window(view, flip, row, column) for row in rows for column in columns)


def _along(image: int, scaled: int, window: int, stride: int, edge: str) -> list[Axis]:
    """Returns the windows that cover an axis."""
    count = -(-max(scaled - window, 0) // stride) + 1
    last = (count - 1) * stride if edge == "pad" else max(scaled - window, 0)
    window = window if edge == "pad" else min(window, scaled)
    starts = [*range(0, (count - 1) * stride, stride), last]
    return [Axis(image, scaled, window, stride, count, last, start) for start in starts]


@functools.lru_cache(1 << 12)
def reach(axis: Axis, mirrored: bool, align_corners: bool) -> tuple[int, int]:
    """Returns the range of the image's rows or columns that depend on a window, as (first, last + 1)."""
    pixels = np.arange(axis.image)
    place = bilinear_taps(pixels, axis.scaled, axis.image, align_corners=align_corners).index
    at = (axis.scaled - 1 - place if mirrored else place) - axis.start
    touched = pixels[((at >= 0) & (at < axis.window)).any(0)]
    return (int(touched[0]), int(touched[-1]) + 1) if len(touched) else (0, 0)


def cut(
    protocol: Protocol,
    windows: Sequence[tuple[Window, np.ndarray]],
    shape: tuple[int, int],
    at_once: int,
    least: tuple[int, int],
) -> tuple[np.ndarray, Scaling]:
    """Returns the parts of images that windows are made of, `[n, H, W, 3]`, and how these become windows.

    Args:
      protocol: how images are resized.
      windows: each with its image, `[h, w, 3]`.
      shape: height and width of the network's input, at least those of the windows.
      at_once: n, to which the windows are filled up.
      least: the smallest H and W.
    """
    taps = [Taps(np.zeros((2, at_once, n), np.int32), np.zeros((2, at_once, n), np.float32)) for n in shape]
    ranges = np.zeros((2, len(windows), 2), np.int64)  # axis, window, (first, last + 1)
    sizes = np.full((at_once, 2), shape, np.int32)
    for number, (window, _) in enumerate(windows):
        sizes[number] = window.rows.window, window.columns.window
        for which, axis in enumerate((window.rows, window.columns)):
            pixels = axis.start + np.arange(axis.window)
            place = axis.scaled - 1 - pixels if which == 1 and window.flip else pixels
            index, weight = taps_of(protocol, which, place, axis.image, axis.scaled)
            weight = np.where((place >= 0) & (place < axis.scaled), weight, np.float32(0))
            first, last = index[weight > 0].min(), index[weight > 0].max()
            ranges[which, number] = first, last + 1
            taps[which].index[:, number, : axis.window] = np.clip(index, first, last) - first
            taps[which].weight[:, number, : axis.window] = weight
    extents = np.maximum(-(-np.diff(ranges)[..., 0].max(1) // BLOCK) * BLOCK, least)
    blocks = np.zeros((at_once, *extents, 3), protocol.pixel_type)
    for block, (_, image), (top, bottom), (left, right) in zip(blocks, windows, *ranges, strict=False):
        block[: bottom - top, : right - left] = image[top:bottom, left:right]
    rows, columns = taps
    return blocks, Scaling(rows, columns, sizes)
