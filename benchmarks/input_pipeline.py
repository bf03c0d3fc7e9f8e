"""Compares the speed of decoding and augmenting images with PyTorch's DataLoader, for Cityscapes' PNG and COCO's JPEG.

    python -m benchmarks.input_pipeline [--images 8] [--seconds 10]

Both sides read the same files and do the paper's augmentation (flip, scale by 0.75 to 2, crop) with Pillow. The PyTorch
side follows the authors' code: it decodes and scales the whole image, and then crops. danet_jax decodes and computes
only what the crop keeps, and gets the same result bit for bit.

The first table shows the mean CPU time per example in one process, measured in turns, which other load on the machine
hardly changes. The second shows whole pipelines, whose worker processes share the cores. Both sides take turns, and the
better of two runs counts. It also shows the time to the first batch, and the memory and open files of each worker.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from danet_jax.data.dataset import EncodedExample, open_dataset
from danet_jax.data.pipeline import training_batches
from danet_jax.data.scenes.drawing import draw_scene
from danet_jax.data.transforms import Augment

BATCH = 2


@dataclasses.dataclass(frozen=True)
class Kind:
    """The size and format of a data set's images, and the sizes in its recipe."""

    title: str
    height: int
    width: int
    suffix: str
    base: int
    crop: int
    noise: float


KINDS = (
    Kind("Cityscapes' PNG", 1024, 2048, ".png", 1024, 768, 0.0),
    Kind("COCO's JPEG", 480, 640, ".jpg", 520, 480, 12.0),
)


class WholeScaling(torch.utils.data.Dataset):
    """A data set that decodes, flips, scales, pads and crops whole images, as the authors' code does."""

    def __init__(self, root: pathlib.Path, kind: Kind, length: int):
        self._images = sorted((root / "images/train").iterdir())
        self._labels = sorted((root / "labels/train").iterdir())
        self._kind, self._length = kind, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns one augmented crop and its labels."""
        rng, base, crop = np.random.default_rng(index), self._kind.base, self._kind.crop
        index %= len(self._images)
        image: Image.Image = Image.open(self._images[index]).convert("RGB")
        label: Image.Image = Image.open(self._labels[index])
        if rng.random() < 0.5:
            image, label = ImageOps.mirror(image), ImageOps.mirror(label)
        short = int(rng.integers(int(base * 0.75), int(base * 2.0), endpoint=True))
        size = (int(1.0 * image.width * short / image.height), short)
        image = image.resize(size, Image.Resampling.BILINEAR)
        label = label.resize(size, Image.Resampling.NEAREST)
        pad = (0, 0, max(0, crop - size[0]), max(0, crop - size[1]))
        image, label = ImageOps.expand(image, pad, fill=0), ImageOps.expand(label, pad, fill=255)
        left = int(rng.integers(0, image.width - crop, endpoint=True))
        top = int(rng.integers(0, image.height - crop, endpoint=True))
        box = (left, top, left + crop, top + crop)
        return np.array(image.crop(box)), np.array(label.crop(box))


def write_images(root: pathlib.Path, kind: Kind, count: int) -> float:
    """Writes synthetic scenes, as JPEG with noise that makes files as large as photos; returns their size in MB."""
    for part in ("images", "labels"):
        (root / part / "train").mkdir(parents=True)
    for index in range(count):
        rng = np.random.default_rng(index)
        image, label = draw_scene(kind.height, kind.width, rng)
        image = np.clip(image + rng.normal(0.0, kind.noise, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(root / f"images/train/{index:03d}{kind.suffix}", quality=92)
        Image.fromarray(label).save(root / f"labels/train/{index:03d}.png")
    return sum(path.stat().st_size for path in (root / "images/train").iterdir()) / count / 1e6


def milliseconds(sides: Sequence[Callable[[int], Any]], seconds: float) -> list[float]:
    """Returns the mean CPU time of each side per example in milliseconds, measured in turns."""
    times: list[list[float]] = [[] for _ in sides]
    end, index = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or index < 4:
        for side, taken in zip(sides, times, strict=True):
            start = time.process_time()
            side(index)
            taken.append(1e3 * (time.process_time() - start))
        index += 1
    return [statistics.mean(taken[1:]) for taken in times]


@dataclasses.dataclass
class Pipeline:
    """The measured values of a pipeline: images/s, seconds to the first batch, MB and open files of a worker."""

    rate: float = 0.0
    start: float = float("inf")
    memory: float = float("nan")
    files: float = float("nan")


def measure(batches: Iterator[Any], seconds: float, begun: float, best: Pipeline) -> None:
    """Takes batches from a pipeline that was started at the time `begun`, and updates the best values."""
    next(batches)
    best.start = min(best.start, time.perf_counter() - begun)
    for _ in range(5):
        next(batches)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        images += BATCH
    best.rate = max(best.rate, images / (time.perf_counter() - start))
    workers = [child.pid for child in multiprocessing.active_children() if child.pid]
    if workers:
        best.memory = statistics.mean(own_memory(pid) for pid in workers)
        best.files = statistics.mean(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers)


def own_memory(pid: int) -> float:
    """Returns the memory that a process does not share with others, in MB."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return kilobytes / 1e3


def report(kind: Kind, images: int, seconds: float, cores: int, temporary: pathlib.Path) -> None:
    """Measures images of one kind, and prints two tables."""
    root = temporary / "images"
    megabytes = write_images(root, kind, images)
    names = [str(index) for index in range(9)]
    stored: dict[bool, Sequence[EncodedExample]] = {}
    disk = {}
    for uncompressed in (False, True):
        dataset = open_dataset(
            "folder",
            root=root,
            data_dir=temporary / "data",
            class_names=names,
            options={"uncompressed": uncompressed},
        )
        stored[uncompressed] = dataset.source("train")
        disk[uncompressed] = sum(dataset.shard_sizes.values()) / images / 1e6

    step = Augment(kind.base, kind.crop, (0.75, 2.0))
    theirs = WholeScaling(root, kind, 10**6)

    def example(uncompressed: bool) -> Callable[[int], Any]:
        source = stored[uncompressed]
        return lambda index: step(source[index % images], np.random.default_rng(index))

    titles = ("the authors' transforms", "ours", "ours, uncompressed")
    times = milliseconds((theirs.__getitem__, example(False), example(True)), seconds)
    print(f"{kind.title}: {kind.height}x{kind.width}, {megabytes:.2f} MB each, crops of {kind.crop}; prepared "
          f"{disk[False]:.2f} MB an example, uncompressed {disk[True]:.2f} MB")  # fmt: skip
    print(f"{'':34}{'ms of a core':>14}{'ratio':>8}{'cores for 60/s':>16}")
    for title, taken in zip(titles, times, strict=True):
        print(f"{title:34}{taken:14.1f}{times[0] / taken:8.2f}{60 * taken / 1e3:16.1f}")

    def ours(workers: int, uncompressed: bool, best: Pipeline) -> None:
        begun = time.perf_counter()
        batches = training_batches(
            stored[uncompressed],
            batch_size=BATCH,
            base_size=kind.base,
            crop_size=kind.crop,
            seed=0,
            workers=workers,
        )
        try:
            measure(batches, seconds, begun, best)
        finally:
            batches.close()

    def torchs(best: Pipeline) -> None:
        begun = time.perf_counter()
        loader = torch.utils.data.DataLoader(theirs, batch_size=BATCH, num_workers=cores)
        measure(iter(loader), seconds, begun, best)

    sides: dict[str, Callable[[Pipeline], None]] = {
        f"torch DataLoader, {cores} workers": torchs,
        f"ours, {cores} workers": lambda best: ours(cores, False, best),
        "ours, threads of one process": lambda best: ours(0, False, best),
        f"ours uncompressed, {cores} workers": lambda best: ours(cores, True, best),
    }
    found = {name: Pipeline() for name in sides}
    for _ in range(2):
        for name, side in sides.items():
            side(found[name])
    print(f"{'':34}{'images/s':>10}{'start, s':>10}{'MB a worker':>13}{'files':>7}")
    for name, seen in found.items():
        print(f"{name:34}{seen.rate:10.1f}{seen.start:10.1f}{seen.memory:13.0f}{seen.files:7.0f}")


def main() -> None:
    """Runs the benchmark and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as temporary:
            report(kind, arguments.images, arguments.seconds, cores, pathlib.Path(temporary))


if __name__ == "__main__":
    main()
