"""The cross-entropy by rows against torch's up-sampling and cross-entropy, and its memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.ops.resize import resize_bilinear
from danet_jax.ops.upsampled_cross_entropy import upsampled_cross_entropy
from tests.reference.refusal import refused


def example(rng, batch, size, classes, new_size, ignored=0.2, dtype=np.uint8):
    logits = jnp.asarray(3 * rng.standard_normal((batch, *size, classes)), jnp.float32)
    labels = rng.integers(0, classes, (batch, *new_size)).astype(dtype)
    labels[rng.random(labels.shape) < ignored] = 255
    return logits, jnp.asarray(labels)


def published(logits, labels, align_corners, weights=None):
    planes = torch.tensor(np.asarray(logits, np.float64)).permute(0, 3, 1, 2).requires_grad_()
    up = torch.nn.functional.interpolate(
        planes, size=labels.shape[1:], mode="bilinear", align_corners=align_corners
    )
    target = torch.tensor(np.asarray(labels)).long()
    loss = torch.nn.functional.cross_entropy(up, target, weight=weights, ignore_index=255, reduction="sum")
    loss.backward()
    return loss.item(), planes.grad.permute(0, 2, 3, 1).numpy()


def loss_sum(logits, labels, **options):
    return upsampled_cross_entropy(logits, labels, **{"align_corners": True} | options)


def test_class_weights(rng):
    logits, labels = example(rng, 2, (5, 7), 4, (40, 33))
    weights = rng.uniform(0, 5, 4)
    function = jax.value_and_grad(lambda x: loss_sum(x, labels, class_weights=tuple(weights)))
    loss, gradient = jax.jit(function)(logits)
    expected, expected_gradient = published(logits, labels, True, torch.tensor(weights))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max())
    with refused(what="class_weights", value=3, allowed=4):
        loss_sum(logits, labels, class_weights=(1.0, 2.0, 3.0))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("size", "classes", "new_size", "dtype"),
    [
        ((5, 7), 3, (33, 49), np.uint8),
        ((9, 4), 7, (65, 30), np.int32),
        ((1, 1), 2, (8, 8), np.uint8),
        ((12, 9), 150, (5, 20), np.int64 if jax.config.jax_enable_x64 else np.int16),
    ],
    ids=str,
)
def test_value_and_gradient(rng, size, classes, new_size, dtype, align_corners):
    logits, labels = example(rng, 2, size, classes, new_size, dtype=dtype)
    function = jax.value_and_grad(lambda x: loss_sum(x, labels, align_corners=align_corners))
    loss, gradient = jax.jit(function)(logits)
    expected, expected_gradient = published(logits, labels, align_corners)
    assert (loss.dtype, gradient.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max())
    np.testing.assert_allclose(loss_sum(logits, labels, align_corners=align_corners), loss, rtol=1e-6)


def test_the_gradient_scales_with_that_of_the_loss(rng):
    logits, labels = example(rng, 1, (4, 5), 3, (20, 20))
    gradient, half = (
        jax.grad(lambda x, scale=scale: scale * loss_sum(x, labels))(logits) for scale in (1.0, 0.5)
    )
    np.testing.assert_allclose(half, 0.5 * np.asarray(gradient), rtol=1e-5)


def test_ignored_pixels_have_no_effect(rng):
    logits, labels = example(rng, 2, (4, 5), 3, (20, 20))
    labels = labels.at[1].set(255)
    broken = logits.at[1].set(jnp.nan)
    loss, gradient = jax.value_and_grad(lambda x: loss_sum(x, labels))(broken)
    np.testing.assert_allclose(loss, loss_sum(logits[:1], labels[:1]), rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0)
    assert loss_sum(logits, jnp.full_like(labels, 255)) == 0


def test_nan_in_valid_pixels_is_propagated(rng):
    logits, labels = example(rng, 1, (4, 5), 3, (20, 20), ignored=0)
    assert np.isnan(loss_sum(logits.at[0, 2, 2, 1].set(jnp.nan), labels))


@pytest.mark.parametrize(
    ("factor", "dtype", "tolerance"), [(300, jnp.float32, 1e-5), (1, jnp.bfloat16, 1e-2)], ids=str
)
def test_huge_and_bfloat16_logits(rng, factor, dtype, tolerance):
    logits, labels = example(rng, 1, (4, 5), 3, (20, 20))
    logits = (factor * logits).astype(dtype)
    loss, gradient = jax.value_and_grad(lambda x: loss_sum(x, labels))(logits)
    expected, expected_gradient = published(logits, labels, True)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    atol = tolerance * np.abs(expected_gradient).max()
    np.testing.assert_allclose(np.asarray(gradient, np.float64), expected_gradient, atol=atol)


def test_scratch_memory_is_a_tenth_of_the_plain_form(rng):
    def plain(logits, labels):
        up = resize_bilinear(logits, labels.shape[1:], align_corners=True)
        valid = labels != 255
        loss = optax.softmax_cross_entropy_with_integer_labels(
            up, jnp.where(valid, labels, 0).astype(jnp.int32)
        )
        return jnp.sum(jnp.where(valid, loss, 0.0))

    specs = (
        jax.ShapeDtypeStruct((1, 96, 96, 19), jnp.float32),
        jax.ShapeDtypeStruct((1, 768, 768), jnp.uint8),
    )
    scratch = [
        jax.jit(jax.value_and_grad(function)).lower(*specs).compile().memory_analysis().temp_size_in_bytes
        for function in (loss_sum, plain)
    ]
    assert scratch[0] < 0.1 * scratch[1]


@pytest.mark.parametrize("devices", [(4, 2), (1, 8)], ids=str)
def test_sharded_arrays(rng, devices):
    """Images are sharded over `data` and rows over `space`; nothing at full resolution is transferred."""
    logits, labels = example(rng, 4, (8, 9), 5, (64, 70))
    function = jax.jit(jax.value_and_grad(loss_sum))
    expected = function(logits, labels)
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(devices), ("data", "space"))
    sharding = NamedSharding(mesh, PartitionSpec("data", "space"))
    arrays = jax.device_put((logits, labels), sharding)
    for one, other in zip(jax.tree.leaves(function(*arrays)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    text = function.lower(*arrays).compile().as_text()
    transfers = [
        line for line in text.splitlines() if re.search(r" (all-\w+|collective-permute)(-start)?\(", line)
    ]
    assert transfers
    for line in transfers:
        for shape in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", line):
            assert np.prod([int(n) for n in shape.split(",")]) <= logits.size
