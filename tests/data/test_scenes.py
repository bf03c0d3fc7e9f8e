"""Tests synthetic scenes: every class occurs, and one label depends only on a distant lamp."""

import cv2
import numpy as np
import pytest

from danet_jax.data import scenes
from danet_jax.data.dataset import open_dataset
from danet_jax.data.decode import decode_image, decode_label
from danet_jax.data.scenes.drawing import draw_scene
from tests.reference.refusal import refused

ROADS = (scenes.ROAD_GREEN, scenes.ROAD_RED)


class FirstDrawsReplaced:
    """A generator whose first results of `random()`, which choose the colours of the lamps, are replaced."""

    def __init__(self, seed, *first):
        self._rng, self._first = np.random.default_rng(seed), list(first)

    def __getattr__(self, name):
        return getattr(self._rng, name)

    def random(self, *arguments):
        drawn = self._rng.random(*arguments)
        return self._first.pop(0) if self._first else drawn


GREEN, RED = 0.0, 0.99


def test_only_the_traffic_light_tells_which_road_it_is(rng):
    seen = changed_by_it = 0
    for seed in rng.integers(0, 10**6, 4):
        green, red = (
            draw_scene(144, 144, FirstDrawsReplaced(seed, first), signals=1) for first in (GREEN, RED)
        )
        roads = green[1] == scenes.ROAD_GREEN
        seen += roads.sum()
        np.testing.assert_array_equal(roads, red[1] == scenes.ROAD_RED)
        np.testing.assert_array_equal(green[1][~roads], red[1][~roads])
        # The glow of the lamp may reach the far end of the road; the rest is identical to the last bit.
        changed = (green[0] != red[0]).any(axis=2)
        assert changed.any()
        changed_by_it += (changed & roads).sum()
    assert seen > 1000
    assert changed_by_it <= 0.05 * seen


def test_each_lane_obeys_the_light_of_its_colour_and_the_third_none(rng):
    for seed in rng.integers(0, 10**6, 4):
        lamps = ((GREEN, GREEN, RED), (RED, GREEN, RED), (GREEN, RED, RED), (GREEN, GREEN, GREEN))
        base, left, right, third = (
            draw_scene(144, 144, FirstDrawsReplaced(seed, *first), signals=3)[1] for first in lamps
        )
        lanes = [(base == scenes.ROAD_GREEN) & (other == scenes.ROAD_RED) for other in (left, right)]
        assert not (lanes[0] & lanes[1]).any()
        np.testing.assert_array_equal(lanes[0] | lanes[1], base == scenes.ROAD_GREEN)
        assert np.nonzero(lanes[0])[1].mean() < np.nonzero(lanes[1])[1].mean()
        np.testing.assert_array_equal(base, third)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 3])
def test_without_the_far_cue_the_roads_cannot_be_told_apart(signals, rng):
    """A network with a receptive field of 33 pixels sees the same surroundings for different labels."""
    known = total = 0
    confusion = np.zeros((2, 2))
    for seed in rng.integers(0, 10**6, 20):
        pair = [draw_scene(144, 144, FirstDrawsReplaced(seed, *[first] * signals), signals=signals)
                for first in (GREEN, RED)]  # fmt: skip
        changed = (pair[0][0] != pair[1][0]).any(axis=2).astype(np.uint8)
        near = cv2.dilate(changed, np.ones((33, 33), np.uint8)) > 0
        roads = pair[0][1] == scenes.ROAD_GREEN
        known += (roads & near).sum()
        total += roads.sum()
        # The best guess is right near the cue, and elsewhere half of the time by always choosing green.
        for truth in (0, 1):
            confusion[truth, 0] += (roads & ~(near & bool(truth))).sum()
            confusion[truth, 1] += (roads & near & bool(truth)).sum()
    iou = confusion.diagonal() / (confusion.sum(0) + confusion.sum(1) - confusion.diagonal())
    assert known < 0.35 * total
    assert iou.mean() < 0.7  # With the cue, it would be 1.


def test_the_lamp_can_be_read_from_the_image(rng):
    right = 0
    for seed in rng.integers(0, 10**6, 20):
        image, label = draw_scene(144, 144, np.random.default_rng(seed), signals=1)
        lamp = image[label == scenes.TRAFFIC_LIGHT].astype(int)
        brightest = lamp[np.argsort(lamp.max(axis=1))[-12:]].mean(axis=0)
        right += (brightest[1] > brightest[0]) == (label == scenes.ROAD_GREEN).any()
    assert right == 20


def test_every_class_occurs_and_nothing_else(rng):
    counts = np.zeros(256, int)
    for height, width in [(96, 128)] * 20 + [(32, 32), (96, 192), (77, 51)]:
        image, label = draw_scene(height, width, rng)
        assert (image.shape, label.shape) == ((height, width, 3), (height, width))
        assert image.dtype == label.dtype == np.uint8
        assert image.std() > 15
        counts += np.bincount(label.ravel(), minlength=256)
    assert (counts[: len(scenes.CLASSES)] > 0.002 * counts.sum()).all()
    assert counts[len(scenes.CLASSES) : 255].sum() == 0
    assert counts[255] < 0.1 * counts.sum()


def test_the_dataset_depends_on_its_options_alone(tmp_path):
    options = {"height": 40, "width": 48, "train": 3, "val": 2}
    first = open_dataset("scenes", data_dir=tmp_path / "a", options=options)
    again = open_dataset("scenes", data_dir=tmp_path / "b", options=options)
    other = open_dataset("scenes", data_dir=tmp_path / "a", options={**options, "seed": 1})
    assert dict(first.splits) == {"train": 3, "val": 2}
    assert first.classes == scenes.CLASSES
    assert list(first.source("train")) == list(again.source("train"))
    images = [example["image"] for d in (first, other) for s in d.splits for example in d.source(s)]
    assert len(set(images)) == 10
    example = first.source("val")[0]
    assert decode_image(example["image"], "").shape == (40, 48, 3)
    assert decode_label(example["label"], "").shape == (40, 48)


def test_invalid_options_are_refused(tmp_path):
    for options in ({"size": 3}, {"height": 3}, {"train": 0}, {"signals": 6}, {"seed": "a"}):
        with refused(what=f"dataset.options.{next(iter(options))}"):
            open_dataset("scenes", data_dir=tmp_path, options=options)
    with refused(what="dataset.class_names"):
        open_dataset("scenes", data_dir=tmp_path, class_names=["a"])
    assert list(tmp_path.iterdir()) == []
