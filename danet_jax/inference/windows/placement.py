"""Where the windows of an image lie, at each scale: integers on the host, nothing is computed yet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from danet_jax.inference.protocol import Protocol


@dataclasses.dataclass(frozen=True)
class Axis:
    """The windows along the rows or the columns of a scaled image.

    Attributes:
      image: pixels of the image at its own size.
      scaled: pixels of the scaled image.
      window: pixels that the network sees; those past the scaled image are black.
      stride: between windows.
      grids: number of windows.
      last: where the last one starts, which need not be a multiple of the stride.
    """

    image: int
    scaled: int
    window: int
    stride: int
    grids: int
    last: int

    @classmethod
    def of(cls, image: int, scaled: int, window: int | None, stride: int, edge: str) -> Axis:
        """The windows that cover an axis; `window` of None is all of it."""
        if window is None:
            return cls(image, scaled, scaled, scaled, 1, 0)
        grids = -(-max(scaled - window, 0) // stride) + 1
        if edge == "pad":
            return cls(image, scaled, window, stride, grids, (grids - 1) * stride)
        return cls(image, scaled, min(window, scaled), stride, grids, max(scaled - window, 0))

    def start(self, index: int) -> int:
        """The first pixel of a window."""
        return self.last if index == self.grids - 1 else index * self.stride


@dataclasses.dataclass(frozen=True)
class Window:
    """One window of one view, in pixels of the scaled (and, if `flip`, flipped) image.

    Attributes:
      view: number of its scale and flip; the windows of one view cover the image.
      scale: index of its scale.
      flip: whether the whole scaled image was flipped before the window was cut.
      rows, columns: the grids that it belongs to.
      top, left: its first row and column.
    """

    view: int
    scale: int
    flip: bool
    rows: Axis
    columns: Axis
    top: int
    left: int

    def output_rows(self, align_corners: bool) -> tuple[int, int]:
        """First and past-the-last row of the image, at its own size, that may depend on this window."""
        return _output_range(self.rows, self.top, align_corners)

    def output_columns(self, align_corners: bool) -> tuple[int, int]:
        """As `output_rows`."""
        left = self.columns.scaled - self.left - self.columns.window if self.flip else self.left
        return _output_range(self.columns, left, align_corners)


def windows_of(protocol: Protocol, height: int, width: int) -> Iterator[Window]:
    """All windows of an image, ordered by view."""
    window, stride = protocol.window or (None, None), protocol.stride or protocol.window or (1, 1)
    view = 0
    for scale_index, scale in enumerate(protocol.scales):
        scaled_height, scaled_width = protocol.scaled_size(scale, height, width)
        rows = Axis.of(height, scaled_height, window[0], stride[0], protocol.edge)
        columns = Axis.of(width, scaled_width, window[1], stride[1], protocol.edge)
        for flip in image_flips(protocol):
            for row in range(rows.grids):
                for column in range(columns.grids):
                    top, left = rows.start(row), columns.start(column)
                    yield Window(view, scale_index, flip, rows, columns, top, left)
            view += 1


def image_flips(protocol: Protocol) -> tuple[bool, ...]:
    """Whether the whole image is flipped, for each view of a scale; with "exp" each window is flipped by itself."""
    return (False, True) if protocol.flip and protocol.merge != "exp" else (False,)


def _output_range(axis: Axis, start: int, align_corners: bool) -> tuple[int, int]:
    def of_source(source: float) -> float:
        if align_corners:
            return source * (axis.image - 1) / max(axis.scaled - 1, 1)
        return (source + 0.5) * axis.image / axis.scaled - 0.5

    # A pixel mixes two neighbouring samples; past the first and the last sample there is no other. One pixel
    # more on either side makes up for rounding: a window that contributes nothing does no harm.
    end = start + axis.window
    first = 0 if start <= 0 else math.floor(of_source(start - 1)) - 1
    past = axis.image if end >= axis.scaled else math.ceil(of_source(end)) + 2
    if align_corners and axis.scaled == 1:
        past = axis.image
    return max(first, 0), min(past, axis.image)
