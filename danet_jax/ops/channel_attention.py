"""Channel attention (section 3.3, equations 3 and 4) without parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from danet_jax.ops.checks import check_array, check_name, check_shapes_fit
from danet_jax.ops.precision import float32_sums

ENERGIES = ("official", "paper")
"""The two signs of the attention that exist, see `channel_attention`."""


def channel_attention(
    features: jax.Array, *, energy: str = "official", mask: jax.Array | None = None
) -> jax.Array:
    """Computes `A X`: every channel map becomes a weighted sum of all channel maps.

    With X the features seen as `[C, N]` and `E = X X^T`: `"paper"` is equation 3, `A = softmax(E)`;
    `"official"` is the authors' code and every published checkpoint, `A = softmax(rowmax(E) - E)`, which is
    `softmax(-E)`. E, a sum over thousands of positions, and the softmax are float32 whatever the dtype
    of the features. No transposed copy of the features is made.

    Args:
      features: float32, bfloat16 or float16 `[B, N, C]`, N positions of C channels.
      energy: `"official"` or `"paper"`.
      mask: bool `[B, N]`, False where a position does not exist; its features count as zero.

    Returns:
      `[B, N, C]` of the features' dtype, before the scale beta and the residual.

    Raises:
      InputError: `energy` does not exist, or an array has the wrong dtype or shape.
    """
    features, attention = _attention(features, energy, mask)
    return _product(features, attention.astype(features.dtype), 2, 2).astype(features.dtype)


def channel_attention_map(
    features: jax.Array, *, energy: str = "official", mask: jax.Array | None = None
) -> jax.Array:
    """Computes A of `channel_attention` from the same arguments: float32 `[B, C, C]`; each row sums to 1."""
    return _attention(features, energy, mask)[1]


def _attention(features: jax.Array, energy: str, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Returns the features without those of positions that do not exist, and A."""
    check_name("energy", energy, ENERGIES)
    check_array("features", features, "B N C", "float")
    if mask is not None:
        check_array("mask", mask, "B N", "bool")
        check_shapes_fit(features=(features, "B N C"), mask=(mask, "B N"))
        features = jnp.where(mask[..., None], features, jnp.zeros((), features.dtype))
    gram = _gram(features)
    return features, jax.nn.softmax(gram if energy == "paper" else -gram, axis=-1)


@jax.custom_vjp
def _gram(x: jax.Array) -> jax.Array:
    """Computes `X X^T` of every image, float32 `[B, C, C]`, from `x` `[B, N, C]`."""
    return _product(x, x, 1, 1)


def _gram_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gram(x), x


def _gram_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    # One product with the sum, where automatic differentiation would make two and transpose their results.
    symmetric = cotangent + jnp.swapaxes(cotangent, 1, 2)
    return (_product(x, symmetric.astype(x.dtype), 2, 1).astype(x.dtype),)


_gram.defvjp(_gram_forward, _gram_backward)


def _product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    return float32_sums(a, b, a_axis, b_axis, batch_axes=(0,))
