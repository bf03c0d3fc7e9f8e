"""Batch normalisation, ReLU and their gradients against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from danet_jax.ops.batch_norm import normalize_batch, normalize_by, relu


@pytest.mark.parametrize("with_relu", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_torch(rng, with_relu, masked):
    """Positions where the mask is False are excluded; torch is given the others as a list."""
    x = rng.normal(rng.normal(), rng.uniform(0.5, 2), (3, 5, 6, 7))
    weights, scale, bias = rng.normal(size=x.shape), rng.normal(size=7), rng.normal(size=7)
    included = rng.random((3, 5, 6, 1)) < 0.7 if masked else np.ones((3, 5, 6, 1), bool)
    weights = np.where(included, weights, 0.0)

    tensors = [torch.tensor(a, requires_grad=True) for a in (x, scale, bias)]
    chosen = tensors[0][torch.from_numpy(included[..., 0])]
    y = torch.nn.functional.batch_norm(chosen, None, None, tensors[1], tensors[2], training=True, eps=1e-5)
    y = torch.relu(y) if with_relu else y
    loss = (torch.sin(y) * torch.from_numpy(weights)[torch.from_numpy(included[..., 0])]).sum()
    expected = loss.item(), *(a.numpy() for a in torch.autograd.grad(loss, tensors))

    with jax.enable_x64(True):

        def loss_of(x, scale, bias):
            mask = jnp.asarray(included) if masked else None
            y, mean, variance = normalize_batch(x, scale, bias, mask, relu=with_relu, dtype=jnp.float64)
            return jnp.sum(jnp.sin(y) * weights), (mean, variance)

        (value, statistics), gradients = jax.jit(jax.value_and_grad(loss_of, (0, 1, 2), has_aux=True))(
            *(jnp.asarray(a) for a in (x, scale, bias))
        )
    for one, other in zip((value, *gradients), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    selected = x[included[..., 0]]
    np.testing.assert_allclose(statistics[0], selected.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(statistics[1], selected.var(0), rtol=1e-10)


def test_bfloat16_is_computed_in_float32(rng):
    x = jnp.asarray(rng.normal(3, 1, (2, 4, 5, 8)), jnp.bfloat16)
    scale, bias = (jnp.asarray(rng.normal(size=8), jnp.float32) for _ in range(2))
    y, mean, variance = normalize_batch(x, scale, bias, dtype=jnp.bfloat16)
    assert (y.dtype, mean.dtype, variance.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-5)
    expected = normalize_by(x, mean, variance, scale, bias)
    assert expected.dtype == jnp.float32
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))


def test_statistics_are_those_of_all_devices(rng):
    mesh = jax.make_mesh((4, 2), ("data", "space"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = jax.NamedSharding(mesh, jax.P("data", "space"))
    x, weights = (jnp.asarray(rng.normal(size=(4, 6, 5, 8)), jnp.float32) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(size=8), jnp.float32) for _ in range(2))

    def loss(x, scale, bias):
        return jnp.sum(normalize_batch(x, scale, bias, relu=True, dtype=jnp.float32)[0] * weights)

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))
    expected, actual = gradients(x, scale, bias), gradients(jax.device_put(x, sharding), scale, bias)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu_equals_torch(rng, dtype):
    x, dy = (jnp.asarray(rng.normal(size=(2, 5, 7, 3)), dtype) for _ in range(2))
    x = x.at[:, 0].set(0)
    y, pull = jax.vjp(jax.jit(relu), x)
    assert y.dtype == pull(dy)[0].dtype == x.dtype
    tensor = torch.tensor(np.asarray(x, np.float32), requires_grad=True)
    expected = torch.relu(tensor)
    expected.backward(torch.tensor(np.asarray(dy, np.float32)))
    np.testing.assert_array_equal(np.asarray(y, np.float32), expected.detach().numpy())
    np.testing.assert_array_equal(np.asarray(pull(dy)[0], np.float32), tensor.grad.numpy())
