"""A video through predict: a label map per frame, the video overlaid, and going on after an interruption."""

import errno
from fractions import Fraction

import jax
import numpy as np
import pytest
from PIL import Image

from danet_jax.classes import Classes
from danet_jax.data.decode import decode_label
from danet_jax.data.video import Video, write_video
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter
from danet_jax.modes import videos
from danet_jax.modes.videos import predict_video
from danet_jax.runs.outputs import Outputs
from tests.data.test_video import clip, stamps, timed
from tests.reference.refusal import refused
from tests.reference.small_network import small_networks

CLASSES = Classes.named([f"class {index}" for index in range(5)])


@pytest.fixture
def segmenter(rng):
    model, variables, _ = small_networks(rng)
    return Segmenter(model, variables)


def test_a_stream_gives_the_labels_of_its_images(segmenter, rng):
    sizes = [(33, 40), (33, 40), (33, 40), (24, 40), (33, 40)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    labels = list(segmenter.stream(iter(images)))
    assert len(labels) == len(images)
    for image, label in zip(images, labels, strict=True):
        np.testing.assert_array_equal(label, segmenter(image[None])[0])
    assert list(segmenter.stream([])) == []
    with refused():
        list(segmenter.stream([images[0][None]]))


def test_a_stream_reads_at_most_two_batches_ahead(segmenter, rng):
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


def test_a_video_is_predicted_and_resumed(segmenter, rng, tmp_path, capsys):
    path, folder = tmp_path / "drive.mp4", tmp_path / "out"
    times = np.cumsum(rng.integers(1, 900, 20))
    write_video(
        path,
        zip((Fraction(int(t - times[0]), 1000) for t in times), clip(rng, 20), strict=True),
        Fraction(1, 1000),
    )

    def predict(segmenter=segmenter, keep=True):
        predict_video(segmenter, CLASSES, path, Outputs(folder), keep_labels=keep)
        return capsys.readouterr().out

    assert "20 frames, " in predict()
    files = sorted((folder / "drive_labels").glob("*.png"))
    assert [file.name for file in files] == [f"{index:06d}.png" for index in range(20)]
    maps = [decode_label(file.read_bytes(), "") for file in files]
    for frame, labels in zip(Video(path).frames(), maps, strict=True):
        np.testing.assert_array_equal(labels, segmenter(frame[None])[0])
    result = Video(folder / "drive_overlay.mp4")
    assert (result.length, next(result.frames()).shape) == (20, (48, 64, 3))
    assert stamps(result.path) == stamps(path)

    written = {file: file.stat().st_mtime_ns for file in files}
    for file in [*files[13:], folder / "drive_overlay.mp4"]:
        file.unlink()
    assert "20 frames, 13 of them earlier" in predict(keep=False)  # they were asked for then
    assert all(file.stat().st_mtime_ns == written[file] for file in files[:13])
    assert all((decode_label(f.read_bytes(), "") == m).all() for f, m in zip(files, maps, strict=True))
    # Nothing is kept of what the same run gave before it was trained further, or another protocol.
    trained = segmenter.with_variables(jax.tree.map(lambda x: x + 1, segmenter.variables))
    assert "earlier" not in predict(trained)
    assert "20 of them earlier" in predict(trained)
    output = predict(Segmenter(trained.model, trained.variables, Protocol(flip=True)), keep=False)
    assert "20 frames, " in output
    assert "drive_labels" not in output
    assert [file.name for file in folder.glob("[!.]*")] == ["drive_overlay.mp4"]

    predict_video(segmenter, CLASSES, path, Outputs(folder), legend=True, outlines=True)
    labelled = next(Video(result.path).frames())
    assert labelled.shape[0] > 48
    assert labelled.shape[1] >= 480
    assert labelled[48:].min() < 100  # text

    path.write_bytes(path.read_bytes()[:100])
    with refused(what=path):
        predict()


def test_label_maps_and_the_old_overlay_are_kept_if_the_disk_is_full(segmenter, rng, tmp_path, monkeypatch):
    """The overlay cannot be written: the label maps stay, and what there was before."""
    path, folder = tmp_path / "drive.mp4", tmp_path / "out"
    write_video(path, timed(clip(rng, 5)))
    folder.mkdir()
    (folder / "drive_overlay.mp4").write_bytes(b"earlier")

    def full(path, frames, tick):
        path.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(videos, "write_video", full)
        with refused() as error:
            predict_video(segmenter, CLASSES, path, Outputs(folder, overwrite=True))
    assert str(folder / "drive_overlay.mp4") in str(error.value)
    assert (folder / "drive_overlay.mp4").read_bytes() == b"earlier"
    assert len(list((folder / "drive_labels").glob("*.png"))) == 5
    predict_video(segmenter, CLASSES, path, Outputs(folder))
    assert [file.name for file in folder.glob("[!.]*")] == ["drive_overlay.mp4"]


def test_damaged_videos_are_reported_and_odd_sizes_padded(segmenter, rng, tmp_path, capsys):
    for index, frame in enumerate(clip(rng, 3)):
        Image.fromarray(frame[:45, :63]).save(tmp_path / f"{index}.png")
    predict_video(segmenter, CLASSES, tmp_path / "%d.png", Outputs(tmp_path / "out"), keep_labels=True)
    assert "63x45" in capsys.readouterr().out
    assert next(Video(tmp_path / "out/_d_overlay.mp4").frames()).shape == (46, 64, 3)
    assert decode_label((tmp_path / "out/_d_labels/000000.png").read_bytes(), "").shape == (45, 63)
    path = tmp_path / "cut.mp4"
    write_video(path, timed(clip(rng, 30)))
    data = path.read_bytes()
    start = data.index(b"mdat")
    size = int.from_bytes(data[start - 4 : start], "big")
    path.write_bytes(data[: start + size // 2] + bytes(size - size // 2) + data[start + size :])
    with refused(what=path):
        predict_video(segmenter, CLASSES, path, Outputs(tmp_path / "out"))
    assert (tmp_path / "out/cut_overlay.mp4").is_file()


def test_changed_images_of_a_sequence_are_segmented_again(segmenter, rng, tmp_path, capsys):
    for index, frame in enumerate(clip(rng, 3)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")

    def predict():
        predict_video(segmenter, CLASSES, tmp_path / "%d.png", Outputs(tmp_path / "out"), keep_labels=True)
        return capsys.readouterr().out

    assert "earlier" not in predict()
    assert "3 of them earlier" in predict()
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())  # the folder stays as it is
    assert "earlier" not in predict()
    same = [(tmp_path / f"out/_d_labels/{index:06d}.png").read_bytes() for index in range(2)]
    assert same[0] == same[1]
