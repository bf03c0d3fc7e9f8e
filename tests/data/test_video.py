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
    (tmp_path / "f_0000.png").unlink()  # they may begin anywhere
    video = Video(tmp_path / "f_%04d.png")
    assert video.length == 4
    np.testing.assert_array_equal(list(video.frames(1)), frames[2:])
    Image.fromarray(frames[0][:20]).save(tmp_path / "f_0003.png")
    with pytest.raises(InputError, match=r"f_0003\.png: is 64x20 and .*f_0001\.png is 64x48; frames must"):
        list(video.frames())
    (tmp_path / "f_0003.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"f_0003\.png: not a picture"):
        list(video.frames())
    (tmp_path / "f_0003.png").unlink()
    with pytest.raises(InputError, match=r"f_%04d\.png: number 3 is missing, between 2 and 4"):
        Video(tmp_path / "f_%04d.png")
    with pytest.raises(InputError, match="there are no such pictures"):
        Video(tmp_path / "g_%04d.png")


def test_a_picture_with_a_per_cent_sign_is_a_picture(tmp_path):
    (tmp_path / "100%d.png").write_bytes(b"x")
    assert not is_video(tmp_path / "100%d.png")
    assert not is_video(tmp_path / "100% sure.png")


def test_what_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    for name, message in (("a.mp4", "no video that can be read"), ("b.mp4", "no such file")):
        with pytest.raises(InputError, match=rf"{name}: {message}"):
            Video(tmp_path / name)
    assert not is_video(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="no frames"):
        write_video(tmp_path / "c.mp4", [], 25)
