"""Products in full precision, which accelerators round to fewer bits unless they are asked not to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def float32_einsum(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum` of two arrays in float32 throughout."""
    return jnp.einsum(
        pattern,
        a.astype(jnp.float32),
        b.astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
