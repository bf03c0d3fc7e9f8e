"""Tests that TIFFs like those of cameras, scanners and GIS programs are decoded exactly or refused."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from danet_jax.data.decode import (
    decode_image,
    decode_label,
    encode_label,
    is_deep,
    orientation,
    remarks,
)
from tests.data.test_decode import over_white
from tests.reference.images import encode
from tests.reference.refusal import refused

SIZE = (19, 26)


def tiff(*pages, bigtiff=False, byteorder="<", **options):
    """Returns a TIFF whose pages are the given arrays, or (array, options) for options of a single page."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for page in pages:
            pixels, own = page if isinstance(page, tuple) else (page, {})
            writer.write(pixels, **{"metadata": None, **options, **own})
    return file.getvalue()


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def deep(rng):
    return rng.integers(0, 2**16, (*SIZE, 3), dtype=np.uint16)


FORMS = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "strips": {"rowsperstrip": 4},
    "tiles": {"tile": (16, 16)},
    "deflate": {"compression": "deflate", "predictor": True},
    "LZW": {"compression": "lzw", "rowsperstrip": 5},
    "PackBits": {"compression": "packbits"},
    "Zstandard": {"compression": "zstd"},
    "LZMA": {"compression": "lzma", "tile": (16, 32)},
}


GEO = {"extratags": [(33550, "d", 3, (0.5, 0.5, 0.0)), (33922, "d", 6, (0.0, 0.0, 0.0, 4e5, 5e6, 0.0))]}
"""A scale and a tie point. GDAL writes GeoTIFF of three 16-bit bands without the photometric interpretation RGB."""


@pytest.mark.parametrize("form", [*FORMS, "GeoTIFF"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_rgb_of_8_and_16_bits(rgb, deep, form, planes):
    options = {"photometric": "minisblack" if form == "GeoTIFF" else "rgb", **FORMS.get(form, GEO)}
    for pixels, expected in ((rgb, rgb), (deep, deep >> 8)):
        stored = np.moveaxis(pixels, -1, 0) if planes == "separate" else pixels
        data = tiff(stored, planarconfig=planes, **options)
        np.testing.assert_array_equal(decode_image(data, "x.tif"), expected)
        assert is_deep(data, "x.tif") == (pixels is deep)
        assert remarks(data, "x.tif") == ()


def test_grey_and_white_is_zero(rgb, deep):
    for kind in ("minisblack", "miniswhite"):
        for pixels, largest in ((rgb[..., 0], 255), (deep[..., 0], 65535)):
            grey = pixels if kind == "minisblack" else largest - pixels
            expected = grey if largest == 255 else grey >> 8
            decoded = decode_image(tiff(pixels, photometric=kind), "x.tif")
            np.testing.assert_array_equal(decoded, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_other_numbers_of_bits(rng, bits):
    pixels = rng.integers(0, 2**bits, (8, 16), dtype=np.uint16)
    packed = np.packbits(
        (pixels[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(8, -1), axis=1
    )
    data = handmade(packed.tobytes(), 16, 8, bits)
    expected = pixels * (255 // (2**bits - 1)) if bits < 8 else pixels >> (bits - 8)
    np.testing.assert_array_equal(decode_image(data, "x.tif")[..., 0], expected)


def handmade(content, width, height, bits):
    """Returns an uncompressed grey TIFF with one strip."""
    entries = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 122),
        (277, 1),
        (278, height),
    ]
    directory = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
        for tag, value in [*entries, (279, len(content))]
    )
    return b"II*\0" + struct.pack("<IH", 8, 9) + directory + bytes(4) + content


def test_palettes(rng):
    colours = rng.integers(0, 256, (3, 256), dtype=np.uint16)
    pixels = rng.integers(0, 256, SIZE, dtype=np.uint8)
    expected = np.moveaxis(colours[:, pixels], 0, -1)
    # Some programs write 8 bits instead of 16, which libtiff also handles.
    for stored in (colours * 257, colours):
        data = tiff(pixels, photometric="palette", colormap=stored)
        np.testing.assert_array_equal(decode_image(data, "x.tif"), expected)


def test_jpeg_and_cmyk_as_pillow_writes_them(rgb):
    smooth = cv2.GaussianBlur(rgb, (0, 0), 3)
    for mode in ("RGB", "L", "CMYK"):
        image = Image.fromarray(smooth).convert(mode)
        data = encode(image, "TIFF", **({} if mode == "CMYK" else {"compression": "jpeg", "quality": 95}))
        difference = decode_image(data, "x.tif").astype(int) - np.asarray(image.convert("RGB"))
        assert np.abs(difference).max() <= (0 if mode == "CMYK" else 12)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_is_composed_over_white(rng, rgb, kind):
    alpha = rng.choice(np.array([0, 1, 100, 255], np.uint8), SIZE)
    expected = over_white(rgb, alpha)
    stored = rgb
    if kind == "assocalpha":
        stored = np.round(rgb * (alpha[..., None] / 255)).astype(np.uint8)
    for bits in (8, 16):
        pixels = np.concatenate([stored, alpha[..., None]], axis=2)
        pixels = pixels if bits == 8 else pixels.astype(np.uint16) * 257
        decoded = decode_image(tiff(pixels, photometric="rgb", extrasamples=[kind]), "x.tif")
        assert np.abs(decoded.astype(int) - expected).max() <= 1
    grey = np.stack([rgb[..., 0], alpha], axis=2)
    if kind == "unassalpha":
        data = tiff(grey, photometric="minisblack", planarconfig="contig", extrasamples=[kind])
        np.testing.assert_array_equal(decode_image(data, "x.tif")[..., 0], over_white(rgb, alpha)[..., 0])


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_follows_the_rule_of_jpeg_and_png(own, rgb, value):
    own.standard()
    data = tiff(rgb[:8, :12], photometric="rgb", extratags=[(274, "H", 1, value)])
    own.write("images/train/a.tif", data)
    (own.root / "images/train/a.png").unlink()
    assert orientation(data) == value
    np.testing.assert_array_equal(decode_image(data, "x"), rgb[:8, :12])

    def shown(pixels):
        """Returns the pixels as displayed from a PNG of this orientation."""
        exif = Image.Exif()
        exif[274] = value
        return decode_image(encode(pixels, exif=exif), "x", upright=True)

    own.images["a"] = shown(rgb[:8, :12])
    np.testing.assert_array_equal(decode_image(data, "x", upright=True), own.images["a"])
    own.labels["a"] = shown(own.labels["a"])[..., 0]
    dataset = own.check()
    assert len(dataset.warnings()) == (value > 1)


def test_pages_thumbnails_and_reduced_copies(rng, rgb):
    small, other = rgb[::2, ::2], rng.integers(0, 256, SIZE, dtype=np.uint8)
    flagged = (small, {"subfiletype": 1})
    mask = (rng.integers(0, 2, SIZE, dtype=np.uint8).astype(bool), {"subfiletype": 4, "photometric": "mask"})
    half = cv2.resize(rgb, (SIZE[1] // 2, SIZE[0] // 2))
    for pages, several in (
        ([rgb], False),
        ([rgb, flagged], False),
        ([flagged, rgb], False),  # The thumbnail comes first.
        ([half, rgb], False),  # The thumbnail has no flag.
        ([rgb, half], False),  # The pages form a pyramid.
        ([rgb, mask], False),
        ([rgb, (other, {"photometric": "minisblack"})], True),
        ([rgb, other[:5, :9].repeat(3).reshape(5, 9, 3)], True),
    ):
        data = tiff(*pages, photometric="rgb")
        np.testing.assert_array_equal(decode_image(data, "x.tif"), rgb)
        assert len(remarks(data, "x.tif")) == several
    stack = tiff(np.stack([other, other[::-1], other]), photometric="minisblack")
    np.testing.assert_array_equal(decode_image(stack, "x.tif")[..., 1], other)
    assert len(remarks(stack, "x.tif")) == 1
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack([other, other[::-1]]), imagej=True)
    np.testing.assert_array_equal(decode_image(file.getvalue(), "x.tif")[..., 1], other)
    assert len(remarks(file.getvalue(), "x.tif")) == 1


def test_a_fourth_band_of_unknown_meaning_is_reported(rgb, rng):
    pixels = np.concatenate([rgb, rng.integers(0, 256, (*SIZE, 1), dtype=np.uint8)], axis=2)
    data = tiff(pixels, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(decode_image(data, "x.tif"), rgb)
    assert len(remarks(data, "x.tif")) == 1


REFUSED = {
    "float": lambda rng: tiff(rng.random(SIZE, dtype=np.float32), photometric="minisblack"),
    "float RGB": lambda rng: tiff(rng.random((*SIZE, 3), dtype=np.float32), photometric="rgb"),
    "half": lambda rng: tiff(rng.random(SIZE).astype(np.float16), photometric="minisblack"),
    "signed": lambda rng: tiff(rng.integers(0, 99, SIZE, dtype=np.int16), photometric="minisblack"),
    "32 bits": lambda rng: tiff(rng.integers(0, 99, SIZE, dtype=np.uint32), photometric="minisblack"),
    "complex": lambda rng: tiff(rng.random(SIZE).astype(np.complex64), photometric="minisblack"),
    "8 bands": lambda rng: tiff(
        rng.integers(0, 256, (*SIZE, 8), dtype=np.uint8), photometric="rgb", extrasamples=["unspecified"] * 5
    ),
    "5 bands in planes": lambda rng: tiff(
        rng.integers(0, 256, (5, *SIZE), dtype=np.uint8), photometric="minisblack", planarconfig="separate"
    ),
    "4 bands, no RGB": lambda rng: tiff(
        rng.integers(0, 256, (*SIZE, 4), dtype=np.uint16), photometric="minisblack", planarconfig="contig"
    ),
    "2 bands": lambda rng: tiff(
        rng.integers(0, 256, (*SIZE, 2), dtype=np.uint8), photometric="minisblack", planarconfig="contig"
    ),
    "CIELAB": lambda rng: tiff(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), photometric="cielab"),
    "raw": lambda rng: tiff(rng.integers(0, 4096, SIZE, dtype=np.uint16), photometric="cfa"),
    "a volume": lambda rng: tiff(
        rng.integers(0, 256, (16, 16, 16), dtype=np.uint8), photometric="minisblack", volumetric=True, tile=(16, 16, 16)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_tiffs_that_are_neither_grey_nor_rgb_are_refused(rng, case):
    with refused(what="a/b.tif") as error:
        decode_image(REFUSED[case](rng), "a/b.tif")
    assert error.value.value is not None  # The kind of the image.


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_are_refused(rng, form):
    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = tiff(pixels, photometric="rgb", **FORMS[form])
    cut = data[: len(data) // 2]
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        counts = file.pages[0].tags[325 if "tile" in FORMS[form] else 279]
    code = (">" if form == "big-endian" else "<") + {3: "H", 4: "I", 16: "Q"}[int(counts.dtype)]
    shorter = bytearray(data)
    struct.pack_into(code, shorter, counts.valueoffset, counts.value[0] // 2)
    for broken in (cut, data[:20], bytes(shorter)):
        with refused(what="a.tif"):
            decode_image(broken, "a.tif")


def test_a_size_that_no_file_has_is_refused():
    with refused(what="a.tif"):
        decode_image(handmade(bytes(64), 60_000, 60_000, 8), "a.tif")


def test_labels_are_never_tiff(rng):
    label = rng.integers(0, 5, SIZE, dtype=np.uint8)
    with refused(what="a.png", value="TIFF"):
        decode_label(tiff(label, photometric="minisblack"), "a.png")
    np.testing.assert_array_equal(decode_label(encode_label(label), "a.png"), label)
