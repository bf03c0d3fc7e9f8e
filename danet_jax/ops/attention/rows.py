"""Exact attention in plain operations: the complete map at once, or a number of queries at a time against all keys.

By rows, memory is linear in the number of keys. It uses no kernel, and the number of blocks need not be known, so it
can be exported for sizes that are known only at run time, and to formats with few operations.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.ops.attention.common import pad_rows
from danet_jax.ops.precision import float32_einsum

ROWS = 1024
"""The number of queries to compute at a time."""


def attention_by_rows(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `softmax(query key^T) value` `[B, N, Cv]`; B, N and M may be symbolic dimensions of `jax.export`."""
    batch, positions, channels = query.shape
    if isinstance(positions, int):
        parts = [plain_attention(query[:, i : i + ROWS], key, value) for i in range(0, positions, ROWS)]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
    blocks = (positions + ROWS - 1) // ROWS
    padded = pad_rows(query, blocks * ROWS)

    def block(index: jax.Array, result: jax.Array) -> jax.Array:
        rows = lax.dynamic_slice(padded, (0, index * ROWS, 0), (batch, ROWS, channels))
        return lax.dynamic_update_slice(result, plain_attention(rows, key, value), (0, index * ROWS, 0))

    result = jnp.zeros((batch, blocks * ROWS, value.shape[2]), value.dtype)
    return lax.fori_loop(0, blocks, block, result)[:, :positions]


def plain_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `softmax(query key^T) value` with the complete attention map in memory."""
    dtype = value.dtype
    query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    weights = jax.nn.softmax(float32_einsum("bnc,bmc->bnm", query, key), axis=-1)
    return float32_einsum("bnm,bmc->bnc", weights, value).astype(dtype)
