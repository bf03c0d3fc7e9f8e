"""Matrix products in float32, which accelerators round to fewer bits unless they are asked not to."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def float32_einsum(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes `jnp.einsum` of two arrays with sums in float32.

    Products of float32 keep their full precision. Arrays of 16 bits are multiplied as they are, which accelerators do
    fastest.
    """
    precision = "highest" if a.dtype == jnp.float32 else "default"
    return jnp.einsum(pattern, a, b, precision=precision, preferred_element_type=jnp.float32)
