"""Channel attention (section 3.3, equations 3 and 4) without parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from danet_jax.ops.checks import check_arrays, check_choice
from danet_jax.ops.precision import float32_einsum

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

    Example:
      >>> import jax
      >>> from danet_jax import channel_attention
      >>> channel_attention(jax.random.normal(jax.random.key(0), (1, 20, 8))).shape
      (1, 20, 8)
    """
    check_choice("energy", energy, ENERGIES)
    check_arrays(features=(features, "float B N C"), mask=(mask, "bool B N or None"))
    if mask is not None:
        features = jnp.where(mask[..., None], features, jnp.zeros((), features.dtype))
    gram = _gram(features)
    attention = jax.nn.softmax(gram if energy == "paper" else -gram, axis=-1).astype(features.dtype)
    return float32_einsum("bnd,bcd->bnc", features, attention).astype(features.dtype)


@jax.custom_vjp
def _gram(x: jax.Array) -> jax.Array:
    """Computes `X X^T` of every image, float32 `[B, C, C]`, from `x` `[B, N, C]`."""
    return float32_einsum("bnc,bnd->bcd", x, x)


def _gram_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gram(x), x


def _gram_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    # One product with the sum, where automatic differentiation would make two and transpose their results.
    symmetric = cotangent + jnp.swapaxes(cotangent, 1, 2)
    return (float32_einsum("bnd,bdc->bnc", x, symmetric.astype(x.dtype)).astype(x.dtype),)


_gram.defvjp(_gram_forward, _gram_backward)
