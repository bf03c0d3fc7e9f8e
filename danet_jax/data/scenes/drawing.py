"""Draws a street scene: places its objects, draws them from far to near, and simulates the exposure of a camera."""

from __future__ import annotations

import cv2
import numpy as np

from danet_jax.classes import IGNORE_LABEL
from danet_jax.data.scenes import ROAD_GREEN, ROAD_RED, TRAFFIC_LIGHT
from danet_jax.data.scenes.canvas import Camera, Canvas, Colour, Light, ellipse, palette, rgb
from danet_jax.data.scenes.street import Street, paint_street
from danet_jax.data.scenes.things import Person, Thing, Tree, Vehicle

_ASPHALT = rgb(92, 92, 96)
_PAINTS = palette("#c43e30 #3060be #348a4a #cea434 #9646a0")
"""The colours of backboards; the asphalt of each lane is tinted with the colour of its traffic light."""

MOST_SIGNALS = len(_PAINTS)
"""The largest number of traffic lights in an image; each has a different colour."""


def draw_scene(
    height: int, width: int, rng: np.random.Generator, *, signals: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a street scene.

    The two lanes of the road differ in the colour of their asphalt, and traffic lights hang over the street. The
    traffic light whose backboard has the colour of a lane determines the lane's label, `road (green light)` or
    `road (red light)`. Nothing else in the image reveals the label.

    Args:
      height: Rows of the image.
      width: Columns of the image.
      rng: The source of all randomness.
      signals: Number of traffic lights: 1 for both lanes, or 2 for one per lane; additional ones belong to no lane.

    Returns:
      The image, uint8 `[height, width, 3]`, and its labels, uint8 `[height, width]`. Pixels that belong to no class
      (the arm of a traffic light, the hood of the camera's own car) are 255.
    """
    green = [bool(rng.random() < 0.5) for _ in range(signals)]
    paints = [_PAINTS[index] for index in rng.permutation(len(_PAINTS))[:signals]]
    left, right = 0, min(1, signals - 1)
    asphalt = [_ASPHALT + 0.4 * (paint - _ASPHALT) for paint in paints]
    light, street = Light(rng), Street(rng, (asphalt[left], asphalt[right]))
    camera = Camera(
        focal=0.8 * max(width, 1.2 * height),
        centre=width * rng.uniform(0.42, 0.58),
        horizon=height * rng.uniform(0.40, 0.48),
        height=rng.uniform(1.8, 2.6),
    )
    canvas = Canvas(height, width, camera, light)
    roads = [ROAD_GREEN if lit else ROAD_RED for lit in green]
    ground = paint_street(canvas, street, (roads[left], roads[right]), rng)
    things = _place_things(street, rng)
    _shadows(canvas, things, ground)
    for thing in sorted(things, key=lambda thing: -thing.z):
        thing.draw(canvas, rng)
    _traffic_lights(canvas, height, width, paints, green, rng)
    if rng.random() < 0.3:
        _hood(canvas, height, width, rng)
    image, label = canvas.reduced()
    return _expose(image, rng), label


def _place_things(street: Street, rng: np.random.Generator) -> list[Thing]:
    things: list[Thing] = []
    # Traffic keeps right: there may be a car or a bus in each lane, parked cars along the curbs, and trees and people
    # behind them.
    for side in (-1, 1):
        lane = street.middle + side * (0.5 * street.road - 0.3)
        if rng.random() < 0.7:
            bus = rng.random() < 0.3
            things.append(Vehicle(rng, lane, rng.uniform(6.5, 18), coming=side < 0, bus=bus))
        if rng.random() < 0.5:
            curb, z = street.middle + side * (street.road - 1.05), rng.uniform(4.5, 9)
            for _ in range(rng.integers(1, 4)):
                car = Vehicle(rng, curb, z, coming=side < 0)
                if _is_free(things, curb, z, car.width, car.length):
                    things.append(car)
                z += rng.uniform(5.5, 7)
        if rng.random() < 0.45:
            walk = street.middle + side * (street.road + rng.uniform(0.6, 0.9))
            for z in rng.uniform(6, 11) + rng.uniform(8, 12) * np.arange(rng.integers(1, 4)):
                things.append(Tree(rng, walk, float(z)))
        if rng.random() < 0.75:
            x = street.middle + side * (street.road + street.sidewalk * rng.uniform(0.2, 0.5))
            things += _group(rng, x, rng.uniform(4.0, 7.5), int(rng.integers(1, 4)))
    if rng.random() < 0.6:
        z = street.crossing + 1.0 if street.crossing else rng.uniform(3.3, 6)
        x = street.middle + street.road * rng.uniform(-0.7, 0.5)
        group = _group(rng, x, z, int(rng.integers(1, 3)))
        if all(_is_free(things, person.x, z, 0.6, 0.6) for person in group):
            things += group
    return things


def _group(rng: np.random.Generator, x: float, z: float, count: int) -> list[Person]:
    """Returns people walking side by side."""
    steps = np.cumsum(rng.uniform(0.38, 0.5, count))
    return [Person(rng, x + float(step), z + 0.03 * index) for index, step in enumerate(steps)]


def _is_free(things: list[Thing], x: float, z: float, width: float, length: float) -> bool:
    """Returns whether no vehicle overlaps an object of this size whose near end is at `z`."""
    return not any(
        abs(thing.x - x) < (thing.width + width) / 2 and z - thing.length - 0.5 < thing.z < z + length + 0.5
        for thing in things
        if isinstance(thing, Vehicle)
    )


def _shadows(canvas: Canvas, things: list[Thing], ground: np.ndarray) -> None:
    """Darkens the ground under things and, in proportion to the sun's light, next to them."""
    project, light = canvas.camera.project, canvas.light
    under = canvas.mask([project(thing.footprint()) for thing in things], softness=0.6)
    beside = []
    for thing in things:
        ring = thing.footprint()
        reach = -light.sun_side * (2.2 if isinstance(thing, Tree) else 0.9)
        both = np.concatenate([ring, ring + np.array([reach, 0, 0])])
        hull = cv2.convexHull(both[:, [0, 2]].astype(np.float32), returnPoints=False)
        beside.append(project(both[hull[:, 0]]))
    cast = canvas.mask(beside, softness=0.4) * (0.7 * light.sun.mean() / (light.sun + light.ambient).mean())
    factor = (1 - under * np.float32(0.55 / 255)) * (1 - cast * np.float32(1 / 255))
    canvas.image *= np.where(ground, factor, 1)[..., None].astype(np.float32)


def _traffic_lights(
    canvas: Canvas,
    height: int,
    width: int,
    paints: list[Colour],
    green: list[bool],
    rng: np.random.Generator,
) -> None:
    """Draws traffic lights on arms over the street: one in each part of the width, regardless of its lane."""
    steel = canvas.light.lit(rgb(74, 78, 80), 0.4)
    positions = []
    for part in rng.permutation(len(paints)):
        x = width * (0.08 + 0.84 * (part + rng.uniform(0.15, 0.85)) / len(paints))
        top = height * rng.uniform(0.02, 0.12)
        long = min(height, width) * rng.uniform(0.24, 0.29)
        outer = width + 2 if x > width / 2 else -2
        arm = top + 0.22 * long
        canvas.polygon(_box(min(x, outer), arm, max(x, outer), arm + 0.02 * height), steel, IGNORE_LABEL)
        positions.append((x, top, long))
    for position, paint, is_green in zip(positions, paints, green, strict=True):
        _traffic_light(canvas, *position, paint, 2 if is_green else 0)


_LAMPS = (
    (rgb(70, 22, 20), rgb(255, 44, 30)),
    (rgb(72, 56, 20), rgb(255, 190, 40)),
    (rgb(16, 58, 40), rgb(40, 255, 150)),
)
"""Colours of the red, yellow and green lamp, each off and on."""


def _traffic_light(canvas: Canvas, x: float, top: float, long: float, paint: Colour, on: int) -> None:
    """Draws a traffic light whose backboard is `long` high and has its upper edge centred at `x`, `top`."""
    light, wide, radius = canvas.light, 0.6 * long, 0.135 * long
    board = _box(x - wide / 2, top, x + wide / 2, top + long)
    canvas.polygon(board, light.lit(paint, 0.5), TRAFFIC_LIGHT)
    case = _box(x - 0.19 * long, top + 0.04 * long, x + 0.19 * long, top + 0.96 * long)
    canvas.polygon(case, light.lit(rgb(22, 24, 24), 0.4), None)
    for index, (unlit, lit) in enumerate(_LAMPS):
        centre = np.array([x, top + long * (0.195 + 0.305 * index)])
        colour = lit if index == on else light.lit(unlit, 0.3)
        canvas.polygon(ellipse(centre, (radius, radius)), colour, None)
        if index == on:
            core = 0.55 * radius
            canvas.polygon(ellipse(centre, (core, core)), np.minimum(lit + 0.35, 1.0), None)
            canvas.glow(centre, 1.7 * radius, (0.45 if light.dark else 0.25) * lit)


def _hood(canvas: Canvas, height: int, width: int, rng: np.random.Generator) -> None:
    """Draws the hood of the camera's own car at the bottom, as in many recordings; it belongs to no class."""
    light = canvas.light
    centre = np.array([width * rng.uniform(0.45, 0.55), height * 1.06])
    radii = (0.62 * width, height * rng.uniform(0.13, 0.17))
    canvas.polygon(ellipse(centre, radii, 60), light.lit(rgb(36, 38, 44), 0.4), IGNORE_LABEL)
    shine = ellipse(centre + np.array([0, 0.02 * height]), (0.5 * radii[0], 0.8 * radii[1]), 60)
    canvas.polygon(shine, light.lit(rgb(58, 62, 70), 0.5) + 0.06 * light.zenith, None)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Converts light to the 8-bit image of a camera, with contrast, vignette, slight blur and sensor noise."""
    height, width = image.shape[:2]
    image = np.clip(image, 0, None) * rng.uniform(0.9, 1.15)
    image = image * (1 + 0.18 * image) / (1 + 0.28 * image)  # Highlights roll off gradually.
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image = image * (1 - 0.10 * (x**2 + y**2))[..., None]
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(0.3, 0.5))
    noise = rng.normal(0, 1, image.shape) * 0.6 + rng.normal(0, 1, (height, width, 1))
    image = image + noise * rng.uniform(0.004, 0.012)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
