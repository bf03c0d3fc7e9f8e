"""Tests decoding against NumPy, Pillow, OpenCV and hand-made PNG files."""

import io
import itertools
import re
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from danet_jax.data.decode import decode_image, decode_label, encode_label, remarks
from danet_jax.data.transforms import decode_example
from tests.reference.images import encode, png
from tests.reference.refusal import refused


def over_white(colours, alpha):
    """Returns colours composited over white with `alpha`, 0 to 255."""
    share = alpha[..., None] / 255
    return np.floor(colours * share + 255 * (1 - share) + 0.5).astype(np.uint8)


def assert_decoded(data, expected):
    """Checks both decoders: the one for any file and the one for prepared data."""
    np.testing.assert_array_equal(decode_image(data, "x"), expected)
    np.testing.assert_array_equal(
        decode_example({"name": "x", "image": data, "label": None})["image"], expected
    )


def smooth(rng, mode="RGB"):
    pixels = rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)
    return Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 2)).convert(mode)


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (7, 11, 3), dtype=np.uint8)


@pytest.fixture
def palette(rng):
    """Returns indices below 5, their colours, and an image of both."""
    indices, colours = rng.integers(0, 5, (7, 11), np.uint8), rng.integers(0, 256, (5, 3), np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    return indices, colours, image


def test_rgb_grey_and_palette(rgb, palette):
    assert_decoded(encode(rgb), rgb)
    grey = Image.fromarray(rgb[..., 0])
    assert_decoded(encode(grey), np.repeat(rgb[..., :1], 3, axis=2))
    indices, colours, image = palette
    assert_decoded(encode(image), colours[indices])
    assert (decode_image(encode(grey, "JPEG", quality=100), "x").std(axis=2) == 0).all()
    jpeg = encode(rgb, "JPEG", quality=90)
    by_opencv = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decode_image(jpeg, "x").astype(int) - by_opencv).max() <= 2


def test_sixteen_bits_keep_the_upper_eight(rng):
    colours = rng.integers(0, 2**16, (7, 11, 3), dtype=np.uint16)
    assert_decoded(png(colours, 16, 2), colours >> 8)
    assert_decoded(encode(colours[..., 0]), np.repeat(colours[..., :1] >> 8, 3, axis=2))


def test_transparent_pixels_are_composed_over_white(rgb, rng, palette):
    """The hidden colours of transparent pixels do not matter, whichever decoder is used."""
    alpha = rng.choice(np.array([0, 1, 7, 128, 254, 255], np.uint8), (7, 11))
    rgba = np.dstack([rgb, alpha])
    expected = over_white(rgb, alpha)
    assert_decoded(encode(rgba), expected)
    assert_decoded(encode(rgba, "WEBP", lossless=True, exact=True), expected)
    assert_decoded(png(rgba.astype(np.uint16) * 257, 16, 6), expected)
    assert_decoded(encode(Image.fromarray(rgba[..., [0, 3]])), np.repeat(expected[..., :1], 3, axis=2))
    rgba[alpha == 0, :3] = 9
    assert_decoded(encode(rgba), expected)

    indices, colours, image = palette
    for transparency, shares in ((2, [255, 255, 0, 255, 255]), (bytes([0, 255, 7, 0]), [0, 255, 7, 0, 255])):
        expected = over_white(colours[indices], np.array(shares, np.uint8)[indices])
        assert_decoded(encode(image, transparency=transparency), expected)


@pytest.mark.parametrize(("bits", "colour_type"), [(8, 0), (8, 2), (16, 0), (16, 2)])
def test_one_transparent_colour(rng, bits, colour_type):
    pixels = rng.integers(0, 2**bits, (7, 11, 3 if colour_type else 1))
    pixels[2:4, 3:9] = key = pixels[0, 0]
    expected = (pixels >> (bits - 8)).astype(np.uint8) | np.zeros(3, np.uint8)
    expected[(pixels == key).all(axis=2)] = 255
    assert_decoded(png(pixels, bits, colour_type, transparent=key.astype(">u2").tobytes()), expected)


@pytest.mark.parametrize("colour_type", [0, 2, 3, 4, 6])
def test_a_png_whose_data_end_early_is_refused(rng, colour_type):
    """The file has a proper end, as an interrupted encoder writes it; Pillow leaves the other rows black."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    pixels = rng.integers(1, 200, (20, 15, channels), dtype=np.uint8)
    colours = [0] * 600 if colour_type == 3 else ()
    decoders = [decode_image, decode_label] if channels == 1 else [decode_image]
    for kept in (0, 1, 10, 19):
        for decode in decoders:
            with refused(what="a.png"):
                decode(png(pixels, 8, colour_type, colours, kept=kept), "a.png")
    for rows in (pixels, np.zeros_like(pixels)):  # Black rows at the end are not damage.
        intact = png(rows, 8, colour_type, colours)
        assert decode_image(intact, "a.png").shape == (20, 15, 3)
        if channels == 1:
            np.testing.assert_array_equal(decode_label(intact, "a.png"), rows[..., 0])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0}]
)
def test_a_jpeg_whose_scan_ends_early_is_refused(rng, options, mode):
    """The file has an end marker, as after a repaired transfer; decoders show the rest as grey."""
    for image in (smooth(rng, mode), Image.new(mode, (130, 90), 128)):
        data = encode(image, "JPEG", **options)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        for padding in (b"", b"\xff\xff"):
            padded = data[:-2] + padding + data[-2:]
            np.testing.assert_array_equal(decode_image(padded, "a.jpg"), expected)
    data = encode(smooth(rng, mode), "JPEG", **options)
    for kept in (0.6, 0.8, 0.9):
        with refused(what="a.jpg"):
            decode_image(data[: int(kept * len(data))] + b"\xff\xd9", "a.jpg")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_that_is_cut_between_two_scans_is_refused(rng, mode):
    """All remaining scans are complete; decoders show the image without the details of the missing ones."""
    data = encode(smooth(rng, mode), "JPEG", progressive=True)
    scans = [match.start() for match in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 5
    for before, scan in itertools.pairwise(scans):
        for end in {
            scan,
            data.rindex(b"\xff\xc4", 0, scan),
        }:  # Before or after the Huffman table of the next scan.
            if end > before:
                with refused(what="a.jpg"):
                    decode_image(data[:end] + b"\xff\xd9", "a.jpg")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"thumbnail": True}])
def test_a_jpeg_whose_rest_was_never_written_is_refused(rng, options):
    """A crash or an aborted transfer leaves zeros, which every decoder shows as grey."""
    image = Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8))
    if options.pop("thumbnail", False):  # The thumbnail has its own end marker.
        options["exif"] = b"Exif\0\0" + encode(image.resize((16, 16)), "JPEG")
    data = encode(image, "JPEG", **options)
    for trailer in (b"", b"\0" * 9, rng.bytes(20_000)):  # Phones append videos to photos.
        np.testing.assert_array_equal(decode_image(data + trailer, "x"), decode_image(data, "x"))
    for kept in (0.95, 0.9):
        written = int(kept * len(data))
        with refused(what="photo.jpg"):
            decode_image(data[:written] + bytes(len(data) - written), "photo.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("part", [0.98, 0.5, 0.1])
def test_a_file_that_is_cut_short_is_refused(rng, kind, part):
    data = encode(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    with refused(what="street.x"):
        decode_image(data[: int(part * len(data))], "street.x")


def test_damaged_and_oversized_files_are_refused(rgb, monkeypatch):
    data = encode(rgb)
    flipped = data[:50] + bytes([data[50] ^ 0xFF]) + data[51:]
    for damaged in (flipped, b"", b"\x89PNG\r\n\x1a\n"):
        with refused(what="street.png"):
            decode_image(damaged, "street.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with refused(what="street.png"):
        decode_image(data, "street.png")


def test_further_frames_are_reported(rgb):
    first, second = Image.fromarray(rgb), Image.fromarray(rgb[::-1].copy())
    for kind, options in (("PNG", {}), ("GIF", {}), ("WEBP", {"lossless": True})):
        assert remarks(encode(first, kind), "x") == ()
        several = encode(first, kind, save_all=True, append_images=[second], **options)
        assert len(remarks(several, "x")) == 1
        if kind != "GIF":
            np.testing.assert_array_equal(decode_image(several, "x"), rgb)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "an MP4 or QuickTime video"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"hello", "not an image that can be read"),
    ],
)
def test_other_formats_are_named(content, kind):
    with refused(what="a.jpg", value=kind):
        decode_image(content + bytes(40), "a.jpg")


@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation_as_pillow_applies_it(rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(rgb, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_image(data, "x", upright=True), np.asarray(expected))
    np.testing.assert_array_equal(decode_image(data, "x"), rgb)


def test_damaged_exif_does_not_matter(rgb, capfd):
    for kind in ("PNG", "WEBP"):
        data = encode(rgb, kind, exif=b"garbage", lossless=True)
        np.testing.assert_array_equal(decode_image(data, "x", upright=True), rgb)
    width = struct.pack(">HHI4s", 0x0100, 2, 4, b"abc\0")  # Text in place of a number.
    orientation = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + width + orientation + bytes(4)
    data = encode(rgb, "JPEG", exif=exif)
    turned = np.rot90(decode_image(data, "x"), -1)
    np.testing.assert_array_equal(decode_image(data, "x", upright=True), turned)
    assert capfd.readouterr().err == ""


def test_labels_keep_their_values(rng, palette):
    values = rng.integers(0, 256, (7, 11), dtype=np.uint8)
    for data in (encode(values), encode_label(values)):
        np.testing.assert_array_equal(decode_label(data, "x"), values)
    np.testing.assert_array_equal(decode_label(encode(palette[2]), "x"), palette[0])


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("colour_type", [0, 3], ids=["grey", "palette"])
def test_labels_of_few_bits_keep_their_values(bits, colour_type, rng):
    # Pillow scales grey of few bits to 0..255, which is right for images but wrong for labels.
    values = rng.integers(0, 2**bits, (5, 8), dtype=np.uint8)
    colours = range(3 * 2**bits) if colour_type == 3 else ()
    np.testing.assert_array_equal(decode_label(png(values, bits, colour_type, colours), "x"), values)


def test_images_that_are_not_labels_are_refused(rgb):
    cases = {
        "RGB": encode(rgb),
        "I;16": encode(Image.fromarray(rgb[..., 0].astype(np.uint16))),
        "JPEG": encode(rgb[..., 0], "JPEG"),
        "LA": encode(rgb[..., :2]),
    }
    for found, data in cases.items():
        with refused(what="a/b.png", value=found):
            decode_label(data, "a/b.png")
