"""What a split holds, counted while it is read, and what a person should hear of it before training."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from danet_jax.classes import IGNORE_LABEL, Classes

_NAMES_SHOWN = 5


@dataclasses.dataclass
class Summary:
    """Counts over the examples of a split, or of a part of it.

    Attributes:
      examples: Number of examples.
      labelled: Number of those with a label.
      only_ignored: Names of those whose label is 255 throughout.
      pixels: Pixels of each label value, int64 `[256]`.
      present: Number of examples that show each label value, int64 `[256]`.
      assumed: Number of examples of which something was assumed, by what it was.
      first_assumed: The first of them, by what it was.
    """

    examples: int = 0
    labelled: int = 0
    only_ignored: list[str] = dataclasses.field(default_factory=list)
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    present: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    assumed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first_assumed: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, name: str, counts: np.ndarray | None, assumed: Sequence[str] = ()) -> None:
        """Count one example: its name, the pixels of each label value if it has a label, what was assumed of it."""
        self.examples += 1
        if counts is not None:
            self.labelled += 1
            self.pixels += counts
            self.present += counts > 0
            if counts[IGNORE_LABEL] == counts.sum():
                self.only_ignored.append(name)
        for sentence in assumed:
            self.assumed[sentence] += 1
            self.first_assumed.setdefault(sentence, name)

    def merge(self, other: Summary) -> None:
        """Count the examples that another part has counted."""
        self.examples += other.examples
        self.labelled += other.labelled
        self.only_ignored += other.only_ignored
        self.pixels += other.pixels
        self.present += other.present
        self.assumed.update(other.assumed)
        self.first_assumed = {**other.first_assumed, **self.first_assumed}

    @property
    def counted(self) -> int:
        """Number of pixels that are not ignored."""
        return int(self.pixels.sum() - self.pixels[IGNORE_LABEL])

    def share(self, label: int) -> float:
        """Return the share of a class among the pixels that are not ignored, 0 if there are none."""
        return int(self.pixels[label]) / self.counted if self.counted else 0.0

    @property
    def ignored_share(self) -> float:
        """The share of all labelled pixels that is ignored, 0 if there are none."""
        return int(self.pixels[IGNORE_LABEL]) / max(1, int(self.pixels.sum()))

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "examples": self.examples,
            "labelled": self.labelled,
            "only_ignored": self.only_ignored,
            "assumed": dict(self.assumed),
            "first_assumed": self.first_assumed,
            "pixels": {str(value): int(self.pixels[value]) for value in np.flatnonzero(self.pixels)},
            "present": {str(value): int(self.present[value]) for value in np.flatnonzero(self.present)},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Summary:
        """Return the summary that `as_json` wrote."""
        summary = cls(values["examples"], values["labelled"], list(values["only_ignored"]))
        for name in ("pixels", "present"):
            for value, count in values[name].items():
                getattr(summary, name)[int(value)] = count
        summary.assumed = collections.Counter(values["assumed"])
        summary.first_assumed = dict(values["first_assumed"])
        return summary


def warnings(splits: Mapping[str, Summary], classes: Classes) -> list[str]:
    """Return a line for everything that may be meant, but makes training or its score worth nothing if it is not."""
    lines = []
    for split, summary in splits.items():
        for sentence, count in summary.assumed.items():
            lines.append(
                f"{split}: {count} of {summary.examples} pictures, {summary.first_assumed[sentence]} first, {sentence}"
            )
    labelled = {split: summary for split, summary in splits.items() if summary.labelled}
    if not labelled:
        return lines
    for split, summary in labelled.items():
        if not summary.counted:
            lines.append(
                f"{split}: all {summary.labelled} labels are {IGNORE_LABEL} (ignored) throughout: nothing can be "
                "learnt from it, and scores on it are no numbers (nan)"
            )
    everywhere = Summary()
    for summary in labelled.values():
        everywhere.merge(summary)
    names = [name for label, name in enumerate(classes.names) if not everywhere.present[label]]
    if names and everywhere.counted:
        line = f"{len(names)} of {len(classes)} classes never occur: {some(names)}"
        if everywhere.present[IGNORE_LABEL]:
            line += (
                f"; {IGNORE_LABEL}, which is ignored, is in {everywhere.present[IGNORE_LABEL]} labels "
                f"({100 * everywhere.ignored_share:.1f} % of the pixels): if it means a class, as in masks of 0 and "
                "255, draw that class's id, or give its colour 255,255,255 in classes.csv and set "
                "dataset.options.labels=colours"
            )
        lines.append(line)
    found = {
        split: [name for label, name in enumerate(classes.names) if summary.present[label]]
        for split, summary in labelled.items()
    }
    if len(classes) - len(names) == 1 and everywhere.counted:
        [only] = set(classes.names) - set(names)
        return [*lines, f"{only!r} is the only class that occurs: any network gets 100 %"]
    for split, there in found.items():
        if len(there) == 1:
            lines.append(f"{split}: {there[0]!r} is the only class that occurs in it")
    seen = {name for split, there in found.items() if split.startswith("train") for name in there}
    for split, there in found.items():
        if seen and (unseen := [name for name in there if name not in seen]):
            lines.append(f"{split}: {len(unseen)} of its classes never occur in train: {some(unseen)}")
    return lines


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
