"""One example on its way from the source to the prepared data, and its EXIF orientation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from danet_jax.data import decode
from danet_jax.errors import InputError

STORED, UPRIGHT = "stored", "upright"
LABELS_FOLLOW = (STORED, UPRIGHT)
_LESS_COMPRESSED = 3  # about how much larger PNGs of photos are without compression; JPEGs are ten times
_TYPICAL_BYTES = 2**19  # of an example whose reader does not know


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example to be prepared.

    Attributes:
      name: The example's name, unique in its split; predictions are saved under it.
      image: The encoded image.
      label: The encoded label map, 8-bit single-channel or palette PNG of train ids with 255 = ignore; None in a split
        without labels.
      image_file: Where the image comes from, for error messages.
      label_file: Where the label comes from, for error messages.
      assumed: What was assumed because the files do not say it, a sentence each, the same for all examples.
      bits: How many bits of 16-bit channels are used, see `decode.decode_image`.
    """

    name: str
    image: bytes
    label: bytes | None
    image_file: str
    label_file: str = ""
    assumed: tuple[str, ...] = ()
    bits: int = 16

    def pixels(self) -> np.ndarray:
        """Returns the image, uint8 `[H, W, 3]`; uint16 of `bits` if it has more than 8 bits per channel."""
        deep = decode.is_deep(self.image, self.image_file)
        return decode.decode_image(
            self.image, self.image_file, bits=self.bits, depth=self.bits if deep else 8
        )


PairReader = Callable[[], Pair]
"""Reads one example."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A function that reads one example, and about how many bytes it will have."""

    read: PairReader
    size: int

    def __call__(self) -> Pair:
        """Reads the example."""
        return self.read()


@dataclasses.dataclass(frozen=True)
class Missing:
    """Stands for the reader of an example that lacks a file: refused before any is read, listed by `--mode=check`."""

    error: InputError
    of_image: bool = False
    """Whether it is the image that is missing."""

    def __call__(self) -> Pair:
        """Raises the error."""
        raise self.error


def size_of(reader: PairReader) -> int:
    """Returns about how many bytes an example will have."""
    return reader.size if isinstance(reader, Reader) else _TYPICAL_BYTES


def without_compression(reader: PairReader) -> Reader:
    """Returns a reader of the same example that stores it without compression."""

    def read() -> Pair:
        pair = reader()
        image = decode.encode_uncompressed(pair.pixels())
        label = pair.label and decode.encode_uncompressed(decode.decode_label(pair.label, pair.label_file))
        return dataclasses.replace(pair, image=image, label=label)

    return Reader(read, _LESS_COMPRESSED * size_of(reader))


def turned_upright(pair: Pair, labels_follow: str | None, *, certain: bool = False) -> Pair:
    """Returns `pair` with image and label as the image's EXIF orientation shows them, which is how `predict` reads it.

    A label is turned with its image if it was drawn on the pixels as they are stored, which no file records.

    Args:
      pair: The example as read.
      labels_follow: Whether labels were drawn on the "stored" pixels, or on the "upright" image that viewers show.
        None, where that is unknown, is "stored" unless only "upright" has the label's size.
      certain: Whether `labels_follow` is known, so that there is nothing to report.

    Returns:
      `pair` itself if there is nothing to turn; otherwise both as PNG, the image's pixels exactly as decoded.

    Raises:
      InputError: Image or label cannot be decoded, or the label has another size.
    """
    orientation = decode.orientation(pair.image)
    if orientation == 1:
        return pair
    stored = pair.pixels()
    shown = decode.turned(stored, orientation)
    image = decode.encode_image(shown)
    if pair.label is None:
        return dataclasses.replace(pair, image=image)
    label = decode.decode_label(pair.label, pair.label_file)
    fits = {STORED: label.shape == stored.shape[:2], UPRIGHT: label.shape == shown.shape[:2]}
    follow = labels_follow or (UPRIGHT if fits[UPRIGHT] and not fits[STORED] else STORED)
    other = UPRIGHT if follow == STORED else STORED
    if not fits[follow]:
        remedy = f"set dataset.options.exif={other}" if fits[other] else "make them the same size"
        raise InputError(
            f"{pair.label_file}: the label is {label.shape[1]}x{label.shape[0]} but its image {pair.image_file} is "
            f"{stored.shape[1]}x{stored.shape[0]} as stored and {shown.shape[1]}x{shown.shape[0]} as its EXIF "
            f"orientation {orientation} shows it; {remedy}",
            what=pair.label_file,
            value=label.shape[::-1],
        )
    label_data = decode.encode_label(decode.turned(label, orientation) if follow == STORED else label)
    assumed = "turned upright as EXIF says, with labels as if they were drawn on the "
    assumed += "image as viewers show it" if follow == UPRIGHT else "pixels as stored"
    if labels_follow:
        assumed += f" (if they were not, set dataset.options.exif={other})"
    assumptions = pair.assumed if certain else (*pair.assumed, assumed)
    return dataclasses.replace(pair, image=image, label=label_data, assumed=assumptions)
