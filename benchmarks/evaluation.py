"""Compares the time per image under the authors' protocol with PyTorch, which processes the same windows one by one.

    python -m benchmarks.evaluation [--backbone=resnet18] [--images=1] [--height=512]

Images are twice as wide as high, by default 512x1024. This is half the size of Cityscapes' images, and base size and
windows are halved, too: single scale (windows of 384, stride 256, flip) and multi-scale (eight scales, windows of 512,
stride 256, flip). Run it with `taskset -c 0` to measure on one core. Both networks have the same weights, and the
largest difference of their labels is printed. It reports wall time and, for machines with other load, CPU time. Then it
reports the number of compilations for 100 images of 40 sizes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import rich
import rich.table
import torch
from jax import monitoring

from danet_jax import DANet, Protocol, Segmenter
from danet_jax.classes import Classes
from danet_jax.evaluation.evaluator import Evaluator
from danet_jax.weights.convert import convert
from tests.reference import torch_danet
from tests.reference.small_network import small_networks
from tests.reference.torch_evaluation import authors_scores

CLASSES = 19


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--height", type=int, default=512)
    options = parser.parse_args()
    height, width = options.height, 2 * options.height
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, height, width, 3), dtype=np.uint8)
    network = torch_danet.randomise(torch_danet.DANet(CLASSES, backbone=options.backbone), rng)
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    model, variables = DANet(CLASSES, backbone=options.backbone), convert(state).variables
    table = rich.table.Table(
        title=f"{options.backbone}, one {height}x{width} image, {torch.get_num_threads()} threads"
    )
    for column in (
        "protocol",
        "PyTorch s (CPU s)",
        "danet_jax s (CPU s)",
        "ratio wall",
        "CPU",
        "labels that differ",
    ):
        table.add_column(column)
    for multi_scale in (False, True):
        protocol = Protocol.authors(multi_scale=multi_scale)
        window, stride = (side[0] * height // 1024 for side in (protocol.window, protocol.stride))
        protocol = protocol.replace(
            base_size=width, window=(window, window), stride=(stride, stride), name=protocol.name
        )
        segment = Segmenter(model, variables, protocol)
        segment(images[:1])  # compiles
        labels, ours = timed(segment, images)
        expected, theirs = timed(partial(one_by_one, network, protocol), images)
        row = [f"{seconds / len(images):.2f} ({cpu / len(images):.2f})" for seconds, cpu in (theirs, ours)]
        ratios = [f"{theirs[kind] / ours[kind]:.2f}" for kind in (0, 1)]
        table.add_row(protocol.name, *row, *ratios, f"{np.mean(labels != expected):.1e}")
    rich.print(table)
    print_compilations(rng)


def one_by_one(network: torch.nn.Module, protocol: Protocol, image: np.ndarray) -> np.ndarray:
    """Returns the labels of an image `[1, H, W, 3]`, computed window by window."""
    scores = authors_scores(
        lambda x: network(x)[0],
        image[0],
        base_size=protocol.base_size,
        crop=protocol.window[0],
        stride=protocol.stride[0],
        scales=protocol.scales,
    )
    return scores.argmax(-1)[None]


def timed(
    segment: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> tuple[np.ndarray, tuple[float, float]]:
    """Segments all images one after another; returns their labels, and the wall and CPU time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    labels = np.concatenate([segment(image[None]) for image in images])
    return labels, (time.perf_counter() - wall, time.process_time() - cpu)


def print_compilations(rng: np.random.Generator) -> None:
    """Prints the number of compilations. It does not depend on the network, so a small and fast one is used."""
    sizes = [tuple(rng.integers(200, 700, 2)) for _ in range(40)]
    model, variables, _ = small_networks(rng, CLASSES)
    table = rich.table.Table(title="compilations over 100 images of 40 sizes, sides of 200 to 700")
    for column in ("protocol", "compilations", "images/s"):
        table.add_column(column)
    compiled: list[float] = []

    def count(event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    monitoring.register_event_duration_secs_listener(count)
    for protocol in (
        Protocol.whole(),
        Protocol.authors("ade20k"),
        Protocol.authors("ade20k", multi_scale=True).replace(
            scales=(0.5, 1.0, 1.5), name="authors, 3 scales"
        ),
        Protocol.mmseg("other"),
    ):
        compiled.clear()
        start = time.perf_counter()
        examples = (
            {
                "name": str(index),
                "image": rng.integers(0, 256, (*sizes[index % 40], 3), dtype=np.uint8),
                "label": rng.integers(0, CLASSES, sizes[index % 40], dtype=np.uint8),
            }
            for index in range(100)
        )
        evaluate = Evaluator(model, Classes.named([str(index) for index in range(CLASSES)]), protocol)
        evaluate(variables, examples)
        table.add_row(protocol.name, str(len(compiled)), f"{100 / (time.perf_counter() - start):.1f}")
    rich.print(table)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
