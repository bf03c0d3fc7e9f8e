"""Channel attention with both signs against torch in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from danet_jax.ops.channel_attention import channel_attention


def published(features, energy, cotangent):
    """Equation 3 and the authors' code in torch, `[B, C, N]` as there; output and gradient as `[B, N, C]`."""
    x = torch.tensor(np.asarray(features, np.float64)).transpose(1, 2).requires_grad_()
    e = torch.bmm(x, x.transpose(1, 2))
    if energy == "official":
        e = e.max(dim=-1, keepdim=True).values.expand_as(e) - e
    output = torch.bmm(torch.softmax(e, dim=-1), x)
    output.backward(torch.tensor(np.asarray(cotangent, np.float64)).transpose(1, 2))
    return output.detach().transpose(1, 2).numpy(), x.grad.transpose(1, 2).numpy()


@pytest.mark.parametrize("energy", ["official", "paper"])
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_values_and_gradient(rng, energy, dtype, bound):
    features = jnp.asarray(0.3 * rng.standard_normal((2, 37, 16)), dtype)
    cotangent = jnp.asarray(rng.standard_normal(features.shape), dtype)
    output, vjp = jax.vjp(lambda x: channel_attention(x, energy=energy), features)
    (gradient,) = vjp(cotangent)
    for actual, expected in zip((output, gradient), published(features, energy, cotangent), strict=True):
        assert actual.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(actual, np.float64), expected, atol=bound * np.abs(expected).max()
        )


@pytest.mark.parametrize("energy", ["official", "paper"])
def test_masked_positions(rng, energy):
    features = jnp.asarray(0.3 * rng.standard_normal((2, 20, 8)), jnp.float32)
    counts = np.array([20, 13])
    mask = jnp.asarray(np.arange(20) < counts[:, None])
    invalid = jnp.where(mask[..., None], features, jnp.nan)
    output = channel_attention(invalid, energy=energy, mask=mask)
    for i, count in enumerate(counts):
        alone = channel_attention(features[i : i + 1, :count], energy=energy)[0]
        np.testing.assert_allclose(output[i, :count], alone, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(output[i, count:], 0)


def test_energy_is_summed_in_float32(rng):
    """A sum of ones in bfloat16 stops at 256, but there are thousands of positions."""
    features = jnp.asarray(rng.choice([1, -1], (1, 4096, 4)), jnp.bfloat16)
    features = features.at[:, :3000, 1].set(features[:, :3000, 0])
    text = jax.jit(channel_attention).lower(features).as_text()
    assert re.search(r"dot_general.*bf16>\) -> tensor<1x4x4xf32>", text)
    assert "tensor<1x4x4xbf16>" in text  # only the finished weights are rounded


def test_no_transposed_copy_of_the_features():
    spec = jax.ShapeDtypeStruct((1, 2048, 64), jnp.float32)
    text = jax.jit(channel_attention).lower(spec).compile().as_text()
    assert not re.search(r"f32\[1,(64,2048|2048,64)\]\S* (transpose|copy)\(", text)


def test_nan_is_propagated(rng):
    features = jnp.asarray(rng.standard_normal((1, 9, 4)), jnp.float32).at[0, 3, 1].set(jnp.nan)
    assert np.isnan(channel_attention(features)[0, 3]).all()
