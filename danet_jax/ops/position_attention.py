"""Position attention (section 3.2, equations 1 and 2) without parameters, exact and in linear memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

BACKENDS = ("auto", "reference")


def position_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    key_mask: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """`softmax(query key^T) value`, without 1/sqrt(d): `[B, N, Ck]`, `[B, M, Ck]`, `[B, M, Cv]` -> `[B, N, Cv]`.

    Args:
      query: `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      value: `[B, M, Cv]`.
      key_mask: bool `[B, M]`, False where a key does not exist.
      backend: how it is computed.

    Returns:
      `[B, N, Cv]` of the dtype of `value`.
    """
    del backend
    logits = jnp.einsum(
        "bnc,bmc->bnm", query, key, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, :], logits, -1e30)
        value = jnp.where(key_mask[:, :, None], value, jnp.zeros((), value.dtype))
    attention = jax.nn.softmax(logits, axis=-1)
    return jnp.einsum(
        "bnm,bmc->bnc",
        attention,
        value.astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    ).astype(value.dtype)


def attention_row(query: jax.Array, key: jax.Array, index: jax.Array) -> jax.Array:
    """The attention of the positions `index` int `[B, K]` over all keys: float32 `[B, K, M]`, rows sum to 1."""
    chosen = jnp.take_along_axis(query, index[..., None], axis=1)
    logits = jnp.einsum(
        "bkc,bmc->bkm", chosen, key, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits, axis=-1)
