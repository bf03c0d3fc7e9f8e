"""ReLU with a gradient that reads its result, which a network keeps anyway, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

RESULT = "result"
"""Name of what the gradient reads, for `jax.checkpoint_policies`."""


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """`max(x, 0)`, of any shape and float dtype; at 0 the gradient is 0.

    JAX's own keeps which values were cut, and of a sum the compilers compute it anew from both summands.
    """
    return jnp.maximum(x, 0)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = checkpoint_name(relu(x), RESULT)
    return y, y


def _backward(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    # Behind the barrier compilers do not find out what the result was made of.
    return (jnp.where(lax.optimization_barrier(y) > 0, dy, jnp.zeros((), dy.dtype)),)


relu.defvjp(_forward, _backward)
