"""Recomputation in the backward pass does not change the gradients by a single bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax import DANet
from tests.reference.tiny_backbone import drawn_variables


@pytest.fixture(scope="module")
def gradients(few_blocks):
    """The loss, its gradients and batch statistics of a fixed network for a value of `remat`; that of none is kept."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 32, 40, 3)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(2, 2, 3, 3)), jnp.float32)
    model = DANet(3, backbone="resnet18", output_stride=16)
    variables = drawn_variables(rng, model)

    def compute(remat):
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

    kept = compute("none")
    return lambda remat: (compute(remat), kept)


@pytest.mark.parametrize("remat", ["normalisation", pytest.param("blocks", marks=pytest.mark.slow), "full"])
def test_gradients_are_bit_equal(gradients, remat):
    recomputed, kept = gradients(remat)
    jax.tree.map(np.testing.assert_array_equal, recomputed, kept)


@pytest.mark.parametrize(
    ("remat", "parts"), [("none", 0), ("normalisation", 10), ("blocks", 5), ("full", 12)]
)
def test_which_parts_are_recomputed(few_blocks, remat, parts):
    """The network has five blocks, a stem, and four convolutions and two attention modules in its head."""
    model = DANet(3, backbone="resnet18", remat=remat)
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def logits(variables):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0].fusion

    assert str(jax.make_jaxpr(logits)(variables)).count("= remat2[") == parts
