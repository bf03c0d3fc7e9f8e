"""The drawn scenes: the same everywhere, every class in them, and one label that only a lamp decides."""

import numpy as np
import pytest

from danet_jax.data.dataset import open_dataset
from danet_jax.data.decode import decode_image, decode_label
from danet_jax.data.scenes import labels
from danet_jax.data.scenes.picture import draw_scene
from danet_jax.errors import InputError

ROADS = (labels.ROAD_GREEN, labels.ROAD_RED)


class FirstDrawReplaced:
    """A generator whose first random() is replaced: the colour of the lamp."""

    def __init__(self, seed, first):
        self._rng, self._first = np.random.default_rng(seed), first

    def __getattr__(self, name):
        return getattr(self._rng, name)

    def random(self, *arguments):
        drawn = self._rng.random(*arguments)
        if self._first is not None:
            drawn, self._first = self._first, None
        return drawn


def test_only_the_traffic_light_tells_which_road_it_is(rng):
    seen = 0
    for seed in rng.integers(0, 10**6, 4):
        green, red = (draw_scene(96, 128, FirstDrawReplaced(seed, first)) for first in (0.0, 0.99))
        roads = green[1] == labels.ROAD_GREEN
        seen += roads.sum()
        np.testing.assert_array_equal(roads, red[1] == labels.ROAD_RED)
        np.testing.assert_array_equal(green[1][~roads], red[1][~roads])
        # The lamp's glow may touch the far end of the road; the rest looks the same to the last bit.
        changed = (green[0] != red[0]).any(axis=2)
        assert changed.any()
        assert changed[roads].sum() <= 0.05 * roads.sum()
    assert seen > 1000


def test_the_lamp_can_be_read_from_the_picture(rng):
    right = 0
    for seed in rng.integers(0, 10**6, 20):
        image, label = draw_scene(96, 128, np.random.default_rng(seed))
        lamp = image[label == labels.TRAFFIC_LIGHT].astype(int)
        brightest = lamp[np.argsort(lamp.max(axis=1))[-12:]].mean(axis=0)
        right += (brightest[1] > brightest[0]) == (label == labels.ROAD_GREEN).any()
    assert right == 20


def test_every_class_occurs_and_nothing_else(rng):
    counts = np.zeros(256, int)
    for _ in range(20):
        image, label = draw_scene(96, 128, rng)
        assert image.shape == (96, 128, 3)
        assert label.shape == (96, 128)
        assert image.dtype == label.dtype == np.uint8
        assert image.std() > 15
        assert not set(ROADS) <= set(np.unique(label))
        counts += np.bincount(label.ravel(), minlength=256)
    assert (counts[: len(labels.CLASSES)] > 0.002 * counts.sum()).all()
    assert counts[len(labels.CLASSES) : 255].sum() == 0
    assert counts[255] < 0.1 * counts.sum()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 192), (77, 51)])
def test_any_size(height, width, rng):
    for _ in range(5):
        image, label = draw_scene(height, width, rng)
        assert image.shape == (height, width, 3)
        assert label.shape == (height, width)


def test_the_dataset_depends_on_its_options_alone(tmp_path):
    options = {"height": 40, "width": 48, "train": 3, "val": 2}
    first = open_dataset("scenes", data_dir=tmp_path / "a", options=options)
    again = open_dataset("scenes", data_dir=tmp_path / "b", options=options)
    other = open_dataset("scenes", data_dir=tmp_path / "a", options={**options, "seed": 1})
    assert dict(first.splits) == {"train": 3, "val": 2}
    assert first.classes == labels.CLASSES
    assert list(first.source("train")) == list(again.source("train"))
    images = [example["image"] for d in (first, other) for s in d.splits for example in d.source(s)]
    assert len(set(images)) == 10
    example = first.source("val")[0]
    assert decode_image(example["image"], "").shape == (40, 48, 3)
    assert decode_label(example["label"], "").shape == (40, 48)


def test_wrong_options(tmp_path):
    for options, message in (
        ({"size": 3}, r"dataset\.options\.size: scenes has no such option; its options are: height, width"),
        ({"height": 3}, r"dataset\.options\.height: must be at least 32, not 3"),
        ({"train": 0}, r"dataset\.options\.train: must be at least 1"),
        ({"seed": "a"}, r"dataset\.options\.seed: must be of type int"),
    ):
        with pytest.raises(InputError, match=message):
            open_dataset("scenes", data_dir=tmp_path, options=options)
    with pytest.raises(InputError, match=r"dataset\.class_names"):
        open_dataset("scenes", data_dir=tmp_path, class_names=["a"])
    assert list(tmp_path.iterdir()) == []
