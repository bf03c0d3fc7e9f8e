"""The paper's augmentation in its order: flip, scale, pad, crop. Normalisation follows on the device.

Random numbers are drawn first (`draw_view`) and applied afterwards (`apply_view`), so that only the part of the scaled
image inside the crop is computed. `distort` changes brightness and colours as mmsegmentation does when it trains DANet;
neither the paper nor the authors' code uses it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data.dataset import EncodedExample
from danet_jax.data.decode import image_size
from danet_jax.data.prepared import first_image_rows, first_label_rows

SCALE_RANGE = (0.75, 2.0)
"""The range of random scales in the authors' code."""
MAX_BRIGHTNESS = 32
"""The largest change of brightness, in levels of 0 to 255."""
FACTORS = (0.5, 1.5)
"""The range of factors by which contrast and saturation change."""
MAX_HUE = 18
"""The largest change of hue, in OpenCV's steps of two degrees."""


@dataclasses.dataclass(frozen=True)
class View:
    """A crop of a scaled image.

    Attributes:
      flip: Whether the image is mirrored horizontally.
      height: Rows of the scaled image.
      width: Columns of the scaled image.
      top: First row of the crop in the scaled and padded image.
      left: First column of the crop.
      size: Rows and columns of the crop.
    """

    flip: bool
    height: int
    width: int
    top: int
    left: int
    size: int

    @property
    def part(self) -> tuple[int, int]:
        """The number of rows and columns of the crop that are not padding."""
        return min(self.size, self.height - self.top), min(self.size, self.width - self.left)

    def rows_needed(self, height: int) -> tuple[int, int]:
        """Returns the range of rows on which the view depends, for an image of this height."""
        scale = height / self.height
        # The bilinear filter has a radius of max(scale, 1) source rows; one more row is a margin.
        reach = max(scale, 1.0) + 1.0
        first = max(0, math.floor((self.top + 0.5) * scale - reach))
        return first, min(height, math.ceil((self.top + self.part[0] - 0.5) * scale + reach))


def draw_view(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    base_size: int,
    crop_size: int,
    scale_range: tuple[float, float] | None = SCALE_RANGE,
    flip: bool = True,
) -> View:
    """Draws a random view of an image of `height` x `width` as the authors' code does.

    The new length of the short side is a uniform integer from `base_size * scale_range[0]` to `base_size *
    scale_range[1]`, both inclusive. The long side keeps the aspect ratio, rounded down.

    Args:
      height: Rows of the image.
      width: Columns of the image.
      rng: The source of randomness.
      base_size: The length of the short side at scale 1, in pixels.
      crop_size: Rows and columns of the crop.
      scale_range: Smallest and largest scale; None always scales the short side to `base_size` (the rows of the
        paper's table 2 without "DA").
      flip: Whether images may be mirrored; this does not affect the other random numbers.

    Returns:
      The view, to be passed to `apply_view`.
    """
    flip = bool(rng.random() < 0.5) and flip
    low, high = (int(base_size * scale) for scale in scale_range or (1.0, 1.0))
    short = int(rng.integers(low, high, endpoint=True))
    if height > width:
        scaled_height, scaled_width = int(1.0 * height * short / width), short
    else:
        scaled_height, scaled_width = short, int(1.0 * width * short / height)
    left = int(rng.integers(0, max(scaled_width - crop_size, 0), endpoint=True))
    top = int(rng.integers(0, max(scaled_height - crop_size, 0), endpoint=True))
    return View(flip, scaled_height, scaled_width, top, left, crop_size)


def mirrored_labels(classes: Classes, pairs: Sequence[str]) -> np.ndarray:
    """Returns the label that each label becomes in a mirrored image, uint8 `[256]`.

    Args:
      classes: The classes.
      pairs: Pairs of classes that mirroring swaps, such as `left lane=right lane`.

    Raises:
      InputError: A name is not a class or occurs in two pairs.
    """
    table = np.arange(256, dtype=np.uint8)
    table[: len(classes)] = classes.mirrored(pairs)
    return table


def apply_view(
    image: np.ndarray,
    label: np.ndarray,
    view: View,
    mirrored: np.ndarray | None = None,
    *,
    height: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the crop of an image and its label map that `view` describes.

    Args:
      image: uint8 or uint16 `[H, W, 3]`, scaled bilinearly with antialiasing and padded with 0.
      label: uint8 `[H, W]`, scaled to the nearest value and padded with 255.
      view: A view drawn for an image of this size.
      mirrored: The label that each label becomes in a mirrored image; see `mirrored_labels`. None leaves labels
        unchanged.
      height: The height of the full image, if `image` lacks rows below those that the view needs.

    Returns:
      `[size, size, 3]` of the image's dtype and uint8 `[size, size]`. The result is bit for bit equal to scaling the
      whole image with Pillow, columns before rows, padding it at the right and bottom, and cropping it.
    """
    height, width = height or len(image), image.shape[1]
    rows, columns = view.part
    seen = np.zeros((view.size, view.size, 3), image.dtype)
    if image.dtype == np.uint8:
        seen[:rows, :columns] = _scaled_part(Image.fromarray(image), height, view)
    else:
        for channel in range(3):  # Pillow scales more than 8 bits only in single-channel images.
            alone = Image.fromarray(image[..., channel].astype(np.int32))
            seen[:rows, :columns, channel] = _scaled_part(alone, height, view)
    from_rows = _nearest(height, view.height)[view.top : view.top + rows]
    from_columns = _nearest(width, view.width)[view.left : view.left + columns]
    if view.flip:
        from_columns = width - 1 - from_columns
    part = label[from_rows][:, from_columns]
    seen_label = np.full((view.size, view.size), IGNORE_LABEL, np.uint8)
    seen_label[:rows, :columns] = mirrored[part] if view.flip and mirrored is not None else part
    return seen, seen_label


def _nearest(length: int, new_length: int) -> np.ndarray:
    """Returns which of `length` pixels Pillow selects for each of `new_length`, int32 `[new_length]`."""
    line = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.asarray(line.resize((new_length, 1), Image.Resampling.NEAREST))[0]


def _scaled_part(image: Image.Image, height: int, view: View) -> np.ndarray:
    """Returns `image.resize((view.width, view.height), BILINEAR)` cropped to the view, without computing the rest.

    Pillow resamples in two passes, columns and rows; each pass rounds to 8 bits and treats every row (or column)
    independently. The first pass therefore covers only the rows on which the view depends, and the second only the
    columns inside the view. Like Pillow 11, this function always starts with the columns; later versions choose the
    cheaper order, whose results can differ by one level. (`resize(box=...)` would be faster but differs by two levels,
    because it stores the box as float32.)
    """
    (rows, columns), (first, last) = view.part, view.rows_needed(height)
    width, new_width = _beginning(image.width, view.width, view.left + columns)
    if view.flip:
        part = image.crop((image.width - width, first, image.width, last))
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        part = image.crop((0, first, width, last))
    part = part.resize((new_width, part.height), Image.Resampling.BILINEAR)
    part = part.crop((view.left, 0, view.left + columns, part.height))
    height, new_height = _beginning(height, view.height, view.top + rows)
    canvas = Image.new(image.mode, (columns, height))
    canvas.paste(part, (0, first))
    canvas = canvas.resize((columns, new_height), Image.Resampling.BILINEAR)
    return np.asarray(canvas.crop((0, view.top, columns, view.top + rows)))


def _beginning(length: int, new_length: int, end: int) -> tuple[int, int]:
    """Returns prefixes of `length` and `new_length` in the same ratio that give the same scaled pixels before `end`.

    Pillow computes each pixel from the ratio, which is identical to the last bit as a quotient of integers.
    """
    parts = math.gcd(length, new_length)
    reached = end * length / new_length + 2 * max(length / new_length, 1.0) + 1.0
    needed = min(parts, max(1, math.ceil(reached * parts / length)))
    return needed * (length // parts), needed * (new_length // parts)


def distort(image: np.ndarray, rng: np.random.Generator, depth: int = 8) -> np.ndarray:
    """Randomly changes brightness, contrast, saturation and hue, each with probability 0.5.

    This is mmsegmentation's `PhotoMetricDistortion` (mmseg/datasets/transforms/transforms.py), which follows SSD
    (arXiv 1512.02325, section 2.2).

    Args:
      image: uint8 `[H, W, 3]`, RGB; or uint16 from 0 to `2**depth - 1`, which is changed in float32.
      rng: The source of randomness.
      depth: The bits per channel.

    Returns:
      An image of the same shape and dtype. Brightness changes first, and contrast changes before or after saturation
      and hue, which change in HSV.
    """
    if depth > 8:
        largest = np.float32(2**depth - 1)
        levels = distort(image.astype(np.float32) * (255 / largest), rng)
        return np.round(levels * (largest / 255)).astype(np.uint16)
    if rng.random() < 0.5:
        image = _linear(image, 1.0, rng.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS))
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(*FACTORS) if rng.random() < 0.5 else 1.0
    if contrast_first:
        image = _linear(image, contrast)
    saturation = rng.uniform(*FACTORS) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-MAX_HUE, MAX_HUE)) if rng.random() < 0.5 else 0
    if saturation != 1.0 or hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        if image.dtype == np.uint8:
            hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % 180
            hsv[..., 1] = _linear(hsv[..., 1], saturation)
        else:  # In float32, OpenCV represents hue in degrees and saturation from 0 to 1.
            hsv[..., 0] = (hsv[..., 0] + 2 * hue) % 360
            hsv[..., 1] = np.minimum(hsv[..., 1] * saturation, 1)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else _linear(image, contrast)


def _linear(levels: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
    return np.clip(levels.astype(np.float32) * factor + offset, 0, 255).astype(levels.dtype)


def decode_example(example: EncodedExample, depth: int = 8) -> dict[str, Any]:
    """Decodes a stored example to `name`, `image` `[H, W, 3]`, and `label` uint8 `[H, W]` or None.

    The image is uint8, or uint16 from 0 to `2**depth - 1` for a depth of more than 8 bits.
    """
    name, label = example["name"], example["label"]
    return {
        "name": name,
        "image": first_image_rows(example["image"], name, bits=example.get("bits", 16), depth=depth),
        "label": None if label is None else first_label_rows(label, name),
    }


@dataclasses.dataclass(frozen=True)
class Augment:
    """Decoding, `draw_view` and `apply_view` as one step of a Grain pipeline, without decoding rows below the crop."""

    base_size: int
    crop_size: int
    scale_range: tuple[float, float] | None
    flip: bool = True
    mirrored: np.ndarray | None = None
    photometric: bool = False
    depth: int = 8

    def __call__(self, example: EncodedExample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns `image` `[crop, crop, 3]` and `label` `[crop, crop]` for one stored example with a label."""
        name, stored_label = example["name"], example["label"]
        assert stored_label is not None  # `training_batches` refuses splits without labels.
        height, width = image_size(example["image"], name)
        view = draw_view(
            height,
            width,
            rng,
            base_size=self.base_size,
            crop_size=self.crop_size,
            scale_range=self.scale_range,
            flip=self.flip,
        )
        _, last = view.rows_needed(height)
        bits = example.get("bits", 16)
        image = first_image_rows(example["image"], name, last, bits=bits, depth=self.depth)
        label = first_label_rows(stored_label, name, last)
        image, label = apply_view(image, label, view, self.mirrored, height=height)
        if self.photometric:  # The padding stays black.
            rows, columns = view.part
            image[:rows, :columns] = distort(image[:rows, :columns], rng, self.depth)
        return {"image": image, "label": label}
