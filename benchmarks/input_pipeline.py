"""How fast pictures of Cityscapes' size become augmented crops, beside PyTorch's DataLoader.

    python -m benchmarks.input_pipeline [--images 16] [--seconds 20]

Both sides read PNG files of 1024x2048 and do the paper's augmentation (flip, short side 768 to 2048, crop
768) with Pillow. PyTorch's side does it as the authors' code does: it scales the whole image, then crops. Ours
computes only what the crop keeps, bit for bit the same. The machine's cores are shared out to worker
processes; sides take turns, and the best of three turns counts, so that other load hits both.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from danet_jax.data.dataset import open_dataset
from danet_jax.data.pipeline import training_batches
from danet_jax.data.scenes.picture import draw_scene

HEIGHT, WIDTH, BASE, CROP, BATCH = 1024, 2048, 1024, 768, 2


class WholeScaling(torch.utils.data.Dataset):
    """Decode, flip, scale, pad and crop, one after the other."""

    def __init__(self, root: pathlib.Path, length: int):
        self._images = sorted((root / "images/train").iterdir())
        self._labels = sorted((root / "labels/train").iterdir())
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one augmented crop and its labels."""
        rng = np.random.default_rng(index)
        index %= len(self._images)
        image, label = Image.open(self._images[index]).convert("RGB"), Image.open(self._labels[index])
        if rng.random() < 0.5:
            image, label = ImageOps.mirror(image), ImageOps.mirror(label)
        short = int(rng.integers(int(BASE * 0.75), int(BASE * 2.0), endpoint=True))
        size = (int(1.0 * image.width * short / image.height), short)
        image = image.resize(size, Image.Resampling.BILINEAR)
        label = label.resize(size, Image.Resampling.NEAREST)
        pad = (0, 0, max(0, CROP - size[0]), max(0, CROP - size[1]))
        image, label = ImageOps.expand(image, pad, fill=0), ImageOps.expand(label, pad, fill=255)
        left = int(rng.integers(0, image.width - CROP, endpoint=True))
        top = int(rng.integers(0, image.height - CROP, endpoint=True))
        box = (left, top, left + CROP, top + CROP)
        return np.array(image.crop(box)), np.array(label.crop(box))


def write_pictures(root: pathlib.Path, count: int) -> float:
    """Write drawn scenes as PNG and return their mean size in MB."""
    for part in ("images", "labels"):
        (root / part / "train").mkdir(parents=True)
    for index in range(count):
        image, label = draw_scene(HEIGHT, WIDTH, np.random.default_rng(index))
        Image.fromarray(image).save(root / f"images/train/{index:03d}.png")
        Image.fromarray(label).save(root / f"labels/train/{index:03d}.png")
    return sum(path.stat().st_size for path in (root / "images/train").iterdir()) / count / 1e6


def rate(batches: Iterator[Any], seconds: float) -> float:
    """Return images per second, after the workers have started and filled their buffers."""
    for _ in range(6):
        next(batches)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        images += BATCH
    return images / (time.perf_counter() - start)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary) / "pictures"
        megabytes = write_pictures(root, arguments.images)
        names = [str(index) for index in range(9)]
        stored, disk = {}, {}
        for uncompressed in (False, True):
            dataset = open_dataset(
                "folder",
                root=root,
                data_dir=pathlib.Path(temporary) / "data",
                class_names=names,
                options={"uncompressed": uncompressed},
            )
            stored[uncompressed] = dataset.source("train")
            disk[uncompressed] = sum(dataset.shard_sizes.values()) / arguments.images / 1e6

        def ours(workers: int, uncompressed: bool) -> float:
            source = stored[uncompressed]
            batches = training_batches(
                source, batch_size=BATCH, base_size=BASE, crop_size=CROP, seed=0, workers=workers
            )
            try:
                return rate(batches, arguments.seconds)
            finally:
                batches.close()

        def torchs(workers: int) -> float:
            loader = torch.utils.data.DataLoader(
                WholeScaling(root, 10**6), batch_size=BATCH, num_workers=workers
            )
            return rate(iter(loader), arguments.seconds)

        sides = {
            f"ours, {cores} worker processes": lambda: ours(cores, False),
            "ours, threads of one process": lambda: ours(0, False),
            f"ours uncompressed, {cores} worker processes": lambda: ours(cores, True),
            "ours uncompressed, threads of one process": lambda: ours(0, True),
            f"torch DataLoader, {cores} worker processes": lambda: torchs(cores),
        }
        best = dict.fromkeys(sides, 0.0)
        for _ in range(3):
            for name, measure in sides.items():
                best[name] = max(best[name], measure())
    print(
        f"{HEIGHT}x{WIDTH} PNG of {megabytes:.1f} MB, crop {CROP}, {cores} cores; prepared {disk[False]:.1f} MB an "
        f"example, uncompressed {disk[True]:.1f} MB"
    )
    print(f"{'':46}{'images/s':>10}{'per core':>10}")
    for name, images in best.items():
        print(f"{name:46}{images:10.1f}{images / cores:10.1f}")


if __name__ == "__main__":
    main()
