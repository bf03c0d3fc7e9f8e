"""Matrix products in full float32 precision, which accelerators round to fewer bits unless they are asked not to."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def float32_einsum(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes `jnp.einsum` of two arrays in float32 throughout."""
    return jnp.einsum(
        pattern,
        a.astype(jnp.float32),
        b.astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def float32_sums(
    a: jax.Array, b: jax.Array, a_axis: int, b_axis: int, *, batch_axes: Sequence[int] = ()
) -> jax.Array:
    """Computes a matrix product over the given axes, summed in float32; float32 factors keep their full precision.

    Factors of 16 bits are multiplied as they are, which is what accelerators do fastest.
    """
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    dimensions = (((a_axis,), (b_axis,)), (tuple(batch_axes), tuple(batch_axes)))
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)
