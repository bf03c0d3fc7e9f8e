"""One example during preparation, its readers, and its EXIF orientation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from danet_jax.data import decode
from danet_jax.errors import InputError

STORED, UPRIGHT = "stored", "upright"
_LESS_COMPRESSED = 3  # PNGs of photos are about three times larger without compression, JPEGs ten times.
_TYPICAL_BYTES = 2**19  # The assumed size of an example whose reader does not know it.


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example to be prepared.

    Attributes:
      name: The example's name, unique in its split; predictions are saved under it.
      image: The encoded image.
      label: The encoded label map, an 8-bit single-channel or palette PNG of train ids in which 255 is ignored; None in
        a split without labels.
      image_file: The source of the image, for error messages.
      label_file: The source of the label, for error messages.
      assumed: Assumptions about facts that the files do not record, one sentence each, worded alike for all examples.
      bits: The number of bits that are used in 16-bit channels; see `decode.decode_image`.
      decoded: The pixels of `image` if they have been decoded already.
    """

    name: str
    image: bytes
    label: bytes | None
    image_file: str
    label_file: str = ""
    assumed: tuple[str, ...] = ()
    bits: int = 16
    decoded: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

    def pixels(self) -> np.ndarray:
        """Returns the image `[H, W, 3]`: uint8, or uint16 of `bits` bits if it has more than 8 bits per channel."""
        if self.decoded is not None:
            return self.decoded
        depth = self.bits if decode.is_deep(self.image, self.image_file) else 8
        return decode.decode_image(self.image, self.image_file, bits=self.bits, depth=depth)


PairReader = Callable[[], Pair]
"""A function that reads one example."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A function that reads one example, and the approximate size of the example in bytes."""

    read: PairReader
    size: int

    def __call__(self) -> Pair:
        """Reads the example."""
        return self.read()


@dataclasses.dataclass(frozen=True)
class Missing:
    """A stand-in for the reader of an example with a missing file.

    Preparation refuses it before it reads any example, and `--mode=check` lists it.
    """

    error: InputError
    of_image: bool = False
    """Whether the missing file is the image."""

    def __call__(self) -> Pair:
        """Raises the error."""
        raise self.error


def size_of(reader: PairReader) -> int:
    """Returns the approximate size of an example in bytes."""
    return reader.size if isinstance(reader, Reader) else _TYPICAL_BYTES


def without_compression(reader: PairReader) -> Reader:
    """Returns a reader that encodes the same example without compression."""

    def read() -> Pair:
        pair = reader()
        image = decode.encode_uncompressed(pair.pixels())
        label = pair.label and decode.encode_uncompressed(decode.decode_label(pair.label, pair.label_file))
        return dataclasses.replace(pair, image=image, label=label)

    return Reader(read, _LESS_COMPRESSED * size_of(reader))


def turn_upright(pair: Pair, labels_follow: str | None, *, certain: bool = False) -> Pair:
    """Turns image and label of `pair` upright according to the image's EXIF orientation, as `predict` does for images.

    A label is turned with its image if it was drawn on the pixels as stored, which no file records.

    Args:
      pair: The example as read.
      labels_follow: Whether labels were drawn on the "stored" pixels or on the "upright" image that viewers show. None
        means unknown and selects "stored" unless only "upright" matches the size of the label.
      certain: Whether `labels_follow` is known to be right, so that no assumption is reported.

    Returns:
      `pair` itself if it is upright already; otherwise a pair with both as PNG and the image's pixels unchanged.

    Raises:
      InputError: The image or label cannot be decoded, or the label has a different size.
    """
    orientation = decode.orientation(pair.image)
    if orientation == 1:
        return pair
    stored = pair.pixels()
    upright = decode.apply_orientation(stored, orientation)
    image = decode.encode_image(upright)
    if pair.label is None:
        return dataclasses.replace(pair, image=image, decoded=upright)
    label = decode.decode_label(pair.label, pair.label_file)
    fits = {STORED: label.shape == stored.shape[:2], UPRIGHT: label.shape == upright.shape[:2]}
    follow = labels_follow or (UPRIGHT if fits[UPRIGHT] and not fits[STORED] else STORED)
    other = UPRIGHT if follow == STORED else STORED
    if not fits[follow]:
        remedy = f"set dataset.options.exif={other}" if fits[other] else "make them the same size"
        raise InputError.for_file(
            pair.label_file,
            f"the label is {label.shape[1]}x{label.shape[0]} but its image {pair.image_file} is "
            f"{stored.shape[1]}x{stored.shape[0]} as stored and {upright.shape[1]}x{upright.shape[0]} as its EXIF "
            f"orientation {orientation} shows it; {remedy}",
            value=label.shape[::-1],
        )
    if follow == STORED:
        label = decode.apply_orientation(label, orientation)
    assumed = pair.assumed
    if not certain:
        drawn_on = "image as viewers show it" if follow == UPRIGHT else "pixels as stored"
        remedy = f" (if they were not, set dataset.options.exif={other})" if labels_follow else ""
        assumed += (
            f"turned upright as EXIF says, with labels as if they were drawn on the {drawn_on}{remedy}",
        )
    return dataclasses.replace(
        pair, image=image, label=decode.encode_label(label), assumed=assumed, decoded=upright
    )
