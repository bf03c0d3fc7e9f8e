"""Decoding against numpy, cv2 and hand-made PNG files."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from danet_jax.data.decode import decode_image, decode_label, encode_label
from danet_jax.errors import InputError


def save(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def raw_png(rows, width, bit_depth, colour_type, palette=b""):
    """A PNG written by hand: what Pillow itself would not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bit_depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    middle = chunk(b"PLTE", palette) if palette else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (7, 11, 3), dtype=np.uint8)


def test_rgb_png_and_jpeg(rgb):
    assert (decode_image(save(Image.fromarray(rgb)), "x") == rgb).all()
    jpeg = save(Image.fromarray(rgb), "JPEG", quality=90)
    by_opencv = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decode_image(jpeg, "x").astype(int) - by_opencv).max() <= 2


def test_grey_palette_and_alpha_become_rgb(rgb, rng):
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

    alpha = rng.integers(0, 256, (7, 11, 1), dtype=np.uint8)
    assert (decode_image(save(Image.fromarray(np.concatenate([rgb, alpha], 2))), "x") == rgb).all()


def test_a_palette_with_transparency(rng):
    """As programs that make PNGs smaller write it; warnings are errors here."""
    indices = rng.integers(0, 5, (7, 11), dtype=np.uint8)
    palette = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    for transparency in (2, bytes([0, 255, 7, 0])):
        assert (decode_image(save(picture, transparency=transparency), "x") == palette[indices]).all()


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
        with pytest.raises(InputError, match=r"^photo\.jpg: damaged"):
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


def test_damaged_exif_does_not_matter(rgb):
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


def test_more_pixels_than_pillow_takes(monkeypatch, rgb):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(InputError, match=r"street\.png: too many pixels"):
        decode_image(save(Image.fromarray(rgb)), "street.png")


def test_damaged_pictures_are_refused_by_name(rgb, rng):
    large = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG"):
        whole = save(Image.fromarray(large), kind)
        for part in (0.98, 0.5, 0.1):
            with pytest.raises(InputError, match=r"street\.x: .*replace or remove it"):
                decode_image(whole[: int(part * len(whole))], "street.x")
    flipped = bytearray(save(Image.fromarray(rgb)))
    flipped[50] ^= 0xFF
    for data in (bytes(flipped), b"", b"hello", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(InputError) as error:
            decode_image(data, "street.png")
        assert "street.png" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="32-bit"):
        decode_image(save(Image.fromarray(np.zeros((3, 3), np.float32)), "TIFF"), "x.tif")


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
        "must be PNG": save(Image.fromarray(rgb[..., 0]), "JPEG"),
        "LA colour": save(Image.fromarray(rgb[..., :2])),
    }
    for reason, data in cases.items():
        with pytest.raises(InputError, match=rf"a/b\.png: .*{reason}"):
            decode_label(data, "a/b.png")
