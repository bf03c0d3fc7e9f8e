"""Functions that the kernels share: excluding keys, padding to blocks, and refusing second derivatives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from danet_jax.errors import InputError


def blocks(length: int, largest: int, multiple: int) -> tuple[int, int]:
    """Returns the count and size of equal blocks that cover `length` with the least padding.

    A single block has exactly the size `length`; otherwise the size is a multiple of `multiple`. It is at most
    `largest`, which must be a multiple of `multiple`.
    """
    count = -(-length // largest)
    if count == 1:
        return 1, length
    size = -(-length // count)
    return count, -(-size // multiple) * multiple


def exclude_keys(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns query, key and value with which keys where `mask` (bool `[B, M]`) is False have no weight.

    An additional channel, which is constant in the queries and 0 or a large negative number in the keys, adds the mask
    to the logits, so that the result of any kernel for softmax(query key^T) value is masked. Excluded keys and values
    are replaced by 0, so that even NaN in them has no effect. The output of a query without any key is 0.
    """
    # The product of factor and excluded is the logit of an excluded key. It is so low that its weight is exactly 0 if
    # there are other keys, but does not overflow. 1e30 is too large for float16, but the logits are summed in float32.
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
    """Pads keys and values to `length` positions and excludes the added ones, if there are any."""
    keys = key.shape[1]
    if length == keys:
        return query, key, value
    mask = jnp.broadcast_to(jnp.arange(length) < keys, (key.shape[0], length))
    return exclude_keys(query, pad_rows(key, length), pad_rows(value, length), mask)


@jax.custom_jvp
def once_differentiable(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the arrays unchanged, but raises InputError when it is differentiated.

    Forward passes of kernels apply it, so that second derivatives are refused.
    """
    return arrays


@once_differentiable.defjvp
def _refuse(*_: Any) -> Any:
    raise InputError(
        'backend="reference" is needed for second derivatives of position_attention; other kernels have first-order '
        "reverse-mode gradients only",
        what="backend",
        allowed=["reference", "rows"],
    )
