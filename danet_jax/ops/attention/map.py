"""Rows and columns of the position attention map, without the rest of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from danet_jax.errors import InputError
from danet_jax.ops.checks import check_array, check_index, check_shapes_fit, check_whole
from danet_jax.ops.precision import float32_einsum


def attention_row(
    query: jax.Array, key: jax.Array, index: jax.Array, *, key_mask: jax.Array | None = None
) -> jax.Array:
    """Computes what chosen positions attend to: their rows of the attention map, without the rest of it.

    Args:
      query: `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      index: int `[B, K]`, positions among the queries.
      key_mask: see `position_attention`.

    Returns:
      Float32 `[B, K, M]`; each row sums to 1.

    Raises:
      InputError: an array has the wrong dtype or shape, a position does not exist, or an image has no key at all
        (under `jit`, where values are not known, the last two give NaN).
    """
    _check(query, key, key_mask)
    check_array("index", index, "B K", "integer")
    check_shapes_fit(query=(query, "B N Ck"), index=(index, "B K"))
    check_index("index", index, query.shape[1])
    logits = _logits(jnp.take_along_axis(query, index[..., None], axis=1), key)
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, :], logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1)


def row_statistics(query: jax.Array, key: jax.Array, *, rows: int = 16) -> tuple[jax.Array, jax.Array]:
    """Measures how sharply positions attend: it tells a map that chooses from one that averages everything.

    Args:
      query: `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      rows: how many evenly spaced rows of each image's map are used.

    Returns:
      The standard deviation of a row's logits, and the entropy of a row divided by log M, that of a uniform row;
      both float32 `()`, means over the rows. A spread far below 1 or an entropy close to 1 is a uniform map.
    """
    chosen = query[:, :: max(1, query.shape[1] // rows)]
    logits = _logits(chosen, key)
    logarithms = jax.nn.log_softmax(logits, axis=-1)
    entropy = -jnp.sum(jnp.exp(logarithms) * logarithms, axis=-1)
    uniform = jnp.log(jnp.float32(max(key.shape[1], 2)))
    return jnp.mean(jnp.std(logits, axis=-1)), jnp.mean(entropy) / uniform


def row_logsumexp(
    query: jax.Array, key: jax.Array, *, key_mask: jax.Array | None = None, rows: int = 1024
) -> jax.Array:
    """Computes the logarithm of the denominator of every row of the map, `log sum_i exp(query_j . key_i)`.

    Args:
      query: `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      key_mask: see `position_attention`.
      rows: how many rows of the map are computed at a time.

    Returns:
      Float32 `[B, N]`: all that `attention_column` needs to know of the rest of the map.

    Raises:
      InputError: an array has the wrong dtype or shape, or an image has no key at all.
    """
    _check(query, key, key_mask)
    check_whole("rows", rows)

    def one(query: jax.Array) -> jax.Array:
        logits = _logits(query[:, None, :], key)
        if key_mask is not None:
            logits = jnp.where(key_mask[:, None, :], logits, -jnp.inf)
        return jax.nn.logsumexp(logits, axis=-1)[:, 0]

    return lax.map(one, jnp.swapaxes(query, 0, 1), batch_size=rows).T


def attention_column(query: jax.Array, key: jax.Array, logsumexp: jax.Array, index: jax.Array) -> jax.Array:
    """Computes which positions attend to chosen ones: their columns of the attention map, without the rest of it.

    Args:
      query: `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      logsumexp: float32 `[B, N]` of `row_logsumexp`, computed once per image.
      index: int `[B, K]`, positions among the keys.

    Returns:
      Float32 `[B, N, K]`: the weight of each chosen key in every query's row.

    Raises:
      InputError: an array has the wrong dtype or shape, or a position does not exist (under `jit` it gives NaN).
    """
    _check(query, key, None)
    check_array("logsumexp", logsumexp, "B N", "float")
    check_array("index", index, "B K", "integer")
    check_shapes_fit(query=(query, "B N Ck"), logsumexp=(logsumexp, "B N"), index=(index, "B K"))
    check_index("index", index, key.shape[1])
    chosen = jnp.take_along_axis(key, index[..., None], axis=1)
    return jnp.exp(_logits(query, chosen) - logsumexp[..., None])


def check_key_mask(query: jax.Array, key: jax.Array, key_mask: jax.Array) -> None:
    """Raises InputError unless `key_mask` is bool `[B, M]`."""
    check_array("key_mask", key_mask, "B M", "bool")
    check_shapes_fit(query=(query, "B N Ck"), key=(key, "B M Ck"), key_mask=(key_mask, "B M"))


def _check(query: jax.Array, key: jax.Array, key_mask: jax.Array | None) -> None:
    check_array("query", query, "B N Ck", "float")
    check_array("key", key, "B M Ck", "float")
    check_shapes_fit(query=(query, "B N Ck"), key=(key, "B M Ck"))
    if key_mask is not None:
        check_key_mask(query, key, key_mask)
        if not isinstance(key_mask, jax.core.Tracer) and not np.asarray(key_mask).any(1).all():
            raise InputError(
                "key_mask leaves an image without any key; there is nothing to attend to", what="key_mask"
            )


def _logits(query: jax.Array, key: jax.Array) -> jax.Array:
    return float32_einsum("bnc,bmc->bnm", query, key)
