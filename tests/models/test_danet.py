"""The network against the PyTorch reference with the same weights, on odd sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from danet_jax import DANet
from danet_jax.weights.convert import convert
from tests.reference import torch_danet
from tests.reference.float64_attention import relative_error
from tests.reference.tiny_backbone import TinyBackbone, drawn_variables

pytestmark = pytest.mark.usefixtures("few_blocks")


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "resnet50", "multi_grid": (4, 8, 16), "align_corners": False},
        {"backbone": "resnet34", "stem": "v1c", "auxiliary": True, "output_stride": 16},
    ],
    ids=["multi_grid", "auxiliary"],
)
def test_logits_of_the_compiled_network_equal_those_of_pytorch(options, rng):
    """`tests/weights/test_convert.py` compares the other variants, without `jit`."""
    reference, model = torch_danet.randomise(torch_danet.DANet(7, **options), rng), DANet(7, **options)
    variables = convert({name: tensor.numpy() for name, tensor in reference.state_dict().items()}).variables
    images = rng.standard_normal((2, 65, 89, 3), np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    logits = jax.jit(model.apply)(variables, images)
    for name, actual, tensor in zip(logits._fields, logits, expected, strict=True):
        assert (actual is None) == (tensor is None), name
        if actual is not None:
            assert (actual.dtype, actual.shape) == (jnp.float32, (2, 65, 89, 7))
            assert relative_error(actual, tensor.numpy().transpose(0, 2, 3, 1)) < 1e-4, name


def test_padding_has_no_effect_with_sizes(rng):
    model = DANet(5, backbone="resnet18", stem="v1c", auxiliary=True, output_stride=16)
    variables = drawn_variables(rng, model)
    padded = np.zeros((2, 80, 96, 3), np.float32)
    sizes = np.asarray([[49, 65], [80, 33]], np.int32)
    images = [rng.standard_normal((1, *size, 3), np.float32) for size in sizes]
    for index, image in enumerate(images):
        padded[index, : image.shape[1], : image.shape[2]] = image
    together = jax.jit(lambda v, x, s: model.apply(v, x, sizes=s))(variables, padded, sizes)
    for index, image in enumerate(images):
        alone = jax.jit(model.apply)(variables, image)
        for actual, expected in zip(together, alone, strict=True):
            cropped = actual[index : index + 1, : image.shape[1], : image.shape[2]]
            np.testing.assert_allclose(cropped, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_bfloat16_computes_in_bfloat16_and_returns_float32(rng):
    float32, bfloat16 = (DANet(5, backbone="resnet18", dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    variables = drawn_variables(rng, float32)
    images = rng.standard_normal((1, 65, 65, 3), np.float32)
    expected = jax.jit(float32.apply)(variables, images).fusion

    @jax.jit
    def apply(variables):
        return bfloat16.apply(variables, images, capture_intermediates=True, mutable=["intermediates"])

    logits, kept = apply(variables)
    assert logits.fusion.dtype == jnp.float32
    assert kept["intermediates"]["backbone"]["layer4_1"]["__call__"][0].dtype == jnp.bfloat16
    assert 0 < np.linalg.norm(logits.fusion - expected) < 0.05 * np.linalg.norm(expected)


def test_dropout_drops_whole_channels_of_the_classifiers(rng):
    model = DANet(5, backbone=TinyBackbone(), dropout_rate=0.5)
    images = jnp.asarray(rng.standard_normal((16, 33, 33, 3), np.float32))

    @jax.jit
    def features_after_dropout(variables):
        return model.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: type(module).__name__ == "Dropout",
        )[1]["intermediates"]

    kept = features_after_dropout(drawn_variables(rng, model))
    dropped = [leaf for leaf in jax.tree.leaves(kept) if leaf.ndim == 4]
    assert len(dropped) == 3
    for features in dropped:  # a channel is zero everywhere, or nowhere but for a ReLU
        zero = np.asarray(features == 0)
        assert 0.2 < zero.all((1, 2)).mean() < 0.8


def test_initial_values(rng):
    @jax.jit
    def some(key):  # What is not returned is not compiled.
        params = DANet(3, backbone="resnet18").init(key, jnp.zeros((1, 32, 32, 3)))["params"]
        head = params["head"]
        scales = head["position_attention"]["alpha"], head["channel_attention"]["beta"]
        backbone = params["backbone"]["layer4_1"]["conv2"]["kernel"]
        return scales, backbone, head["position_in"]["conv"]["kernel"]

    scales, in_backbone, in_head = some(jax.random.key(int(rng.integers(99))))
    assert scales == (0, 0)
    np.testing.assert_allclose(np.std(in_backbone), np.sqrt(2 / (9 * 512)), rtol=0.01)
    np.testing.assert_allclose(np.max(np.abs(in_head)), (9 * 512) ** -0.5, rtol=0.01)
