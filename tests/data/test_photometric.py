"""Photometric distortion against the standard library's colours."""

import colorsys

import numpy as np
import pytest

from danet_jax.data.decode import encode_image, encode_label
from danet_jax.data.transforms import Augment, distort

NO = 0.9
YES = 0.1


class Drawn:
    """A generator that gives what it is told: whether, and how much."""

    def __init__(self, *, whether, amounts=()):
        self._whether, self._amounts = iter(whether), iter(amounts)

    def random(self):
        return next(self._whether)

    def uniform(self, low, high):
        amount = next(self._amounts)
        assert low <= amount <= high
        return amount

    integers = uniform


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (23, 31, 3), dtype=np.uint8)


def in_hsv(image, change):
    hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3) / 255]
    return 255 * np.array([colorsys.hsv_to_rgb(*change(*pixel)) for pixel in hsv]).reshape(image.shape)


# The draws: brightness, contrast before the colours, contrast, saturation, hue.
def test_light(image):
    darker = distort(image, Drawn(whether=[YES, NO, NO, NO, NO], amounts=[-20.5]))
    np.testing.assert_array_equal(darker, np.clip(image - 20.5, 0, 255).astype(np.uint8))
    for first in (YES, NO):
        harder = distort(image, Drawn(whether=[NO, first, YES, NO, NO], amounts=[1.25]))
        np.testing.assert_array_equal(harder, np.clip(image * 1.25, 0, 255).astype(np.uint8))


def test_colours(image, rng):
    # OpenCV keeps hues in 180 steps of two degrees: a channel can be off by 255 * 2 / 60 levels.
    paler, turn = rng.uniform(0.5, 0.99), int(rng.integers(-18, 18))
    got = distort(image, Drawn(whether=[NO, NO, NO, YES, NO], amounts=[paler]))
    assert np.abs(got - in_hsv(image, lambda h, s, v: (h, s * paler, v))).max() < 12
    got = distort(image, Drawn(whether=[NO, NO, NO, NO, YES], amounts=[turn]))
    assert np.abs(got - in_hsv(image, lambda h, s, v: ((h + turn / 180) % 1, s, v))).max() < 12


def test_contrast_stands_before_or_behind_the_colours():
    pixel = np.array([[[200, 100, 100]]], np.uint8)
    before = distort(pixel, Drawn(whether=[NO, YES, YES, YES, NO], amounts=[1.5, 0.5]))
    behind = distort(pixel, Drawn(whether=[NO, NO, YES, YES, NO], amounts=[1.5, 0.5]))
    assert before[0, 0].tolist() == pytest.approx([255, 202, 202], abs=2)  # 300 is cut to 255 before it pales
    assert behind[0, 0].tolist() == pytest.approx([255, 225, 225], abs=2)


def test_each_in_half_of_the_images(rng):
    pixel = np.array([[[120, 90, 60]]], np.uint8)
    same = np.mean([(distort(pixel, rng) == pixel).all() for _ in range(3000)])
    # 1/16 have nothing drawn; a small change of brightness, contrast or saturation can round to none.
    assert 0.03 < same < 0.13


def test_augmentation_leaves_labels_and_padding(rng):
    example = {
        "name": "a",
        "image": encode_image(rng.integers(1, 256, (20, 30, 3), dtype=np.uint8)),
        "label": encode_label(rng.integers(0, 9, (20, 30), dtype=np.uint8)),
    }
    plain, distorted = (
        Augment(base_size=20, crop_size=40, scale_range=None, photometric=photometric)
        for photometric in (False, True)
    )
    seeds = rng.integers(0, 2**31, 20)
    changed = 0
    for seed in seeds:
        first, other = (step(example, np.random.default_rng(seed)) for step in (plain, distorted))
        np.testing.assert_array_equal(first["label"], other["label"])
        assert not other["image"][20:].any()
        assert not other["image"][:, 30:].any()
        changed += (first["image"] != other["image"]).any()
    assert changed > 10
