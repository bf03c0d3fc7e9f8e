"""A video through predict: a label map per frame, the video overlaid, and going on after an interruption."""

import jax
import numpy as np
import pytest
from PIL import Image

from danet_jax.classes import Classes
from danet_jax.data.decode import decode_label
from danet_jax.data.video import Video, write_video
from danet_jax.errors import InputError
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter
from danet_jax.modes.videos import predict_video
from danet_jax.visual.pictures import overlay
from tests.data.test_video import clip
from tests.reference.small_network import small_networks


@pytest.fixture
def segmenter(rng):
    model, variables, _ = small_networks(rng)
    return Segmenter(model, variables)


def test_a_stream_is_what_the_images_are(segmenter, rng):
    sizes = [(33, 40), (33, 40), (33, 40), (24, 40), (33, 40)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    labels = list(segmenter.stream(iter(images)))
    assert len(labels) == len(images)
    for image, label in zip(images, labels, strict=True):
        np.testing.assert_array_equal(label, segmenter(image[None])[0])
    assert list(segmenter.stream([])) == []
    with pytest.raises(InputError, match=r"uint8 \[H, W, 3\]"):
        list(segmenter.stream([images[0][None]]))


def test_a_stream_reads_no_further_than_it_must(segmenter, rng):
    """Memory is flat: images are taken as results are, two batches ahead at most."""
    image = rng.integers(0, 256, (33, 40, 3), dtype=np.uint8)
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield image

    stream = segmenter.stream(endless())
    next(stream)
    first = taken
    for _ in range(first):
        next(stream)
    assert taken <= 3 * first
    stream.close()


def test_a_video_is_predicted_and_gone_on_with(segmenter, rng, tmp_path, capsys):
    path, folder = tmp_path / "drive.mp4", tmp_path / "out"
    write_video(path, clip(rng, 20), 10)
    classes = Classes.named([f"class {index}" for index in range(5)])

    def predict(segmenter=segmenter, keep=True):
        predict_video(segmenter, classes, path, folder, "drive", keep_labels=keep)
        return capsys.readouterr().out

    assert "20 frames, " in predict()
    files = sorted((folder / "drive_labels").glob("*.png"))
    assert [file.name for file in files] == [f"{index:06d}.png" for index in range(20)]
    maps = [decode_label(file.read_bytes(), "") for file in files]
    for frame, labels in zip(Video(path).frames(), maps, strict=True):
        np.testing.assert_array_equal(labels, segmenter(frame[None])[0])
    result = Video(folder / "drive_overlay.mp4")
    assert (result.length, result.rate, next(result.frames()).shape) == (20, 10, (48, 64, 3))

    stamps = {file: file.stat().st_mtime_ns for file in files}
    for file in [*files[13:], folder / "drive_overlay.mp4"]:
        file.unlink()
    assert "20 frames, 13 of them earlier" in predict(keep=False)  # they were asked for then
    assert all(file.stat().st_mtime_ns == stamps[file] for file in files[:13])
    assert all((decode_label(f.read_bytes(), "") == m).all() for f, m in zip(files, maps, strict=True))
    # Nothing is kept of what the same run gave before it was trained further, or another protocol.
    trained = segmenter.with_variables(jax.tree.map(lambda x: x + 1, segmenter.variables))
    assert "earlier" not in predict(trained)
    assert "20 of them earlier" in predict(trained)
    said = predict(Segmenter(trained.model, trained.variables, Protocol(flip=True)), keep=False)
    assert "20 frames, " in said
    assert "drive_labels" not in said
    assert [file.name for file in folder.iterdir()] == ["drive_overlay.mp4"]

    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"drive\.mp4: no video that can be read"):
        predict()


def test_pictures_that_change_in_place_are_another_video(segmenter, rng, tmp_path, capsys):
    for index, frame in enumerate(clip(rng, 3)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    classes = Classes.named([f"class {index}" for index in range(5)])

    def predict():
        predict_video(segmenter, classes, tmp_path / "%d.png", tmp_path / "out", "drive", keep_labels=True)
        return capsys.readouterr().out

    assert "earlier" not in predict()
    assert "3 of them earlier" in predict()
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())  # the folder stays as it is
    assert "earlier" not in predict()
    same = [(tmp_path / f"out/drive_labels/{index:06d}.png").read_bytes() for index in range(2)]
    assert same[0] == same[1]


def test_strips_do_not_become_miles_high(rng):
    classes = Classes.named(["left", "right"])
    for size in ((3000, 4), (4, 3000), (1, 1)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        picture = overlay(image, rng.integers(0, 2, size), classes)
        assert picture.width <= 3000
        assert picture.height <= 3100
        assert picture.width >= 480
