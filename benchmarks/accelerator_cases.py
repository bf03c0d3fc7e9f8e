"""The sizes and inputs of benchmarks/accelerator.py, which are the same in every process, and how processes report."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 19
KEY_CHANNELS, VALUE_CHANNELS = 64, 512
MULTI_GRID = (4, 8, 16)


@dataclass(frozen=True)
class Sizes:
    """The sizes of every part.

    Attributes:
      features: the batch, side and channels of the input of a 3x3 convolution with as many output channels.
      dilations: the dilations of that convolution.
      attention: the batch and the number of positions N of each case.
      backbones: the backbones of the networks whose training step is measured.
      crop: the side of the images of a training step, in pixels.
      batches: the numbers of images in a training step, in ascending order.
      image: the height and width of the image to predict, by a network with the first of `backbones`.
      camvid_steps, camvid_batch, camvid_crop: the steps, batch size and crop size of the training run.
      seconds: the time for which a measurement is repeated.
    """

    features: tuple[int, int, int] = (8, 96, 512)
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)
    attention: tuple[tuple[int, int], ...] = ((8, 1024), (8, 9216), (1, 32768))
    backbones: tuple[str, ...] = ("resnet50", "resnet101")
    crop: int = 768
    batches: tuple[int, ...] = (2, 4, 8)
    image: tuple[int, int] = (1024, 2048)
    camvid_steps: int = 1500
    camvid_batch: int = 16
    camvid_crop: int = 288
    seconds: float = 0.5


FULL = Sizes()
TINY = Sizes(
    features=(1, 16, 8),
    dilations=(1, 2),
    attention=((2, 64),),
    backbones=("resnet18",),
    crop=64,
    batches=(2,),
    image=(64, 128),
    camvid_steps=4,
    camvid_batch=4,
    camvid_crop=64,
    seconds=0.0,
)


def rounded(array: np.ndarray) -> np.ndarray:
    """Rounds to float32 values that bfloat16 represents exactly, so that only the arithmetic is compared."""
    import ml_dtypes

    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def convolution_inputs(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features `[B, H, W, C]`, a kernel `[3, 3, C, C]` and the gradient of the result."""
    rng = np.random.default_rng(0)
    batch, side, channels = sizes.features
    shape = (batch, side, side, channels)
    kernel = rng.standard_normal((3, 3, channels, channels), np.float32) / np.sqrt(9 * channels)
    return (
        rounded(rng.standard_normal(shape, np.float32)),
        rounded(kernel.astype(np.float32)),
        rounded(rng.standard_normal(shape, np.float32)),
    )


def attention_inputs(batch: int, positions: int) -> list[np.ndarray]:
    """Returns query, key, value and the gradient of the result, `[B, N, C]` each."""
    rng = np.random.default_rng(positions)
    channels = KEY_CHANNELS, KEY_CHANNELS, VALUE_CHANNELS, VALUE_CHANNELS
    return [rounded(0.5 * rng.standard_normal((batch, positions, c), np.float32)) for c in channels]


def step_inputs(sizes: Sizes, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, uint8, and labels, int64; two are repeated, so loss and gradients are the same for any batch."""
    rng = np.random.default_rng(2)
    shape = (2, sizes.crop, sizes.crop)
    images, labels = rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, CLASSES, shape)
    return np.concatenate([images] * (batch // 2)), np.concatenate([labels] * (batch // 2))


def test_image(sizes: Sizes) -> np.ndarray:
    """Returns the image to predict, uint8 `[1, H, W, 3]`."""
    return np.random.default_rng(3).integers(0, 256, (1, *sizes.image, 3), np.uint8)


def loss_inputs(sizes: Sizes) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the logits of three classifiers at an eighth of the labels' size, and labels, a tenth of them ignored."""
    rng = np.random.default_rng(4)
    batch, side = sizes.batches[-1], -(-sizes.crop // 8)
    logits = [rng.standard_normal((batch, side, side, CLASSES), np.float32) for _ in range(3)]
    labels = rng.integers(0, CLASSES, (batch, sizes.crop, sizes.crop))
    labels[rng.random(labels.shape) < 0.1] = 255
    return logits, labels


def relative_error(result: Any, expected: Any) -> float:
    """Returns `|result - expected| / |expected|` in float64, or infinity if it is not finite."""
    result, expected = (np.asarray(x, np.float64) for x in (result, expected))
    error = float(np.linalg.norm(result - expected) / np.linalg.norm(expected))
    return error if np.isfinite(error) else float("inf")


def tree_error(result: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Returns the relative error of all arrays of `expected` together."""
    difference = sum(float(np.sum((np.float64(1) * result[k] - expected[k]) ** 2)) for k in expected)
    size = sum(float(np.sum(np.float64(1) * expected[k] ** 2)) for k in expected)
    error = (difference / size) ** 0.5
    return error if np.isfinite(error) else float("inf")


class Worker:
    """One of the processes, which prepares, waits for the device, measures, and prints one row at a time."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder, self.sizes = folder, sizes

    def ready(self) -> None:
        """Reports that everything is compiled, and waits for the device."""
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()

    def row(self, **values: Any) -> None:
        """Prints the measured values, with four digits."""
        short = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}
        print(json.dumps(short), flush=True)

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Saves arrays for the other processes."""
        partial = self.folder / f"{name}.{os.getpid()}.partial.npz"
        np.savez(partial, **arrays)
        partial.rename(self.folder / f"{name}.npz")

    def load(self, name: str) -> dict[str, np.ndarray]:
        """Returns the arrays that another process saves, once it has saved them."""
        file = self.folder / f"{name}.npz"
        while not file.exists():
            time.sleep(0.2)
        with np.load(file) as arrays:
            return dict(arrays)

    def seconds(self, run: Callable[[], Any], wait: Callable[[Any], Any]) -> float:
        """Returns the median time of a call in seconds, over several calls at a time if they are short.

        `wait` waits for a result.
        """
        wait(run())
        start = time.perf_counter()
        wait(run())
        at_once = max(1, min(100, int(0.05 / (time.perf_counter() - start))))
        times: list[float] = []
        end = time.perf_counter() + self.sizes.seconds
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(at_once):
                result = run()
            wait(result)
            times.append((time.perf_counter() - start) / at_once)
        return statistics.median(times)
