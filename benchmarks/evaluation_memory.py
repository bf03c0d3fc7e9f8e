"""Measures the memory for evaluating large images on a CPU, where the host's memory is also the device's.

    python -m benchmarks.evaluation_memory

The network is small, so that memory is taken by images, windows and scores. Each case runs in a process of its own. The
memory is the growth of the process's peak from before the image is created until it is segmented.
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.measuring import in_own_process, peak_memory

CASES = (
    ("authors_ms", (1024, 2048), 150, "labels"),
    ("authors_ms", (1024, 2048), 150, "scores"),
    ("mmseg", (8192, 8192), 19, "labels"),
)


def measure(name: str, size: tuple[int, int], classes: int, output: str) -> tuple[float, float]:
    """Returns the time in seconds, and the growth of the peak memory in GiB."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from danet_jax import Protocol, Segmenter
    from tests.reference.small_network import small_networks

    rng = np.random.default_rng(0)
    model, variables, _ = small_networks(rng, classes)
    protocol = Protocol.authors(multi_scale=True) if name == "authors_ms" else Protocol.mmseg("other")
    jnp.zeros(()).block_until_ready()  # starts the backend
    before = peak_memory()
    start = time.perf_counter()
    images = rng.integers(0, 256, (1, *size, 3), dtype=np.uint8)
    segment = Segmenter(model, variables, protocol)
    jax.block_until_ready(segment(images) if output == "labels" else segment.scores(images))
    return time.perf_counter() - start, (peak_memory() - before) / 2**10


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(*CASES[int(sys.argv[1])])))
        return
    print("| protocol | image | classes | output | seconds | GiB |")
    print("|---|---|---|---|---|---|")
    for index, (name, (height, width), classes, output) in enumerate(CASES):
        seconds, gibibytes = in_own_process(__file__, str(index))
        print(
            f"| {name} | {height}x{width} | {classes} | {output} | {seconds:.0f} | {gibibytes:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
