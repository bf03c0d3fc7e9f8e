"""Tests the class tables against the publishers' own packages and lists."""

import numpy as np
import pytest

from danet_jax.data import labels
from tests.reference.refusal import refused


def test_cityscapes_table_is_the_publishers():
    published = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    for row, label in zip(labels.table("cityscapes"), published, strict=True):
        assert (row["name"], int(row["id"]), row["category"]) == (label.name, label.id, label.category)
        assert (int(row["red"]), int(row["green"]), int(row["blue"])) == label.color
        assert row["train_id"] == (str(label.trainId) if 0 <= label.trainId < 255 else "")


def test_cityscapes_maps_as_the_publishers_labels(rng):
    published = pytest.importorskip("cityscapesscripts.helpers.labels")
    ids = rng.integers(0, 34, (50, 60), dtype=np.uint8)
    expected = np.array([[published.id2label[int(value)].trainId % 256 for value in row] for row in ids])
    train_ids = labels.CITYSCAPES.to_train_ids(ids, "file")
    np.testing.assert_array_equal(train_ids, expected)
    assert train_ids.dtype == np.uint8
    some = rng.integers(0, 19, (40, 30), dtype=np.uint8)
    back = np.array([[published.trainId2label[int(value)].id for value in row] for row in some])
    np.testing.assert_array_equal(labels.CITYSCAPES.to_ids(some), back)


def test_ade20k_names_are_of_the_publishers_list(published_labels):
    rows = (published_labels / "ade20k_objectInfo150.csv").read_text().splitlines()[1:]
    for row, name in zip(rows, labels.ADE20K.classes.names, strict=True):
        synonyms = row.split(",")[-1].replace(" ", ";")
        assert f";{name.replace(' ', ';')};" in f";{synonyms};"


def test_coco_stuff_names_are_of_the_publishers_list(published_labels):
    lines = (published_labels / "cocostuff_labels.txt").read_text().splitlines()
    published = {int(number): name for number, name in (line.split(": ") for line in lines)}
    assert published.pop(0) == "unlabeled"
    assert {int(row["id"]): row["name"] for row in labels.table("coco_stuff")} == published
    mapping = labels.COCO_STUFF
    assert mapping.classes.names == tuple(published[label_id] for label_id in mapping.ids)
    assert len(set(mapping.classes.colours)) == 171


def test_pascal_context_and_voc_names_are_of_the_publishers_list(published_labels):
    lines = (published_labels / "pascal_context_59.txt").read_text().splitlines()
    published = tuple(line.split(": ")[1] for line in lines)
    assert labels.PASCAL_CONTEXT_60.classes.names == published
    assert labels.PASCAL_CONTEXT_59.classes.names == published[1:]
    assert labels.PASCAL_VOC.classes.names == published[:21]


def test_voc_colours():
    """The expected colours are some of those on the VOC web page."""
    classes = labels.PASCAL_VOC.classes
    colours = dict(zip(classes.names, classes.colours, strict=True))
    expected = {
        "background": (0, 0, 0),
        "bottle": (128, 0, 128),
        "cat": (64, 0, 0),
        "person": (192, 128, 128),
    }
    assert expected.items() <= colours.items()


@pytest.mark.parametrize(
    ("mapping", "unknown"),
    [
        (labels.CITYSCAPES, 34),
        (labels.PASCAL_VOC, 21),
        (labels.PASCAL_CONTEXT_59, 460),
        (labels.PASCAL_CONTEXT_60, 65535),
        (labels.COCO_STUFF, 12),
        (labels.COCO_STUFF, 183),
        (labels.COCO_STUFF_PNG, 11),
        (labels.ADE20K, 151),
        (labels.ADE20K, 255),
        (labels.ADE20K, -3),
    ],
)
def test_an_id_that_does_not_exist_is_refused_by_name(mapping, unknown):
    ids = np.full((4, 4), mapping.ids[-1], np.int32)
    mapping.to_train_ids(ids, "some.png")
    ids[2, 1] = unknown
    with refused(what="some.png", value=unknown):
        mapping.to_train_ids(ids, "some.png")


@pytest.mark.parametrize("mapping", [labels.CITYSCAPES, labels.PASCAL_VOC, labels.COCO_STUFF, labels.ADE20K])
def test_train_ids_survive_conversion_to_ids_and_back(mapping):
    train_ids = np.arange(len(mapping.ids), dtype=np.uint8)[None]
    np.testing.assert_array_equal(mapping.to_train_ids(mapping.to_ids(train_ids), "file"), train_ids)
    with pytest.raises(ValueError, match=str(len(mapping.ids))):
        mapping.to_ids(np.array([[len(mapping.ids)]], np.uint8))
