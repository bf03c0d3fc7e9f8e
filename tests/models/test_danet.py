"""The network against the PyTorch reference with the same weights, on odd sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from danet_jax import DANet
from danet_jax.weights.convert import convert
from tests.reference import torch_danet

VARIANTS = {
    "resnet50": {"backbone": "resnet50"},
    "multi_grid": {"backbone": "resnet50", "multi_grid": (4, 8, 16), "align_corners": False},
    "deep_stem_auxiliary": {"backbone": "resnet34", "stem": "v1c", "auxiliary": True},
    "encoding_stem": {"backbone": "resnet18", "stem": "v1s", "output_stride": 16, "auxiliary": True},
    "position_only": {"backbone": "resnet18", "channel_attention": False},
    "channel_only_paper": {
        "backbone": "resnet18",
        "position_attention": False,
        "channel_energy": "paper",
        "output_stride": 32,
    },
    "fcn": {"backbone": "resnet18", "position_attention": False, "channel_attention": False},
}


def copied(rng, num_classes, **options):
    """A PyTorch network with random weights, ours of the same options, and its variables."""
    reference = torch_danet.randomise(torch_danet.DANet(num_classes, **options), rng)
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    return reference, DANet(num_classes, **options), convert(state).variables


def relative_error(ours, theirs):
    theirs = theirs.detach().numpy().transpose(0, 2, 3, 1)
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_pytorch_reference(variant, rng):
    reference, model, variables = copied(rng, 7, **VARIANTS[variant])
    images = rng.standard_normal((2, 97, 129, 3), np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    logits = jax.jit(model.apply)(variables, images)
    for name, ours, theirs in zip(logits._fields, logits, expected, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.dtype == jnp.float32
            assert ours.shape == (2, 97, 129, 7)
            assert relative_error(ours, theirs) < 1e-4, name


def test_padding_with_sizes_changes_nothing(rng):
    options = {"backbone": "resnet18", "stem": "v1c", "auxiliary": True, "output_stride": 16}
    _, model, variables = copied(rng, 5, **options)
    padded = np.zeros((2, 80, 96, 3), np.float32)
    sizes = np.asarray([[49, 65], [80, 33]], np.int32)
    images = [rng.standard_normal((1, *size, 3), np.float32) for size in sizes]
    for index, image in enumerate(images):
        padded[index, : image.shape[1], : image.shape[2]] = image
    together = jax.jit(lambda v, x, s: model.apply(v, x, sizes=s))(variables, padded, sizes)
    for index, image in enumerate(images):
        alone = jax.jit(model.apply)(variables, image)
        for ours, expected in zip(together, alone, strict=True):
            inside = ours[index : index + 1, : image.shape[1], : image.shape[2]]
            np.testing.assert_allclose(inside, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("backbone", "parameters"), [("resnet50", 47_462_651), ("resnet101", 66_454_779)])
def test_parameter_counts(backbone, parameters):
    model = DANet(num_classes=19, backbone=backbone, multi_grid=(4, 8, 16))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))["params"]

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert count(shapes["head"]) == 23_954_619
    assert count(shapes) == parameters


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32(rng):
    _, model, variables = copied(rng, 5, backbone="resnet18")
    images = rng.standard_normal((1, 65, 65, 3), np.float32)
    exact = model.apply(variables, images).fusion
    model = DANet(5, backbone="resnet18", dtype=jnp.bfloat16)
    rough, kept = model.apply(variables, images, capture_intermediates=True, mutable=["intermediates"])
    assert rough.fusion.dtype == jnp.float32
    assert kept["intermediates"]["backbone"]["layer4_1"]["__call__"][0].dtype == jnp.bfloat16
    assert np.abs(rough.fusion - exact).max() < 0.1 * np.abs(exact).max()
    params = model.init(jax.random.key(0), images)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_dropout_drops_whole_channels_of_the_classifiers(rng):
    model = DANet(5, backbone="resnet18", dropout_rate=0.5)
    images = jnp.asarray(rng.standard_normal((1, 33, 33, 3), np.float32))
    variables = model.init(jax.random.key(0), images)
    # A classifier that sums channels of constant features shows which of them were dropped: the same everywhere.
    _, kept = model.apply(
        variables,
        images,
        train=True,
        rngs={"dropout": jax.random.key(1)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: type(module).__name__ == "Dropout",
    )
    dropped = [leaf for leaf in jax.tree.leaves(kept["intermediates"]) if leaf.ndim == 4]
    assert len(dropped) == 3
    for features in dropped:
        zero = np.asarray(features[0] == 0)
        assert 0.2 < zero.all((0, 1)).mean() < 0.8


def test_initial_scales(rng):
    variables = DANet(3, backbone="resnet18").init(
        jax.random.key(int(rng.integers(99))), jnp.zeros((1, 32, 32, 3))
    )
    head = variables["params"]["head"]
    assert head["position_attention"]["alpha"] == 0
    assert head["channel_attention"]["beta"] == 0
    kernel = variables["params"]["backbone"]["layer4_1"]["conv2"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 512)), rtol=0.01)
    kernel = head["position_in"]["conv"]["kernel"]
    np.testing.assert_allclose(np.max(np.abs(kernel)), (9 * 512) ** -0.5, rtol=0.01)
