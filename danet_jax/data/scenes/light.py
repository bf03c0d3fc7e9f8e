"""The light of a scene, and the noise that makes surfaces look like something."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from danet_jax.data.scenes.canvas import Colour


def rgb(red: float, green: float, blue: float) -> Colour:
    """Return a colour from 0 to 255 values."""
    return np.array([red, green, blue], np.float32) / 255


@dataclasses.dataclass(frozen=True)
class Light:
    """Where light comes from and what it does to colours.

    Attributes:
      zenith: Colour of the sky at the top.
      haze: Colour of the sky at the horizon, and of what is far away.
      ambient: Light that reaches every surface.
      sun: Light that only surfaces towards the sun get.
      sun_side: Where the sun is: -1 left, +1 right of the street.
      visibility: Distance in metres at which 63 % of a colour is haze.
      dark: Whether lamps and windows are lit.
    """

    zenith: Colour
    haze: Colour
    ambient: Colour
    sun: Colour
    sun_side: float
    visibility: float
    dark: bool

    def lit(
        self, colour: Colour, facing: float | np.ndarray, distance: float | np.ndarray = 0.0
    ) -> np.ndarray:
        """Return `colour` under this light.

        Args:
          colour: `[3]` or, for a whole picture, `[..., 3]`.
          facing: How much a surface faces the sun, 0 (shadow) to 1; a number or `[..., 1]`.
          distance: Metres to the surface, a number or `[...]`.
        """
        clear = np.exp(-np.asarray(distance, np.float32) / np.float32(self.visibility))[..., None]
        shaded = (colour * (self.ambient + facing * self.sun)).astype(np.float32, copy=False)
        return self.haze + (shaded - self.haze) * clear


def draw_light(rng: np.random.Generator) -> Light:
    """Draw one of a sunny day, a grey day and an evening, each a little different every time."""
    kind = rng.choice(3, p=(0.5, 0.25, 0.25))
    side = float(rng.choice((-1.0, 1.0)))
    if kind == 0:
        sky = (rgb(70, 125, 200), rgb(190, 214, 235))
        light = (rgb(145, 152, 170), rgb(150, 142, 120))
        visibility, dark = rng.uniform(150, 400), False
    elif kind == 1:
        sky = (rgb(150, 158, 168), rgb(200, 204, 208))
        light = (rgb(188, 192, 198), rgb(22, 22, 22))
        visibility, dark = rng.uniform(70, 200), False
    else:
        sky = (rgb(62, 74, 125), rgb(240, 165, 115))
        light = (rgb(108, 98, 118), rgb(105, 66, 34))
        visibility, dark = rng.uniform(110, 250), True
    strength = rng.uniform(0.88, 1.12)
    zenith, haze = (colour * rng.uniform(0.93, 1.07, 3).astype(np.float32) for colour in sky)
    ambient, sun = (colour * np.float32(strength) for colour in light)
    return Light(zenith, haze, ambient, sun, side, float(visibility), dark)


def noise(rng: np.random.Generator, height: int, width: int, cells: float) -> np.ndarray:
    """Return smooth noise, float32 `[height, width]`, -1 to 1, with about `cells` bumps across `width`."""
    rows = max(2, round(cells * height / width))
    coarse = rng.uniform(-1, 1, (rows, max(2, round(cells)))).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)


def cloud_noise(rng: np.random.Generator, height: int, width: int, cells: float = 4) -> np.ndarray:
    """Return noise of several sizes, float32 `[height, width]`, about -1 to 1."""
    total = sum(noise(rng, height, width, cells * 2**octave) / 2**octave for octave in range(4))
    return np.asarray(total, np.float32) / 1.5


class Grain:
    """Fine noise that lies on a surface: looked up by the surface's own coordinates."""

    _SIZE = 256

    def __init__(self, rng: np.random.Generator):
        fine = rng.normal(0, 1, (self._SIZE, self._SIZE)).astype(np.float32)
        self._texture = 0.6 * fine + 5 * cv2.GaussianBlur(fine, (0, 0), 3)

    def at(self, u: np.ndarray, v: np.ndarray, texels: float) -> np.ndarray:
        """Return the noise, about -1 to 1, at coordinates in metres, `texels` values to the metre."""
        map_u = np.mod(u * texels, self._SIZE - 1).astype(np.float32)
        map_v = np.mod(v * texels, self._SIZE - 1).astype(np.float32)
        return cv2.remap(self._texture, map_u, map_v, cv2.INTER_LINEAR)
