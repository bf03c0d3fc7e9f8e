"""Cars and buses: a side view pushed out to the vehicle's width, its faces drawn from far to near."""

from __future__ import annotations

import dataclasses

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

# Side views, (z, y) from the rear at ground level, in units of length and height, clockwise from the rear
# bumper; with each edge goes what it is made of: p paint, g glass, l lamps.
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
    (0.0, 0.13, "l"),
    (0.0, 0.46, "g"),
    (0.0, 0.9, "p"),
    (0.01, 1.0, "p"),
    (0.99, 1.0, "p"),
    (1.0, 0.9, "g"),
    (1.0, 0.46, "l"),
    (1.0, 0.13, "p"),
)


@dataclasses.dataclass(frozen=True)
class Vehicle:
    """A car or a bus: a side view, pushed out to the vehicle's width.

    Attributes:
      x: X of its middle.
      z: Z of its end that is nearer to the camera.
      coming: Whether its front is towards the camera.
      size: Width, height and length in metres.
      paint: Its colour.
      outline: Its side view, one of the tables above.
    """

    x: float
    z: float
    coming: bool
    size: tuple[float, float, float]
    paint: Colour
    outline: tuple[tuple[float, float, str], ...]

    def footprint(self) -> np.ndarray:
        """Return the corners of its shadow on the ground, `[n, 3]`."""
        half, length = self.size[0] / 2 + 0.1, self.size[2]
        z = np.array([self.z - 0.25, self.z - 0.25, self.z + length, self.z + length])
        x = self.x + np.array([-half, half, half, -half])
        return np.stack([x, np.zeros(4), np.maximum(z, 0.5)], axis=-1)

    def draw(self, canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
        """Draw far wheels, faces from far to near, and wheels."""
        width, height, length = self.size
        z = np.array([point[0] for point in self.outline])
        z = self.z + length * (1 - z if self.coming else z)
        y = height * np.array([point[1] for point in self.outline])
        made_of = [point[2] for point in self.outline]
        left, right = self.x - width / 2, self.x + width / 2
        near_side = left if self.x > 0 else right
        sun_on_side = 0.85 if (near_side == left) == (light.sun_side < 0) else 0.1
        glass_side = np.array([index for index, kind in enumerate(made_of) if kind == "g"])

        self._wheels(canvas, camera, light, near_side)
        # Faces whose outer side is seen, the farthest first. The outline runs up, over and down again.
        faces = []
        for index in range(len(z)):
            after = (index + 1) % len(z)
            quad = np.array(
                [
                    [left, y[index], z[index]],
                    [right, y[index], z[index]],
                    [right, y[after], z[after]],
                    [left, y[after], z[after]],
                ]
            )
            run, rise = z[after] - z[index], y[after] - y[index]
            normal = np.array([-rise, run]) * (-1 if self.coming else 1)  # (z, y), outwards
            middle = np.array([(z[index] + z[after]) / 2, (y[index] + y[after]) / 2 - camera.height])
            if index < len(z) - 1 and normal @ middle < 0:
                faces.append((middle[0], quad, made_of[index], normal / max(np.hypot(*normal), 1e-6)))
        side = np.stack([np.full(len(z), near_side), y, z], axis=-1)
        faces.append((self.z + 0.15 * length, side, "s", np.zeros(2)))
        for distance, corners, kind, normal in sorted(faces, key=lambda face: -face[0]):
            if kind == "s":
                colour = light.lit(self.paint, sun_on_side, distance)
                canvas.polygon(camera.project(corners), colour, labels.VEHICLE)
                self._side_windows(canvas, camera, light, near_side, glass_side)
                continue
            facing = 0.25 + 0.75 * max(float(normal[1]), 0.0)
            colour = light.lit(self.paint if kind != "g" else _GLASS + 0.25 * light.zenith, facing, distance)
            canvas.polygon(camera.project(corners), colour, labels.VEHICLE)
            if kind == "g":
                canvas.polygon(camera.project(_inset(corners, 0.08)), colour * 0.75, None)
            if kind == "l":
                self._lamps(canvas, camera, light, corners)
        self._wheels(canvas, camera, light, near_side, visible_only=True)

    def _side_windows(
        self, canvas: Canvas, camera: Camera, light: Light, side: float, glass: np.ndarray
    ) -> None:
        _, height, length = self.size
        if self.outline is _BUS:
            starts = np.arange(0.04, 0.95, 0.118)
            quads = [((s, 0.48), (s + 0.1, 0.48), (s + 0.1, 0.86), (s, 0.86)) for s in starts]
        else:
            first, last = self.outline[glass[0]], self.outline[glass[-1]]
            end = self.outline[glass[-1] + 1]
            base, top = 0.63, 0.93
            back = self.outline[glass[0] + 1]
            middle = 0.46
            quads = [
                (
                    (first[0] + 0.07, base),
                    (middle - 0.015, base),
                    (middle - 0.015, top),
                    (back[0] + 0.03, top),
                ),
                ((middle + 0.015, base), (end[0] - 0.06, base), (last[0], top), (middle + 0.015, top)),
            ]
        colour = light.lit(_GLASS + 0.2 * light.zenith, 0.3, self.z)
        if light.dark and self.outline is _BUS:
            colour = rgb(250, 226, 170) * np.float32(0.9)
        for quad in quads:
            z = np.array([point[0] for point in quad])
            z = self.z + length * (1 - z if self.coming else z)
            y = height * np.array([point[1] for point in quad])
            canvas.polygon(camera.project(np.stack([np.full(4, side), y, z], axis=-1)), colour, None)

    def _lamps(self, canvas: Canvas, camera: Camera, light: Light, face: np.ndarray) -> None:
        lamp = rgb(255, 240, 205) if self.coming else rgb(170, 24, 22)
        lamp = lamp * np.float32(1.15 if light.dark else 0.85)
        low, high = face[:, 1].min(), face[:, 1].max()
        for start in (0.04, 0.78):
            x = self.x + self.size[0] * (np.array([start, start + 0.18, start + 0.18, start]) - 0.5)
            y = low + (high - low) * np.array([0.55, 0.55, 0.85, 0.85])
            corners = camera.project(np.stack([x, y, np.full(4, face[:, 2].min() - 0.01)], axis=-1))
            canvas.polygon(corners, lamp, None)
            if light.dark:
                canvas.glow(corners.mean(0), 1.2 + 0.35 * np.ptp(corners[:, 0]), 0.22 * lamp)
        plate = self.x + self.size[0] * (np.array([0.38, 0.62, 0.62, 0.38]) - 0.5)
        y = low + (high - low) * np.array([0.2, 0.2, 0.45, 0.45])
        corners = np.stack([plate, y, np.full(4, face[:, 2].min() - 0.01)], axis=-1)
        canvas.polygon(camera.project(corners), light.lit(rgb(220, 220, 200), 0.3, self.z), None)
        y = low + (high - low) * np.array([-0.35, -0.35, 0.05, 0.05])
        x = self.x + self.size[0] * (np.array([0.03, 0.97, 0.97, 0.03]) - 0.5)
        corners = np.stack([x, y, np.full(4, face[:, 2].min() - 0.01)], axis=-1)
        canvas.polygon(camera.project(corners), light.lit(rgb(48, 48, 50), 0.2, self.z), labels.VEHICLE)

    def _wheels(
        self, canvas: Canvas, camera: Camera, light: Light, side: float, visible_only: bool = False
    ) -> None:
        width, _, length = self.size
        radius = 0.5 if self.outline is _BUS else 0.34
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        sides = (side,) if visible_only else (2 * self.x - side, side)
        for x in sides:
            for place in (0.19, 0.80):
                z = self.z + length * (1 - place if self.coming else place)
                for scale, colour in ((1.0, _RUBBER), (0.55, rgb(120, 122, 126))):
                    if scale < 1 and not visible_only:
                        continue
                    rim = np.stack(
                        [
                            np.full(16, x),
                            radius + scale * radius * np.sin(angle),
                            z + scale * radius * np.cos(angle),
                        ],
                        axis=-1,
                    )
                    rim[:, 2] = np.maximum(rim[:, 2], 0.3)
                    canvas.polygon(camera.project(rim), light.lit(colour, 0.2, z), labels.VEHICLE)
        if not visible_only:  # the tyres as seen from the end
            for x in (self.x - width / 2 + 0.02, self.x + width / 2 - 0.24):
                z = self.z + 0.19 * length - radius
                corners = np.array([[x, 0, z], [x + 0.22, 0, z], [x + 0.22, 0.5, z], [x, 0.5, z]])
                canvas.polygon(camera.project(corners), light.lit(_RUBBER, 0.1, z), labels.VEHICLE)


def draw_car(rng: np.random.Generator, x: float, z: float, coming: bool) -> Vehicle:
    """Draw a car of some make."""
    saloon = rng.random() < 0.5
    size = (
        rng.uniform(1.7, 1.95),
        rng.uniform(1.42, 1.6),
        rng.uniform(4.2, 4.8) if saloon else rng.uniform(3.7, 4.3),
    )
    paint = _PAINTS[rng.integers(len(_PAINTS))] * np.float32(rng.uniform(0.85, 1.1))
    return Vehicle(x, z, coming, size, paint, _SALOON if saloon else _HATCHBACK)


def draw_bus(rng: np.random.Generator, x: float, z: float, coming: bool) -> Vehicle:
    """Draw a bus."""
    paint = (rgb(176, 34, 36), rgb(210, 170, 60), rgb(52, 106, 150), rgb(92, 140, 84))[rng.integers(4)]
    size = (2.5, rng.uniform(2.9, 3.3), rng.uniform(9, 12))
    return Vehicle(x, z, coming, size, paint, _BUS)


def _inset(corners: np.ndarray, part: float) -> np.ndarray:
    return corners + part * (corners.mean(0) - corners)
