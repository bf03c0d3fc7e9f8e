"""What a network makes of validation pictures: which it labels best and worst, and what it takes for what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.evaluation.evaluator import checked_example
from danet_jax.evaluation.result import Result
from danet_jax.visual.packing import data_link, picture_link

if TYPE_CHECKING:
    from danet_jax.inference.segmenter import Segmenter

EACH = 3
"""Of the best, the median and the worst pictures."""
_LONGEST = 384
_WRONG = (255, 96, 0)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A validation picture, made small: `data:` links of it, the truth, the prediction and what is wrong.

    Attributes:
      name: of the example.
      iou: mean over the classes in its truth or prediction; NaN if nothing in it is labelled.
      group: "best", "median" or "worst".
      links: by "picture", "truth", "prediction" and "error".
    """

    name: str
    iou: float
    group: str
    links: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Examined:
    """A result over pictures, and some of them.

    Attributes:
      result: over all.
      pictures: the best, the median and the worst by IoU.
    """

    result: Result
    pictures: tuple[Picture, ...]


def examine(segmenter: Segmenter, examples: Iterable[Mapping[str, Any]], classes: Classes) -> Examined:
    """Segments examples, `{"name", "image", "label"}`, and keeps the best, the median and the worst.

    Raises:
      InputError: an example has no label, or one that does not fit; there is none.
    """
    count = len(classes)
    total = np.zeros((count, count), np.int64)
    kept: list[tuple[float, int, str, np.ndarray, np.ndarray, np.ndarray]] = []
    for number, example in enumerate(examples):
        image, truth = checked_example(example, classes)
        labels = segmenter(image[None])[0].astype(np.uint8)
        confusion = confusion_of(truth, labels, count)
        total += confusion
        iou = Result(confusion, classes, 1, segmenter.protocol).miou
        step = -(-max(labels.shape) // _LONGEST)
        small = Image.fromarray(image).resize(
            (-(-labels.shape[1] // step), -(-labels.shape[0] // step)), Image.Resampling.LANCZOS
        )
        kept.append(
            (iou, number, example["name"], np.asarray(small), truth[::step, ::step], labels[::step, ::step])
        )
    result = Result(total, classes, len(kept), segmenter.protocol)
    ranked = sorted(
        (entry for entry in kept if not np.isnan(entry[0])), key=lambda entry: entry[:2], reverse=True
    )
    each = min(EACH, max(1, len(ranked) // 3))
    middle = max(0, len(ranked) // 2 - each // 2)
    groups = {"best": ranked[:each], "median": ranked[middle : middle + each], "worst": ranked[-each:][::-1]}
    seen: set[int] = set()
    pictures = []
    for group, entries in groups.items():
        for iou, number, name, image, truth, labels in entries:
            if number not in seen:
                seen.add(number)
                pictures.append(Picture(name, iou, group, _links(image, truth, labels, classes)))
    return Examined(result, tuple(pictures))


def confusion_of(truth: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Pixels of each true class (rows) by predicted class (columns), int64 `[count, count]`, without 255."""
    labelled = truth != IGNORE_LABEL
    pairs = truth[labelled].astype(np.int64) * count + labels[labelled]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def errors(image: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The picture in grey, wrong pixels in orange, those without a truth dark: uint8 `[H, W, 3]`."""
    grey = (image @ np.array([0.299, 0.587, 0.114]) * 0.55 + 40).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, 2)
    shown[(truth != labels) & (truth != IGNORE_LABEL)] = _WRONG
    shown[truth == IGNORE_LABEL] = shown[truth == IGNORE_LABEL] // 3
    return shown


def _links(image: np.ndarray, truth: np.ndarray, labels: np.ndarray, classes: Classes) -> dict[str, str]:
    palette = classes.palette()
    return {
        "picture": picture_link(image, quality=85),
        "truth": data_link(palette[truth]),
        "prediction": data_link(palette[labels]),
        "error": picture_link(errors(image, truth, labels), quality=85),
    }
