"""Cars and buses: a side view pushed out to the vehicle's width, its faces drawn from far to near."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from danet_jax.data.scenes import labels
from danet_jax.data.scenes.canvas import Camera, Canvas, Colour
from danet_jax.data.scenes.light import Light, rgb

_GLASS = rgb(42, 52, 62)
_RUBBER = rgb(26, 26, 28)
_PAINTS = (
    rgb(196, 198, 200),
    rgb(34, 36, 40),
    rgb(150, 30, 32),
    rgb(40, 70, 130),
    rgb(230, 230, 226),
    rgb(110, 116, 120),
    rgb(46, 92, 66),
    rgb(196, 150, 50),
    rgb(64, 120, 160),
)

# Side views: corners (z, y) in units of length and height, from the rear bumper up and over to the front
# bumper; with each corner goes what the face from there to the next is: l lamps, p paint, g glass.
_SALOON = (
    (0.00, 0.20, "l"),
    (0.01, 0.56, "p"),
    (0.14, 0.64, "g"),
    (0.27, 0.98, "p"),
    (0.58, 1.00, "g"),
    (0.74, 0.64, "p"),
    (0.98, 0.52, "l"),
    (1.00, 0.20, "p"),
)
_HATCHBACK = (
    (0.00, 0.20, "l"),
    (0.01, 0.55, "g"),
    (0.08, 0.95, "p"),
    (0.50, 1.00, "g"),
    (0.72, 0.62, "p"),
    (0.98, 0.50, "l"),
    (1.00, 0.20, "p"),
)
_BUS = (
    (0.00, 0.13, "l"),
    (0.00, 0.46, "g"),
    (0.00, 0.90, "p"),
    (0.01, 1.00, "p"),
    (0.99, 1.00, "p"),
    (1.00, 0.90, "g"),
    (1.00, 0.46, "l"),
    (1.00, 0.13, "p"),
)
_BUS_PAINTS = (rgb(176, 34, 36), rgb(210, 170, 60), rgb(52, 106, 150), rgb(92, 140, 84))


@dataclasses.dataclass(frozen=True)
class Vehicle:
    """A car or a bus.

    Attributes:
      x: X of its middle.
      z: Z of its end that is nearer to the camera.
      coming: Whether its front is towards the camera.
      width, height, length: Its size in metres.
      paint: Its colour.
      outline: Its side view, one of the tables above.
    """

    x: float
    z: float
    coming: bool
    width: float
    height: float
    length: float
    paint: Colour
    outline: tuple[tuple[float, float, str], ...]

    def footprint(self) -> np.ndarray:
        """Return the corners of its shadow on the ground, `[4, 3]`."""
        half, near = self.width / 2 + 0.1, max(self.z - 0.25, 0.5)
        far = self.z + self.length
        return _rectangle((self.x - half, self.x + half), (0, 0), (near, near, far, far))

    def draw(self, canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
        """Draw wheels, then the faces that are seen, from far to near, then the wheels of the near side."""
        del rng
        z = self._ahead(np.array([corner[0] for corner in self.outline]))
        y = self.height * np.array([corner[1] for corner in self.outline])
        left, right = self.x - self.width / 2, self.x + self.width / 2
        side = left if self.x > 0 else right
        self._draw_wheels(canvas, camera, light, (left, right))
        self._draw_tyres(canvas, camera, light)

        faces = []
        for index, (_, _, kind) in enumerate(self.outline[:-1]):
            run, rise = z[index + 1] - z[index], y[index + 1] - y[index]
            upwards = abs(run) / max(float(np.hypot(run, rise)), 1e-6)
            outwards = np.array([-rise, run]) * (-1 if self.coming else 1)
            middle = np.array([z[index] + z[index + 1], y[index] + y[index + 1] - 2 * camera.height]) / 2
            if outwards @ middle < 0:  # towards the camera
                ends = slice(index, index + 2)
                quad = _rectangle((left, right), np.repeat(y[ends], 2), np.repeat(z[ends], 2))
                faces.append((middle[0], kind, upwards, quad))
        flank = np.stack([np.full(len(z), side), y, z], axis=-1)
        faces.append((self.z + 0.15 * self.length, "flank", 0.0, flank))
        for distance, kind, upwards, corners in sorted(faces, key=lambda face: -face[0]):
            facing = 0.25 + 0.75 * upwards
            if kind == "flank":
                facing = 0.85 if (side == left) == (light.sun_side < 0) else 0.1
            material = _GLASS + 0.25 * light.zenith if kind == "g" else self.paint
            colour = light.lit(material, facing, distance)
            canvas.polygon(camera.project(corners), colour, labels.VEHICLE)
            if kind == "g":
                inner = corners + 0.08 * (corners.mean(axis=0) - corners)
                canvas.polygon(camera.project(inner), 0.75 * colour, None)
            elif kind == "l":
                self._draw_lamps(canvas, camera, light, corners)
            elif kind == "flank":
                self._draw_windows(canvas, camera, light, side)
        self._draw_wheels(canvas, camera, light, (side,), rims=True)

    def _ahead(self, along: np.ndarray) -> np.ndarray:
        """Return Z of what lies at `along`, 0 (rear) to 1 (front)."""
        return self.z + self.length * (1 - along if self.coming else along)

    def _draw_windows(self, canvas: Canvas, camera: Camera, light: Light, side: float) -> None:
        colour = light.lit(_GLASS + 0.2 * light.zenith, 0.3, self.z)
        if self.outline is _BUS:
            base, top = 0.48, 0.86
            quads = [(start, start + 0.1, start + 0.1, start) for start in np.arange(0.04, 0.95, 0.118)]
            if light.dark:
                colour = rgb(225, 203, 153)
        else:
            base, top = 0.63, 0.93
            glass = [index for index, corner in enumerate(self.outline) if corner[2] == "g"]
            rear, roof, front = (self.outline[i][0] for i in (glass[0], glass[0] + 1, glass[-1]))
            hood = self.outline[glass[-1] + 1][0]
            quads = [(rear + 0.07, 0.445, 0.445, roof + 0.03), (0.475, hood - 0.06, front, 0.475)]
        for quad in quads:
            y = self.height * np.array([base, base, top, top])
            corners = np.stack([np.full(4, side), y, self._ahead(np.array(quad))], axis=-1)
            canvas.polygon(camera.project(corners), colour, None)

    def _draw_lamps(self, canvas: Canvas, camera: Camera, light: Light, face: np.ndarray) -> None:
        """Draw bumper, number plate and lamps on the end of the vehicle that is seen."""
        low, high, near = face[:, 1].min(), face[:, 1].max(), face[:, 2].min() - 0.01

        def part(first: float, last: float, base: float, top: float) -> np.ndarray:
            across = self.x + self.width * (np.array([first, last]) - 0.5)
            up = low + (high - low) * np.array([base, base, top, top])
            return camera.project(_rectangle(across, up, np.full(4, near)))

        bumper, plate = light.lit(rgb(48, 48, 50), 0.2, self.z), light.lit(rgb(220, 220, 200), 0.3, self.z)
        canvas.polygon(part(0.03, 0.97, -0.35, 0.05), bumper, labels.VEHICLE)
        canvas.polygon(part(0.38, 0.62, 0.2, 0.45), plate, None)
        lamp = (rgb(255, 240, 205) if self.coming else rgb(170, 24, 22)) * np.float32(
            1.15 if light.dark else 0.85
        )
        for first in (0.04, 0.78):
            corners = part(first, first + 0.18, 0.55, 0.85)
            canvas.polygon(corners, lamp, None)
            if light.dark:
                canvas.glow(corners.mean(axis=0), 1.2 + 0.35 * float(np.ptp(corners[:, 0])), 0.22 * lamp)

    def _draw_wheels(
        self, canvas: Canvas, camera: Camera, light: Light, sides: tuple[float, ...], rims: bool = False
    ) -> None:
        radius = 0.5 if self.outline is _BUS else 0.34
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        circles = [(radius, _RUBBER), (0.55 * radius, rgb(120, 122, 126))][: 2 if rims else 1]
        for x in sides:
            for middle in self._ahead(np.array([0.19, 0.80])):
                for size, colour in circles:
                    y, z = radius + size * np.sin(angle), np.maximum(middle + size * np.cos(angle), 0.3)
                    corners = np.stack([np.full(16, x), y, z], axis=-1)
                    canvas.polygon(camera.project(corners), light.lit(colour, 0.2, middle), labels.VEHICLE)

    def _draw_tyres(self, canvas: Canvas, camera: Camera, light: Light) -> None:
        """Draw the tyres as seen from the end of the vehicle."""
        z = self.z + 0.19 * self.length - 0.4
        for first in (self.x - self.width / 2 + 0.02, self.x + self.width / 2 - 0.24):
            corners = _rectangle((first, first + 0.22), (0, 0, 0.5, 0.5), np.full(4, z))
            canvas.polygon(camera.project(corners), light.lit(_RUBBER, 0.1, z), labels.VEHICLE)


def draw_car(rng: np.random.Generator, x: float, z: float, coming: bool) -> Vehicle:
    """Draw a car of some make."""
    saloon = rng.random() < 0.5
    return Vehicle(
        x,
        z,
        coming,
        width=float(rng.uniform(1.7, 1.95)),
        height=float(rng.uniform(1.42, 1.6)),
        length=float(rng.uniform(4.2, 4.8) if saloon else rng.uniform(3.7, 4.3)),
        paint=_PAINTS[rng.integers(len(_PAINTS))] * np.float32(rng.uniform(0.85, 1.1)),
        outline=_SALOON if saloon else _HATCHBACK,
    )


def draw_bus(rng: np.random.Generator, x: float, z: float, coming: bool) -> Vehicle:
    """Draw a bus."""
    paint = _BUS_PAINTS[rng.integers(len(_BUS_PAINTS))]
    height, length = float(rng.uniform(2.9, 3.3)), float(rng.uniform(9, 12))
    return Vehicle(x, z, coming, width=2.5, height=height, length=length, paint=paint, outline=_BUS)


def _rectangle(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, z: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return corners `[4, 3]`: left, right, right, left, the first two with the first y and z."""
    up = np.asarray(y if len(y) == 4 else (y[0], y[0], y[1], y[1]), np.float64)
    return np.stack([np.array([x[0], x[1], x[1], x[0]]), up, np.asarray(z, np.float64)], axis=-1)
