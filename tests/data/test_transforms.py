"""Tests the augmentation against Pillow on entire images, and its colours against the standard library."""

import colorsys
import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageOps

from danet_jax.classes import Classes
from danet_jax.data.decode import encode_image, encode_label
from danet_jax.data.transforms import Augment, View, apply_view, distort, draw_view, mirrored_labels
from tests.reference.refusal import refused


def scaled_by_pillow(image, label, view):
    """Scales, pads and crops the entire image as the paper describes, without any shortcut."""
    image, label = Image.fromarray(image), Image.fromarray(label)
    if view.flip:
        image, label = ImageOps.mirror(image), ImageOps.mirror(label)
    image = image.resize((view.width, image.height), Image.Resampling.BILINEAR)
    image = image.resize((view.width, view.height), Image.Resampling.BILINEAR)
    label = label.resize((view.width, view.height), Image.Resampling.NEAREST)
    right, below = max(0, view.size - view.width), max(0, view.size - view.height)
    image = ImageOps.expand(image, (0, 0, right, below), fill=0)
    label = ImageOps.expand(label, (0, 0, right, below), fill=255)
    box = (view.left, view.top, view.left + view.size, view.top + view.size)
    return np.asarray(image.crop(box)), np.asarray(label.crop(box))


def assert_equals_pillow(rng, height, width, view):
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    label = rng.integers(0, 256, (height, width), dtype=np.uint8)
    for seen, expected in zip(
        apply_view(image, label, view), scaled_by_pillow(image, label, view), strict=True
    ):
        np.testing.assert_array_equal(seen, expected, err_msg=str(view))


def example(rng, height, width):
    return {
        "name": "a",
        "image": encode_image(rng.integers(1, 256, (height, width, 3), dtype=np.uint8)),
        "label": encode_label(rng.integers(0, 9, (height, width), dtype=np.uint8)),
    }


def test_a_view_equals_the_crop_of_the_whole_image(rng):
    for _ in range(150):
        height, width = (int(n) for n in rng.integers(1, 90, 2))
        base, crop = int(rng.integers(4, 70)), int(rng.integers(1, 80))
        view = draw_view(height, width, rng, base_size=base, crop_size=crop)
        if view.height * view.width:
            assert_equals_pillow(rng, height, width, view)
    for _ in range(60):  # For sizes with common divisors, only a prefix is scaled.
        height, width = (int(n) for n in 8 * rng.integers(4, 30, 2))
        new_height = 2 ** int(rng.integers(1, 5)) * int(rng.integers(3, 12))
        new_width, size = int(1.0 * width * new_height / height), int(rng.integers(1, 40))
        top, left = (int(rng.integers(0, max(0, n - size) + 1)) for n in (new_height, new_width))
        view = View(bool(rng.integers(2)), new_height, new_width, top, left, size)
        assert_equals_pillow(rng, height, width, view)
    assert_equals_pillow(rng, 400, 300, View(True, 41, 31, 7, 3, 20))  # Large reductions antialias.


def test_scales_are_the_authors(rng):
    views = [draw_view(100, 200, rng, base_size=64, crop_size=48) for _ in range(3000)]
    shorts = np.array([view.height for view in views])
    assert (shorts.min(), shorts.max()) == (48, 128)
    counts = np.bincount(shorts - 48)  # A chi-squared test of uniformity has 80 degrees of freedom.
    assert ((counts - 3000 / 81) ** 2 / (3000 / 81)).sum() < 160
    assert 0.44 < np.mean([view.flip for view in views]) < 0.56
    for view in views:
        assert view.width == int(1.0 * 200 * view.height / 100)
        assert 0 <= view.top <= view.height - 48
        assert 0 <= view.left <= view.width - 48
    tall = draw_view(200, 99, rng, base_size=64, crop_size=48)
    assert tall.height == int(1.0 * 200 * tall.width / 99)
    fixed = draw_view(100, 200, rng, base_size=64, crop_size=48, scale_range=None)
    assert (fixed.height, fixed.width) == (64, 128)


def test_only_the_generator_decides(rng):
    stored = example(rng, 30, 40)
    augment = Augment(base_size=32, crop_size=24, scale_range=(0.75, 2.0))
    first, again, other = (augment(stored, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for key in ("image", "label"):
        np.testing.assert_array_equal(first[key], again[key])
    assert (first["image"] != other["image"]).any()


@pytest.mark.parametrize("flip", [False, True])
def test_image_and_label_stay_together(flip, rng):
    # A label that can be derived from the image must also be derivable from the result.
    label = np.kron(rng.integers(0, 2, (6, 8)), np.ones((8, 8), int)).astype(np.uint8)
    image = np.repeat(label[..., None] * 255, 3, axis=2)
    seen, seen_label = apply_view(image, label, View(flip, 96, 128, 17, 30, 64))
    assert ((seen[..., 0] > 127) == (seen_label == 1)).mean() > 0.98


def test_mirroring_swaps_classes_that_mean_a_side(rng):
    classes = Classes.named(["left lane", "sky", "right lane"])
    table = mirrored_labels(classes, ["left lane=right lane"])
    assert table[[0, 1, 2, 3, 255]].tolist() == [2, 1, 0, 3, 255]
    assert (mirrored_labels(classes, []) == np.arange(256)).all()
    for pairs in (["left lane=road"], ["sky=sky"], ["left lane=sky", "sky=right lane"]):
        with refused():
            mirrored_labels(classes, pairs)
    image = rng.integers(0, 256, (10, 14, 3), dtype=np.uint8)
    label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (10, 14))
    options = {"base_size": 10, "crop_size": 10, "scale_range": None}
    for seed in range(20):
        view = draw_view(10, 14, np.random.default_rng(seed), **options)
        never = draw_view(10, 14, np.random.default_rng(seed), **options, flip=False)
        assert never == dataclasses.replace(view, flip=False)  # All other random numbers are the same.
        _, seen = apply_view(image, label, view, table)
        expected = table[label][:, ::-1] if view.flip else label
        np.testing.assert_array_equal(seen, expected[:, view.left : view.left + 10])


NO, YES = 0.9, 0.1


class Drawn:
    """A generator that returns given numbers: whether each change is made, and the amounts."""

    def __init__(self, whether, *amounts):
        self._whether, self._amounts = iter(whether), iter(amounts)

    def random(self):
        return next(self._whether)

    def uniform(self, low, high):
        amount = next(self._amounts)
        assert low <= amount <= high
        return amount

    integers = uniform


# The random numbers decide on brightness, contrast before the colours, contrast, saturation and hue, in this order.
def test_distorted_light(rng):
    image = rng.integers(0, 256, (23, 31, 3), dtype=np.uint8)
    darker = distort(image, Drawn([YES, NO, NO, NO, NO], -20.5))
    np.testing.assert_array_equal(darker, np.clip(image - 20.5, 0, 255).astype(np.uint8))
    for first in (YES, NO):
        harder = distort(image, Drawn([NO, first, YES, NO, NO], 1.25))
        np.testing.assert_array_equal(harder, np.clip(image * 1.25, 0, 255).astype(np.uint8))
    pixel = np.array([[[200, 100, 100]]], np.uint8)
    before = distort(pixel, Drawn([NO, YES, YES, YES, NO], 1.5, 0.5))
    after = distort(pixel, Drawn([NO, NO, YES, YES, NO], 1.5, 0.5))
    # 300 is clipped to 255 before the saturation decreases.
    assert before[0, 0].tolist() == pytest.approx([255, 202, 202], abs=2)
    assert after[0, 0].tolist() == pytest.approx([255, 225, 225], abs=2)


def test_distorted_colours(rng):
    image = rng.integers(0, 256, (23, 31, 3), dtype=np.uint8)

    def in_hsv(change):
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3) / 255]
        return 255 * np.array([colorsys.hsv_to_rgb(*change(*pixel)) for pixel in hsv]).reshape(image.shape)

    # OpenCV stores hues in 180 steps of two degrees, so a channel can be off by 255 * 2 / 60 levels.
    paler, turn = rng.uniform(0.5, 0.99), int(rng.integers(-18, 18))
    got = distort(image, Drawn([NO, NO, NO, YES, NO], paler))
    assert np.abs(got - in_hsv(lambda h, s, v: (h, s * paler, v))).max() < 12
    got = distort(image, Drawn([NO, NO, NO, NO, YES], turn))
    assert np.abs(got - in_hsv(lambda h, s, v: ((h + turn / 180) % 1, s, v))).max() < 12


def test_each_distortion_is_made_in_half_of_the_images(rng):
    pixel = np.array([[[120, 90, 60]]], np.uint8)
    same = np.mean([(distort(pixel, rng) == pixel).all() for _ in range(3000)])
    # In 1/16 of the cases nothing changes, and a small change of brightness, contrast or saturation can round to none.
    assert 0.03 < same < 0.13


def test_distortion_leaves_labels_and_padding(rng):
    stored = example(rng, 20, 30)
    plain, distorted = (
        Augment(base_size=20, crop_size=40, scale_range=None, photometric=photometric)
        for photometric in (False, True)
    )
    changed = 0
    for seed in rng.integers(0, 2**31, 20):
        first, other = (augment(stored, np.random.default_rng(seed)) for augment in (plain, distorted))
        np.testing.assert_array_equal(first["label"], other["label"])
        assert not other["image"][20:].any()
        assert not other["image"][:, 30:].any()
        changed += (first["image"] != other["image"]).any()
    assert changed > 10
