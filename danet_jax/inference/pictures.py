"""Label maps as pictures: the palette PNG that other programs read, and overlays that people look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.runs.files import replacing

# Legends smaller than this cannot be read, however small the picture is.
_SMALLEST_WIDTH = 480
_LARGEST_HEIGHT = 4 * _SMALLEST_WIDTH  # of a picture that is enlarged


def save_labels(labels: np.ndarray, classes: Classes, path: Path) -> None:
    """Writes labels `[H, W]` (0 to 255) as an 8-bit PNG: pixel values are the labels, the palette their colours."""
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(classes.palette().tobytes())
    save_picture(picture, path)


def save_overlay(image: np.ndarray, labels: np.ndarray, classes: Classes, path: Path) -> None:
    """Writes `overlay(image, labels, classes)` as a PNG."""
    save_picture(overlay(image, labels, classes), path)


def blended(image: np.ndarray, labels: np.ndarray, classes: Classes, opacity: float = 0.6) -> np.ndarray:
    """The picture with its labels laid over it, their borders drawn, uint8 `[H, W, 3]`; arguments as of `overlay`."""
    colours = classes.palette()[labels]
    strength = np.where(labels == IGNORE_LABEL, 0.0, opacity)[..., None]
    blend = image * (1 - strength) + colours * strength
    blend[_borders(labels)] = 255
    return np.round(blend).astype(np.uint8)


def overlay(image: np.ndarray, labels: np.ndarray, classes: Classes, opacity: float = 0.6) -> Image.Image:
    """The picture with its labels laid over it, their borders drawn, and a legend of the classes found.

    Args:
      image: uint8 `[H, W, 3]` RGB.
      labels: integers `[H, W]`; 255 is left as it is.
      classes: names and colours.
      opacity: of the colours, 0 to 1.
    """
    picture = Image.fromarray(blended(image, labels, classes, opacity))
    # A narrow strip is not made as wide as its legend: it would be miles high.
    enlargement = min(-(-_SMALLEST_WIDTH // picture.width), _LARGEST_HEIGHT // picture.height)
    if enlargement > 1:
        picture = picture.resize(
            (picture.width * enlargement, picture.height * enlargement), Image.Resampling.NEAREST
        )
    return _with_legend(picture, labels, classes)


def side_by_side(pictures: list[Image.Image], titles: list[str]) -> Image.Image:
    """Pictures in a row, each under its title."""
    font = ImageFont.load_default(size=16)
    height = max(picture.height for picture in pictures) + 26
    row = Image.new("RGB", (sum(p.width for p in pictures) + 8 * (len(pictures) - 1), height), "white")
    draw, left = ImageDraw.Draw(row), 0
    for picture, title in zip(pictures, titles, strict=True):
        draw.text((left + 4, 3), title, fill="black", font=font)
        row.paste(picture, (left, 26))
        left += picture.width + 8
    return row


def _borders(labels: np.ndarray) -> np.ndarray:
    """Where the label below or to the right is another one."""
    borders = np.zeros(labels.shape, bool)
    borders[:-1] |= labels[:-1] != labels[1:]
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return borders


def _with_legend(picture: Image.Image, labels: np.ndarray, classes: Classes) -> Image.Image:
    counts = np.bincount(labels.astype(np.int64).ravel(), minlength=256)[: len(classes)]
    found = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    entries = [(classes.colours[i], f"{classes.names[i]} {counts[i] / labels.size:.1%}") for i in found]
    size = max(13, picture.width // 60)
    font = ImageFont.load_default(size=size)
    line, gap = int(1.6 * size), size
    full = max(picture.width, _SMALLEST_WIDTH)
    # Entries are set like words in a paragraph.
    places, left, top = [], gap, gap // 2
    for _, text in entries:
        width = int(line + font.getlength(text) + gap)
        if left + width > full and left > gap:
            left, top = gap, top + line
        places.append((left, top))
        left += width
    result = Image.new("RGB", (full, picture.height + top + line + gap // 2), "white")
    result.paste(picture, (0, 0))
    draw = ImageDraw.Draw(result)
    for (colour, text), (left, top) in zip(entries, places, strict=True):
        top += picture.height
        draw.rectangle((left, top + 2, left + size, top + 2 + size), fill=colour, outline="black")
        draw.text((left + size + size // 3, top), text, fill="black", font=font)
    return result


def save_picture(picture: Image.Image, path: Path) -> None:
    """Whole or not at all."""
    with replacing(path) as partial:
        picture.save(partial, format="PNG")
