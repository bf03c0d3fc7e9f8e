"""Validation examples in a report: the result over all of them, and images of the best, the median and the worst."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data.decode import to_8_bits
from danet_jax.evaluation.confusion import count_pairs
from danet_jax.evaluation.evaluator import validate_example
from danet_jax.evaluation.result import Result
from danet_jax.visual.packing import encode_photo, encode_png

if TYPE_CHECKING:
    from danet_jax.inference.segmenter import Segmenter

EACH = 3
"""The number of examples in each group."""
_LONGEST = 384
_ERROR_COLOUR = (255, 96, 0)


@dataclasses.dataclass(frozen=True)
class ShownExample:
    """A validation example with its images reduced in size.

    Attributes:
      name: the example's name.
      iou: the mean IoU over the classes in its labels or prediction, in per cent.
      group: "best", "median" or "worst".
      links: `data:` links by "image", "truth", "prediction" and "error".
    """

    name: str
    iou: float
    group: str
    links: Mapping[str, str]


def evaluate_examples(
    segmenter: Segmenter, examples: Iterable[Mapping[str, Any]], classes: Classes
) -> tuple[Result, list[ShownExample]]:
    """Returns the result over all examples, `{"name", "image", "label"}`, and the best, median and worst of them.

    Raises:
      InputError: an example has no label or a label that does not fit, or there are no examples.
    """
    total = np.zeros((len(classes), len(classes)), np.int64)
    kept: list[tuple[float, int, str, np.ndarray, np.ndarray, np.ndarray]] = []
    for number, example in enumerate(examples):
        image, truth = validate_example(example, classes, segmenter.protocol.pixel_type)
        labels = segmenter(image[None])[0].astype(np.uint8)
        confusion = np.asarray(count_pairs(jnp.asarray(truth), jnp.asarray(labels), len(classes)))
        total += confusion
        iou = 100 * Result(confusion, classes, 1, segmenter.protocol).miou
        step = -(-max(labels.shape) // _LONGEST)
        truth, labels = truth[::step, ::step], labels[::step, ::step]
        small = Image.fromarray(to_8_bits(image, segmenter.protocol.depth)).resize(
            labels.shape[::-1], Image.Resampling.LANCZOS
        )
        kept.append((iou, number, example["name"], np.asarray(small), truth, labels))
    result = Result(total, classes, len(kept), segmenter.protocol)

    # Examples without any labelled pixel have no IoU.
    ranked = sorted((x for x in kept if not np.isnan(x[0])), key=lambda x: x[:2], reverse=True)
    each = min(EACH, max(1, len(ranked) // 3))
    middle = max(0, len(ranked) // 2 - each // 2)
    groups = {"best": ranked[:each], "median": ranked[middle : middle + each], "worst": ranked[-each:][::-1]}
    shown: dict[int, ShownExample] = {}
    for group, entries in groups.items():
        for iou, number, name, image, truth, labels in entries:
            if number not in shown:
                shown[number] = ShownExample(name, iou, group, _links(image, truth, labels, classes))
    return result, list(shown.values())


def draw_errors(image: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the image in grey with wrong pixels in orange and ignored pixels dark, uint8 `[H, W, 3]`."""
    grey = (image @ np.array([0.299, 0.587, 0.114]) * 0.55 + 40).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, 2)
    ignored = truth == IGNORE_LABEL
    shown[(truth != labels) & ~ignored] = _ERROR_COLOUR
    shown[ignored] //= 3
    return shown


def _links(image: np.ndarray, truth: np.ndarray, labels: np.ndarray, classes: Classes) -> dict[str, str]:
    palette = classes.palette()
    return {
        "image": encode_photo(image, quality=85),
        "truth": encode_png(palette[truth]),
        "prediction": encode_png(palette[labels]),
        "error": encode_photo(draw_errors(image, truth, labels), quality=85),
    }
