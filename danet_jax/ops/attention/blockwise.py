"""Exact attention tile by tile in plain XLA operations, on any device, with memory linear in the number of positions.

With a running maximum and sum for each row, one pass over the keys is sufficient (online softmax; Milakov and
Gimelshein 2018, Rabe and Staats 2021). The backward pass recomputes each tile from the rows' logsumexp (Dao et al.
2022). No array of size N x M is created, and a tile is small enough to stay in a core's cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.ops.attention.common import blocks, once_differentiable, pad_keys, pad_rows
from danet_jax.ops.precision import float32_einsum


class Tile(NamedTuple):
    """The part of the attention map that is computed at a time.

    Attributes:
      rows: number of queries.
      columns: number of keys.
      dtype: dtype that arrays are cast to before they are multiplied; None leaves it unchanged.
    """

    rows: int
    columns: int
    dtype: Any = None


CPU_TILE = Tile(512, 1024, jnp.float32)
"""The tile for CPUs: 2 MiB of float32, which fits into a second-level cache. CPUs multiply bfloat16 more slowly."""

ACCELERATOR_TILE = Tile(1024, 2048)
"""The tile for accelerators, whose matrix products are large enough to fill a GPU or TPU."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(tile: Tile, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `softmax(query key^T) value`, `[B, N, Cv]` of the dtype of `value`."""
    return _forward(tile, query, key, value)[0]


def _forward(tile: Tile, *arrays: jax.Array) -> tuple[jax.Array, Any]:
    arrays = once_differentiable(*arrays)
    tiling = _Tiling(tile, *arrays)
    query, key, value = tiling.cast(*tiling.pad(*arrays))

    def one_image(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        def row_block(query: jax.Array) -> tuple[jax.Array, jax.Array]:
            def column_block(carry: tuple[jax.Array, ...], inputs: tuple[jax.Array, jax.Array]):
                maximum, total, weighted = carry
                key, value = inputs
                logits = float32_einsum("nc,mc->nm", query, key)
                new_maximum = jnp.maximum(maximum, jnp.max(logits, axis=1))
                shrink = jnp.exp(maximum - new_maximum)
                weights = jnp.exp(logits - new_maximum[:, None])
                total = total * shrink + jnp.sum(weights, axis=1)
                products = float32_einsum("nm,mc->nc", weights.astype(value.dtype), value)
                return (new_maximum, total, weighted * shrink[:, None] + products), None

            rows = len(query)
            start = (
                jnp.full((rows,), -jnp.inf, jnp.float32),
                jnp.zeros((rows,), jnp.float32),
                jnp.zeros((rows, value.shape[-1]), jnp.float32),
            )
            (maximum, total, weighted), _ = lax.scan(column_block, start, (key, value))
            return weighted / total[:, None], maximum + jnp.log(total)

        return lax.map(row_block, query)

    output, logsumexp = tiling.over_images(one_image, tiling.rows(query), *map(tiling.columns, (key, value)))
    output, logsumexp = (_join(x)[:, : arrays[0].shape[1]] for x in (output, logsumexp))
    # The gradient needs the output in float32. In bfloat16 it would lose a digit if a row's weights are concentrated on
    # few keys.
    return output.astype(arrays[2].dtype), (*arrays, output, logsumexp)


def _backward(tile: Tile, residuals: Any, cotangent: jax.Array) -> tuple[jax.Array, ...]:
    *arrays, output, logsumexp = residuals
    tiling = _Tiling(tile, *arrays)
    # This is sum_j dP_ij P_ij of the softmax's derivative, without P.
    projection = jnp.sum(output * cotangent.astype(jnp.float32), axis=2)
    query, key, value = tiling.cast(*tiling.pad(*arrays))
    [cotangent] = tiling.cast(cotangent)

    def one_image(key: jax.Array, value: jax.Array, *by_rows: jax.Array) -> tuple[jax.Array, ...]:
        # Tiles are queries by keys, as in the forward pass, because both passes must round a logit in the same way if
        # its weight is close to 1. dkey and dvalue are transposed, so that no product has to transpose a tile.
        def column_block(dquery: jax.Array, inputs: tuple[jax.Array, jax.Array]):
            key, value = inputs

            def row_block(carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, ...]):
                dkey, dvalue = carry
                query, cotangent, logsumexp, projection = inputs
                weights = jnp.exp(float32_einsum("nc,mc->nm", query, key) - logsumexp[:, None])
                dvalue = dvalue + float32_einsum("nc,nm->cm", cotangent, weights.astype(cotangent.dtype))
                dlogits = weights * (float32_einsum("nc,mc->nm", cotangent, value) - projection[:, None])
                dlogits = dlogits.astype(query.dtype)
                dkey = dkey + float32_einsum("nc,nm->cm", query, dlogits)
                return (dkey, dvalue), float32_einsum("nm,mc->nc", dlogits, key)

            start = jnp.zeros(key.shape[::-1], jnp.float32), jnp.zeros(value.shape[::-1], jnp.float32)
            (dkey, dvalue), dquery_part = lax.scan(row_block, start, by_rows)
            return dquery + dquery_part, (dkey.T, dvalue.T)

        dquery, (dkey, dvalue) = lax.scan(
            column_block, jnp.zeros(by_rows[0].shape, jnp.float32), (key, value)
        )
        return dquery, dkey, dvalue

    gradients = tiling.over_images(
        one_image,
        *map(tiling.columns, (key, value)),
        *map(tiling.rows, (query, cotangent, logsumexp, projection)),
    )
    return tuple(
        _join(gradient)[:, : x.shape[1], : x.shape[2]].astype(x.dtype)
        for gradient, x in zip(gradients, arrays, strict=True)
    )


attention.defvjp(_forward, _backward)


class _Tiling:
    """The division of queries and keys into blocks of equal size."""

    def __init__(self, tile: Tile, query: jax.Array, key: jax.Array, value: jax.Array):
        self.tile = tile
        self.row_blocks, self.block_rows = blocks(query.shape[1], tile.rows, 16)
        self.column_blocks, self.block_columns = blocks(key.shape[1], tile.columns, 16)

    def cast(self, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        return arrays if self.tile.dtype is None else tuple(x.astype(self.tile.dtype) for x in arrays)

    def pad(self, query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, ...]:
        """Pads keys and values so that they fill all blocks."""
        return pad_keys(query, key, value, self.column_blocks * self.block_columns)

    def rows(self, x: jax.Array) -> jax.Array:
        """Returns `[B, N, ...]` of queries as `[B, blocks, rows, ...]`."""
        x = pad_rows(x, self.row_blocks * self.block_rows)
        return x.reshape(x.shape[0], self.row_blocks, self.block_rows, *x.shape[2:])

    def columns(self, x: jax.Array) -> jax.Array:
        """Returns `[B, M, ...]` of keys as `[B, blocks, columns, ...]`."""
        return x.reshape(x.shape[0], self.column_blocks, self.block_columns, *x.shape[2:])

    def over_images(self, function: Callable[..., Any], *arrays: jax.Array) -> Any:
        """Maps over the images of a batch: all at once if their attention maps fit into a tile, else one by one."""
        size = self.row_blocks * self.block_rows * self.column_blocks * self.block_columns
        if arrays[0].shape[0] * size <= self.tile.rows * self.tile.columns:
            return jax.vmap(function)(*arrays)
        return lax.map(lambda image: function(*image), arrays)


def _join(x: jax.Array) -> jax.Array:
    """Returns `[B, blocks, n, ...]` as `[B, blocks * n, ...]`."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])
