"""Overlays of labels over images, and their legends."""

import numpy as np
import pytest
from PIL import Image

from danet_jax.classes import Classes
from danet_jax.inference.drawing import draw_legend, overlay, save_labels

CLASSES = Classes(("left", "right"), ((200, 30, 30), (30, 30, 200)))


@pytest.fixture
def scene(rng):
    """An image with class 0 at the left, class 1 at the right and ignored rows at the top."""
    labels = np.repeat(np.arange(80)[None] // 40, 60, 0)
    labels[:20] = 255
    return rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), labels


def test_colours_are_blended_except_in_ignored_pixels(scene):
    image, labels = scene
    drawn = np.asarray(overlay(image, labels, CLASSES, legend=False))
    assert drawn.shape == image.shape
    assert (drawn[:19] == image[:19]).all()
    expected = 0.4 * image[30, :39] + 0.6 * np.array(CLASSES.colours[0])
    np.testing.assert_allclose(drawn[30, :39], expected, atol=0.51)


def test_outlines(scene):
    image, labels = scene
    drawn = np.asarray(overlay(image, labels, CLASSES, legend=False, outlines=True))
    assert (drawn[30, 39] == CLASSES.colours[0]).all()
    assert (drawn[30, 40] == CLASSES.colours[1]).all()
    interior = np.ones(labels.shape, bool)
    interior[17:23] = interior[:, 36:44] = False
    assert (drawn[interior] == image[interior]).all()


def test_the_legend_contains_every_class_and_ignored_pixels(scene):
    image, labels = scene
    shown = np.asarray(overlay(image, labels, CLASSES))
    assert shown.shape[1] >= 480
    legend = shown[60 * 6 :].reshape(-1, 3)
    assert all((legend == colour).all(1).any() for colour in CLASSES.colours)
    widths = [np.asarray(draw_legend(found, CLASSES, 480)).min((0, 2)) for found in ([0], [0, 255])]
    assert (widths[1] < 128).sum() > (widths[0] < 128).sum() + 20  # columns with text


@pytest.mark.parametrize("size", [(3000, 4), (4, 3000), (1, 1)])
def test_narrow_images_are_enlarged_up_to_a_limit(size, rng):
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    shown = overlay(image, rng.integers(0, 2, size), CLASSES)
    assert 480 <= shown.width <= 3000
    assert shown.height <= 3100


def test_label_maps_are_saved_with_a_palette(scene, tmp_path):
    _, labels = scene
    save_labels(labels, CLASSES, tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[30, 0], CLASSES.colours[0])
