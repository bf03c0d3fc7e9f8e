"""Segments a video: writes label maps of all frames, and then the video with the label maps drawn over it.

An interrupted prediction resumes from the label maps, which are removed at the end unless they were requested.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from danet_jax.classes import Classes
from danet_jax.data.decode import decode_label, to_8_bits
from danet_jax.data.video import Video, write_video
from danet_jax.errors import InputError
from danet_jax.inference.drawing import blend_labels, draw_legend, save_labels, stack_images
from danet_jax.inference.segmenter import Segmenter
from danet_jax.modes.arguments import short_name
from danet_jax.runs.files import replacing, write_text
from danet_jax.runs.outputs import Outputs
from danet_jax.runs.terminal import watched

_KEPT = "kept"


def predict_video(
    segmenter: Segmenter,
    classes: Classes,
    path: Path,
    outputs: Outputs,
    *,
    keep_labels: bool = False,
    legend: bool = False,
    outlines: bool = False,
) -> None:
    """Segments a video: writes `NAME_overlay.mp4` and, with `keep_labels`, `NAME_labels/000000.png`, ...

    Every frame of the overlay has the time stamp of its source; sound is dropped. Memory does not grow with the length
    of the video. An interrupted prediction resumes after the last complete label map, unless a file of the video, the
    network, its weights or the protocol has changed since then.

    Args:
      segmenter: the network.
      classes: the names and colours for the overlay and the label maps.
      path: the video, or a pattern of numbered images.
      outputs: the folder of the results, which are named after the video.
      keep_labels: whether the label maps are kept.
      legend: whether a legend of the video's classes is drawn below each frame.
      outlines: whether only the outlines of the classes are drawn.

    Raises:
      InputError: the video cannot be read or written, or is damaged. Finished label maps are kept.
    """
    video = Video(path, segmenter.bits_used, segmenter.protocol.depth)
    name = short_name(path).replace("%", "_")
    with outputs.writing(os.path.abspath(path), name, ("_labels", "_overlay.mp4")) as (folder, overlay):
        kept, done = _begin(folder, f"{path.resolve()} {_digest(video, segmenter)}", keep_labels)
        start, count = time.perf_counter(), done
        frames = segmenter.stream(video.frames(done))
        try:
            left = video.length - done if video.length > done else None
            for frame in watched(frames, f"segmenting {path}", left, unit="frames"):
                save_labels(frame, classes, folder / f"{count:06d}.png")
                count += 1
        except InputError:  # a frame is invalid, and correcting it changes the digest of the video
            if not kept:
                _remove(folder)
            raise
        seconds = time.perf_counter() - start
        if not count:
            raise InputError.for_file(path, "no frame can be read")

        def read_labels(index: int) -> np.ndarray:
            file = folder / f"{index:06d}.png"
            return decode_label(file.read_bytes(), str(file))

        height, width = read_labels(0).shape
        legend_image = None
        if legend:
            present = functools.reduce(np.union1d, map(read_labels, range(count)))
            legend_image = draw_legend(present, classes, width)

        def draw(frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
            drawn = blend_labels(
                to_8_bits(frame, segmenter.protocol.depth), labels, classes, outlines=outlines
            )
            return np.asarray(stack_images(Image.fromarray(drawn), legend_image)) if legend_image else drawn

        overlays = ((at, draw(frame, read_labels(index))) for index, (at, frame) in enumerate(video.timed()))
        with replacing(overlay) as partial:
            write_video(partial, overlays, video.tick)
        if not kept:
            _remove(folder)
    earlier = f", {done} of them earlier" if done else ""
    speed = f", {(count - done) / seconds:.1f} frames/s" if count > done else ""
    padding = f", padded from {width}x{height} to even numbers" if height % 2 or width % 2 else ""
    print(f"{path}: {count} frames{earlier}{speed}{padding}: {overlay}{f', {folder}' if kept else ''}")
    if video.missing > 1:  # many intact files declare one frame more than they have
        raise InputError.for_file(
            path,
            f"{count} frames were read, but {video.missing} are missing or damaged; the file is truncated or "
            "damaged",
            value=video.missing,
        )


def _begin(labels: Path, source: str, keep: bool) -> tuple[bool, int]:
    """Returns whether label maps are kept, due to `keep` or an earlier call, and the number of frames already finished.

    Label maps of another source are removed.
    """
    file = labels / "source.txt"
    earlier, _, mode = file.read_text(encoding="utf-8").partition("\n") if file.is_file() else ("", "", "")
    if earlier != source:
        _remove(labels)
    kept = keep or (earlier == source and mode == _KEPT)
    write_text(file, f"{source}\n{_KEPT if kept else ''}")
    count = 0
    while (labels / f"{count:06d}.png").is_file():
        count += 1
    return kept, count


def _remove(labels: Path) -> None:
    """Removes the label maps in a folder, and the folder itself if it contains nothing else."""
    if labels.is_dir():
        frames = (labels / f"{index:06d}.png" for index in itertools.count())
        for path in [*itertools.takewhile(lambda path: path.is_file(), frames), labels / "source.txt"]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            labels.rmdir()


def _digest(video: Video, segmenter: Segmenter) -> str:
    """Returns a digest of everything that the label maps depend on."""
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in video.files]
    digest = hashlib.sha256(repr(("PyAV", states, segmenter.model, segmenter.protocol)).encode())
    for leaf in jax.tree.leaves(segmenter.variables):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
