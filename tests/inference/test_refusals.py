"""What a caller gives that is no image, network, protocol or class list is refused, by its name."""

import jax
import numpy as np
import pytest

from danet_jax import Classes, DANet, InputError, Protocol, ResNet, Segmenter, load_segmenter
from danet_jax.evaluation.confusion import count_pairs
from danet_jax.evaluation.evaluator import Evaluator
from tests.reference.small_network import small_networks


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scales": "1.0"}, "scales='1.0' must be"),
        ({"scales": (float("nan"),)}, "scales"),
        ({"scales": (1.0, float("inf"))}, "scales"),
        ({"scales": 1.0}, "scales=1.0"),
        ({"scales": (True,)}, "scales"),
        ({"flip": "yes"}, "flip='yes' must be bool"),
        ({"flip": 1}, "flip=1"),
        ({"align_corners": "no"}, "align_corners='no'"),
        ({"window": (48.5, 48)}, r"window=\(48.5, 48\) must be two numbers, whole"),
        ({"window": "48"}, "window='48'"),
        ({"window": 48}, "window=48"),
        ({"window": (10**9, 10**9)}, "below 32768"),
        ({"base_size": 0}, "base_size=0 must be at least 1"),
        ({"base_size": 520.0}, "base_size=520.0"),
        ({"base_size": (1, 2, 3)}, "base_size"),
        ({"mean": (0.5, 0.5)}, "mean=.*three numbers"),
        ({"mean": (float("nan"),) * 3}, "mean"),
        ({"mean": "red"}, "mean='red'"),
        ({"std": (1.0, 0.0, 1.0)}, "std=.*three numbers"),
        ({"std": 0.5}, "std=0.5"),
        ({"mean": (123.675, 116.28, 103.53)}, "mean=.* divide it by 255"),
        ({"std": (58.395, 57.12, 57.375)}, "std=.* divide it by 255"),
        ({"edge": ["pad"]}, "edge"),
        ({"name": None}, "name=None"),
    ],
)
def test_a_protocol_of_other_values(changes, words):
    with pytest.raises(InputError, match=words):
        Protocol(**changes)


@pytest.mark.parametrize(
    ("names", "colours", "words"),
    [
        ("ab", ((0, 0, 0),) * 2, "names='ab'"),
        (None, (), "names=None"),
        ((1, 2), ((0, 0, 0),) * 2, "class name 1 must be text"),
        (("a", ""), ((0, 0, 0),) * 2, "class name ''"),
        (("a", "a"), ((0, 0, 0),) * 2, "more than once: a"),
        (("a",), ((0, 0, 0),) * 2, "1 class names but 2 colours"),
        (("a",), ((0, 0),), r"colour \(0, 0\) of a"),
        (("a",), ((0, 0, 999),), "999"),
        (("a",), ((0, 0, 0.5),), "0.5"),
        (("a",), ("red",), "colour"),
        (("a",), (5,), "colour 5"),
        ((), (), "1 to 255 classes, not 0"),
    ],
)
def test_classes_of_other_values(names, colours, words):
    with pytest.raises(InputError, match=words):
        Classes(names, colours)


def test_networks_and_what_does_not_fit_them(rng):
    model, variables, _ = small_networks(rng)
    missing = {"params": {k: v for k, v in variables["params"].items() if k != "kernel1"}}
    misshaped = {"params": {**variables["params"], "kernel1": np.zeros((3, 3, 8, 9), np.float32)}}
    for arguments, words in (
        ((ResNet(), variables), "model must be a danet_jax.DANet, not ResNet"),
        (("resnet50", variables), "model must be .* not str"),
        ((model, {}), "variables must hold"),
        ((model, None), "variables must hold .* not NoneType"),
        ((model, missing), "variables do not fit the model: params/kernel1 is missing"),
        ((model, misshaped), r"params/kernel1 is \[3, 3, 8, 9\], in the model \[3, 3, 8, 8\]"),
        ((model, variables, "authors"), "protocol='authors' must be a danet_jax.Protocol"),
        ((model, variables, None, ["a"]), "classes must be danet_jax.Classes"),
        ((model, variables, None, Classes.named(["a"])), "classes are 1, but the network tells 5"),
        ((model, variables, None, None, 4), "mesh must be"),
    ):
        with pytest.raises(InputError, match=words):
            Segmenter(*arguments)
    with pytest.raises(InputError, match="protocol="):
        Evaluator(model, Classes.named(list("abcde")), "authors")
    with pytest.raises(InputError, match="protocol='authors' must be"):
        load_segmenter("no/such/run", "authors")
    segment, broken = Segmenter(model, variables), jax.tree.map(np.copy, variables)
    with pytest.raises(InputError, match="variables do not fit the model"):
        segment.with_variables(missing)
    broken["params"]["kernel2"][1, 2, 3, 4] = np.nan  # one label for all
    with pytest.raises(InputError, match="params/kernel2 holds values that are no finite numbers"):
        Segmenter(model, broken)
    danet = DANet(3, backbone="resnet18")
    small = {"params": {"head": {}}, "batch_stats": {}}
    with pytest.raises(InputError, match="do not fit the model: batch_stats/backbone"):
        Segmenter(danet, small)


@pytest.mark.parametrize(
    "images",
    [
        [[1]],
        None,
        3,
        np.zeros((1, 4, 4, 3), bool),
        np.zeros((2, 0, 4, 3), np.uint8),
        np.full((1, 4, 4, 3), np.nan),
    ],
)
def test_images_that_are_none(images, rng):
    model, variables, _ = small_networks(rng)
    segment = Segmenter(model, variables)
    for function in (segment, segment.scores):
        with pytest.raises(InputError, match="images"):
            function(images)


def test_examples_and_labels_that_are_none(rng):
    model, variables, _ = small_networks(rng)
    evaluate = Evaluator(
        model, Classes.named(list("abcde")), mesh=jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",))
    )
    image, label = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    for example, words in (
        ({"image": image, "label": label}, "name, image and label"),
        (None, "an example must hold"),
        ({"name": "x", "image": image, "label": label / 2}, "x: the label must be uint8"),
        ({"name": "x", "image": image[:0], "label": label[:0]}, "x: the image is empty"),
        ({"name": "x", "image": None, "label": label}, "x: the image must be uint8"),
    ):
        with pytest.raises(InputError, match=words):
            evaluate(variables, [example])
    labels = np.zeros((4, 4), np.uint8)
    for arguments, words in (
        ((labels, labels, 0), "num_classes=0"),
        ((labels, labels, 2.5), "num_classes=2.5"),
        ((labels / 2, labels, 3), "labels must be an array of integers"),
        ((labels, [1], 3), "predictions must be"),
        ((labels, labels[:2], 3), "differ in shape"),
    ):
        with pytest.raises(InputError, match=words):
            count_pairs(*arguments)
