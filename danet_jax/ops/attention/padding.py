"""Positions that do not exist, for kernels that know none: those of a mask, and those that fill up a block."""

from __future__ import annotations

import jax
import jax.numpy as jnp

EXCLUDED = -1e30
"""Logit of a key that does not exist: its weight is exactly 0 beside any other's, and nothing overflows."""


def blocks(length: int, largest: int, multiple: int) -> tuple[int, int]:
    """`(count, size)` of equal blocks that cover `length` with the least padding.

    Blocks are no larger than `largest`, itself a multiple of `multiple`, and one block is exactly `length`.
    """
    count = -(-length // largest)
    if count == 1:
        return 1, length
    size = -(-length // count)
    return count, -(-size // multiple) * multiple


def exclude_keys(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value for which the keys where `mask` (bool `[B, M]`) is False have no weight.

    One more channel, 1 in every query and 0 or `EXCLUDED` in the keys, adds the mask to the logits: any
    kernel that computes softmax(query key^T) value is then masked. Keys and values that do not exist become
    0, so that not even a NaN among them is seen; a query without any key gets 0.
    """
    bias = jnp.where(mask[..., None], 0.0, EXCLUDED).astype(key.dtype)
    ones = jnp.ones((*query.shape[:-1], 1), query.dtype)
    query = jnp.concatenate([query, ones], axis=-1)
    key = jnp.concatenate([jnp.where(mask[..., None], key, jnp.zeros((), key.dtype)), bias], axis=-1)
    return query, key, jnp.where(mask[..., None], value, jnp.zeros((), value.dtype))


def pad_rows(x: jax.Array, length: int) -> jax.Array:
    """`x` `[B, N, ...]` with zeros behind, to `[B, length, ...]`."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))


def pad_keys(
    query: jax.Array, key: jax.Array, value: jax.Array, length: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keys and values padded to `length` positions, those behind excluded; all unchanged if nothing is to pad."""
    keys = key.shape[1]
    if length == keys:
        return query, key, value
    mask = jnp.broadcast_to(jnp.arange(length) < keys, (key.shape[0], length))
    return exclude_keys(query, pad_rows(key, length), pad_rows(value, length), mask)
