"""Channel attention (section 3.3, equations 3 and 4) without parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

ENERGIES = ("official", "paper")
"""The two signs of the attention that exist, see `channel_attention`."""


def channel_attention(
    features: jax.Array, *, energy: str = "official", mask: jax.Array | None = None
) -> jax.Array:
    """`A X`: every channel map becomes a weighted sum of all channel maps, `[B, N, C]` -> `[B, N, C]`.

    With X the features seen as `[C, N]` and `E = X X^T`: `"paper"` is equation 3, `A = softmax(E)`;
    `"official"` is the authors' code and every published checkpoint, `A = softmax(rowmax(E) - E)`, which is
    `softmax(-E)`. E, a sum over thousands of positions, and the softmax are float32 whatever the dtype
    of the features. No transposed copy of the features is made.

    Args:
      features: float32 or bfloat16 `[B, N, C]`, N positions of C channels.
      energy: `"official"` or `"paper"`.
      mask: bool `[B, N]`, False where a position does not exist; its features count as zero.

    Returns:
      `[B, N, C]` of the features' dtype, before the scale beta and the residual.

    Raises:
      ValueError: `energy` does not exist; the message names those that do.
    """
    if energy not in ENERGIES:
        raise ValueError(f"energy={energy!r} does not exist; there are: {', '.join(ENERGIES)}")
    if mask is not None:
        features = jnp.where(mask[..., None], features, jnp.zeros((), features.dtype))
    gram = lax.dot_general(
        features,
        features,
        (((1,), (1,)), ((0,), (0,))),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    attention = jax.nn.softmax(gram if energy == "paper" else -gram, axis=-1)
    attended = lax.dot_general(
        features,
        attention.astype(features.dtype),
        (((2,), (2,)), ((0,), (0,))),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return attended.astype(features.dtype)
