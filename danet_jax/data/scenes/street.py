"""Paints the street: sky, houses, sidewalks and road, computed for each pixel from the end of its ray."""

from __future__ import annotations

import numpy as np

from danet_jax.data.scenes import BUILDING, SIDEWALK, SKY, VEGETATION
from danet_jax.data.scenes.canvas import Canvas, Colour, Grain, noise, palette, rgb

_WALLS = palette("#b09880 #965442 #cec0a4 #867c74 #c4a078 #a86850 #d6d0c8 #92969e")
_AWNINGS = palette("#962828 #285a3c #324682 #be963c #5a3c32")

Surface = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Colour `[h, w, 3]`, mask `[h, w]` and label `[h, w]` of a surface in a part of the canvas."""


class Street:
    """The random plan of a street in metres, with X measured from the camera.

    Attributes:
      middle: X of the middle of the road.
      road: Half the width of the road.
      sidewalk: Width of each sidewalk; houses begin behind it.
      end: Z of the house at the end of the street.
      crossing: Z of a zebra crossing, or None.
      lanes: Colours of the asphalt, left and right of the middle.
    """

    def __init__(self, rng: np.random.Generator, lanes: tuple[Colour, Colour]):
        self.road = rng.uniform(2.7, 3.6)
        self.middle = rng.uniform(-0.45, 0.45) * self.road
        self.sidewalk = rng.uniform(2.6, 4.2)
        self.end = rng.uniform(35, 90)
        self.crossing = rng.uniform(4.5, 9) if rng.random() < 0.35 else None
        self.lanes = lanes


class _Row:
    """The houses along one side of the street; all attributes are arrays over the houses, `[n]` or `[n, 3]`."""

    def __init__(self, rng: np.random.Generator, end: float):
        lengths = rng.uniform(7, 18, 40)
        starts = np.cumsum(lengths) - rng.uniform(4, 16)
        count = int(np.searchsorted(starts, end)) + 1
        tall = rng.uniform(6, 13)
        pick = rng.permuted(np.arange(count) % len(_WALLS))
        wall = np.stack(_WALLS)[pick] * rng.uniform(0.8, 1.15, (count, 1))
        self.start = np.concatenate([[-1e3], starts[: count - 1]])
        self.height = tall + rng.uniform(-1.2, 1.8, count)
        self.wall = np.clip(wall + rng.uniform(-0.03, 0.03, (count, 3)), 0, 0.95).astype(np.float32)
        self.glass = np.outer(rng.uniform(0.6, 1.3, count), rgb(58, 74, 92)).astype(np.float32)
        self.awning = np.stack(_AWNINGS)[rng.integers(0, len(_AWNINGS), count)]
        self.spacing = rng.uniform(1.9, 3.2, count)
        self.storey = rng.uniform(2.8, 3.5, count)
        self.garden = rng.random(count) < 0.1

    def house(self, z: np.ndarray) -> np.ndarray:
        """Returns the index of the house at each `z`."""
        return np.searchsorted(self.start, z, side="right") - 1


def paint_street(
    canvas: Canvas, street: Street, road_labels: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Paints sky, houses, sidewalks and road over the entire canvas.

    Args:
      canvas: The canvas.
      street: The plan of the street.
      road_labels: Labels of the left and the right lane.
      rng: The source of all randomness.

    Returns:
      A mask of the ground, on which shadows fall, bool `[S*H, S*W]`.
    """
    camera, (x, y) = canvas.camera, canvas.grid()
    grain = Grain(rng)
    rows = [_Row(rng, street.end) for _ in range(2)]
    canvas.image[...], canvas.label[...] = _sky(canvas, rng), SKY

    # A ray ends at the ground, at the houses on its side or at the house at the end of the street.
    slope = x - camera.centre
    slope = np.where(np.abs(slope) < 1e-3, np.float32(1e-3), slope)
    wall = street.middle + (street.road + street.sidewalk) * np.sign(slope)
    z_side = (camera.focal * wall / slope).astype(np.float32)
    z_side[z_side < 0] = np.inf
    middle = np.flatnonzero(z_side[0] >= street.end)
    left, right = slice(0, int(middle[0])), slice(int(middle[-1]) + 1, None)
    between = slice(left.stop, right.start)

    across = slope[:, between] * (street.end / camera.focal)
    up = camera.height - (y - camera.horizon) * (street.end / camera.focal)
    _put(canvas, slice(None), between, _end(across, up, canvas, grain, street, rng))
    for columns, row, side in ((left, rows[0], -1), (right, rows[1], 1)):
        z = z_side[:, columns]
        up = camera.height - (y - camera.horizon) * (z / camera.focal)
        facing = 0.9 if side * canvas.light.sun_side < 0 else 0.0
        _put(canvas, slice(None), columns, _houses(z, up, canvas, row, facing, grain, rng))

    below = slice(int(np.searchsorted(y[:, 0], camera.horizon + 0.1)), None)
    z = (camera.focal * camera.height / (y[below] - camera.horizon)).astype(np.float32)
    colour, ground_label = _ground(z, canvas, street, rows, grain, road_labels)
    seen = z < np.minimum(z_side, street.end)
    _put(canvas, below, slice(None), (colour, seen, ground_label))
    ground = np.zeros(canvas.label.shape, bool)
    ground[below] = seen
    return ground


def _put(canvas: Canvas, rows: slice, columns: slice, surface: Surface) -> None:
    """Paints a surface onto a part of the canvas."""
    colour, where, label = surface
    np.copyto(canvas.image[rows, columns], colour, where=where[..., None])
    np.copyto(canvas.label[rows, columns], label.astype(np.uint8), where=where)


def _sky(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    height, width = canvas.label.shape
    light, (_, y) = canvas.light, canvas.grid()
    rise = np.clip(1 - y / canvas.camera.horizon, 0, 1)[..., None] ** 0.8
    sky = light.haze * (1 - rise) + light.zenith * rise
    sky = np.repeat(sky.astype(np.float32), width, axis=1)
    octaves = [noise(rng, height, width, 4 * 2**octave) / 2**octave for octave in range(4)]
    clouds = np.asarray(sum(octaves), np.float32) / 1.5
    clouds = np.clip(clouds * 1.6 + rng.uniform(-0.8, 0.3), 0, 1)[..., None]
    bright = np.minimum(light.haze * 1.12 + 0.03, 1.0)
    return sky + clouds * 0.7 * (bright - sky)


def _houses(
    z: np.ndarray,
    up: np.ndarray,
    canvas: Canvas,
    row: _Row,
    facing: float,
    grain: Grain,
    rng: np.random.Generator,
) -> Surface:
    """Returns the surface of a row of houses at depth `z` `[1, W]` and height `up` `[H, W]`."""
    light, house = canvas.light, row.house(z[0])
    up = up.astype(np.float32)
    along = z - row.start[house]
    height, storey = row.height[house][None], row.storey[house][None]
    speckle = grain.at(np.broadcast_to(z, up.shape), up, 9)
    wall = row.wall[house][None] * (1 + 0.05 * speckle[..., None])

    # Windows form a grid of panes above the ground floor, with light frames and sills.
    column, row_of = along / row.spacing[house][None], (up - 3.6) / storey
    inside_x, inside_y = np.mod(column, 1) - 0.5, np.mod(row_of, 1) - 0.5
    upper = (up > 3.6) & (up < height - 0.7)
    frame = upper & (np.abs(inside_x) < 0.27) & (np.abs(inside_y) < 0.34)
    pane = upper & (np.abs(inside_x) < 0.21) & (np.abs(inside_y) < 0.29)
    wall = np.where(frame[..., None], wall * 0.55 + 0.4, wall)
    table = rng.random(257).astype(np.float32)
    chance = table[(np.floor(column) * 7 + np.floor(row_of) * 31 + house * 13).astype(int) % 257]

    # The ground floor has shop windows between piers, under awnings.
    shop = (up > 0.5) & (up < 2.5) & (np.abs(np.mod(along / 3.4, 1) - 0.5) < 0.4)
    awning = (up > 2.5) & (up < 3.15)
    wall = np.where((up < 0.5)[..., None], wall * 0.8, wall)
    wall = np.where(awning[..., None], row.awning[house][None], wall)
    wall = np.where(((up > height - 0.5) & (up < height - 0.1))[..., None], wall * 0.75, wall)
    wall = np.where((along < 0.12)[..., None], wall * 0.6, wall)
    distance = np.broadcast_to(z, up.shape)
    colour = light.lit(wall, facing, distance)

    reflection = row.glass[house][None] + (0.14 + 0.3 * chance[..., None]) * light.haze * (0.5 + 0.5 * facing)
    glass = light.lit(reflection, 0.25, distance)
    if light.dark:
        lamp = rgb(255, 205, 130) * np.float32(0.95)
        glass = np.where((chance > 0.62)[..., None], lamp * (0.6 + 0.4 * chance[..., None]), glass)
        glass = np.where((shop & (table[house % 257] > 0.4)[None])[..., None], lamp, glass)
    colour = np.where((pane | shop)[..., None], glass, colour)

    # A garden in place of a house has a hedge.
    garden = row.garden[house][None]
    ragged = 2.3 + 0.35 * grain.at(z, 0 * z, 1.5) + 0.25 * speckle
    leaves = rgb(62, 92, 40) * (0.8 + 0.22 * speckle[..., None] + 0.1 * np.clip(up, 0, 3)[..., None])
    hedge = light.lit(leaves, 0.8 * facing, distance)
    colour = np.where(garden[..., None], hedge, colour)
    solid = np.where(garden, up < ragged, up < height)
    return colour, solid, np.broadcast_to(np.where(garden, VEGETATION, BUILDING), up.shape)


def _end(
    across: np.ndarray, up: np.ndarray, canvas: Canvas, grain: Grain, street: Street, rng: np.random.Generator
) -> Surface:
    """Returns the surface of the houses or trees at the end of the street, at `across` `[1, W]` and `up` `[H, 1]`."""
    light = canvas.light
    across, up = np.broadcast_arrays(across.astype(np.float32), up.astype(np.float32))
    speckle = grain.at(across, up, 2.0)
    if rng.random() < 0.4:
        crown = rng.uniform(6, 13) + 1.8 * grain.at(across, up * 0, 0.5) + 0.6 * speckle
        colour = light.lit(rgb(66, 92, 48) * (1 + 0.2 * speckle[..., None]), 0.5, street.end)
        return colour, up < crown, np.full(up.shape, VEGETATION)
    height = rng.uniform(7, 18) + 3.0 * np.sign(np.sin(across * rng.uniform(0.15, 0.5) + rng.uniform(0, 6)))
    wall = _WALLS[rng.integers(len(_WALLS))] * (1 + 0.05 * speckle[..., None])
    window = (np.abs(np.mod(across / 3, 1) - 0.5) < 0.24) & (np.abs(np.mod(up / 3.3, 1) - 0.5) < 0.28)
    wall = np.where((window & (up < height - 1))[..., None], rgb(70, 84, 100), wall)
    return light.lit(wall, 0.5, street.end), up < height, np.full(up.shape, BUILDING)


def _ground(
    z: np.ndarray,
    canvas: Canvas,
    street: Street,
    rows: list[_Row],
    grain: Grain,
    road_labels: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the colour and label of the ground at depth `z` `[H, 1]`."""
    camera, light, (x, _) = canvas.camera, canvas.light, canvas.grid()
    across = (x - camera.centre) * z / camera.focal - street.middle
    along = np.broadcast_to(z, across.shape)
    fade = np.minimum(1, 9 / z)  # Texture finer than a sample would only alias.
    speckle, patches = grain.at(across, along, 14) * fade, grain.at(across, along, 0.8)
    beside = np.abs(across)
    on_road = beside < street.road

    left = (across < 0)[..., None]
    asphalt = np.where(left, *street.lanes) * (1 + 0.09 * speckle + 0.07 * patches)[..., None]
    tracks = np.exp(-(((np.abs(beside - street.road / 2) - 0.75) / 0.28) ** 2)) * 0.10
    asphalt = asphalt * (1 - tracks[..., None])
    white = rgb(214, 214, 206) * (1 + 0.06 * speckle)[..., None]
    dashes = (beside < 0.075) & (np.mod(along, 6) < 3)
    edges = np.abs(beside - street.road + 0.35) < 0.06
    marks = dashes | edges
    if street.crossing is not None:
        zebra = (along > street.crossing) & (along < street.crossing + 3)
        marks = np.where(zebra, (np.mod(across, 1.0) < 0.5) & (beside < street.road - 0.2), marks)
    worn = 0.85 - 0.12 * np.clip(patches, -1, 1)
    asphalt = np.where(marks[..., None], asphalt + (white - asphalt) * worn[..., None], asphalt)

    slabs = rgb(168, 162, 154) * (1 + 0.05 * speckle + 0.05 * patches)[..., None]
    joints = (np.mod(beside - street.road, 0.9) < 0.05) | (np.mod(along, 0.9) < 0.05)
    slabs = np.where((joints & (z < 14))[..., None], slabs * 0.84, slabs)
    curb = beside < street.road + 0.22
    slabs = np.where(curb[..., None], rgb(190, 188, 182) * (1 + 0.05 * speckle)[..., None], slabs)

    # The houses on the sun's side cast their shadows across the street.
    row = rows[0] if light.sun_side < 0 else rows[1]
    reach = np.where(row.garden, 2.0, row.height)[row.house(z[:, 0])][:, None] * (0.75 if light.dark else 0.5)
    from_wall = street.road + street.sidewalk - light.sun_side * across
    facing = np.clip((from_wall - reach) / (0.03 * z) + 0.5, 0, 1)[..., None]
    colour = light.lit(np.where(on_road[..., None], asphalt, slabs), facing, along)
    return colour, np.where(on_road, np.where(across < 0, *road_labels), SIDEWALK)
