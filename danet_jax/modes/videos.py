"""What `--mode=predict` does with a video: label maps of every frame, then the video with them laid over it.

The label maps are what an interrupted prediction goes on from; they are removed in the end unless they were asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from danet_jax.classes import Classes
from danet_jax.data.decode import decode_label
from danet_jax.data.video import Video, write_video
from danet_jax.errors import InputError
from danet_jax.evaluation.progress import watched
from danet_jax.inference.segmenter import Segmenter
from danet_jax.runs.files import replacing, write_text
from danet_jax.visual.pictures import blended, save_labels

_KEPT = "kept"


def predict_video(
    segmenter: Segmenter,
    classes: Classes,
    path: Path,
    folder: Path,
    stem: str,
    *,
    keep_labels: bool = False,
) -> None:
    """Segments a video: writes `STEM_overlay.mp4` into `folder` and, to be kept, `STEM_labels/000000.png`, ...

    Memory does not grow with the video. An interrupted prediction goes on after the last whole frame, unless a file of
    the video, the network, its weights or how it is applied have changed since.

    Raises:
      InputError: the video cannot be read or written.
    """
    video = Video(path)
    labels = folder / f"{stem}_labels"
    kept, done = _begin(labels, f"{path.resolve()} {_digest(video, segmenter)}", keep_labels)
    start, count = time.perf_counter(), done
    frames = segmenter.stream(video.frames(done))
    try:
        for frame in watched(frames, video.length - done if video.length > done else None, unit="frames"):
            save_labels(frame, classes, labels / f"{count:06d}.png")
            count += 1
    except InputError:  # a frame is wrong, and will not be the same when it is mended
        if not kept:
            _remove(labels)
        raise
    seconds = time.perf_counter() - start
    if not count:
        raise InputError(f"{path}: there are no frames in it that can be read")
    overlay = folder / f"{stem}_overlay.mp4"
    with replacing(overlay) as partial:
        write_video(partial, _overlaid(video, labels, classes), video.rate)
    speed = f", {(count - done) / seconds:.1f} frames/s" if count > done else ""
    gone_on = f", {done} of them earlier" if done else ""
    if not kept:
        _remove(labels)
    print(f"{path}: {count} frames{gone_on}{speed}: {overlay}{f', {labels}' if kept else ''}")
    if count < video.length - 1:  # the last is often counted and not there
        raise InputError(f"{path}: ends after {count} of {video.length} frames; it is cut short or damaged")


def _overlaid(video: Video, labels: Path, classes: Classes) -> Iterator[np.ndarray]:
    for index, frame in enumerate(video.frames()):
        path = labels / f"{index:06d}.png"
        yield blended(frame, decode_label(path.read_bytes(), str(path)), classes)


def _begin(labels: Path, source: str, keep: bool) -> tuple[bool, int]:
    """Whether labels are kept, now or since earlier, and how many frames of `source` were finished earlier.

    What is there of another source is removed.
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
    """Remove a folder of label maps, but nothing that somebody put into it."""
    if labels.is_dir():
        for path in [*labels.glob("[0-9]*.png"), labels / "source.txt"]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            labels.rmdir()


def _digest(video: Video, segmenter: Segmenter) -> str:
    """Of all that labels depend on."""
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in video.files]
    digest = hashlib.sha256(repr((states, segmenter.model, segmenter.protocol)).encode())
    for leaf in jax.tree.leaves(segmenter.variables):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
