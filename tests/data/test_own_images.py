"""Tests images from cameras and scanners: with EXIF orientation, with many bits or bands, or refused."""

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from danet_jax.data.decode import decode_image, decode_label
from danet_jax.data.transforms import decode_example
from danet_jax.modes.arguments import read_image
from tests.reference.refusal import refused


def turned(pixels, orientation):
    """Applies an EXIF orientation as the standard defines it: by where the first row and column are shown."""
    upside = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1]}
    if orientation in upside:
        return upside[orientation]
    across = pixels.swapaxes(0, 1)
    return {5: across, 6: across[:, ::-1], 7: across[::-1, ::-1], 8: across[::-1]}[orientation]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_images_are_turned_upright_and_labels_with_them(own, orientation):
    """Images are turned upright as in predict mode, and labels are turned to match, wherever they were drawn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    own.standard()
    own.image("images/train/a.png", exif=exif)
    stored = own.labels["a"]
    shown = turned(own.images["a"], orientation)
    by_predict = decode_image((own.root / "images/train/a.png").read_bytes(), "", upright=True)
    np.testing.assert_array_equal(by_predict, shown)
    own.images["a"] = shown
    own.labels["a"] = turned(stored, orientation)
    dataset = own.check()
    [warning] = dataset.warnings()
    assert "dataset.options.exif=upright" in warning
    if orientation > 4:  # A quarter turn changes the size.
        with refused(what=own.root / "labels/train/a.png") as error:
            own.open(exif="upright")
        assert "dataset.options.exif=stored" in str(error.value)
    upright = own.label("labels/train/a.png", size=shown.shape[:2])
    np.testing.assert_array_equal(
        decode_label(own.open(exif="upright").source("train")[0]["label"], ""), upright
    )
    if orientation > 4:
        with refused() as error:
            own.open()
        assert "dataset.options.exif=upright" in str(error.value)


def test_the_exif_orientation_of_a_label_must_be_that_of_its_image(own):
    own.standard()
    label = Image.open(own.root / "labels/train/a.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    own.save(label, "labels/train/a.png", exif=exif)
    with refused(what=own.root / "labels/train/a.png", value=3, allowed=1):
        own.open()
    own.image("images/train/a.png", exif=exif)
    assert len(own.open().warnings()) == 1  # Both are turned.


def test_twelve_bits_in_sixteen(own, rng):
    own.standard()
    path = own.root / "images/train/a.png"
    for values in (rng.integers(0, 4096, (8, 12)), rng.integers(0, 4096, (8, 12, 3))):
        values.flat[0] = 4095
        path.write_bytes(imagecodecs.png_encode(values.astype(np.uint16)))
        with refused(what=path, value=4095):
            own.open()
        with refused(what=path, value=4095):
            own.open(bits=10)
        expected = np.broadcast_to(values.reshape(8, 12, -1), (8, 12, 3))
        for options in ({}, {"uncompressed": True}):
            dataset = own.open(bits=12, **options)
            assert dataset.bits == 12
            stored = dataset.source("train")[0]
            found = decode_example(stored, 12)["image"]
            assert found.dtype == np.uint16
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(decode_example(stored)["image"], expected >> 4)
        in_8_bits = np.round(own.images["b"] * (4095 / 255))
        np.testing.assert_array_equal(decode_example(dataset.source("val")[0], 12)["image"], in_8_bits)


def test_a_dark_image_among_bright_ones(own, rng):
    own.standard()
    for split, largest in (("train", 65535), ("val", 3000)):
        values = rng.integers(0, largest + 1, (8, 12)).astype(np.uint16)
        path = own.root / f"images/{split}/{'a' if split == 'train' else 'b'}.png"
        path.write_bytes(imagecodecs.png_encode(values))
    dataset = own.open()
    assert dataset.bits == 16
    np.testing.assert_array_equal(
        decode_example(dataset.source("val")[0], 16)["image"], values[..., None].repeat(3, 2)
    )
    with refused(what=path):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, 16, 16)[..., 0], values)


def test_eight_bits_in_sixteen_lose_nothing(own, rng):
    own.standard()
    values = rng.integers(0, 256, (8, 12, 3)).astype(np.uint16)
    (own.root / "images/train/a.png").write_bytes(imagecodecs.png_encode(values))
    dataset = own.open(bits=8)
    assert dataset.bits == 8
    np.testing.assert_array_equal(decode_example(dataset.source("train")[0])["image"], values)


@pytest.mark.parametrize(("suffix", "options"), [(".tif", {}), (".webp", {"lossless": True}), (".bmp", {})])
def test_other_image_formats(own, suffix, options):
    own.standard()
    (own.root / "images/train/a.png").unlink()
    own.image(f"images/train/a{suffix}", **options)
    own.check()


def test_predict_and_explore_report_what_they_leave_out(rng, tmp_path, capsys):
    pixels = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(pixels, -1))
    assert capsys.readouterr().err == ""
    second = Image.fromarray(pixels[::-1].copy())
    Image.fromarray(pixels).save(tmp_path / "b.tif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), pixels)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'b.tif'}: ")


def test_few_grey_levels_are_reported(own, rng, capsys):
    """The values of a thermal camera differ mainly in their lower 8 bits."""
    own.standard()
    path = own.root / "images/train/a.png"
    for low, high, reported in ((51360, 51991, 1), (40000, 65536, 0)):
        values = rng.integers(low, high, (8, 12)).astype(np.uint16)
        values.flat[:2] = low, high - 1
        Image.fromarray(values).save(path)
        assert len(own.open().warnings()) == reported
        np.testing.assert_array_equal(read_image(path)[..., 0], values >> 8)
        assert len(capsys.readouterr().err.splitlines()) == reported


def test_twelve_bits_that_are_turned(own, rng):
    own.standard()
    values = rng.integers(0, 4096, (8, 12)).astype(np.uint16)
    values[0, 0] = 4095
    exif = Image.Exif()
    exif[0x0112] = 6
    own.save(Image.fromarray(values), "images/train/a.png", exif=exif)
    dataset = own.open(bits=12)
    stored = decode_example(dataset.source("train")[0], 12)["image"]
    np.testing.assert_array_equal(stored[..., 0], np.rot90(values, -1))
    assert len(dataset.warnings()) == 1
