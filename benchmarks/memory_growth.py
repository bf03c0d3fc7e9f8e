"""Checks that memory does not grow in a training of many steps, and in a segmenter over images of many sizes.

    python -m benchmarks.memory_growth [--steps 2000] [--images 2000]

Resident memory is sampled during the work. Its median over the last tenth of the work is compared with that over the
tenth after the first fifth, in which programs are compiled and buffers are filled. A growth of more than 5 % fails.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from benchmarks.measuring import in_own_process, resident
from benchmarks.soak import command

MOST = 0.05
SIZES = 40


def of_training(steps: int) -> list[float]:
    """Returns the MiB after each step of a training that saves and evaluates often."""
    often = {"checkpoint_every": max(1, steps // 20), "evaluate_every": max(1, steps // 4)}
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder, "parent", "run")
        flags = [f"--config.training.{name}={value}" for name, value in often.items()]
        process = subprocess.Popen([*command(workdir, steps), *flags], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            samples = [resident(process.pid) for line in process.stdout if line.startswith("step")]
            if process.wait():
                sys.exit(f"the training ended with {process.returncode}")
        finally:
            process.kill()
            process.communicate()
    return samples


def of_segmenter(images: int) -> list[float]:
    """Returns the MiB after each image; images have 40 sizes in turn."""
    import numpy as np

    from danet_jax import Segmenter
    from tests.reference.small_network import small_networks

    rng = np.random.default_rng(0)
    model, variables, _ = small_networks(rng)
    segment = Segmenter(model, variables)
    sizes = [(int(rng.integers(33, 200)), int(rng.integers(33, 200))) for _ in range(SIZES)]
    samples = []
    for index in range(images):
        segment(rng.integers(0, 256, (1, *sizes[index % SIZES], 3), dtype=np.uint8))
        samples.append(resident())
    return samples


def is_flat(what: str, samples: list[float]) -> bool:
    """Prints a line, and returns whether memory did not grow."""
    fifth, tenth = len(samples) // 5, max(1, len(samples) // 10)
    early, late = statistics.median(samples[fifth : fifth + tenth]), statistics.median(samples[-tenth:])
    growth = late / early - 1
    print(f"{what}: {early:.0f} MiB, in the end {late:.0f} MiB ({100 * growth:+.1f} %)", flush=True)
    return growth < MOST


def main() -> None:
    """Checks both, and prints a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--segment", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.segment:
        print(json.dumps(of_segmenter(arguments.segment)))
        return
    segmented = in_own_process(__file__, "--segment", str(arguments.images))
    flat = is_flat(f"segmenter, {arguments.images} images", segmented)
    flat &= is_flat(f"training, {arguments.steps} steps", of_training(arguments.steps))
    sys.exit(not flat)


if __name__ == "__main__":
    main()
