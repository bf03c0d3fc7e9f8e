"""Matrix products in full float32 precision, whose operands accelerators otherwise round to fewer bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def float32_einsum(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes `jnp.einsum` of two arrays, accumulated in float32.

    Products of float32 have full precision. 16-bit arrays are multiplied without a cast, which is fastest on
    accelerators.
    """
    precision = "highest" if a.dtype == jnp.float32 else "default"
    return jnp.einsum(pattern, a, b, precision=precision, preferred_element_type=jnp.float32)
