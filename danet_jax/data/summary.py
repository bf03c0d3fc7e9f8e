"""Counts the contents of a split while it is read, and derives the warnings that are reported before training."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from danet_jax.classes import IGNORE_LABEL, Classes

if TYPE_CHECKING:
    from danet_jax.data.inspection import Examined

_VALUES_SHOWN = 5


@dataclasses.dataclass
class Summary:
    """Counts over the examples of a split or of a part of it.

    Attributes:
      examples: Number of examples.
      labelled: Number of examples with a label.
      only_ignored: Names of the examples whose label is 255 throughout.
      pixels: Number of pixels of each label value, int64 `[256]`.
      present: Number of examples in which each label value occurs, int64 `[256]`.
      assumed: Number of examples to which each assumption applies, by assumption.
      first_assumed: Name of the first example to which each assumption applies, by assumption.
      images_digest: Digest of all names and images, independent of order and encoding; None if it was not computed.
      labels_digest: Digest of all names and labels, likewise.
      deep: Number of examples whose image has more than 8 bits per channel.
    """

    examples: int = 0
    labelled: int = 0
    only_ignored: list[str] = dataclasses.field(default_factory=list)
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    present: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    assumed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first_assumed: dict[str, str] = dataclasses.field(default_factory=dict)
    images_digest: int | None = 0
    labels_digest: int | None = 0
    deep: int = 0

    def add(self, name: str, examined: Examined, assumed: Sequence[str] = ()) -> None:
        """Adds one example: its name, the result of examining it, and the assumptions that were made about it."""
        self.examples += 1
        self.deep += examined.deep
        self.images_digest = _add_digests(self.images_digest, _example_digest(name, examined.image_digest))
        if (counts := examined.counts) is not None:
            self.labelled += 1
            self.labels_digest = _add_digests(
                self.labels_digest, _example_digest(name, examined.label_digest)
            )
            self.pixels += counts
            self.present += counts > 0
            if counts[IGNORE_LABEL] == counts.sum():
                self.only_ignored.append(name)
        self.assumed.update(assumed)
        self.first_assumed = dict.fromkeys(assumed, name) | self.first_assumed

    @classmethod
    def merge(cls, parts: Iterable[Summary]) -> Summary:
        """Returns the combined summary of all parts."""
        total = cls()
        for part in parts:
            total.examples += part.examples
            total.deep += part.deep
            total.labelled += part.labelled
            total.only_ignored += part.only_ignored
            total.pixels += part.pixels
            total.present += part.present
            total.assumed.update(part.assumed)
            total.first_assumed = part.first_assumed | total.first_assumed
            total.images_digest = _add_digests(total.images_digest, part.images_digest)
            total.labels_digest = _add_digests(total.labels_digest, part.labels_digest)
        return total

    @property
    def counted(self) -> int:
        """The number of pixels that are not ignored."""
        return int(self.pixels.sum() - self.pixels[IGNORE_LABEL])

    def share(self, label: int) -> float:
        """Returns the fraction of a class among the pixels that are not ignored; 0 if there are none."""
        return int(self.pixels[label]) / self.counted if self.counted else 0.0

    @property
    def ignored_share(self) -> float:
        """The fraction of all labelled pixels that is ignored; 0 if there are none."""
        return int(self.pixels[IGNORE_LABEL]) / max(1, int(self.pixels.sum()))

    def as_json(self) -> dict[str, Any]:
        """Returns the summary as JSON values, which `from_json` reads."""
        values = dict(vars(self))
        for name in ("pixels", "present"):
            values[name] = {str(label): int(values[name][label]) for label in np.flatnonzero(values[name])}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Summary:
        """Returns the summary that `as_json` wrote; summaries written by version 0.2.0 have no digests."""
        summary = cls(values["examples"], values["labelled"], list(values["only_ignored"]))
        for name in ("pixels", "present"):
            for value, count in values[name].items():
                getattr(summary, name)[int(value)] = count
        summary.assumed = collections.Counter(values["assumed"])
        summary.first_assumed = dict(values["first_assumed"])
        summary.images_digest = values.get("images_digest")
        summary.labels_digest = values.get("labels_digest")
        summary.deep = values.get("deep", 0)
        return summary


def warnings(splits: Mapping[str, Summary], classes: Classes) -> list[str]:
    """Returns a line for each finding that makes training or its score worthless unless it is intended."""
    lines = [
        f"{split}: {count} of {summary.examples} images, {summary.first_assumed[sentence]} first, {sentence}"
        for split, summary in splits.items()
        for sentence, count in summary.assumed.items()
    ]
    lines += [
        f"{split}: {summary.deep} of {summary.examples} images have more than 8 bits per channel, so the network takes "
        "such images; the others are scaled to the same range"
        for split, summary in splits.items()
        if 0 < summary.deep < summary.examples
    ]
    labelled = {split: summary for split, summary in splits.items() if summary.labelled}
    lines += [
        f"{split}: all {summary.labelled} labels are {IGNORE_LABEL} (ignored) throughout: nothing can be learnt from "
        "it, and scores on it are not a number (nan)"
        for split, summary in labelled.items()
        if not summary.counted
    ]
    everywhere = Summary.merge(labelled.values())
    if not everywhere.counted:
        return lines
    absent = [name for label, name in enumerate(classes.names) if not everywhere.present[label]]
    if absent:
        line = f"{len(absent)} of {len(classes)} classes never occur: {some(absent)}"
        if everywhere.present[IGNORE_LABEL]:
            line += (
                f"; {IGNORE_LABEL}, which is ignored, is in {everywhere.present[IGNORE_LABEL]} labels "
                f"({100 * everywhere.ignored_share:.1f} % of the pixels): if it means a class, as in masks of 0 and "
                "255, draw that class's id, or give its colour 255,255,255 in classes.csv and set "
                "dataset.options.labels=colours"
            )
        lines.append(line)
    if len(classes) - len(absent) == 1:
        [only] = set(classes.names) - set(absent)
        return [*lines, f"{only!r} is the only class that occurs: any network scores 100 %"]
    found = {
        split: [name for label, name in enumerate(classes.names) if summary.present[label]]
        for split, summary in labelled.items()
    }
    for split, names in found.items():
        if len(names) == 1:
            lines.append(f"{split}: {names[0]!r} is the only class that occurs in it")
    trained = {name for split, names in found.items() if split.startswith("train") for name in names}
    for split, names in found.items():
        if trained and (unseen := [name for name in names if name not in trained]):
            lines.append(f"{split}: {len(unseen)} of its classes never occur in train: {some(unseen)}")
    return lines


def some(values: Sequence[Any]) -> str:
    """Returns the first values and the number of further ones, for a message."""
    more = len(values) - _VALUES_SHOWN
    return ", ".join(map(str, values[:_VALUES_SHOWN])) + (f" and {more} more" if more > 0 else "")


def _example_digest(name: str, digest: bytes) -> int:
    return int.from_bytes(hashlib.sha256(name.encode() + b"\0" + digest).digest()[:16])


def _add_digests(one: int | None, other: int | None) -> int | None:
    """Returns the combined digest of two parts: a sum, so that neither order nor grouping matters."""
    return None if one is None or other is None else (one + other) % 2**128
