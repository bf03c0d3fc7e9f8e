"""Pictures as cameras and scanners write them: turned by EXIF, of many bits or bands, or refused."""

import numpy as np
import pytest
from PIL import Image

from danet_jax.data.decode import decode_image, decode_label
from danet_jax.errors import InputError
from tests.reference import publishers
from tests.reference.own_data import standard


def turned(pixels, orientation):
    """What EXIF says of a stored picture, from its standard: where the first row and the first column are shown."""
    upside = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1]}
    if orientation in upside:
        return upside[orientation]
    across = pixels.swapaxes(0, 1)
    return {5: across, 6: across[:, ::-1], 7: across[::-1, ::-1], 8: across[::-1]}[orientation]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_one_rule_and_an_option(drawn, orientation):
    """Pictures are seen upright, as predict sees them; labels follow them from wherever they were drawn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    standard(drawn)
    drawn.image("images/train/a.png", exif=exif)
    stored = drawn.labels["a"]
    shown = turned(drawn.images["a"], orientation)
    by_predict = decode_image((drawn.root / "images/train/a.png").read_bytes(), "", upright=True)
    np.testing.assert_array_equal(by_predict, shown)
    drawn.images["a"] = shown
    drawn.labels["a"] = turned(stored, orientation)
    dataset = drawn.open()
    drawn.check(dataset, {"train": ["a"], "val": ["b"]})
    [warning] = dataset.warnings()
    assert warning.startswith(
        "train: 1 of 1 pictures, a first, turned upright as EXIF says, with labels as if"
    )
    assert "dataset.options.exif=upright" in warning
    if orientation > 4:  # a quarter turn shows in the sizes
        with pytest.raises(
            InputError, match=rf"a\.png: the label is 12x8 .* EXIF orientation {orientation} .*=stored"
        ):
            drawn.open(exif="upright")
    upright = drawn.label("labels/train/a.png", size=shown.shape[:2])
    np.testing.assert_array_equal(
        decode_label(drawn.open(exif="upright").source("train")[0]["label"], ""), upright
    )
    if orientation > 4:
        with pytest.raises(
            InputError, match=rf"EXIF orientation {orientation} .*set dataset\.options\.exif=upright"
        ):
            drawn.open()


def test_exif_of_a_label_must_be_its_image_s(drawn):
    standard(drawn)
    label = Image.open(drawn.root / "labels/train/a.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    drawn.save(label, "labels/train/a.png", exif=exif)
    with pytest.raises(
        InputError, match=r"labels/train/a\.png: its EXIF says orientation 3, that of its image 1"
    ):
        drawn.open()
    drawn.image("images/train/a.png", exif=exif)
    assert len(drawn.open().warnings()) == 1  # turned, both


def test_twelve_bits_in_sixteen(drawn, rng):
    standard(drawn)
    for values in (rng.integers(0, 4096, (8, 12)), rng.integers(0, 4096, (8, 12, 3))):
        values.flat[0] = 4095
        if values.ndim == 2:
            drawn.save(Image.fromarray(values.astype(np.uint16)), "images/train/a.png")
        else:
            import cv2

            cv2.imwrite(str(drawn.root / "images/train/a.png"), values[..., ::-1].astype(np.uint16))
        with pytest.raises(InputError, match=r"a\.png: of 16 bits only values up to 4095 .*bits.* 12"):
            drawn.open()
        expected = np.broadcast_to((values >> 4).reshape(8, 12, -1), (8, 12, 3))
        stored = drawn.open(bits=12).source("train")[0]["image"]
        np.testing.assert_array_equal(decode_image(stored, ""), expected)


@pytest.mark.parametrize(("suffix", "options"), [(".tif", {}), (".webp", {"lossless": True}), (".bmp", {})])
def test_other_kinds_of_pictures(drawn, suffix, options):
    standard(drawn)
    (drawn.root / "images/train/a.png").unlink()
    drawn.image(f"images/train/a{suffix}", **options)
    drawn.check(drawn.open(), {"train": ["a"], "val": ["b"]})


@pytest.mark.parametrize(("bands", "extra"), [(8, 0), (4, 1)], ids=["8 bands", "premultiplied"])
def test_tiffs_that_pillow_reads_wrong(drawn, rng, capfd, bands, extra):
    standard(drawn)
    pixels = rng.integers(0, 256, (8, 12, bands), dtype=np.uint8)
    drawn.write("images/train/a.tif", publishers.tiff(pixels, extra))
    (drawn.root / "images/train/a.png").unlink()
    with pytest.raises(InputError, match=r"a\.tif: "):
        drawn.open()
    assert capfd.readouterr().err == ""
