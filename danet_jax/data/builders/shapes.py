"""Reads labels that annotation tools store as shapes, and draws them as each format defines.

A reader converts a file to `Drawing`s, lists of (class, shape), and `draw` draws one of them. Shapes are rasterised by
the library of the format's own tool, so that label maps equal those of the tool: OpenCV's `fillPoly` for YOLO, Pillow
for labelme, and pycocotools for COCO and CVAT.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from danet_jax.data.files import read_text
from danet_jax.errors import InputError, one_line

_UNREADABLE = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    OSError,
    RecursionError,
    OverflowError,
)
_MIN_POINTS = {"polygon": 3, "linestrip": 2, "rectangle": 2, "circle": 2, "line": 2, "point": 1, "mask": 2}
"""The number of points of each kind of shape; polygons and line strips may have more."""

_FARTHEST = 1_000_000
"""The largest coordinate in pixels; the memory that pycocotools needs grows with the length of a polygon."""

_CVAT_LABELS = ("meta/task/labels/label", "meta/project/labels/label", "meta/job/labels/label")


class Shape(NamedTuple):
    """One labelled region of an image.

    Attributes:
      name: The class of the region; a number in YOLO.
      mask: Returns the region for a given height and width as uint8 `[H, W]`, which is 0 outside.
    """

    name: str | int
    mask: Callable[[int, int], np.ndarray]


class Drawing(NamedTuple):
    """The shapes of one image.

    Attributes:
      shapes: The shapes; where two of them overlap, the later one is on top.
      larger_first: Whether the smaller of two shapes is on top instead, regardless of their order.
      size: Height and width of the annotated image; None if the file does not record them.
      split: The split that the file names; empty if there is none.
      remark: A remark to be reported; empty if there is none.
    """

    shapes: Sequence[Shape]
    larger_first: bool = False
    size: tuple[int, int] | None = None
    split: str = ""
    remark: str = ""


def draw(drawing: Drawing, size: tuple[int, int], ids: Mapping[Any, int], outside: int) -> np.ndarray:
    """Draws the shapes of an image as a label map, uint8 `[H, W]`.

    Args:
      drawing: The shapes.
      size: Height and width in pixels.
      ids: The label of each class.
      outside: The label of the pixels that no shape covers.

    Raises:
      InputError: A shape has an unknown class or cannot be drawn.
    """
    label = np.full(size, outside, np.uint8)
    on_top = np.full(size, np.iinfo(np.int32).max, np.int32)  # The area of the topmost shape.
    for number, shape in enumerate(drawing.shapes, 1):
        if shape.name not in ids:
            problem = f"shape {number} is of the class {shape.name!r}, which is not in the list of classes"
            raise InputError(problem, value=shape.name, allowed=tuple(ids))
        try:
            mask = shape.mask(*size)
        except _UNREADABLE as error:
            raise InputError(f"shape {number} cannot be drawn ({one_line(error)})") from None
        area = cv2.countNonZero(mask) if drawing.larger_first else 0
        left, top, width, height = cv2.boundingRect(mask)
        box = np.s_[top : top + height, left : left + width]
        covers = (mask[box] != 0) & (on_top[box] >= area)
        label[box][covers] = ids[shape.name]
        on_top[box][covers] = area
    return label


def read_yolo(path: pathlib.Path) -> Drawing:
    """Reads a text file of Ultralytics' YOLO: a class and the points of a polygon, relative to the image's size.

    As in Ultralytics' training, larger polygons are drawn first. Boxes are refused.
    """
    shapes = []
    for number, line in enumerate(read_text(path, "YOLO's labels").splitlines(), 1):
        if not line.strip():
            continue
        try:
            index, points = float(line.split()[0]), np.array(line.split()[1:], np.float32)
            if not index.is_integer():
                raise ValueError(f"the class {line.split()[0]} is not a whole number")
            if len(points) == 4:
                raise ValueError("a box; polygons are needed")
            if len(points) < 6 or len(points) % 2:
                count = f"{len(points)} numbers after the class"
                raise ValueError(f"{count}; x y of three or more points are needed")
            if not (points.min() >= -0.01 and points.max() <= 1.01):
                raise ValueError("points outside 0 to 1; divide them by the image's width and height")
        except ValueError as error:
            raise InputError.for_file(path, f"line {number}: {error}", value=line.strip()) from None
        shapes.append(Shape(int(index), functools.partial(_yolo_mask, points.reshape(-1, 2))))
    return Drawing(shapes, larger_first=True)


def _yolo_mask(points: np.ndarray, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    return cv2.fillPoly(mask, [(points * np.array([width, height], np.float32)).astype(np.int32)], 1)


def read_labelme(path: pathlib.Path) -> Drawing:
    """Reads a JSON file of labelme, in which later shapes are on top."""
    values = _read_json(path)
    shapes = []
    try:
        for shape in values["shapes"]:
            kind, points = shape.get("shape_type") or "polygon", shape["points"]
            points = [(x, y) for x, y in map(_coordinates, points)]
            if (least := _MIN_POINTS.get(kind)) is None:
                raise ValueError(f"shapes of the type {kind} have no area")
            if len(points) < least or (len(points) > least and kind not in ("polygon", "linestrip")):
                raise ValueError(f"a {kind} of {len(points)} points")
            mask = functools.partial(_labelme_mask, kind, points)
            if kind == "mask":
                pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) != 0
                mask = functools.partial(_paste_mask, pixels, *map(int, points[0]))
            shapes.append(Shape(str(shape["label"]), mask))
        height, width = values.get("imageHeight"), values.get("imageWidth")
    except _UNREADABLE as error:
        raise InputError.for_file(path, f"cannot be read as labelme's JSON ({one_line(error)})") from None
    return Drawing(shapes, size=(height, width) if height and width else None)


def _labelme_mask(kind: str, points: list[tuple[float, float]], height: int, width: int) -> np.ndarray:
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    (x, y), (other_x, other_y) = points[0], points[-1]
    if kind == "polygon":
        pen.polygon(points, outline=1, fill=1)
    elif kind == "rectangle":
        pen.rectangle([min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)], outline=1, fill=1)
    elif kind in ("line", "linestrip"):
        pen.line(points, fill=1, width=10)
    else:
        radius = 5 if kind == "point" else math.sqrt((x - other_x) ** 2 + (y - other_y) ** 2)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    return np.array(canvas)


def _paste_mask(pixels: np.ndarray, left: int, top: int, height: int, width: int) -> np.ndarray:
    if left < 0 or top < 0:
        raise ValueError("the mask begins outside the image")
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return mask


def read_coco(path: pathlib.Path) -> tuple[list[str], dict[str, Drawing]] | None:
    """Reads a JSON file in COCO's format. The format has no rule for overlaps, so larger shapes are drawn first.

    Returns:
      The names of the categories in the order of their ids, and the drawing of each image by its file name; None if
      the file has another format.
    """
    values = _read_json(path)
    if not isinstance(values, dict) or not {"images", "annotations", "categories"} <= values.keys():
        return None
    try:
        names = {int(category["id"]): str(category["name"]) for category in values["categories"]}
        shapes: dict[Any, list[Shape]] = {image["id"]: [] for image in values["images"]}
        for annotation in values["annotations"]:
            where, segmentation = f"annotation {annotation.get('id')}", annotation.get("segmentation")
            if annotation["image_id"] not in shapes or annotation["category_id"] not in names:
                raise ValueError(f"{where} is of an image or of a category that is not listed")
            if not segmentation:
                raise ValueError(f"{where} has no segmentation")
            if isinstance(segmentation, list):
                try:
                    segmentation = [_polygon(points) for points in segmentation]
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{where}: {error}") from None
            name = names[annotation["category_id"]]
            shapes[annotation["image_id"]].append(Shape(name, functools.partial(_coco_mask, segmentation)))
        if not all(isinstance(image["file_name"], str) for image in values["images"]):
            raise ValueError("the file_name of an image is not text")
        drawings = {
            image["file_name"]: Drawing(shapes[image["id"]], True, (image["height"], image["width"]))
            for image in values["images"]
        }
        # Roboflow adds a category that is not a class but the group of the others.
        groups = {category.get("supercategory") for category in values["categories"]}
        used = {annotation["category_id"] for annotation in values["annotations"]}
    except _UNREADABLE as error:
        raise InputError.for_file(path, f"cannot be read as COCO's JSON ({one_line(error)})") from None
    return [names[i] for i in sorted(names) if i in used or names[i] not in groups], drawings


def _polygon(values: Iterable[Any]) -> list[float]:
    """Returns x y x y ... of three or more points."""
    points = _coordinates(values)
    if len(points) < 6 or len(points) % 2:
        raise ValueError(f"a polygon of {len(points)} coordinates; x y of three or more points are needed")
    return points


def _coordinates(values: Iterable[Any]) -> list[float]:
    if not isinstance(values, Iterable):
        raise ValueError("its polygons must be lists of coordinates, [[x, y, x, y, ...], ...]")
    coordinates = [float(value) for value in values]
    if not all(abs(value) <= _FARTHEST for value in coordinates):
        raise ValueError(f"a coordinate is not a number between -{_FARTHEST} and {_FARTHEST}")
    return coordinates


def _coco_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width)))
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"its RLE is of the size {segmentation['size']}, its image {[height, width]}")
    if isinstance(segmentation["counts"], list):
        if sum(segmentation["counts"]) != height * width:
            raise ValueError(f"its RLE has {sum(segmentation['counts'])} pixels, its image {height * width}")
        segmentation = coco_masks.frPyObjects(segmentation, height, width)
    return coco_masks.decode(segmentation)


def read_cvat(path: pathlib.Path) -> tuple[list[str], dict[str, Drawing]]:
    """Reads `annotations.xml` of "CVAT for images 1.1", in which shapes with a greater `z_order` are on top.

    Returns:
      The names of the labels in the order of the file, and the drawing of each image by its file name.
    """
    try:
        top = ElementTree.parse(path).getroot()
        labels = [label for path in _CVAT_LABELS for label in top.findall(path)]
        names = [label.findtext("name", "") for label in labels if label.find("parent") is None]
        drawings = {}
        for image in top.findall("image"):
            tagged = [element for element in image if element.tag != "tag"]
            tagged.sort(key=lambda element: int(element.get("z_order", 0)))
            shapes = [Shape(element.attrib["label"], _cvat_mask(element)) for element in tagged]
            size = int(image.attrib["height"]), int(image.attrib["width"])
            drawings[image.attrib["name"]] = Drawing(shapes, False, size, image.get("subset", ""))
    except (*_UNREADABLE, ElementTree.ParseError) as error:
        raise InputError.for_file(path, f"cannot be read as CVAT's XML ({one_line(error)})") from None
    return names, drawings


def _cvat_mask(shape: ElementTree.Element) -> Callable[[int, int], np.ndarray]:
    """Returns a function that draws an element of CVAT's XML as CVAT's export of masks does."""
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.attrib["points"].split(";")]
        return functools.partial(_coco_mask, [_polygon(value for pair in pairs for value in pair)])
    rotation = float(shape.get("rotation", 0))
    if shape.tag == "box":
        left, top, right, bottom = _coordinates(shape.attrib[key] for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        if rotation:
            x, y = left + (right - left) / 2, top + (bottom - top) / 2
            cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
            corners = [
                (x + cos * (a - x) - sin * (b - y), y + sin * (a - x) + cos * (b - y)) for a, b in corners
            ]
        return functools.partial(_coco_mask, [_polygon(value for corner in corners for value in corner)])
    if shape.tag == "ellipse":
        values = [round(x) for x in _coordinates(shape.attrib[key] for key in ("cx", "cy", "rx", "ry"))]
        return functools.partial(_ellipse_mask, values, rotation)
    if shape.tag == "mask":
        left, top, width, height = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
        counts = [int(count) for count in shape.attrib["rle"].split(",")]
        if sum(counts) != width * height:
            raise ValueError(f"its RLE has {sum(counts)} pixels, its box {width * height}")
        pixels = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width)
        return functools.partial(_paste_mask, pixels, left, top)
    raise ValueError(f"shapes of the type {shape.tag} have no area")


def _ellipse_mask(values: list[int], rotation: float, height: int, width: int) -> np.ndarray:
    x, y, x_radius, y_radius = values
    mask = np.zeros((height, width), np.uint8)
    return cv2.ellipse(mask, (x, y), (x_radius, y_radius), rotation, 0, 360, 1, thickness=-1)


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError.for_file(path, f"cannot be read as JSON ({one_line(error)})") from None
