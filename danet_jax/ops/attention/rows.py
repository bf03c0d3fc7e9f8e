"""Exact attention in plain operations: some queries at a time against all keys.

Memory is linear in the number of keys. There is no kernel, and no number of blocks that must be known, so it
can be exported for sizes that are known only when the program runs, and to formats that have few operations.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.ops.precision import float32_einsum

ROWS = 1024
"""Queries at a time."""


def attention_by_rows(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `softmax(query key^T) value` `[B, N, Cv]`; B, N and M may be symbolic dimensions of `jax.export`."""

    def rows(query: jax.Array) -> jax.Array:
        return plain_attention(query, key, value)

    batch, places, channels = query.shape
    if isinstance(places, int):
        parts = [rows(query[:, start : start + ROWS]) for start in range(0, places, ROWS)]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
    blocks = (places + ROWS - 1) // ROWS
    padded = jnp.pad(query, ((0, 0), (0, blocks * ROWS - places), (0, 0)))

    def block(index: jax.Array, result: jax.Array) -> jax.Array:
        part = lax.dynamic_slice(padded, (0, index * ROWS, 0), (batch, ROWS, channels))
        return lax.dynamic_update_slice(result, rows(part), (0, index * ROWS, 0))

    result = jnp.zeros((batch, blocks * ROWS, value.shape[2]), value.dtype)
    return lax.fori_loop(0, blocks, block, result)[:, :places]


def plain_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `softmax(query key^T) value` with the whole map in memory."""
    weights = jax.nn.softmax(float32_einsum("bnc,bmc->bnm", query, key), axis=-1)
    return float32_einsum("bnm,bmc->bnc", weights, value).astype(value.dtype)
