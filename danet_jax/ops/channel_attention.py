"""Channel attention (section 3.3, equations 3 and 4) without parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from danet_jax.ops.checks import check_arrays, check_choice
from danet_jax.ops.precision import float32_einsum

ENERGIES = ("official", "paper")
"""The two variants of channel attention, which differ in the sign of the energy; see `channel_attention`."""


def channel_attention(
    features: jax.Array, *, energy: str = "official", mask: jax.Array | None = None
) -> jax.Array:
    """Computes `A X`, in which every channel map is a weighted sum of all channel maps.

    X are the features as `[C, N]`, and `E = X X^T` is the energy. With `"paper"`, `A = softmax(E)`, which is equation
    3. With `"official"`, `A = softmax(rowmax(E) - E)`, which equals `softmax(-E)`, as in the authors' code and all
    published checkpoints. E, which is a sum over thousands of positions, and the softmax are computed in float32. The
    features are not copied to transpose them.

    Args:
      features: float32, bfloat16 or float16 `[B, N, C]`, with N positions and C channels.
      energy: `"official"` or `"paper"`.
      mask: bool `[B, N]`, False at positions to ignore, whose features are treated as zero.

    Returns:
      `[B, N, C]` of the features' dtype, before the scale beta and the residual connection are applied.

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
    # Automatic differentiation would compute two products and transpose their results; one product is sufficient.
    symmetric = cotangent + jnp.swapaxes(cotangent, 1, 2)
    return (float32_einsum("bnd,bdc->bnc", x, symmetric.astype(x.dtype)).astype(x.dtype),)


_gram.defvjp(_gram_forward, _gram_backward)
