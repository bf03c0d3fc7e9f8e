"""Tests that label files rewritten by other programs are read with their original values or refused."""

import numpy as np
import pytest

from danet_jax.classes import Classes
from danet_jax.data.builders.label_files import LabelFiles, PublishedLabels, class_colours
from danet_jax.data.labels import ADE20K, CITYSCAPES, PASCAL_VOC
from tests.reference import publishers
from tests.reference.images import encode, png
from tests.reference.refusal import refused

COLOURED = Classes(("ground", "road", "tree"), ((0, 0, 0), (128, 64, 0), (0, 200, 30)))


def shrunk(rng, colours):
    """Encodes an image, uint8 `[H, W, 3]`, as compressing programs do: its colours form a palette in random order."""
    found, where = np.unique(colours.reshape(-1, 3), axis=0, return_inverse=True)
    order = rng.permutation(len(found))
    bits = next(bits for bits in (1, 2, 4, 8) if len(found) <= 2**bits)
    return png(np.argsort(order)[where].reshape(colours.shape[:2]), bits, 3, found[order])


@pytest.mark.parametrize("mapping", [CITYSCAPES, ADE20K], ids=["cityscapes", "ade20k"])
def test_grey_that_became_a_palette_is_read_by_its_colours(rng, mapping):
    known = [*mapping.ids, *mapping.others]
    for count in (2, 3, 9, len(known)):
        ids = rng.choice(rng.choice(known, count, replace=False), (16, 16)).astype(np.uint8)
        data = shrunk(rng, np.repeat(ids[..., None], 3, axis=2))
        np.testing.assert_array_equal(PublishedLabels(mapping).read(data, "x").values, ids)


def test_grey_of_fewer_bits_of_a_publisher_is_read_by_its_colours(rng):
    for bits in (1, 2, 4):
        step = 255 // (2**bits - 1)
        samples = rng.integers(0, 2**bits, (8, 8))
        read = PublishedLabels(PASCAL_VOC).read(png(samples, bits, 0), "x")
        np.testing.assert_array_equal(read.values, samples * step)


def test_a_renumbered_palette_of_known_colours_is_read_by_colour(rng):
    palette = np.array([*PASCAL_VOC.classes.colours, (224, 224, 192)], np.uint8)
    for count in (2, 5, 22):
        rows = rng.choice(rng.choice(22, count, replace=False), (16, 16))
        read = PublishedLabels(PASCAL_VOC, in_colours=True).read(shrunk(rng, palette[rows]), "x")
        np.testing.assert_array_equal(read.values, np.where(rows == 21, 255, rows))


def test_a_publishers_own_palette_is_kept(rng):
    label = rng.choice(np.array([*range(21), 255], np.uint8), (10, 14))
    voc = png(label, 8, 3, [*publishers.voc_palette()])
    doubled = publishers.palette_png(label)  # A grey palette that contains every level twice.
    for data in (voc, doubled):
        files = PublishedLabels(PASCAL_VOC, in_colours=True)
        np.testing.assert_array_equal(files.read(data, "x").values, label)
        assert files.train_ids(data, "x") is data


def test_rgb_in_the_colours_of_the_classes(rng):
    rows = rng.integers(0, 3, (7, 9))
    pixels = np.array(COLOURED.colours, np.uint8)[rows]
    files = LabelFiles(range(3), class_colours(COLOURED))
    np.testing.assert_array_equal(files.read(encode(pixels), "x").values, rows)
    opaque = np.concatenate([pixels, np.full((7, 9, 1), 255, np.uint8)], axis=2)
    np.testing.assert_array_equal(files.read(encode(opaque), "x").values, rows)
    pixels[:2, :3] = (9, 8, 7)
    with refused(what="a/b.png", value={(9, 8, 7): 6}):
        files.read(encode(pixels), "a/b.png")
    rows[:2, :3] = 255
    files = LabelFiles(range(3), class_colours(COLOURED), ignore_others=True)
    np.testing.assert_array_equal(files.read(encode(pixels), "x").values, rows)
    opaque[0, 0, 3] = 100
    with refused(what="x"):
        files.read(encode(opaque), "x")
    with refused(what="deep.png"):  # SYNTHIA stores ids in the red channel.
        files.read(png(np.stack([rows, rows * 0, rows * 0], axis=2), 16, 2), "deep.png")


def test_palettes_without_known_colours_must_be_one_for_all(rng):
    foreign = rng.permutation(256)[:3, None] + np.zeros((1, 3), int)
    foreign[:, 1] = (9, 8, 7)  # No colour is grey.
    labels = [rng.permutation(np.arange(12) % 3).reshape(3, 4) for _ in range(3)]
    files = LabelFiles([0, 1, 2, 255])
    for label in labels:
        np.testing.assert_array_equal(files.read(png(label, 8, 3, foreign), "x").values, label)
    with refused(what="b.png"):
        files.read(png(labels[0], 8, 3, foreign[[1, 0, 2]]), "b.png")
    by_ids = LabelFiles([0, 1, 2, 255], read_by="ids")
    for palette in (foreign, foreign[::-1]):
        np.testing.assert_array_equal(by_ids.read(png(labels[0], 8, 3, palette), "x").values, labels[0])


def test_ambiguous_labels_are_refused_unless_an_option_decides(rng):
    label = rng.permutation(np.arange(64) % 2).reshape(8, 8)
    one_bit, two_greys = png(label, 1, 0), png(label, 8, 3, [(0, 0, 0), (255, 255, 255)])
    for data in (one_bit, two_greys):
        with refused(what="m.png"):
            LabelFiles([0, 1, 255]).read(data, "m.png")
        np.testing.assert_array_equal(LabelFiles([0, 1, 255], read_by="ids").read(data, "m").values, label)
        white = {(0, 0, 0): 0, (255, 255, 255): 1}
        np.testing.assert_array_equal(LabelFiles([0, 1, 255], white).read(data, "m").values, label)
    # If only one reading is valid, no option is needed.
    np.testing.assert_array_equal(LabelFiles([0, 255]).read(one_bit, "m").values, 255 * label)
    samples = rng.permutation(np.arange(64) % 5).reshape(8, 8)
    np.testing.assert_array_equal(LabelFiles(range(5)).read(png(samples, 4, 0), "m").values, samples)


def test_masks_of_0_and_255_by_their_colours(rng):
    label = rng.permutation(np.arange(64) % 2).reshape(8, 8)
    colours = {(0, 0, 0): 0, (255, 255, 255): 1}
    data = encode((255 * label).astype(np.uint8))
    assert set(np.unique(LabelFiles([0, 1, 255], colours).read(data, "m").values)) == {0, 255}
    by_colour = LabelFiles([0, 1, 255], colours, read_by="colours")
    np.testing.assert_array_equal(by_colour.read(data, "m").values, label)


def test_a_palette_that_moves_only_some_known_colours_is_refused():
    label = np.array([[0, 1], [2, 2]])
    palette = [COLOURED.colours[1], COLOURED.colours[0], (77, 1, 2)]
    with refused(what="p.png", value=COLOURED.colours[1]):
        LabelFiles(range(3), class_colours(COLOURED)).read(png(label, 8, 3, palette), "p.png")
