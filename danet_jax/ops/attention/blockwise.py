"""Exact attention tile by tile in plain XLA operations: any device, memory linear in the number of positions.

With the running maximum and sum of each row, one pass over the keys is enough (online softmax; Milakov and
Gimelshein 2018, Rabe and Staats 2021); the backward pass recomputes each tile from the rows' logsumexp (Dao
et al. 2022). Nothing of size N x M exists, a tile is small enough to stay in a core's cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.ops.attention.common import blocks, once_differentiable, pad_keys, pad_rows
from danet_jax.ops.precision import float32_sums


class Tile(NamedTuple):
    """How much is computed at a time: `rows` queries by `columns` keys, multiplied as `dtype` (None: unchanged)."""

    rows: int
    columns: int
    dtype: Any = None


CPU_TILE = Tile(512, 1024, jnp.float32)
"""Two MiB of float32, in the second-level cache of today's cores; CPUs multiply bfloat16 slower than float32."""

ACCELERATOR_TILE = Tile(1024, 2048)
"""Matrix products large enough to fill a GPU or a TPU."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(tile: Tile, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`softmax(query key^T) value`, `[B, N, Cv]` of the dtype of `value`."""
    return forward(query, key, value, tile=tile)[0].astype(value.dtype)


def _attention_forward(tile: Tile, *arrays: jax.Array) -> tuple[jax.Array, Any]:
    arrays = once_differentiable(*arrays)
    # The gradient needs the output as float32: rounded to bfloat16 it would lose a digit where a row's weights lie on
    # few keys.
    output, logsumexp = forward(*arrays, tile=tile)
    return output.astype(arrays[2].dtype), (*arrays, output, logsumexp)


def _attention_backward(tile: Tile, residuals: Any, cotangent: jax.Array) -> Any:
    query, key, value, output, logsumexp = residuals
    return backward(query, key, value, output, logsumexp, cotangent, tile=tile)


attention.defvjp(_attention_forward, _attention_backward)


def forward(
    query: jax.Array, key: jax.Array, value: jax.Array, *, tile: Tile = CPU_TILE
) -> tuple[jax.Array, jax.Array]:
    """Computes `softmax(query key^T) value` `[B, N, Cv]`, and the logsumexp of every row `[B, N]`, both float32."""
    (places, _), (keys, _) = query.shape[1:], key.shape[1:]
    row_blocks, rows = blocks(places, tile.rows, 16)
    column_blocks, columns = blocks(keys, tile.columns, 16)
    query, key, value = pad_keys(query, key, value, column_blocks * columns)
    query = pad_rows(query, row_blocks * rows)

    def image(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys, values = (_split(x, column_blocks) for x in (key, value))

        def row_block(query: jax.Array) -> tuple[jax.Array, jax.Array]:
            def column_block(carry: tuple[jax.Array, ...], inputs: tuple[jax.Array, jax.Array]):
                maximum, total, weighted = carry
                key, value = inputs
                logits = float32_sums(query, key, 1, 1)
                new_maximum = jnp.maximum(maximum, jnp.max(logits, axis=1))
                shrink = jnp.exp(maximum - new_maximum)
                weights = jnp.exp(logits - new_maximum[:, None])
                total = total * shrink + jnp.sum(weights, axis=1)
                weighted = weighted * shrink[:, None] + float32_sums(weights.astype(value.dtype), value, 1, 0)
                return (new_maximum, total, weighted), None

            start = (
                jnp.full((rows,), -jnp.inf, jnp.float32),
                jnp.zeros((rows,), jnp.float32),
                jnp.zeros((rows, value.shape[1]), jnp.float32),
            )
            (maximum, total, weighted), _ = lax.scan(column_block, start, (keys, values))
            return weighted / total[:, None], maximum + jnp.log(total)

        output, logsumexp = lax.map(row_block, _split(query, row_blocks))
        return _join(output), _join(logsumexp)

    size = row_blocks * rows * column_blocks * columns
    output, logsumexp = _over_images(image, size, tile, *_cast(tile, query, key, value))
    return output[:, :places], logsumexp[:, :places]


def backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    output: jax.Array,
    logsumexp: jax.Array,
    cotangent: jax.Array,
    *,
    tile: Tile = CPU_TILE,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gradients of query, key and value from the float32 output and its gradient `[B, N, Cv]`."""
    dtypes = query.dtype, key.dtype, value.dtype
    places, keys = query.shape[1], key.shape[1]
    channels = query.shape[2]
    row_blocks, rows = blocks(places, tile.rows, 16)
    column_blocks, columns = blocks(keys, tile.columns, 16)
    # sum_j dP_ij P_ij of the softmax's derivative, without P.
    projection = jnp.sum(output * cotangent.astype(jnp.float32), axis=2)
    query, key, value = pad_keys(query, key, value, column_blocks * columns)
    query, cotangent, logsumexp, projection = (
        pad_rows(x, row_blocks * rows) for x in (query, cotangent, logsumexp, projection)
    )

    def image(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        cotangent: jax.Array,
        logsumexp: jax.Array,
        projection: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        by_rows = tuple(_split(x, row_blocks) for x in (query, cotangent, logsumexp, projection))

        # Tiles are queries by keys, as in the forward pass: where one weight of a row is nearly 1, both must round
        # its logit in the same way. dkey and dvalue are transposed, so that no product has to transpose a tile.
        def column_block(dquery: jax.Array, inputs: tuple[jax.Array, jax.Array]):
            key, value = inputs

            def row_block(carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, ...]):
                dkey, dvalue = carry
                query, cotangent, logsumexp, projection = inputs
                weights = jnp.exp(float32_sums(query, key, 1, 1) - logsumexp[:, None])
                dvalue = dvalue + float32_sums(cotangent, weights.astype(cotangent.dtype), 0, 0)
                dlogits = weights * (float32_sums(cotangent, value, 1, 1) - projection[:, None])
                dlogits = dlogits.astype(query.dtype)
                dkey = dkey + float32_sums(query, dlogits, 0, 0)
                return (dkey, dvalue), float32_sums(dlogits, key, 1, 0)

            start = jnp.zeros(key.shape[::-1], jnp.float32), jnp.zeros(value.shape[::-1], jnp.float32)
            (dkey, dvalue), dquery_part = lax.scan(row_block, start, by_rows)
            return dquery + dquery_part, (dkey.T, dvalue.T)

        start = jnp.zeros((row_blocks, rows, query.shape[1]), jnp.float32)
        dquery, (dkey, dvalue) = lax.scan(
            column_block, start, (_split(key, column_blocks), _split(value, column_blocks))
        )
        return _join(dquery), _join(dkey), _join(dvalue)

    size = row_blocks * rows * column_blocks * columns
    gradients = _over_images(
        image, size, tile, *_cast(tile, query, key, value, cotangent), logsumexp, projection
    )
    lengths = places, keys, keys
    widths = channels, channels, value.shape[2]
    dquery, dkey, dvalue = (
        x[:, :length, :width].astype(dtype)
        for x, length, width, dtype in zip(gradients, lengths, widths, dtypes, strict=True)
    )
    return dquery, dkey, dvalue


def _cast(tile: Tile, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    return arrays if tile.dtype is None else tuple(x.astype(tile.dtype) for x in arrays)


def _split(x: jax.Array, count: int) -> jax.Array:
    return x.reshape(count, x.shape[0] // count, *x.shape[1:])


def _join(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _over_images(function: Callable[..., Any], size: int, tile: Tile, *arrays: jax.Array) -> Any:
    """Maps `function` over the images of the batch: all at once if their maps of `size` fit a tile, else one by one."""
    if arrays[0].shape[0] * size <= tile.rows * tile.columns:
        return jax.vmap(function)(*arrays)
    return lax.map(lambda image: function(*image), arrays)
