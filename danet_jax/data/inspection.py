"""What is in a dataset: sizes, classes, and everything that is wrong with it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data import decode
from danet_jax.data.builders.pair import Pair, check_pair
from danet_jax.data.threads import in_order
from danet_jax.errors import InputError


@dataclasses.dataclass
class Findings:
    """What was found in one split.

    Attributes:
      images: Number of examples, the bad ones included.
      labelled: Number of good examples that have a label.
      sizes: Number of images of each (height, width).
      pixels: Pixels of each label value, int64 `[256]`.
      present: Number of images that show each label value, int64 `[256]`.
      only_ignored: Names of the images whose label is 255 throughout.
      errors: One line for each example that is unreadable, mismatched, has values that are no class, or has
        the name of another.
      digests: Of each image's bytes.
    """

    images: int = 0
    labelled: int = 0
    sizes: collections.Counter[tuple[int, int]] = dataclasses.field(default_factory=collections.Counter)
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    present: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    only_ignored: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)
    digests: set[bytes] = dataclasses.field(default_factory=set)

    def share(self, label: int) -> float:
        """Return the share of a class among the pixels that are not ignored, 0 if there are none."""
        counted = int(self.pixels.sum() - self.pixels[IGNORE_LABEL])
        return int(self.pixels[label]) / counted if counted else 0.0

    @property
    def ignored_share(self) -> float:
        """The share of all labelled pixels that is ignored, 0 if there are none."""
        return int(self.pixels[IGNORE_LABEL]) / max(1, int(self.pixels.sum()))


@dataclasses.dataclass(frozen=True)
class _Example:
    name: str = ""
    size: tuple[int, int] = (0, 0)
    counts: np.ndarray | None = None
    digest: bytes = b""
    error: str = ""


def inspect(readers: Iterable[Callable[[], Pair]], classes: Classes) -> Findings:
    """Read and check every example, on all cores.

    Args:
      readers: Each reads one example.
      classes: What label values may stand for.

    Returns:
      The findings; nothing about the examples raises.
    """
    findings = Findings()
    names = set()
    for example in in_order(functools.partial(_inspect_one, class_count=len(classes)), readers):
        findings.images += 1
        if example.error:
            findings.errors.append(example.error)
            continue
        if example.name in names:
            findings.errors.append(f"{example.name}: another example has the same name; rename one of them")
        names.add(example.name)
        findings.sizes[example.size] += 1
        findings.digests.add(example.digest)
        if example.counts is not None:
            findings.labelled += 1
            findings.pixels += example.counts
            findings.present += example.counts > 0
            if example.counts[IGNORE_LABEL] == example.counts.sum():
                findings.only_ignored.append(example.name)
    return findings


def _inspect_one(read: Callable[[], Pair], class_count: int) -> _Example:
    try:
        pair = read()
        check_pair(pair, class_count)
    except InputError as error:
        return _Example(error=str(error))
    digest = hashlib.blake2b(pair.image, digest_size=16).digest()
    if pair.label is None:
        height, width = decode.decode_image(pair.image, pair.image_file).shape[:2]
        return _Example(pair.name, (height, width), None, digest)
    label = decode.decode_label(pair.label, pair.label_file)
    counts = np.bincount(label.ravel(), minlength=256)
    return _Example(pair.name, (label.shape[0], label.shape[1]), counts, digest)
