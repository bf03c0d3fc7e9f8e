"""The objects on the street: people and trees, which are flat and face the camera, and vehicles.

Each object is random and has `x`, `z`, `footprint` (the ground that it covers, for its shadow) and `draw`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from danet_jax.data.scenes import PERSON, VEGETATION, VEHICLE
from danet_jax.data.scenes.canvas import OVERSAMPLING, Canvas, Colour, ellipse, noise, palette, rgb, world

_SHOES = rgb(26, 26, 28)
_CLOTHES = palette("#aa2832 #283c6e #3c6e46 #c8aa46 #dcd8d0 #323034 #78466e #d26e3c")
_TROUSERS = palette("#262c42 #282626 #605646 #464e5c")
_HAIR = palette("#281e1a #604228 #b49664 #787674")
_SKIN = palette("#e2b496 #be8866 #78503a")
_LEAVES = palette("#5c7a34 #4a6c3a #74823a #967632")
_CLUSTERS = 26  # The number of leaf clusters in a crown.
_GLASS = rgb(42, 52, 62)
_RUBBER = rgb(26, 26, 28)
_CAR_PAINTS = palette("#c4c6c8 #222428 #961e20 #284682 #e6e6e2 #6e7478 #2e5c42 #c49632 #4078a0")
_BUS_PAINTS = palette("#b02224 #d2aa3c #346a96 #5c8c54")


def _one_of(colours: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    return colours[rng.integers(len(colours))]


def _rectangle(left: float, right: float, y: ArrayLike, z: ArrayLike) -> np.ndarray:
    """Returns the corners `[4, 3]` in the order left, right, right, left; `y` and `z` are numbers or `[4]`."""
    return world([left, right, right, left], y, z)


class Person:
    """A standing or walking person with the feet at `x`, `z`."""

    def __init__(self, rng: np.random.Generator, x: float, z: float):
        self.x, self.z = x, z
        self._height = float(rng.uniform(1.58, 1.9))
        self._stride = float(rng.uniform(-1, 1))
        self._coat = _one_of(_CLOTHES, rng) * np.float32(rng.uniform(0.8, 1.15))
        self._trousers, self._skin, self._hair = (_one_of(kind, rng) for kind in (_TROUSERS, _SKIN, _HAIR))
        self._bag = _one_of(_CLOTHES, rng) if rng.random() < 0.35 else None

    def footprint(self) -> np.ndarray:
        """Returns an ellipse on the ground around the feet, `[n, 3]`."""
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        return world(self.x + 0.3 * np.cos(angle), 0, self.z + 0.25 * np.sin(angle))

    def draw(self, canvas: Canvas, rng: np.random.Generator) -> None:
        """Draws legs, arms, coat and head, with darker colours on the side away from the sun."""

        def paint(points: list[tuple[float, float]], colour: Colour, facing: float) -> None:
            across, up = np.array(points, np.float64).T * self._height
            corners = world(self.x + across, up, self.z)
            canvas.surface(corners, canvas.light.lit(colour, facing, self.z), PERSON)

        step = 0.13 * self._stride
        for sign, facing in ((-1, 0.3), (1, 0.6)):
            hip, foot, hand = 0.035 * sign, sign * step, sign * 0.13 - step * 0.8
            leg = [(hip - 0.05, 0.5), (hip + 0.05, 0.5), (foot + 0.04, 0.03), (foot - 0.04, 0.03)]
            shoe = [(foot - 0.045, 0.04), (foot + 0.06, 0.04), (foot + 0.06, 0.0), (foot - 0.045, 0.0)]
            arm = [(sign * 0.09, 0.81), (sign * 0.13, 0.8), (hand + 0.025, 0.44), (hand - 0.025, 0.44)]
            paint(leg, self._trousers, facing)
            paint(shoe, _SHOES, 0.2)
            paint(arm, self._coat, facing)
        torso = [(-0.125, 0.81), (-0.05, 0.845), (0.05, 0.845), (0.125, 0.81), (0.105, 0.45), (-0.105, 0.45)]
        paint(torso, self._coat, 0.5)
        shade = [(0.02, 0.84), (0.125, 0.81), (0.105, 0.45), (0.03, 0.45)]
        if canvas.light.sun_side > 0:
            shade = [(-across, up) for across, up in shade]
        paint(shade, self._coat * 0.85, 0.15)
        if self._bag is not None:
            paint([(0.08, 0.66), (0.19, 0.66), (0.19, 0.46), (0.08, 0.46)], self._bag, 0.4)
        paint([(-0.03, 0.88), (0.03, 0.88), (0.03, 0.82), (-0.03, 0.82)], self._skin, 0.2)
        turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        paint([(0.058 * np.cos(a), 0.925 + 0.07 * np.sin(a)) for a in turn], self._skin, 0.5)
        top = np.linspace(0, np.pi, 8)
        paint([(0.064 * np.cos(a), 0.935 + 0.07 * np.sin(a)) for a in top], self._hair, 0.5)


class Tree:
    """A tree of a random kind and season at the edge of the sidewalk, with the trunk at `x`, `z`."""

    def __init__(self, rng: np.random.Generator, x: float, z: float):
        self.x, self.z = x, z
        leaves = _LEAVES[rng.choice(len(_LEAVES), p=(0.35, 0.3, 0.25, 0.1))]
        self._height = float(rng.uniform(4.8, 7.5))
        self._spread = float(rng.uniform(1.7, 2.6))  # The radius of the crown.
        self._leaves = leaves * np.float32(rng.uniform(0.85, 1.1))

    def footprint(self) -> np.ndarray:
        """Returns the ground under the crown, `[n, 3]`."""
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        ring = self._spread * 0.8
        return world(self.x + ring * np.cos(angle), 0, np.maximum(self.z + ring * np.sin(angle), 0.6))

    def draw(self, canvas: Canvas, rng: np.random.Generator) -> None:
        """Draws the trunk and then the leaf clusters, lit from the sun's side and from above."""
        camera, light = canvas.camera, canvas.light
        across, up = np.array([-0.16, 0.16, 0.09, -0.09]), np.array([0, 0, 0.6, 0.6]) * self._height
        trunk = world(self.x + across, up, self.z)
        canvas.surface(trunk, light.lit(rgb(84, 66, 50), 0.35, self.z), VEGETATION)

        size = self._spread * camera.focal / self.z
        middle = camera.project(np.array([self.x, self._height - 0.85 * self._spread, self.z]))
        angle, reach = rng.uniform(0, 2 * np.pi, _CLUSTERS), 0.72 * np.sqrt(rng.uniform(0, 1, _CLUSTERS))
        offsets = np.stack([np.cos(angle) * reach, 0.85 * np.sin(angle) * reach], axis=-1) * size
        radii = rng.uniform(0.2, 0.4, _CLUSTERS) * size
        ragged = rng.uniform(0.8, 1.2, (_CLUSTERS, 14, 1))
        clusters = [
            middle + offset + edge * ellipse(np.zeros(2), (radius, radius), 14)
            for offset, radius, edge in zip(offsets, radii, ragged, strict=True)
        ]
        rows, columns = canvas.window(middle, 1.3 * size)
        crown = canvas.mask(clusters)[rows, columns] > 0
        leaf = max(0.16 * size / self._spread, 0.5) * OVERSAMPLING  # This is 16 cm in samples.
        texture = noise(rng, crown.shape[0], crown.shape[1], max(2.0, crown.shape[1] / leaf))
        x, y = canvas.grid()
        towards = 0.8 * (middle[1] - y[rows]) + 0.6 * light.sun_side * (x[:, columns] - middle[0])
        shade = np.clip(0.5 + 0.45 * towards / size + 0.45 * texture, 0, 1)[..., None]
        dark, bright = (
            light.lit(self._leaves * 0.55, 0.0, self.z),
            light.lit(self._leaves * 1.15, 0.9, self.z),
        )
        np.copyto(canvas.image[rows, columns], dark + (bright - dark) * shade, where=crown[..., None])
        canvas.label[rows, columns][crown] = VEGETATION


def _side_view(corners: str) -> tuple[tuple[float, float, str], ...]:
    return tuple((float(z), float(y), kind) for z, y, kind in map(str.split, corners.split(",")))


# Side views consist of corners `z y` in units of length and height, from the rear bumper over the roof to the front
# bumper. The letter of a corner gives the kind of the face between it and the next one: lamps, paint or glass.
_SALOON = _side_view(
    "0.00 0.20 l, 0.01 0.56 p, 0.14 0.64 g, 0.27 0.98 p, 0.58 1.00 g, 0.74 0.64 p, 0.98 0.52 l, 1.00 0.20 p"
)
_HATCHBACK = _side_view(
    "0.00 0.20 l, 0.01 0.55 g, 0.08 0.95 p, 0.50 1.00 g, 0.72 0.62 p, 0.98 0.50 l, 1.00 0.20 p"
)
_BUS = _side_view(
    "0.00 0.13 l, 0.00 0.46 g, 0.00 0.90 p, 0.01 1.00 p, 0.99 1.00 p, 1.00 0.90 g, 1.00 0.46 l, 1.00 0.13 p"
)


class Vehicle:
    """A car or a bus: a side view extruded to the width of the vehicle, whose faces are drawn from far to near.

    Attributes:
      x: X of the middle.
      z: Z of the end that is nearer to the camera.
      width: Width in metres.
      length: Length in metres.
    """

    def __init__(self, rng: np.random.Generator, x: float, z: float, *, coming: bool, bus: bool = False):
        self.x, self.z = x, z
        self._coming = coming  # Whether the front faces the camera.
        if bus:
            self._outline, self._paint = _BUS, _one_of(_BUS_PAINTS, rng)
            self.width, self._height, self.length = (
                2.5,
                float(rng.uniform(2.9, 3.3)),
                float(rng.uniform(9, 12)),
            )
            return
        saloon = rng.random() < 0.5
        self._outline = _SALOON if saloon else _HATCHBACK
        self.width = float(rng.uniform(1.7, 1.95))
        self._height = float(rng.uniform(1.42, 1.6))
        self.length = float(rng.uniform(4.2, 4.8) if saloon else rng.uniform(3.7, 4.3))
        self._paint = _one_of(_CAR_PAINTS, rng) * np.float32(rng.uniform(0.85, 1.1))

    def footprint(self) -> np.ndarray:
        """Returns the corners of the shadow on the ground, `[4, 3]`."""
        half, near, far = self.width / 2 + 0.1, max(self.z - 0.25, 0.5), self.z + self.length
        return _rectangle(self.x - half, self.x + half, 0, [near, near, far, far])

    def draw(self, canvas: Canvas, rng: np.random.Generator) -> None:
        """Draws wheels, then the visible faces from far to near, then the wheels of the near side."""
        light = canvas.light
        z = self._ahead(np.array([corner[0] for corner in self._outline]))
        y = self._height * np.array([corner[1] for corner in self._outline])
        left, right = self.x - self.width / 2, self.x + self.width / 2
        side = left if self.x > 0 else right
        self._draw_wheels(canvas, (left, right))
        tyres = self.z + 0.19 * self.length - 0.4  # These tyres are seen from the end of the vehicle.
        for first in (left + 0.02, right - 0.24):
            corners = _rectangle(first, first + 0.22, [0, 0, 0.5, 0.5], tyres)
            canvas.surface(corners, light.lit(_RUBBER, 0.1, tyres), VEHICLE)

        faces = []
        for index, (_, _, kind) in enumerate(self._outline[:-1]):
            run, rise = z[index + 1] - z[index], y[index + 1] - y[index]
            upwards = abs(run) / max(float(np.hypot(run, rise)), 1e-6)
            outwards = np.array([-rise, run]) * (-1 if self._coming else 1)
            middle = (
                np.array([z[index] + z[index + 1], y[index] + y[index + 1] - 2 * canvas.camera.height]) / 2
            )
            if outwards @ middle < 0:  # The face is towards the camera.
                ends = slice(index, index + 2)
                quad = _rectangle(left, right, np.repeat(y[ends], 2), np.repeat(z[ends], 2))
                faces.append((middle[0], kind, upwards, quad))
        faces.append((self.z + 0.15 * self.length, "flank", 0.0, world(side, y, z)))
        for distance, kind, upwards, corners in sorted(faces, key=lambda face: -face[0]):
            facing = 0.25 + 0.75 * upwards
            if kind == "flank":
                facing = 0.85 if (side == left) == (light.sun_side < 0) else 0.1
            material = _GLASS + 0.25 * light.zenith if kind == "g" else self._paint
            colour = light.lit(material, facing, distance)
            canvas.surface(corners, colour, VEHICLE)
            if kind == "g":
                inner = corners + 0.08 * (corners.mean(axis=0) - corners)
                canvas.surface(inner, 0.75 * colour, None)
            elif kind == "l":
                self._draw_lamps(canvas, corners)
            elif kind == "flank":
                self._draw_windows(canvas, side)
        self._draw_wheels(canvas, (side,), rims=True)

    def _ahead(self, along: np.ndarray) -> np.ndarray:
        """Returns the Z of points at `along`, from 0 (rear) to 1 (front)."""
        return self.z + self.length * (1 - along if self._coming else along)

    def _draw_windows(self, canvas: Canvas, side: float) -> None:
        colour = canvas.light.lit(_GLASS + 0.2 * canvas.light.zenith, 0.3, self.z)
        if self._outline is _BUS:
            base, top = 0.48, 0.86
            quads = [(start, start + 0.1, start + 0.1, start) for start in np.arange(0.04, 0.95, 0.118)]
            if canvas.light.dark:
                colour = rgb(225, 203, 153)
        else:
            base, top = 0.63, 0.93
            glass = [index for index, corner in enumerate(self._outline) if corner[2] == "g"]
            rear, roof, front = (self._outline[i][0] for i in (glass[0], glass[0] + 1, glass[-1]))
            hood = self._outline[glass[-1] + 1][0]
            quads = [(rear + 0.07, 0.445, 0.445, roof + 0.03), (0.475, hood - 0.06, front, 0.475)]
        y = self._height * np.array([base, base, top, top])
        for quad in quads:
            canvas.surface(world(side, y, self._ahead(np.array(quad))), colour, None)

    def _draw_lamps(self, canvas: Canvas, face: np.ndarray) -> None:
        """Draws the bumper, number plate and lamps on the visible end of the vehicle."""
        light = canvas.light
        low, high, near = face[:, 1].min(), face[:, 1].max(), face[:, 2].min() - 0.01

        def part(first: float, last: float, base: float, top: float) -> np.ndarray:
            left, right = self.x + self.width * (np.array([first, last]) - 0.5)
            up = low + (high - low) * np.array([base, base, top, top])
            return canvas.camera.project(_rectangle(left, right, up, near))

        bumper, plate = light.lit(rgb(48, 48, 50), 0.2, self.z), light.lit(rgb(220, 220, 200), 0.3, self.z)
        canvas.polygon(part(0.03, 0.97, -0.35, 0.05), bumper, VEHICLE)
        canvas.polygon(part(0.38, 0.62, 0.2, 0.45), plate, None)
        lamp = rgb(255, 240, 205) if self._coming else rgb(170, 24, 22)
        lamp = lamp * np.float32(1.15 if light.dark else 0.85)
        for first in (0.04, 0.78):
            corners = part(first, first + 0.18, 0.55, 0.85)
            canvas.polygon(corners, lamp, None)
            if light.dark:
                canvas.glow(corners.mean(axis=0), 1.2 + 0.35 * float(np.ptp(corners[:, 0])), 0.22 * lamp)

    def _draw_wheels(self, canvas: Canvas, sides: tuple[float, ...], rims: bool = False) -> None:
        radius = 0.5 if self._outline is _BUS else 0.34
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        circles = [(radius, _RUBBER), (0.55 * radius, rgb(120, 122, 126))][: 2 if rims else 1]
        for x in sides:
            for middle in self._ahead(np.array([0.19, 0.80])):
                for size, colour in circles:
                    y, z = radius + size * np.sin(angle), np.maximum(middle + size * np.cos(angle), 0.3)
                    canvas.surface(world(x, y, z), canvas.light.lit(colour, 0.2, middle), VEHICLE)


Thing = Person | Tree | Vehicle
