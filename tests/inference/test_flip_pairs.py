"""Classes that mean a side: their scores are swapped where mirrored images are scored."""

import numpy as np
import pytest

from danet_jax.classes import Classes
from danet_jax.inference.options import protocol_of
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter
from tests.reference.refusal import refused
from tests.reference.small_network import small_networks

CLASSES = Classes.named(["left lane", "sky", "road", "right lane", "car"])
PAIRS = ("left lane=right lane",)
SWAPPED = [3, 1, 2, 0, 4]


@pytest.mark.parametrize(
    "changes",
    [
        {"merge": "softmax"},
        {"merge": "logits", "scales": (0.75, 1.0), "base_size": 40},
        {"merge": "softmax", "window": (24, 24), "stride": (10, 13)},
        {"merge": "exp"},
    ],
)
def test_scores_are_those_of_both_images_upright(rng, changes):
    model, variables, _ = small_networks(rng)
    image = rng.integers(0, 256, (1, 32, 40, 3), dtype=np.uint8)
    once = Segmenter(model, variables, Protocol.whole().replace(**changes), CLASSES)
    both = Protocol.whole().replace(**changes, flip=True, flip_pairs=PAIRS)
    scores = Segmenter(model, variables, both, CLASSES).scores(image)
    upright, mirrored = once.scores(image), once.scores(image[:, :, ::-1])[:, :, ::-1][..., SWAPPED]
    expected = upright * mirrored if changes["merge"] == "exp" else (upright + mirrored) / 2
    np.testing.assert_allclose(scores, expected, rtol=2e-4, atol=2e-5)


def test_pairs_of_a_recipe():
    dataset = {"name": "folder", "flip_pairs": PAIRS}
    options = {"protocol": "authors", "window": None}
    protocol = protocol_of({"dataset": dataset, "evaluation": options})
    assert protocol.flip
    assert protocol.for_network(True, classes=CLASSES).mirrored == tuple(SWAPPED)
    assert not protocol_of({"dataset": {**dataset, "flip": False}, "evaluation": options}).flip
    assert protocol_of({"dataset": dataset, "evaluation": {"protocol": "whole"}}) == Protocol.whole()
    with refused():
        protocol.for_network(True, classes=Classes.named(["a", "b"]))


def test_pairs_need_names(rng):
    model, variables, _ = small_networks(rng)
    segmenter = Segmenter(model, variables, Protocol.whole().replace(flip=True, flip_pairs=PAIRS))
    with refused(what="flip_pairs"):
        segmenter(rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8))
