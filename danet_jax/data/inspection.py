"""What is in a dataset: sizes, classes, and everything that is wrong with it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from danet_jax.classes import Classes
from danet_jax.data.builders.pair import Examined, Pair, check_pair
from danet_jax.data.summary import Summary
from danet_jax.data.threads import in_order
from danet_jax.errors import InputError


@dataclasses.dataclass
class Findings(Summary):
    """What was found in one split; `examples`, as all counts of a summary, are those of the good ones.

    Attributes:
      images: Number of examples, the bad ones included.
      sizes: Number of images of each (height, width).
      darkest: The smallest value of red, green and blue in any image.
      brightest: The largest.
      errors: One line for each example that is unreadable, mismatched, has values that are no class, or has
        the name of another.
      digests: Of each image's bytes.
    """

    images: int = 0
    sizes: collections.Counter[tuple[int, int]] = dataclasses.field(default_factory=collections.Counter)
    darkest: np.ndarray = dataclasses.field(default_factory=lambda: np.full(3, 255, np.uint8))
    brightest: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3, np.uint8))
    errors: list[str] = dataclasses.field(default_factory=list)
    digests: set[bytes] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class _Example:
    pair: Pair | None = None
    examined: Examined | None = None
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
        if example.pair is None or example.examined is None:
            findings.errors.append(example.error)
            continue
        name, examined = example.pair.name, example.examined
        if name in names:
            findings.errors.append(f"{name}: another example has the same name; rename one of them")
        names.add(name)
        findings.add(name, examined.counts, example.pair.assumed)
        findings.sizes[examined.size] += 1
        findings.darkest = np.minimum(findings.darkest, examined.darkest)
        findings.brightest = np.maximum(findings.brightest, examined.brightest)
        findings.digests.add(example.digest)
    return findings


def _inspect_one(read: Callable[[], Pair], class_count: int) -> _Example:
    try:
        pair = read()
        examined = check_pair(pair, class_count)
    except InputError as error:
        return _Example(error=str(error))
    digest = hashlib.blake2b(pair.image, digest_size=16).digest()
    # Not the pictures: many wait to be counted.
    return _Example(dataclasses.replace(pair, image=b"", label=None), examined, digest)
