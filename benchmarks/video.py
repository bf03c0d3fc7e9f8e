"""Measures the speed of --mode=predict on a video, and whether its memory grows with the length of the video.

    python -m benchmarks.video [--backbone resnet18] [--frames 60] [--long 10000]

The first video has frames of 480x360, segmented by a DANet with random weights, and gives the frames per second of
reading, network, label maps and overlay together. The second video is long and has tiny frames, and its segmenter does
no work; it gives the memory of the process after every tenth of the video. No label maps are kept.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction

import jax
import numpy as np

from benchmarks.measuring import resident
from danet_jax import DANet, Protocol, Segmenter
from danet_jax.classes import Classes
from danet_jax.data.video import TimedFrame, write_video
from danet_jax.modes import videos
from danet_jax.runs.outputs import Outputs


class Nothing:
    """A segmenter that returns labels at once, so that only the work around it is measured."""

    protocol = Protocol.whole()
    model, variables = None, None

    def stream(self, images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the labels of each image."""
        return ((image[..., 0] // 128).astype(np.int32) for image in images)


def frames(count: int, height: int, width: int) -> Iterator[TimedFrame]:
    """Yields frames of a square that moves over a gradient, at 25 frames per second."""
    gradient = np.tile(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, 1, 3))
    for index in range(count):
        frame = gradient.copy()
        left = index % max(1, width - 8)
        frame[:8, left : left + 8] = 255
        yield Fraction(index, 25), frame


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--long", type=int, default=10_000)
    arguments = parser.parse_args()
    classes = Classes.named(["a", "b"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        long, seen, done = folder / "long.mp4", list[float](), 0
        write_video(long, frames(arguments.long, 36, 48))
        watched = videos.watched

        def watching(
            labels: Iterator[np.ndarray], *options: object, **others: object
        ) -> Iterator[np.ndarray]:
            nonlocal done
            for label in labels:
                if done % max(1, arguments.long // 10) == 0:
                    seen.append(resident())
                done += 1
                yield label

        videos.watched = watching  # type: ignore[assignment]
        start = time.perf_counter()
        videos.predict_video(Nothing(), classes, long, Outputs(folder / "out"))  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        seen.append(resident())
        print(
            f"{arguments.long} frames of 48x36 in {seconds:.0f} s; MiB: {', '.join(f'{mb:.0f}' for mb in seen)}"
        )
        videos.watched = watched

        if arguments.frames:
            model = DANet(num_classes=19, backbone=arguments.backbone)
            blank = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
            shapes = jax.eval_shape(model.init, jax.random.key(0), blank)
            rng = np.random.default_rng(0)
            variables = jax.tree.map(
                lambda x: np.abs(rng.normal(1.0, 0.02, x.shape) - (x.ndim > 1)).astype(x.dtype), shapes
            )
            segmenter = Segmenter(model, variables)
            path = folder / "drive.mp4"
            write_video(path, frames(arguments.frames, 360, 480))
            segmenter(next(frames(1, 360, 480))[1][None])  # compiles
            start, worked = time.perf_counter(), time.process_time()
            names = [str(i) for i in range(19)]
            videos.predict_video(segmenter, Classes.named(names), path, Outputs(folder / "out"))
            rate = arguments.frames / (time.perf_counter() - start)
            cores = (time.process_time() - worked) / arguments.frames
            print(
                f"{arguments.backbone}, 480x360: {rate:.2f} frames/s; {cores:.2f} s of a core for each frame"
            )


if __name__ == "__main__":
    main()
