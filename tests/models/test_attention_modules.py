"""The two attention modules on any feature map, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax import ChannelAttention, PositionAttention, attention_row


def softmax(x):
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_position_attention_on_any_feature_map(rng):
    x = rng.standard_normal((2, 5, 3, 16), np.float32)
    module = PositionAttention()
    variables = module.init(jax.random.key(0), jnp.asarray(x))
    params = {"alpha": jnp.float32(0.7), **{k: v for k, v in variables["params"].items() if k != "alpha"}}
    out, kept = module.apply({"params": params}, jnp.asarray(x), mutable=["intermediates"])
    wide = x.astype(np.float64).reshape(2, 15, 16)

    def project(name):
        return wide @ np.asarray(params[name]["kernel"], np.float64)[0, 0] + np.asarray(params[name]["bias"])

    query, key, value = project("query"), project("key"), project("value")
    expected = np.empty_like(wide)
    for batch in range(2):
        for place in range(15):
            weights = softmax(key[batch] @ query[batch, place])
            expected[batch, place] = 0.7 * weights @ value[batch] + wide[batch, place]
            if place == 4:
                row = attention_row(
                    *(kept["intermediates"][k][0] for k in ("queries", "keys")),
                    jnp.full((2, 1), 4, jnp.int32),
                )
                np.testing.assert_allclose(np.ravel(row[batch]), weights, atol=1e-5)
    np.testing.assert_allclose(out.reshape(2, 15, 16), expected, atol=2e-5)


def test_channel_attention_on_any_feature_map(rng):
    x = rng.standard_normal((2, 5, 3, 6), np.float32)
    wide = x.astype(np.float64).reshape(2, 15, 6)
    for energy, sign in (("official", -1.0), ("paper", 1.0)):
        out = ChannelAttention(energy=energy).apply({"params": {"beta": jnp.float32(0.7)}}, jnp.asarray(x))
        for batch in range(2):
            channels = wide[batch].T
            expected = np.empty_like(channels)
            for channel in range(6):
                weights = softmax(sign * (channels @ channels[channel]))
                expected[channel] = 0.7 * weights @ channels + channels[channel]
            np.testing.assert_allclose(out[batch].reshape(15, 6), expected.T, atol=2e-5)


def test_both_start_as_the_identity(rng):
    x = jnp.asarray(rng.standard_normal((1, 4, 7, 8), np.float32))
    for module in (PositionAttention(), ChannelAttention()):
        np.testing.assert_array_equal(module.apply(module.init(jax.random.key(0), x), x), x)
