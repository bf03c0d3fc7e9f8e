"""The evaluator against labels counted one image at a time, on one device and on many."""

import jax
import numpy as np
import pytest

from danet_jax.classes import Classes
from danet_jax.evaluation.evaluator import Evaluator
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter
from tests.reference.compilations import compilations
from tests.reference.small_network import small_networks

CLASSES = Classes.named(list("abcde"))
AUTHORS = Protocol.authors().replace(base_size=70, window=(48, 48), stride=(32, 32))
MULTI_SCALE = Protocol.mmseg("other", multi_scale=True).replace(
    window=(48, 48), stride=(33, 33), scales=(0.75, 1.0)
)


def example(rng, index, size):
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    label = rng.integers(0, len(CLASSES), size, dtype=np.uint8)
    label[rng.random(size) < 0.1] = 255
    return {"name": f"image {index}", "image": image, "label": label}


def mesh_of(count):
    return jax.sharding.Mesh(np.asarray(jax.devices()[:count]).reshape(-1, 1), ("data", "space"))


def one_by_one(model, variables, protocol, examples):
    segment = Segmenter(model, variables, protocol)
    confusion = np.zeros((5, 5), np.int64)
    for e in examples:
        keep = e["label"] != 255
        np.add.at(confusion, (e["label"][keep], segment(e["image"][None])[0][keep]), 1)
    return confusion


@pytest.mark.parametrize("protocol", [Protocol.whole(), MULTI_SCALE], ids=lambda p: p.name[:12])
def test_eight_devices_equal_one_and_images_one_by_one(protocol, rng):
    model, variables, _ = small_networks(rng)
    sizes = [(40, 56)] * 6 + [(61, 33)] * 3  # nine images on eight devices, of two sizes
    examples = [example(rng, index, size) for index, size in enumerate(sizes)]
    one = Evaluator(model, CLASSES, protocol, mesh_of(1))(variables, iter(examples))
    np.testing.assert_array_equal(one.confusion, one_by_one(model, variables, protocol, examples))
    eight = Evaluator(model, CLASSES, protocol, mesh_of(8))(variables, iter(examples))
    np.testing.assert_array_equal(eight.confusion, one.confusion)
    assert eight.images == one.images == 9
    assert eight.protocol == protocol.for_network(model.align_corners)


@pytest.mark.parametrize("protocol", [Protocol.whole(), AUTHORS], ids=lambda p: p.name[:12])
def test_images_of_forty_sizes_need_few_compilations(protocol, rng):
    model, variables, _ = small_networks(rng)
    sizes = [tuple(rng.integers(20, 70, 2)) for _ in range(40)]
    examples = [example(rng, index, sizes[index % 40]) for index in range(60)]
    with compilations() as compiled:
        result = Evaluator(model, CLASSES, protocol, mesh_of(1))(variables, iter(examples))
    assert result.images == 60
    assert result.confusion.sum() == sum((e["label"] != 255).sum() for e in examples)
    assert len(compiled) <= 8
