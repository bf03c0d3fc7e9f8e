"""Camera, canvas, light and noise: the tools for drawing a scene.

An image and its label map are drawn together, from far to near, at `OVERSAMPLING` times the final size.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.typing import ArrayLike

from danet_jax.classes import IGNORE_LABEL

OVERSAMPLING = 2
_FRACTION_BITS = 4  # OpenCV takes coordinates in fixed point.

Colour = np.ndarray
"""RGB, float32 `[3]`, from 0 to 1, or above 1 for objects that glow."""


def rgb(red: float, green: float, blue: float) -> Colour:
    """Returns a colour from values of 0 to 255."""
    return np.array([red, green, blue], np.float32) / 255


def palette(colours: str) -> tuple[Colour, ...]:
    """Returns the colours of a line such as `#ff0000 #00ff00`."""
    return tuple(rgb(*bytes.fromhex(colour[1:])) for colour in colours.split())


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along Z over flat ground.

    World coordinates are metres: X to the right, Y up from the ground, Z ahead. Image coordinates are pixels of the
    final image: x to the right, y down.

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
        """Projects world points `[..., 3]` in front of the camera (Z > 0) to image points `[..., 2]`."""
        scale = self.focal / points[..., 2]
        x = self.centre + points[..., 0] * scale
        y = self.horizon + (self.height - points[..., 1]) * scale
        return np.stack([x, y], axis=-1)


_LIGHTS = (
    (palette("#467dc8 #bed6eb #9198aa #968e78"), (150, 400)),
    (palette("#969ea8 #c8ccd0 #bcc0c6 #161616"), (70, 200)),
    (palette("#3e4a7d #f0a573 #6c6276 #694222"), (110, 250)),
)
"""Sunny day, grey day and evening: zenith, haze, ambient light, sun, and the range of the visibility in metres."""


class Light:
    """The light of a sunny day, a grey day or an evening, drawn at random.

    Attributes:
      zenith: Colour of the sky at the top.
      haze: Colour of the sky at the horizon, and of distant surfaces.
      ambient: Light that reaches every surface.
      sun: Light that reaches only surfaces facing the sun.
      sun_side: The side of the street on which the sun is: -1 for left, +1 for right.
      dark: Whether lamps and windows are lit.
    """

    def __init__(self, rng: np.random.Generator):
        kind = rng.choice(3, p=(0.5, 0.25, 0.25))
        self.sun_side = float(rng.choice((-1.0, 1.0)))
        (zenith, haze, ambient, sun), visibility = _LIGHTS[kind]
        self._visibility = np.float32(rng.uniform(*visibility))  # At this distance 63 % of a colour is haze.
        self.dark = kind == 2
        strength = np.float32(rng.uniform(0.88, 1.12))
        self.zenith, self.haze = (
            colour * rng.uniform(0.93, 1.07, 3).astype(np.float32) for colour in (zenith, haze)
        )
        self.ambient, self.sun = ambient * strength, sun * strength

    def lit(
        self, colour: Colour, facing: float | np.ndarray, distance: float | np.ndarray = 0.0
    ) -> np.ndarray:
        """Returns `colour` under this light.

        Args:
          colour: `[3]`, or `[..., 3]` for an entire image.
          facing: How much the surface faces the sun, from 0 (shadow) to 1; a number or `[..., 1]`.
          distance: Metres to the surface; a number or `[...]`.
        """
        clear = np.exp(-np.asarray(distance, np.float32) / self._visibility)[..., None]
        shaded = (colour * (self.ambient + facing * self.sun)).astype(np.float32, copy=False)
        return self.haze + (shaded - self.haze) * clear


class Canvas:
    """An RGB image, float32 `[S*H, S*W, 3]`, and its labels, uint8 `[S*H, S*W]`; S is `OVERSAMPLING`."""

    def __init__(self, height: int, width: int, camera: Camera, light: Light):
        self.camera, self.light = camera, light
        self.image = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING, 3), np.float32)
        self.label = np.full(self.image.shape[:2], IGNORE_LABEL, np.uint8)

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns x `[1, S*W]` and y `[S*H, 1]` of the samples, in pixels of the final image."""
        height, width = self.label.shape
        x = (np.arange(width, dtype=np.float32) + 0.5) / OVERSAMPLING
        y = (np.arange(height, dtype=np.float32) + 0.5) / OVERSAMPLING
        return x[None, :], y[:, None]

    def polygon(self, points: np.ndarray, colour: Colour, label: int | None) -> None:
        """Fills a polygon `[n, 2]` in image coordinates; if `label` is None, the labels stay unchanged."""
        corners = [_fixed(points)]
        cv2.fillPoly(self.image, corners, tuple(map(float, colour)), shift=_FRACTION_BITS)
        if label is not None:
            cv2.fillPoly(self.label, corners, label, shift=_FRACTION_BITS)

    def surface(self, points: np.ndarray, colour: Colour, label: int | None) -> None:
        """Fills a polygon `[n, 3]` in world coordinates."""
        self.polygon(self.camera.project(points), colour, label)

    def mask(self, polygons: list[np.ndarray], softness: float = 0.0) -> np.ndarray:
        """Returns the coverage of each sample by any of `polygons`, uint8 `[S*H, S*W]`, 0 to 255.

        `softness` is the width of the edges in pixels of the final image.
        """
        mask = np.zeros(self.label.shape, np.uint8)
        for points in polygons:
            cv2.fillPoly(mask, [_fixed(points)], 255, shift=_FRACTION_BITS)
        return cv2.GaussianBlur(mask, (0, 0), softness * OVERSAMPLING) if softness else mask

    def window(self, centre: np.ndarray, radius: float) -> tuple[slice, slice]:
        """Returns the rows and columns of the samples within `radius` of `centre`, at least one of each."""
        slices = []
        for middle, size in zip(centre[::-1], self.label.shape, strict=True):
            first = int(np.clip((middle - radius) * OVERSAMPLING, 0, size - 1))
            slices.append(slice(first, int(np.clip((middle + radius) * OVERSAMPLING, first + 1, size))))
        return slices[0], slices[1]

    def glow(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        """Adds light around a lamp, to the image only."""
        rows, columns = self.window(centre, 3 * radius)
        x, y = self.grid()
        distance = ((x[:, columns] - centre[0]) ** 2 + (y[rows] - centre[1]) ** 2) / radius**2
        self.image[rows, columns] += np.exp(-distance)[..., None] * colour

    def reduced(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the image, averaged to float32 `[H, W, 3]`, and the labels, sampled to uint8 `[H, W]`."""
        height, width = (size // OVERSAMPLING for size in self.label.shape)
        image = cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)
        return image, np.ascontiguousarray(self.label[::OVERSAMPLING, ::OVERSAMPLING])


def _fixed(points: np.ndarray) -> np.ndarray:
    # The index of a sample is its centre: the pixel coordinate 0.5 / S has index 0. Distant points are clipped, because
    # their fixed-point coordinates would overflow.
    samples = np.clip(np.asarray(points, np.float64) * OVERSAMPLING - 0.5, -30000, 30000)
    return np.round(samples * (1 << _FRACTION_BITS)).astype(np.int32)


def world(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> np.ndarray:
    """Returns world points `[n, 3]` from their coordinates, each a number or `[n]`."""
    return np.stack(np.broadcast_arrays(x, y, z), axis=-1)


def ellipse(centre: np.ndarray, radii: tuple[float, float], count: int = 20) -> np.ndarray:
    """Returns `count` points on an upright ellipse, `[count, 2]`."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.asarray(centre) + np.stack([np.cos(angle) * radii[0], np.sin(angle) * radii[1]], axis=-1)


def noise(rng: np.random.Generator, height: int, width: int, cells: float) -> np.ndarray:
    """Returns smooth noise, float32 `[height, width]` from -1 to 1, with about `cells` bumps across `width`."""
    rows = max(2, round(cells * height / width))
    coarse = rng.uniform(-1, 1, (rows, max(2, round(cells)))).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)


class Grain:
    """Fine noise on a surface, looked up by coordinates on the surface."""

    _SIZE = 256

    def __init__(self, rng: np.random.Generator):
        fine = rng.normal(0, 1, (self._SIZE, self._SIZE)).astype(np.float32)
        self._texture = 0.6 * fine + 5 * cv2.GaussianBlur(fine, (0, 0), 3)

    def at(self, u: np.ndarray, v: np.ndarray, texels: float) -> np.ndarray:
        """Returns the noise, from about -1 to 1, at coordinates in metres, with `texels` values per metre."""
        map_u = np.mod(u * texels, self._SIZE - 1).astype(np.float32)
        map_v = np.mod(v * texels, self._SIZE - 1).astype(np.float32)
        return cv2.remap(self._texture, map_u, map_v, cv2.INTER_LINEAR)
