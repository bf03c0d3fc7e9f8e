"""Reads and writes videos with PyAV (FFmpeg), preserving the time of every frame; also reads numbered images."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from danet_jax.data.decode import decode_image, to_depth
from danet_jax.errors import InputError, one_line

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_USUAL_RATE = Fraction(25)
_SHORTEST_TICK = Fraction(1, 10**6)
_ENCODER = {"preset": "veryfast", "crf": "20", "bf": "0"}
"""Options of the encoder. Without B-frames, the duration that MP4 declares is correct for any frame times."""

TimedFrame = tuple[Fraction, np.ndarray]
"""The time of a frame in seconds, and its pixels, uint8 `[H, W, 3]` RGB."""

_LazyFrames = Iterator[tuple[Fraction, Callable[[], np.ndarray]]]
"""The time of each frame, and a function that returns its pixels."""


def is_video(path: Path) -> bool:
    """Returns whether a path is that of a video or a pattern of numbered images such as `frame_%05d.png`."""
    return path.suffix.lower() in SUFFIXES or _is_pattern(path)


def _is_pattern(path: Path) -> bool:
    return re.search(r"%0?\d*d", path.name) is not None and not path.exists()


class Video:
    """A video that can be read any number of times.

    Args:
      path: The video file, or a pattern of numbered images.
      bits: The number of bits that are used in 16-bit channels of numbered images.
      depth: The bits per channel of the frames; with more than 8, frames are uint16 from 0 to `2**depth - 1`.

    Attributes:
      path: The video file or the pattern.
      files: The video file or the images that match the pattern.
      length: The number of frames that the file declares, which may be inaccurate; 0 if it declares none.
      tick: The unit of the frame times, in seconds.
      missing: The number of frames that were damaged or missing when the video was last read to its end.

    Raises:
      InputError: The file does not exist or is not a video that FFmpeg can read, or images are missing.
    """

    def __init__(self, path: Path, bits: int = 16, depth: int = 8):
        self.path, self.missing = path, 0
        self._bits, self._depth = bits, depth
        self._is_pattern = _is_pattern(path)
        if self._is_pattern:
            self.files = _numbered_files(path)
            self.length, self.tick = len(self.files), 1 / _USUAL_RATE
            return
        self.files = [path]
        if not path.is_file():
            raise InputError.for_file(path, "not a file" if path.exists() else "does not exist")
        with self._open() as (_, stream):
            self.length, self.tick = stream.frames, max(stream.time_base or _SHORTEST_TICK, _SHORTEST_TICK)

    def frames(self, start: int = 0) -> Iterator[np.ndarray]:
        """Yields the frames, uint8 `[H, W, 3]` RGB, starting with number `start`; see `timed`."""
        return (frame for _, frame in self.timed(start))

    def timed(self, start: int = 0) -> Iterator[TimedFrame]:
        """Yields the frames with their times, starting with number `start`; only one is in memory at a time.

        Times are those of the file in seconds, relative to its beginning; frames without a time follow the nominal
        frame rate. Frames are rotated as the file specifies. Frames that cannot be decoded are skipped and counted in
        `missing`.

        Raises:
          InputError: A numbered image cannot be decoded, or frames differ in size.
        """
        size: tuple[int, ...] = ()
        for number, (time, decoded) in enumerate(self._images() if self._is_pattern else self._decoded()):
            # The first frame determines the size. Frames are skipped because seeking is not exact in all formats.
            if 0 < number < start:
                continue
            pixels = decoded()
            size = size or pixels.shape[:2]
            if pixels.shape[:2] != size:
                where = str(self.files[number] if self._is_pattern else self.path)
                sizes = f"{pixels.shape[1]}x{pixels.shape[0]} and the first is {size[1]}x{size[0]}"
                raise InputError.for_file(
                    where, f"frame {number} is {sizes}; all frames must have the same size"
                )
            if number >= start:
                yield time, pixels

    def _images(self) -> _LazyFrames:
        for number, path in enumerate(self.files):
            yield number * self.tick, functools.partial(self._image, path)

    def _decoded(self) -> _LazyFrames:
        with self._open() as (container, stream):
            stream.thread_type = "AUTO"
            begin = Fraction(container.start_time or 0, av.time_base)
            own = (stream.start_time or 0) * (stream.time_base or Fraction(0))
            if abs(own - begin) < 1e-5:
                begin = own  # The stream's time is exact; the container's is rounded to microseconds.
            step = 1 / (stream.average_rate or _USUAL_RATE)
            time, duration, packets, damaged = -step, step, 0, 0
            reading = container.demux(stream)
            while True:
                try:
                    packet = next(reading)
                    packets += packet.size > 0
                    frames = packet.decode()
                except StopIteration:
                    break
                except av.FFmpegError:  # A damaged packet is skipped; a damaged file may end here.
                    damaged += 1
                    continue
                for frame in frames:
                    tick = frame.time_base or Fraction(0)
                    time = time + step if frame.pts is None else frame.pts * tick - begin
                    duration = max(step, (frame.duration or 0) * tick)
                    yield max(time, Fraction(0)), functools.partial(self._upright, frame)
            cut = _declared_seconds(stream) - time - duration
            cut_frames = round(cut / step) if cut > 0.5 and not stream.frames else 0
            self.missing = damaged or max(0, stream.frames - packets, cut_frames)

    def _image(self, path: Path) -> np.ndarray:
        return decode_image(path.read_bytes(), str(path), upright=True, bits=self._bits, depth=self._depth)

    def _upright(self, frame: av.VideoFrame) -> np.ndarray:
        pixels = frame.to_ndarray(format="rgb24")
        return to_depth(np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4)), self._depth)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        # FFmpeg would interpret some names as a protocol or a pattern, so it gets a file object.
        with self.path.open("rb") as file:
            try:
                container = av.open(file, "r")
                stream = container.streams.best("video")
            except (av.FFmpegError, ValueError) as error:
                raise self._error(one_line(error)) from None
            with container:
                if not isinstance(stream, av.VideoStream):
                    raise self._error("it has no video stream")
                yield container, stream

    def _error(self, reason: str) -> InputError:
        return InputError.for_file(
            self.path, f"not a video that can be read ({reason}); convert it to MP4 (H.264)"
        )


def _declared_seconds(stream: av.VideoStream) -> float:
    """Returns the duration that a stream declares in its metadata, or 0; Matroska and WebM store no frame count."""
    hours, minutes, seconds = (stream.metadata.get("DURATION", "").split(":") + ["0"] * 3)[:3]
    try:
        return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _numbered_files(pattern: Path) -> list[Path]:
    """Returns the images that match a pattern in the order of their numbers, which may start at any number."""
    before, form, after = re.split(r"(%0?\d*d)", pattern.name, maxsplit=1)
    name = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    found = {}
    for path in pattern.parent.iterdir() if pattern.parent.is_dir() else ():
        match = name.fullmatch(path.name)
        if match and f"{before}{form % int(match[1])}{after}" == path.name and path.is_file():
            found[int(match[1])] = path
    if not found:
        raise InputError.for_file(pattern, "no image matches this pattern")
    numbers = sorted(found)
    for number, following in itertools.pairwise(numbers):
        if following != number + 1:
            problem = f"number {number + 1} is missing, between {number} and {following}"
            raise InputError.for_file(pattern, problem, value=number + 1)
    return [found[number] for number in numbers]


def write_video(path: Path, frames: Iterable[TimedFrame], tick: Fraction = 1 / _USUAL_RATE) -> int:
    """Writes frames of one size as MP4 (H.264, yuv420p) without sound, and returns their number.

    An odd height or width is padded by repeating the last pixel, because yuv420p requires even sizes.

    Args:
      path: The file to write.
      frames: Pairs of increasing times in seconds and frames, uint8 `[H, W, 3]` RGB. Each time is rounded to `tick`
        and is at least one tick after the previous one.
      tick: The unit of the times in the file, in seconds.

    Raises:
      OSError: The file cannot be written, for example because the disk is full.
      InputError: There are no frames.
    """
    count, last, stream = 0, -1, None
    with path.open("w+b") as file, av.open(file, "w", format="mp4") as container:
        for time, pixels in frames:
            height, width = pixels.shape[:2]
            if stream is None:
                stream = container.add_stream("libx264", rate=_USUAL_RATE, options=_ENCODER)
                stream.width, stream.height = width + width % 2, height + height % 2
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = tick
            even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame.time_base, frame.pts = tick, max(round(time / tick), last + 1)
            last, count = frame.pts, count + 1
            container.mux(stream.encode(frame))
        if stream is None:
            raise InputError.for_file(path, "there are no frames to write")
        container.mux(stream.encode())
    return count
