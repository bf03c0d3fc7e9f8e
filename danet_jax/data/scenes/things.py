"""People and trees, drawn flat where they stand, facing the camera.

Every thing on the street, vehicles too, has `x`, `z`, `footprint` (the ground it covers, for its shadow) and
`draw`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from danet_jax.data.scenes import labels
from danet_jax.data.scenes.canvas import OVERSAMPLING, Camera, Canvas, Colour, ellipse_points
from danet_jax.data.scenes.light import Light, noise, rgb

_SHOES = rgb(26, 26, 28)
_CLOTHES = (
    rgb(170, 40, 50),
    rgb(40, 60, 110),
    rgb(60, 110, 70),
    rgb(200, 170, 70),
    rgb(220, 216, 208),
    rgb(50, 48, 52),
    rgb(120, 70, 110),
    rgb(210, 110, 60),
)
_TROUSERS = (rgb(38, 44, 66), rgb(40, 38, 38), rgb(96, 86, 70), rgb(70, 78, 92))
_LEAVES = (rgb(92, 122, 52), rgb(74, 108, 58), rgb(116, 130, 58), rgb(150, 118, 50))
_CLUSTERS = 26  # of leaves in a crown
_HAIR = (rgb(40, 30, 26), rgb(96, 66, 40), rgb(180, 150, 100), rgb(120, 118, 116))
_SKIN = (rgb(226, 180, 150), rgb(190, 136, 102), rgb(120, 80, 58))


@dataclasses.dataclass(frozen=True)
class Person:
    """Somebody who stands or walks.

    Attributes:
      x: X of the feet.
      z: Z of the feet.
      height: Height in metres.
      stride: How far the legs are apart, -1 to 1.
      coat: Colour of the upper part.
      trousers: Colour of the legs.
      skin: Colour of face and hands.
      hair: Colour of the hair.
      bag: Colour of a bag, None without.
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
        """Return an ellipse on the ground around the feet, `[n, 3]`."""
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        return np.stack([self.x + 0.3 * np.cos(angle), 0 * angle, self.z + 0.25 * np.sin(angle)], axis=-1)

    def draw(self, canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
        """Draw legs, arms, coat and head, with the side away from the sun darker."""

        def place(points: list[tuple[float, float]]) -> np.ndarray:
            across, up = np.array(points, np.float64).T * self.height
            return camera.project(np.stack([self.x + across, up, np.full(len(points), self.z)], axis=-1))

        def paint(points: list[tuple[float, float]], colour: Colour, facing: float) -> None:
            canvas.polygon(place(points), light.lit(colour, facing, self.z), labels.PERSON)

        step = 0.13 * self.stride
        for sign, facing in ((-1, 0.3), (1, 0.6)):
            foot = sign * step
            hip = 0.035 * sign
            paint(
                [(hip - 0.05, 0.5), (hip + 0.05, 0.5), (foot + 0.04, 0.03), (foot - 0.04, 0.03)],
                self.trousers,
                facing,
            )
            paint(
                [(foot - 0.045, 0.04), (foot + 0.06, 0.04), (foot + 0.06, 0.0), (foot - 0.045, 0.0)],
                _SHOES,
                0.2,
            )
            hand = sign * 0.13 - step * 0.8
            paint(
                [(sign * 0.09, 0.81), (sign * 0.13, 0.8), (hand + 0.025, 0.44), (hand - 0.025, 0.44)],
                self.coat,
                facing,
            )
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
    """Draw a passer-by."""
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
      x: X of the trunk.
      z: Z of the trunk.
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
        """Return the ground under the crown, `[n, 3]`."""
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        ring = self.spread * 0.8
        z = np.maximum(self.z + ring * np.sin(angle), 0.6)
        return np.stack([self.x + ring * np.cos(angle), 0 * angle, z], axis=-1)

    def draw(self, canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
        """Draw the trunk, then a heap of leaf clusters, lit from the sun's side and from above."""
        trunk = np.array([[-0.16, 0], [0.16, 0], [0.09, 0.6 * self.height], [-0.09, 0.6 * self.height]])
        corners = np.stack([self.x + trunk[:, 0], trunk[:, 1], np.full(4, self.z)], axis=-1)
        canvas.polygon(camera.project(corners), light.lit(rgb(84, 66, 50), 0.35, self.z), labels.VEGETATION)

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
        canvas.label[rows, columns][crown] = labels.VEGETATION


def draw_tree(rng: np.random.Generator, x: float, z: float) -> Tree:
    """Draw a tree of some kind and season."""
    leaves = _LEAVES[rng.choice(len(_LEAVES), p=(0.35, 0.3, 0.25, 0.1))]
    return Tree(
        x,
        z,
        height=float(rng.uniform(4.8, 7.5)),
        spread=float(rng.uniform(1.7, 2.6)),
        leaves=leaves * np.float32(rng.uniform(0.85, 1.1)),
    )
