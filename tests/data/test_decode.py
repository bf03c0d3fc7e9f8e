"""Decoding against NumPy, Pillow, OpenCV and hand-made PNG files."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from danet_jax.data.decode import decode_image, decode_label, encode_label, remarks
from danet_jax.data.transforms import decode_example
from tests.reference.refusal import refused


def save(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def over_white(colours, alpha):
    """Colours seen through `alpha`, 0 to 255, in front of white."""
    share = alpha[..., None] / 255
    return np.floor(colours * share + 255 * (1 - share) + 0.5).astype(np.uint8)


def raw_png(rows, width, bit_depth, colour_type, palette=b"", transparent=b"", height=None):
    """A PNG written by hand: what Pillow itself would not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height or len(rows), bit_depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    middle = (chunk(b"PLTE", palette) if palette else b"") + (
        chunk(b"tRNS", transparent) if transparent else b""
    )
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (7, 11, 3), dtype=np.uint8)


def test_rgb_png_and_jpeg(rgb):
    assert (decode_image(save(Image.fromarray(rgb)), "x") == rgb).all()
    jpeg = save(Image.fromarray(rgb), "JPEG", quality=90)
    by_opencv = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decode_image(jpeg, "x").astype(int) - by_opencv).max() <= 2


def test_grey_and_palette_become_rgb(rgb, rng):
    grey = Image.fromarray(rgb[..., 0])
    assert (decode_image(save(grey), "x") == rgb[..., :1]).all()
    assert (decode_image(save(grey, "JPEG", quality=100), "x").std(axis=2) == 0).all()

    indices, palette = (
        rng.integers(0, 5, (7, 11), dtype=np.uint8),
        rng.integers(0, 256, (5, 3), dtype=np.uint8),
    )
    with_palette = Image.fromarray(indices)
    with_palette.putpalette(palette.tobytes())
    assert (decode_image(save(with_palette), "x") == palette[indices]).all()


def test_transparent_pixels_are_composed_over_white(rgb, rng):
    """So that what is hidden under them does not matter, wherever the image is decoded."""
    alpha = rng.choice(np.array([0, 1, 7, 128, 254, 255], np.uint8), (7, 11))
    rgba = np.dstack([rgb, alpha])
    expected = over_white(rgb, alpha)
    for data in (save(Image.fromarray(rgba)), save(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)):
        np.testing.assert_array_equal(decode_image(data, "x"), expected)
        example = decode_example({"name": "x", "image": data, "label": None})
        np.testing.assert_array_equal(example["image"], expected)
    other = rgba.copy()
    other[alpha == 0, :3] = 9
    np.testing.assert_array_equal(decode_image(save(Image.fromarray(other)), "x"), expected)
    grey = save(Image.fromarray(rgba[..., [0, 3]]))
    np.testing.assert_array_equal(decode_image(grey, "x")[..., 1], expected[..., 0])
    deep = [row.astype(">u2").tobytes() for row in rgba.astype(np.uint16) * 257]
    np.testing.assert_array_equal(decode_image(raw_png(deep, 11, 16, 6), "x"), expected)

    indices = rng.integers(0, 5, (7, 11), dtype=np.uint8)
    palette = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    for transparency, shares in ((2, [255, 255, 0, 255, 255]), (bytes([0, 255, 7, 0]), [0, 255, 7, 0, 255])):
        data = save(picture, transparency=transparency)
        expected = over_white(palette[indices], np.array(shares, np.uint8)[indices])
        np.testing.assert_array_equal(decode_image(data, "x"), expected)


@pytest.mark.parametrize(("bits", "colour_type"), [(8, 0), (8, 2), (16, 0), (16, 2)])
def test_one_transparent_colour(rng, bits, colour_type):
    pixels = rng.integers(0, 2**bits, (7, 11, 3 if colour_type else 1))
    pixels[2:4, 3:9] = key = pixels[0, 0]
    rows = [row.astype(">u2" if bits == 16 else "u1").tobytes() for row in pixels]
    data = raw_png(rows, 11, bits, colour_type, transparent=key.astype(">u2").tobytes())
    expected = (pixels >> (bits - 8)).astype(np.uint8) | np.zeros(3, np.uint8)
    expected[(pixels == key).all(axis=2)] = 255
    np.testing.assert_array_equal(decode_image(data, "x"), expected)
    example = decode_example({"name": "x", "image": data, "label": None})
    np.testing.assert_array_equal(example["image"], expected)


@pytest.mark.parametrize("colour_type", [0, 2, 3, 4, 6])
def test_a_png_whose_data_end_early_is_refused(rng, colour_type):
    """With a proper end, as an encoder writes it that was stopped: Pillow leaves the other rows black."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    pixels = rng.integers(1, 200, (20, 15, channels), dtype=np.uint8)
    palette = bytes(600) if colour_type == 3 else b""
    for kept in (0, 1, 10, 19):
        rows = [row.tobytes() for row in pixels[:kept]]
        data = raw_png(rows, 15, 8, colour_type, palette, height=20)
        with refused(what="a.png"):
            decode_image(data, "a.png")
        if colour_type in (0, 3):
            with refused(what="a.png"):
                decode_label(data, "a.png")
    for rows in (pixels, np.zeros_like(pixels)):  # black rows at the end are no damage
        whole = raw_png([row.tobytes() for row in rows], 15, 8, colour_type, palette)
        assert decode_image(whole, "a.png").shape == (20, 15, 3)
        if colour_type in (0, 3):
            np.testing.assert_array_equal(decode_label(whole, "a.png"), rows[..., 0])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0}]
)
def test_a_jpeg_whose_scan_ends_early_is_refused(rng, options, mode):
    """With an end marker, as a transfer leaves it that was mended: decoders take the rest for grey."""
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (90, 130, 3), dtype=np.uint8), (0, 0), 2)
    for picture in (Image.fromarray(smooth).convert(mode), Image.new(mode, (130, 90), 128)):
        data = save(picture, "JPEG", **options)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        for padding in (b"", b"\xff\xff"):
            padded = data[:-2] + padding + data[-2:]
            np.testing.assert_array_equal(decode_image(padded, "a.jpg"), expected)
    data = save(Image.fromarray(smooth).convert(mode), "JPEG", **options)
    for kept in (0.6, 0.8, 0.9):
        with refused(what="a.jpg"):
            decode_image(data[: int(kept * len(data))] + b"\xff\xd9", "a.jpg")


def test_further_frames_are_reported(rgb, rng):
    first, second = Image.fromarray(rgb), Image.fromarray(rgb[::-1].copy())
    for kind in ("PNG", "GIF", "WEBP"):
        assert remarks(save(first, kind), "x") == ()
        several = save(
            first,
            kind,
            save_all=True,
            append_images=[second],
            **({"lossless": True} if kind == "WEBP" else {}),
        )
        assert len(remarks(several, "x")) == 1
        if kind != "GIF":
            np.testing.assert_array_equal(decode_image(several, "x"), rgb)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "video"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"hello", "not an image"),
    ],
)
def test_other_formats_are_named(content, kind):
    with refused(what="a.jpg") as error:
        decode_image(content + bytes(40), "a.jpg")
    assert kind in str(error.value)
    assert "JPEG, PNG, TIFF" in error.value.allowed


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"thumbnail": True}])
def test_a_jpeg_whose_rest_was_never_written_is_refused(rng, options):
    """A crash or a transfer that was broken off leaves zeros there, which every decoder takes for grey."""
    picture = Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8))
    if options.pop("thumbnail", False):  # with an end of its own
        options["exif"] = b"Exif\0\0" + save(picture.resize((16, 16)), "JPEG")
    data = save(picture, "JPEG", **options)
    for trailer in (b"", b"\0" * 9, rng.bytes(20_000)):  # phones put videos behind
        np.testing.assert_array_equal(decode_image(data + trailer, "x"), decode_image(data, "x"))
    for kept in (0.95, 0.9):
        written = int(kept * len(data))
        with refused(what="photo.jpg"):
            decode_image(data[:written] + bytes(len(data) - written), "photo.jpg")


def test_sixteen_bits_keep_the_upper_eight(rng):
    values = rng.integers(0, 2**16, (7, 11), dtype=np.uint16)
    grey = decode_image(save(Image.fromarray(values)), "x")
    assert (grey == (values >> 8)[..., None]).all()
    colours = rng.integers(0, 2**16, (7, 11, 3), dtype=np.uint16)
    rows = [row.astype(">u2").tobytes() for row in colours]
    assert (decode_image(raw_png(rows, 11, 16, 2), "x") == colours >> 8).all()


def test_exif_orientation_is_applied_if_asked_for(rgb):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    data = save(Image.fromarray(rgb), "JPEG", exif=exif)
    stored = decode_image(data, "x")
    assert stored.shape == (7, 11, 3)
    np.testing.assert_array_equal(decode_image(data, "x", upright=True), np.rot90(stored, -1))


def test_every_exif_orientation_as_pillow_turns_it(rgb):
    for orientation in range(1, 10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = save(Image.fromarray(rgb), exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(decode_image(data, "x", upright=True), np.asarray(expected))


def test_damaged_exif_does_not_matter(rgb, capfd):
    for kind in ("PNG", "WEBP"):
        data = save(Image.fromarray(rgb), kind, exif=b"garbage", lossless=True)
        np.testing.assert_array_equal(decode_image(data, "x", upright=True), rgb)
    width = struct.pack(">HHI4s", 0x0100, 2, 4, b"abc\0")  # as text, where a number belongs
    orientation = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    strange = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + width + orientation + bytes(4)
    data = save(Image.fromarray(rgb), "JPEG", exif=strange)
    np.testing.assert_array_equal(
        decode_image(data, "x", upright=True), np.rot90(decode_image(data, "x"), -1)
    )
    assert capfd.readouterr().err == ""


def test_more_pixels_than_pillow_takes(monkeypatch, rgb):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with refused(what="street.png"):
        decode_image(save(Image.fromarray(rgb)), "street.png")


def test_damaged_pictures_are_refused_by_name(rgb, rng):
    large = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG"):
        whole = save(Image.fromarray(large), kind)
        for part in (0.98, 0.5, 0.1):
            with refused(what="street.x"):
                decode_image(whole[: int(part * len(whole))], "street.x")
    flipped = bytearray(save(Image.fromarray(rgb)))
    flipped[50] ^= 0xFF
    for data in (bytes(flipped), b"", b"hello", b"\x89PNG\r\n\x1a\n"):
        with refused(what="street.png"):
            decode_image(data, "street.png")


def test_labels_keep_their_values(rng):
    values = rng.integers(0, 256, (7, 11), dtype=np.uint8)
    assert (decode_label(save(Image.fromarray(values)), "x") == values).all()
    assert (decode_label(encode_label(values), "x") == values).all()
    indices = rng.integers(0, 200, (7, 11), dtype=np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    assert (decode_label(save(picture), "x") == indices).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("colour_type", [0, 3], ids=["grey", "palette"])
def test_labels_of_few_bits_keep_their_values(bits, colour_type, rng):
    # Pillow stretches grey of few bits to 0..255: right for a picture, wrong for a label.
    width = 8
    values = rng.integers(0, 2**bits, (5, width), dtype=np.uint8)
    packed = np.packbits(np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(5, -1), axis=1)
    palette = bytes(range(3 * 2**bits)) if colour_type == 3 else b""
    data = raw_png([row.tobytes() for row in packed], width, bits, colour_type, palette)
    assert (decode_label(data, "x") == values).all()


def test_labels_that_are_no_labels(rgb):
    cases = {
        "RGB colour": save(Image.fromarray(rgb)),
        "16-bit": save(Image.fromarray(rgb[..., 0].astype(np.uint16))),
        "JPEG": save(Image.fromarray(rgb[..., 0]), "JPEG"),
        "LA colour": save(Image.fromarray(rgb[..., :2])),
    }
    for found, data in cases.items():
        with refused(what="a/b.png", value=found):
            decode_label(data, "a/b.png")
