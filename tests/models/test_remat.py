"""What the backward pass recomputes equals what it would have kept, bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax import DANet
from danet_jax.models import resnet


@pytest.mark.parametrize("remat", ["normalisation", pytest.param("blocks", marks=pytest.mark.slow), "full"])
def test_gradients_are_equal_bit_by_bit(rng, monkeypatch, remat):
    monkeypatch.setitem(resnet.BLOCKS, "resnet50", (1, 1, 1, 1))
    images = jnp.asarray(rng.normal(size=(2, 32, 40, 3)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(2, 4, 5, 3)), jnp.float32)
    model = DANet(3, backbone="resnet50")
    variables = jax.jit(model.init)(jax.random.key(int(rng.integers(2**31))), images)
    # alpha and beta start at 0, where attention has no gradient
    variables = jax.tree.map(lambda x: x + 0.1 if x.ndim == 0 else x, variables)

    def gradients(remat):
        def loss(params):
            logits, updates = model.clone(remat=remat).apply(
                {**variables, "params": params},
                images,
                train=True,
                upsample=False,
                rngs={"dropout": jax.random.key(1)},
                mutable=["batch_stats"],
            )
            return sum(jnp.sum(jnp.sin(x) * weights) for x in logits if x is not None), updates

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    jax.tree.map(np.testing.assert_array_equal, gradients(remat), gradients("none"))
