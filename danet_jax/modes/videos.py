"""What `--mode=predict` does with a video: label maps of every frame, then the video with them laid over it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from danet_jax.classes import Classes
from danet_jax.data.decode import decode_label
from danet_jax.data.video import Video, write_video
from danet_jax.errors import InputError
from danet_jax.evaluation.progress import watched
from danet_jax.inference.segmenter import Segmenter
from danet_jax.runs.writing import replacing, write_text
from danet_jax.visual.pictures import blended, save_labels


def predict_video(
    segmenter: Segmenter, classes: Classes, path: Path, folder: Path, stem: str, network: str
) -> None:
    """Segments a video: writes `STEM_labels/000000.png`, ... and `STEM_overlay.mp4` into `folder`.

    Memory does not grow with the video. An interrupted prediction goes on after the last whole frame, unless the
    video or `network`, which says what segments it, is another one.

    Raises:
      InputError: the video cannot be read or written.
    """
    video = Video(path)
    labels = folder / f"{stem}_labels"
    done = _done(labels, f"{path.resolve()} {_state(path)} {network} {segmenter.protocol.name}")
    start, count = time.perf_counter(), done
    for frame in watched(segmenter.stream(video.frames(done)), max(0, video.length - done)):
        save_labels(frame, classes, labels / f"{count:06d}.png")
        count += 1
    seconds = time.perf_counter() - start
    if not count:
        raise InputError(f"{path}: there are no frames in it that can be read")
    overlay = folder / f"{stem}_overlay.mp4"
    with replacing(overlay) as partial:
        write_video(partial, _overlaid(video, labels, classes), video.rate)
    speed = f", {(count - done) / seconds:.1f} frames/s" if count > done else ""
    gone_on = f", {done} of them earlier" if done else ""
    print(f"{path}: {count} frames{gone_on}{speed}: {overlay}, {labels}")
    if count < video.length - 1:  # the last is often counted and not there
        raise InputError(f"{path}: ends after {count} of {video.length} frames; it is cut short or damaged")


def _overlaid(video: Video, labels: Path, classes: Classes) -> Iterator[np.ndarray]:
    for index, frame in enumerate(video.frames()):
        path = labels / f"{index:06d}.png"
        yield blended(frame, decode_label(path.read_bytes(), str(path)), classes)


def _done(labels: Path, source: str) -> int:
    """How many frames of `source` were finished earlier; what is there of another is removed."""
    about = labels / "source.txt"
    if not about.is_file() or about.read_text() != source:
        shutil.rmtree(labels, ignore_errors=True)
        write_text(about, source)
    count = 0
    while (labels / f"{count:06d}.png").is_file():
        count += 1
    return count


def _state(path: Path) -> str:
    status = path.stat() if path.is_file() else path.parent.stat()
    return f"{status.st_size} {status.st_mtime_ns}"
