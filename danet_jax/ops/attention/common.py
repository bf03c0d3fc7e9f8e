"""What the kernels share: keys that do not exist, padding to blocks, and the refusal of second derivatives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from danet_jax.errors import InputError


def blocks(length: int, largest: int, multiple: int) -> tuple[int, int]:
    """Returns `(count, size)` of equal blocks that cover `length` with the least padding.

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
    """Returns query, key and value for which the keys where `mask` (bool `[B, M]`) is False have no weight.

    One more channel, constant in every query and 0 or a large negative number in the keys, adds the mask to the
    logits, so that any kernel that computes softmax(query key^T) value is masked. Keys and values that do not exist
    become 0, so that not even a NaN among them has an effect. A query without any key gets 0.
    """
    # The product is the logit of a key that does not exist: its weight is exactly 0 beside any other key's, and
    # nothing overflows. float16 does not hold 1e30, but float32, in which logits are summed, holds the product.
    factor, excluded = (2.0**15, -(2.0**15)) if key.dtype == jnp.float16 else (1.0, -1e30)
    exists = mask[..., None]
    bias = jnp.where(exists, 0.0, excluded).astype(key.dtype)
    query = jnp.concatenate([query, jnp.full((*query.shape[:-1], 1), factor, query.dtype)], axis=-1)
    key = jnp.concatenate([jnp.where(exists, key, jnp.zeros((), key.dtype)), bias], axis=-1)
    return query, key, jnp.where(exists, value, jnp.zeros((), value.dtype))


def pad_rows(x: jax.Array, length: int) -> jax.Array:
    """Pads `x` `[B, N, ...]` with zeros at the end to `[B, length, ...]`."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))


def pad_keys(
    query: jax.Array, key: jax.Array, value: jax.Array, length: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pads keys and values to `length` positions and excludes the new ones; changes nothing if there are none."""
    keys = key.shape[1]
    if length == keys:
        return query, key, value
    mask = jnp.broadcast_to(jnp.arange(length) < keys, (key.shape[0], length))
    return exclude_keys(query, pad_rows(key, length), pad_rows(value, length), mask)


@jax.custom_jvp
def once_differentiable(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the arrays unchanged. A kernel's own forward pass applies it, so that differentiating that is refused."""
    return arrays


@once_differentiable.defjvp
def _refuse(*_: Any) -> Any:
    raise InputError(
        'backend="reference" is needed for second derivatives of position_attention; other kernels have first-order '
        "reverse-mode gradients only",
        what="backend",
        allowed=["reference", "rows"],
    )
