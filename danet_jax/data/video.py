"""Videos, frame by frame, read and written by OpenCV; a numbered pattern of pictures counts as one."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from danet_jax.data.decode import decode_image
from danet_jax.errors import InputError

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_USUAL_RATE = 25.0


_QUIET = "-8"
"""FFmpeg's level of messages: what it prints of a damaged file is said in a line."""


def is_video(path: Path) -> bool:
    """Whether a path is that of a video, or a pattern as `frame_%05d.png` of numbered pictures."""
    return path.suffix.lower() in SUFFIXES or _is_pattern(path)


def _is_pattern(path: Path) -> bool:
    return re.search(r"%0?\d*d", path.name) is not None and not path.exists()


class Video:
    """A video to be read, once or several times.

    Attributes:
      path: The file, or the pattern.
      files: The file, or the pictures of the pattern.
      rate: Frames per second.
      length: Number of frames, as the file says, which may be wrong; 0 if it does not.
    """

    def __init__(self, path: Path):
        """Open it.

        Raises:
          InputError: It does not exist, is no video that OpenCV reads, or pictures are missing.
        """
        self.path = path
        self.files = _numbered(path) if _is_pattern(path) else [path]
        self._is_pattern = self.files != [path]
        if self._is_pattern:
            self.rate, self.length = _USUAL_RATE, len(self.files)
            return
        if not path.is_file():
            raise InputError(f"{path}: {'no file' if path.exists() else 'no such file'}")
        capture = self._open()
        self.rate = capture.get(cv2.CAP_PROP_FPS) or _USUAL_RATE
        self.length = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()

    def frames(self, start: int = 0) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 `[H, W, 3]` RGB, from number `start` on; one is held in memory at a time.

        Raises:
          InputError: A picture of a pattern is none, or of another size than the first.
        """
        if self._is_pattern:
            yield from self._of_pictures(start)
            return
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

    def _of_pictures(self, start: int) -> Iterator[np.ndarray]:
        shape: tuple[int, ...] = ()
        for number, path in enumerate(self.files):
            if 0 < number < start:  # the first gives the size
                continue
            frame = decode_image(path.read_bytes(), str(path), upright=True)
            shape = shape or frame.shape
            if frame.shape != shape:
                raise InputError(
                    f"{path}: is {frame.shape[1]}x{frame.shape[0]} and {self.files[0]} is {shape[1]}x{shape[0]}; "
                    "frames must have one size"
                )
            if number >= start:
                yield frame

    def _open(self) -> cv2.VideoCapture:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _QUIET)
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            capture.release()
            raise InputError(f"{self.path}: no video that can be read; convert it to MP4 (H.264)")
        return capture


def _numbered(pattern: Path) -> list[Path]:
    """The pictures of a pattern in the order of their numbers, from whichever is the first on."""
    before, form, after = re.split(r"(%0?\d*d)", pattern.name, maxsplit=1)
    name = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    found = {}
    for path in pattern.parent.iterdir() if pattern.parent.is_dir() else ():
        match = name.fullmatch(path.name)
        if match and f"{before}{form % int(match[1])}{after}" == path.name and path.is_file():
            found[int(match[1])] = path
    if not found:
        raise InputError(f"{pattern}: there are no such pictures")
    numbers = sorted(found)
    for number, following in itertools.pairwise(numbers):
        if following != number + 1:
            raise InputError(f"{pattern}: number {number + 1} is missing, between {number} and {following}")
    return [found[number] for number in numbers]


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
