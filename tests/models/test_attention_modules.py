"""The two attention modules against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax import ChannelAttention, PositionAttention, attention_row
from tests.reference.float64_attention import softmax


def test_position_attention(rng):
    x = rng.standard_normal((2, 5, 3, 16), np.float32)
    params = PositionAttention().init(jax.random.key(0), jnp.asarray(x))["params"] | {
        "alpha": jnp.float32(0.7)
    }
    out, kept = PositionAttention().apply({"params": params}, jnp.asarray(x), mutable=["intermediates"])
    wide = x.astype(np.float64).reshape(2, 15, 16)
    query, key, value = (
        wide @ np.asarray(params[name]["kernel"], np.float64)[0, 0] + np.asarray(params[name]["bias"])
        for name in ("query", "key", "value")
    )
    weights = softmax(query @ key.swapaxes(1, 2))
    np.testing.assert_allclose(out.reshape(2, 15, 16), 0.7 * weights @ value + wide, atol=2e-5)
    queries, keys = (kept["intermediates"][name][0] for name in ("queries", "keys"))
    row = attention_row(queries, keys, jnp.full((2, 1), 4, jnp.int32))
    np.testing.assert_allclose(row[:, 0], weights[:, 4], atol=1e-5)


@pytest.mark.parametrize(("energy", "sign"), [("official", -1.0), ("paper", 1.0)])
def test_channel_attention(rng, energy, sign):
    x = rng.standard_normal((2, 5, 3, 6), np.float32)
    out = ChannelAttention(energy=energy).apply({"params": {"beta": jnp.float32(0.7)}}, jnp.asarray(x))
    channels = x.astype(np.float64).reshape(2, 15, 6).swapaxes(1, 2)
    attended = softmax(sign * channels @ channels.swapaxes(1, 2)) @ channels
    expected = (0.7 * attended + channels).swapaxes(1, 2)
    np.testing.assert_allclose(out.reshape(2, 15, 6), expected, atol=2e-5)


def test_both_modules_are_initialised_as_the_identity(rng):
    x = jnp.asarray(rng.standard_normal((1, 4, 7, 8), np.float32))
    for module in (PositionAttention(), ChannelAttention()):
        np.testing.assert_array_equal(module.apply(module.init(jax.random.key(0), x), x), x)
