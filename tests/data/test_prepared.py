"""Tests that partly decoded images have the same pixels as completely decoded ones."""

import cv2
import numpy as np
import pytest
from PIL import Image

from danet_jax.data.decode import (
    decode_image,
    decode_label,
    encode_label,
    encode_uncompressed,
    image_size,
)
from danet_jax.data.prepared import first_image_rows, first_label_rows
from danet_jax.data.transforms import Augment, draw_view
from tests.data.test_transforms import scaled_by_pillow
from tests.reference.images import encode
from tests.reference.refusal import refused

KINDS = {
    "RGB": ("PNG", "RGB", {}),
    "RGBA": ("PNG", "RGBA", {}),
    "transparent colour": ("PNG", "RGB", {"transparency": (1, 2, 3)}),
    "palette": ("PNG", "P", {}),
    "grey": ("PNG", "L", {}),
    "level 0": ("PNG", "RGB", {"compress_level": 0}),
    "JPEG": ("JPEG", "RGB", {}),
    "CMYK": ("JPEG", "CMYK", {}),
    "grey JPEG": ("JPEG", "L", {}),
    "JPEG without subsampling": ("JPEG", "RGB", {"subsampling": 0, "quality": 95}),
    "JPEG with half the colours": ("JPEG", "RGB", {"subsampling": 1}),
    "progressive JPEG": ("JPEG", "RGB", {"progressive": True}),
    "JPEG with restarts": ("JPEG", "RGB", {"restart_marker_blocks": 3, "optimize": True}),
    "WebP": ("WEBP", "RGB", {"lossless": True}),
    "BMP": ("BMP", "RGB", {}),
    "grey BMP": ("BMP", "L", {}),
    "turned TIFF": ("TIFF", "RGB", {"tiffinfo": {0x0112: 6}}),
}
OPENCV = {"OpenCV's PNG": 1, "16 bits": np.uint16(257)}  # OpenCV writes several chunks with all filters.


def encoded(pixels, kind):
    """Encodes an image in one of `KINDS` or `OPENCV`; `decode_image` gives the resulting pixels."""
    if kind in OPENCV:
        return cv2.imencode(".png", pixels * OPENCV[kind])[1].tobytes()
    form, mode, options = KINDS[kind]
    pixels[:2, :2] = 1, 2, 3
    return encode(Image.fromarray(pixels).convert(mode), form, **options)


@pytest.mark.parametrize("kind", [*KINDS, *OPENCV])
def test_first_rows_are_those_of_the_image(rng, kind):
    for _ in range(5):
        data = encoded(rng.integers(0, 256, (*rng.integers(1, 200, 2), 3), dtype=np.uint8), kind)
        expected = decode_image(data, "x")
        assert image_size(data, "x") == expected.shape[:2]
        for rows in (1, int(rng.integers(1, len(expected) + 1)), len(expected), 10**9):
            part = np.asarray(first_image_rows(data, "x", rows))
            assert len(part) >= min(rows, len(expected))
            np.testing.assert_array_equal(part[:rows], expected[:rows])


def test_first_rows_of_labels_are_those_of_the_label(rng):
    label = rng.integers(0, 256, (40, 30), dtype=np.uint8)
    palette = Image.fromarray(label)
    palette.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    bilevel = encode_label(label % 2 == 0)
    for data in (encode_label(label), encode_uncompressed(label), encode(palette), bilevel):
        for rows in (1, 17, 40, 99):
            part = first_label_rows(data, "x", rows)
            assert len(part) >= min(rows, 40)
            np.testing.assert_array_equal(part, decode_label(data, "x")[: len(part)])


@pytest.mark.parametrize("kind", ["RGB", "OpenCV's PNG", "palette", "JPEG", "BMP"])
def test_augmenting_decodes_the_rows_that_it_needs(rng, kind):
    augment = Augment(base_size=40, crop_size=32, scale_range=(0.75, 2.0))
    for seed in rng.integers(2**31, size=12):
        height, width = rng.integers(20, 150, 2)
        data = encoded(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), kind)
        label = encode_label(rng.integers(0, 20, (height, width), dtype=np.uint8))
        seen = augment({"name": "x", "image": data, "label": label}, np.random.default_rng(seed))
        view = draw_view(height, width, np.random.default_rng(seed), base_size=40, crop_size=32)
        image, expected = scaled_by_pillow(decode_image(data, "x"), decode_label(label, "x"), view)
        np.testing.assert_array_equal(seen["image"], image)
        np.testing.assert_array_equal(seen["label"], expected)


def test_damaged_images_are_refused(rng):
    data = encoded(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), "RGB")
    with refused(what="city"):
        first_image_rows(data[: len(data) // 2], "city", 40)
