"""Tests videos against PyAV's timestamps and OpenCV's frames, numbered images, and files that are not videos."""

import resource
import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from danet_jax.data.video import Video, is_video, write_video
from tests.reference.refusal import refused


def clip(rng, count, size=(48, 64)):
    """Returns frames of four uniform rectangles each, which lossy compression preserves to within a few levels."""
    corners = rng.integers(40, 216, (count, 2, 2, 3), dtype=np.uint8)
    return np.repeat(np.repeat(corners, size[0] // 2, axis=1), size[1] // 2, axis=2)


def timed(frames, rate=25):
    return ((Fraction(index) / rate, frame) for index, frame in enumerate(frames))


def stamps(path):
    """Returns FFmpeg's times of the frames relative to the beginning of the file."""
    with path.open("rb") as file, av.open(file) as container:
        begin = Fraction(container.start_time, av.time_base)
        return [frame.pts * frame.time_base - begin for frame in container.decode(video=0)]


def encoded(path, frames, times, codec, tick, container=None, **options):
    """Writes a video with PyAV, with frames at the given times in ticks, and returns its path."""
    with path.open("w+b") as file, av.open(file, "w", format=container or path.suffix[1:]) as output:
        stream = output.add_stream(codec, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.codec_context.time_base = tick
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


FILES = {
    "a phone's changing rate": ("a.mp4", "libx264", Fraction(1, 90000), {"bf": "0"}),
    "B-frames": ("a.mp4", "libx264", Fraction(1, 15360), {}),
    "WebM of a nominal rate of 1000": ("a.webm", "libvpx", Fraction(1, 1000), {}),
    "Matroska": ("a.matroska", "libx264", Fraction(1, 1000), {"bf": "0"}),
    "a name with a colon": ("2024-05-01T10:00:00.mp4", "libx264", Fraction(1, 1000), {"bf": "0"}),
    "a name with a per cent sign": ("100%d of it.mov", "libx264", Fraction(1, 600), {"bf": "0"}),
    "a name that is not UTF-8": (b"\xff\xfe.mp4".decode(errors="surrogateescape"), "libx264", Fraction(1, 1000), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_every_frame_keeps_its_own_time(rng, tmp_path, case):
    name, codec, tick, options = FILES[case]
    frames = clip(rng, 12)
    gaps = rng.choice([0.008, 0.033, 0.04, 0.5, 2.3], 11)
    times = [0, *np.cumsum(np.maximum(1, np.round(gaps / float(tick)))).astype(int).tolist()]
    path = encoded(tmp_path / name, frames, times, codec, tick, **options)
    expected = stamps(path)
    assert expected == pytest.approx([time * tick for time in times], abs=1e-3)
    video = Video(path)
    read = list(video.timed())
    assert [time for time, _ in read] == expected
    assert video.missing == 0
    copy = tmp_path / "copy:1.mp4"
    assert write_video(copy, read, video.tick) == 12
    assert stamps(copy) == expected
    with copy.open("rb") as file, av.open(file) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.frames == 12
        assert container.duration / 1e6 == pytest.approx(expected[-1] + 0.04, abs=0.01)


def test_times_begin_with_the_file_and_increase(rng, tmp_path):
    frames = clip(rng, 6)
    path = encoded(
        tmp_path / "a.mkv", frames, range(5000, 5600, 100), "libx264", Fraction(1, 1000), container="matroska"
    )
    assert [time for time, _ in Video(path).timed()] == [Fraction(i, 10) for i in range(6)]
    same = [(Fraction(i // 3, 10), frame) for i, frame in enumerate(frames)]
    write_video(tmp_path / "b.mp4", same, Fraction(1, 1000))
    expected = [Fraction(t, 1000) for t in (0, 1, 2, 100, 101, 102)]
    assert [time for time, _ in Video(tmp_path / "b.mp4").timed()] == expected


@pytest.mark.parametrize("turns", range(4))
def test_rotation_as_opencv_applies_it(rng, tmp_path, turns):
    """Phones store the rotation in the matrix of the track."""
    path = tmp_path / "a.mp4"
    write_video(path, timed(clip(rng, 3)))
    data = bytearray(path.read_bytes())
    offset = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
    struct.pack_into(">6i", data, offset, cosine * one, sine * one, 0, -sine * one, cosine * one, 0)
    path.write_bytes(data)
    capture = cv2.VideoCapture(str(path))
    for frame in Video(path).frames():
        expected = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).mean() < 8


def test_odd_sizes_are_padded_by_one_pixel(rng, tmp_path):
    frame = np.repeat(np.repeat(clip(rng, 1, (4, 6))[0], 10, axis=0), 10, axis=1)[:35, :47]
    write_video(tmp_path / "a.mp4", timed([frame, frame]))
    for read in Video(tmp_path / "a.mp4").frames():
        assert read.shape == (36, 48, 3)
        expected = np.pad(frame, ((0, 1), (0, 1), (0, 0)), mode="edge")
        assert np.abs(read.astype(int) - expected).mean() < 8


def test_a_full_disk_is_an_error(rng, tmp_path):
    noise = rng.integers(0, 256, (20, 96, 128, 3), dtype=np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"large|space"):
            write_video(tmp_path / "a.mp4", timed(noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_frames_that_are_missing_are_counted(rng, tmp_path):
    times, tick = range(0, 1600, 40), Fraction(1, 1000)
    path = encoded(tmp_path / "a.mkv", clip(rng, 40), times, "libx264", tick, container="matroska")
    assert len(list(Video(path).frames())) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_video(tmp_path / "b.mp4", timed(clip(rng, 40)))
    data = (tmp_path / "b.mp4").read_bytes()
    start = data.index(b"mdat")
    size = int.from_bytes(data[start - 4 : start], "big")
    zeros = bytes(size - size // 3)
    (tmp_path / "b.mp4").write_bytes(data[: start + size // 3] + zeros + data[start + size :])
    for name in ("a.mkv", "b.mp4"):
        video = Video(tmp_path / name)
        read = len(list(video.frames()))
        assert 0 < read < 40
        assert video.missing > 0


def test_written_videos_are_read_again(rng, tmp_path):
    frames = clip(rng, 20)
    assert write_video(tmp_path / "a.mp4", timed(frames, Fraction(25, 2)), Fraction(2, 25)) == 20
    video = Video(tmp_path / "a.mp4")
    assert video.length == 20
    assert [time for time, _ in video.timed()] == [Fraction(2 * index, 25) for index in range(20)]
    for start in (0, 7, 20):
        read = np.array(list(video.frames(start))).reshape(-1, 48, 64, 3)
        assert len(read) == 20 - start
        if start < 20:
            middle = np.s_[:, 8:16, 8:16]
            difference = read[middle].astype(float) - frames[start:][middle]
            assert np.abs(difference).mean() < 12


def test_numbered_images_are_a_video(rng, tmp_path):
    frames = clip(rng, 5)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"f_{index:04d}.png")
    assert is_video(tmp_path / "f_%04d.png")
    np.testing.assert_array_equal(list(Video(tmp_path / "f_%04d.png").frames()), frames)
    (tmp_path / "f_0000.png").unlink()  # Numbers may start anywhere.
    video = Video(tmp_path / "f_%04d.png")
    assert video.length == 4
    np.testing.assert_array_equal(list(video.frames(1)), frames[2:])
    Image.fromarray(frames[0][:20]).save(tmp_path / "f_0003.png")
    with refused(what=tmp_path / "f_0003.png"):
        list(video.frames())
    (tmp_path / "f_0003.png").write_bytes(b"x")
    with refused(what=tmp_path / "f_0003.png"):
        list(video.frames())
    (tmp_path / "f_0003.png").unlink()
    with refused(what=tmp_path / "f_%04d.png", value=3):
        Video(tmp_path / "f_%04d.png")
    with refused(what=tmp_path / "g_%04d.png"):
        Video(tmp_path / "g_%04d.png")


def test_an_image_with_a_per_cent_sign_is_not_a_video(tmp_path):
    (tmp_path / "100%d.png").write_bytes(b"x")
    assert not is_video(tmp_path / "100%d.png")
    assert not is_video(tmp_path / "100% sure.png")


def test_files_that_are_not_a_video_are_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "d.mp4").mkdir()
    with (tmp_path / "sound.mp4").open("w+b") as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for name in ("a.mp4", "b.mp4", "d.mp4", "sound.mp4"):
        with refused(what=tmp_path / name):
            Video(tmp_path / name)
    assert not is_video(tmp_path / "a.jpg")
    with refused(what=tmp_path / "c.mp4"):
        write_video(tmp_path / "c.mp4", [])
