"""Position attention (section 3.2, equations 1 and 2) without parameters: exact, in linear memory, on any device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.errors import InputError
from danet_jax.ops.attention_dispatch import KERNELS, attention
from danet_jax.ops.attention_padding import exclude_keys
from danet_jax.ops.attention_rows import attention_by_rows

BACKENDS = (*KERNELS, "rows", "reference")
"""The ways to compute position attention, see `position_attention`."""


def position_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    key_mask: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """`out_j = sum_i softmax_i(query_j . key_i) value_i`, without 1/sqrt(d) (equations 1 and 2, before alpha).

    Every backend computes exactly this, logits, softmax and sums in float32; all but `"reference"` in memory
    linear in N and M, in both directions: the gradient recomputes the map piece by piece. Batch and queries
    may be divided over devices, under `jit` each device then computes its part. NaN in gives NaN out.

    Args:
      query: float32 or bfloat16 `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      value: `[B, M, Cv]`; all of one dtype.
      key_mask: bool `[B, M]`, False where a key does not exist, whatever it holds. A query all of whose keys
        are missing gets zeros.
      backend: `"auto"` takes the best of the following for the platform that the program is lowered for.
        `"blockwise"`: tiles in plain XLA, any device. `"splash"`: JAX's TPU kernel. `"cudnn"`: flash attention
        of cuDNN on NVIDIA GPUs since Ampere, bfloat16 or float16. `"rows"`: some queries at a time, in operations
        that every exporter knows; sizes that are symbolic (`jax.export`) are always computed so.
        `"reference"`: the plain form, N x M in memory, with second derivatives.

    Returns:
      `[B, N, Cv]` of the dtype of `value`.

    Raises:
      InputError: the backend does not exist, or cannot run on the platform that the program is lowered for.
      TypeError: the dtypes differ.
      ValueError: the shapes do not fit.
    """
    if backend not in BACKENDS:
        raise InputError(f"attention backend {backend!r} does not exist; there are: {', '.join(BACKENDS)}")
    if not query.dtype == key.dtype == value.dtype:
        raise TypeError(
            f"query, key and value must have one dtype, not {query.dtype}, {key.dtype}, {value.dtype}"
        )
    _check_shapes(query, key, value, key_mask)
    if key_mask is not None:
        query, key, value = exclude_keys(query, key, value, key_mask)
    if backend == "rows" or not all(isinstance(n, int) for n in (*query.shape[:2], key.shape[1])):
        return attention_by_rows(query, key, value)
    if backend != "reference":
        return attention(backend, query, key, value)
    weights = jax.nn.softmax(_logits(query, key), axis=-1)
    return _product("bnm,bmc->bnc", weights, value).astype(value.dtype)


def attention_row(
    query: jax.Array, key: jax.Array, index: jax.Array, *, key_mask: jax.Array | None = None
) -> jax.Array:
    """What chosen positions attend to: their rows of the attention map, without the rest of it.

    Args:
      query: `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      index: int `[B, K]`, positions among the queries.
      key_mask: see `position_attention`.

    Returns:
      Float32 `[B, K, M]`; each row sums to 1.
    """
    logits = _logits(jnp.take_along_axis(query, index[..., None], axis=1), key)
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, :], logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1)


def row_logsumexp(
    query: jax.Array, key: jax.Array, *, key_mask: jax.Array | None = None, rows: int = 1024
) -> jax.Array:
    """The logarithm of the denominator of every row of the map, `log sum_i exp(query_j . key_i)`.

    Args:
      query: `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      key_mask: see `position_attention`.
      rows: of the map at a time.

    Returns:
      Float32 `[B, N]`: all that `attention_column` needs to have seen of the map.
    """

    def one(query: jax.Array) -> jax.Array:
        logits = _logits(query[:, None, :], key)
        if key_mask is not None:
            logits = jnp.where(key_mask[:, None, :], logits, -jnp.inf)
        return jax.nn.logsumexp(logits, axis=-1)[:, 0]

    return lax.map(one, jnp.swapaxes(query, 0, 1), batch_size=rows).T


def attention_column(query: jax.Array, key: jax.Array, logsumexp: jax.Array, index: jax.Array) -> jax.Array:
    """Who attends to chosen positions: their columns of the attention map, without the rest of it.

    Args:
      query: `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      logsumexp: float32 `[B, N]` of `row_logsumexp`, computed once per image.
      index: int `[B, K]`, positions among the keys.

    Returns:
      Float32 `[B, N, K]`: the weight of each chosen key in every query's row.
    """
    chosen = jnp.take_along_axis(key, index[..., None], axis=1)
    return jnp.exp(_logits(query, chosen) - logsumexp[..., None])


def _product(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(
        pattern,
        a.astype(jnp.float32),
        b.astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _logits(query: jax.Array, key: jax.Array) -> jax.Array:
    return _product("bnc,bmc->bnm", query, key)


def _check_shapes(query: jax.Array, key: jax.Array, value: jax.Array, key_mask: jax.Array | None) -> None:
    batch, channels = query.shape[0], query.shape[-1]
    keys = key.shape[1:2]
    if (
        not query.ndim == key.ndim == value.ndim == 3
        or key.shape != (batch, *keys, channels)
        or value.shape[:2] != (batch, *keys)
        or (key_mask is not None and key_mask.shape != (batch, *keys))
    ):
        shapes = f"{query.shape}, {key.shape}, {value.shape}"
        mask = "" if key_mask is None else f", {key_mask.shape}"
        raise ValueError(
            f"query [B, N, Ck], key [B, M, Ck], value [B, M, Cv], key_mask [B, M]: got {shapes}{mask}"
        )
