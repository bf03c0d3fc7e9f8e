"""One example on its way from the source to the prepared data, and what makes it a good one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from danet_jax.classes import IGNORE_LABEL
from danet_jax.data import decode
from danet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example to be prepared.

    Attributes:
      name: The example's name, unique in its split; predictions are saved under it.
      image: The encoded image.
      label: The encoded label map, 8-bit single-channel or palette PNG of train ids with 255 = ignore; None
        in a split without labels.
      image_file: Where the image comes from, for error messages.
      label_file: Where the label comes from, for error messages.
    """

    name: str
    image: bytes
    label: bytes | None
    image_file: str
    label_file: str = ""


PairReader = Callable[[], Pair]
"""Reads one example."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A function that reads one example, and about how many bytes it will have."""

    read: PairReader
    size: int

    def __call__(self) -> Pair:
        """Read the example."""
        return self.read()


@dataclasses.dataclass(frozen=True)
class Missing:
    """Stands for the reader of an example that lacks a file: refused before any is read, listed by `--mode=check`."""

    error: str

    def __call__(self) -> Pair:
        """Raise InputError."""
        raise InputError(self.error)


def check_pair(pair: Pair, class_count: int) -> None:
    """Decode both pictures of `pair` completely and compare them.

    Raises:
      InputError: A picture cannot be decoded, the sizes differ or a label is neither a class nor 255.
    """
    image = decode.decode_image(pair.image, pair.image_file)
    if pair.label is None:
        return
    label = decode.decode_label(pair.label, pair.label_file)
    if image.shape[:2] != label.shape:
        raise InputError(
            f"{pair.label_file}: the label is {label.shape[1]}x{label.shape[0]} but its image {pair.image_file} is "
            f"{image.shape[1]}x{image.shape[0]}; make them the same size"
        )
    counts = np.bincount(label.ravel(), minlength=256)
    strange = [int(value) for value in np.flatnonzero(counts) if class_count <= value != IGNORE_LABEL]
    if strange:
        raise InputError(
            f"{pair.label_file}: label value {strange[0]} ({counts[strange[0]]} pixels) is neither a class "
            f"(0 to {class_count - 1}) nor {IGNORE_LABEL} (ignore)"
            + (f"; so are {strange[1:6]}" if strange[1:] else "")
            + "; correct the label or the list of classes"
        )
