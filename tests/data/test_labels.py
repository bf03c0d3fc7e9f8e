"""Class tables against the publishers' own packages and lists."""

import numpy as np
import pytest

from danet_jax.classes import Classes
from danet_jax.data.labels import ade20k, cityscapes, coco_stuff, pascal_context, pascal_voc
from danet_jax.data.labels.mapping import LabelMapping
from danet_jax.errors import InputError


def test_cityscapes_table_is_the_publishers():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    assert len(cityscapes.LABELS) == len(labels) == 35
    for ours, theirs in zip(cityscapes.LABELS, labels, strict=True):
        train_id = theirs.trainId if theirs.trainId >= 0 else 255
        assert ours == (theirs.name, theirs.id, train_id, theirs.category, theirs.color)


def test_cityscapes_maps_as_the_publishers_labels(rng):
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    ids = rng.integers(0, 34, (50, 60), dtype=np.uint8)
    expected = np.array([[labels.id2label[int(value)].trainId % 256 for value in row] for row in ids])
    train_ids = cityscapes.MAPPING.to_train_ids(ids, "file")
    np.testing.assert_array_equal(train_ids, expected)
    assert train_ids.dtype == np.uint8
    some = rng.integers(0, 19, (40, 30), dtype=np.uint8)
    back = np.array([[labels.trainId2label[int(value)].id for value in row] for row in some])
    np.testing.assert_array_equal(cityscapes.MAPPING.to_ids(some), back)


def test_ade20k_names_are_of_the_publishers_list(published_labels):
    rows = (published_labels / "ade20k_objectInfo150.csv").read_text().splitlines()[1:]
    assert len(rows) == len(ade20k.CLASSES) == 150
    for row, name in zip(rows, ade20k.CLASSES.names, strict=True):
        synonyms = row.split(",")[-1].replace(" ", ";")
        assert f";{name.replace(' ', ';')};" in f";{synonyms};"


def test_coco_stuff_names_are_of_the_publishers_list(published_labels):
    lines = (published_labels / "cocostuff_labels.txt").read_text().splitlines()
    published = dict(line.split(": ") for line in lines)
    assert published.pop("0") == "unlabeled"
    assert tuple(published.values()) == coco_stuff.NAMES
    for train_id, label_id in enumerate(coco_stuff.MAPPING.ids):
        assert coco_stuff.MAPPING.classes.names[train_id] == published[str(label_id)]
    assert len(set(coco_stuff.MAPPING.classes.colours)) == 171


def test_pascal_context_names_are_of_the_publishers_list(published_labels):
    lines = (published_labels / "pascal_context_59.txt").read_text().splitlines()
    published = [line.split(": ")[1] for line in lines]
    assert pascal_context.MAPPING_60.classes.names == tuple(published)
    assert pascal_context.MAPPING_59.classes.names == tuple(published[1:])


def test_pascal_voc_names_begin_the_list_of_pascal_context(published_labels):
    lines = (published_labels / "pascal_context_59.txt").read_text().splitlines()
    assert tuple(line.split(": ")[1] for line in lines[:21]) == pascal_voc.NAMES


def test_voc_colours():
    """Some of the colours that the VOC web page prints."""
    colours = dict(zip(pascal_voc.NAMES, pascal_voc.MAPPING.classes.colours, strict=True))
    assert colours["background"] == (0, 0, 0)
    assert colours["aeroplane"] == (128, 0, 0)
    assert colours["bottle"] == (128, 0, 128)
    assert colours["cat"] == (64, 0, 0)
    assert colours["person"] == (192, 128, 128)
    assert colours["tvmonitor"] == (0, 64, 128)


@pytest.mark.parametrize(
    ("mapping", "strange"),
    [
        (cityscapes.MAPPING, 34),
        (pascal_voc.MAPPING, 21),
        (pascal_context.MAPPING_59, 460),
        (pascal_context.MAPPING_60, 65535),
        (coco_stuff.MAPPING, 12),
        (coco_stuff.MAPPING, 183),
        (ade20k.MAPPING, 151),
        (ade20k.MAPPING, 255),
    ],
)
def test_an_id_that_does_not_exist_is_refused_by_name(mapping, strange):
    ids = np.full((4, 4), mapping.ids[-1], np.uint16)
    mapping.to_train_ids(ids, "some.png")
    ids[2, 1] = strange
    with pytest.raises(InputError, match=rf"^some\.png: label id {strange} does not exist"):
        mapping.to_train_ids(ids, "some.png")


def test_negative_ids_are_refused():
    with pytest.raises(InputError, match="label id -3"):
        ade20k.MAPPING.to_train_ids(np.array([[1, -3]]), "some.mat")


@pytest.mark.parametrize(
    "mapping",
    [cityscapes.MAPPING, pascal_voc.MAPPING, coco_stuff.MAPPING, ade20k.MAPPING],
)
def test_classes_survive_the_way_there_and_back(mapping):
    train_ids = np.arange(len(mapping.ids), dtype=np.uint8)[None]
    np.testing.assert_array_equal(mapping.to_train_ids(mapping.to_ids(train_ids), "file"), train_ids)
    with pytest.raises(ValueError, match="is not one of"):
        mapping.to_ids(np.array([[len(mapping.ids)]], np.uint8))


def test_a_table_with_an_id_twice_is_refused():
    with pytest.raises(ValueError, match="two things"):
        LabelMapping(Classes.named(["a", "b"]), (1, 2), frozenset({2}))
    with pytest.raises(ValueError, match="3 ids for 2 classes"):
        LabelMapping(Classes.named(["a", "b"]), (1, 2, 3), frozenset())
