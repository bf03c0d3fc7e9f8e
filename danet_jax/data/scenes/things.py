"""What stands and moves on the street: people and trees, drawn flat facing the camera, and vehicles.

Each has `x`, `z`, `footprint` (the ground it covers, for its shadow) and `draw`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from danet_jax.data.scenes import PERSON, VEGETATION, VEHICLE
from danet_jax.data.scenes.canvas import (
    OVERSAMPLING,
    Camera,
    Canvas,
    Colour,
    Light,
    ellipse_points,
    noise,
    palette,
    rgb,
)

_SHOES = rgb(26, 26, 28)
_CLOTHES = palette("#aa2832 #283c6e #3c6e46 #c8aa46 #dcd8d0 #323034 #78466e #d26e3c")
_TROUSERS = palette("#262c42 #282626 #605646 #464e5c")
_LEAVES = palette("#5c7a34 #4a6c3a #74823a #967632")
_CLUSTERS = 26  # of leaves in a crown
_HAIR = palette("#281e1a #604228 #b49664 #787674")
_SKIN = palette("#e2b496 #be8866 #78503a")


@dataclasses.dataclass(frozen=True)
class Person:
    """A person who stands or walks.

    Attributes:
      x, z: Where the feet are.
      height: Height in metres.
      stride: How far the legs are apart, -1 to 1.
      coat, trousers, skin, hair: Colours.
      bag: Colour of a bag, None without one.
    """

    x: float
    z: float
    height: float
    stride: float
    coat: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    bag: Colour | None

    def footprint(self) -> np.ndarray:
        """Returns an ellipse on the ground around the feet, `[n, 3]`."""
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        return np.stack([self.x + 0.3 * np.cos(angle), 0 * angle, self.z + 0.25 * np.sin(angle)], axis=-1)

    def draw(self, canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
        """Draws legs, arms, coat and head, with the side away from the sun darker."""

        def paint(points: list[tuple[float, float]], colour: Colour, facing: float) -> None:
            across, up = np.array(points, np.float64).T * self.height
            corners = np.stack([self.x + across, up, np.full(len(points), self.z)], axis=-1)
            canvas.polygon(camera.project(corners), light.lit(colour, facing, self.z), PERSON)

        step = 0.13 * self.stride
        for sign, facing in ((-1, 0.3), (1, 0.6)):
            hip, foot, hand = 0.035 * sign, sign * step, sign * 0.13 - step * 0.8
            leg = [(hip - 0.05, 0.5), (hip + 0.05, 0.5), (foot + 0.04, 0.03), (foot - 0.04, 0.03)]
            shoe = [(foot - 0.045, 0.04), (foot + 0.06, 0.04), (foot + 0.06, 0.0), (foot - 0.045, 0.0)]
            arm = [(sign * 0.09, 0.81), (sign * 0.13, 0.8), (hand + 0.025, 0.44), (hand - 0.025, 0.44)]
            paint(leg, self.trousers, facing)
            paint(shoe, _SHOES, 0.2)
            paint(arm, self.coat, facing)
        torso = [(-0.125, 0.81), (-0.05, 0.845), (0.05, 0.845), (0.125, 0.81), (0.105, 0.45), (-0.105, 0.45)]
        paint(torso, self.coat, 0.5)
        shade = [(0.02, 0.84), (0.125, 0.81), (0.105, 0.45), (0.03, 0.45)]
        if light.sun_side > 0:
            shade = [(-across, up) for across, up in shade]
        paint(shade, self.coat * 0.85, 0.15)
        if self.bag is not None:
            paint([(0.08, 0.66), (0.19, 0.66), (0.19, 0.46), (0.08, 0.46)], self.bag, 0.4)
        paint([(-0.03, 0.88), (0.03, 0.88), (0.03, 0.82), (-0.03, 0.82)], self.skin, 0.2)
        turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        paint([(0.058 * np.cos(a), 0.925 + 0.07 * np.sin(a)) for a in turn], self.skin, 0.5)
        top = np.linspace(0, np.pi, 8)
        paint([(0.064 * np.cos(a), 0.935 + 0.07 * np.sin(a)) for a in top], self.hair, 0.5)


def draw_person(rng: np.random.Generator, x: float, z: float) -> Person:
    """Draws a passer-by at random."""
    return Person(
        x,
        z,
        height=float(rng.uniform(1.58, 1.9)),
        stride=float(rng.uniform(-1, 1)),
        coat=_CLOTHES[rng.integers(len(_CLOTHES))] * np.float32(rng.uniform(0.8, 1.15)),
        trousers=_TROUSERS[rng.integers(len(_TROUSERS))],
        skin=_SKIN[rng.integers(len(_SKIN))],
        hair=_HAIR[rng.integers(len(_HAIR))],
        bag=_CLOTHES[rng.integers(len(_CLOTHES))] if rng.random() < 0.35 else None,
    )


@dataclasses.dataclass(frozen=True)
class Tree:
    """A tree at the edge of the sidewalk.

    Attributes:
      x, z: Where the trunk is.
      height: Height in metres.
      spread: Radius of the crown in metres.
      leaves: Colour of the leaves.
    """

    x: float
    z: float
    height: float
    spread: float
    leaves: Colour

    def footprint(self) -> np.ndarray:
        """Returns the ground under the crown, `[n, 3]`."""
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        ring = self.spread * 0.8
        z = np.maximum(self.z + ring * np.sin(angle), 0.6)
        return np.stack([self.x + ring * np.cos(angle), 0 * angle, z], axis=-1)

    def draw(self, canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
        """Draws the trunk, then a heap of leaf clusters, lit from the sun's side and from above."""
        trunk = np.array([[-0.16, 0], [0.16, 0], [0.09, 0.6 * self.height], [-0.09, 0.6 * self.height]])
        corners = np.stack([self.x + trunk[:, 0], trunk[:, 1], np.full(4, self.z)], axis=-1)
        canvas.polygon(camera.project(corners), light.lit(rgb(84, 66, 50), 0.35, self.z), VEGETATION)

        size = self.spread * camera.focal / self.z
        middle = camera.project(np.array([self.x, self.height - 0.85 * self.spread, self.z]))
        angle, reach = rng.uniform(0, 2 * np.pi, _CLUSTERS), 0.72 * np.sqrt(rng.uniform(0, 1, _CLUSTERS))
        offsets = np.stack([np.cos(angle) * reach, 0.85 * np.sin(angle) * reach], axis=-1) * size
        radii = rng.uniform(0.2, 0.4, _CLUSTERS) * size
        ragged = rng.uniform(0.8, 1.2, (_CLUSTERS, 14, 1))
        clusters = [
            middle + offset + ragged[index] * ellipse_points(np.zeros(2), (radii[index], radii[index]), 14)
            for index, offset in enumerate(offsets)
        ]
        rows, columns = canvas.window(middle, 1.3 * size)
        crown = canvas.mask(clusters)[rows, columns] > 0
        leaf = max(0.16 * size / self.spread, 0.5) * OVERSAMPLING  # of 16 cm, in samples
        texture = noise(rng, crown.shape[0], crown.shape[1], max(2.0, crown.shape[1] / leaf))
        x, y = canvas.grid()
        towards = 0.8 * (middle[1] - y[rows]) + 0.6 * light.sun_side * (x[:, columns] - middle[0])
        shade = np.clip(0.5 + 0.45 * towards / size + 0.45 * texture, 0, 1)[..., None]
        dark, bright = light.lit(self.leaves * 0.55, 0.0, self.z), light.lit(self.leaves * 1.15, 0.9, self.z)
        np.copyto(canvas.image[rows, columns], dark + (bright - dark) * shade, where=crown[..., None])
        canvas.label[rows, columns][crown] = VEGETATION


def draw_tree(rng: np.random.Generator, x: float, z: float) -> Tree:
    """Draws a tree of a random kind and season."""
    leaves = _LEAVES[rng.choice(len(_LEAVES), p=(0.35, 0.3, 0.25, 0.1))]
    return Tree(
        x,
        z,
        height=float(rng.uniform(4.8, 7.5)),
        spread=float(rng.uniform(1.7, 2.6)),
        leaves=leaves * np.float32(rng.uniform(0.85, 1.1)),
    )


_GLASS = rgb(42, 52, 62)
_RUBBER = rgb(26, 26, 28)
_PAINTS = palette("#c4c6c8 #222428 #961e20 #284682 #e6e6e2 #6e7478 #2e5c42 #c49632 #4078a0")


def _side_view(corners: str) -> tuple[tuple[float, float, str], ...]:
    return tuple((float(z), float(y), kind) for z, y, kind in map(str.split, corners.split(",")))


# Side views: corners `z y` in units of length and height, from the rear bumper up and over to the front bumper. The
# letter of a corner says what the face from there to the next is: lamps, paint or glass.
_SALOON = _side_view(
    "0.00 0.20 l, 0.01 0.56 p, 0.14 0.64 g, 0.27 0.98 p, 0.58 1.00 g, 0.74 0.64 p, 0.98 0.52 l, 1.00 0.20 p"
)
_HATCHBACK = _side_view(
    "0.00 0.20 l, 0.01 0.55 g, 0.08 0.95 p, 0.50 1.00 g, 0.72 0.62 p, 0.98 0.50 l, 1.00 0.20 p"
)
_BUS = _side_view(
    "0.00 0.13 l, 0.00 0.46 g, 0.00 0.90 p, 0.01 1.00 p, 0.99 1.00 p, 1.00 0.90 g, 1.00 0.46 l, 1.00 0.13 p"
)
_BUS_PAINTS = palette("#b02224 #d2aa3c #346a96 #5c8c54")


@dataclasses.dataclass(frozen=True)
class Vehicle:
    """A car or a bus: a side view extruded to the vehicle's width, its faces drawn from far to near.

    Attributes:
      x: X of its middle.
      z: Z of its end that is nearer to the camera.
      coming: Whether its front faces the camera.
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
        """Returns the corners of its shadow on the ground, `[4, 3]`."""
        half, near = self.width / 2 + 0.1, max(self.z - 0.25, 0.5)
        far = self.z + self.length
        return _rectangle((self.x - half, self.x + half), (0, 0), (near, near, far, far))

    def draw(self, canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
        """Draws wheels, then the visible faces from far to near, then the wheels of the near side."""
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
            canvas.polygon(camera.project(corners), colour, VEHICLE)
            if kind == "g":
                inner = corners + 0.08 * (corners.mean(axis=0) - corners)
                canvas.polygon(camera.project(inner), 0.75 * colour, None)
            elif kind == "l":
                self._draw_lamps(canvas, camera, light, corners)
            elif kind == "flank":
                self._draw_windows(canvas, camera, light, side)
        self._draw_wheels(canvas, camera, light, (side,), rims=True)

    def _ahead(self, along: np.ndarray) -> np.ndarray:
        """Returns the Z of points at `along`, 0 (rear) to 1 (front)."""
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
        """Draws bumper, number plate and lamps on the visible end of the vehicle."""
        low, high, near = face[:, 1].min(), face[:, 1].max(), face[:, 2].min() - 0.01

        def part(first: float, last: float, base: float, top: float) -> np.ndarray:
            across = self.x + self.width * (np.array([first, last]) - 0.5)
            up = low + (high - low) * np.array([base, base, top, top])
            return camera.project(_rectangle(across, up, np.full(4, near)))

        bumper, plate = light.lit(rgb(48, 48, 50), 0.2, self.z), light.lit(rgb(220, 220, 200), 0.3, self.z)
        canvas.polygon(part(0.03, 0.97, -0.35, 0.05), bumper, VEHICLE)
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
                    canvas.polygon(camera.project(corners), light.lit(colour, 0.2, middle), VEHICLE)

    def _draw_tyres(self, canvas: Canvas, camera: Camera, light: Light) -> None:
        """Draws the tyres as seen from the end of the vehicle."""
        z = self.z + 0.19 * self.length - 0.4
        for first in (self.x - self.width / 2 + 0.02, self.x + self.width / 2 - 0.24):
            corners = _rectangle((first, first + 0.22), (0, 0, 0.5, 0.5), np.full(4, z))
            canvas.polygon(camera.project(corners), light.lit(_RUBBER, 0.1, z), VEHICLE)


def draw_car(rng: np.random.Generator, x: float, z: float, coming: bool) -> Vehicle:
    """Draws a random car."""
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
    """Draws a random bus."""
    paint = _BUS_PAINTS[rng.integers(len(_BUS_PAINTS))]
    height, length = float(rng.uniform(2.9, 3.3)), float(rng.uniform(9, 12))
    return Vehicle(x, z, coming, width=2.5, height=height, length=length, paint=paint, outline=_BUS)


def _rectangle(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, z: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Returns corners `[4, 3]`: left, right, right, left, the first two with the first y and z."""
    up = np.asarray(y if len(y) == 4 else (y[0], y[0], y[1], y[1]), np.float64)
    return np.stack([np.array([x[0], x[1], x[1], x[0]]), up, np.asarray(z, np.float64)], axis=-1)


Thing = Person | Tree | Vehicle
