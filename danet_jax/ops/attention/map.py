"""Computes rows, columns and statistics of the position attention map without computing the complete map."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from danet_jax.errors import InputError
from danet_jax.ops.checks import check_arrays, check_index, check_whole
from danet_jax.ops.precision import float32_einsum


def attention_row(
    query: jax.Array, key: jax.Array, index: jax.Array, *, key_mask: jax.Array | None = None
) -> jax.Array:
    """Computes chosen rows of the attention map, which contain what these positions attend to.

    Args:
      query: float `[B, N, Ck]`.
      key: float `[B, M, Ck]`.
      index: int `[B, K]`, indices of the queries.
      key_mask: bool `[B, M]`; see `position_attention`.

    Returns:
      Float32 `[B, K, M]`; each row sums to 1.

    Raises:
      InputError: an array has the wrong dtype or shape, an index is out of range, or an image has no key at all. Under
        `jit`, where values are not known, the last two result in NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from danet_jax import attention_row
      >>> query, key = (jax.random.normal(jax.random.key(i), (1, 20, 8)) for i in range(2))
      >>> attention_row(query, key, jnp.array([[0, 7]])).shape
      (1, 2, 20)
    """
    check_arrays(
        query=(query, "float B N Ck"),
        key=(key, "float B M Ck"),
        index=(index, "integer B K"),
        key_mask=(key_mask, "bool B M or None"),
    )
    _check_keys_exist(key_mask)
    check_index("index", index, query.shape[1])
    return jax.nn.softmax(_logits(_chosen(query, index), key, key_mask), axis=-1)


def row_statistics(query: jax.Array, key: jax.Array, *, rows: int = 16) -> tuple[jax.Array, jax.Array]:
    """Measures how sharp the attention is, which distinguishes a selective map from one that averages everything.

    Args:
      query: float `[B, N, Ck]`.
      key: float `[B, M, Ck]`.
      rows: the number of evenly spaced rows of each image's map to use.

    Returns:
      The standard deviation of a row's logits (the spread), and the entropy of a row divided by that of a uniform row,
      log M. Both are float32 `()`, averaged over the rows. A spread far below 1 or an entropy close to 1 indicates a
      uniform map.
    """
    logits = _logits(query[:, :: max(1, query.shape[1] // rows)], key)
    logarithms = jax.nn.log_softmax(logits, axis=-1)
    entropy = -jnp.sum(jnp.exp(logarithms) * logarithms, axis=-1)
    uniform = jnp.log(jnp.float32(max(key.shape[1], 2)))
    return jnp.mean(jnp.std(logits, axis=-1)), jnp.mean(entropy) / uniform


def row_logsumexp(
    query: jax.Array, key: jax.Array, *, key_mask: jax.Array | None = None, rows: int = 1024
) -> jax.Array:
    """Computes the logarithm of the softmax denominator of every row, `log sum_i exp(query_j . key_i)`.

    Args:
      query: float `[B, N, Ck]`.
      key: float `[B, M, Ck]`.
      key_mask: bool `[B, M]`; see `position_attention`.
      rows: the number of rows of the map to compute at a time.

    Returns:
      Float32 `[B, N]`, to be passed to `attention_column`.

    Raises:
      InputError: an array has the wrong dtype or shape, or an image has no key at all.
    """
    check_arrays(
        query=(query, "float B N Ck"), key=(key, "float B M Ck"), key_mask=(key_mask, "bool B M or None")
    )
    _check_keys_exist(key_mask)
    check_whole("rows", rows)

    def one_row(query: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(_logits(query[:, None, :], key, key_mask), axis=-1)[:, 0]

    return lax.map(one_row, jnp.swapaxes(query, 0, 1), batch_size=rows).T


def attention_column(query: jax.Array, key: jax.Array, logsumexp: jax.Array, index: jax.Array) -> jax.Array:
    """Computes chosen columns of the attention map, which contain how much every position attends to these positions.

    Args:
      query: float `[B, N, Ck]`.
      key: float `[B, M, Ck]`.
      logsumexp: float32 `[B, N]`, the result of `row_logsumexp`, which has to be computed only once per image.
      index: int `[B, K]`, indices of the keys.

    Returns:
      Float32 `[B, N, K]`, the weight of each chosen key in every query's row.

    Raises:
      InputError: an array has the wrong dtype or shape, or an index is out of range (under `jit`, the result is NaN
        instead).
    """
    check_arrays(
        query=(query, "float B N Ck"),
        key=(key, "float B M Ck"),
        logsumexp=(logsumexp, "float B N"),
        index=(index, "integer B K"),
    )
    check_index("index", index, key.shape[1])
    return jnp.exp(_logits(query, _chosen(key, index)) - logsumexp[..., None])


def _check_keys_exist(key_mask: jax.Array | None) -> None:
    if key_mask is None or isinstance(key_mask, jax.core.Tracer):
        return
    if not np.asarray(key_mask).any(1).all():
        raise InputError("key_mask excludes all keys of an image", what="key_mask")


def _chosen(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, index[..., None], axis=1)


def _logits(query: jax.Array, key: jax.Array, key_mask: jax.Array | None = None) -> jax.Array:
    logits = float32_einsum("bnc,bmc->bnm", query.astype(jnp.float32), key.astype(jnp.float32))
    return logits if key_mask is None else jnp.where(key_mask[:, None, :], logits, -jnp.inf)
