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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from danet_jax.classes import Classes
from danet_jax.data.decode import decode_label, shown
from danet_jax.data.video import TimedFrame, Video, write_video
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
    with outputs.writing(os.path.abspath(path), name, ("_labels", "_overlay.mp4")) as (labels, overlay):
        drawing = _Drawing(classes, legend, outlines, segmenter.protocol.depth)
        _predict(segmenter, drawing, video, labels, overlay, keep_labels=keep_labels)


class _Drawing(NamedTuple):
    classes: Classes
    legend: bool
    outlines: bool
    depth: int


def _predict(
    segmenter: Segmenter, drawing: _Drawing, video: Video, labels: Path, overlay: Path, *, keep_labels: bool
) -> None:
    path = video.path
    kept, done = _begin(labels, f"{path.resolve()} {_digest(video, segmenter)}", keep_labels)
    start, count = time.perf_counter(), done
    frames = segmenter.stream(video.frames(done))
    try:
        left = video.length - done if video.length > done else None
        for frame in watched(frames, f"segmenting {path}", left, unit="frames"):
            save_labels(frame, drawing.classes, labels / f"{count:06d}.png")
            count += 1
    except InputError:  # a frame is wrong, and correcting it changes the digest of the video
        if not kept:
            _remove(labels)
        raise
    seconds = time.perf_counter() - start
    if not count:
        raise InputError(f"{path}: there are no frames in it that can be read", what=str(path))
    height, width = decode_label((labels / "000000.png").read_bytes(), str(path)).shape
    with replacing(overlay) as partial:
        write_video(partial, _overlaid(video, labels, count, drawing), video.tick)
    if not kept:
        _remove(labels)
    earlier = f", {done} of them earlier" if done else ""
    speed = f", {(count - done) / seconds:.1f} frames/s" if count > done else ""
    odd = f", padded from {width}x{height} to even numbers" if height % 2 or width % 2 else ""
    print(f"{path}: {count} frames{earlier}{speed}{odd}: {overlay}{f', {labels}' if kept else ''}")
    if video.missing > 1:  # many intact files declare one frame more than they have
        raise InputError(
            f"{path}: {count} frames were read, and {video.missing} are missing or damaged; the file is cut short or "
            "damaged",
            what=str(path),
            value=video.missing,
        )


def _overlaid(video: Video, labels: Path, count: int, drawing: _Drawing) -> Iterator[TimedFrame]:
    def labels_of(index: int) -> np.ndarray:
        path = labels / f"{index:06d}.png"
        return decode_label(path.read_bytes(), str(path))

    legend = None
    if drawing.legend:
        found = functools.reduce(np.union1d, map(labels_of, range(count)))
        legend = draw_legend(found, drawing.classes, labels_of(0).shape[1])
    for index, (at, frame) in enumerate(video.timed()):
        image = shown(frame, drawing.depth)
        picture = blend_labels(image, labels_of(index), drawing.classes, outlines=drawing.outlines)
        if legend:
            picture = np.asarray(stack_images(Image.fromarray(picture), legend))
        yield at, picture


def _begin(labels: Path, source: str, keep: bool) -> tuple[bool, int]:
    """Returns whether label maps are kept, due to `keep` or an earlier call, and the number of frames already finished.

    Label maps of another source are removed.
    """
    about = labels / "source.txt"
    earlier, _, how = about.read_text(encoding="utf-8").partition("\n") if about.is_file() else ("", "", "")
    if earlier != source:
        _remove(labels)
    kept = keep or (earlier == source and how == _KEPT)
    write_text(about, f"{source}\n{_KEPT if kept else ''}")
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
