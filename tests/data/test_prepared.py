"""Prepared pictures, decoded in part, to the same pixels as when they are decoded whole."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from danet_jax.data.decode import decode_image, decode_label, encode_label, encode_uncompressed
from danet_jax.data.prepared import PreparedImage, first_label_rows
from danet_jax.data.transforms import Augment, draw_view
from danet_jax.errors import InputError
from tests.data.test_transforms import whole


def encoded(rng, pixels, kind):
    """`pixels` as a picture of a kind: what they become in it is up to `decode_image`."""
    if kind == "OpenCV's PNG":  # of several parts, with all filters
        return cv2.imencode(".png", pixels)[1].tobytes()
    if kind == "16 bits":
        return cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()
    form, mode, options = {
        "RGB": ("PNG", "RGB", {}),
        "RGBA": ("PNG", "RGBA", {}),
        "transparent colour": ("PNG", "RGB", {"transparency": tuple(pixels[0, 0].tolist())}),
        "palette": ("PNG", "P", {}),
        "grey": ("PNG", "L", {}),
        "level 0": ("PNG", "RGB", {"compress_level": 0}),
        "JPEG": ("JPEG", "RGB", {}),
        "CMYK": ("JPEG", "CMYK", {}),
        "grey JPEG": ("JPEG", "L", {}),
        "JPEG of full colours": ("JPEG", "RGB", {"subsampling": 0, "quality": 95}),
        "JPEG of half colours": ("JPEG", "RGB", {"subsampling": 1}),
        "progressive JPEG": ("JPEG", "RGB", {"progressive": True}),
        "JPEG with restarts": ("JPEG", "RGB", {"restart_marker_blocks": 3, "optimize": True}),
        "WebP": ("WEBP", "RGB", {"lossless": True}),
        "BMP": ("BMP", "RGB", {}),
        "grey BMP": ("BMP", "L", {}),
        "turned TIFF": ("TIFF", "RGB", {"tiffinfo": {0x0112: 6}}),
    }[kind]
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


KINDS = (
    "RGB", "RGBA", "transparent colour", "palette", "grey", "level 0", "OpenCV's PNG", "16 bits", "JPEG", "CMYK",
    "grey JPEG", "JPEG of full colours", "JPEG of half colours", "progressive JPEG", "JPEG with restarts",
    "WebP", "BMP", "grey BMP", "turned TIFF",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_whole(rng, kind):
    for _ in range(5):
        pixels = rng.integers(0, 256, (*rng.integers(1, 200, 2), 3), dtype=np.uint8)
        data = encoded(rng, pixels, kind)
        image, expected = PreparedImage(data, "x"), decode_image(data, "x")
        assert image.size == expected.shape[:2]
        for rows in (1, int(rng.integers(1, len(expected) + 1)), len(expected), 10**9):
            part = np.asarray(image.first_rows(rows))
            assert len(part) >= min(rows, len(expected))
            np.testing.assert_array_equal(part[:rows], expected[:rows])


def test_rows_of_labels_are_those_of_the_whole(rng):
    label = rng.integers(0, 256, (40, 30), dtype=np.uint8)
    palette = Image.fromarray(label)
    palette.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    file = io.BytesIO()
    palette.save(file, "PNG")
    for data in (
        encode_label(label),
        encode_uncompressed(label),
        file.getvalue(),
        encode_label(label % 2 == 0),
    ):
        for rows in (1, 17, 40, 99):
            part = first_label_rows(data, "x", rows)
            assert len(part) >= min(rows, 40)
            np.testing.assert_array_equal(part, decode_label(data, "x")[: len(part)])


@pytest.mark.parametrize("kind", ["RGB", "OpenCV's PNG", "palette", "JPEG", "BMP"])
def test_augmenting_decodes_what_it_needs(rng, kind):
    step = Augment(base_size=40, crop_size=32, scale_range=(0.75, 2.0))
    for _ in range(12):
        height, width = rng.integers(20, 150, 2)
        data = encoded(rng, rng.integers(0, 256, (height, width, 3), dtype=np.uint8), kind)
        label = encode_label(rng.integers(0, 20, (height, width), dtype=np.uint8))
        seed = int(rng.integers(2**31))
        seen = step({"name": "x", "image": data, "label": label}, np.random.default_rng(seed))
        view = draw_view(height, width, np.random.default_rng(seed), base_size=40, crop_size=32)
        image, expected = whole(decode_image(data, "x"), decode_label(label, "x"), view)
        np.testing.assert_array_equal(seen["image"], image)
        np.testing.assert_array_equal(seen["label"], expected)


def test_damage_is_named(rng):
    data = bytearray(encoded(rng, rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), "RGB"))
    with pytest.raises(InputError, match="city: damaged"):
        PreparedImage(bytes(data[: len(data) // 2]), "city").first_rows(40)
