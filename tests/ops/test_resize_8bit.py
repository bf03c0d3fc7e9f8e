"""Resizing of 8-bit images against OpenCV, bit for bit."""

import cv2
import numpy as np
import pytest

from danet_jax.ops.resize import Taps
from danet_jax.ops.resize_8bit import opencv_taps, resize_8bit


@pytest.mark.parametrize("case", range(12))
def test_it_equals_opencv(case, rng):
    height, width, new_height, new_width = (int(n) for n in rng.integers(1, 300, 4))
    images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    rows = opencv_taps(np.arange(new_height), height, new_height, of_columns=False)
    columns = opencv_taps(np.arange(new_width), width, new_width, of_columns=True)
    rows, columns = (Taps(*(x[:, None] for x in taps)) for taps in (rows, columns))
    resized = np.asarray(resize_8bit(images, rows, columns))
    for image, actual in zip(images, resized, strict=True):
        expected = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(actual, expected)
