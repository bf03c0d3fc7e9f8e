"""Videos written and read again, and what is none."""

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.video import Video, is_video, write_video
from danet_jax.errors import InputError


def clip(rng, count, size=(48, 64)):
    """Frames of four even squares each, which lossy compression keeps to a few levels."""
    corners = rng.integers(40, 216, (count, 2, 2, 3), dtype=np.uint8)
    return np.repeat(np.repeat(corners, size[0] // 2, axis=1), size[1] // 2, axis=2)


def test_what_is_written_is_read(rng, tmp_path):
    frames = clip(rng, 20)
    assert write_video(tmp_path / "a.mp4", iter(frames), 12.5) == 20
    video = Video(tmp_path / "a.mp4")
    assert (video.length, video.rate) == (20, 12.5)
    for start in (0, 7, 20):
        read = np.array(list(video.frames(start))).reshape(-1, 48, 64, 3)
        assert len(read) == 20 - start
        if start < 20:
            middle = np.s_[:, 8:16, 8:16]
            difference = read[middle].astype(float) - frames[start:][middle]
            assert np.abs(difference).mean() < 12


def test_numbered_pictures_are_a_video(rng, tmp_path):
    frames = clip(rng, 5)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"f_{index:04d}.png")
    assert is_video(tmp_path / "f_%04d.png")
    np.testing.assert_array_equal(list(Video(tmp_path / "f_%04d.png").frames()), frames)


def test_what_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    for name, message in (("a.mp4", "no video that can be read"), ("b.mp4", "no such file")):
        with pytest.raises(InputError, match=rf"{name}: {message}"):
            Video(tmp_path / name)
    assert not is_video(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="no frames"):
        write_video(tmp_path / "c.mp4", [], 25)
