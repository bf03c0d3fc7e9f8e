"""Reads and checks examples on all cores, and collects the contents and the errors of a split."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data import decode
from danet_jax.data.builders.pair import Pair
from danet_jax.data.summary import Summary, some
from danet_jax.errors import InputError

_MAX_THREADS = 16  # This bounds memory: each thread keeps one decoded image of some tens of MiB.

Item = TypeVar("Item")
Result = TypeVar("Result")


class Examined(NamedTuple):
    """The result of `check_pair` for one example.

    Attributes:
      size: Height and width in pixels.
      counts: Number of pixels of each label value, int64 `[256]`; None without a label.
      darkest: The smallest value of each channel of the image.
      brightest: The largest value of each channel of the image.
      deep: Whether the image has more than 8 bits per channel.
      image_digest: Digest of the image's size and pixels, regardless of the encoding.
      label_digest: Digest of the label's size and values; empty without a label.
    """

    size: tuple[int, int]
    counts: np.ndarray | None
    darkest: np.ndarray
    brightest: np.ndarray
    deep: bool
    image_digest: bytes
    label_digest: bytes = b""


def check_pair(pair: Pair, class_count: int) -> Examined:
    """Decodes the image and label of `pair` completely and checks that they match.

    Raises:
      InputError: One of them cannot be decoded, their sizes differ, or a label value is neither a class nor 255.
    """
    image = pair.pixels()
    height, width = image.shape[:2]
    darkest, brightest, deep = image.min((0, 1)), image.max((0, 1)), image.dtype != np.uint8
    examined = Examined((height, width), None, darkest, brightest, deep, _digest(image))
    if pair.label is None:
        return examined
    label = decode.decode_label(pair.label, pair.label_file)
    if label.shape != (height, width):
        sizes = f"{label.shape[1]}x{label.shape[0]} but its image {pair.image_file} is {width}x{height}"
        problem = f"the label is {sizes}; make them the same size"
        raise InputError.for_file(pair.label_file, problem, value=label.shape, allowed=(height, width))
    counts = np.bincount(label.ravel(), minlength=256)
    invalid = counts.copy()
    invalid[:class_count] = invalid[IGNORE_LABEL] = 0
    if invalid.any():
        raise label_error(pair.label_file, invalid, range(class_count), IGNORE_LABEL)
    return examined._replace(counts=counts, label_digest=_digest(label))


def label_error(file: str, counts: np.ndarray, allowed: range, ignored: int) -> InputError:
    """Returns the error for a label file, given the number of pixels of each invalid value, int64 `[N]`."""
    first, *others = np.flatnonzero(counts).tolist()
    problem = (
        f"label value {first} ({counts[first]} pixels) is neither a class ({allowed[0]} to {allowed[-1]}) nor"
    )
    problem += f" {ignored} (ignore)" + (f"; the same applies to {some(others)}" if others else "")
    problem += "; correct the label or the list of classes"
    return InputError.for_file(file, problem, value=first, allowed=allowed)


def _digest(pixels: np.ndarray) -> bytes:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()[:16]


@dataclasses.dataclass
class Findings(Summary):
    """The result of inspecting one split; the counts of the summary cover the intact examples only.

    Attributes:
      images: Number of examples, including invalid ones.
      sizes: Number of images of each (height, width).
      darkest: The smallest value of red, green and blue in any image.
      brightest: The largest value of red, green and blue in any image.
      errors: One line for each example that is unreadable, does not match its label, has a value that is not a class,
        or has the same name as another.
      digests: Digests of the images.
    """

    images: int = 0
    sizes: collections.Counter[tuple[int, int]] = dataclasses.field(default_factory=collections.Counter)
    darkest: np.ndarray = dataclasses.field(default_factory=lambda: np.full(3, 65535, np.uint16))
    brightest: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3, np.uint16))
    errors: list[str] = dataclasses.field(default_factory=list)
    digests: set[bytes] = dataclasses.field(default_factory=set)


def inspect(readers: Iterable[Callable[[], Pair]], classes: Classes) -> Findings:
    """Reads and checks every example on all cores; errors are collected in `Findings.errors`, not raised."""
    findings, names = Findings(), set[str]()
    for example in map_in_order(functools.partial(_inspect_one, class_count=len(classes)), readers):
        findings.images += 1
        if isinstance(example, str):
            findings.errors.append(example)
            continue
        pair, examined = example
        if pair.name in names:
            findings.errors.append(f"{pair.name}: another example has the same name; rename one of them")
        names.add(pair.name)
        findings.add(pair.name, examined, pair.assumed)
        findings.sizes[examined.size] += 1
        findings.darkest = np.minimum(findings.darkest, examined.darkest)
        findings.brightest = np.maximum(findings.brightest, examined.brightest)
        findings.digests.add(examined.image_digest)
    return findings


def _inspect_one(read: Callable[[], Pair], class_count: int) -> tuple[Pair, Examined] | str:
    """Returns an example and its contents, or the message of its error."""
    try:
        pair = read()
        examined = check_pair(pair, class_count)
    except InputError as error:
        return str(error)
    # Many results are queued, so their data are dropped.
    return dataclasses.replace(pair, image=b"", label=None, decoded=None), examined


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields `function(item)` for each item in order, working ahead on all cores.

    Threads suffice for decoding, checking and encoding, because decompression, which is nearly all of the work,
    releases the GIL. An exception in `function` is raised when its item is due.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(_MAX_THREADS, cores)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
