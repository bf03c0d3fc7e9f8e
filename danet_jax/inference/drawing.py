"""Draws label maps: as palette PNGs that other programs read, and as overlays for people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.runs.files import replacing

_OPACITY = 0.6
# A legend narrower than this is hard to read, however small the image is.
_SMALLEST_WIDTH = 480
_LARGEST_ENLARGED_HEIGHT = 4 * _SMALLEST_WIDTH


def save_labels(labels: np.ndarray, classes: Classes, path: Path) -> None:
    """Writes labels `[H, W]` (0 to 255) as the pixel values of an 8-bit PNG, with the classes' colours as palette."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(classes.palette().tobytes())
    save_png(image, path)


def save_png(image: Image.Image, path: Path) -> None:
    """Writes an image as a PNG. The file appears only once it is complete."""
    with replacing(path) as partial:
        image.save(partial, format="PNG")


def blend_labels(
    image: np.ndarray, labels: np.ndarray, classes: Classes, *, outlines: bool = False
) -> np.ndarray:
    """Returns an image with its labels drawn over it, uint8 `[H, W, 3]`; see `overlay` for the arguments."""
    colours = classes.palette()[labels]
    borders = _borders(labels)
    if outlines:
        # The outline of each class is this many pixels wide, on its own side of the border.
        width = max(1, min(labels.shape) // 200)
        near = cv2.dilate(borders.view(np.uint8), np.ones((2 * width + 1, 2 * width + 1), np.uint8)) > 0
        return np.where((near & (labels != IGNORE_LABEL))[..., None], colours, image)
    strength = np.where(labels == IGNORE_LABEL, 0.0, _OPACITY)[..., None]
    blend = image * (1 - strength) + colours * strength
    blend[borders] = 255
    return np.round(blend).astype(np.uint8)


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Classes,
    *,
    legend: bool = True,
    outlines: bool = False,
) -> Image.Image:
    """Returns an image with its labels and their borders drawn over it, and a legend of its classes below.

    Args:
      image: uint8 `[H, W, 3]` RGB.
      labels: integers `[H, W]`; pixels of 255, which are ignored, are left as they are.
      classes: names and colours.
      legend: whether to draw a legend, for which small images are enlarged. Without it, the size is the image's.
      outlines: draw only the outlines of the classes, in their colours.
    """
    result = Image.fromarray(blend_labels(image, labels, classes, outlines=outlines))
    if not legend:
        return result
    # A narrow strip is not enlarged to the width of its legend, which would make it thousands of pixels high.
    enlargement = min(-(-_SMALLEST_WIDTH // result.width), _LARGEST_ENLARGED_HEIGHT // result.height)
    if enlargement > 1:
        size = (result.width * enlargement, result.height * enlargement)
        result = result.resize(size, Image.Resampling.NEAREST)
    shares = label_shares(labels)
    remarks = [f" {share:.1%}" for share in shares.values()]
    return stack_images(result, draw_legend(shares, classes, result.width, remarks))


def label_shares(labels: np.ndarray) -> dict[int, float]:
    """Returns the share of each label that occurs in a label map, the most frequent first."""
    counts = np.bincount(labels.astype(np.int64).ravel(), minlength=256)
    order = np.argsort(-counts, kind="stable")
    return {int(label): counts[label] / labels.size for label in order if counts[label]}


def draw_legend(
    labels: Iterable[int], classes: Classes, width: int, remarks: Iterable[str] | None = None
) -> Image.Image:
    """Returns a legend of some labels, at least 480 pixels wide.

    Args:
      labels: the labels to list, in this order; 255 is listed as ignored.
      classes: names and colours.
      width: the width of the image above it, in pixels.
      remarks: the text after the name of each label.
    """
    size = max(13, width // 60)
    font = ImageFont.load_default(size=size)
    line, gap = int(1.6 * size), size
    width = max(width, _SMALLEST_WIDTH)
    labels = list(labels)
    names = ["ignored" if label == IGNORE_LABEL else classes.names[label] for label in labels]
    texts = [name + remark for name, remark in zip(names, remarks or [""] * len(names), strict=True)]
    # Entries wrap like the words of a paragraph.
    corners, left, top = [], gap, gap // 2
    for text in texts:
        advance = int(line + font.getlength(text) + gap)
        if left + advance > width and left > gap:
            left, top = gap, top + line
        corners.append((left, top))
        left += advance
    result = Image.new("RGB", (width, top + line + gap // 2), "white")
    draw = ImageDraw.Draw(result)
    for label, text, (left, top) in zip(labels, texts, corners, strict=True):
        box = (left, top + 2, left + size, top + 2 + size)
        ignored = label == IGNORE_LABEL
        draw.rectangle(box, fill="white" if ignored else classes.colours[label], outline="black")
        if ignored:  # these pixels have no colour
            draw.line((box[0], box[3], box[2], box[1]), fill="black")
        draw.text((left + size + size // 3, top), text, fill="black", font=font)
    return result


def stack_images(above: Image.Image, below: Image.Image) -> Image.Image:
    """Returns one image above another, on white."""
    size = (max(above.width, below.width), above.height + below.height)
    result = Image.new("RGB", size, "white")
    result.paste(above, (0, 0))
    result.paste(below, (0, above.height))
    return result


def side_by_side(images: list[Image.Image], titles: list[str]) -> Image.Image:
    """Returns images in a row, each under its title."""
    font = ImageFont.load_default(size=16)
    height = max(image.height for image in images) + 26
    row = Image.new("RGB", (sum(image.width + 8 for image in images) - 8, height), "white")
    draw, left = ImageDraw.Draw(row), 0
    for image, title in zip(images, titles, strict=True):
        draw.text((left + 4, 3), title, fill="black", font=font)
        row.paste(image, (left, 26))
        left += image.width + 8
    return row


def _borders(labels: np.ndarray) -> np.ndarray:
    """Returns a mask of the pixels whose lower or right neighbour has another label, bool `[H, W]`."""
    borders = np.zeros(labels.shape, bool)
    borders[:-1] |= labels[:-1] != labels[1:]
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return borders
