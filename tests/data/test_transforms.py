"""The augmentation against Pillow doing it whole, step by step."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageOps

from danet_jax.classes import Classes
from danet_jax.data.decode import encode_image, encode_label
from danet_jax.data.transforms import Augment, View, apply_view, draw_view, mirrored_labels
from tests.reference.refusal import refused


def whole(image, label, view):
    """Scale everything, pad everything, crop: as the paper says it, with nothing saved."""
    picture, labels = Image.fromarray(image), Image.fromarray(label)
    if view.flip:
        picture, labels = ImageOps.mirror(picture), ImageOps.mirror(labels)
    picture = picture.resize((view.width, picture.height), Image.Resampling.BILINEAR)
    picture = picture.resize((view.width, view.height), Image.Resampling.BILINEAR)
    labels = labels.resize((view.width, view.height), Image.Resampling.NEAREST)
    right, below = max(0, view.size - view.width), max(0, view.size - view.height)
    picture = ImageOps.expand(picture, (0, 0, right, below), fill=0)
    labels = ImageOps.expand(labels, (0, 0, right, below), fill=255)
    box = (view.left, view.top, view.left + view.size, view.top + view.size)
    return np.asarray(picture.crop(box)), np.asarray(labels.crop(box))


def test_a_view_equals_the_whole_way_bit_for_bit(rng):
    for _ in range(150):
        height, width = rng.integers(1, 90, 2)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        label = rng.integers(0, 256, (height, width), dtype=np.uint8)
        view = draw_view(
            height, width, rng, base_size=int(rng.integers(4, 70)), crop_size=int(rng.integers(1, 80))
        )
        if not view.height * view.width:
            continue
        seen, expected = apply_view(image, label, view), whole(image, label, view)
        assert (seen[0] == expected[0]).all(), view
        assert (seen[1] == expected[1]).all(), view


def test_views_of_sizes_with_common_divisors(rng):
    """Of which only a beginning is scaled."""
    for _ in range(60):
        height, width = (int(n) for n in 8 * rng.integers(4, 30, 2))
        short = 2 ** int(rng.integers(1, 5)) * int(rng.integers(3, 12))
        new_height, new_width = short, int(1.0 * width * short / height)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        label = rng.integers(0, 256, (height, width), dtype=np.uint8)
        size = int(rng.integers(1, 40))
        top, left = (int(rng.integers(0, max(0, n - size) + 1)) for n in (new_height, new_width))
        view = View(bool(rng.integers(2)), new_height, new_width, top, left, size)
        for seen, expected in zip(apply_view(image, label, view), whole(image, label, view), strict=True):
            np.testing.assert_array_equal(seen, expected, err_msg=str(view))


def test_large_reductions_antialias_as_pillow_does(rng):
    image = rng.integers(0, 256, (400, 300, 3), dtype=np.uint8)
    label = rng.integers(0, 9, (400, 300), dtype=np.uint8)
    view = View(True, 41, 31, 7, 3, 20)
    for seen, expected in zip(apply_view(image, label, view), whole(image, label, view), strict=True):
        assert (seen == expected).all()


def test_one_call_of_pillow_differs_by_one_level_at_most(rng):
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for height, width in ((45, 60), (110, 147), (30, 200)):
        seen, _ = apply_view(image, image[..., 0], View(False, height, width, 0, 0, 200))
        one = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        assert np.abs(seen[:height, :width].astype(int) - one).max() <= 1


def test_scales_are_the_authors(rng):
    views = [draw_view(100, 200, rng, base_size=64, crop_size=48) for _ in range(3000)]
    shorts = np.array([view.height for view in views])
    assert shorts.min() == 48
    assert shorts.max() == 128
    assert all(view.width == int(1.0 * 200 * view.height / 100) for view in views)
    counts = np.bincount(shorts - 48)  # uniform over 81 whole numbers: chi-squared, 80 degrees of freedom
    assert ((counts - 3000 / 81) ** 2 / (3000 / 81)).sum() < 160
    assert 0.44 < np.mean([view.flip for view in views]) < 0.56
    assert all(0 <= view.top <= view.height - 48 for view in views)
    assert all(0 <= view.left <= view.width - 48 for view in views)
    tall = draw_view(200, 99, rng, base_size=64, crop_size=48)
    assert tall.height == int(1.0 * 200 * tall.width / 99)
    fixed = draw_view(100, 200, rng, base_size=64, crop_size=48, scale_range=None)
    assert (fixed.height, fixed.width) == (64, 128)


def test_padding_is_at_the_right_and_bottom():
    image, label = np.full((4, 6, 3), 9, np.uint8), np.full((4, 6), 3, np.uint8)
    seen, seen_label = apply_view(image, label, View(False, 4, 6, 0, 0, 8))
    assert (seen[:4, :6] == 9).all()
    assert seen[4:].max() == seen[:, 6:].max() == 0
    assert (seen_label[4:] == 255).all()
    assert (seen_label[:, 6:] == 255).all()


def test_only_the_generator_decides(rng):
    example = {
        "name": "a",
        "image": encode_image(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)),
        "label": encode_label(rng.integers(0, 9, (30, 40), dtype=np.uint8)),
    }
    step = Augment(base_size=32, crop_size=24, scale_range=(0.75, 2.0))
    first, again, other = (step(example, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first["image"] == again["image"]).all()
    assert (first["label"] == again["label"]).all()
    assert (first["image"] != other["image"]).any()
    assert set(first) == {"image", "label"}


@pytest.mark.parametrize("flip", [False, True])
def test_image_and_label_stay_together(flip, rng):
    # A label that can be read off the image must be readable off what comes out.
    label = np.kron(rng.integers(0, 2, (6, 8)), np.ones((8, 8), int)).astype(np.uint8)
    image = np.repeat(label[..., None] * 255, 3, axis=2)
    seen, seen_label = apply_view(image, label, View(flip, 96, 128, 17, 30, 64))
    assert ((seen[..., 0] > 127) == (seen_label == 1)).mean() > 0.98


def test_flips_of_classes_that_mean_a_side(rng):
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
        assert never == dataclasses.replace(view, flip=False)  # all else is drawn alike
        _, seen = apply_view(image, label, view, table)
        expected = table[label][:, ::-1] if view.flip else label
        np.testing.assert_array_equal(seen, expected[:, view.left : view.left + 10])
