"""Overlays of labels over images, and their legends."""

import numpy as np
import pytest
from PIL import Image

from danet_jax.classes import Classes
from danet_jax.inference.drawing import legend_of, overlay, save_labels

CLASSES = Classes(("left", "right"), ((200, 30, 30), (30, 30, 200)))


@pytest.fixture
def scene(rng):
    """An image with class 0 at the left, class 1 at the right and ignored rows at the top."""
    labels = np.repeat(np.arange(80)[None] // 40, 60, 0)
    labels[:20] = 255
    return rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), labels


def test_ignored_pixels_are_left_as_they_are(scene):
    image, labels = scene
    drawn = np.asarray(overlay(image, labels, CLASSES, 1.0, legend=False))
    assert drawn.shape == image.shape
    assert (drawn[:19] == image[:19]).all()
    assert (drawn[30, :39] == CLASSES.colours[0]).all()


def test_outlines_leave_the_inside_as_it_is(scene):
    image, labels = scene
    drawn = np.asarray(overlay(image, labels, CLASSES, legend=False, outlines=True))
    assert (drawn[30, 39] == CLASSES.colours[0]).all()
    assert (drawn[30, 40] == CLASSES.colours[1]).all()
    inside = np.ones(labels.shape, bool)
    inside[17:23] = inside[:, 36:44] = False
    assert (drawn[inside] == image[inside]).all()


def test_the_legend_explains_every_class_and_ignored_pixels(scene):
    image, labels = scene
    shown = np.asarray(overlay(image, labels, CLASSES))
    assert shown.shape[1] >= 480
    legend = shown[60 * 6 :].reshape(-1, 3)
    assert all((legend == colour).all(1).any() for colour in CLASSES.colours)
    widths = [np.asarray(legend_of(found, CLASSES, 480)).min((0, 2)) for found in ([0], [0, 255])]
    assert (widths[1] < 128).sum() > (widths[0] < 128).sum() + 20  # columns with text


@pytest.mark.parametrize("size", [(3000, 4), (4, 3000), (1, 1)])
def test_strips_are_not_enlarged_without_limit(size, rng):
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    shown = overlay(image, rng.integers(0, 2, size), CLASSES)
    assert 480 <= shown.width <= 3000
    assert shown.height <= 3100


def test_label_maps_are_palette_images(scene, tmp_path):
    _, labels = scene
    save_labels(labels, CLASSES, tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[30, 0], CLASSES.colours[0])
