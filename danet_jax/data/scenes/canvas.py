"""A picture and its label map, drawn together from far to near, at several times the final size."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from danet_jax.classes import IGNORE_LABEL

OVERSAMPLING = 2
_FRACTION_BITS = 4  # of OpenCV's fixed-point coordinates

Colour = np.ndarray
"""RGB, float32 `[3]`, 0 to 1 (more than 1 for what glows)."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along Z, over flat ground.

    World: X to the right, Y up from the ground, Z ahead, in metres. Picture: x to the right, y down, in
    pixels of the final picture.

    Attributes:
      focal: Focal length in pixels.
      centre: x of the vanishing point.
      horizon: y of the vanishing point.
      height: Height of the camera above the ground.
    """

    focal: float
    centre: float
    horizon: float
    height: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return the picture's `[..., 2]` of world points `[..., 3]`, which must lie ahead (Z > 0)."""
        scale = self.focal / points[..., 2]
        x = self.centre + points[..., 0] * scale
        y = self.horizon + (self.height - points[..., 1]) * scale
        return np.stack([x, y], axis=-1)


class Canvas:
    """An RGB picture, float32 `[S*H, S*W, 3]`, and its labels, uint8 `[S*H, S*W]`."""

    def __init__(self, height: int, width: int):
        self.image = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING, 3), np.float32)
        self.label = np.full(self.image.shape[:2], IGNORE_LABEL, np.uint8)

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x `[1, S*W]` and y `[S*H, 1]` of the samples, in pixels of the final picture."""
        height, width = self.label.shape
        x = (np.arange(width, dtype=np.float32) + 0.5) / OVERSAMPLING
        y = (np.arange(height, dtype=np.float32) + 0.5) / OVERSAMPLING
        return x[None, :], y[:, None]

    def polygon(self, points: np.ndarray, colour: Colour, label: int | None) -> None:
        """Fill a polygon `[n, 2]` (x, y); `label` None leaves the labels as they are."""
        corners = [_fixed(points)]
        cv2.fillPoly(self.image, corners, tuple(map(float, colour)), shift=_FRACTION_BITS)
        if label is not None:
            cv2.fillPoly(self.label, corners, label, shift=_FRACTION_BITS)

    def ellipse(
        self, centre: np.ndarray, radii: tuple[float, float], colour: Colour, label: int | None
    ) -> None:
        """Fill an upright ellipse."""
        self.polygon(ellipse_points(centre, radii), colour, label)

    def mask(self, polygons: list[np.ndarray], softness: float = 0.0) -> np.ndarray:
        """Return how far samples are covered by any of `polygons`, uint8 `[S*H, S*W]`, 0 to 255.

        `softness` is the width of the edges in pixels of the final picture.
        """
        mask = np.zeros(self.label.shape, np.uint8)
        for points in polygons:
            cv2.fillPoly(mask, [_fixed(points)], 255, shift=_FRACTION_BITS)
        return cv2.GaussianBlur(mask, (0, 0), softness * OVERSAMPLING) if softness else mask

    def window(self, centre: np.ndarray, radius: float) -> tuple[slice, slice]:
        """Return the rows and columns of the samples within `radius` of `centre`, at least one each."""
        slices = []
        for middle, size in zip(centre[::-1], self.label.shape, strict=True):
            first = int(np.clip((middle - radius) * OVERSAMPLING, 0, size - 1))
            slices.append(slice(first, int(np.clip((middle + radius) * OVERSAMPLING, first + 1, size))))
        return slices[0], slices[1]

    def glow(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        """Add light around a lamp, to the picture only."""
        rows, columns = self.window(centre, 3 * radius)
        x, y = self.grid()
        distance = ((x[:, columns] - centre[0]) ** 2 + (y[rows] - centre[1]) ** 2) / radius**2
        self.image[rows, columns] += np.exp(-distance)[..., None] * colour

    def reduced(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the picture averaged, float32 `[H, W, 3]`, and the labels sampled, uint8 `[H, W]`."""
        height, width = (size // OVERSAMPLING for size in self.label.shape)
        image = cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)
        return image, np.ascontiguousarray(self.label[::OVERSAMPLING, ::OVERSAMPLING])


def ellipse_points(centre: np.ndarray, radii: tuple[float, float], count: int = 20) -> np.ndarray:
    """Return `count` points on an upright ellipse, `[count, 2]`."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.asarray(centre) + np.stack([np.cos(angle) * radii[0], np.sin(angle) * radii[1]], axis=-1)


def _fixed(points: np.ndarray) -> np.ndarray:
    # A sample's index is its centre: the pixel coordinate 0.5 / S has index 0. Far-off points are pulled in,
    # or their fixed-point coordinates would overflow.
    samples = np.clip(np.asarray(points, np.float64) * OVERSAMPLING - 0.5, -30000, 30000)
    return np.round(samples * (1 << _FRACTION_BITS)).astype(np.int32)
