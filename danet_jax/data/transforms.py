"""The paper's augmentation, in its order: flip, scale, pad, crop; normalising follows on the device.

Light and colours, which the paper leaves, are photometric.py.

Chance is drawn first (`draw_view`), then applied (`apply_view`), so that only the part of the scaled image
that the crop keeps needs to be computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data.dataset import EncodedExample
from danet_jax.data.photometric import distort
from danet_jax.data.prepared import PreparedImage, first_label_rows
from danet_jax.errors import InputError

_ALL = 2**31 - 1
"""Rows: as many as there are."""


@dataclasses.dataclass(frozen=True)
class View:
    """Which part of an image is seen, and how large.

    Attributes:
      flip: Whether the image is mirrored, left to right.
      height: Rows of the whole image after scaling.
      width: Columns of the whole image after scaling.
      top: First row of the crop in the scaled and padded image.
      left: First column of the crop there.
      size: Rows and columns of the crop.
    """

    flip: bool
    height: int
    width: int
    top: int
    left: int
    size: int


SCALE_RANGE = (0.75, 2.0)
"""Of the authors' code."""


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
    """Draw a view of an image of `height` x `width` as the authors' code does.

    The short side becomes a uniform whole number from `base_size * scale_range[0]` to
    `base_size * scale_range[1]`, both ends included; the long side follows, rounded down.

    Args:
      height: Rows of the image.
      width: Columns of the image.
      rng: Where chance comes from.
      base_size: The short side's length at scale 1.
      crop_size: Rows and columns of the crop.
      scale_range: Smallest and largest scale; None always scales the short side to `base_size` (the rows
        of the paper's table 2 without "DA").
      flip: Whether images may be mirrored; all else is drawn alike with and without.
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
    """Return what a mirror makes of each label, uint8 `[256]`.

    Args:
      classes: That labels stand for.
      pairs: Two classes each, `left lane=right lane`, that it makes of each other.

    Raises:
      InputError: There is no class of a name, or it is in two pairs.
    """
    table = np.arange(256, dtype=np.uint8)
    table[: len(classes)] = classes.mirrored(pairs)
    return table


def apply_view(
    image: np.ndarray, label: np.ndarray, view: View, mirrored: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Look at `image` and `label` through `view`.

    Args:
      image: uint8 `[H, W, 3]`. Scaled bilinearly, with antialiasing on reduction; padded with 0.
      label: uint8 `[H, W]`. Scaled to the nearest value; padded with 255.
      view: A view drawn for an image of this size.
      mirrored: What a mirror makes of each label, see `mirrored_labels`; None leaves them.

    Returns:
      uint8 `[size, size, 3]` and uint8 `[size, size]`, bit for bit what Pillow gives when the whole image
      is scaled first, columns and then rows, then padded at the right and bottom, then cropped.
    """
    return _seen(Image.fromarray(image), label, image.shape[:2], view, mirrored)


def _seen(
    picture: Image.Image,
    label: np.ndarray,
    size: tuple[int, int],
    view: View,
    mirrored: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The view of a picture and a label map of this size, of which rows that are not seen may be missing."""
    rows, columns = min(view.size, view.height - view.top), min(view.size, view.width - view.left)
    seen = np.zeros((view.size, view.size, 3), np.uint8)
    seen[:rows, :columns] = np.asarray(_scaled_part(picture, size[0], view, rows, columns))
    from_rows = _nearest(size[0], view.height)[view.top : view.top + rows]
    from_columns = _nearest(size[1], view.width)[view.left : view.left + columns]
    if view.flip:
        from_columns = size[1] - 1 - from_columns
    part = label[from_rows][:, from_columns]
    seen_label = np.full((view.size, view.size), IGNORE_LABEL, np.uint8)
    seen_label[:rows, :columns] = mirrored[part] if view.flip and mirrored is not None else part
    return seen, seen_label


def _nearest(length: int, new_length: int) -> np.ndarray:
    """Which pixel of `length` Pillow takes for each of `new_length`, int32 `[new_length]`."""
    line = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.asarray(line.resize((new_length, 1), Image.Resampling.NEAREST))[0]


def _rows_needed(height: int, view: View, rows: int) -> tuple[int, int]:
    """The first row of a picture of this height that the view depends on, and the one behind the last."""
    scale = height / view.height
    reach = max(scale, 1.0) + 1.0  # how far the bilinear filter looks, in source rows, and one to spare
    first = max(0, math.floor((view.top + 0.5) * scale - reach))
    return first, min(height, math.ceil((view.top + rows - 0.5) * scale + reach))


def _scaled_part(picture: Image.Image, height: int, view: View, rows: int, columns: int) -> Image.Image:
    """Return `picture.resize((view.width, view.height), BILINEAR)` cropped to the view, without the rest.

    Pillow resamples in two passes, columns and rows, each rounding to 8 bits and treating every row (column)
    alone. So the first pass is run on the rows that the view depends on, the second on the columns that it
    keeps. Pillow 11 always did the columns first, and so do we; later ones choose the cheaper order, which
    can differ by one level. (`resize(box=...)` would be quicker still but differs by two: it takes the box as
    float32.)
    """
    first, last = _rows_needed(height, view, rows)
    width, new_width = _beginning(picture.width, view.width, view.left + columns)
    if view.flip:
        part = picture.crop((picture.width - width, first, picture.width, last))
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        part = picture.crop((0, first, width, last))
    part = part.resize((new_width, part.height), Image.Resampling.BILINEAR)
    part = part.crop((view.left, 0, view.left + columns, part.height))
    height, new_height = _beginning(height, view.height, view.top + rows)
    canvas = Image.new(picture.mode, (columns, height))
    canvas.paste(part, (0, first))
    canvas = canvas.resize((columns, new_height), Image.Resampling.BILINEAR)
    return canvas.crop((0, view.top, columns, view.top + rows))


def _beginning(length: int, new_length: int, end: int) -> tuple[int, int]:
    """A beginning of `length` pixels and of `new_length`, in the same ratio, in which pixels before `end` are the same.

    Pillow computes each pixel of the ratio, which, as a quotient of whole numbers, comes out the same to the last bit.
    """
    parts = math.gcd(length, new_length)
    reached = end * length / new_length + 2 * max(length / new_length, 1.0) + 1.0
    needed = min(parts, max(1, math.ceil(reached * parts / length)))
    return needed * (length // parts), needed * (new_length // parts)


def decode_example(example: EncodedExample) -> dict[str, Any]:
    """Decode a stored example: `name`, `image` uint8 `[H, W, 3]`, `label` uint8 `[H, W]` or None."""
    name, label = example["name"], example["label"]
    return {
        "name": name,
        "image": np.array(PreparedImage(example["image"], name).first_rows(_ALL)),
        "label": None if label is None else np.array(first_label_rows(label, name, _ALL)),
    }


@dataclasses.dataclass(frozen=True)
class Augment:
    """Decoding, `draw_view` and `apply_view` as one step of a Grain pipeline: only rows that are seen are decoded."""

    base_size: int
    crop_size: int
    scale_range: tuple[float, float] | None
    flip: bool = True
    mirrored: np.ndarray | None = None
    photometric: bool = False

    def __call__(self, example: EncodedExample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Make `image` `[crop, crop, 3]` and `label` `[crop, crop]` of one stored example with a label."""
        name, stored_label = example["name"], example["label"]
        if stored_label is None:
            raise InputError(f"{name}: has no label to be trained on")
        stored = PreparedImage(example["image"], name)
        height, width = stored.size
        view = draw_view(
            height,
            width,
            rng,
            base_size=self.base_size,
            crop_size=self.crop_size,
            scale_range=self.scale_range,
            flip=self.flip,
        )
        _, last = _rows_needed(height, view, min(view.size, view.height - view.top))
        picture, part = stored.first_rows(last), first_label_rows(stored_label, name, last)
        image, label = _seen(picture, part, (height, width), view, self.mirrored)
        if self.photometric:  # what is padded stays black
            rows, columns = view.height - view.top, view.width - view.left
            image[:rows, :columns] = distort(image[:rows, :columns], rng)
        return {"image": image, "label": label}
