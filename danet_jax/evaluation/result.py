"""The result of an evaluation: numbers from one confusion matrix, as a table and as files."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danet_jax.classes import Classes
from danet_jax.inference.protocol import Protocol
from danet_jax.runs.files import write_json, write_text

if TYPE_CHECKING:
    import rich.table


# Maps attributes of `Result` to their names in tables.
_NUMBERS = {
    "miou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


@dataclasses.dataclass(frozen=True)
class Result:
    """The metrics over a set of images, as fractions.

    The IoU of a class that is neither in the labels nor predicted is NaN. It is left out of the mean and is null in
    files.

    Attributes:
      confusion: pixels of each label (rows) by predicted class (columns), int64 `[K, K]`.
      classes: the names of the classes.
      images: the number of images that were evaluated.
      protocol: how the network was applied to them.
    """

    confusion: np.ndarray
    classes: Classes
    images: int
    protocol: Protocol

    @functools.cached_property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class, TP / (TP + FP + FN), float64 `[K]`."""
        hits = np.diag(self.confusion)
        return _divide(hits, self.confusion.sum(0) + self.confusion.sum(1) - hits)

    @functools.cached_property
    def accuracy(self) -> np.ndarray:
        """Share of each class's pixels that are predicted correctly, TP / (TP + FN), float64 `[K]`."""
        return _divide(np.diag(self.confusion), self.confusion.sum(1))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that have one."""
        return _mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        """Mean accuracy over the classes in the labels."""
        return _mean(self.accuracy)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that were classified correctly."""
        return float(_divide(np.trace(self.confusion), self.confusion.sum()))

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean IoU weighted by the share of each class in the labels."""
        frequency = self.confusion.sum(1)
        return float(_divide(np.nansum(frequency * self.iou), frequency.sum()))

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of `evaluation.json`: fractions, or None where a metric is undefined."""

        def of_each(values: np.ndarray) -> dict[str, float | None]:
            return dict(zip(self.classes.names, map(_or_none, values), strict=True))

        return {
            **{name: _or_none(getattr(self, name)) for name in _NUMBERS},
            "iou": of_each(self.iou),
            "accuracy": of_each(self.accuracy),
            "images": self.images,
            "pixels": int(self.confusion.sum()),
            "protocol": self.protocol.as_dict(),
        }

    def write(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """Writes `evaluation.json` and `confusion.csv` (rows are labels, columns predictions, in pixels).

        Args:
          folder: the folder to write to.
          about: further content of `evaluation.json`, such as what was evaluated.
        """
        write_json(folder / "evaluation.json", self.as_dict() | dict(about or {}))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["label \\ predicted", *self.classes.names])
        for name, row in zip(self.classes.names, self.confusion.tolist(), strict=True):
            writer.writerow([name, *row])
        write_text(folder / "confusion.csv", text.getvalue())

    def table(self, title: str = "") -> rich.table.Table:
        """Returns a table in per cent for the terminal, like the paper's table 3: the means, then each class."""
        return comparison_table({"": self}, title)


def comparison_table(results: dict[str, Result], title: str = "") -> rich.table.Table:
    """Returns a table with a column of percentages for each of `results`, which have the same classes."""
    import rich.table

    first = next(iter(results.values()))
    protocols = list(dict.fromkeys(result.protocol.name for result in results.values()))
    images = list(dict.fromkeys(result.images for result in results.values()))
    caption = f"{' / '.join(map(str, images))} images\nprotocol {' / '.join(protocols)}"
    table = rich.table.Table(
        title=title or None, caption=caption, title_justify="left", caption_justify="left"
    )
    table.add_column("per cent")
    for name in results:
        table.add_column(name or "IoU", justify="right")
    for attribute, label in _NUMBERS.items():
        numbers = [_per_cent(getattr(result, attribute)) for result in results.values()]
        table.add_row(label, *numbers, style="bold" if attribute == "miou" else None)
    table.add_section()
    for index, name in enumerate(first.classes.names):
        table.add_row(name, *(_per_cent(result.iou[index]) for result in results.values()))
    return table


def _divide(numerator: Any, denominator: Any) -> np.ndarray:
    """Returns the quotient in float64, NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    nothing = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=nothing, where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    return math.nan if np.isnan(values).all() else float(np.nanmean(values))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _per_cent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
