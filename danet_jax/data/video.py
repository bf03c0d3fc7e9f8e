"""Videos, frame by frame, read and written by OpenCV; a numbered pattern of pictures counts as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from danet_jax.errors import InputError

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_USUAL_RATE = 25.0


def is_video(path: Path) -> bool:
    """Whether a path is that of a video, or a pattern as `frame_%05d.png` of numbered pictures."""
    return path.suffix.lower() in SUFFIXES or "%" in path.name


class Video:
    """A video to be read, once or several times.

    Attributes:
      path: The file, or the pattern.
      rate: Frames per second.
      length: Number of frames, as the file says, which may be wrong; 0 if it does not.
    """

    def __init__(self, path: Path):
        """Open it.

        Raises:
          InputError: It does not exist, or is no video that OpenCV reads.
        """
        self.path = path
        if "%" not in path.name and not path.is_file():
            raise InputError(f"{path}: no such file")
        capture = self._open()
        self.rate = capture.get(cv2.CAP_PROP_FPS) or _USUAL_RATE
        self.length = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()

    def frames(self, start: int = 0) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 `[H, W, 3]` RGB, from number `start` on; one is held in memory at a time."""
        capture = self._open()
        try:
            for _ in range(start):  # by decoding: jumping is not exact in all formats
                if not capture.grab():
                    return
            while True:
                whole, frame = capture.read()
                if not whole:
                    return
                yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            capture.release()
            raise InputError(f"{self.path}: no video that can be read; convert it to MP4 (H.264)")
        return capture


def write_video(path: Path, frames: Iterable[np.ndarray], rate: float) -> int:
    """Write frames, uint8 `[H, W, 3]` RGB of one size, as MP4, and return their number.

    Raises:
      InputError: It cannot be written, or there are no frames.
    """
    writer, count = None, 0
    try:
        for frame in frames:
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise InputError(f"{path}: OpenCV cannot write this video here")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1
    finally:
        if writer is not None:
            writer.release()
    if not count:
        raise InputError(f"{path}: there are no frames to write")
    return count
