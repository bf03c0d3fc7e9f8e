"""Invalid images, networks, protocols, classes and examples are refused by name."""

import jax
import numpy as np
import pytest

from danet_jax import Classes, DANet, Protocol, ResNet, Segmenter, load_segmenter
from danet_jax.evaluation.confusion import count_pairs
from danet_jax.evaluation.evaluator import Evaluator
from tests.reference.refusal import refused
from tests.reference.small_network import small_networks


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("scales", ["1.0", (), (float("nan"),), (1.0, float("inf")), 1.0, (True,), (1.0, -1.0), (1e9,)]),
        ("flip", ["yes", 1]),
        ("align_corners", ["no"]),
        ("window", [(48.5, 48), "48", 48, (10**9, 10**9), (0, 5), (5,)]),
        ("stride", [(5, 5)]),  # without a window
        ("base_size", [0, 520.0, (1, 2, 3)]),
        ("mean", [(0.5, 0.5), (float("nan"),) * 3, "red", (123.675, 116.28, 103.53)]),
        ("std", [(1.0, 0.0, 1.0), 0.5, (58.395, 57.12, 57.375)]),
        ("edge", ["mirror", ["pad"]]),
        ("merge", ["max"]),
        ("image_resize", ["pil"]),
        ("name", [None]),
    ],
)
def test_invalid_fields_of_protocols(key, values):
    for value in values:
        with refused(what=key):
            Protocol(**{key: value})


def test_unknown_protocols_and_fields():
    with refused(what="nope", value=3):
        Protocol().replace(nope=3)
    with refused(what="protocol", value="nobody"):
        Protocol.preset("nobody")
    with refused(what="stride"):
        Protocol(window=(5, 5)).replace(stride=(5, 6))


@pytest.mark.parametrize(
    ("names", "colours"),
    [
        ("ab", ((0, 0, 0),) * 2),
        (None, ()),
        ((1, 2), ((0, 0, 0),) * 2),
        (("a", ""), ((0, 0, 0),) * 2),
        (("a", "a"), ((0, 0, 0),) * 2),
        (("a",), ((0, 0, 0),) * 2),
        (("a",), ((0, 0),)),
        (("a",), ((0, 0, 999),)),
        (("a",), ((0, 0, 0.5),)),
        (("a",), ("red",)),
        (("a",), (5,)),
        ((), ()),
    ],
)
def test_invalid_classes(names, colours):
    with refused():
        Classes(names, colours)


def test_variables_that_do_not_fit_the_network(rng):
    model, variables, _ = small_networks(rng)
    missing = {"params": {k: v for k, v in variables["params"].items() if k != "kernel1"}}
    misshaped = {"params": {**variables["params"], "kernel1": np.zeros((3, 3, 8, 9), np.float32)}}
    broken = jax.tree.map(np.copy, variables)
    broken["params"]["kernel2"][1, 2, 3, 4] = np.nan  # it would give one label for all
    for invalid, name in (
        ({}, "variables"),
        (None, "variables"),
        (missing, "kernel1"),
        (misshaped, "kernel1"),
        (broken, "kernel2"),
    ):
        for function in (lambda v: Segmenter(model, v), Segmenter(model, variables).with_variables):
            with refused() as caught:
                function(invalid)
            assert name in str(caught.value)
    with refused():
        Segmenter(DANet(3, backbone="resnet18"), {"params": {"head": {}}, "batch_stats": {}})


def test_arguments_of_the_wrong_type(rng):
    model, variables, _ = small_networks(rng)
    for arguments, what in (
        ((ResNet(), variables), "model"),
        (("resnet50", variables), "model"),
        ((model, variables, "authors"), "protocol"),
        ((model, variables, None, ["a"]), "classes"),
        ((model, variables, None, Classes.named(["a"])), "classes"),
        ((model, variables, None, None, 4), "mesh"),
    ):
        with refused(what=what):
            Segmenter(*arguments)
    with refused(what="protocol"):
        Evaluator(model, Classes.named(list("abcde")), "authors")
    with refused(what="classes", value=3):
        Evaluator(model, Classes.named(list("abc")))
    with refused(what="protocol"):
        load_segmenter("no/such/run", "authors")


@pytest.mark.parametrize(
    "images",
    [
        [[1]],
        None,
        3,
        "no/such/photo.jpg",
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros((1, 4, 5), np.uint8),
        np.zeros((1, 4, 4, 3), bool),
        np.zeros((1, 4, 5, 3), np.float32),
        np.zeros((0, 4, 5, 3), np.uint8),
        np.zeros((2, 0, 4, 3), np.uint8),
        np.full((1, 4, 4, 3), np.nan),
    ],
)
def test_invalid_images(images, rng):
    model, variables, _ = small_networks(rng)
    segment = Segmenter(model, variables)
    for function in (segment, segment.scores):
        with refused(what="images"):
            function(images)
    with refused(what="images"):
        list(segment.stream([images]))
    with refused(what="image"):
        segment.explain(images)


def test_invalid_examples(rng):
    model, variables, _ = small_networks(rng)
    evaluate = Evaluator(
        model, Classes.named(list("abcde")), mesh=jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",))
    )
    image, label = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    good = {"name": "x", "image": image, "label": label}
    strange, negative = label.copy(), label.astype(np.int16)
    strange[5, 5], negative[5, 5] = 77, -1
    for example, what, value in (
        ({"image": image, "label": label}, "example", None),
        (None, "example", None),
        (good | {"label": label / 2}, "x", None),
        (good | {"label": None}, "x", None),
        (good | {"label": label[1:]}, "x", None),
        (good | {"label": strange}, "x", 77),
        (good | {"label": negative}, "x", -1),
        (good | {"image": image[:0], "label": label[:0]}, "x", None),
        (good | {"image": None}, "x", None),
        (good | {"image": image / np.float32(255)}, "x", None),
    ):
        with refused(what=what, value=value):
            evaluate(variables, iter([good | {"name": "good"}, example]))
    with refused(what="examples"):
        evaluate(variables, iter(()))


def test_invalid_labels_and_predictions():
    labels = np.zeros((4, 4), np.uint8)
    for arguments, what in (
        ((labels, labels, 0), "num_classes"),
        ((labels, labels, 2.5), "num_classes"),
        ((labels / 2, labels, 3), "labels"),
        ((labels, [1], 3), "predictions"),
        ((labels, labels[:2], 3), "predictions"),
    ):
        with refused(what=what):
            count_pairs(*arguments)
